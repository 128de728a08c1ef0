//! Owns Standard Webhooks and Svix, their older form: `webhook-id`, `webhook-timestamp` in seconds,
//! `webhook-signature` with one or more `v1,` HMAC-SHA256 of `{id}.{timestamp}.{body}`.
//!
//! Does not verify `v1a` (ed25519): whoever sends it can send `v1`.

use std::time::Duration;

use super::Adapter;
use super::body_budget;
use super::incoming::{Decoded, Malformed};
use super::outcome::StatusPolicy;
use super::payload;
use super::proof::{
    AuthenticationError, Proof, RequestMac, SignatureEncoding, SignatureHash, WebhookSecret,
    check_age, decode_base64, parse_digits,
};
use super::request::{Authentic, Headers, WebhookRequest};
use crate::clock::Timestamp;

/// Signatures in one header field. There is one for each secret of the sender.
const SIGNATURES_MAX: usize = 10;

/// Secrets of Standard Webhooks, and how old a request may be.
#[derive(Clone, Debug)]
pub struct StandardSigning {
    /// The keys, decoded.
    pub secrets: Vec<WebhookSecret>,
    /// How old, or how far ahead. Each retry is signed anew: five minutes are enough.
    pub age_max: Duration,
}

impl StandardSigning {
    /// Reads secrets of the form `whsec_` and base64.
    ///
    /// # Errors
    /// Says which of them, from 0, is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, usize> {
        let mut keys = Vec::new();
        for (at, secret) in secrets.into_iter().enumerate() {
            let key = decode_base64(secret.strip_prefix("whsec_").unwrap_or(secret));
            let key = key.filter(|key| !key.is_empty()).ok_or(at)?;
            keys.push(WebhookSecret::new(key));
        }
        Ok(Self {
            secrets: keys,
            ..Self::default()
        })
    }

    /// Looks whether one of the signatures is ours.
    pub(super) fn verify(
        &self,
        request: &WebhookRequest,
        now: Timestamp,
    ) -> Result<Proof, AuthenticationError> {
        let names = SignatureHeaders::of(request.headers());
        let id = request.headers().required(names.id)?;
        let timestamp = request.headers().required(names.timestamp)?;
        let given = request.headers().required(names.signature)?;
        let at = Timestamp::from_secs(parse_digits(timestamp, names.timestamp)?);
        check_age(at, now, self.age_max)?;
        let mut proof = Err(AuthenticationError::NoMatch);
        for signature in given.split(' ').take(SIGNATURES_MAX) {
            let Some(signature) = signature.strip_prefix("v1,") else {
                continue;
            };
            let mac = RequestMac {
                hash: SignatureHash::Sha256,
                encoding: SignatureEncoding::Base64,
                name: names.signature,
                signature,
                parts: &[
                    id.as_bytes(),
                    b".",
                    timestamp.as_bytes(),
                    b".",
                    request.body(),
                ],
            };
            proof = proof.or_else(|_| mac.verify(&self.secrets));
        }
        proof
    }
}

impl Default for StandardSigning {
    /// No secret, which believes nobody, and five minutes.
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            age_max: Duration::from_secs(300),
        }
    }
}

/// The names of the three header fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignatureHeaders {
    pub(super) id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

impl SignatureHeaders {
    const STANDARD: Self = Self {
        id: "webhook-id",
        timestamp: "webhook-timestamp",
        signature: "webhook-signature",
    };
    const SVIX: Self = Self {
        id: "svix-id",
        timestamp: "svix-timestamp",
        signature: "svix-signature",
    };

    /// Svix's names where there is one of them. The two sets are never mixed.
    pub(super) fn of(headers: &Headers) -> Self {
        let is_svix = [Self::SVIX.id, Self::SVIX.timestamp, Self::SVIX.signature]
            .iter()
            .any(|name| headers.contains(name));
        if is_svix { Self::SVIX } else { Self::STANDARD }
    }

    pub(super) fn are_present(headers: &Headers) -> bool {
        headers.contains(Self::of(headers).signature)
    }
}

/// A door for our own JSON, signed as Standard Webhooks wants.
#[derive(Clone, Debug)]
pub struct Standard {
    /// What a request is verified with.
    pub signing: StandardSigning,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Standard {
    /// The door with its usual bound.
    pub const fn new(signing: StandardSigning) -> Self {
        Self {
            signing,
            bytes_max: 40 << 20,
        }
    }
}

impl Adapter for Standard {
    fn name(&self) -> &'static str {
        "standard"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_base64_mail(mail_bytes_max));
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_FOR_LONG
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        SignatureHeaders::are_present(request.headers())
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        Ok(request.authenticated(self.signing.verify(request, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let id = request
            .headers()
            .single(SignatureHeaders::of(request.headers()).id);
        let id = id.ok().flatten().unwrap_or_default();
        let mail = payload::decode(request.body(), self.name(), id)?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
