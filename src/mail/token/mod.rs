//! Owns the reply token: the signed word in an address that names a thread, minted and verified.
//!
//! Does not know which tokens were revoked, nor the thread behind a token whose case was lost: both
//! are questions to the store, asked with [`Claims::digest`].

mod form;
mod keys;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::Timestamp;

pub use keys::{FoundToken, KeyError, KeyRing};

/// The name of the token with this text: the first 16 bytes of SHA-256 of the text, lower-cased and
/// without base64 padding.
///
/// Mail systems that fold local parts deliver a v1 token lower-cased, and then its MAC cannot be
/// checked: base64 tells its letters apart by case. The digest is taken over the lower-cased text,
/// so it is the same at mint and on arrival, whatever happened to the case between. Whoever mints a v1
/// token, or first receives one whole, has the store keep digest and thread id; a later
/// [`TokenError::CaseLost`] carries the digest to look up.
pub fn digest(token: &str) -> [u8; 16] {
    let text = token.trim_end_matches('=').to_ascii_lowercase();
    first_of(&Sha256::digest(text))
}

/// The claims of a verified token.
///
/// It holds no token, so it may be logged and kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claims {
    /// The thread, by the key every format gives it.
    pub thread: ThreadKey,
    /// The whole thread id: only a v1 token carries it.
    pub thread_id: Option<String>,
    /// Time at which the token was minted: milliseconds in v1, whole seconds in v2.
    pub issued_at: Timestamp,
    /// The tag of the person the token was minted for; `None` if it is bound to nobody (always so in
    /// v1). [`KeyRing::is_participant`] checks an address against it.
    pub participant: Option<[u8; 4]>,
    /// The token's name: [`digest`] of its text.
    pub digest: [u8; 16],
}

/// The 16 bytes a token knows a thread by: the thread id's own bytes where it is a UUID in its
/// hyphenated form, else the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ThreadKey(pub [u8; 16]);

impl ThreadKey {
    /// The key of the thread with this id.
    pub fn of(thread_id: &str) -> Self {
        // Only the hyphenated form: `{…}` or `urn:uuid:…` are other ids to a product that uses them.
        match Uuid::try_parse(thread_id) {
            Ok(uuid) if thread_id.len() == uuid::fmt::Hyphenated::LENGTH => Self(uuid.into_bytes()),
            _ => Self(first_of(&Sha256::digest(thread_id))),
        }
    }

    /// The key written as a UUID, lower-cased.
    ///
    /// The key does not tell whether the id was a UUID: ask the store first, and take this for the
    /// thread id only if the store does not know the key.
    pub fn as_uuid_text(self) -> String {
        Uuid::from_bytes(self.0).hyphenated().to_string()
    }

    /// The thread's id as a UUID, lower-cased, if the key can be the bytes of one: `None` if version or
    /// variant are not those of RFC 9562, so that the key must be the hash of another id.
    ///
    /// One hash in eight looks like a UUID all the same.
    pub fn as_uuid(self) -> Option<String> {
        let uuid = Uuid::from_bytes(self.0);
        let is_uuid = uuid.get_variant() == uuid::Variant::RFC4122
            && (1..=8).contains(&uuid.get_version_num());
        is_uuid.then(|| self.as_uuid_text())
    }
}

impl fmt::Display for ThreadKey {
    /// Writes 32 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Uuid::from_bytes(self.0).simple())
    }
}

impl TryFrom<String> for ThreadKey {
    type Error = ThreadKeyError;

    fn try_from(text: String) -> Result<Self, ThreadKeyError> {
        let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        match Uuid::try_parse(&text) {
            Ok(uuid) if text.len() == 32 && text.bytes().all(lower_hex) => {
                Ok(Self(uuid.into_bytes()))
            }
            _ => Err(ThreadKeyError),
        }
    }
}

impl From<ThreadKey> for String {
    fn from(key: ThreadKey) -> Self {
        key.to_string()
    }
}

/// The text is not a [`ThreadKey`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("thread key is not 32 lower-case hex digits")]
pub struct ThreadKeyError;

/// The two schemes of a token. Both verify; the route's setting says which is minted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `base64url("{threadId}:{timestamp_ms}:{signature}")`, the signature being the first 16 hex
    /// digits of HMAC-SHA256 of `{threadId}:{timestamp_ms}`. The token carries the whole thread id,
    /// breaks when its case is folded, is longer than a local part should be, and is bound to no
    /// domain.
    V1,
    /// 36 bytes in lower-case base32 (58 characters): version and key id, thread key, issued-at,
    /// participant tag and MAC. The MAC covers the reply domain.
    #[default]
    V2,
}

/// The reason why an address brings no thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The local part is not of a token's form at all: it may be a mailbox.
    #[error("no token in the address")]
    Absent,
    /// A v1 token whose case was folded, so that the MAC cannot be checked. The stored mapping may
    /// know this [`digest`]; a digest the store does not know is no token of ours.
    #[error("token has lost its case")]
    CaseLost([u8; 16]),
    /// Ours, but older than the ring's lifetime.
    #[error("token has expired")]
    Expired,
    /// Signed by us, but minted more than a day ahead of our clock: either clock is wrong, and may be
    /// mended.
    #[error("token is not valid yet")]
    NotYetValid,
    /// Has a token's form or the reply prefix, but no key of ours signed it for this domain.
    #[error("token was not signed by us")]
    Forged,
}

fn first_of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes[at])
}

#[cfg(test)]
mod tests;
