//! Owns the counters of the webhooks.
//!
//! Does not log.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The reasons for which a recipient or a mail is left out.
const DROP_REASONS: [&str; 10] = [
    "empty",
    "expired",
    "foreign",
    "forged",
    "no_recipient",
    "not_an_address",
    "revoked",
    "too_large",
    "too_many",
    "unknown",
];

/// The counters. Clones share their numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    mails: Family<ProviderLabels, Counter>,
    mail_bytes: Family<ProviderLabels, Counter>,
    dropped: Family<DroppedLabels, Counter>,
    set_aside: Family<ProviderLabels, Counter>,
    in_flight: Gauge,
    panics: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    provider: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabels {
    provider: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    provider: &'static str,
    reason: &'static str,
}

impl Metrics {
    /// Registers `webhook_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("webhook");
        let requests = self.requests.clone();
        registry.register("requests", "Requests by result", requests);
        registry.register("mails", "Mails taken", self.mails.clone());
        registry.register(
            "mail_bytes",
            "Bytes of accepted mails",
            self.mail_bytes.clone(),
        );
        let dropped = self.dropped.clone();
        registry.register(
            "dropped",
            "Recipients left out, each with a log line",
            dropped,
        );
        let set_aside = self.set_aside.clone();
        registry.register(
            "set_aside",
            "Malformed items of batches that were stored in a file",
            set_aside,
        );
        let in_flight = self.in_flight.clone();
        registry.register("in_flight_bytes", "Bytes of bodies in memory", in_flight);
        registry.register(
            "panics",
            "Requests that ended in a panic",
            self.panics.clone(),
        );
    }

    /// Begins the series of these providers at zero, so that sums over them are never empty.
    pub(super) fn begin(&self, providers: impl Iterator<Item = &'static str>) {
        for provider in providers {
            let labels = ProviderLabels { provider };
            for counters in [&self.mails, &self.mail_bytes, &self.set_aside] {
                drop(counters.get_or_create(&labels));
            }
            for reason in DROP_REASONS {
                let labels = DroppedLabels { provider, reason };
                drop(self.dropped.get_or_create(&labels));
            }
        }
    }

    pub(super) fn request_finished(&self, provider: &'static str, outcome: &'static str) {
        self.requests
            .get_or_create(&RequestLabels { provider, outcome })
            .inc();
    }

    pub(super) fn mail_accepted(&self, provider: &'static str, bytes: usize) {
        self.mails.get_or_create(&ProviderLabels { provider }).inc();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.mail_bytes
            .get_or_create(&ProviderLabels { provider })
            .inc_by(bytes);
    }

    pub(super) fn recipient_dropped(&self, provider: &'static str, reason: &'static str) {
        debug_assert!(DROP_REASONS.contains(&reason), "{reason}");
        self.dropped
            .get_or_create(&DroppedLabels { provider, reason })
            .inc();
    }

    pub(super) fn item_set_aside(&self, provider: &'static str) {
        self.set_aside
            .get_or_create(&ProviderLabels { provider })
            .inc();
    }

    pub(super) fn bytes_in_flight(&self) -> &Gauge {
        &self.in_flight
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }
}
