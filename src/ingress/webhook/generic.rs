//! Owns our own scheme: `X-Webhook-Signature`, the HMAC-SHA256 of `{timestamp}.{body}` in hex, and
//! `X-Webhook-Timestamp` in Unix milliseconds.
//!
//! Does not know what sends it.

use std::time::Duration;

use super::Adapter;
use super::incoming::{Decoded, Malformed};
use super::law::Law;
use super::payload;
use super::proof::{Form, Hash, Mac, Secret, Unproven, digits, fresh};
use super::request::{Authentic, Request};
use super::room;
use crate::clock::Timestamp;

const SIGNATURE: &str = "x-webhook-signature";
const TIMESTAMP: &str = "x-webhook-timestamp";

/// The generic door.
#[derive(Clone, Debug)]
pub struct Generic {
    /// The keys of the HMAC; any of them will do.
    pub secrets: Vec<Secret>,
    /// How old, or how far ahead, a request may be.
    pub age_max: Duration,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Generic {
    /// The contract's own five minutes.
    pub const AGE_MAX: Duration = Duration::from_millis(300_000);

    /// The door with these secrets and the contract's bounds.
    pub const fn new(secrets: Vec<Secret>) -> Self {
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

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::in_base64(mail_bytes_max));
    }

    fn law(&self) -> Law {
        Law::RETRIES_ALL
    }

    fn is_marked(&self, request: &Request) -> bool {
        request.headers().has(SIGNATURE)
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        /// In seconds this is the year 5138, in milliseconds March 1973.
        const SECONDS_MAX: u64 = 100_000_000_000;
        let timestamp = request.headers().needed(TIMESTAMP)?;
        let given = request.headers().needed(SIGNATURE)?;
        let mac = Mac {
            hash: Hash::Sha256,
            form: Form::Hex,
            name: SIGNATURE,
            given,
            // The text as it came: written anew it might be another.
            parts: &[timestamp.as_bytes(), b".", request.body()],
        };
        let proof = mac.verify(&self.secrets);
        let at = digits(timestamp, TIMESTAMP)?;
        if at < SECONDS_MAX && now.as_millis() > SECONDS_MAX {
            return Err(Unproven::Seconds);
        }
        fresh(Timestamp::from_millis(at), now, self.age_max)?;
        Ok(request.proven(proof?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let made_at = request.headers().one(TIMESTAMP).ok().flatten();
        let mail = payload::decode(request.body(), self.name(), made_at.unwrap_or_default())?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
