//! Owns HMAC signatures (RFC 2104) and the Standard Webhooks scheme made of them: signing, and
//! verifying in constant time.
//!
//! Does not know the purpose of a signature, its age limit, or how a request carries it.

use std::fmt;

use data_encoding::BASE64;
use ring::hmac;
use subtle::{Choice, ConstantTimeEq as _};

use crate::base64;

/// The prefix of a Standard Webhooks secret.
pub const STANDARD_PREFIX: &str = "whsec_";
/// The prefix of a Standard Webhooks signature made with HMAC-SHA256.
const VERSION_PREFIX: &str = "v1,";

/// A key of HMAC-SHA256, or of HMAC-SHA1 for providers that offer no other. `Debug` prints no key.
#[derive(Clone)]
pub struct HmacKey(hmac::Key);

impl HmacKey {
    /// A key of HMAC-SHA256, of any length.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A key of HMAC-SHA1, of any length.
    pub fn sha1(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key))
    }

    /// The key that a Standard Webhooks secret encodes: base64, with or without `whsec_` before it.
    /// `None` if it is not base64, or encodes nothing.
    pub fn from_standard_secret(secret: &str) -> Option<Self> {
        standard_key(secret).map(|key| Self::new(&key))
    }

    /// The signature of the concatenated `parts`: 32 octets, or 20 for HMAC-SHA1.
    pub fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }

    /// True if `signature` is the whole signature of `parts`.
    pub fn verify(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.matches(parts, signature).into()
    }

    fn matches(&self, parts: &[&[u8]], signature: &[u8]) -> Choice {
        self.sign(parts).as_ref().ct_eq(signature)
    }

    /// The `webhook-signature` of a message by the Standard Webhooks scheme.
    pub fn sign_standard(&self, message: StandardMessage<'_>) -> String {
        let signature = self.sign(&message.parts());
        format!("{VERSION_PREFIX}{}", BASE64.encode(signature.as_ref()))
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(…)")
    }
}

/// True if one of `keys` made `signature` of `parts`. All keys are tried, so that the time does not depend
/// on the matching one.
pub fn verify_any<'k>(
    keys: impl IntoIterator<Item = &'k HmacKey>,
    parts: &[&[u8]],
    signature: &[u8],
) -> bool {
    let keys = keys.into_iter();
    let found = keys.fold(Choice::from(0), |found, key| {
        found | key.matches(parts, signature)
    });
    found.into()
}

/// The octets that a Standard Webhooks secret encodes; `None` if it is not base64, or encodes nothing.
pub fn standard_key(secret: &str) -> Option<Vec<u8>> {
    let encoded = secret.strip_prefix(STANDARD_PREFIX).unwrap_or(secret);
    base64::decode(encoded).filter(|key| !key.is_empty())
}

/// The signature in one word of a `webhook-signature` field; `None` if its version is not `v1` or it is not
/// base64.
pub fn parse_standard(word: &str) -> Option<Vec<u8>> {
    base64::decode(word.strip_prefix(VERSION_PREFIX)?)
}

/// The message that the Standard Webhooks scheme signs: `{id}.{timestamp}.{body}`.
#[derive(Clone, Copy, Debug)]
pub struct StandardMessage<'m> {
    /// The id of the message (`webhook-id`).
    pub id: &'m str,
    /// The time of the attempt as it is written (`webhook-timestamp`): Unix seconds.
    pub timestamp: &'m str,
    /// The body, octet for octet.
    pub body: &'m [u8],
}

impl<'m> StandardMessage<'m> {
    /// The signed parts, in order.
    pub const fn parts(self) -> [&'m [u8]; 5] {
        let (id, timestamp) = (self.id.as_bytes(), self.timestamp.as_bytes());
        [id, b".", timestamp, b".", self.body]
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn a_signature_is_that_of_rfc_4231() {
        let key = HmacKey::new(b"Jefe");
        let signature = key.sign(&[b"what do ya want ".as_slice(), b"for nothing?"]);
        assert_eq!(
            HEXLOWER.encode(signature.as_ref()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(!format!("{key:?}").contains("Jefe"));
    }

    #[test]
    fn any_key_verifies_the_whole_signature_alone() {
        let keys = [HmacKey::new(b"old"), HmacKey::new(b"new")];
        let signature = keys[1].sign(&[b"ab"]);
        let signature = signature.as_ref();
        assert!(verify_any(&keys, &[b"a", b"b"], signature));
        assert!(!verify_any(&keys[..1], &[b"ab"], signature));
        assert!(!verify_any(&keys, &[b"ab"], &signature[..31]));
        assert!(!verify_any(&keys, &[b"ab"], b""));
        assert!(!verify_any(&[], &[b"ab"], b""));
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn the_standard_scheme_has_its_own_example() {
        let key = HmacKey::from_standard_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = StandardMessage {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp: "1614265330",
            body: br#"{"test": 2432232314}"#,
        };
        let signed = key.sign_standard(message);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let signature = parse_standard(&signed).unwrap();
        assert!(key.verify(&message.parts(), &signature));
        assert!(parse_standard("v1a,AAAA").is_none());
        assert!(HmacKey::from_standard_secret("whsec_").is_none());
    }
}
