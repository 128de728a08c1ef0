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
mod body_budget;
mod brevo;
mod deferred;
mod der;
mod external;
mod fetch;
mod form;
mod forwarder;
mod generic;
mod incoming;
mod json;
mod mailersend;
mod mailgun;
mod mailjet;
mod mandrill;
mod metrics;
mod mime;
mod outcome;
mod payload;
mod postal;
mod postmark;
mod proof;
mod receiver;
mod replay;
mod request;
mod resend;
mod sendgrid;
mod ses;
mod sparkpost;
mod standard;

use std::fmt;

use crate::clock::Timestamp;

pub use brevo::Brevo;
pub use deferred::{FetchQueue, ProviderApiKeys};
pub use fetch::{ApiCredential, Fetch, FetchError, HttpsFetcher};
pub use forwarder::Forwarder;
pub use generic::Generic;
pub use incoming::{
    BucketMail, Decoded, DeferredMail, IncomingMail, MAILS_MAX, Malformed, RECIPIENTS_MAX,
    Recipients,
};
pub use mailersend::MailerSend;
pub use mailgun::Mailgun;
pub use mailjet::Mailjet;
pub use mandrill::Mandrill;
pub use metrics::Metrics;
pub use outcome::{StatusPolicy, WebhookOutcome, WebhookResponse};
pub use postal::Postal;
pub use postmark::Postmark;
pub use proof::{AuthenticationError, BasicAccount, Proof, PublicKey, WebhookSecret};
pub use receiver::{AdmittedRequest, Settings, WebhookHead, WebhookParts, WebhookReceiver};
pub use replay::Nonce;
pub use request::{Authentic, Headers, WebhookRequest};
pub use resend::Resend;
pub use sendgrid::SendGrid;
pub use ses::Ses;
pub use sparkpost::SparkPost;
pub use standard::{Standard, StandardSigning};

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
    fn raise_bytes_max(&mut self, _mail_bytes_max: usize) {}

    /// What it takes for a final word.
    fn status_policy(&self) -> StatusPolicy;

    /// True if the request has its marks. It proves nothing.
    fn is_recognised(&self, request: &WebhookRequest) -> bool;

    /// True if the request only asks whether somebody is there.
    fn is_ping(&self, _: &WebhookRequest) -> bool {
        false
    }

    /// Looks whether a request of its form can be one for this door, before anybody vouches for it. A
    /// no must cost no mail, whoever sends it.
    ///
    /// # Errors
    /// What it hears instead of being proven.
    fn check_form(&self, _: &WebhookRequest) -> Result<(), WebhookOutcome> {
        Ok(())
    }

    /// The URL of the certificate the request is signed with, where it is; its host is checked.
    ///
    /// # Errors
    /// It need not be fetched: the request cannot be proven.
    fn certificate_url(&self, _: &WebhookRequest) -> Result<Option<String>, AuthenticationError> {
        Ok(None)
    }

    /// Looks whether somebody who knows a secret of ours has sent it.
    ///
    /// # Errors
    /// Says why not.
    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError>;

    /// The word in it that is good for one mail only, where its proof does not cover the content.
    ///
    /// # Errors
    /// It cannot be read.
    fn nonce(&self, _: Authentic<'_>) -> Result<Option<Nonce>, Malformed> {
        Ok(None)
    }

    /// Reads what it brings.
    ///
    /// # Errors
    /// It cannot be read.
    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed>;
}
