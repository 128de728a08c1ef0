//! Owns the authentication of the gateway's callers: keys, and the secrets for signed requests.
//!
//! Does not know the requested operation.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::http::error::HttpError;
use crate::http::keys::AccessKeys;
use crate::signature::{HmacKey, STANDARD_PREFIX, parse_standard};
use crate::store::Nonce;

/// The number of signatures in one `webhook-signature`, one for each secret of the sender.
const SIGNATURES_MAX: usize = 10;
/// Octets of a `webhook-id`.
const ID_BYTES_MAX: usize = 255;
/// Decimal digits of a timestamp.
const DIGITS_MAX: usize = 16;
/// The smallest plausible timestamp in milliseconds: a smaller one was meant as seconds.
const MILLIS_MIN: u64 = 100_000_000_000;

/// The keys and secrets of the gateway's callers.
pub struct CallAuth {
    keys: AccessKeys,
    secrets: Vec<CallSecret>,
    age_max: Duration,
}

/// A secret for signed requests.
struct CallSecret {
    /// Key of the generic scheme: the secret as it is written.
    generic: HmacKey,
    /// Key of Standard Webhooks: decoded from a secret that begins with `whsec_`.
    standard: HmacKey,
}

/// The credentials of a request.
#[derive(Debug)]
pub(super) enum CallCredential {
    /// A valid key.
    Key,
    /// A signature of the body, which has not arrived yet.
    Signed {
        /// The signed text before the body.
        prefix: String,
        signatures: Vec<Vec<u8>>,
        is_standard: bool,
        /// The identity of this request under its signature.
        id: String,
    },
}

impl CallCredential {
    /// True if the caller is authenticated before its body is read.
    pub(super) const fn is_proven(&self) -> bool {
        matches!(self, Self::Key)
    }
}

/// An authenticated caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AuthenticatedCall {
    /// The identity of a signed request.
    pub(super) signed_id: Option<String>,
    /// The digest of the signed text; the same for every signature of it.
    signed: Option<[u8; 32]>,
}

impl CallSecret {
    fn new(text: &str) -> Self {
        let generic = HmacKey::new(text.as_bytes());
        let is_standard = text.starts_with(STANDARD_PREFIX);
        let decoded = is_standard.then(|| HmacKey::from_standard_secret(text));
        Self {
            standard: decoded.flatten().unwrap_or_else(|| generic.clone()),
            generic,
        }
    }
}

impl fmt::Debug for CallAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers")
            .field("keys", &self.keys.len())
            .field("secrets", &self.secrets.len())
            .finish_non_exhaustive()
    }
}

