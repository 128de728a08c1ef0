//! Owns the calls about jobs: look, list, call back, try again.
//!
//! Does not send anything.

use std::error::Error as _;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use super::super::error::{HttpError, success};
use super::super::messages::{PageQuery, page_bounds, page_response};
use super::super::path_text::PathText;
use super::super::router::{App, Endpoint};
use super::Gateway;
use crate::clock;
use crate::mail::job_id::JobId;
use crate::store::{Fact, JobRecord, JobState, JobStateKind, ReadError};

pub(super) fn routes() -> Vec<Endpoint<App>> {
    let job = "/gateway/jobs/{id}";
    let again = "/gateway/jobs/{id}/retry";
    let back = "/gateway/jobs/{id}/cancel";
    let written = "/gateway/jobs/{id}/mail";
    vec![
        Endpoint::new(Method::GET, "/gateway/jobs", routing::get(list)),
        Endpoint::new(Method::GET, job, routing::get(show)),
        Endpoint::new(Method::GET, written, routing::get(mail)),
        Endpoint::new(Method::DELETE, job, routing::delete(cancel)),
        Endpoint::new(Method::POST, back, routing::post(cancel)),
        Endpoint::new(Method::POST, again, routing::post(retry)),
    ]
}

#[derive(Debug, Deserialize)]
struct JobsQuery {
    state: Option<String>,
}

async fn list(
    State(app): State<App>,
    which: Result<Query<JobsQuery>, QueryRejection>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let gateway = app.gateway()?;
    let (after, limit) = page_bounds(page)?;
    let after = after.as_deref().map(job_id).transpose()?;
    let state = which.ok().and_then(|Query(which)| which.state);
    let state = state.map(|name| {
        JobStateKind::of_name(&name).ok_or_else(|| {
            let names = JobStateKind::ALL.map(JobStateKind::name).join(", ");
            HttpError::bad_request(format!("state: none of {names}"))
        })
    });
    let mut found = gateway
        .store
        .jobs(state.transpose()?, after, limit + 1)
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let shown: Vec<Value> = found.iter().map(job_json).collect();
    Ok(page_response(&shown, more))
}

async fn show(State(app): State<App>, PathText(id): PathText) -> Result<Response, HttpError> {
    Ok(success(
        StatusCode::OK,
        job_json(&app.gateway()?.job(&id).await?),
    ))
}

/// The mail as it was composed: a download, for it holds what others wrote.
async fn mail(State(app): State<App>, PathText(id): PathText) -> Result<Response, HttpError> {
    let gateway = app.gateway()?;
    let record = gateway.job(&id).await?;
    let is_kept = matches!(
        record.state,
        JobState::Waiting { .. } | JobState::Failed { .. } | JobState::Captured
    );
    if !is_kept {
        return Err(HttpError::not_found("mail: the job is over"));
    }
    let job = record.job.id;
    match gateway.store.job_mail(job).await {
        Ok(bytes) => {
            let name = format!("attachment; filename=\"{job}.eml\"");
            let fields = [
                (header::CONTENT_TYPE, "message/rfc822".to_owned()),
                (header::CONTENT_DISPOSITION, name),
            ];
            Ok((fields, bytes).into_response())
        }
        Err(ReadError::NoJob(_)) => Err(HttpError::not_found("mail: the job is over")),
        Err(ReadError::Store(error)) => Err(error.into()),
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            error!(cause, "outbox: {error}");
            Err(internal_error("the mail cannot be read"))
        }
    }
}

fn internal_error(message: &str) -> HttpError {
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

async fn cancel(State(app): State<App>, PathText(id): PathText) -> Result<Response, HttpError> {
    let gateway = app.gateway()?;
    let job = gateway.job(&id).await?.job.id;
    let is_cancelled = gateway.store.cancel(job, clock::now()).await?;
    let record = gateway.job(&id).await?;
    match record.state {
        // Who asks twice hears yes twice.
        _ if is_cancelled => {}
        JobState::Cancelled => {}
        JobState::Waiting { .. } => return Err(HttpError::conflict("it is being sent")),
        state => {
            return Err(HttpError::conflict(format!(
                "it is {} already",
                state.name()
            )));
        }
    }
    Ok(success(StatusCode::OK, job_json(&record)))
}

async fn retry(State(app): State<App>, PathText(id): PathText) -> Result<Response, HttpError> {
    let gateway = app.gateway()?;
    let _turn = gateway.jobs_lock.lock().await;
    let record = gateway.job(&id).await?;
    if !matches!(record.state, JobState::Failed { .. } | JobState::Captured) {
        let word = record.state.name();
        return Err(HttpError::conflict(format!(
            "it is {word}, neither failed nor captured"
        )));
    }
    let now = clock::now();
    let fact = Fact::Retried {
        job: record.job.id,
        at: now,
        ends_at: now.plus(gateway.settings.age_max),
    };
    gateway.store.record(vec![fact]).await?;
    Ok(success(StatusCode::OK, job_json(&gateway.job(&id).await?)))
}

impl Gateway {
    async fn job(&self, id: &str) -> Result<JobRecord, HttpError> {
        let found = self.store.job(job_id(id)?).await?;
        found.ok_or_else(|| HttpError::not_found("job"))
    }
}

fn job_id(text: &str) -> Result<JobId, HttpError> {
    text.parse().map_err(|_| HttpError::not_found("job"))
}

fn job_json(record: &JobRecord) -> Value {
    let job = &record.job;
    let (due_at, reason) = match &record.state {
        JobState::Waiting { due_at } => (Some(due_at.to_rfc3339()), None),
        JobState::Failed { reason } | JobState::Bounced { reason } => (None, Some(reason)),
        _ => (None, None),
    };
    let history = record.history.iter().map(|trial| {
        json!({
            "at": trial.at.to_rfc3339(),
            "what": trial.what,
            "relay": trial.relay,
            "reply": trial.reply,
        })
    });
    json!({
        "id": job.id.to_string(),
        "state": record.state.name(),
        "sending": record.begun_at.is_some(),
        "reason": reason,
        "threadId": job.thread_id,
        "messageId": job.product_message_id,
        "emailMessageId": job.message_id,
        "recipient": job.recipient.to_string(),
        "subject": job.subject,
        "route": job.route,
        "attempts": record.attempts,
        "createdAt": job.made_at.to_rfc3339(),
        "dueAt": due_at,
        "expiresAt": job.ends_at.to_rfc3339(),
        "history": history.collect::<Vec<_>>(),
    })
}
