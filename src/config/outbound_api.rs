//! Owns `[outbound.api]`: the callers that may request mail, and the limits of their requests.
//!
//! Does not send anything.

use std::time::Duration;

use super::reader::Section;
use super::route::RouteConfig;
use super::secret::Secret;
use super::webhook;
use crate::http::outbound::GatewaySettings;

/// The settings of the product's calls.
#[derive(Clone, Debug)]
pub struct OutboundApiConfig {
    /// The accepted keys.
    pub keys: Vec<Secret>,
    /// The secrets for signed calls.
    pub secrets: Vec<Secret>,
    /// The maximum age of a signed call, or its distance in the future.
    pub age_max: Duration,
    /// Octets of a request's body.
    pub body_bytes_max: usize,
    /// Octets of all concurrent bodies.
    pub bytes_in_flight_max: usize,
}

/// Values read earlier that this table depends on.
pub(super) struct OutboundApiContext<'a> {
    /// True if drafts are accepted.
    pub(super) enabled: bool,
    pub(super) routes: &'a [RouteConfig],
    /// The secrets of `[webhook]`.
    pub(super) webhook_secrets: &'a [Secret],
    /// The maximum age of a request of the generic webhook scheme.
    pub(super) webhook_age_max: Duration,
}

/// Reads the table. If it has neither key nor secret, the key of the first route's Messages API is used,
/// provided it is strong, and the secrets of the generic webhook scheme: the product holds them.
pub(super) fn read(
    mut section: Section<'_>,
    context: &OutboundApiContext<'_>,
) -> OutboundApiConfig {
    let says = |key: &str| section.is_given(key) || section.is_given(&format!("{key}_file"));
    let is_given = ["key", "key_old", "secret", "secret_old"]
        .into_iter()
        .any(says);
    let mut keys = section.strong_secrets("key");
    let mut secrets = section.strong_secrets("secret");
    if !is_given {
        let of_route = context.routes.first().map(|route| &route.api.key);
        let of_route = of_route.map(|key| Secret::new(key.clone()));
        keys.extend(of_route.filter(|key| key.weakness().is_none()));
        secrets.extend(context.webhook_secrets.iter().cloned());
    }
    if context.enabled && keys.is_empty() {
        let what = "missing, and MESSAGES_API_KEY has fewer than 32 characters: no one could open \
                    /admin or ask for jobs";
        section.problem("key", what);
    }
    let defaults = GatewaySettings::default();
    let ages = webhook::AGES;
    let bytes = 64 << 10..=256 << 20;
    let api = OutboundApiConfig {
        keys,
        secrets,
        age_max: section.duration("max_age", context.webhook_age_max, ages),
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