impl CallAuth {
    /// Accepts holders of one of `keys`, and requests signed with one of `secrets` at most
    /// `age_max` ago. Empty keys and secrets match nothing.
    pub fn new<'a>(
        keys: impl IntoIterator<Item = &'a str>,
        secrets: impl IntoIterator<Item = &'a str>,
        age_max: Duration,
    ) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        Self {
            keys: AccessKeys::new(keys),
            secrets: secrets.map(CallSecret::new).collect(),
            age_max,
        }
    }

    /// Requires a key. A signature is not sufficient, because it does not cover the path.
    pub(super) fn require_key(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        if self.keys.admits_bearer(headers) {
            return Ok(());
        }
        Err(HttpError::unauthorized())
    }

    /// Checks the head of a request before its body is read.
    pub(super) fn check_head(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<CallCredential, HttpError> {
        if headers.contains_key(header::AUTHORIZATION) {
            return match self.keys.admits_bearer(headers) {
                true => Ok(CallCredential::Key),
                false => Err(HttpError::unauthorized()),
            };
        }
        let (claim, at) = if headers.contains_key("webhook-signature") {
            standard(headers)?
        } else if headers.contains_key("x-webhook-signature") {
            generic(headers)?
        } else {
            let message = "Authorization: Bearer with a key, or a signature, is required";
            return Err(unauthorized(message));
        };
        if self.secrets.is_empty() {
            return Err(unauthorized("no secret for signatures is configured"));
        }
        let off = now.since(at).max(at.since(now));
        if off > self.age_max {
            let seconds = off.as_secs();
            return Err(unauthorized(format!(
                "the timestamp is {seconds} s off; sign each attempt anew"
            )));
        }
        Ok(claim)
    }

    /// Verifies the signature against the body.
    pub(super) fn verify_body(
        &self,
        claim: CallCredential,
        body: &[u8],
    ) -> Result<AuthenticatedCall, HttpError> {
        let CallCredential::Signed {
            prefix,
            signatures: given,
            is_standard,
            id,
        } = claim
        else {
            return Ok(AuthenticatedCall {
                signed_id: None,
                signed: None,
            });
        };
        let parts = [prefix.as_bytes(), body];
        let mut matches = false;
        for secret in &self.secrets {
            let key = match is_standard {
                true => &secret.standard,
                false => &secret.generic,
            };
            for given in &given {
                matches |= key.verify(&parts, given);
            }
        }
        if !matches {
            return Err(unauthorized("the signature does not match"));
        }
        let mut signed = Sha256::new();
        signed.update([u8::from(is_standard)]);
        parts.iter().for_each(|part| signed.update(part));
        Ok(AuthenticatedCall {
            signed_id: Some(id),
            signed: Some(signed.finalize().into()),
        })
    }

    /// The nonce that binds a signed request to its `Idempotency-Key`. The signature does not cover the
    /// key, so the same signed request with another key is a replay. `None` if the caller has a key of
    /// the gateway.
    pub(super) fn nonce_of(
        &self,
        caller: &AuthenticatedCall,
        key: Option<&str>,
        now: Timestamp,
    ) -> Option<Nonce> {
        let short = |parts: &[&[u8]]| -> [u8; 16] {
            let mut hash = Sha256::new();
            parts.iter().for_each(|part| hash.update(part));
            let whole = hash.finalize();
            std::array::from_fn(|at| whole[at])
        };
        let signed = caller.signed?;
        Some(Nonce {
            digest: short(&[b"gateway call\0", &signed]),
            content: match key {
                Some(key) => short(&[b"key\0", key.as_bytes()]),
                None => short(&[]),
            },
            // A signature is valid for as long before its timestamp as after it.
            until: now.plus(self.age_max * 2),
        })
    }
}

/// The response to a signed request that is repeated with another key.
pub(super) fn replayed() -> HttpError {
    unauthorized("this signed request was used with another Idempotency-Key")
}

/// The generic scheme: hex HMAC-SHA256 of `{timestamp}.{body}`, with the timestamp in milliseconds.
fn generic(headers: &HeaderMap) -> Result<(CallCredential, Timestamp), HttpError> {
    const TIMESTAMP: &str = "X-Webhook-Timestamp";
    let timestamp = single_header(headers, TIMESTAMP)?;
    let signature = single_header(headers, "X-Webhook-Signature")?;
    // Many senders write the name of the hash before it.
    let hex = signature.strip_prefix("sha256=").unwrap_or(signature);
    let given = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
    let given = given.map_err(|_| unauthorized("X-Webhook-Signature: not hex"))?;
    let millis = digits(TIMESTAMP, timestamp)?;
    if millis < MILLIS_MIN {
        let message = "X-Webhook-Timestamp: looks like seconds, milliseconds are needed";
        return Err(unauthorized(message));
    }
    let claim = CallCredential::Signed {
        prefix: format!("{timestamp}."),
        id: format!("{timestamp}.{}", signature.to_ascii_lowercase()),
        signatures: vec![given],
        is_standard: false,
    };
    Ok((claim, Timestamp::from_millis(millis)))
}

