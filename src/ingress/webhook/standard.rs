//! Owns Standard Webhooks and Svix, their older form: `webhook-id`, `webhook-timestamp` in seconds,
//! `webhook-signature` with one or more `v1,` HMAC-SHA256 of `{id}.{timestamp}.{body}`.
//!
//! Does not verify `v1a` (ed25519): whoever sends it can send `v1`.

use std::time::Duration;

use super::Adapter;
use super::incoming::{Decoded, Malformed};
use super::law::Law;
use super::payload;
use super::proof::{Form, Hash, Mac, Proof, Secret, Unproven, base64, digits, fresh};
use super::request::{Authentic, Headers, Request};
use super::room;
use crate::clock::Timestamp;

/// Signatures in one header field. There is one for each secret of the sender.
const SIGNATURES_MAX: usize = 10;

/// Secrets of Standard Webhooks, and how old a request may be.
#[derive(Clone, Debug)]
pub struct Signing {
    /// The keys, decoded.
    pub secrets: Vec<Secret>,
    /// How old, or how far ahead. Each retry is signed anew: five minutes are enough.
    pub age_max: Duration,
}

impl Signing {
    /// Reads secrets of the form `whsec_` and base64.
    ///
    /// # Errors
    /// Says which of them, from 0, is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, usize> {
        let mut keys = Vec::new();
        for (at, secret) in secrets.into_iter().enumerate() {
            let key = base64(secret.strip_prefix("whsec_").unwrap_or(secret));
            let key = key.filter(|key| !key.is_empty()).ok_or(at)?;
            keys.push(Secret::new(key));
        }
        Ok(Self {
            secrets: keys,
            ..Self::default()
        })
    }

    /// Looks whether one of the signatures is ours.
    pub(super) fn verify(&self, request: &Request, now: Timestamp) -> Result<Proof, Unproven> {
        let names = Names::of(request.headers());
        let id = request.headers().needed(names.id)?;
        let timestamp = request.headers().needed(names.timestamp)?;
        let given = request.headers().needed(names.signature)?;
        let at = Timestamp::from_secs(digits(timestamp, names.timestamp)?);
        fresh(at, now, self.age_max)?;
        let mut proof = Err(Unproven::Wrong);
        for signature in given.split(' ').take(SIGNATURES_MAX) {
            let Some(signature) = signature.strip_prefix("v1,") else {
                continue;
            };
            let mac = Mac {
                hash: Hash::Sha256,
                form: Form::Base64,
                name: names.signature,
                given: signature,
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

impl Default for Signing {
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
pub(super) struct Names {
    pub(super) id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

impl Names {
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
            .any(|name| headers.has(name));
        if is_svix { Self::SVIX } else { Self::STANDARD }
    }

    pub(super) fn are_there(headers: &Headers) -> bool {
        headers.has(Self::of(headers).signature)
    }
}

/// A door for our own JSON, signed as Standard Webhooks wants.
#[derive(Clone, Debug)]
pub struct Standard {
    /// What a request is verified with.
    pub signing: Signing,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Standard {
    /// The door with its usual bound.
    pub const fn new(signing: Signing) -> Self {
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

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::in_base64(mail_bytes_max));
    }

    fn law(&self) -> Law {
        Law::RETRIES_FOR_LONG
    }

    fn is_marked(&self, request: &Request) -> bool {
        Names::are_there(request.headers())
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        Ok(request.proven(self.signing.verify(request, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let id = request.headers().one(Names::of(request.headers()).id);
        let id = id.ok().flatten().unwrap_or_default();
        let mail = payload::decode(request.body(), self.name(), id)?;
        Ok(Decoded::Mails(vec![mail]))
    }
}
