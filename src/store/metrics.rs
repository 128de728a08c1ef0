//! Owns the counters of the store's own work.
//!
//! Does not count mail by state; the ledger does.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The store's counters. Clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync: Histogram,
    batch_records: Histogram,
    written: Counter,
    records: Counter,
    relocated: Counter,
    pub(super) behind: Gauge,
    pub(super) segments: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sync: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            batch_records: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            written: Counter::default(),
            records: Counter::default(),
            relocated: Counter::default(),
            behind: Gauge::default(),
            segments: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers the numbers under `postern_journal_*`.
    pub fn register(&self, registry: &mut Registry) {
        let journal = registry.sub_registry_with_prefix("postern_journal");
        let seconds = Unit::Seconds;
        journal.register_with_unit("sync", "Time of one sync", seconds, self.sync.clone());
        journal.register(
            "batch_records",
            "Records per sync",
            self.batch_records.clone(),
        );
        journal.register_with_unit(
            "written",
            "Bytes written",
            Unit::Bytes,
            self.written.clone(),
        );
        journal.register("records", "Records written", self.records.clone());
        journal.register(
            "carried",
            "Records relocated from old segments",
            self.relocated.clone(),
        );
        journal.register(
            "index_behind",
            "Changes that are not in the index yet",
            self.behind.clone(),
        );
        journal.register("segments", "Segments on disk", self.segments.clone());
    }

    pub(super) fn synced(&self, took: Duration, bytes: u64, records: usize) {
        self.sync.observe(took.as_secs_f64());
        self.batch_records.observe(count(records));
        self.written.inc_by(bytes);
        self.records.inc_by(records as u64);
    }

    pub(super) fn relocated(&self, records: usize) {
        self.relocated.inc_by(records as u64);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a batch has less than 2^52 records"
)]
const fn count(records: usize) -> f64 {
    records as f64
}
