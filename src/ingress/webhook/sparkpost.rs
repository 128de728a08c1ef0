//! Owns SparkPost's relay webhooks: a batch of raw mails in JSON, with a fixed token or an account.
//!
//! Does not store the ids of batches: a repeated mail is a duplicate.

use std::net::IpAddr;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, decode_base64, loggable_id, reverse_path,
};
use super::json::Json;
use super::outcome::StatusPolicy;
use super::proof::{BasicAccount, Proof, basic_auth, shared_token};
use super::request::{Authentic, WebhookRequest};
use crate::secret::Secret;

const TOKEN: &str = "x-messagesystems-webhook-token";
const BATCH: &str = "x-messagesystems-batch-id";

/// Fixed facts about SparkPost.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "sparkpost",
    body_bytes: 60 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for SparkPost. A request must have a token or an account.
#[derive(Clone, Debug)]
pub struct SparkPost {
    /// The tokens that are configured at SparkPost.
    pub tokens: Vec<Secret>,
    /// The accounts; each is accepted.
    pub accounts: Vec<BasicAccount>,
}

impl SparkPost {
    /// The adapter with these tokens and accounts.
    pub const fn new(tokens: Vec<Secret>, accounts: Vec<BasicAccount>) -> Self {
        Self { tokens, accounts }
    }
}

impl Adapter for SparkPost {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(TOKEN)
            || request.headers().contains(BATCH)
            || request.body_contains("\"relay_message\"")
    }

    fn prove_head(
        &self,
        headers: &Headers,
        _: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        let has_account = !headers.contains(TOKEN) && !self.accounts.is_empty();
        match self.tokens.is_empty() || has_account {
            true => basic_auth(headers, &self.accounts),
            false => shared_token(headers, TOKEN, &self.tokens),
        }
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let batch = authentic.request().headers().single(BATCH);
        let batch = batch.ok().flatten().unwrap_or_default();
        let each = |event: &Json| {
            let msys = event.object("body")?.object("msys")?;
            let mail = msys.map(|msys| msys.object("relay_message")).transpose()?;
            let Some(mail) = mail.flatten() else {
                return Ok(None);
            };
            let content = mail.required_object("content")?;
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
                results: ProviderResults::of(self.name()).into_verdict(),
            }))
        };
        Decoded::batch(authentic.json()?.list("body")?, each, "ping")
    }
}
