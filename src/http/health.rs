//! Owns the two questions of a supervisor: does it live, and can it do its work?
//!
//! Does not heal anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::router::App;
use crate::store::{Store, StoreError};

/// What readiness is read from.
#[derive(Clone)]
pub struct Health {
    /// The store mail is accepted into.
    pub store: Store,
    /// The routes whose Messages API refuses the key, by name.
    pub paused_routes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// The smallest mail there is room for, or there is none.
const PROBE_MAIL_BYTES: u64 = 1;

/// `GET /healthz`: 200 as long as anything answers at all.
pub(super) async fn healthz() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// `GET /readyz`: 200 if mail can be taken in, else 503 and why not.
///
/// A paused route is told, and does not make it unready: its mail waits on our disk, and to turn
/// senders away would not bring the Messages API back.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let health = &app.health;
    let mut reasons = Vec::new();
    match health.store.has_room(PROBE_MAIL_BYTES) {
        Ok(()) => {}
        Err(StoreError::Full) => {
            reasons.push("no room: the disk or the backlog is at its bound".to_owned());
        }
        Err(StoreError::Dead) => {
            reasons.push("the store takes nothing until a restart".to_owned());
        }
        Err(StoreError::Damaged | StoreError::Unavailable) => {
            reasons.push("the store does not answer now".to_owned());
        }
    }
    if app.is_embedded_api_dead().await {
        reasons.push("the embedded Messages API takes nothing until a restart".to_owned());
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
