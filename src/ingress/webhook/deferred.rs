//! Owns the fetching of mails, or files of mails, that a provider stores and only announces: the order, the
//! attempts and their results.
//!
//! Does not store the notes, nor the mails.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::acceptance::{MailAcceptor, RequestOrigin};
use super::error::Malformed;
use super::fetch::{ApiCredential, Fetch, FetchError};
use super::fetch_notes::{FetchNote, NoteFolder};
use super::incoming::{DeferredMail, IncomingMail, ProviderResults};
use super::json::Json;
use super::outcome::WebhookOutcome;
use super::{brevo, resend};
use crate::clock;
use crate::random;
use crate::retry::{self, AttemptFailure, NextStep};
use crate::secret::Secret;

/// The number of mails that are fetched from one provider concurrently. Each may hold a response in memory.
const FETCHES_MAX: usize = 4;
/// Octets of a response.
const RESPONSE_BYTES_MAX: usize = 80 << 20;
/// The minimum interval between two scans of the folder.
const SCAN_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The maximum interval between two scans of the folder, because a person may have put a note back.
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// The number of new notes that one scan takes: meanwhile no fetch makes progress.
const SCAN_NOTES_MAX: usize = 100;

/// The keys of the providers' APIs. Without its key a provider's mails are not fetched.
#[derive(Clone, Debug, Default)]
pub struct ProviderApiKeys {
    /// The key of Resend's API, for its mails.
    pub resend: Option<Secret>,
    /// The key of Brevo's API, for the files of its mails.
    pub brevo: Option<Secret>,
}

impl ProviderApiKeys {
    /// True if there is no key.
    pub const fn is_empty(&self) -> bool {
        self.resend.is_none() && self.brevo.is_none()
    }
}

/// The mails that are still to be fetched, by their notes in a folder. Clones share the queue.
#[derive(Clone, Debug)]
pub struct FetchQueue {
    notes: NoteFolder,
    keys: ProviderApiKeys,
    retry: retry::Settings,
    new_note: Arc<Notify>,
}

/// A provider whose mails can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Brevo,
    Resend,
}

impl Source {
    /// The source in a note. Notes of older versions have none: there a mail with its request is Brevo's.
    fn of(note: &FetchNote) -> Option<Self> {
        match note.provider.as_deref() {
            Some("brevo") => Some(Self::Brevo),
            Some("resend") => Some(Self::Resend),
            Some(_) => None,
            None if note.mail.request.is_some() => Some(Self::Brevo),
            None => Some(Self::Resend),
        }
    }
}

/// The failure of an attempt.
enum FetchFailure {
    Final(String),
    Transient(String),
}

/// The end of an attempt: its source and id, and the wait before the next one, if there is one.
type Attempt<'a> = BoxFuture<'a, (Option<Source>, String, Option<Duration>)>;

/// Notes by due time, separately for each source, so that no source waits for another. Notes without a
/// known source have a separate queue.
#[derive(Default)]
struct Schedule {
    due: BTreeMap<Option<Source>, BTreeSet<(Instant, String)>>,
    running: BTreeMap<Option<Source>, usize>,
    /// The number of attempts at each note. A restart resets it, which does no harm.
    attempts: HashMap<String, u32>,
}

impl Schedule {
    fn add(&mut self, source: Option<Source>, id: String, at: Instant) {
        self.attempts.entry(id.clone()).or_default();
        self.due.entry(source).or_default().insert((at, id));
    }

    /// A due note of a source with free capacity: its source, id and number of attempts.
    fn start(&mut self, now: Instant) -> Option<(Option<Source>, String, u32)> {
        for (source, due) in &mut self.due {
            let running = self.running.entry(*source).or_default();
            let is_due = |(at, _): &(Instant, String)| *at <= now;
            if *running < FETCHES_MAX
                && due.first().is_some_and(is_due)
                && let Some((_, id)) = due.pop_first()
            {
                *running += 1;
                let attempts = self.attempts.entry(id.clone()).or_default();
                *attempts = attempts.saturating_add(1);
                return Some((*source, id, *attempts));
            }
        }
        None
    }

