//! Owns the notes of mails that a provider keeps and only tells of: on disk before the provider hears
//! yes, and there until the mail is in the store.
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

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time;
use tracing::{error, info, warn};

use super::acceptance::{Acceptance, Origin};
use super::fetch::{Fetch, FetchError};
use super::incoming::{Elsewhere, Incoming, Results};
use super::law::Outcome;
use super::proof::Secret;
use super::resend;
use crate::clock::{self, Timestamp};
use crate::retry::{self, Next};

/// Errands at most. One more is told to come again.
const ERRANDS_MAX: usize = 100_000;
/// Errands that are looked at in one round.
const ROUND_MAX: usize = 1_000;
/// Octets of the API's answer, bodies in it.
const ANSWER_BYTES_MAX: usize = 80 << 20;
/// How often is looked at least.
const LOOK_WAIT: Duration = Duration::from_secs(1);

const OPEN: &str = "errand";
const PARKED: &str = "parked";

/// The notes, in a folder of their own. Clones are the same.
#[derive(Clone, Debug)]
pub struct Errands {
    folder: PathBuf,
    key: Secret,
    retry: retry::Settings,
    arrival: Arc<Notify>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    at: Timestamp,
    mail: Elsewhere,
}

/// How an attempt ended that brought no mail.
enum Miss {
    Final(String),
    Passing(String),
}

