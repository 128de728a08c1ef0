//! Owns MailerSend's inbound routes: JSON with the raw mail, and an HMAC of the body.
//!
//! Does not make up for its law: it waits three seconds and never comes again.

use super::Adapter;
use super::body_budget;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, loggable_id, reverse_path,
};
use super::json::Json;
use super::outcome::StatusPolicy;
use super::proof::{
    AuthenticationError, RequestMac, SignatureEncoding, SignatureHash, WebhookSecret,
};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const SIGNATURE: &str = "signature";

/// MailerSend's door.
#[derive(Clone, Debug)]
pub struct MailerSend {
    /// The routes' secrets.
    pub secrets: Vec<WebhookSecret>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl MailerSend {
    /// The door with its usual bound.
    pub const fn new(secrets: Vec<WebhookSecret>) -> Self {
        Self {
            secrets,
            bytes_max: 110 << 20,
        }
    }
}

impl Adapter for MailerSend {
    fn name(&self) -> &'static str {
        "mailersend"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_mail_and_files(mail_bytes_max));
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_ALL
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let mark = b"\"inbound.message\"";
        request.headers().contains(SIGNATURE)
            && memchr::memmem::find(request.body(), mark).is_some()
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
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        if root.text("type")? != Some("inbound.message") {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        let missing = |name: &str| Malformed::field(name, "missing");
        let mail = root.object("data")?.ok_or_else(|| missing("data"))?;
        let recipients = mail
            .object("recipients")?
            .ok_or_else(|| missing("recipients"))?;
        let mut to = Vec::new();
        for person in recipients.required("rcptTo")?.list("rcptTo")? {
            to.push(person.object("rcptTo")?.required_text("email")?.to_owned());
        }
        let sender = mail
            .object("sender")?
            .map(|sender| sender.text("email"))
            .transpose()?;
        let mut results = ProviderResults::of(self.name());
        if let Some(spf) = mail.object("spf_check")? {
            // SPF's own signs for its results (RFC 7208 section 4.6.2).
            results.add(
                "spf",
                None,
                spf.text("code")?.map(|code| match code {
                    "+" => "pass",
                    "-" => "fail",
                    "~" => "softfail",
                    "?" => "neutral",
                    other => other,
                }),
            );
        }
        let dkim = mail.scalar("dkim_check")?;
        results.add(
            "dkim",
            None,
            dkim.map(|ok| if ok == "true" { "pass" } else { "fail" }),
        );
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(mail.text("id")?.unwrap_or_default()),
            sender: sender.flatten().and_then(reverse_path),
            recipients: Recipients::Envelope(to),
            bytes: mail.required_text("raw")?.to_owned().into(),
            results: results.into_told(),
        }]))
    }
}
