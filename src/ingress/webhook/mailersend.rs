//! Owns MailerSend's inbound routes: JSON with the raw mail, and an HMAC of the body.
//!
//! Does not make up for its law: it waits three seconds and never comes again.

use super::Adapter;
use super::incoming::{Decoded, Incoming, Malformed, Recipients, Results, reverse_path, short};
use super::json::Json;
use super::law::Law;
use super::proof::{Form, Hash, Mac, Secret, Unproven};
use super::request::{Authentic, Request};
use super::room;
use crate::clock::Timestamp;

const SIGNATURE: &str = "signature";

/// MailerSend's door.
#[derive(Clone, Debug)]
pub struct MailerSend {
    /// The routes' secrets.
    pub secrets: Vec<Secret>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl MailerSend {
    /// The door with its usual bound.
    pub const fn new(secrets: Vec<Secret>) -> Self {
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

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::twice(mail_bytes_max));
    }

    fn law(&self) -> Law {
        Law::RETRIES_ALL
    }

    fn is_marked(&self, request: &Request) -> bool {
        let mark = b"\"inbound.message\"";
        request.headers().has(SIGNATURE) && memchr::memmem::find(request.body(), mark).is_some()
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        let mac = Mac {
            hash: Hash::Sha256,
            form: Form::Hex,
            name: SIGNATURE,
            given: request.headers().needed(SIGNATURE)?,
            parts: &[request.body()],
        };
        Ok(request.proven(mac.verify(&self.secrets)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        if root.text("type")? != Some("inbound.message") {
            return Ok(Decoded::Nothing("no inbound mail"));
        }
        let missing = |name: &str| Malformed::field(name, "missing");
        let mail = root.object("data")?.ok_or_else(|| missing("data"))?;
        let recipients = mail
            .object("recipients")?
            .ok_or_else(|| missing("recipients"))?;
        let mut to = Vec::new();
        for person in recipients.needed("rcptTo")?.list("rcptTo")? {
            to.push(person.object("rcptTo")?.needed_text("email")?.to_owned());
        }
        let sender = mail
            .object("sender")?
            .map(|sender| sender.text("email"))
            .transpose()?;
        let mut results = Results::by(self.name());
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
        Ok(Decoded::Mails(vec![Incoming {
            id: short(mail.text("id")?.unwrap_or_default()),
            sender: sender.flatten().and_then(reverse_path),
            recipients: Recipients::Envelope(to),
            bytes: mail.needed_text("raw")?.to_owned().into(),
            told: results.told(),
        }]))
    }
}
