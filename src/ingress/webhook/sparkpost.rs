//! Owns SparkPost's relay webhooks: a batch of raw mails in JSON, with a fixed token or an account.
//!
//! Does not know the batch's id: a mail that comes again is known by itself.

use super::Adapter;
use super::body_budget;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, decode_base64, loggable_id,
    reverse_path,
};
use super::json::Json;
use super::outcome::StatusPolicy;
use super::proof::{AuthenticationError, BasicAccount, WebhookSecret, basic_auth, shared_token};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const TOKEN: &str = "x-messagesystems-webhook-token";
const BATCH: &str = "x-messagesystems-batch-id";

/// SparkPost's door. A request needs a token or an account.
#[derive(Clone, Debug)]
pub struct SparkPost {
    /// The tokens set at SparkPost.
    pub tokens: Vec<WebhookSecret>,
    /// Names and passwords.
    pub accounts: Vec<BasicAccount>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl SparkPost {
    /// The door with its usual bound.
    pub const fn new(tokens: Vec<WebhookSecret>, accounts: Vec<BasicAccount>) -> Self {
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

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_base64_mail(mail_bytes_max));
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_FOR_LONG
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(TOKEN)
            || request.headers().contains(BATCH)
            || memchr::memmem::find(request.body(), b"\"relay_message\"").is_some()
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let headers = request.headers();
        let proof =
            if self.tokens.is_empty() || (!headers.contains(TOKEN) && !self.accounts.is_empty()) {
                basic_auth(headers, &self.accounts)?
            } else {
                shared_token(headers, TOKEN, &self.tokens)?
            };
        Ok(request.authenticated(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let json = Json::parse(request.body())?;
        let batch = request
            .headers()
            .single(BATCH)
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
            let raw = content.required_text("email_rfc822")?;
            let is_base64 = content.scalar("email_rfc822_is_base64")?.as_deref() == Some("true");
            Ok(Some(IncomingMail {
                id: loggable_id(batch),
                sender: mail.text("msg_from")?.and_then(reverse_path),
                recipients: Recipients::Envelope(vec![mail.required_text("rcpt_to")?.to_owned()]),
                bytes: match is_base64 {
                    true => decode_base64(raw, "email_rfc822")?.into(),
                    false => raw.to_owned().into(),
                },
                results: ProviderResults::of(self.name()).into_told(),
            }))
        };
        Decoded::batch(json.list("body")?.iter().map(each), "ping")
    }
}
