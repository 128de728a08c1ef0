//! Owns the ways a request proves where it comes from: every comparison with a secret is here.
//!
//! Does not know which provider uses which way.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use ring::{digest, hmac, signature};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

use super::request::Headers;
use crate::clock::Timestamp;
use crate::network::Network;

/// A comparison with a secret that came out right. Only the functions of this module make one.
#[derive(Debug)]
pub struct Proof(());

/// A secret of a provider's. It is compared in constant time and never shown.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// Takes these bytes as the secret.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The secret itself, for a provider's API.
    pub(super) fn expose(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// True if there is nothing in it: everybody would know it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A name and a password for HTTP's basic authentication (RFC 7617).
#[derive(Clone, Debug)]
pub struct BasicAccount(WebhookSecret);

impl BasicAccount {
    /// The account `name:password`. The name must not have a colon (RFC 7617 section 2).
    pub fn new(name: &str, password: &str) -> Self {
        Self(WebhookSecret::new(format!("{name}:{password}")))
    }
}

/// A public key that signatures are verified with.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// What a `BIT STRING` of a SubjectPublicKeyInfo holds (RFC 5280 section 4.1).
    pub(super) bits: Vec<u8>,
}

/// The HMACs that providers use.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureHash {
    Sha1,
    Sha256,
}

/// How a provider writes the bytes of an HMAC.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureEncoding {
    Base64,
    Hex,
}

/// An HMAC of a request's parts put end to end, as the field `name` gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestMac<'a> {
    pub(super) hash: SignatureHash,
    pub(super) encoding: SignatureEncoding,
    pub(super) name: &'static str,
    pub(super) signature: &'a str,
    pub(super) parts: &'a [&'a [u8]],
}

impl RequestMac<'_> {
    /// Looks whether one of `secrets` made it. All are tried whichever fits.
    pub(super) fn verify(&self, secrets: &[WebhookSecret]) -> Result<Proof, AuthenticationError> {
        let decoded = match self.encoding {
            SignatureEncoding::Hex => HEXLOWER_PERMISSIVE.decode(self.signature.as_bytes()).ok(),
            SignatureEncoding::Base64 => decode_base64(self.signature),
        };
        let given = decoded.ok_or(AuthenticationError::Malformed(self.name))?;
        let algorithm = match self.hash {
            SignatureHash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            SignatureHash::Sha256 => hmac::HMAC_SHA256,
        };
        let mut fits = Choice::from(0);
        for WebhookSecret(secret) in secrets.iter().filter(|secret| !secret.is_empty()) {
            let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, secret));
            for part in self.parts {
                context.update(part);
            }
            fits |= context.sign().as_ref().ct_eq(&given);
        }
        proof_if(fits)
    }
}

/// Looks whether the value of header field `name` is one of `secrets`.
pub(super) fn shared_token(
    headers: &Headers,
    name: &'static str,
    secrets: &[WebhookSecret],
) -> Result<Proof, AuthenticationError> {
    let given = headers.required(name)?;
    proof_if(is_one_of(given.as_bytes(), secrets))
}

/// Looks for one of `accounts` in the `Authorization` field (RFC 7617).
pub(super) fn basic_auth(
    headers: &Headers,
    accounts: &[BasicAccount],
) -> Result<Proof, AuthenticationError> {
    const NAME: &str = "authorization";
    let given = headers
        .single(NAME)?
        .ok_or(AuthenticationError::NoAccount)?;
    let (scheme, word) = given
        .split_once(' ')
        .ok_or(AuthenticationError::Malformed(NAME))?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(AuthenticationError::NoAccount);
    }
    let pair = decode_base64(word.trim()).ok_or(AuthenticationError::Malformed(NAME))?;
    let secrets: Vec<WebhookSecret> = accounts.iter().map(|account| account.0.clone()).collect();
    proof_if(is_one_of(&pair, &secrets))
}

/// Looks whether `peer` is in one of `networks`.
pub(super) fn from_networks(
    peer: Option<IpAddr>,
    networks: &[Network],
) -> Result<Proof, AuthenticationError> {
    let is_known = peer.is_some_and(|ip| networks.iter().any(|network| network.contains(ip)));
    if is_known {
        Ok(Proof(()))
    } else {
        Err(AuthenticationError::ForeignNetwork)
    }
}

