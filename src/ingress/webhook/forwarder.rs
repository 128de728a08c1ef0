//! Owns raw mail over HTTP: `message/rfc822` with a name and password, what Rails' Action Mailbox
//! calls a relay.
//!
//! Does not interpret the mail.

use super::Adapter;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, parse_addresses, reverse_path,
};
use super::outcome::{StatusPolicy, WebhookOutcome};
use super::payload::author;
use super::proof::{AuthenticationError, BasicAccount, basic_auth};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::mail::view::HeaderView;

const TO: &str = "x-envelope-to";
const FROM: &str = "x-envelope-from";
const RFC822: &str = "message/rfc822";

/// The door for raw mail.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// Who may hand mail in.
    pub accounts: Vec<BasicAccount>,
    /// Octets of a mail at most.
    pub bytes_max: usize,
}

impl Forwarder {
    /// The door with its usual bound.
    pub const fn new(accounts: Vec<BasicAccount>) -> Self {
        Self {
            accounts,
            bytes_max: 40 << 20,
        }
    }
}

impl Adapter for Forwarder {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(mail_bytes_max);
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_ALL
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

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        Ok(request.authenticated(basic_auth(request.headers(), &self.accounts)?))
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
                let told = HeaderView::parse(&bytes).recipients();
                Recipients::Header(told.iter().map(ToString::to_string).collect())
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
            results: ProviderResults::of(self.name()).into_told(),
        }]))
    }
}
