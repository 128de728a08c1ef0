//! Owns the notes of mails that a provider keeps, whole or in their files, and only tells of: on disk
//! before the provider hears yes, and there until the mail is in the store.
//!
//! Does not keep mails.
//!
//! ```text
//! FOLDER/NAME.errand     one mail to fetch, as JSON
//! FOLDER/NAME.parked     one that cannot be had: a person may look, and rename it back
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time;
use tracing::{error, info, warn};

use super::acceptance::{MailAcceptor, RequestOrigin};
use super::brevo;
use super::fetch::{ApiCredential, Fetch, FetchError};
use super::incoming::{DeferredMail, IncomingMail, Malformed, ProviderResults};
use super::outcome::WebhookOutcome;
use super::proof::WebhookSecret;
use super::resend;
use crate::clock::{self, Timestamp};
use crate::retry::{self, NextStep};

/// Errands at most. One more is told to come again.
const NOTES_MAX: usize = 100_000;
/// Errands that are looked at in one round.
const ROUND_MAX: usize = 1_000;
/// Octets of the API's answer, bodies in it.
const RESPONSE_BYTES_MAX: usize = 80 << 20;
/// How often is looked at least.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const OPEN: &str = "errand";
const PARKED: &str = "parked";

/// The keys of the providers' APIs. Without its key a provider's mails are not fetched.
#[derive(Clone, Debug, Default)]
pub struct ProviderApiKeys {
    /// Resend's, for its mails.
    pub resend: Option<WebhookSecret>,
    /// Brevo's, for the files of its mails.
    pub brevo: Option<WebhookSecret>,
}

impl ProviderApiKeys {
    /// True if there is nothing that could be fetched.
    pub const fn is_empty(&self) -> bool {
        self.resend.is_none() && self.brevo.is_none()
    }
}

