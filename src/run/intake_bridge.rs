//! Owns the bridge of the outbox's intake to the HTTP server.
//!
//! Does not decide anything.

use std::pin::Pin;

use axum::http::StatusCode;
use tracing::error;

use crate::http::error::HttpError;
use crate::http::outbound::{self, QueuedDraft, field_name};
use crate::mail::draft::{Draft, DraftCall};
use crate::outbound::intake::{IntakeError, OutboundIntake};

impl outbound::DraftIntake for OutboundIntake {
    fn submit(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Option<QueuedDraft>, HttpError>> + Send + '_>> {
        Box::pin(async move {
            let call = draft.call;
            let queued = Self::accept(self, draft).await;
            let queued = queued.map_err(|error| fault(call, error))?;
            Ok(queued.map(|queued| QueuedDraft {
                jobs: queued.jobs,
                is_new: queued.is_new,
            }))
        })
    }
}

fn fault(call: DraftCall, error: IntakeError) -> HttpError {
    let ours = |status, code, error: &dyn std::error::Error| {
        let cause = error.source().map(ToString::to_string);
        error!(cause, "outgoing mail: {error}");
        HttpError::new(
            status,
            code,
            "the mail could not be composed; the log has the reason",
        )
    };
    match error {
        IntakeError::Invalid { part, why } => {
            HttpError::invalid_field(field_name(call, part), &why)
        }
        IntakeError::Suppressed { part, .. } => HttpError {
            code: "suppressed",
            ..HttpError::invalid_field(field_name(call, part), &error.to_string())
        },
        IntakeError::Conflict(_) => HttpError::new(
            StatusCode::CONFLICT,
            "idempotency_conflict",
            error.to_string(),
        ),
        IntakeError::Store(error) => error.into(),
        IntakeError::Random => ours(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error),
        IntakeError::ComposePanicked | IntakeError::Compose(_) => {
            ours(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error)
        }
    }
}
