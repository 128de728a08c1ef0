//! Owns the acceptance of a mail from the control socket, like a mail of any other door.
//!
//! Does not read the request.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use crate::http::control::{AcceptFuture, InjectedMail};
use crate::http::error::HttpError;
use crate::ingress::accept::{AcceptError, AcceptedVia, accept, envelope_without_dialogue};
use crate::mail::envelope::{Door, Envelope};
use crate::store::{MailId, Store};

/// The time limit of the store for a mail.
const STORE_WAIT: Duration = Duration::from_secs(60);

/// The function behind `mail inject`, over this store.
pub fn accept_into(store: Store) -> Arc<dyn Fn(InjectedMail) -> AcceptFuture + Send + Sync> {
    Arc::new(move |mail| Box::pin(accept_injected(store.clone(), mail)))
}

async fn accept_injected(store: Store, mail: InjectedMail) -> Result<MailId, HttpError> {
    let InjectedMail {
        sender,
        sender_untold,
        recipients,
        received_at,
        bytes,
    } = mail;
    let envelope = Envelope {
        sender_untold,
        ..envelope_without_dialogue(Door::Inject, sender, recipients, received_at)
    };
    let via = AcceptedVia::default();
    let accepted = accept(&store, STORE_WAIT, envelope, bytes, via).await;
    accepted.map_err(|error| match error {
        AcceptError::Store(error) => error.into(),
        AcceptError::TimedOut => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            HttpError::new(status, "unavailable", error.to_string())
        }
    })
}
