//! Owns the messages that one process is posting now.
//!
//! Does not remember posted messages.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::store::door::Lease;

/// The messages in flight, at most one for each running attempt.
#[derive(Debug, Default)]
pub(in crate::store) struct InFlightMessages {
    threads: Mutex<HashMap<ThreadRef, Vec<[u8; 32]>>>,
}

/// A thread: its route and its id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ThreadRef {
    route: String,
    id: String,
}

impl InFlightMessages {
    /// True if a message of exactly `text`, apart from white space, is being posted into this thread;
    /// `None` if no message is.
    pub(in crate::store) fn contains_text(
        &self,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Option<bool> {
        let thread = ThreadRef {
            route: route.to_owned(),
            id: thread.to_owned(),
        };
        let texts = self.threads().get(&thread)?.clone();
        Some(texts.contains(&digest(text)))
    }

    /// Marks a message as in flight until the lease is dropped.
    pub(in crate::store) fn begin(
        self: &Arc<Self>,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Lease {
        let thread = ThreadRef {
            route: route.to_owned(),
            id: thread.to_owned(),
        };
        let text = digest(text);
        self.threads().entry(thread.clone()).or_default().push(text);
        Lease::new(InFlightGuard {
            messages: Arc::clone(self),
            thread,
            text,
        })
    }

    /// The number of threads that messages are being posted into.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.threads().len()
    }

    fn threads(&self) -> MutexGuard<'_, HashMap<ThreadRef, Vec<[u8; 32]>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message in flight.
#[derive(Debug)]
struct InFlightGuard {
    messages: Arc<InFlightMessages>,
    thread: ThreadRef,
    text: [u8; 32],
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut threads = self.messages.threads();
        let Some(texts) = threads.get_mut(&self.thread) else {
            return;
        };
        if let Some(at) = texts.iter().position(|text| *text == self.text) {
            texts.swap_remove(at);
        }
        if texts.is_empty() {
            threads.remove(&self.thread);
        }
    }
}

fn digest(text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for word in text.split_whitespace() {
        hash.update(word);
        hash.update(b" ");
    }
    hash.finalize().into()
}