impl Errands {
    /// The notes in `folder`, which is made if it is not there. `key` is that of Resend's API.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(folder: PathBuf, key: Secret) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            key,
            retry: retry::Settings {
                wait_first: Duration::from_secs(1),
                wait_max: Duration::from_secs(15 * 60),
                max_age: Duration::from_secs(3 * 24 * 60 * 60),
            },
            arrival: Arc::default(),
        })
    }

    /// Makes a note that survives a crash. The same mail makes one note.
    pub(super) async fn add(&self, mail: Elsewhere, origin: Origin) -> io::Result<()> {
        let notes = self.clone();
        let note = Note {
            at: origin.now,
            mail,
        };
        let kept = tokio::task::spawn_blocking(move || notes.keep(&note));
        kept.await.map_err(io::Error::other)??;
        self.arrival.notify_one();
        Ok(())
    }

    fn keep(&self, note: &Note) -> io::Result<()> {
        // The name was checked: it has letters, digits, `-` and `_`.
        let path = self.path(&note.mail.id, OPEN);
        if path.exists() {
            return Ok(());
        }
        if fs::read_dir(&self.folder)?.count() >= ERRANDS_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fresh = self.path(&note.mail.id, "new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, id: &str, state: &str) -> PathBuf {
        self.folder.join(format!("{id}.{state}"))
    }

    fn list(&self) -> io::Result<Vec<Note>> {
        let mut notes = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|state| state != OPEN) {
                continue;
            }
            match read(&path) {
                Ok(note) => notes.push(note),
                Err(error) => error!(path = %path.display(), %error, "errand not read"),
            }
            if notes.len() >= ROUND_MAX {
                break;
            }
        }
        notes.sort_by(|a, b| (a.at, &a.mail.id).cmp(&(b.at, &b.mail.id)));
        Ok(notes)
    }

    /// Does the errands for ever. What is begun and not ended is begun again after a restart.
    pub(super) async fn run(&self, acceptance: &Acceptance, fetch: &dyn Fetch) {
        // Attempts and the next time, by name. A restart tries all at once, which is no harm.
        let mut waits: HashMap<String, (u32, time::Instant)> = HashMap::new();
        loop {
            let folder = self.clone();
            let listed = tokio::task::spawn_blocking(move || folder.list()).await;
            let listed = listed.map_err(io::Error::other).and_then(|listed| listed);
            let notes = listed.unwrap_or_else(|error| {
                error!(%error, "errands not read");
                Vec::new()
            });
            waits.retain(|id, _| notes.iter().any(|note| note.mail.id == *id));
            for note in notes {
                let id = note.mail.id.clone();
                let wait = waits.get(&id).copied();
                if wait.is_some_and(|(_, at)| at > time::Instant::now()) {
                    continue;
                }
                let attempts = wait.map_or(1, |(attempts, _)| attempts.saturating_add(1));
                if let Some(after) = self.attempt(&note, attempts, acceptance, fetch).await {
                    waits.insert(id, (attempts, time::Instant::now() + after));
                }
            }
            drop(time::timeout(LOOK_WAIT, self.arrival.notified()).await);
        }
    }

    /// One attempt; the wait for the next, if there must be one.
    async fn attempt(
        &self,
        note: &Note,
        attempts: u32,
        acceptance: &Acceptance,
        fetch: &dyn Fetch,
    ) -> Option<Duration> {
        let id = note.mail.id.as_str();
        let now = clock::now();
        let outcome = match self.fetched(note, fetch).await {
            Ok(bytes) => self.taken(note, bytes, now, acceptance).await,
            Err(miss) => Err(miss),
        };
        let outcome = match outcome {
            Ok(()) => {
                self.settle(id, None);
                return None;
            }
            Err(Miss::Final(reason)) => retry::Outcome::Final { reason },
            Err(Miss::Passing(reason)) => {
                info!(id, attempts, reason, "errand deferred");
                retry::Outcome::Passing { wish: None }
            }
        };
        let mut random = [0; 8];
        // Without chance all wait alike, and that is all.
        let _ = getrandom::fill(&mut random);
        let random = u64::from_ne_bytes(random);
        match retry::next(&self.retry, outcome, attempts, now.since(note.at), random) {
            Next::Again { after } => Some(after),
            Next::Park { reason } => {
                error!(id, attempts, reason, "errand parked");
                self.settle(id, Some(PARKED));
                None
            }
        }
    }

    async fn fetched(&self, note: &Note, fetch: &dyn Fetch) -> Result<Bytes, Miss> {
        let url = resend::url(&note.mail.id);
        let answer = fetch.get(&url, Some(&self.key), ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| missed(&error, true))?;
        // Resend puts the whole mail there some time after it tells of it.
        let raw = resend::raw_url(&answer).map_err(|error| Miss::Passing(error.to_string()))?;
        let mail = fetch.get(&raw, None, ANSWER_BYTES_MAX).await;
        // The URL is good for an hour: the next attempt asks for another.
        mail.map_err(|error| missed(&error, false))
    }

    async fn taken(
        &self,
        note: &Note,
        bytes: Bytes,
        now: Timestamp,
        acceptance: &Acceptance,
    ) -> Result<(), Miss> {
        const PROVIDER: &str = "resend";
        let mail = Incoming {
            id: note.mail.id.clone(),
            sender: note.mail.sender.clone(),
            recipients: note.mail.recipients.clone(),
            bytes,
            told: Results::by(PROVIDER).told(),
        };
        let origin = Origin {
            provider: PROVIDER,
            peer: None,
            now,
        };
        match acceptance.take(vec![mail], origin).await {
            Outcome::Kept { .. } | Outcome::Unroutable { .. } => Ok(()),
            Outcome::Later(why) => Err(Miss::Passing(why.to_owned())),
            other => Err(Miss::Final(other.word().to_owned())),
        }
    }

    fn settle(&self, id: &str, state: Option<&str>) {
        let path = self.path(id, OPEN);
        let settled = match state {
            Some(state) => fs::rename(&path, self.path(id, state)),
            None => fs::remove_file(&path),
        };
        if let Err(error) = settled {
            // It is done again: the mail is known by then.
            warn!(id, %error, "errand not settled");
        }
    }
}

fn missed(error: &FetchError, is_api: bool) -> Miss {
    match error {
        FetchError::Status(404 | 410) if is_api => Miss::Final("no such mail".to_owned()),
        FetchError::TooLong => Miss::Final(error.to_string()),
        error => Miss::Passing(error.to_string()),
    }
}

fn read(path: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
