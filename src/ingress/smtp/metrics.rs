//! Owns the metrics of the SMTP and LMTP server.
//!
//! Does not serve them; the owner of the registry does.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::peer::protocol_name;
use crate::mail::verdict::Verdict;
use crate::smtp::response::Refusal;
use crate::smtp::session::Protocol;

/// The metrics of the server. Clones share their numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    open: Family<ByProtocol, Gauge>,
    connections: Family<ByProtocol, Counter>,
    connections_refused: Family<ByRefusalReason, Counter>,
    refusals: Family<ByRefusal, Counter>,
    mails: Family<ByProtocol, Counter>,
    mail_bytes: Family<ByProtocol, Counter>,
    verdicts: Family<ByResult, Counter>,
    in_flight: Gauge,
    handshakes: Family<ByHandshakeOutcome, Counter>,
    accept_errors: Counter,
    panics: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByProtocol {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRefusalReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRefusal {
    refusal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHandshakeOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    method: &'static str,
    result: &'static str,
}

impl Metrics {
    /// Registers all families, named `ingress_…` after the registry's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "ingress_connections_open",
            "SMTP and LMTP connections open now",
            self.open.clone(),
        );
        registry.register(
            "ingress_connections",
            "SMTP and LMTP connections accepted",
            self.connections.clone(),
        );
        registry.register(
            "ingress_connections_refused",
            "SMTP and LMTP connections rejected, by reason",
            self.connections_refused.clone(),
        );
        registry.register(
            "ingress_refusals",
            "Negative responses to clients, by name",
            self.refusals.clone(),
        );
        registry.register("ingress_mails", "Accepted mails", self.mails.clone());
        registry.register_with_unit(
            "ingress_mail",
            "Bytes of accepted mails",
            Unit::Bytes,
            self.mail_bytes.clone(),
        );
        registry.register(
            "ingress_authentication",
            "Mails whose sender was checked, by method and result",
            self.verdicts.clone(),
        );
        registry.register_with_unit(
            "ingress_in_flight",
            "Bytes of incoming mail in memory",
            Unit::Bytes,
            self.in_flight.clone(),
        );
        registry.register(
            "ingress_tls_handshakes",
            "TLS handshakes as a mail server, by outcome",
            self.handshakes.clone(),
        );
        registry.register(
            "ingress_accept_errors",
            "Failed accepts of a connection, for lack of system resources",
            self.accept_errors.clone(),
        );
        registry.register(
            "ingress_panics",
            "Connections ended by a panic",
            self.panics.clone(),
        );
    }

    /// Counts a connection, and counts it as open until the returned value is dropped.
    pub(super) fn opened(&self, protocol: Protocol) -> OpenConnection {
        let label = ByProtocol {
            protocol: protocol_name(protocol),
        };
        self.connections.get_or_create(&label).inc();
        let open = self.open.get_or_create_owned(&label);
        open.inc();
        OpenConnection(open)
    }

    pub(super) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused
            .get_or_create(&ByRefusalReason { reason })
            .inc();
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let refusal = refusal.name();
        self.refusals.get_or_create(&ByRefusal { refusal }).inc();
    }

    pub(super) fn accepted(&self, protocol: Protocol, bytes: usize) {
        let label = ByProtocol {
            protocol: protocol_name(protocol),
        };
        self.mails.get_or_create(&label).inc();
        self.mail_bytes.get_or_create(&label).inc_by(bytes as u64);
    }

    pub(super) fn authenticated(&self, verdict: &Verdict) {
        for (method, outcome) in [
            ("spf", verdict.spf.result),
            ("dkim", verdict.dkim_result()),
            ("dmarc", verdict.dmarc.result),
            ("arc", verdict.arc.result),
            ("iprev", verdict.iprev.result),
        ] {
            let result = outcome.as_str();
            self.verdicts
                .get_or_create(&ByResult { method, result })
                .inc();
        }
    }

    /// Bytes of mail in memory.
    pub(super) fn in_flight(&self) -> Gauge {
        self.in_flight.clone()
    }

    pub(super) fn handshake(&self, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.handshakes
            .get_or_create(&ByHandshakeOutcome { outcome })
            .inc();
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn counters_are_exported() {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("postern");
        metrics.register(&mut registry);
        let open = metrics.opened(Protocol::Lmtp);
        drop(metrics.opened(Protocol::Smtp));
        metrics.refused(Refusal::RelayDenied);
        metrics.connection_refused("server_full");
        metrics.accepted(Protocol::Lmtp, 1_000);
        metrics.handshake(false);
        metrics.authenticated(&Verdict::default());
        metrics.in_flight().set(7);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "postern_ingress_connections_open{protocol=\"lmtp\"} 1",
            "postern_ingress_connections_open{protocol=\"smtp\"} 0",
            "postern_ingress_connections_total{protocol=\"smtp\"} 1",
            "postern_ingress_refusals_total{refusal=\"relay_denied\"} 1",
            "postern_ingress_connections_refused_total{reason=\"server_full\"} 1",
            "postern_ingress_mails_total{protocol=\"lmtp\"} 1",
            "postern_ingress_mail_bytes_total{protocol=\"lmtp\"} 1000",
            "postern_ingress_tls_handshakes_total{outcome=\"failed\"} 1",
            "postern_ingress_authentication_total{method=\"dmarc\",result=\"none\"} 1",
            "postern_ingress_in_flight_bytes 7",
            "postern_ingress_panics_total 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
        drop(open);
    }
}
