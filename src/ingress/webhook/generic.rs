//! Owns our own scheme: `X-Webhook-Signature`, the HMAC-SHA256 of `{timestamp}.{body}` in hex, and
//! `X-Webhook-Timestamp` in Unix milliseconds.
//!
//! Does not know what sends it.

use std::time::Duration;

use super::Adapter;
use super::body_budget;
use super::incoming::{Decoded, Malformed};
use super::outcome::StatusPolicy;
use super::payload;
use super::proof::{
    AuthenticationError, RequestMac, SignatureEncoding, SignatureHash, WebhookSecret, check_age,
    parse_digits,
};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const SIGNATURE: &str = "x-webhook-signature";
const TIMESTAMP: &str = "x-webhook-timestamp";

/// The generic door.
#[derive(Clone, Debug)]
pub struct Generic {
    /// The keys of the HMAC; any of them will do.
    pub secrets: Vec<WebhookSecret>,
    /// How old, or how far ahead, a request may be.
    pub age_max: Duration,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Generic {
    /// The contract's own five minutes.
    pub const AGE_MAX: Duration = Duration::from_millis(300_000);

    /// The door with these secrets and the contract's bounds.
    pub const fn new(secrets: Vec<WebhookSecret>) -> Self {
        Self {
            secrets,
            age_max: Self::AGE_MAX,
            bytes_max: 40 << 20,
        }
    }
}

impl Adapter for Generic {
    fn name(&self) -> &'static str {
        "generic"
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
        StatusPolicy::RETRIES_ALL
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(SIGNATURE)
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
        let given = request.headers().required(SIGNATURE)?;
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: SIGNATURE,
            signature: given,
            // The text as it came: written anew it might be another.
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
        let request = authentic.request();
        let made_at = request.headers().single(TIMESTAMP).ok().flatten();
        let mail = payload::decode(request.body(), self.name(), made_at.unwrap_or_default())?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
