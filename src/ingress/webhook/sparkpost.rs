//! Owns SparkPost's relay webhooks: a batch of raw mails in JSON, with a fixed token or an account.
//!
//! Does not know the batch's id: a mail that comes again is known by itself.

use super::Adapter;
use super::incoming::{
    Decoded, Incoming, Malformed, Recipients, Results, base64, reverse_path, short,
};
use super::json::Json;
use super::law::Law;
use super::proof::{Account, Secret, Unproven, basic, word};
use super::request::{Authentic, Request};
use super::room;
use crate::clock::Timestamp;

const TOKEN: &str = "x-messagesystems-webhook-token";
const BATCH: &str = "x-messagesystems-batch-id";

/// SparkPost's door. A request needs a token or an account.
#[derive(Clone, Debug)]
pub struct SparkPost {
    /// The tokens set at SparkPost.
    pub tokens: Vec<Secret>,
    /// Names and passwords.
    pub accounts: Vec<Account>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl SparkPost {
    /// The door with its usual bound.
    pub const fn new(tokens: Vec<Secret>, accounts: Vec<Account>) -> Self {
        Self {
            tokens,
            accounts,
            bytes_max: 60 << 20,
        }
    }
}

impl Adapter for SparkPost {
    fn name(&self) -> &'static str {
        "sparkpost"
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
        request.headers().has(TOKEN)
            || request.headers().has(BATCH)
            || memchr::memmem::find(request.body(), b"\"relay_message\"").is_some()
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        let headers = request.headers();
        let proof = if self.tokens.is_empty() || (!headers.has(TOKEN) && !self.accounts.is_empty())
        {
            basic(headers, &self.accounts)?
        } else {
            word(headers, TOKEN, &self.tokens)?
        };
        Ok(request.proven(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let json = Json::parse(request.body())?;
        let batch = request
            .headers()
            .one(BATCH)
            .ok()
            .flatten()
            .unwrap_or_default();
        let each = |event: &Json| {
            let msys = event.object("body")?.object("msys")?;
            let Some(mail) = msys
                .map(|msys| msys.object("relay_message"))
                .transpose()?
                .flatten()
            else {
                return Ok(None);
            };
            let content = mail.object("content")?;
            let content = content.ok_or_else(|| Malformed::new("content: missing"))?;
            let raw = content.needed_text("email_rfc822")?;
            let is_base64 = content.scalar("email_rfc822_is_base64")?.as_deref() == Some("true");
            Ok(Some(Incoming {
                id: short(batch),
                sender: mail.text("msg_from")?.and_then(reverse_path),
                recipients: Recipients::Envelope(vec![mail.needed_text("rcpt_to")?.to_owned()]),
                bytes: match is_base64 {
                    true => base64(raw, "email_rfc822")?.into(),
                    false => raw.to_owned().into(),
                },
                told: Results::by(self.name()).told(),
            }))
        };
        Decoded::batch(json.list("body")?.iter().map(each), "ping")
    }
}