/// Looks whether `given`, in base64, is an ECDSA P-256 signature (ASN.1) of `message` by one of
/// `keys`, each an uncompressed point.
pub(super) fn ecdsa(
    keys: &[PublicKey],
    message: &[u8],
    given: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    verify_signature(
        keys,
        &signature::ECDSA_P256_SHA256_ASN1,
        message,
        given,
        name,
    )
}

/// Looks whether `given`, in base64, is an RSA signature (PKCS#1 v1.5) of `message` by one of `keys`.
pub(super) fn rsa(
    keys: &[PublicKey],
    hash: SignatureHash,
    message: &[u8],
    given: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    let algorithm = match hash {
        SignatureHash::Sha1 => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        // Postal makes keys of 1024 bits.
        SignatureHash::Sha256 => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    };
    verify_signature(keys, algorithm, message, given, name)
}

/// Is `at` within `age_max` of `now`, before or after?
pub(super) fn check_age(
    at: Timestamp,
    now: Timestamp,
    age_max: Duration,
) -> Result<(), AuthenticationError> {
    if now.since(at) > age_max {
        return Err(AuthenticationError::TooOld(now.since(at).as_secs()));
    }
    if at.since(now) > age_max {
        return Err(AuthenticationError::TooNew(at.since(now).as_secs()));
    }
    Ok(())
}

/// A number of decimal digits and nothing else: no sign, no space, no fraction.
pub(super) fn parse_digits(text: &str, name: &'static str) -> Result<u64, AuthenticationError> {
    const DIGITS_MAX: usize = 16;
    let fits = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = if fits { text.parse().ok() } else { None };
    number.ok_or(AuthenticationError::Malformed(name))
}

/// Standard base64 with or without its padding. `None` if it is none.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let padded = BASE64.decode(text.as_bytes());
    padded
        .or_else(|_| BASE64_NOPAD.decode(text.as_bytes()))
        .ok()
}

fn verify_signature(
    keys: &[PublicKey],
    algorithm: &'static dyn signature::VerificationAlgorithm,
    message: &[u8],
    given: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    let given = decode_base64(given).ok_or(AuthenticationError::Malformed(name))?;
    let fits = keys.iter().any(|key| {
        let key = signature::UnparsedPublicKey::new(algorithm, &key.bits);
        key.verify(message, &given).is_ok()
    });
    proof_if(Choice::from(u8::from(fits)))
}

/// Compares digests, so that not even the length of a secret is told by the time it takes.
fn is_one_of(given: &[u8], secrets: &[WebhookSecret]) -> Choice {
    let hashed = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let given = hashed(given);
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    known.fold(Choice::from(0), |fits, WebhookSecret(secret)| {
        fits | hashed(secret).as_ref().ct_eq(given.as_ref())
    })
}

fn proof_if(fits: Choice) -> Result<Proof, AuthenticationError> {
    if bool::from(fits) {
        Ok(Proof(()))
    } else {
        Err(AuthenticationError::NoMatch)
    }
}

