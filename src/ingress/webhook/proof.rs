//! Owns the authentication of requests: every comparison with a secret is here.
//!
//! Does not know which provider uses which method.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::signature as public_key;

use super::error::AuthenticationError;
use super::headers::Headers;
use crate::base64;
use crate::clock::Timestamp;
use crate::network::Network;
use crate::secret::{self, Secret};
use crate::signature::{self, HmacKey};
use crate::tls::PublicKey;

const AUTHORIZATION: &str = "authorization";

/// A successful comparison with a secret. Only the functions of this module make one.
#[derive(Debug)]
pub struct Proof(());

/// A name and a password of HTTP Basic authentication (RFC 7617).
#[derive(Clone, Debug)]
pub struct BasicAccount(Secret);

impl BasicAccount {
    /// The account `name:password`. The name must not have a colon (RFC 7617 section 2).
    pub fn new(name: &str, password: &str) -> Self {
        Self(Secret::new(format!("{name}:{password}")))
    }
}

/// The hash functions of providers' signatures.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureHash {
    Sha1,
    Sha256,
}

/// The way a provider writes an HMAC as text.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureEncoding {
    Base64,
    Hex,
}

/// An HMAC over concatenated parts of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestMac<'a> {
    pub(super) hash: SignatureHash,
    pub(super) encoding: SignatureEncoding,
    /// The name of the field with the HMAC, for errors.
    pub(super) name: &'static str,
    /// The text of that field.
    pub(super) signature: &'a str,
    pub(super) parts: &'a [&'a [u8]],
}

impl RequestMac<'_> {
    /// Verifies that one of `secrets` made the HMAC. All are tried, so that the time does not depend on the
    /// matching one.
    pub(super) fn verify(&self, secrets: &[Secret]) -> Result<Proof, AuthenticationError> {
        let decoded = match self.encoding {
            SignatureEncoding::Hex => HEXLOWER_PERMISSIVE.decode(self.signature.as_bytes()).ok(),
            SignatureEncoding::Base64 => base64::decode(self.signature),
        };
        let signature = decoded.ok_or(AuthenticationError::Malformed(self.name))?;
        let secrets = secrets.iter().filter(|secret| !secret.is_empty());
        let secrets = secrets.map(|secret| secret.reveal().as_bytes());
        let keys: Vec<HmacKey> = match self.hash {
            SignatureHash::Sha1 => secrets.map(HmacKey::sha1).collect(),
            SignatureHash::Sha256 => secrets.map(HmacKey::new).collect(),
        };
        verify_hmac(&keys, self.parts, &signature)
    }
}

/// Verifies that one of `keys` made the HMAC `signature` of `parts`.
pub(super) fn verify_hmac(
    keys: &[HmacKey],
    parts: &[&[u8]],
    signature: &[u8],
) -> Result<Proof, AuthenticationError> {
    proof_if(signature::verify_any(keys, parts, signature))
}

/// Verifies that the value of header field `name` is one of `secrets`.
pub(super) fn shared_token(
    headers: &Headers,
    name: &'static str,
    secrets: &[Secret],
) -> Result<Proof, AuthenticationError> {
    let shown = headers.required(name)?;
    proof_if(secret::matches_any(secrets, shown.as_bytes()))
}

/// Verifies that the `Authorization` field has one of `accounts` (RFC 7617).
pub(super) fn basic_auth(
    headers: &Headers,
    accounts: &[BasicAccount],
) -> Result<Proof, AuthenticationError> {
    let malformed = AuthenticationError::Malformed(AUTHORIZATION);
    let value = headers.single(AUTHORIZATION)?;
    let value = value.ok_or(AuthenticationError::NoAccount)?;
    let (scheme, encoded) = value.split_once(' ').ok_or_else(|| malformed.clone())?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(AuthenticationError::NoAccount);
    }
    let pair = base64::decode(encoded.trim()).ok_or(malformed)?;
    let known = accounts.iter().map(|account| &account.0);
    proof_if(secret::matches_any(known, &pair))
}

/// Verifies that `peer` is in one of `networks`.
pub(super) fn from_networks(
    peer: Option<IpAddr>,
    networks: &[Network],
) -> Result<Proof, AuthenticationError> {
    let is_known = peer.is_some_and(|ip| networks.iter().any(|network| network.contains(ip)));
    match is_known {
        true => Ok(Proof(())),
        false => Err(AuthenticationError::ForeignNetwork),
    }
}

