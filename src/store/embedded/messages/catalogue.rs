//! Owns the locations of the threads, messages and idempotency keys of the embedded Messages API.
//!
//! Does not hold the documents.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::embedded::location::RecordLocation;

/// The number of the newest idempotency keys that are remembered.
const KEYS_MAX: usize = 1_000_000;
/// The age up to which an idempotency key is remembered.
pub(super) const KEY_WINDOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The head of a record; the document is its body.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DocumentHead {
    pub(super) thread: String,
    /// The message's id; `None` for a thread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) key: Option<String>,
    pub(super) at: Timestamp,
}

/// The locations of all documents.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) threads: Vec<CatalogueThread>,
    pub(super) by_id: HashMap<String, usize>,
    pub(super) keys: HashMap<String, RecordLocation>,
    keys_by_age: VecDeque<(Timestamp, String)>,
}

#[derive(Debug)]
pub(super) struct CatalogueThread {
    pub(super) location: RecordLocation,
    pub(super) messages: Vec<CatalogueMessage>,
}

#[derive(Debug)]
pub(super) struct CatalogueMessage {
    pub(super) id: String,
    pub(super) location: RecordLocation,
}

impl Catalogue {
    pub(super) fn thread(&self, id: &str) -> Option<&CatalogueThread> {
        self.threads.get(*self.by_id.get(id)?)
    }

    pub(super) fn add(&mut self, entry: DocumentHead, location: RecordLocation) {
        let known = self.by_id.get(&entry.thread).copied();
        match (entry.message, known) {
            (Some(id), Some(nth)) => self.threads[nth]
                .messages
                .push(CatalogueMessage { id, location }),
            (None, Some(nth)) => self.threads[nth].location = location,
            (_, None) => {
                self.by_id.insert(entry.thread, self.threads.len());
                let messages = Vec::new();
                self.threads.push(CatalogueThread { location, messages });
            }
        }
        if let Some(key) = entry.key {
            self.keys_by_age.push_back((entry.at, key.clone()));
            self.keys.insert(key, location);
        }
        self.forget_keys(entry.at);
    }

    pub(super) fn forget_keys(&mut self, now: Timestamp) {
        let old = |at: &Timestamp| now.since(*at) > KEY_WINDOW;
        while let Some((at, _)) = self.keys_by_age.front() {
            if !old(at) && self.keys_by_age.len() <= KEYS_MAX {
                break;
            }
            if let Some((_, key)) = self.keys_by_age.pop_front() {
                self.keys.remove(&key);
            }
        }
    }
}
