//! Owns `[outbound.api]`: who may ask for mail to be sent, and how large what he asks may be.
//!
//! Does not send anything, and says nothing of what is sent.

use std::time::Duration;

use super::reader::Section;
use super::route::RouteConfig;
use super::secret::Secret;
use super::webhook;
use crate::http::outbound::GatewaySettings;

/// The calls of the product, as the operator wants them.
#[derive(Clone, Debug)]
pub struct OutboundApiConfig {
    /// The keys that are taken.
    pub keys: Vec<Secret>,
    /// The secrets that calls may be signed with.
    pub secrets: Vec<Secret>,
    /// How old a signed call may be, or how far ahead.
    pub age_max: Duration,
    /// Octets of a request's body.
    pub body_bytes_max: usize,
    /// Octets of all bodies at a time.
    pub bytes_in_flight_max: usize,
}

/// What was read before.
pub(super) struct OutboundApiContext<'a> {
    /// Mail is taken to be sent.
    pub(super) enabled: bool,
    pub(super) routes: &'a [RouteConfig],
    /// The secrets of `[webhook]`.
    pub(super) webhook_secrets: &'a [Secret],
    /// How old a request of our own webhook scheme may be.
    pub(super) webhook_age_max: Duration,
}

/// Reads the table. Where it names neither key nor secret, the key of the first route's Messages API is
/// taken, if it is strong, and the secrets of our own webhook scheme: who has these is the product.
pub(super) fn read(mut section: Section<'_>, seen: &OutboundApiContext<'_>) -> OutboundApiConfig {
    let says = |key: &str| section.is_given(key) || section.is_given(&format!("{key}_file"));
    let is_said = ["key", "key_old", "secret", "secret_old"]
        .into_iter()
        .any(says);
    let mut keys = webhook::strong_secrets(&mut section, "key");
    let mut secrets = webhook::strong_secrets(&mut section, "secret");
    if !is_said {
        let of_route = seen.routes.first().map(|route| &route.api.key);
        let of_route = of_route.map(|key| Secret::new(key.clone()));
        keys.extend(of_route.filter(|key| key.weakness().is_none()));
        secrets.extend(seen.webhook_secrets.iter().cloned());
    }
    if seen.enabled && !is_said && keys.is_empty() && secrets.is_empty() {
        let what =
            "missing, and the Messages API's key is too weak to be taken: nobody can ask for mail";
        section.warn("key", what);
    }
    let defaults = GatewaySettings::default();
    let ages = webhook::AGES;
    let bytes = 64 << 10..=256 << 20;
    let api = OutboundApiConfig {
        keys,
        secrets,
        age_max: section.duration("max_age", seen.webhook_age_max, ages),
        body_bytes_max: section.length("body_bytes_max", defaults.body_bytes_max, bytes),
        bytes_in_flight_max: section.length(
            "bytes_in_flight_max",
            defaults.bytes_in_flight_max,
            1 << 20..=1 << 40,
        ),
    };
    if api.bytes_in_flight_max < api.body_bytes_max {
        section.problem("bytes_in_flight_max", "less than body_bytes_max");
    }
    section.end();
    api
}