/// Verifies an ECDSA P-256 signature (ASN.1) of `message` by one of `keys`, each an uncompressed point.
/// `signature` is in base64, and `name` is the name of its field.
pub(super) fn ecdsa(
    keys: &[PublicKey],
    message: &[u8],
    signature: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    let algorithm = &public_key::ECDSA_P256_SHA256_ASN1;
    verify_signature(keys, algorithm, message, signature, name)
}

/// Verifies an RSA signature (PKCS#1 v1.5) of `message` by one of `keys`, like [`ecdsa`].
pub(super) fn rsa(
    keys: &[PublicKey],
    hash: SignatureHash,
    message: &[u8],
    signature: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    let algorithm = match hash {
        SignatureHash::Sha1 => &public_key::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        // Postal makes keys of 1024 bits.
        SignatureHash::Sha256 => &public_key::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    };
    verify_signature(keys, algorithm, message, signature, name)
}

fn verify_signature(
    keys: &[PublicKey],
    algorithm: &'static dyn public_key::VerificationAlgorithm,
    message: &[u8],
    signature: &str,
    name: &'static str,
) -> Result<Proof, AuthenticationError> {
    let signature = base64::decode(signature).ok_or(AuthenticationError::Malformed(name))?;
    proof_if(keys.iter().any(|key| {
        let key = public_key::UnparsedPublicKey::new(algorithm, key.bits());
        key.verify(message, &signature).is_ok()
    }))
}

/// Checks that `at` is within `age_max` of `now`, before or after.
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

/// Parses a number of decimal digits only: no sign, no space, no fraction.
pub(super) fn parse_digits(text: &str, name: &'static str) -> Result<u64, AuthenticationError> {
    const DIGITS_MAX: usize = 16;
    let fits = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = if fits { text.parse().ok() } else { None };
    number.ok_or(AuthenticationError::Malformed(name))
}

const fn proof_if(matches: bool) -> Result<Proof, AuthenticationError> {
    match matches {
        true => Ok(Proof(())),
        false => Err(AuthenticationError::NoMatch),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;

    fn mac(signature: &str, secrets: &[&str]) -> Result<(), AuthenticationError> {
        let secrets: Vec<Secret> = secrets.iter().map(|s| Secret::new(*s)).collect();
        let parts = [b"a".as_slice(), b".", b"b"];
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: "x",
            signature,
            parts: &parts,
        };
        mac.verify(&secrets).map(drop)
    }

    fn made(key: &str) -> String {
        HEXLOWER.encode(HmacKey::new(key.as_bytes()).sign(&[b"a.b"]).as_ref())
    }

    #[test]
    fn an_hmac_matches_any_secret_as_a_whole() {
        let wrong = Err(AuthenticationError::NoMatch);
        let other = "a4bb0fa1d1b4c4a7b6ab6ff6cd7b9bf4b0e3f9a5b6e9d2b9a0f4e5d6c7b8a990";
        assert_eq!(mac(other, &["k"]), wrong);
        let right = made("new");
        assert_eq!(mac(&right, &["old", "new"]), Ok(()));
        assert_eq!(mac(&right.to_uppercase(), &["new", "old"]), Ok(()));
        assert_eq!(mac(&right[..62], &["new"]), wrong);
        let odd = AuthenticationError::Malformed("x");
        assert_eq!(mac(&right[..63], &["new"]), Err(odd));
        assert_eq!(mac("", &["new"]), wrong);
        assert_eq!(mac(&right, &[]), wrong);
    }

    #[test]
    fn an_empty_secret_is_no_secret() {
        assert_eq!(mac(&made(""), &[""]), Err(AuthenticationError::NoMatch));
    }

    #[test]
    fn accounts_may_have_a_colon_in_the_password() {
        let accounts = [BasicAccount::new("u", "a:b")];
        let told = |word: &str| {
            let value = format!("BASIC {}", BASE64.encode(word.as_bytes()));
            let headers = Headers::new([(AUTHORIZATION, value.as_bytes())]);
            basic_auth(&headers, &accounts).map(drop)
        };
        assert_eq!(told("u:a:b"), Ok(()));
        assert_eq!(told("u:a"), Err(AuthenticationError::NoMatch));
        let malformed = AuthenticationError::Malformed(AUTHORIZATION);
        assert_eq!(told(""), Err(malformed));
        let bearer = Headers::new([(AUTHORIZATION, b"Bearer dTphOmI=".as_slice())]);
        for headers in [Headers::default(), bearer] {
            let refused = basic_auth(&headers, &accounts).map(drop);
            assert_eq!(refused, Err(AuthenticationError::NoAccount));
        }
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
            let refused = Err(AuthenticationError::Malformed("t"));
            assert_eq!(parse_digits(text, "t"), refused, "{text}");
        }
    }
}
