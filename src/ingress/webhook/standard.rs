//! Owns Standard Webhooks and Svix, their older form: `webhook-id`, `webhook-timestamp` in seconds,
//! `webhook-signature` with one or more `v1,` HMAC-SHA256 of `{id}.{timestamp}.{body}`.
//!
//! Does not verify `v1a` (ed25519), because every sender of it can send `v1`.

use std::time::Duration;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::Decoded;
use super::outcome::StatusPolicy;
use super::payload;
use super::proof::{Proof, check_age, parse_digits, verify_hmac};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::signature::{HmacKey, StandardMessage, parse_standard};

/// The number of signatures in one header field. There is one for each secret of the sender.
const SIGNATURES_MAX: usize = 10;

/// The keys of the Standard Webhooks scheme, and the accepted age of a request.
#[derive(Clone, Debug)]
pub struct StandardSigning {
    /// The keys; each is accepted.
    pub keys: Vec<HmacKey>,
    /// The maximum age of a request, and its maximum distance in the future. Each retry is signed anew, so
    /// five minutes are enough.
    pub age_max: Duration,
}

impl StandardSigning {
    /// Parses secrets in base64, with or without the prefix `whsec_`.
    ///
    /// # Errors
    /// The index of the first invalid secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, usize> {
        let secrets = secrets.into_iter().enumerate();
        let keys = secrets.map(|(at, secret)| HmacKey::from_standard_secret(secret).ok_or(at));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// Verifies that one of the signatures was made with one of the keys.
    pub(super) fn verify(
        &self,
        request: &WebhookRequest,
        now: Timestamp,
    ) -> Result<Proof, AuthenticationError> {
        let names = SignatureHeaders::of(request.headers());
        let id = request.headers().required(names.id)?;
        let timestamp = request.headers().required(names.timestamp)?;
        let signatures = request.headers().required(names.signature)?;
        let at = Timestamp::from_secs(parse_digits(timestamp, names.timestamp)?);
        check_age(at, now, self.age_max)?;
        let message = StandardMessage {
            id,
            timestamp,
            body: request.body(),
        };
        let mut proof = Err(AuthenticationError::NoMatch);
        for word in signatures.split(' ').take(SIGNATURES_MAX) {
            if let Some(signature) = parse_standard(word) {
                proof = proof.or_else(|_| verify_hmac(&self.keys, &message.parts(), &signature));
            }
        }
        proof
    }
}

impl Default for StandardSigning {
    /// No key, so that no request is authentic, and five minutes.
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            age_max: Duration::from_secs(300),
        }
    }
}

/// The names of the three header fields of the scheme.
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

    /// The names of Svix if a request has one of them, else those of Standard Webhooks. The two sets are
    /// never mixed.
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

/// Fixed facts about the scheme.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "standard",
    body_bytes: 40 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for our own JSON, signed by the Standard Webhooks scheme.
#[derive(Clone, Debug)]
pub struct Standard {
    /// The keys for verifying requests.
    pub signing: StandardSigning,
}

impl Standard {
    /// The adapter with these keys.
    pub const fn new(signing: StandardSigning) -> Self {
        Self { signing }
    }
}

impl Adapter for Standard {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
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
        let headers = authentic.request().headers();
        let id = headers.single(SignatureHeaders::of(headers).id);
        let id = id.ok().flatten().unwrap_or_default();
        let mail = payload::decode(authentic.json()?, self.name(), id)?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
