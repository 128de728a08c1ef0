//! Owns the health checks: liveness, and readiness to accept mail.
//!
//! Does not repair anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, routing};
use futures_util::FutureExt as _;
use serde_json::json;

use super::endpoint::Endpoint;
use crate::store::{EmbeddedMessages, Store, StoreError};

/// The parts that readiness depends on.
#[derive(Clone)]
pub struct Health {
    /// The store that accepts mail.
    pub store: Store,
    /// Names of the routes whose Messages API refuses the key.
    pub paused_routes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The messages of the embedded API, if it is enabled.
    pub embedded: Option<EmbeddedMessages>,
}

/// The size in octets of the smallest mail, for the readiness check.
const PROBE_MAIL_BYTES: u64 = 1;

pub(super) fn routes() -> Vec<Endpoint<Health>> {
    vec![
        Endpoint::new(Method::GET, "/healthz", routing::get(healthz)),
        Endpoint::new(Method::GET, "/readyz", routing::get(readyz)),
    ]
}

/// `GET /healthz`: 200 as long as the process responds.
async fn healthz() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// `GET /readyz`: 200 if mail can be accepted, otherwise 503 with the reasons.
///
/// A paused route is reported but does not make the process unready: its mail waits on disk, and refusing
/// senders would not restore the Messages API.
async fn readyz(State(health): State<Health>) -> Response {
    let mut reasons = Vec::new();
    match health.store.has_room(PROBE_MAIL_BYTES) {
        Ok(()) => {}
        Err(StoreError::Full) => {
            reasons.push("no space: the disk or the backlog is at its limit".to_owned());
        }
        Err(StoreError::Dead) => {
            reasons.push("the store accepts nothing until a restart".to_owned());
        }
        Err(StoreError::Damaged | StoreError::Unavailable) => {
            reasons.push("the store has no answer now".to_owned());
        }
    }
    if health.embedded.as_ref().is_some_and(has_ended) {
        reasons.push("the embedded Messages API accepts nothing until a restart".to_owned());
    }
    let ready = reasons.is_empty();
    let (status, word) = if ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let waiting = health.store.ledger().waiting;
    let paused = (health.paused_routes)();
    let body = json!({ "status": word, "reasons": reasons, "paused": paused, "waiting": waiting });
    (status, Json(body)).into_response()
}

/// True if the embedded API can store nothing more.
fn has_ended(embedded: &EmbeddedMessages) -> bool {
    // One poll is enough, because the future does not wait if it has ended.
    embedded.ended().now_or_never().is_some()
}
