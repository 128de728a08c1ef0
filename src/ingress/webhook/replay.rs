//! Owns the words that are good for one mail only: each is bound to the first content it came with,
//! on disk before its mail is taken.
//!
//! Does not prove a word.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ring::digest;

use super::outcome::WebhookOutcome;
use super::proof::AuthenticationError;
use crate::clock::Timestamp;
use crate::store::{Fact, RecordError, Store};

/// Words that are kept in memory at most; the store has them all. It is more than there can be
/// requests at a time, so no word goes while it is being bound.
const NONCES_MAX: usize = 20_000;

/// A single-use word and the content it came with, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    digest: [u8; 16],
    content: [u8; 16],
    expires: Timestamp,
}

impl Nonce {
    /// After `until` the word is refused for its age.
    pub(super) fn new(provider: &str, word: &str, content: &[u8], until: Timestamp) -> Self {
        let short = |parts: &[&[u8]]| {
            let mut context = digest::Context::new(&digest::SHA256);
            for part in parts {
                context.update(part);
                context.update(&[0]);
            }
            let whole = context.finish();
            std::array::from_fn(|at| whole.as_ref()[at])
        };
        Self {
            digest: short(&[provider.as_bytes(), word.as_bytes()]),
            content: short(&[content]),
            expires: until,
        }
    }
}

/// The words that were seen.
#[derive(Debug, Default)]
pub(super) struct ReplayGuard(Mutex<NonceCache>);

#[derive(Debug, Default)]
struct NonceCache {
    contents: HashMap<[u8; 16], NonceContent>,
    order: VecDeque<[u8; 16]>,
}

#[derive(Clone, Copy, Debug)]
struct NonceContent {
    digest: [u8; 16],
    on_disk: bool,
}

impl ReplayGuard {
    /// Binds the word to its content: when this returns without an error that survives a crash. The
    /// same word with the same content is a retry and welcome.
    pub(super) async fn bind(&self, once: Nonce, store: &Store) -> Result<(), WebhookOutcome> {
        if self.claim(once, || store.nonce_used(once.digest))? {
            return Ok(());
        }
        let fact = Fact::Spent {
            word: once.digest,
            content: once.content,
            until: once.expires,
        };
        store.record(vec![fact]).await.map_err(|error| {
            WebhookOutcome::Unavailable(match error {
                RecordError::Full => "no room now",
                RecordError::Dead => "the store has stopped",
            })
        })?;
        self.cache().insert(once, true);
        Ok(())
    }

    /// Claims the word in memory, where two requests at once meet. True if it is on the disk
    /// already.
    fn claim(
        &self,
        once: Nonce,
        stored: impl FnOnce() -> Option<[u8; 16]>,
    ) -> Result<bool, WebhookOutcome> {
        let mut words = self.cache();
        let known = words.contents.get(&once.digest).copied().or_else(|| {
            stored().map(|digest| NonceContent {
                digest,
                on_disk: true,
            })
        });
        match known {
            Some(content) if content.digest != once.content => Err(
                WebhookOutcome::Unauthenticated(AuthenticationError::NonceReused),
            ),
            Some(content) if content.on_disk => Ok(true),
            Some(_) => Ok(false),
            None => {
                words.insert(once, false);
                Ok(false)
            }
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, NonceCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NonceCache {
    fn insert(&mut self, once: Nonce, on_disk: bool) {
        let content = NonceContent {
            digest: once.content,
            on_disk,
        };
        if self.contents.insert(once.digest, content).is_none() {
            self.order.push_back(once.digest);
        }
        if self.order.len() > NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.contents.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(word: &str, content: &str) -> Nonce {
        Nonce::new("p", word, content.as_bytes(), Timestamp::default())
    }

    #[test]
    fn a_word_is_good_for_one_content() {
        let used = ReplayGuard::default();
        let reused = Err(WebhookOutcome::Unauthenticated(
            AuthenticationError::NonceReused,
        ));
        let claim = |word, content| used.claim(once(word, content), || None);
        assert_eq!(claim("a", "x"), Ok(false));
        assert_eq!(claim("a", "x"), Ok(false), "not on the disk yet");
        used.cache().insert(once("a", "x"), true);
        assert_eq!(claim("a", "x"), Ok(true));
        assert_eq!(claim("a", "y"), reused);
        let stored = || Some(once("b", "y").content);
        assert_eq!(used.claim(once("b", "y"), stored), Ok(true));
        assert_eq!(used.claim(once("b", "z"), stored), reused);
    }

    #[test]
    fn memory_is_bounded() {
        let used = ReplayGuard::default();
        for n in 0..=NONCES_MAX {
            used.cache().insert(once(&n.to_string(), "x"), true);
        }
        assert_eq!(used.cache().contents.len(), NONCES_MAX);
        assert_eq!(used.cache().order.len(), NONCES_MAX);
    }
}
