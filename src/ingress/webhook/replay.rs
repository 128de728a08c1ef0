//! Owns the nonces of requests: each is bound to the first content it came with, on disk before its mail
//! is taken.
//!
//! Does not verify the signature that vouches for a nonce.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest;

use super::error::AuthenticationError;
use super::outcome::WebhookOutcome;
use crate::clock::Timestamp;
use crate::store::{Fact, RecordError, Store};

/// Nonces that memory holds at most; the store has them all. There are never so many requests at a time,
/// so no nonce leaves while it is being bound.
const NONCES_MAX: usize = 20_000;

/// A nonce and the content it came with, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    digest: [u8; 16],
    content: [u8; 16],
    expires: Timestamp,
}

impl Nonce {
    /// The nonce `word` of a provider. After `expires` a request with it is refused for its age.
    pub(super) fn new(provider: &str, word: &str, content: &[u8], expires: Timestamp) -> Self {
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
            expires,
        }
    }
}

/// The nonces that were used.
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
    /// Binds the nonce to its content. On success the binding survives a crash. The same nonce with the
    /// same content is a retry, and welcome.
    pub(super) async fn bind(&self, nonce: Nonce, store: &Store) -> Result<(), WebhookOutcome> {
        if self.claim(nonce, || store.nonce_used(nonce.digest))? {
            return Ok(());
        }
        let fact = Fact::Spent {
            word: nonce.digest,
            content: nonce.content,
            until: nonce.expires,
        };
        store.record(vec![fact]).await.map_err(|error| {
            WebhookOutcome::Unavailable(match error {
                RecordError::Full => "no room now",
                RecordError::Dead => "the store has stopped",
            })
        })?;
        self.cache().insert(nonce, true);
        Ok(())
    }

    /// Claims the nonce in memory, where two requests at once meet. True if it is on disk already.
    fn claim(
        &self,
        nonce: Nonce,
        stored: impl FnOnce() -> Option<[u8; 16]>,
    ) -> Result<bool, WebhookOutcome> {
        let mut cache = self.cache();
        let known = cache.contents.get(&nonce.digest).copied().or_else(|| {
            stored().map(|digest| NonceContent {
                digest,
                on_disk: true,
            })
        });
        match known {
            Some(content) if content.digest != nonce.content => Err(
                WebhookOutcome::Unauthenticated(AuthenticationError::NonceReused),
            ),
            Some(content) => Ok(content.on_disk),
            None => {
                cache.insert(nonce, false);
                Ok(false)
            }
        }
    }

    fn cache(&self) -> MutexGuard<'_, NonceCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NonceCache {
    fn insert(&mut self, nonce: Nonce, on_disk: bool) {
        let content = NonceContent {
            digest: nonce.content,
            on_disk,
        };
        if self.contents.insert(nonce.digest, content).is_none() {
            self.order.push_back(nonce.digest);
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

    fn nonce(word: &str, content: &str) -> Nonce {
        Nonce::new("p", word, content.as_bytes(), Timestamp::default())
    }

    #[test]
    fn a_nonce_is_good_for_one_content() {
        let guard = ReplayGuard::default();
        let reused = AuthenticationError::NonceReused;
        let reused = Err(WebhookOutcome::Unauthenticated(reused));
        let claim = |word, content| guard.claim(nonce(word, content), || None);
        assert_eq!(claim("a", "x"), Ok(false));
        assert_eq!(claim("a", "x"), Ok(false), "not on disk yet");
        guard.cache().insert(nonce("a", "x"), true);
        assert_eq!(claim("a", "x"), Ok(true));
        assert_eq!(claim("a", "y"), reused);
        let stored = || Some(nonce("b", "y").content);
        assert_eq!(guard.claim(nonce("b", "y"), stored), Ok(true));
        assert_eq!(guard.claim(nonce("b", "z"), stored), reused);
    }

    #[test]
    fn memory_is_bounded() {
        let guard = ReplayGuard::default();
        for n in 0..=NONCES_MAX {
            guard.cache().insert(nonce(&n.to_string(), "x"), true);
        }
        assert_eq!(guard.cache().contents.len(), NONCES_MAX);
        assert_eq!(guard.cache().order.len(), NONCES_MAX);
    }
}
