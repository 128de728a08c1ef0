//! Owns MailerSend's inbound routes: JSON with the raw mail, and an HMAC of the body.
//!
//! Does not compensate for MailerSend's missing retries: it waits three seconds and never retries.

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, loggable_id, reverse_path,
};
use super::outcome::StatusPolicy;
use super::proof::{RequestMac, SignatureEncoding, SignatureHash};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::secret::Secret;

const SIGNATURE: &str = "signature";

/// Fixed facts about MailerSend.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "mailersend",
    body_bytes: 110 << 20,
    carries: Carries::EncodedMailAndFiles,
    status_policy: StatusPolicy::RETRIES_ALL,
};

/// The adapter for MailerSend.
#[derive(Clone, Debug)]
pub struct MailerSend {
    /// The secrets of the routes.
    pub secrets: Vec<Secret>,
}

impl MailerSend {
    /// The adapter with these secrets.
    pub const fn new(secrets: Vec<Secret>) -> Self {
        Self { secrets }
    }
}

impl Adapter for MailerSend {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(SIGNATURE) && request.body_contains("\"inbound.message\"")
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: SIGNATURE,
            signature: request.headers().required(SIGNATURE)?,
            parts: &[request.body()],
        };
        Ok(request.authenticated(mac.verify(&self.secrets)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        if root.text("type")? != Some("inbound.message") {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        let mail = root.required_object("data")?;
        let recipients = mail.required_object("recipients")?;
        let mut to = Vec::new();
        for person in recipients.required("rcptTo")?.list("rcptTo")? {
            to.push(person.object("rcptTo")?.required_text("email")?.to_owned());
        }
        let sender = mail.object("sender")?;
        let sender = sender.map(|sender| sender.text("email")).transpose()?;
        let mut results = ProviderResults::of(self.name());
        if let Some(spf) = mail.object("spf_check")? {
            // The qualifiers of SPF (RFC 7208 section 4.6.2).
            let code = spf.text("code")?.map(|code| match code {
                "+" => "pass",
                "-" => "fail",
                "~" => "softfail",
                "?" => "neutral",
                other => other,
            });
            results.add("spf", None, code);
        }
        let dkim = mail.scalar("dkim_check")?;
        let dkim = dkim.map(|ok| if ok == "true" { "pass" } else { "fail" });
        results.add("dkim", None, dkim);
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(mail.text("id")?.unwrap_or_default()),
            sender: sender.flatten().and_then(reverse_path),
            recipients: Recipients::Envelope(to),
            bytes: mail.required_text("raw")?.to_owned().into(),
            results: results.into_verdict(),
        }]))
    }
}
