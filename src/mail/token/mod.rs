//! Owns the reply token: the signed word in an address that identifies a thread; minted and verified.
//!
//! Does not know revoked tokens, nor the thread of a token whose case was lost: the store answers both, by
//! [`Claims::digest`].

mod form;
mod keys;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::clock::Timestamp;

pub use keys::{FoundToken, KeyError, KeyRing};

/// The digest of a token: the first 16 bytes of SHA-256 of its text, lower-cased and without base64
/// padding.
///
/// Mail systems that fold local parts deliver a v1 token lower-cased, and then its MAC cannot be checked,
/// because base64 is case-sensitive. The digest covers the lower-cased text, so a change of case does not
/// change it. The code that mints a v1 token, or first receives one intact, stores digest and thread id; a
/// later [`TokenError::CaseLost`] carries the digest to look up.
pub fn digest(token: &str) -> [u8; 16] {
    let text = token.trim_end_matches('=').to_ascii_lowercase();
    first_of(&Sha256::digest(text))
}

/// The claims of a verified token.
///
/// The claims do not contain the token, so they may be logged and stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claims {
    /// The key of the thread, which every format has.
    pub thread: ThreadKey,
    /// The whole thread id, which only a v1 token has.
    pub thread_id: Option<String>,
    /// True if the token says that `thread` is the hash of an id that is not a UUID. Old v2 tokens do not
    /// say it, nor do old records; a v1 token has the whole id instead.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_hash: bool,
    /// The time at which the token was minted: milliseconds in v1, whole seconds in v2.
    pub issued_at: Timestamp,
    /// The tag of the person for whom the token was minted; `None` if it is bound to no person (always in
    /// v1). [`KeyRing::is_participant`] compares an address with it.
    pub participant: Option<[u8; 4]>,
    /// The [`digest`] of the token.
    pub digest: [u8; 16],
}

impl Claims {
    /// The thread's id, as far as the token itself contains it.
    ///
    /// One hash in eight has the form of a UUID, so the form counts only if the token does not say that its
    /// key is a hash. An old v2 token never says it, and the store that issued it for such a hash knows it by
    /// its digest: ask the store first.
    pub fn told_thread_id(&self) -> Option<String> {
        let uuid = || self.thread.as_uuid().filter(|_| !self.is_hash);
        self.thread_id.clone().or_else(uuid)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde gives the field by reference"
)]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The 16 bytes by which a token identifies a thread: the bytes of the thread id if it is a UUID in its
/// hyphenated form, else the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ThreadKey(pub [u8; 16]);

impl ThreadKey {
    /// The key of the thread with this id.
    pub fn of(thread_id: &str) -> Self {
        match hyphenated_uuid(thread_id) {
            Some(uuid) => Self(uuid.into_bytes()),
            None => Self(first_of(&Sha256::digest(thread_id))),
        }
    }

    /// The key in the form of a UUID, lower-cased.
    ///
    /// The key does not show if the id was a UUID: ask the store first, and use this as the thread id only
    /// if the store does not know the key.
    pub fn as_uuid_text(self) -> String {
        Uuid::from_bytes(self.0).hyphenated().to_string()
    }

    /// The thread's id as a UUID, lower-cased, if the key can be one; `None` if version or variant are not
    /// those of RFC 9562, so that the key must be the hash of another id.
    ///
    /// One hash in eight has the form of a UUID: [`Claims::told_thread_id`] knows more.
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

/// The UUID in its hyphenated form. Only that form counts: `{…}` or `urn:uuid:…` are other ids to a product
/// that uses them.
fn hyphenated_uuid(thread_id: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(thread_id).ok()?;
    (thread_id.len() == uuid::fmt::Hyphenated::LENGTH).then_some(uuid)
}

/// The text is not the form of a [`ThreadKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("thread key is not 32 lower-case hex digits")]
pub struct ThreadKeyError;

/// The two token schemes. Both verify; the configuration of the route selects the one that is minted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `base64url("{threadId}:{timestamp_ms}:{signature}")`, where the signature is the first 16 hex digits
    /// of HMAC-SHA256 of `{threadId}:{timestamp_ms}`. The token carries the whole thread id, breaks if its
    /// case is folded, is longer than a local part should be, and is bound to no domain.
    V1,
    /// 36 bytes in lower-case base32 (58 characters): version and key id, thread key, issued-at,
    /// participant tag and MAC. The version is 2 for a UUID and 3 for the hash of another id; tokens that
    /// were minted before version 3 existed have 2 for both. The MAC covers the reply domain.
    #[default]
    V2,
}

/// The reason why an address identifies no thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// The local part does not have the form of a token: it may be a mailbox.
    #[error("no token in the address")]
    Absent,
    /// A v1 token whose case was folded, so that the MAC cannot be checked. The store may know this
    /// [`digest`]; an unknown digest is not a token of ours.
    #[error("token has lost its case")]
    CaseLost([u8; 16]),
    /// A token of ours that is older than the ring's lifetime.
    #[error("token has expired")]
    Expired,
    /// A token signed by us, but minted more than a day ahead of our clock: one of the clocks is wrong, and
    /// may be corrected.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The local part has a token's form or the reply prefix, but no key of ours signed it for this domain.
    #[error("token was not signed by us")]
    Forged,
}

fn first_of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes[at])
}

#[cfg(test)]
mod tests;