/// Standard Webhooks: base64 HMAC-SHA256 of `{id}.{timestamp}.{body}`, with the timestamp in seconds.
fn standard(headers: &HeaderMap) -> Result<(CallCredential, Timestamp), HttpError> {
    let id = single_header(headers, "webhook-id")?;
    let timestamp = single_header(headers, "webhook-timestamp")?;
    let signatures = single_header(headers, "webhook-signature")?;
    if !(1..=ID_BYTES_MAX).contains(&id.len()) {
        return Err(unauthorized("webhook-id: 1 to 255 ASCII characters"));
    }
    let signatures = signatures.split(' ').take(SIGNATURES_MAX);
    let given = signatures.filter_map(parse_standard);
    let seconds = digits("webhook-timestamp", timestamp)?;
    let claim = CallCredential::Signed {
        prefix: format!("{id}.{timestamp}."),
        id: id.to_owned(),
        signatures: given.collect(),
        is_standard: true,
    };
    Ok((claim, Timestamp::from_secs(seconds)))
}

/// The value of a field that must occur once, in visible ASCII.
fn single_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, HttpError> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(value)), None) => Ok(value),
        (None, _) => Err(unauthorized(format!("{name}: missing"))),
        (_, Some(_)) => Err(unauthorized(format!("{name}: given twice"))),
        (Some(Err(_)), None) => Err(unauthorized(format!("{name}: not ASCII"))),
    }
}

fn digits(name: &str, text: &str) -> Result<u64, HttpError> {
    let fits = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = if fits { text.parse().ok() } else { None };
    number.ok_or_else(|| unauthorized(format!("{name}: not a number of digits")))
}

