//! Owns the keys of a route: the newest mints, all verify, in constant time.
//!
//! Does not read configuration and draws no randomness.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use super::form::{self, TokenCandidate, TokenShape, V1Token};
use super::{Claims, Format, ThreadKey, TokenError, first_of, hyphenated_uuid};
use crate::clock::Timestamp;
use crate::mail::address::{Address, AddressError, Domain, LOCAL_BYTES_MAX};
use crate::signature::HmacKey;

/// The minimum length of a secret in bytes: the output size of HMAC-SHA256 (RFC 2104 section 3).
const SECRET_BYTES_MIN: usize = 32;
/// The largest key id, which is a nibble of the token.
const KEY_ID_MAX: u8 = 15;
/// The length of the prefix word in characters, so that word, separator and v2 token fit 64 octets.
const PREFIX_CHARS_MAX: usize = 5;
/// The largest accepted lead of the minting node's clock over ours.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of addresses of one mail that are searched for tokens in its header.
const ADDRESSES_MAX: usize = 200;

const V2_LABEL: &[u8] = b"postern reply token v2\0";
const PARTICIPANT_LABEL: &[u8] = b"participant\0";

/// The keys of one route: the newest mints, all verify.
pub struct KeyRing {
    /// The keys, newest first; never empty.
    keys: Vec<RingKey>,
    lifetime: Duration,
    prefix: String,
}

