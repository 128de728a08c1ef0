//! Owns the counters of fetching mail from an IMAP server.
//!
//! Does not log.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The reasons for which a mail is left at the server.
const SKIP_REASONS: [&str; 7] = [
    "expired",
    "forged",
    "not_ours",
    "not_yet_valid",
    "revoked",
    "too_big",
    "unreadable",
];

/// The counters. Clones share their numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connected: Gauge,
    mails: Counter,
    mail_bytes: Counter,
    left: Family<BySkipReason, Counter>,
    unmarked: Counter,
    reconnects: Counter,
    started_over: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySkipReason {
    reason: &'static str,
}

impl Metrics {
    /// Registers `imap_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("imap");
        let connected = self.connected.clone();
        registry.register("connected", "Folders with a connection", connected);
        registry.register("mails", "Mails taken", self.mails.clone());
        let bytes = self.mail_bytes.clone();
        registry.register("mail_bytes", "Bytes of accepted mails", bytes);
        // Each reason has a series from the start, so that sums over the reasons are never empty.
        for reason in SKIP_REASONS {
            drop(self.left.get_or_create(&BySkipReason { reason }));
        }
        let left = self.left.clone();
        registry.register("left", "Mails skipped at the server", left);
        let unmarked = self.unmarked.clone();
        registry.register(
            "unmarked",
            "Accepted mails that the server did not mark, move or delete",
            unmarked,
        );
        let reconnects = self.reconnects.clone();
        registry.register("reconnects", "Connections that failed or broke", reconnects);
        let over = self.started_over.clone();
        registry.register(
            "started_over",
            "Folders polled from the start after a change of UIDVALIDITY",
            over,
        );
    }

    /// Counts a connection until the returned guard is dropped.
    pub(super) fn connected(&self) -> ConnectedGuard {
        self.connected.inc();
        ConnectedGuard(self.connected.clone())
    }

    pub(super) fn taken(&self, bytes: usize) {
        self.mails.inc();
        self.mail_bytes
            .inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn skipped(&self, reason: &'static str) {
        debug_assert!(SKIP_REASONS.contains(&reason), "{reason}");
        self.left.get_or_create(&BySkipReason { reason }).inc();
    }

    pub(super) fn unmarked(&self, mails: usize) {
        self.unmarked
            .inc_by(u64::try_from(mails).unwrap_or(u64::MAX));
    }

    pub(super) fn reconnects(&self) {
        self.reconnects.inc();
    }

    pub(super) fn started_over(&self) {
        self.started_over.inc();
    }
}

/// A counted connection.
#[derive(Debug)]
pub(super) struct ConnectedGuard(Gauge);

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
