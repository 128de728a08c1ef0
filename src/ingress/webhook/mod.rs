//! Owns the doors for providers' webhooks: which there are, and what every one of them does.
//!
//! Does not speak HTTP: requests come in as their parts, and responses go out as theirs.
//!
//! ```text
//! Doors::knock(head)      which door, may it come in now?      503 413 415 404
//! Entry::take(bytes)      as the body comes                    503 413
//! Entry::receive(body)    authenticate → decode → Routes → Store::accept → respond by the law
//! ```
//!
//! The adapters are functions of bytes. A request can be decoded only as an [`Authentic`] one, which
//! only a comparison that came out right makes.

mod acceptance;
mod brevo;
mod der;
mod doors;
mod errands;
mod fetch;
mod form;
mod generic;
mod incoming;
mod json;
mod law;
mod mailersend;
mod mailgun;
mod mailjet;
mod mandrill;
mod metrics;
mod once;
mod outside;
mod payload;
mod postal;
mod postmark;
mod proof;
mod rate;
mod rebuild;
mod relay;
mod request;
mod resend;
mod room;
mod sendgrid;
mod ses;
mod sparkpost;
mod standard;

use std::fmt;

use crate::clock::Timestamp;

pub use brevo::Brevo;
pub use doors::{Doors, Entry, Head, Parts, Settings};
pub use errands::{ApiKeys, Errands};
pub use fetch::{ApiKey, Fetch, FetchError, Web};
pub use generic::Generic;
pub use incoming::{
    Decoded, Elsewhere, InBucket, Incoming, MAILS_MAX, Malformed, RECIPIENTS_MAX, Recipients,
};
pub use law::{Law, Outcome, Response};
pub use mailersend::MailerSend;
pub use mailgun::Mailgun;
pub use mailjet::Mailjet;
pub use mandrill::Mandrill;
pub use metrics::Metrics;
pub use once::Once;
pub use postal::Postal;
pub use postmark::Postmark;
pub use proof::{Account, Proof, PublicKey, Secret, Unproven};
pub use rate::Rate;
pub use relay::Relay;
pub use request::{Authentic, Headers, Request};
pub use resend::Resend;
pub use sendgrid::SendGrid;
pub use ses::Ses;
pub use sparkpost::SparkPost;
pub use standard::{Signing, Standard};

/// The names of all providers there are, set up or not.
pub const NAMES: [&str; 14] = [
    "brevo",
    "generic",
    "mailersend",
    "mailgun",
    "mailjet",
    "mandrill",
    "postal",
    "postmark",
    "relay",
    "resend",
    "sendgrid",
    "ses",
    "sparkpost",
    "standard",
];

/// What a provider's requests are like. Pure: bytes and a time in, words out.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// Its name, as it stands in the path.
    fn name(&self) -> &'static str;

    /// Octets of a body at most.
    fn bytes_max(&self) -> usize;

    /// Lets a body be so long that a mail of so many octets fits, where bodies hold mails; never less
    /// long than it may be already.
    fn make_room(&mut self, _mail_bytes_max: usize) {}

    /// What it takes for a final word.
    fn law(&self) -> Law;

    /// True if the request has its marks. It proves nothing.
    fn is_marked(&self, request: &Request) -> bool;

    /// True if the request only asks whether somebody is there.
    fn is_ping(&self, _: &Request) -> bool {
        false
    }

    /// Looks whether a request of its form can be one for this door, before anybody vouches for it. A
    /// no must cost no mail, whoever sends it.
    ///
    /// # Errors
    /// What it hears instead of being proven.
    fn suits(&self, _: &Request) -> Result<(), Outcome> {
        Ok(())
    }

    /// The URL of the certificate the request is signed with, where it is; its host is checked.
    ///
    /// # Errors
    /// It need not be fetched: the request cannot be proven.
    fn certificate(&self, _: &Request) -> Result<Option<String>, Unproven> {
        Ok(None)
    }

    /// Looks whether somebody who knows a secret of ours has sent it.
    ///
    /// # Errors
    /// Says why not.
    fn authenticate<'r>(
        &self,
        request: &'r Request,
        now: Timestamp,
        certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven>;

    /// The word in it that is good for one mail only, where its proof does not cover the content.
    ///
    /// # Errors
    /// It cannot be read.
    fn once(&self, _: Authentic<'_>) -> Result<Option<Once>, Malformed> {
        Ok(None)
    }

    /// Reads what it brings.
    ///
    /// # Errors
    /// It cannot be read.
    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed>;
}
