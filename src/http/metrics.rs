//! Owns `/metrics`: the registry in OpenMetrics text format, and the gauges of the ledger.
//!
//! Does not count: each part counts for itself and registers here.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::endpoint::Endpoint;
use super::error::HttpError;
use crate::store::Store;

/// Registers `postern_ledger_*` and `postern_outbox_*`, the number of mails in each state, incoming
/// and outgoing. They are read from the store at each scrape.
pub fn register_ledger(registry: &mut Registry, store: Store) {
    registry.register_collector(Box::new(LedgerGauges { store }));
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
            ("parked", "Deliveries that wait for a person", ledger.parked),
        ] {
            let name = format!("postern_ledger_{name}");
            let gauge = ConstGauge::new(value.cast_signed());
            let into = encoder.encode_descriptor(&name, help, None, gauge.metric_type())?;
            gauge.encode(into)?;
        }
        let outbox = self.store.outbox_ledger();
        let taken = ConstGauge::new(outbox.taken.cast_signed());
        let help = "Jobs taken so far";
        let kind = taken.metric_type();
        taken.encode(encoder.encode_descriptor("postern_outbox_taken", help, None, kind)?)?;
        let mut jobs = encoder.encode_descriptor(
            "postern_outbox_jobs",
            "Jobs by what became of them; their sum is all that were taken",
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
        for (rule, count) in &ledger.dropped {
            let labels = [("rule", rule.as_str())];
            ConstGauge::new(count.cast_signed()).encode(dropped.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
