//! Owns raw mail over HTTP: `message/rfc822` with a name and password, what Rails' Action Mailbox
//! calls a relay.
//!
//! Does not interpret the mail.

use super::Adapter;
use super::incoming::{Decoded, Incoming, Malformed, Recipients, Results, addresses, reverse_path};
use super::law::{Law, Outcome};
use super::payload::author;
use super::proof::{Account, Unproven, basic};
use super::request::{Authentic, Request};
use crate::clock::Timestamp;
use crate::mail::view::HeaderView;

const TO: &str = "x-envelope-to";
const FROM: &str = "x-envelope-from";
const RFC822: &str = "message/rfc822";

/// The door for raw mail.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Who may hand mail in.
    pub accounts: Vec<Account>,
    /// Octets of a mail at most.
    pub bytes_max: usize,
}

impl Relay {
    /// The door with its usual bound.
    pub const fn new(accounts: Vec<Account>) -> Self {
        Self {
            accounts,
            bytes_max: 40 << 20,
        }
    }
}

impl Adapter for Relay {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(mail_bytes_max);
    }

    fn law(&self) -> Law {
        Law::RETRIES_ALL
    }

    fn is_marked(&self, request: &Request) -> bool {
        request.headers().media_type() == RFC822
    }

    fn suits(&self, request: &Request) -> Result<(), Outcome> {
        match self.is_marked(request) {
            true => Ok(()),
            false => Err(Outcome::MediaType(RFC822)),
        }
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        Ok(request.proven(basic(request.headers(), &self.accounts)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let header = |name| {
            let value = request.headers().one(name);
            value.map_err(|error| Malformed::new(error.to_string()))
        };
        if request.body().is_empty() {
            return Err(Malformed::new("body: empty"));
        }
        let bytes = request.body().clone();
        let recipients = match header(TO)? {
            Some(to) => Recipients::Envelope(addresses(to)),
            None => {
                let told = HeaderView::parse(&bytes).recipients();
                Recipients::Header(told.iter().map(ToString::to_string).collect())
            }
        };
        let sender = match header(FROM)? {
            Some(from) => reverse_path(from),
            None => author(&bytes),
        };
        Ok(Decoded::Mails(vec![Incoming {
            id: String::new(),
            sender,
            recipients,
            bytes,
            told: Results::by(self.name()).told(),
        }]))
    }
}
