//! Owns Mandrill's inbound webhook: a form with a batch of events, signed with HMAC-SHA1 over the
//! URL it was set up with and the form.
//!
//! Does not make that URL from the request: it must be the very text Mandrill has.

use super::Adapter;
use super::form::Form;
use super::incoming::{Decoded, Incoming, Malformed, Recipients, Results, bare, short};
use super::json::{Json, Object};
use super::law::Law;
use super::proof::{self, Hash, Mac, Secret, Unproven};
use super::request::{Authentic, Request};
use super::room;
use crate::clock::Timestamp;

const SIGNATURE: &str = "x-mandrill-signature";
const EVENTS: &str = "mandrill_events";

/// Mandrill's door.
#[derive(Clone, Debug)]
pub struct Mandrill {
    /// The webhook's keys.
    pub keys: Vec<Secret>,
    /// The URL as it stands at Mandrill, with user and query if it has them.
    pub public_url: String,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Mandrill {
    /// The door with its usual bound.
    pub const fn new(keys: Vec<Secret>, public_url: String) -> Self {
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

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::in_base64(mail_bytes_max));
    }

    fn law(&self) -> Law {
        Law::RETRIES_FOR_LONG
    }

    fn is_marked(&self, request: &Request) -> bool {
        request.headers().has(SIGNATURE) || Form::parse(request).is_ok_and(|form| form.has(EVENTS))
    }

    /// Mandrill tries a URL with an empty batch before it gives out the key.
    fn is_ping(&self, request: &Request) -> bool {
        let form = Form::parse(request).ok();
        let events = form
            .as_ref()
            .and_then(|form| form.text(EVENTS).ok())
            .flatten();
        events.is_some_and(|events| events.trim() == "[]")
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        let given = request.headers().needed(SIGNATURE)?;
        let form = Form::parse(request).map_err(|_| Unproven::Malformed("form"))?;
        let mut fields: Vec<_> = form.fields().iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut parts = vec![self.public_url.as_bytes()];
        for field in fields {
            parts.extend([field.name.as_bytes(), &field.bytes]);
        }
        let mac = Mac {
            hash: Hash::Sha1,
            form: proof::Form::Base64,
            name: SIGNATURE,
            given,
            parts: &parts,
        };
        Ok(request.proven(mac.verify(&self.keys)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = Form::parse(authentic.request())?;
        let json = Json::parse(form.needed(EVENTS)?.as_bytes())?;
        let each = |event: &Json| {
            let event = event.object(EVENTS)?;
            if event.text("event")? != Some("inbound") {
                return Ok(None);
            }
            let msg = event.object("msg")?;
            let msg = msg.ok_or_else(|| Malformed::new("msg: missing"))?;
            mail(self.name(), msg).map(Some)
        };
        Decoded::batch(json.list(EVENTS)?.iter().map(each), "no inbound mail")
    }
}

fn mail(provider: &str, msg: Object<'_>) -> Result<Incoming, Malformed> {
    let mut results = Results::by(provider);
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
    Ok(Incoming {
        id: short(msg.text("_id")?.unwrap_or_default()),
        // There is no reverse-path; the author stands in for it, or a person's mail were a bounce.
        sender: msg.text("from_email")?.and_then(bare),
        recipients: Recipients::Envelope(vec![msg.needed_text("email")?.to_owned()]),
        bytes: msg.needed_text("raw_msg")?.to_owned().into(),
        told: results.told(),
    })
}
