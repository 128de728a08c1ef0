//! Owns the joint between the HTTP server and the outbox's intake, which do not know each other.
//!
//! Does not decide anything.

use std::pin::Pin;

use axum::http::StatusCode;
use tracing::error;

use crate::http::error::Fault;
use crate::http::outbound::{self, Taken, field};
use crate::mail::draft::{Call, Draft};
use crate::outbound::intake::{Intake, IntakeError};

impl outbound::Intake for Intake {
    fn take(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Taken, Fault>> + Send + '_>> {
        Box::pin(async move {
            let call = draft.call;
            let queued = Self::take(self, draft).await;
            let queued = queued.map_err(|error| fault(call, error))?;
            Ok(Taken {
                jobs: queued.jobs,
                is_new: queued.is_new,
            })
        })
    }
}

fn fault(call: Call, error: IntakeError) -> Fault {
    let ours = |status, code, error: &dyn std::error::Error| {
        let cause = error.source().map(ToString::to_string);
        error!(cause, "outgoing mail: {error}");
        Fault::new(
            status,
            code,
            "the mail could not be made, the log tells why",
        )
    };
    match error {
        IntakeError::Unfit { part, why } => Fault::field(field(call, part), &why),
        IntakeError::Suppressed { part, .. } => Fault {
            code: "suppressed",
            ..Fault::field(field(call, part), &error.to_string())
        },
        IntakeError::Conflict(_) => Fault::new(
            StatusCode::CONFLICT,
            "idempotency_conflict",
            error.to_string(),
        ),
        IntakeError::Store(error) => error.into(),
        IntakeError::Random => ours(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error),
        IntakeError::Broken | IntakeError::Compose(_) => {
            ours(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error)
        }
    }
}
