//! Owns our own scheme: `X-Webhook-Signature`, the HMAC-SHA256 of `{timestamp}.{body}` in hex, and
//! `X-Webhook-Timestamp` in Unix milliseconds.
//!
//! Does not know the sender.

use std::time::Duration;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::Decoded;
use super::outcome::StatusPolicy;
use super::payload;
use super::proof::{RequestMac, SignatureEncoding, SignatureHash, check_age, parse_digits};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::secret::Secret;

const SIGNATURE: &str = "x-webhook-signature";
const TIMESTAMP: &str = "x-webhook-timestamp";
/// The name of the hash, which many senders write before a signature.
const HASH_PREFIX: &str = "sha256=";

/// Fixed facts about the scheme.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "generic",
    body_bytes: 40 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::RETRIES_ALL,
};

/// The adapter for our own scheme.
#[derive(Clone, Debug)]
pub struct Generic {
    /// The keys of the HMAC; each is accepted.
    pub secrets: Vec<Secret>,
    /// The maximum age of a request, and its maximum distance in the future.
    pub age_max: Duration,
}

impl Generic {
    /// The five minutes of the scheme.
    pub const AGE_MAX: Duration = Duration::from_millis(300_000);

    /// The adapter with these secrets and the bounds of the scheme.
    pub const fn new(secrets: Vec<Secret>) -> Self {
        Self {
            secrets,
            age_max: Self::AGE_MAX,
        }
    }
}

/// True if a request claims to be signed by our own scheme.
pub(super) fn is_signed(headers: &Headers) -> bool {
    headers.contains(SIGNATURE)
}

impl Adapter for Generic {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        is_signed(request.headers())
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        /// In seconds this is the year 5138, in milliseconds March 1973.
        const SECONDS_MAX: u64 = 100_000_000_000;
        let timestamp = request.headers().required(TIMESTAMP)?;
        let signature = request.headers().required(SIGNATURE)?;
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: SIGNATURE,
            signature: signature.strip_prefix(HASH_PREFIX).unwrap_or(signature),
            // The original text is used, because reformatting the number may change it.
            parts: &[timestamp.as_bytes(), b".", request.body()],
        };
        let proof = mac.verify(&self.secrets);
        let at = parse_digits(timestamp, TIMESTAMP)?;
        if at < SECONDS_MAX && now.as_millis() > SECONDS_MAX {
            return Err(AuthenticationError::Seconds);
        }
        check_age(Timestamp::from_millis(at), now, self.age_max)?;
        Ok(request.authenticated(proof?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let made_at = authentic.request().headers().single(TIMESTAMP);
        let made_at = made_at.ok().flatten().unwrap_or_default();
        let mail = payload::decode(authentic.json()?, self.name(), made_at)?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
