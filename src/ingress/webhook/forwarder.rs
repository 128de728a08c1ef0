//! Owns raw mail over HTTP: `message/rfc822` with a name and password, as in Rails' Action Mailbox (relay
//! ingress).
//!
//! Does not interpret the mail.

use std::net::IpAddr;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, parse_addresses, reverse_path,
};
use super::outcome::{StatusPolicy, WebhookOutcome};
use super::payload::author;
use super::proof::{BasicAccount, Proof, basic_auth};
use super::request::{Authentic, WebhookRequest};
use crate::mail::view::HeaderView;

const TO: &str = "x-envelope-to";
const FROM: &str = "x-envelope-from";
const RFC822: &str = "message/rfc822";

/// Fixed facts about the forwarder.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "relay",
    body_bytes: 40 << 20,
    carries: Carries::Mail,
    status_policy: StatusPolicy::RETRIES_ALL,
};

/// The adapter for raw mail.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// The accounts; each is accepted.
    pub accounts: Vec<BasicAccount>,
}

impl Forwarder {
    /// The adapter with these accounts.
    pub const fn new(accounts: Vec<BasicAccount>) -> Self {
        Self { accounts }
    }
}

impl Adapter for Forwarder {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().media_type() == RFC822
    }

    fn check_form(&self, request: &WebhookRequest) -> Result<(), WebhookOutcome> {
        match self.is_recognised(request) {
            true => Ok(()),
            false => Err(WebhookOutcome::MediaType(RFC822)),
        }
    }

    fn prove_head(
        &self,
        headers: &Headers,
        _: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        basic_auth(headers, &self.accounts)
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let header = |name| {
            let value = request.headers().single(name);
            value.map_err(|error| Malformed::new(error.to_string()))
        };
        if request.body().is_empty() {
            return Err(Malformed::new("body: empty"));
        }
        let bytes = request.body().clone();
        let recipients = match header(TO)? {
            Some(to) => Recipients::Envelope(parse_addresses(to)),
            None => {
                let listed = HeaderView::parse(&bytes).recipients();
                Recipients::Header(listed.iter().map(ToString::to_string).collect())
            }
        };
        let sender = match header(FROM)? {
            Some(from) => reverse_path(from),
            None => author(&bytes),
        };
        Ok(Decoded::Mails(vec![IncomingMail {
            id: String::new(),
            sender,
            recipients,
            bytes,
            results: ProviderResults::of(self.name()).into_verdict(),
        }]))
    }
}
