//! Owns Mandrill's inbound webhook: a form with a batch of events, signed with HMAC-SHA1 over the
//! URL it was set up with and the form.
//!
//! Does not make that URL from the request: it must be the very text Mandrill has.

use super::Adapter;
use super::body_budget;
use super::form::Form;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, bare_address, loggable_id,
};
use super::json::{Json, JsonObject};
use super::outcome::StatusPolicy;
use super::proof::{self, AuthenticationError, RequestMac, SignatureHash, WebhookSecret};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const SIGNATURE: &str = "x-mandrill-signature";
const EVENTS: &str = "mandrill_events";

/// Mandrill's door.
#[derive(Clone, Debug)]
pub struct Mandrill {
    /// The webhook's keys.
    pub keys: Vec<WebhookSecret>,
    /// The URL as it stands at Mandrill, with user and query if it has them.
    pub public_url: String,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Mandrill {
    /// The door with its usual bound.
    pub const fn new(keys: Vec<WebhookSecret>, public_url: String) -> Self {
        Self {
            keys,
            public_url,
            bytes_max: 80 << 20,
        }
    }
}

impl Adapter for Mandrill {
    fn name(&self) -> &'static str {
        "mandrill"
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
        request.headers().contains(SIGNATURE)
            || Form::parse(request).is_ok_and(|form| form.contains(EVENTS))
    }

    /// Mandrill tries a URL with an empty batch before it gives out the key.
    fn is_ping(&self, request: &WebhookRequest) -> bool {
        let form = Form::parse(request).ok();
        let events = form
            .as_ref()
            .and_then(|form| form.text(EVENTS).ok())
            .flatten();
        events.is_some_and(|events| events.trim() == "[]")
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let given = request.headers().required(SIGNATURE)?;
        let form = Form::parse(request).map_err(|_| AuthenticationError::Malformed("form"))?;
        let mut fields: Vec<_> = form.fields().iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut parts = vec![self.public_url.as_bytes()];
        for field in fields {
            parts.extend([field.name.as_bytes(), &field.bytes]);
        }
        let mac = RequestMac {
            hash: SignatureHash::Sha1,
            encoding: proof::SignatureEncoding::Base64,
            name: SIGNATURE,
            signature: given,
            parts: &parts,
        };
        Ok(request.authenticated(mac.verify(&self.keys)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = Form::parse(authentic.request())?;
        let json = Json::parse(form.required(EVENTS)?.as_bytes())?;
        let each = |event: &Json| {
            let event = event.object(EVENTS)?;
            if event.text("event")? != Some("inbound") {
                return Ok(None);
            }
            let msg = event.object("msg")?;
            let msg = msg.ok_or_else(|| Malformed::new("msg: missing"))?;
            parse_mail(self.name(), msg).map(Some)
        };
        Decoded::batch(json.list(EVENTS)?.iter().map(each), "no inbound mail")
    }
}

fn parse_mail(provider: &str, msg: JsonObject<'_>) -> Result<IncomingMail, Malformed> {
    let mut results = ProviderResults::of(provider);
    if let Some(spf) = msg.object("spf")? {
        results.add("spf", None, spf.text("result")?);
    }
    if let Some(dkim) = msg.object("dkim")? {
        let valid = dkim.scalar("valid")?;
        results.add(
            "dkim",
            None,
            valid.map(|v| if v == "true" { "pass" } else { "fail" }),
        );
    }
    if let Some(spam) = msg.object("spam_report")? {
        results.add("spam_score", None, spam.scalar("score")?.as_deref());
    }
    Ok(IncomingMail {
        id: loggable_id(msg.text("_id")?.unwrap_or_default()),
        // There is no reverse-path; the author stands in for it, or a person's mail were a bounce.
        sender: msg.text("from_email")?.and_then(bare_address),
        recipients: Recipients::Envelope(vec![msg.required_text("email")?.to_owned()]),
        bytes: msg.required_text("raw_msg")?.to_owned().into(),
        results: results.into_told(),
    })
}
