//! Owns Mandrill's inbound webhook: a form with a batch of events, signed with HMAC-SHA1 over the
//! configured URL and the form.
//!
//! Does not derive that URL from the request: it must be exactly the text that Mandrill has.

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, bare_address, loggable_id,
};
use super::json::{Json, JsonObject};
use super::outcome::StatusPolicy;
use super::proof::{RequestMac, SignatureEncoding, SignatureHash};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::secret::Secret;

const SIGNATURE: &str = "x-mandrill-signature";
const EVENTS: &str = "mandrill_events";

/// Fixed facts about Mandrill.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "mandrill",
    body_bytes: 80 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for Mandrill.
#[derive(Clone, Debug)]
pub struct Mandrill {
    /// The keys of the webhook.
    pub keys: Vec<Secret>,
    /// The URL of the webhook as Mandrill has it, with user and query if present.
    pub public_url: String,
}

impl Mandrill {
    /// The adapter with these keys.
    pub const fn new(keys: Vec<Secret>, public_url: String) -> Self {
        Self { keys, public_url }
    }
}

impl Adapter for Mandrill {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has_events = || request.form().is_ok_and(|form| form.contains(EVENTS));
        request.headers().contains(SIGNATURE) || has_events()
    }

    /// Mandrill tests a URL with an empty batch before it shows the key.
    fn is_ping(&self, request: &WebhookRequest) -> bool {
        let events = request.form().and_then(|form| form.text(EVENTS));
        events.is_ok_and(|events| events.is_some_and(|events| events.trim() == "[]"))
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let signature = request.headers().required(SIGNATURE)?;
        let form = request.form();
        let form = form.map_err(|_| AuthenticationError::Malformed("form"))?;
        let mut parts = vec![self.public_url.as_bytes()];
        for field in form.sorted_fields() {
            parts.extend([field.name.as_bytes(), &field.bytes]);
        }
        let mac = RequestMac {
            hash: SignatureHash::Sha1,
            encoding: SignatureEncoding::Base64,
            name: SIGNATURE,
            signature,
            parts: &parts,
        };
        Ok(request.authenticated(mac.verify(&self.keys)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let events = Json::parse(authentic.form()?.required(EVENTS)?.as_bytes())?;
        let each = |event: &Json| {
            let event = event.object(EVENTS)?;
            if event.text("event")? != Some("inbound") {
                return Ok(None);
            }
            parse_mail(self.name(), event.required_object("msg")?).map(Some)
        };
        Decoded::batch(events.list(EVENTS)?, each, "no inbound mail")
    }
}

fn parse_mail(provider: &str, msg: JsonObject<'_>) -> Result<IncomingMail, Malformed> {
    let mut results = ProviderResults::of(provider);
    if let Some(spf) = msg.object("spf")? {
        results.add("spf", None, spf.text("result")?);
    }
    if let Some(dkim) = msg.object("dkim")? {
        let valid = dkim.scalar("valid")?;
        let valid = valid.map(|valid| if valid == "true" { "pass" } else { "fail" });
        results.add("dkim", None, valid);
    }
    if let Some(spam) = msg.object("spam_report")? {
        results.add("spam_score", None, spam.scalar("score")?.as_deref());
    }
    Ok(IncomingMail {
        id: loggable_id(msg.text("_id")?.unwrap_or_default()),
        // Mandrill reports no reverse-path. Without the author in its place the mail would count as a
        // bounce.
        sender: msg.text("from_email")?.and_then(bare_address),
        recipients: Recipients::Envelope(vec![msg.required_text("email")?.to_owned()]),
        bytes: msg.required_text("raw_msg")?.to_owned().into(),
        results: results.into_verdict(),
    })
}
