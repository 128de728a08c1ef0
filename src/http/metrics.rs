//! Owns `/metrics`: the registry in OpenMetrics text format, and the gauges of the ledger.
//!
//! Does not count: each part counts its own work and registers here.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::auth_failures::{AuthFailures, ProtectedArea};
use super::endpoint::{Endpoint, mount};
use super::error::HttpError;
use super::keys::AccessKeys;
use super::server::{OverTls, client_ip};
use crate::store::Store;

/// Registers `postern_ledger_*` and `postern_outbox_*`, the number of mails in each state, incoming and
/// outgoing. They are read from the store at each scrape.
pub fn register_ledger(registry: &mut Registry, store: Store) {
    registry.register_collector(Box::new(LedgerGauges { store }));
}

/// The route of the metrics. Over TLS, which is reachable from outside, it requires one of the keys.
pub(super) fn router(registry: Arc<Registry>, keys: AccessKeys, failures: AuthFailures) -> Router {
    let guard = middleware::from_fn_with_state((keys, failures), require_key_over_tls);
    mount(routes()).route_layer(guard).with_state(registry)
}

async fn require_key_over_tls(
    State((keys, failures)): State<(AccessKeys, AuthFailures)>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    let is_over_tls = request.extensions().get() == Some(&OverTls(true));
    let headers = request.headers();
    if is_over_tls && !keys.admits_bearer(headers) && !keys.admits_password(headers) {
        if headers.contains_key(header::AUTHORIZATION) {
            failures.record(ProtectedArea::Metrics, client_ip(request.extensions()));
        }
        return Err(HttpError::unauthorized());
    }
    Ok(next.run(request).await)
}

pub(super) fn routes() -> Vec<Endpoint<Arc<Registry>>> {
    vec![Endpoint::new(
        Method::GET,
        "/metrics",
        routing::get(metrics),
    )]
}

/// `GET /metrics`.
async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    if text::encode(&mut body, &registry).is_err() {
        let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
        return HttpError::new(status, "metrics", "metrics cannot be written").into_response();
    }
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, form)], body).into_response()
}

/// The rules by which deliveries are dropped: the kinds of mail, and others.
const DROP_RULES: [&str; 15] = [
    "person",
    "auto_reply",
    "bounce",
    "delay_notice",
    "feedback_report",
    "read_receipt",
    "list",
    "calendar",
    "loop",
    "duplicate",
    "loop_breaker",
    "null_sender",
    "bounce_address",
    "operator",
    "damaged",
];

struct LedgerGauges {
    store: Store,
}

impl fmt::Debug for LedgerGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerGauges")
    }
}

impl Collector for LedgerGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let ledger = self.store.ledger();
        for (name, help, value) in [
            ("received", "Deliveries accepted so far", ledger.received),
            ("waiting", "Deliveries that wait", ledger.waiting),
            ("delivered", "Deliveries posted", ledger.delivered),
            ("parked", "Deliveries parked for a person", ledger.parked),
        ] {
            let name = format!("postern_ledger_{name}");
            let gauge = ConstGauge::new(value.cast_signed());
            let into = encoder.encode_descriptor(&name, help, None, gauge.metric_type())?;
            gauge.encode(into)?;
        }
        let outbox = self.store.outbox_ledger();
        let taken = ConstGauge::new(outbox.taken.cast_signed());
        let help = "Jobs accepted so far";
        let kind = taken.metric_type();
        taken.encode(encoder.encode_descriptor("postern_outbox_taken", help, None, kind)?)?;
        let mut jobs = encoder.encode_descriptor(
            "postern_outbox_jobs",
            "Jobs by state; their sum is the number of accepted jobs",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [
            ("waiting", outbox.waiting),
            ("sent", outbox.sent),
            ("captured", outbox.captured),
            ("failed", outbox.failed),
            ("cancelled", outbox.cancelled),
        ] {
            let gauge = ConstGauge::new(count.cast_signed());
            gauge.encode(jobs.encode_family(&[("state", state)])?)?;
        }
        let mut dropped = encoder.encode_descriptor(
            "postern_ledger_dropped",
            "Deliveries dropped by a rule",
            None,
            MetricType::Gauge,
        )?;
        // Each rule has a series from the start, so that sums over the rules are never empty.
        let unused = DROP_RULES
            .iter()
            .filter(|rule| !ledger.dropped.contains_key(**rule));
        let used = ledger.dropped.iter();
        let used = used.map(|(rule, count)| (rule.as_str(), count.cast_signed()));
        for (rule, count) in used.chain(unused.map(|rule| (*rule, 0))) {
            ConstGauge::new(count).encode(dropped.encode_family(&[("rule", rule)])?)?;
        }
        Ok(())
    }
}