impl KeyRing {
    /// The default lifetime of a token.
    pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// A ring of `keys`, each a key id (0..=15) and a secret of at least 32 bytes, newest first.
    /// Tokens expire when they are older than `lifetime`. The prefix word is `reply`.
    ///
    /// # Errors
    /// Names the invalid key, never its secret.
    pub fn new(keys: Vec<(u8, Vec<u8>)>, lifetime: Duration) -> Result<Self, KeyError> {
        let mut ids = BTreeSet::new();
        let keys = keys
            .into_iter()
            .map(|(id, secret)| {
                if id > KEY_ID_MAX {
                    return Err(KeyError::IdTooLarge(id));
                }
                if !ids.insert(id) {
                    return Err(KeyError::IdRepeated(id));
                }
                RingKey::new(id, &secret)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self {
            keys,
            lifetime,
            prefix: "reply".to_owned(),
        })
    }

    /// Replaces the prefix word `reply` by 1 to 5 ASCII letters or digits.
    ///
    /// # Errors
    /// [`KeyError::Prefix`] if the word is longer or has other characters.
    pub fn with_prefix(mut self, word: &str) -> Result<Self, KeyError> {
        let fits = (1..=PREFIX_CHARS_MAX).contains(&word.len())
            && word.bytes().all(|b| b.is_ascii_alphanumeric());
        if !fits {
            return Err(KeyError::Prefix(word.to_owned()));
        }
        self.prefix = word.to_ascii_lowercase();
        Ok(self)
    }

    /// Mints the token (not the address). `domain` is the domain of the reply address; a v2 token is valid
    /// at no other. A v1 token is bound to neither domain nor participant.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact the token is made of, and none has a default"
    )]
    pub fn mint(
        &self,
        format: Format,
        domain: &Domain,
        thread_id: &str,
        participant: Option<&Address>,
        now: Timestamp,
    ) -> String {
        let key = &self.keys[0];
        match format {
            Format::V1 => {
                let signed = format!("{thread_id}:{}", now.as_millis());
                let signature = key.v1_signature(&signed);
                let signature = str::from_utf8(&signature).unwrap_or_default();
                form::write(format, format!("{signed}:{signature}").as_bytes())
            }
            Format::V2 => {
                let mut bytes = Vec::with_capacity(form::V2_BYTES);
                // The mark distinguishes a hash that has the form of a UUID from a UUID.
                let version = match hyphenated_uuid(thread_id) {
                    Some(_) => form::V2_VERSION,
                    None => form::V2_VERSION_HASH,
                };
                bytes.push(version << 4 | key.id);
                bytes.extend(ThreadKey::of(thread_id).0);
                // Four bytes of seconds last until 2106.
                let secs = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
                bytes.extend(secs.to_be_bytes());
                bytes.extend(participant.map_or([0; 4], |address| key.participant_tag(address)));
                let mac = key.v2_mac(domain, &bytes);
                bytes.extend(mac);
                form::write(format, &bytes)
            }
        }
    }

    /// Mints a token and returns the whole reply address: `reply+TOKEN@domain`.
    ///
    /// With v2 the local part always fits the 64 octets of RFC 5321 section 4.5.3.1.1. With v1 it has 96
    /// for a UUID; most systems accept that, but none has to.
    ///
    /// # Errors
    /// [`AddressError::LocalTooLong`] for a v1 token of a thread id of more than about 60 octets.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact the token is made of, and none has a default"
    )]
    pub fn reply_address(
        &self,
        format: Format,
        domain: &Domain,
        thread_id: &str,
        participant: Option<&Address>,
        now: Timestamp,
    ) -> Result<Address, AddressError> {
        let token = self.mint(format, domain, thread_id, participant, now);
        let local = format!("{}+{token}", self.prefix);
        debug_assert!(format == Format::V1 || local.len() <= LOCAL_BYTES_MAX);
        Address::parse(&format!("{local}@{domain}"))
    }

    /// True if the participant tag in `claims` belongs to `address`. Every key is tried, because the
    /// minting key may have been replaced. A token without a participant belongs to no address.
    pub fn is_participant(&self, claims: &Claims, address: &Address) -> bool {
        let Some(tag) = claims.participant else {
            return false;
        };
        let any = self.keys.iter().fold(Choice::from(0), |any, key| {
            any | key.participant_tag(address).ct_eq(&tag)
        });
        any.into()
    }

    /// Finds and verifies a token in a local part: `reply+TOKEN`, `reply-TOKEN` or `TOKEN`, for
    /// systems without plus addresses.
    ///
    /// Reads no store, so the caller must still check if the token was revoked.
    ///
    /// # Errors
    /// After the reply prefix anything but a token of ours is [`TokenError::Forged`]; a bare local part
    /// without a token's form is [`TokenError::Absent`], because it may be a mailbox.
    pub fn verify(&self, address: &Address, now: Timestamp) -> Result<Claims, TokenError> {
        let candidate = TokenCandidate::of(address.local(), &self.prefix);
        let mut claims = None;
        let mut error = if candidate.prefixed {
            TokenError::Forged
        } else {
            TokenError::Absent
        };
        for shape in candidate.shapes() {
            let found = match shape {
                TokenShape::V1(v1) => self.claims_v1(&v1, candidate.digest()),
                TokenShape::V2(bytes) => {
                    self.claims_v2(address.domain(), bytes, candidate.digest())
                }
                TokenShape::CaseLost => {
                    error = TokenError::CaseLost(candidate.digest());
                    continue;
                }
            };
            error = TokenError::Forged;
            claims = claims.or(found);
        }
        let claims = claims.ok_or(error)?;
        if claims.issued_at > now.plus(AHEAD_MAX) {
            return Err(TokenError::NotYetValid);
        }
        if self.is_expired(claims.issued_at, now) {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// True if a token of that moment is too old. [`KeyRing::verify`] checks it too; the caller needs it
    /// for a token whose case was lost, whose time is in the store.
    pub fn is_expired(&self, issued_at: Timestamp, now: Timestamp) -> bool {
        // Compares at the precision of v2: a token is valid to the end of its last second.
        now.as_secs().saturating_sub(issued_at.as_secs()) > self.lifetime.as_secs()
    }

    /// Finds tokens in the addresses of header fields, for sources without an envelope: those at `domain`,
    /// at most 200 addresses, each token once, in order.
    pub fn find<'a>(
        &self,
        domain: &Domain,
        addresses: impl IntoIterator<Item = &'a Address>,
        now: Timestamp,
    ) -> Vec<FoundToken<'a>> {
        let mut seen = BTreeSet::new();
        addresses
            .into_iter()
            .filter(|address| address.domain() == domain)
            .take(ADDRESSES_MAX)
            .filter_map(|address| {
                let outcome = self.verify(address, now);
                let candidate = TokenCandidate::of(address.local(), &self.prefix);
                let fresh = outcome != Err(TokenError::Absent) && seen.insert(candidate.digest());
                fresh.then_some(FoundToken { address, outcome })
            })
            .collect()
    }

    /// The newest key's HMAC-SHA256 over `pieces`, for other signed words. The first piece is a label that
    /// is unique to the kind of word.
    pub(in crate::mail) fn signature(&self, pieces: &[&[u8]]) -> [u8; 32] {
        self.keys[0].hmac(pieces)
    }

    /// True if one of the keys made `signature`, the whole HMAC or its first bytes, over `pieces`. The time
    /// does not depend on the result; an empty signature never matches.
    pub(in crate::mail) fn is_signature(&self, pieces: &[&[u8]], signature: &[u8]) -> bool {
        let made = |key: &RingKey| {
            let whole = key.hmac(pieces);
            whole[..signature.len().min(whole.len())].ct_eq(signature)
        };
        !signature.is_empty() && self.any_key(made)
    }

    fn claims_v1(&self, v1: &V1Token, digest: [u8; 16]) -> Option<Claims> {
        let signed_by = |key: &RingKey| key.v1_signature(&v1.signed).ct_eq(&v1.signature);
        if !self.any_key(signed_by) {
            return None;
        }
        let thread_id = &v1.signed[..v1.id_bytes];
        Some(Claims {
            thread: ThreadKey::of(thread_id),
            thread_id: Some(thread_id.to_owned()),
            is_hash: false,
            issued_at: Timestamp::from_millis(v1.issued_at),
            participant: None,
            digest,
        })
    }

    fn claims_v2(
        &self,
        domain: &Domain,
        bytes: [u8; form::V2_BYTES],
        digest: [u8; 16],
    ) -> Option<Claims> {
        let (signed, mac) = bytes.split_at(form::V2_SIGNED_BYTES);
        // The MAC covers the key id, so every key does the same work whether or not the id is one of ours.
        let signed_by = |key: &RingKey| {
            key.v2_mac(domain, signed)[..].ct_eq(mac) & key.id.ct_eq(&(bytes[0] & 0x0f))
        };
        if !self.any_key(signed_by) {
            return None;
        }
        let tag: [u8; 4] = first_of(&bytes[21..]);
        Some(Claims {
            thread: ThreadKey(first_of(&bytes[1..])),
            thread_id: None,
            is_hash: bytes[0] >> 4 == form::V2_VERSION_HASH,
            issued_at: Timestamp::from_secs(u32::from_be_bytes(first_of(&bytes[17..])).into()),
            participant: (tag != [0; 4]).then_some(tag),
            digest,
        })
    }

    /// True if any key matches. All are tried, so that the time does not depend on the matching key.
    fn any_key(&self, matches: impl Fn(&RingKey) -> Choice) -> bool {
        let mut any = 0u8;
        for key in &self.keys {
            any.conditional_assign(&1, matches(key));
        }
        any == 1
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|key| key.id).collect();
        f.debug_struct("KeyRing")
            .field("key_ids", &ids)
            .field("lifetime", &self.lifetime)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// A token found in a header field's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken<'a> {
    /// The address that contains it.
    pub address: &'a Address,
    /// The claims, or the reason why there are none (never [`TokenError::Absent`]).
    pub outcome: Result<Claims, TokenError>,
}

