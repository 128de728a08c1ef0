//! Owns the counters of outgoing mail.
//!
//! Does not count jobs by state; the outbox ledger does.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Buckets for the seconds of an attempt: a hundredth on the same machine, minutes with a slow relay.
const ATTEMPT_BUCKETS: [f64; 10] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 300.0, 900.0];
/// Buckets for the seconds from accepted to sent: normally under a second, days after an outage.
const AGE_BUCKETS: [f64; 10] = [
    0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0,
];

/// The counters of outgoing mail.
#[derive(Debug)]
pub struct Metrics {
    attempts: Family<OutcomeLabels, Counter>,
    seconds: Histogram,
    age: Histogram,
    up: Family<RelayLabels, Gauge>,
    pub(super) connections: Gauge,
    pub(super) in_flight: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabels {
    relay: String,
}

impl Metrics {
    /// Registers counters at zero as `postern_outbound_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            seconds: Histogram::new(ATTEMPT_BUCKETS),
            age: Histogram::new(AGE_BUCKETS),
            up: Family::default(),
            connections: Gauge::default(),
            in_flight: Gauge::default(),
        };
        let ours = registry.sub_registry_with_prefix("postern_outbound");
        ours.register(
            "attempts",
            "Attempts by outcome: sent, again, never, unknown (it may have been sent), cancelled, refused \
             (by our own rules), panicked",
            metrics.attempts.clone(),
        );
        ours.register("seconds", "Seconds of an attempt", metrics.seconds.clone());
        ours.register(
            "sent_after_seconds",
            "Seconds from accepted to sent",
            metrics.age.clone(),
        );
        ours.register(
            "relay_up",
            "0 if the relay has failed and is not used",
            metrics.up.clone(),
        );
        ours.register(
            "connections",
            "Open connections to relays",
            metrics.connections.clone(),
        );
        ours.register(
            "in_flight",
            "Attempts in progress",
            metrics.in_flight.clone(),
        );
        metrics
    }

    pub(super) fn count_attempt(&self, outcome: &str) {
        let labels = OutcomeLabels {
            outcome: outcome.to_owned(),
        };
        self.attempts.get_or_create(&labels).inc();
    }

    pub(super) fn observe_attempt(&self, span: Duration) {
        self.seconds.observe(span.as_secs_f64());
    }

    pub(super) fn observe_age(&self, span: Duration) {
        self.age.observe(span.as_secs_f64());
    }

    pub(super) fn set_up(&self, relay: &str, is_up: bool) {
        let labels = RelayLabels {
            relay: relay.to_owned(),
        };
        self.up.get_or_create(&labels).set(i64::from(is_up));
    }
}