/// Why a request is not believed. None of it tells a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// A field that must be there once is there again.
    #[error("{0}: there twice")]
    Duplicate(&'static str),
    /// Its time is so many seconds ahead of ours.
    #[error("timestamp {0} s ahead")]
    TooNew(u64),
    /// A field is not of the form it must have.
    #[error("{0}: not of its form")]
    Malformed(&'static str),
    /// A field that must be there is not.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// There is no name and password.
    #[error("no name and password")]
    NoAccount,
    /// It was made so many seconds ago.
    #[error("timestamp {0} s old")]
    TooOld(u64),
    /// The same single-use word came with another mail before.
    #[error("token used before for another mail")]
    NonceReused,
    /// The generic door counts milliseconds, and this looks like seconds.
    #[error("timestamp looks like seconds, not milliseconds")]
    Seconds,
    /// The request comes from none of the provider's networks.
    #[error("not from the provider's networks")]
    ForeignNetwork,
    /// What signed it cannot be had now.
    #[error("certificate cannot be had")]
    NoCertificate,
    /// Somebody else's queue, topic or list sent it.
    #[error("{0}: not one of ours")]
    NotOurs(&'static str),
    /// No secret of ours fits.
    #[error("no secret fits")]
    NoMatch,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(given: &str, secrets: &[&str]) -> Result<(), AuthenticationError> {
        let secrets: Vec<WebhookSecret> = secrets.iter().map(|s| WebhookSecret::new(*s)).collect();
        let parts = [b"a".as_slice(), b".", b"b"];
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: "x",
            signature: given,
            parts: &parts,
        };
        mac.verify(&secrets).map(drop)
    }

    #[test]
    fn an_hmac_fits_any_of_the_secrets_whole() {
        let right = "a4bb0fa1d1b4c4a7b6ab6ff6cd7b9bf4b0e3f9a5b6e9d2b9a0f4e5d6c7b8a990";
        assert_eq!(mac(right, &["k"]), Err(AuthenticationError::NoMatch));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"new");
        let right = data_encoding::HEXLOWER.encode(hmac::sign(&key, b"a.b").as_ref());
        assert_eq!(mac(&right, &["old", "new"]), Ok(()));
        assert_eq!(mac(&right.to_uppercase(), &["new", "old"]), Ok(()));
        assert_eq!(
            mac(&right[..62], &["new"]),
            Err(AuthenticationError::NoMatch)
        );
        assert_eq!(
            mac(&right[..63], &["new"]),
            Err(AuthenticationError::Malformed("x"))
        );
        assert_eq!(mac("", &["new"]), Err(AuthenticationError::NoMatch));
        assert_eq!(mac(&right, &[]), Err(AuthenticationError::NoMatch));
    }

    #[test]
    fn an_empty_secret_is_no_secret() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
        let made = data_encoding::HEXLOWER.encode(hmac::sign(&key, b"a.b").as_ref());
        assert_eq!(mac(&made, &[""]), Err(AuthenticationError::NoMatch));
    }

    #[test]
    fn accounts_may_have_a_colon_in_the_password() {
        let accounts = [BasicAccount::new("u", "a:b")];
        let told = |word: &str| {
            let value = format!("BASIC {}", BASE64.encode(word.as_bytes()));
            basic_auth(
                &Headers::new([("authorization", value.as_bytes())]),
                &accounts,
            )
            .map(drop)
        };
        assert_eq!(told("u:a:b"), Ok(()));
        assert_eq!(told("u:a"), Err(AuthenticationError::NoMatch));
        assert_eq!(
            told(""),
            Err(AuthenticationError::Malformed("authorization"))
        );
        let none = basic_auth(&Headers::default(), &accounts).map(drop);
        assert_eq!(none, Err(AuthenticationError::NoAccount));
        let bearer = Headers::new([("authorization", b"Bearer dTphOmI=".as_slice())]);
        assert_eq!(
            basic_auth(&bearer, &accounts).map(drop),
            Err(AuthenticationError::NoAccount)
        );
    }

    #[test]
    fn time_is_bounded_both_ways_to_the_millisecond() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let max = Duration::from_millis(300_000);
        let at = |millis: i64| {
            let at = Timestamp::from_millis(now.as_millis().saturating_add_signed(millis));
            check_age(at, now, max)
        };
        assert_eq!(at(-300_000), Ok(()));
        assert_eq!(at(300_000), Ok(()));
        assert_eq!(at(-300_001), Err(AuthenticationError::TooOld(300)));
        assert_eq!(at(300_001), Err(AuthenticationError::TooNew(300)));
        assert!(check_age(Timestamp::from_millis(u64::MAX), now, max).is_err());
    }

    #[test]
    fn numbers_have_digits_only() {
        assert_eq!(parse_digits("0017", "t"), Ok(17));
        for text in [
            "",
            "+1",
            "-1",
            "1.0",
            " 1",
            "NaN",
            "1e9",
            "١",
            "12345678901234567",
        ] {
            assert_eq!(
                parse_digits(text, "t"),
                Err(AuthenticationError::Malformed("t")),
                "{text}"
            );
        }
    }
}
