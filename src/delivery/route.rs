//! Owns what delivery must know of a route: its Messages API, its keys, the marks of its own mail.
//!
//! Does not read settings.

use std::sync::Arc;

use super::api::Api;
use super::policy::RoutePolicy;
use crate::mail::address::Domain;
use crate::mail::token::KeyRing;

/// One reply domain with its Messages API.
#[derive(Clone)]
pub struct DeliveryRoute {
    /// The name that stands in the recipients of its mail.
    pub name: String,
    /// The Messages API its mail is posted to.
    pub api: Api,
    /// The keys of its tokens: they tell whose a token is.
    pub keys: Arc<KeyRing>,
    /// The value our instance writes into its loop mark, if it writes one.
    pub loop_mark: Option<String>,
    /// Domains in which only we make Message-IDs.
    pub message_id_domains: Vec<Domain>,
    /// The line of our mails above which people answer.
    pub reply_marker: String,
    /// How its mail is sorted, and what becomes of each kind.
    pub policy: RoutePolicy,
    /// What becomes of mail whose sender is not known for sure.
    pub senders: crate::auth::AuthPolicy,
}
