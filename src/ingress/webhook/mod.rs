//! Owns the webhooks of providers: the list of providers, and the handling of their requests.
//!
//! Does not speak HTTP: requests come in as their parts, and responses go out as theirs.
//!
//! ```text
//! WebhookReceiver::admit(head)      finds the provider, checks the limits            503 413 415 404
//! AdmittedRequest::reserve(bytes)   while the body arrives                          503 413
//! AdmittedRequest::receive(body)    authenticate → decode → Routes → Store::accept → response
//! ```
//!
//! The adapters are functions of octets. Only an [`Authentic`] request can be decoded, and only a
//! successful comparison with a secret makes one.

mod acceptance;
mod adapter;
mod brevo;
mod deferred;
mod error;
mod external;
mod fetch;
mod fetch_notes;
mod form;
mod forwarder;
mod generic;
mod headers;
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
mod set_aside;
mod settings;
mod sparkpost;
mod standard;

pub use adapter::{Adapter, Carries, ProviderInfo};
pub use brevo::Brevo;
pub use deferred::{FetchQueue, ProviderApiKeys};
pub use error::{AuthenticationError, Malformed};
pub use fetch::{ApiCredential, Fetch, FetchError, HttpsFetcher};
pub use forwarder::Forwarder;
pub use generic::Generic;
pub use headers::Headers;
pub use incoming::{
    BucketMail, Decoded, DeferredMail, IncomingMail, MAILS_MAX, RECIPIENTS_MAX, Recipients,
    UnreadableItem,
};
pub use mailersend::MailerSend;
pub use mailgun::Mailgun;
pub use mailjet::Mailjet;
pub use mandrill::Mandrill;
pub use metrics::Metrics;
pub use outcome::{StatusPolicy, WebhookOutcome, WebhookResponse};
pub use postal::Postal;
pub use postmark::Postmark;
pub use proof::{BasicAccount, Proof};
pub use receiver::{AdmittedRequest, WebhookReceiver};
pub use request::{Authentic, WebhookRequest};
pub use resend::Resend;
pub use sendgrid::SendGrid;
pub use ses::Ses;
pub use set_aside::SetAside;
pub use settings::{Settings, WebhookHead, WebhookParts};
pub use sparkpost::SparkPost;
pub use standard::{Standard, StandardSigning};

/// The names of all supported providers, configured or not.
pub const NAMES: [&str; 14] = [
    brevo::INFO.name,
    generic::INFO.name,
    mailersend::INFO.name,
    mailgun::INFO.name,
    mailjet::INFO.name,
    mandrill::INFO.name,
    postal::INFO.name,
    postmark::INFO.name,
    forwarder::INFO.name,
    resend::INFO.name,
    sendgrid::INFO.name,
    ses::INFO.name,
    sparkpost::INFO.name,
    standard::INFO.name,
];
