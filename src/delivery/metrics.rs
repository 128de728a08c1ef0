//! Owns the counters of delivery.
//!
//! Does not count mails by state; the ledger does.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::api_outcome::ApiOutcome;

/// Buckets for the seconds from received to delivered: normally under a second, days after an outage.
const BUCKETS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0, 86_400.0, 432_000.0,
];

/// The counters of all routes.
#[derive(Debug)]
pub struct Metrics {
    ends: Family<EndLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    attempts: Family<RouteLabels, Counter>,
    identities: Family<IdentityLabels, Counter>,
    holds: Family<HoldLabels, Counter>,
    paused: Family<RouteLabels, Gauge>,
    paused_routes: Mutex<BTreeSet<String>>,
    pub(super) in_flight: Gauge,
    pub(super) queued: Gauge,
    seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    route: String,
    fate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    route: String,
    call: String,
    answer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IdentityLabels {
    route: String,
    identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HoldLabels {
    route: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

impl Metrics {
    /// Registers counters at zero as `postern_delivery_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            ends: Family::default(),
            calls: Family::default(),
            attempts: Family::default(),
            identities: Family::default(),
            holds: Family::default(),
            paused: Family::default(),
            paused_routes: Mutex::default(),
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            seconds: Histogram::new(BUCKETS),
        };
        let ours = registry.sub_registry_with_prefix("postern_delivery");
        ours.register(
            "fates",
            "Attempts by result: delivered, parked, dropped, deferred",
            metrics.ends.clone(),
        );
        ours.register(
            "calls",
            "Calls to the Messages API by result",
            metrics.calls.clone(),
        );
        ours.register("attempts", "Attempts begun", metrics.attempts.clone());
        ours.register(
            "identity",
            "Delivered mail by identity: verified, token-holder, unverified",
            metrics.identities.clone(),
        );
        // Not named `held`, which is a gauge here.
        ours.register(
            "holds",
            "Mail parked for its kind or its sender, by reason",
            metrics.holds.clone(),
        );
        ours.register(
            "paused",
            "1 if the Messages API refuses the key and all mail of the route waits",
            metrics.paused.clone(),
        );
        ours.register(
            "in_flight",
            "Attempts in progress",
            metrics.in_flight.clone(),
        );
        ours.register(
            "held",
            "Waiting deliveries in the worker's queues",
            metrics.queued.clone(),
        );
        ours.register(
            "seconds",
            "Seconds from received to delivered",
            metrics.seconds.clone(),
        );
        metrics
    }

    /// The names of the routes whose Messages API refuses the key.
    pub fn paused_routes(&self) -> Vec<String> {
        let paused = self.paused_routes.lock();
        let paused = paused.unwrap_or_else(PoisonError::into_inner);
        paused.iter().cloned().collect()
    }

    pub(super) fn count_attempt(&self, route: &str) {
        let route = route.to_owned();
        self.attempts.get_or_create(&RouteLabels { route }).inc();
    }

    pub(super) fn count_end(&self, route: &str, fate: &str) {
        let labels = EndLabels {
            route: route.to_owned(),
            fate: fate.to_owned(),
        };
        self.ends.get_or_create(&labels).inc();
    }

    pub(super) fn count_identity(&self, route: &str, identity: &str) {
        let labels = IdentityLabels {
            route: route.to_owned(),
            identity: identity.to_owned(),
        };
        self.identities.get_or_create(&labels).inc();
    }

    /// Counts a mail that is parked for its kind or its sender; `reason` is from a small fixed set.
    pub(super) fn count_hold(&self, route: &str, reason: &'static str) {
        let labels = HoldLabels {
            route: route.to_owned(),
            reason,
        };
        self.holds.get_or_create(&labels).inc();
    }

    pub(super) fn count_call(&self, route: &str, call: &str, answer: &ApiOutcome) {
        let labels = CallLabels {
            route: route.to_owned(),
            call: call.to_owned(),
            answer: answer.class().to_owned(),
        };
        self.calls.get_or_create(&labels).inc();
    }

    pub(super) fn observe_delivery(&self, wait: std::time::Duration) {
        self.seconds.observe(wait.as_secs_f64());
    }

    pub(super) fn set_paused(&self, route: &str, is_paused: bool) {
        let labels = RouteLabels {
            route: route.to_owned(),
        };
        self.paused.get_or_create(&labels).set(i64::from(is_paused));
        let paused = self.paused_routes.lock();
        let mut paused = paused.unwrap_or_else(PoisonError::into_inner);
        if is_paused {
            paused.insert(route.to_owned());
        } else {
            paused.remove(route);
        }
    }
}