/// The reason why a key ring cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no key.
    #[error("no key")]
    Empty,
    /// Two keys have one id.
    #[error("key {0}: another key has the same id")]
    IdRepeated(u8),
    /// The key id is not within 0..=15.
    #[error("key {0}: id is above {KEY_ID_MAX}")]
    IdTooLarge(u8),
    /// The prefix word is not 1 to 5 ASCII letters or digits.
    #[error("prefix {0:?}: not 1 to {PREFIX_CHARS_MAX} letters or digits")]
    Prefix(String),
    /// The secret is too short.
    #[error("key {id}: secret of {bytes} bytes, less than {SECRET_BYTES_MIN}")]
    SecretTooShort {
        /// The key's id.
        id: u8,
        /// The length of the secret in bytes.
        bytes: usize,
    },
}

struct RingKey {
    id: u8,
    key: HmacKey,
}

impl RingKey {
    fn new(id: u8, secret: &[u8]) -> Result<Self, KeyError> {
        let bytes = secret.len();
        if bytes < SECRET_BYTES_MIN {
            return Err(KeyError::SecretTooShort { id, bytes });
        }
        Ok(Self {
            id,
            key: HmacKey::new(secret),
        })
    }

    fn v1_signature(&self, signed: &str) -> [u8; form::V1_SIGNATURE_DIGITS] {
        let mac = self.hmac(&[signed.as_bytes()]);
        first_of(HEXLOWER.encode(&mac).as_bytes())
    }

    fn v2_mac(&self, domain: &Domain, signed: &[u8]) -> [u8; form::V2_MAC_BYTES] {
        // With A-labels a domain has one MAC in either notation.
        let domain = domain.ascii();
        first_of(&self.hmac(&[V2_LABEL, domain.as_bytes(), b"\0", signed]))
    }

    fn participant_tag(&self, address: &Address) -> [u8; 4] {
        first_of(&self.hmac(&[PARTICIPANT_LABEL, address.folded().as_bytes()]))
    }

    fn hmac(&self, pieces: &[&[u8]]) -> [u8; 32] {
        first_of(self.key.sign(pieces).as_ref())
    }
}