fn unauthorized(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use data_encoding::BASE64;

    use super::*;

    const KEY: &str = "a key that is long enough to be one, old";
    const SECRET: &str = "a secret that is long enough to be one";
    // "a secret of standard webhooks, 32" in base64.
    const STANDARD: &str = "whsec_YSBzZWNyZXQgb2Ygc3RhbmRhcmQgd2ViaG9va3MsIDMy";
    const NOW: Timestamp = Timestamp::from_millis(1_769_903_999_042);

    fn callers() -> CallAuth {
        let keys = [KEY, "another key that is long enough to be one"];
        CallAuth::new(keys, [SECRET, STANDARD], Duration::from_secs(300))
    }

    fn headers(fields: &[(&str, String)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    fn hex(secret: &str, text: &str) -> String {
        let signature = HmacKey::new(secret.as_bytes()).sign(&[text.as_bytes()]);
        data_encoding::HEXLOWER.encode(signature.as_ref())
    }

    fn tried(fields: &[(&str, String)], body: &str) -> Result<AuthenticatedCall, HttpError> {
        let callers = callers();
        let claim = callers.check_head(&headers(fields), NOW)?;
        callers.verify_body(claim, body.as_bytes())
    }

    #[test]
    fn any_key_and_any_secret_is_accepted_and_nothing_else() {
        let bearer = |key: &str| [("authorization", format!("bearer {key}"))];
        assert!(tried(&bearer(KEY), "x").is_ok());
        assert!(tried(&bearer("another key that is long enough to be one"), "x").is_ok());
        for wrong in ["", "x", &KEY[1..], SECRET] {
            assert!(tried(&bearer(wrong), "x").is_err(), "{wrong}");
        }
        let twice = [bearer(KEY), bearer(KEY)].concat();
        assert!(tried(&twice, "x").is_err());
        assert!(tried(&[], "x").is_err());
    }

    #[test]
    fn the_generic_signature_covers_timestamp_and_body() {
        let signed = |at: u64, body: &str| {
            let signature = hex(SECRET, &format!("{at}.{body}"));
            [
                ("x-webhook-timestamp", at.to_string()),
                ("x-webhook-signature", signature),
            ]
        };
        let now = NOW.as_millis();
        let caller = tried(&signed(now, "{}"), "{}").unwrap();
        assert!(caller.signed_id.unwrap().starts_with("1769903999042."));
        assert!(tried(&signed(now - 300_000, "{}"), "{}").is_ok());
        assert!(tried(&signed(now + 300_000, "{}"), "{}").is_ok());
        for (at, body) in [(now - 300_001, "{}"), (now + 300_001, "{}"), (now, "{ }")] {
            assert_eq!(tried(&signed(at, "{}"), body).unwrap_err().status, 401);
        }
        let seconds = tried(&signed(now / 1000, "{}"), "{}").unwrap_err();
        assert!(seconds.message.contains("seconds"), "{}", seconds.message);
        let mut moved = signed(now, "{}");
        moved[0].1 = (now + 1).to_string();
        assert!(tried(&moved, "{}").is_err());
        let mut empty = signed(now, "{}");
        empty[1].1.clear();
        assert!(tried(&empty, "{}").is_err());
    }

    #[test]
    fn standard_webhooks_are_read_and_their_id_is_the_requests() {
        let key = "a secret of standard webhooks, 32";
        let seconds = NOW.as_secs();
        let signed = hex(key, &format!("msg_1.{seconds}.{{}}"));
        let signed = BASE64.encode(&HEXLOWER_PERMISSIVE.decode(signed.as_bytes()).unwrap());
        let fields = |id: &str| {
            [
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", seconds.to_string()),
                ("webhook-signature", format!("v1a,x v1,AAAA v1,{signed}")),
            ]
        };
        let caller = tried(&fields("msg_1"), "{}").unwrap();
        assert_eq!(caller.signed_id.as_deref(), Some("msg_1"));
        assert!(tried(&fields("msg_2"), "{}").is_err());
        assert!(tried(&fields("msg_1"), "[]").is_err());
    }

    #[test]
    fn a_signed_request_has_one_nonce_and_each_key_another_content() {
        let callers = callers();
        let nonce = |signed, key| {
            let signed_id = Some("i".to_owned());
            callers.nonce_of(&AuthenticatedCall { signed_id, signed }, key, NOW)
        };
        let of = |signed: u8, key| nonce(Some([signed; 32]), key).unwrap();
        let (first, other) = (of(1, Some("k1")), of(1, Some("k2")));
        assert_eq!(of(1, Some("k1")), first);
        assert_eq!(first.digest, other.digest);
        assert_eq!(of(1, None).digest, first.digest);
        let contents = [first.content, other.content, of(1, None).content];
        assert!(contents[0] != contents[1] && contents[1] != contents[2]);
        assert_ne!(contents[0], contents[2]);
        assert_ne!(of(2, Some("k1")).digest, first.digest);
        assert_eq!(first.until, NOW.plus(Duration::from_secs(600)));
        assert_eq!(nonce(None, Some("k1")), None);
    }

    #[test]
    fn every_signature_of_a_request_is_the_same_request() {
        let old = "an older secret made for tests, worth nothing";
        let callers = CallAuth::new([KEY], [SECRET, old], Duration::from_secs(300));
        let seconds = NOW.as_millis() / 1000;
        let signature = |secret: &str| {
            let signed = hex(secret, &format!("msg_1.{seconds}.{{}}"));
            let signed = HEXLOWER_PERMISSIVE.decode(signed.as_bytes()).unwrap();
            format!("v1,{}", BASE64.encode(&signed))
        };
        let signed = |signatures: String| {
            let fields = [
                ("webhook-id", "msg_1".to_owned()),
                ("webhook-timestamp", seconds.to_string()),
                ("webhook-signature", signatures),
            ];
            let claim = callers.check_head(&headers(&fields), NOW).unwrap();
            callers.verify_body(claim, b"{}").unwrap().signed
        };
        let both = signed(format!("{} {}", signature(SECRET), signature(old)));
        assert!(both.is_some());
        assert_eq!(signed(signature(SECRET)), both);
        assert_eq!(signed(signature(old)), both);
    }

    #[test]
    fn without_secrets_nothing_is_signed() {
        let callers = CallAuth::new([KEY], [""], Duration::from_secs(300));
        let at = NOW.as_millis();
        let fields = [
            ("x-webhook-timestamp", at.to_string()),
            ("x-webhook-signature", hex("", &format!("{at}.x"))),
        ];
        assert!(callers.check_head(&headers(&fields), NOW).is_err());
        assert!(!format!("{callers:?}").contains(KEY));
    }
}