    /// Ends an attempt that [`Schedule::start`] began.
    fn finish(&mut self, source: Option<Source>, id: String, again: Option<Instant>) {
        if let Some(running) = self.running.get_mut(&source) {
            *running = running.saturating_sub(1);
        }
        match again {
            Some(at) => self.add(source, id, at),
            None => drop(self.attempts.remove(&id)),
        }
    }

    /// The time at which the next note is due that could be started then.
    fn next(&self) -> Option<Instant> {
        let free = self.due.iter().filter(|(source, _)| {
            let running = self.running.get(source);
            running.is_none_or(|running| *running < FETCHES_MAX)
        });
        free.filter_map(|(_, due)| Some(due.first()?.0)).min()
    }

    /// Removes the notes that are not among `ids`, and returns the new ones of `ids`.
    fn update(&mut self, ids: Vec<String>) -> Vec<String> {
        let (known, new): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .partition(|id| self.attempts.contains_key(id));
        let known: HashSet<String> = known.into_iter().collect();
        let is_gone = |id: &String| !known.contains(id);
        for due in self.due.values_mut() {
            due.retain(|(_, id)| {
                let gone = is_gone(id);
                if gone {
                    self.attempts.remove(id);
                }
                !gone
            });
        }
        new
    }
}

impl FetchQueue {
    /// The queue of the notes in `folder`, which is created if it does not exist.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(folder: PathBuf, keys: ProviderApiKeys) -> io::Result<Self> {
        Ok(Self {
            notes: NoteFolder::open(folder)?,
            keys,
            retry: retry::Settings {
                wait_first: Duration::from_secs(1),
                wait_max: Duration::from_secs(15 * 60),
                max_age: Duration::from_secs(3 * 24 * 60 * 60),
            },
            new_note: Arc::default(),
        })
    }

    /// Stores a note that survives a crash. The same mail has one note.
    pub(super) async fn add(&self, mail: DeferredMail, origin: RequestOrigin) -> io::Result<()> {
        let note = FetchNote {
            at: origin.now,
            mail,
            provider: Some(origin.provider.to_owned()),
        };
        self.with_notes(move |notes| notes.persist(&note)).await?;
        self.new_note.notify_one();
        Ok(())
    }

    /// Fetches for ever. An interrupted attempt is repeated after a restart.
    pub(super) async fn run(&self, acceptor: &MailAcceptor, fetch: &dyn Fetch) {
        let mut schedule = Schedule::default();
        let mut running: FuturesUnordered<Attempt<'_>> = FuturesUnordered::new();
        let (mut last_scan, mut next_scan) = (None, Instant::now());
        loop {
            if next_scan <= Instant::now() {
                let is_whole = self.scan(&mut schedule).await;
                let scanned = Instant::now();
                last_scan = Some(scanned);
                next_scan = match is_whole {
                    true => scanned + SCAN_INTERVAL_MAX,
                    false => scanned,
                };
            }
            let now = Instant::now();
            while let Some((source, id, attempts)) = schedule.start(now) {
                running.push(Box::pin(async move {
                    let wait = self.attempt(&id, attempts, acceptor, fetch).await;
                    (source, id, wait)
                }));
            }
            let wake = schedule.next().map_or(next_scan, |due| due.min(next_scan));
            tokio::select! {
                Some((source, id, wait)) = running.next() => {
                    schedule.finish(source, id, wait.map(|wait| Instant::now() + wait));
                }
                () = self.new_note.notified() => {
                    let earliest = last_scan.map_or(now, |last| last + SCAN_INTERVAL_MIN);
                    next_scan = next_scan.min(earliest);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes the new notes of the folder. If it cannot be read now, nothing changes. False if there are
    /// more.
    async fn scan(&self, schedule: &mut Schedule) -> bool {
        let ids = match self.with_notes(NoteFolder::open_notes).await {
            Ok(ids) => ids,
            Err(error) => {
                error!(%error, "the notes of mails to fetch could not be read");
                return true;
            }
        };
        let new = schedule.update(ids);
        let is_whole = new.len() <= SCAN_NOTES_MAX;
        for id in new.into_iter().take(SCAN_NOTES_MAX) {
            let name = id.clone();
            let note = self.with_notes(move |notes| notes.read(&name)).await;
            // The attempt reports an unreadable note.
            let source = note.ok().as_ref().and_then(Source::of);
            schedule.add(source, id, Instant::now());
        }
        is_whole
    }

    /// Makes one attempt; returns the wait before the next one, if there is one.
    async fn attempt(
        &self,
        id: &str,
        attempts: u32,
        acceptor: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Option<Duration> {
        let name = id.to_owned();
        let note = match self.with_notes(move |notes| notes.read(&name)).await {
            Ok(note) => note,
            Err(error) => {
                error!(id, %error, "the note of a mail to fetch could not be read");
                return Some(self.retry.wait_max);
            }
        };
        let outcome = match Source::of(&note) {
            Some(Source::Resend) => self.fetch_resend_mail(&note, acceptor, fetch).await,
            Some(Source::Brevo) => self.fetch_brevo_files(&note, acceptor, fetch).await,
            None => {
                let provider = note.provider.as_deref().unwrap_or_default();
                let provider = provider.escape_debug().to_string();
                error!(id, provider, "mails of this provider cannot be fetched");
                return Some(self.retry.wait_max);
            }
        };
        let failure = match outcome {
            Ok(()) => {
                self.remove_note(id).await;
                return None;
            }
            Err(FetchFailure::Final(reason)) => AttemptFailure::Permanent { reason },
            Err(FetchFailure::Transient(reason)) => {
                info!(id, attempts, reason, "fetch deferred");
                AttemptFailure::Transient { retry_after: None }
            }
        };
        let age = clock::now().since(note.at);
        match retry::next_step(&self.retry, failure, attempts, age, random::number()) {
            NextStep::Retry { after } => Some(after),
            NextStep::Park { reason } => {
                if let Some(request) = &note.mail.request
                    && accept_without_files(request, acceptor).await
                {
                    warn!(id, attempts, reason, "mail accepted without its files");
                    self.remove_note(id).await;
                    return None;
                }
                error!(id, attempts, reason, "fetch parked");
                let name = id.to_owned();
                if let Err(error) = self.with_notes(move |notes| notes.park(&name)).await {
                    warn!(id, %error, "the note could not be parked");
                }
                None
            }
        }
    }

    /// Fetches a mail from Resend and accepts it.
    async fn fetch_resend_mail(
        &self,
        note: &FetchNote,
        acceptor: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Result<(), FetchFailure> {
        let key = required_key(self.keys.resend.as_ref())?;
        let url = resend::mail_url(&note.mail.id);
        let answer = fetch.get(&url, Some(ApiCredential::Bearer(key)), RESPONSE_BYTES_MAX);
        let answer = answer.await.map_err(|error| classify_error(&error, true))?;
        // Resend stores the whole mail some time after the announcement.
        let raw = resend::raw_url(&answer);
        let raw = raw.map_err(|error| FetchFailure::Transient(error.to_string()))?;
        drop(answer);
        let mail = fetch.get(&raw, None, RESPONSE_BYTES_MAX).await;
        // The URL is valid for an hour: the next attempt requests another one.
        let bytes = mail.map_err(|error| classify_error(&error, false))?;
        let mail = IncomingMail {
            id: note.mail.id.clone(),
            sender: note.mail.sender.clone(),
            recipients: note.mail.recipients.clone(),
            bytes,
            results: ProviderResults::of(resend::INFO.name).into_verdict(),
        };
        accept_mails(vec![mail], resend::INFO.name, acceptor).await
    }

    /// Fetches the files of a request's mails from Brevo and accepts the mails. A file that is gone or too
    /// long is listed as missing, because the text of the mail must not wait for it.
    async fn fetch_brevo_files(
        &self,
        note: &FetchNote,
        acceptor: &MailAcceptor,
        fetch: &dyn Fetch,
    ) -> Result<(), FetchFailure> {
        let key = required_key(self.keys.brevo.as_ref())?;
        let request = note.mail.request.as_deref().unwrap_or_default();
        let unreadable = |error: Malformed| FetchFailure::Final(error.to_string());
        let json = Json::parse(request.as_bytes()).map_err(unreadable)?;
        // In a mail a file takes four octets for three, plus line ends.
        let mut left = acceptor.mail_bytes_max / 3 * 2;
        let mut files: HashMap<String, Bytes> = HashMap::new();
        for token in brevo::attachment_tokens(&json).map_err(unreadable)? {
            let key = ApiCredential::Header("api-key", key);
            let url = brevo::attachment_url(&token);
            match fetch.get(&url, Some(key), left).await {
                Ok(bytes) => {
                    left = left.saturating_sub(bytes.len());
                    files.insert(token, bytes);
                }
                Err(error) => match classify_error(&error, true) {
                    FetchFailure::Final(reason) => {
                        let provider = brevo::INFO.name;
                        warn!(provider, reason, "file not fetched");
                    }
                    transient @ FetchFailure::Transient(_) => return Err(transient),
                },
            }
        }
        let mails = brevo::parse_mails(&json, &files).map_err(unreadable)?;
        accept_mails(mails, brevo::INFO.name, acceptor).await
    }

    async fn remove_note(&self, id: &str) {
        let name = id.to_owned();
        if let Err(error) = self.with_notes(move |notes| notes.remove(&name)).await {
            // The mail will be fetched again, and is then a duplicate.
            warn!(id, %error, "the note of a fetched mail could not be removed");
        }
    }

    /// Runs folder operations off the async threads.
    async fn with_notes<T: Send + 'static>(
        &self,
        work: impl FnOnce(&NoteFolder) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let notes = self.notes.clone();
        let done = tokio::task::spawn_blocking(move || work(&notes)).await;
        done.map_err(io::Error::other)?
    }
}

/// The key; for a missing one the note waits, because there was a key when it was made.
fn required_key(key: Option<&Secret>) -> Result<&Secret, FetchFailure> {
    let missing = || FetchFailure::Transient("the key of the provider's API is missing".to_owned());
    key.ok_or_else(missing)
}

async fn accept_mails(
    mails: Vec<IncomingMail>,
    provider: &'static str,
    acceptor: &MailAcceptor,
) -> Result<(), FetchFailure> {
    let origin = RequestOrigin {
        provider,
        peer: None,
        now: clock::now(),
    };
    match acceptor.accept(mails, origin).await {
        WebhookOutcome::Accepted { .. } | WebhookOutcome::Unroutable { .. } => Ok(()),
        WebhookOutcome::Unavailable(why) => Err(FetchFailure::Transient(why.to_owned())),
        other => Err(FetchFailure::Final(other.label().to_owned())),
    }
}

/// Accepts the mails of a request whose files cannot be fetched; false if that failed too.
async fn accept_without_files(request: &str, acceptor: &MailAcceptor) -> bool {
    let json = Json::parse(request.as_bytes());
    let mails = json.and_then(|json| brevo::parse_mails(&json, &HashMap::new()));
    match mails {
        Ok(mails) => accept_mails(mails, brevo::INFO.name, acceptor)
            .await
            .is_ok(),
        Err(_) => false,
    }
}

fn classify_error(error: &FetchError, is_api: bool) -> FetchFailure {
    match error {
        FetchError::Status(404 | 410) if is_api => FetchFailure::Final("no such mail".to_owned()),
        FetchError::TooLong => FetchFailure::Final(error.to_string()),
        error => FetchFailure::Transient(error.to_string()),
    }
}
