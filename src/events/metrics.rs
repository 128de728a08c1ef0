//! Owns the counters of event delivery.
//!
//! Does not serve them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of an attempt: the subscriber and the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EventAttemptLabels {
    pub(super) subscriber: String,
    pub(super) outcome: &'static str,
}

/// The label of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SubscriberLabels {
    pub(super) subscriber: String,
}

/// The counters of event delivery.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) attempts: Family<EventAttemptLabels, Counter>,
    pub(super) open: Family<SubscriberLabels, Gauge>,
}

impl Metrics {
    /// Registers the counters under `events_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("events");
        registry.register(
            "attempts",
            "Requests to subscribers' webhooks, by result",
            self.attempts.clone(),
        );
        registry.register(
            "open",
            "Events that a subscriber has not received yet",
            self.open.clone(),
        );
    }

    pub(super) fn count_attempt(&self, subscriber: &str, outcome: &'static str) {
        let subscriber = subscriber.to_owned();
        let attempt = EventAttemptLabels {
            subscriber,
            outcome,
        };
        self.attempts.get_or_create(&attempt).inc();
    }

    pub(super) fn set_open(&self, subscriber: &str, open: usize) {
        let subscriber = subscriber.to_owned();
        let open = i64::try_from(open).unwrap_or(i64::MAX);
        self.open
            .get_or_create(&SubscriberLabels { subscriber })
            .set(open);
    }
}
