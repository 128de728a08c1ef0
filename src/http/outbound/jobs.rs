//! Owns the calls about jobs: look, list, call back, try again.
//!
//! Does not send anything.

use std::error::Error as _;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use super::super::error::{Fault, done};
use super::super::messages::{Page, bounds, listed};
use super::super::router::{App, Route};
use super::Gateway;
use crate::clock;
use crate::mail::outgoing::JobId;
use crate::store::{Fact, JobRecord, JobState, ReadError};

/// The words a list can be asked for.
const STATES: [&str; 6] = [
    "waiting",
    "sent",
    "captured",
    "failed",
    "cancelled",
    "bounced",
];

pub(super) fn routes() -> Vec<Route<App>> {
    let job = "/gateway/jobs/{id}";
    let again = "/gateway/jobs/{id}/retry";
    let back = "/gateway/jobs/{id}/cancel";
    let written = "/gateway/jobs/{id}/mail";
    vec![
        Route::new(Method::GET, "/gateway/jobs", routing::get(list)),
        Route::new(Method::GET, job, routing::get(show)),
        Route::new(Method::GET, written, routing::get(mail)),
        Route::new(Method::DELETE, job, routing::delete(cancel)),
        Route::new(Method::POST, back, routing::post(cancel)),
        Route::new(Method::POST, again, routing::post(retry)),
    ]
}

#[derive(Debug, Deserialize)]
struct Which {
    state: Option<String>,
}

async fn list(
    State(app): State<App>,
    which: Result<Query<Which>, QueryRejection>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Fault> {
    let gateway = app.gateway()?;
    let (after, limit) = bounds(page)?;
    let after = after.as_deref().map(job_id).transpose()?;
    let state = which.ok().and_then(|Query(which)| which.state);
    if let Some(state) = state.as_deref()
        && !STATES.contains(&state)
    {
        return Err(Fault::request(format!(
            "state: none of {}",
            STATES.join(", ")
        )));
    }
    // Those that are over are read from the disk.
    let store = gateway.store.clone();
    let read = tokio::task::spawn_blocking(move || {
        let wanted = |found: &JobState| state.as_deref().is_none_or(|state| found.name() == state);
        store.jobs(wanted, after, limit + 1)
    });
    let mut found = read.await.map_err(|_| broken("the jobs cannot be read"))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let shown: Vec<Value> = found.iter().map(shown).collect();
    Ok(listed(&shown, more))
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Fault> {
    Ok(done(StatusCode::OK, shown(&app.gateway()?.job(&id)?)))
}

/// The mail as it was composed: a download, for it holds what others wrote.
async fn mail(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Fault> {
    let gateway = app.gateway()?;
    let record = gateway.job(&id)?;
    let is_kept = matches!(
        record.state,
        JobState::Waiting { .. } | JobState::Failed { .. } | JobState::Captured
    );
    if !is_kept {
        return Err(Fault::absent("mail: the job is over"));
    }
    let job = record.job.id;
    // From the disk: it may wait.
    let store = gateway.store.clone();
    let read = tokio::task::spawn_blocking(move || store.job_mail(job)).await;
    match read {
        Ok(Ok(bytes)) => {
            let name = format!("attachment; filename=\"{job}.eml\"");
            let fields = [
                (header::CONTENT_TYPE, "message/rfc822".to_owned()),
                (header::CONTENT_DISPOSITION, name),
            ];
            Ok((fields, bytes).into_response())
        }
        Ok(Err(ReadError::NoJob(_))) => Err(Fault::absent("mail: the job is over")),
        Ok(Err(error)) => {
            let cause = error.source().map(ToString::to_string);
            error!(cause, "outbox: {error}");
            Err(broken("the mail cannot be read"))
        }
        Err(_) => Err(broken("the mail cannot be read")),
    }
}

fn broken(message: &str) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Fault> {
    let gateway = app.gateway()?;
    let job = gateway.job(&id)?.job.id;
    let is_cancelled = gateway.store.cancel(job, clock::now()).await?;
    let record = gateway.job(&id)?;
    match record.state {
        // Who asks twice hears yes twice.
        _ if is_cancelled => {}
        JobState::Cancelled => {}
        JobState::Waiting { .. } => return Err(Fault::state("it is being sent")),
        state => return Err(Fault::state(format!("it is {} already", state.name()))),
    }
    Ok(done(StatusCode::OK, shown(&record)))
}

async fn retry(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Fault> {
    let gateway = app.gateway()?;
    let _turn = gateway.turn.lock().await;
    let record = gateway.job(&id)?;
    if !matches!(record.state, JobState::Failed { .. } | JobState::Captured) {
        let word = record.state.name();
        return Err(Fault::state(format!(
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
    Ok(done(StatusCode::OK, shown(&gateway.job(&id)?)))
}

impl Gateway {
    fn job(&self, id: &str) -> Result<JobRecord, Fault> {
        let found = self.store.job(job_id(id)?);
        found.ok_or_else(|| Fault::absent("job"))
    }
}

fn job_id(text: &str) -> Result<JobId, Fault> {
    text.parse().map_err(|_| Fault::absent("job"))
}

fn shown(record: &JobRecord) -> Value {
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