/// The notes, in a folder of their own. Clones are the same.
#[derive(Clone, Debug)]
pub struct FetchQueue {
    folder: PathBuf,
    keys: ProviderApiKeys,
    retry: retry::Settings,
    new_note: Arc<Notify>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FetchNote {
    at: Timestamp,
    mail: DeferredMail,
}

/// How an attempt ended that brought no mail.
enum FetchFailure {
    Final(String),
    Transient(String),
}

impl FetchQueue {
    /// The notes in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(folder: PathBuf, keys: ProviderApiKeys) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            keys,
            retry: retry::Settings {
                wait_first: Duration::from_secs(1),
                wait_max: Duration::from_secs(15 * 60),
                max_age: Duration::from_secs(3 * 24 * 60 * 60),
            },
            new_note: Arc::default(),
        })
    }

    /// Makes a note that survives a crash. The same mail makes one note.
    pub(super) async fn add(&self, mail: DeferredMail, origin: RequestOrigin) -> io::Result<()> {
        let notes = self.clone();
        let note = FetchNote {
            at: origin.now,
            mail,
        };
        run_blocking(move || notes.persist(&note)).await?;
        self.new_note.notify_one();
        Ok(())
    }

    fn persist(&self, note: &FetchNote) -> io::Result<()> {
        // The name was checked: it has letters, digits, `-` and `_`.
        let path = self.note_path(&note.mail.id, OPEN);
        if path.exists() {
            return Ok(());
        }
        if fs::read_dir(&self.folder)?.count() >= NOTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fresh = self.note_path(&note.mail.id, "new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    fn note_path(&self, id: &str, state: &str) -> PathBuf {
        self.folder.join(format!("{id}.{state}"))
    }

    /// The names of the open notes, the oldest first.
    fn open_notes(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if let Some(name) = name
                && path.extension().is_some_and(|state| state == OPEN)
            {
                names.push((entry.metadata()?.modified()?, name.to_owned()));
            }
        }
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// Does the errands for ever. What is begun and not ended is begun again after a restart.
    pub(super) async fn run(&self, acceptance: &MailAcceptor, fetch: &dyn Fetch) {
        // Attempts and the next time, by name. A restart tries all at once, which is no harm.
        let mut waits: HashMap<String, (u32, time::Instant)> = HashMap::new();
        loop {
            let folder = self.clone();
            let names = run_blocking(move || folder.open_notes()).await;
            let names = names.unwrap_or_else(|error| {
                error!(%error, "errands not read");
                Vec::new()
            });
            waits.retain(|id, _| names.contains(id));
            let is_due = |id: &String| {
                let wait = waits.get(id);
                wait.is_none_or(|(_, at)| *at <= time::Instant::now())
            };
            let due: Vec<String> = names.into_iter().filter(is_due).take(ROUND_MAX).collect();
            for id in due {
                let attempts = waits.get(&id).map_or(0, |(attempts, _)| *attempts);
                let attempts = attempts.saturating_add(1);
                let path = self.note_path(&id, OPEN);
                let after = match run_blocking(move || read_note(&path)).await {
                    Ok(note) => self.attempt(&note, attempts, acceptance, fetch).await,
                    Err(error) => {
                        error!(id, %error, "errand not read");
                        Some(self.retry.wait_max)
                    }
                };
                if let Some(after) = after {
                    waits.insert(id, (attempts, time::Instant::now() + after));
                }
            }
            drop(time::timeout(POLL_INTERVAL, self.new_note.notified()).await);
        }
    }

    /// One attempt; the wait for the next, if there must be one.
    async fn attempt(
        &self,
        note: &FetchNote,
        attempts: u32,
        acceptance: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Option<Duration> {
        let id = note.mail.id.as_str();
        let now = clock::now();
        let outcome = match &note.mail.request {
            None => self.fetch_resend_mail(note, acceptance, fetch).await,
            Some(request) => self.fetch_brevo_files(request, acceptance, fetch).await,
        };
        let outcome = match outcome {
            Ok(()) => {
                self.finish_note(id, None);
                return None;
            }
            Err(FetchFailure::Final(reason)) => retry::AttemptFailure::Permanent { reason },
            Err(FetchFailure::Transient(reason)) => {
                info!(id, attempts, reason, "errand deferred");
                retry::AttemptFailure::Transient { retry_after: None }
            }
        };
        let mut random = [0; 8];
        // Without chance all wait alike, and that is all.
        let _ = getrandom::fill(&mut random);
        let random = u64::from_ne_bytes(random);
        match retry::next_step(&self.retry, outcome, attempts, now.since(note.at), random) {
            NextStep::Retry { after } => Some(after),
            NextStep::Park { reason } => {
                if let Some(request) = &note.mail.request
                    && accept_without_files(request, acceptance).await
                {
                    warn!(id, attempts, reason, "taken without its files");
                    self.finish_note(id, None);
                    return None;
                }
                error!(id, attempts, reason, "errand parked");
                self.finish_note(id, Some(PARKED));
                None
            }
        }
    }

    /// Fetches a mail from Resend and takes it.
    async fn fetch_resend_mail(
        &self,
        note: &FetchNote,
        acceptance: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Result<(), FetchFailure> {
        let key = required_key(self.keys.resend.as_ref())?;
        let url = resend::mail_url(&note.mail.id);
        let answer = fetch.get(&url, Some(ApiCredential::Bearer(key)), RESPONSE_BYTES_MAX);
        let answer = answer.await.map_err(|error| classify_error(&error, true))?;
        // Resend puts the whole mail there some time after it tells of it.
        let raw =
            resend::raw_url(&answer).map_err(|error| FetchFailure::Transient(error.to_string()))?;
        let mail = fetch.get(&raw, None, RESPONSE_BYTES_MAX).await;
        // The URL is good for an hour: the next attempt asks for another.
        let bytes = mail.map_err(|error| classify_error(&error, false))?;
        let mail = IncomingMail {
            id: note.mail.id.clone(),
            sender: note.mail.sender.clone(),
            recipients: note.mail.recipients.clone(),
            bytes,
            results: ProviderResults::of(resend::NAME).into_told(),
        };
        accept_mails(vec![mail], resend::NAME, acceptance).await
    }

    /// Fetches the files of a request's mails from Brevo and takes the mails. A file that is gone or
    /// too long is named as missing: the words of the mail must not wait for it.
    async fn fetch_brevo_files(
        &self,
        request: &str,
        acceptance: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Result<(), FetchFailure> {
        let key = required_key(self.keys.brevo.as_ref())?;
        let unread = |error: Malformed| FetchFailure::Final(error.to_string());
        // In a mail a file has four octets for three, and lines.
        let mut left = acceptance.mail_bytes_max / 3 * 2;
        let mut found = HashMap::new();
        for token in brevo::attachment_tokens(request.as_bytes()).map_err(unread)? {
            let key = ApiCredential::Header("api-key", key);
            match fetch
                .get(&brevo::attachment_url(&token), Some(key), left)
                .await
            {
                Ok(bytes) => {
                    left = left.saturating_sub(bytes.len());
                    found.insert(token, bytes);
                }
                Err(error) => match classify_error(&error, true) {
                    FetchFailure::Final(reason) => {
                        warn!(provider = brevo::NAME, reason, "file not fetched")
                    }
                    passing @ FetchFailure::Transient(_) => return Err(passing),
                },
            }
        }
        let mails = brevo::parse_mails(request.as_bytes(), &found).map_err(unread)?;
        accept_mails(mails, brevo::NAME, acceptance).await
    }

    fn finish_note(&self, id: &str, state: Option<&str>) {
        let path = self.note_path(id, OPEN);
        let settled = match state {
            Some(state) => fs::rename(&path, self.note_path(id, state)),
            None => fs::remove_file(&path),
        };
        if let Err(error) = settled {
            // It is done again: the mail is known by then.
            warn!(id, %error, "errand not settled");
        }
    }
}

/// The key, or the wait for one: it was there when the note was made.
fn required_key(key: Option<&WebhookSecret>) -> Result<&WebhookSecret, FetchFailure> {
    key.ok_or_else(|| FetchFailure::Transient("there is no key of the provider's API".to_owned()))
}

async fn accept_mails(
    mails: Vec<IncomingMail>,
    provider: &'static str,
    acceptance: &MailAcceptor,
) -> Result<(), FetchFailure> {
    let origin = RequestOrigin {
        provider,
        peer: None,
        now: clock::now(),
    };
    match acceptance.accept(mails, origin).await {
        WebhookOutcome::Accepted { .. } | WebhookOutcome::Unroutable { .. } => Ok(()),
        WebhookOutcome::Unavailable(why) => Err(FetchFailure::Transient(why.to_owned())),
        other => Err(FetchFailure::Final(other.label().to_owned())),
    }
}

/// Takes the mails of a request whose files cannot be had.
async fn accept_without_files(request: &str, acceptance: &MailAcceptor) -> bool {
    match brevo::parse_mails(request.as_bytes(), &HashMap::new()) {
        Ok(mails) => accept_mails(mails, brevo::NAME, acceptance).await.is_ok(),
        Err(_) => false,
    }
}

async fn run_blocking<T: Send + 'static>(
    deed: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(deed).await;
    done.map_err(io::Error::other)?
}

fn classify_error(error: &FetchError, is_api: bool) -> FetchFailure {
    match error {
        FetchError::Status(404 | 410) if is_api => FetchFailure::Final("no such mail".to_owned()),
        FetchError::TooLong => FetchFailure::Final(error.to_string()),
        error => FetchFailure::Transient(error.to_string()),
    }
}

fn read_note(path: &Path) -> io::Result<FetchNote> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
