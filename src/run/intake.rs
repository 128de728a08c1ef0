//! Owns the joints of the outbox's intake: with the HTTP server that asks it, and with the delivery whose
//! messages it must know again.
//!
//! Does not decide anything.

use std::pin::Pin;

use axum::http::StatusCode;
use tracing::error;

use crate::delivery;
use crate::http::error::Fault;
use crate::http::outbound::{self, Taken, field};
use crate::mail::draft::{Call, Draft};
use crate::outbound::intake::{Intake, IntakeError, Underway};

impl outbound::Intake for Intake {
    fn take(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Taken>, Fault>> + Send + '_>> {
        Box::pin(async move {
            let call = draft.call;
            let queued = Self::take(self, draft).await;
            let queued = queued.map_err(|error| fault(call, error))?;
            Ok(queued.map(|queued| Taken {
                jobs: queued.jobs,
                is_new: queued.is_new,
            }))
        })
    }
}

impl Underway for delivery::underway::Underway {
    fn says(&self, route: &str, thread: &str, text: &str) -> Option<bool> {
        Self::says(self, route, thread, text)
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
