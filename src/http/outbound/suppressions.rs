//! Owns the calls about suppressed addresses.
//!
//! Does not read bounces.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing;
use serde_json::{Value, json};

use super::super::endpoint::Endpoint;
use super::super::error::{HttpError, success};
use super::super::extract::{PathId, whole_body};
use super::super::page::PageQuery;
use super::{Gateway, draft_body};
use crate::clock;
use crate::mail::address::Address;
use crate::store::{Fact, Suppression};

const DAYS_MAX: u64 = 3650;

pub(super) fn routes() -> Vec<Endpoint<Arc<Gateway>>> {
    let all = "/gateway/suppressions";
    let one = "/gateway/suppressions/{address}";
    vec![
        Endpoint::new(Method::GET, all, routing::get(list)),
        Endpoint::new(Method::POST, all, routing::post(add)),
        Endpoint::new(Method::GET, one, routing::get(show)),
        Endpoint::new(Method::DELETE, one, routing::delete(remove)),
    ]
}

async fn list(State(gateway): State<Arc<Gateway>>, uri: Uri) -> Result<Response, HttpError> {
    let page = PageQuery::read(&uri, &[])?;
    let mut found = gateway
        .store
        .suppressions(page.after.as_deref(), page.limit + 1)
        .await?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next = found.last().filter(|_| more).map(|last| &last.address);
    let items: Vec<Value> = found
        .iter()
        .map(|one| gateway.suppression_json(one))
        .collect();
    Ok(Json(json!({ "success": true, "data": items, "next": next })).into_response())
}

async fn show(
    State(gateway): State<Arc<Gateway>>,
    PathId(text): PathId,
) -> Result<Response, HttpError> {
    let found = gateway.suppression(&text).await?;
    Ok(success(StatusCode::OK, gateway.suppression_json(&found)))
}

async fn add(
    State(gateway): State<Arc<Gateway>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let body = whole_body(body)?;
    let request = draft_body::read_suppression(&body)?;
    if request
        .days
        .is_some_and(|days| !(1..=DAYS_MAX).contains(&days))
    {
        return Err(HttpError::invalid_field(
            "days",
            &format!("is not 1 to {DAYS_MAX}"),
        ));
    }
    let age = request
        .days
        .map(|days| Duration::from_secs(days * 24 * 60 * 60));
    let now = clock::now();
    let suppression = Suppression {
        address: request.address.folded(),
        reason: request.reason.unwrap_or_else(|| "added by hand".to_owned()),
        job: None,
        bounces: 0,
        at: now,
        until: now.plus(age.unwrap_or(gateway.settings.suppression_age)),
    };
    let shown = gateway.suppression_json(&suppression);
    gateway
        .store
        .record(vec![Fact::Suppressed(suppression)])
        .await?;
    Ok(success(StatusCode::CREATED, shown))
}

async fn remove(
    State(gateway): State<Arc<Gateway>>,
    PathId(text): PathId,
) -> Result<Response, HttpError> {
    let found = gateway.suppression(&text).await?;
    let shown = gateway.suppression_json(&found);
    let fact = Fact::Unsuppressed {
        address: found.address,
        at: clock::now(),
    };
    gateway.store.record(vec![fact]).await?;
    Ok(success(StatusCode::OK, shown))
}

impl Gateway {
    async fn suppression(&self, text: &str) -> Result<Suppression, HttpError> {
        let absent = || HttpError::not_found("address on the list");
        let address = Address::parse(text).map_err(|_| absent())?;
        let found = self.store.suppression(&address, clock::now()).await?;
        found.ok_or_else(absent)
    }

    fn suppression_json(&self, one: &Suppression) -> Value {
        let after = self.settings.suppress_after;
        json!({
            "address": one.address,
            "reason": one.reason,
            "jobId": one.job.map(|job| job.to_string()),
            "bounces": one.bounces,
            "held": one.bounces == 0 || one.bounces >= after,
            "at": one.at.to_rfc3339(),
            "until": one.until.to_rfc3339(),
        })
    }
}
