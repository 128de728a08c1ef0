//! Owns the nonces of requests: each is bound to the content of its first use, on disk before its mail is
//! accepted.
//!
//! Does not verify signatures, and does not store nonces; the store does.

use ring::digest;

use super::acceptance::no_answer;
use super::error::AuthenticationError;
use super::outcome::WebhookOutcome;
use crate::clock::Timestamp;
use crate::store::{Nonce, Store};

/// The nonce `word` of a provider, with the content of the request. After `expires` the nonce is refused
/// for its age.
pub(super) fn nonce_of(provider: &str, word: &str, content: &[u8], expires: Timestamp) -> Nonce {
    let short = |parts: &[&[u8]]| {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
            context.update(&[0]);
        }
        let whole = context.finish();
        std::array::from_fn(|at| whole.as_ref()[at])
    };
    Nonce {
        digest: short(&[provider.as_bytes(), word.as_bytes()]),
        content: short(&[content]),
        until: expires,
    }
}

/// Binds the nonce to its content. On success the binding survives a crash. The same nonce with the same
/// content is a retry, and succeeds.
pub(super) async fn bind(nonce: Nonce, store: &Store) -> Result<(), WebhookOutcome> {
    match store.bind_nonce(nonce).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(WebhookOutcome::Unauthenticated(
            AuthenticationError::NonceReused,
        )),
        Err(error) => Err(no_answer(error)),
    }
}
