//! Owns the calls about jobs: show, list, cancel, retry.
//!
//! Does not send anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde_json::{Value, json};

use super::super::endpoint::Endpoint;
use super::super::error::{HttpError, success};
use super::super::extract::PathId;
use super::super::page::{PageQuery, page_response};
use super::Gateway;
use crate::mail::job_id::JobId;
use crate::queue::QueuedJob;
use crate::store::{JobState, JobStateKind};

pub(super) fn routes() -> Vec<Endpoint<Arc<Gateway>>> {
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

async fn list(State(gateway): State<Arc<Gateway>>, uri: Uri) -> Result<Response, HttpError> {
    let page = PageQuery::read(&uri, &JobStateKind::ALL.map(JobStateKind::name))?;
    let state = page.state.as_deref().and_then(JobStateKind::of_name);
    let after = page.after.as_deref().map(job_id).transpose()?;
    let mut found = gateway.jobs.list(state, after, page.limit + 1).await?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let shown: Vec<Value> = found.iter().map(job_json).collect();
    Ok(page_response(&shown, more))
}

async fn show(
    State(gateway): State<Arc<Gateway>>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let job = gateway.jobs.find(job_id(&id)?).await?;
    Ok(success(StatusCode::OK, job_json(&job)))
}

/// The composed mail. It is a download, because it contains foreign text.
async fn mail(
    State(gateway): State<Arc<Gateway>>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let job = job_id(&id)?;
    let bytes = gateway.jobs.mail(job).await?;
    let name = format!("attachment; filename=\"{job}.eml\"");
    let fields = [
        (header::CONTENT_TYPE, "message/rfc822".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((fields, bytes).into_response())
}

async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let job = gateway.jobs.cancel(job_id(&id)?).await?;
    Ok(success(StatusCode::OK, job_json(&job)))
}

async fn retry(
    State(gateway): State<Arc<Gateway>>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let job = gateway.jobs.retry(job_id(&id)?).await?;
    Ok(success(StatusCode::OK, job_json(&job)))
}

fn job_id(text: &str) -> Result<JobId, HttpError> {
    text.parse().map_err(|_| HttpError::not_found("job"))
}

fn job_json(queued: &QueuedJob) -> Value {
    let record = &queued.record;
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
        "waitsBehind": queued.waits_behind.map(|first| first.to_string()),
        "expiresAt": job.ends_at.to_rfc3339(),
        "history": history.collect::<Vec<_>>(),
    })
}
