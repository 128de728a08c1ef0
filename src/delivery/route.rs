//! Owns the properties of a route that delivery needs: its Messages API, its keys, and the marks of its own
//! mail.
//!
//! Does not read settings.

use std::sync::Arc;

use super::api::Api;
use super::policy::RoutePolicy;
use crate::mail::address::Domain;
use crate::mail::token::KeyRing;

/// A reply domain with its Messages API.
#[derive(Clone)]
pub struct DeliveryRoute {
    /// The name of the route in the recipients of its mail.
    pub name: String,
    /// The Messages API to which mail is posted.
    pub api: Api,
    /// The keys of the route's tokens.
    pub keys: Arc<KeyRing>,
    /// The loop mark of this instance, if it writes one.
    pub loop_mark: Option<String>,
    /// Domains in which only this instance makes Message-IDs.
    pub message_id_domains: Vec<Domain>,
    /// The line above which people reply.
    pub reply_marker: String,
    /// The rules for sorting, and the action for each kind of mail.
    pub policy: RoutePolicy,
    /// The policy for mail whose sender is not verified.
    pub senders: crate::auth::AuthPolicy,
}
