//! Owns the recent nonces, so that two concurrent requests with one nonce meet before either is on disk.
//!
//! Does not write them to disk.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::store::door::Nonce;

/// The number of nonces in memory; the index has them all. There are never as many concurrent requests, so
/// none is evicted while it is being bound.
pub(super) const NONCES_MAX: usize = 20_000;

/// The recent nonces.
#[derive(Debug, Default)]
pub(super) struct NonceCache(Mutex<Nonces>);

#[derive(Debug, Default)]
struct Nonces {
    contents: HashMap<[u8; 16], BoundContent>,
    order: VecDeque<[u8; 16]>,
}

#[derive(Clone, Copy, Debug)]
struct BoundContent {
    digest: [u8; 16],
    on_disk: bool,
}

/// The state of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceState {
    /// The nonce was used with other content.
    Taken,
    /// The nonce is on disk with this content.
    Bound,
    /// The nonce has this content, but is not on disk yet.
    Claimed,
    /// The nonce is not in memory.
    Unknown,
}

impl NonceCache {
    /// The state of a nonce in memory.
    pub(super) fn look(&self, nonce: &Nonce) -> NonceState {
        match self.nonces().contents.get(&nonce.digest) {
            None => NonceState::Unknown,
            Some(bound) if bound.digest != nonce.content => NonceState::Taken,
            Some(bound) if bound.on_disk => NonceState::Bound,
            Some(_) => NonceState::Claimed,
        }
    }

    /// Claims the nonce for its content, unless another request did since the look-up. `stored` is the
    /// digest of its content on disk.
    pub(super) fn claim(&self, nonce: &Nonce, stored: Option<[u8; 16]>) -> NonceState {
        let mut nonces = self.nonces();
        if !nonces.contents.contains_key(&nonce.digest) {
            let digest = stored.unwrap_or(nonce.content);
            let on_disk = stored.is_some();
            nonces.put(nonce.digest, BoundContent { digest, on_disk });
        }
        drop(nonces);
        self.look(nonce)
    }

    /// Records that the nonce is on disk with its content.
    pub(super) fn written(&self, nonce: &Nonce) {
        let bound = BoundContent {
            digest: nonce.content,
            on_disk: true,
        };
        self.nonces().put(nonce.digest, bound);
    }

    /// The number of nonces.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let nonces = self.nonces();
        nonces.contents.len().max(nonces.order.len())
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, Nonces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nonces {
    fn put(&mut self, nonce: [u8; 16], content: BoundContent) {
        if self.contents.insert(nonce, content).is_none() {
            self.order.push_back(nonce);
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
    use crate::clock::Timestamp;

    fn nonce(digest: u64, content: u8) -> Nonce {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&digest.to_le_bytes());
        Nonce {
            digest: bytes,
            content: [content; 16],
            until: Timestamp::default(),
        }
    }

    #[test]
    fn a_nonce_is_valid_for_one_content() {
        let cache = NonceCache::default();
        assert_eq!(cache.look(&nonce(1, 7)), NonceState::Unknown);
        assert_eq!(cache.claim(&nonce(1, 7), None), NonceState::Claimed);
        assert_eq!(cache.claim(&nonce(1, 7), None), NonceState::Claimed);
        cache.written(&nonce(1, 7));
        assert_eq!(cache.look(&nonce(1, 7)), NonceState::Bound);
        assert_eq!(cache.look(&nonce(1, 8)), NonceState::Taken);
        let stored = Some([7; 16]);
        assert_eq!(cache.claim(&nonce(2, 7), stored), NonceState::Bound);
        assert_eq!(cache.claim(&nonce(2, 8), stored), NonceState::Taken);
    }

    #[test]
    fn memory_is_bounded() {
        let cache = NonceCache::default();
        for n in 0..=NONCES_MAX as u64 {
            cache.written(&nonce(n, 1));
        }
        assert_eq!(cache.nonces().contents.len(), NONCES_MAX);
        assert_eq!(cache.nonces().order.len(), NONCES_MAX);
    }
}
