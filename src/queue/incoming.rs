//! Owns the operations on incoming deliveries that are waiting or parked.
//!
//! Does not change settled deliveries.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tracing::info;

use super::QueueError;
use crate::auth::results;
use crate::clock::{self, Timestamp};
use crate::mail::received::Hop;
use crate::mail::verdict::VerdictSource;
use crate::mail::view::View;
use crate::store::{
    Delivery, DeliveryId, DeliveryOutcome, DeliveryStep, Event, EventKind, Fact, MailId, Store,
};

/// Octets of a Message-ID in an event.
const MESSAGE_ID_BYTES_MAX: usize = 1024;
/// The rule name for deliveries that a person drops.
const OPERATOR_RULE: &str = "operator";

/// The state of a delivery that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// The delivery waits for a person.
    Parked,
    /// The delivery waits for an attempt.
    Waiting,
}

/// The next attempt of a delivery that was tried before.
#[derive(Clone, Debug)]
pub struct PendingRetry {
    /// The number of attempts so far.
    pub attempts: u32,
    /// The reason why the last attempt failed.
    pub reason: String,
    /// The time of the next attempt.
    pub due_at: Timestamp,
}

/// Finds the next attempt of a delivery; `None` if it was not attempted since the worker started.
pub type RetryLookup = Arc<dyn Fn(DeliveryId) -> Option<PendingRetry> + Send + Sync>;

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub struct QueuedMail {
    /// The delivery in the store.
    pub delivery: Delivery,
    /// Its next attempt, if one failed before.
    pub pending_retry: Option<PendingRetry>,
}

/// The deliveries that are not settled. Clones share their lock.
#[derive(Clone)]
pub struct MailQueue {
    store: Store,
    pending_retry: RetryLookup,
    hostname: String,
    authserv_id: String,
    /// Held from the check of a delivery's state to the write of the fact that changes it.
    changes: Arc<Mutex<()>>,
}

impl MailQueue {
    /// A queue over this store. `hostname` and `authserv_id` are for the Received and
    /// Authentication-Results fields of a mail that is shown.
    pub fn new(store: Store, hostname: String, authserv_id: String) -> Self {
        Self {
            store,
            pending_retry: Arc::new(|_| None),
            hostname,
            authserv_id,
            changes: Arc::default(),
        }
    }

    /// The queue, with a look-up of the running worker's next attempts.
    pub fn with_retries(self, pending_retry: RetryLookup) -> Self {
        Self {
            pending_retry,
            ..self
        }
    }

    /// Up to `limit` deliveries in this state after `after`, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn list(
        &self,
        state: QueueState,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Vec<QueuedMail>, QueueError> {
        let found = match state {
            QueueState::Parked => self.store.parked(after, limit).await?,
            QueueState::Waiting => self.store.waiting(after, limit).await?,
        };
        Ok(found.into_iter().map(|found| self.queued(found)).collect())
    }

    /// The delivery of this name.
    ///
    /// # Errors
    /// [`QueueError::NotFound`].
    pub async fn find(&self, id: DeliveryId) -> Result<QueuedMail, QueueError> {
        let found = self.store.delivery(id).await?;
        let found = found.ok_or(QueueError::NotFound("delivery"))?;
        Ok(self.queued(found))
    }

    /// The mail for handing on: with our Authentication-Results and Received fields on top, and without
    /// fields that falsely claim to be ours. The stored bytes stay unchanged.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unreadable`].
    pub async fn forwarded_mail(&self, id: DeliveryId) -> Result<Bytes, QueueError> {
        let delivery = self.find(id).await?.delivery;
        let bytes = self.mail_bytes(id.mail).await?;
        let hop = Hop {
            envelope: &delivery.envelope,
            hostname: &self.hostname,
            id: &id.mail.to_string(),
            is_extended: true,
        };
        let mut on_top = String::new();
        // The results of a relay or a provider are not repeated as ours.
        if let Some(verdict) = &delivery.envelope.verdict
            && verdict.source == VerdictSource::Postern
        {
            on_top = results::field(verdict, &self.authserv_id);
        }
        on_top.push_str(&hop.received());
        let pieces = results::with_fields_on_top(&bytes, on_top, &self.authserv_id);
        Ok(pieces.concat().into())
    }

    /// Releases a parked delivery for another attempt, with the person's approval.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Store`].
    pub async fn release(&self, id: DeliveryId) -> Result<(), QueueError> {
        let _changes = self.changes.lock().await;
        let delivery = self.find_parked(id).await?.id;
        let approved = Fact::Advanced {
            delivery,
            step: DeliveryStep::Approved,
        };
        let released = Fact::Released {
            delivery,
            at: clock::now(),
        };
        self.store.record(vec![approved, released]).await?;
        info!(%delivery, "released");
        Ok(())
    }

    /// Drops a parked delivery permanently, and records the event.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Store`].
    pub async fn drop(&self, id: DeliveryId) -> Result<(), QueueError> {
        let _changes = self.changes.lock().await;
        let found = self.find_parked(id).await?;
        let (delivery, rule) = (found.id, OPERATOR_RULE);
        let at = clock::now();
        let settled = Fact::Settled {
            delivery,
            outcome: DeliveryOutcome::Dropped {
                rule: rule.to_owned(),
            },
            fingerprint: None,
            at,
        };
        let event = Fact::Happened(Event {
            kind: EventKind::Processed,
            at,
            thread_id: None,
            data: dropped_event(delivery, self.message_id(delivery.mail).await),
        });
        self.store.record(vec![settled, event]).await?;
        info!(%delivery, route = found.recipient.route, rule, "dropped");
        Ok(())
    }

    fn queued(&self, delivery: Delivery) -> QueuedMail {
        QueuedMail {
            pending_retry: (self.pending_retry)(delivery.id),
            delivery,
        }
    }

    async fn find_parked(&self, id: DeliveryId) -> Result<Delivery, QueueError> {
        let delivery = self.find(id).await?.delivery;
        if delivery.parked.is_none() {
            let why = "it is not parked: it waits and will be attempted";
            return Err(QueueError::WrongState(why.to_owned()));
        }
        Ok(delivery)
    }

    async fn mail_bytes(&self, mail: MailId) -> Result<Bytes, QueueError> {
        let read = self.store.mail_bytes(mail).await;
        read.map_err(|_| QueueError::Unreadable)
    }

    /// The Message-ID of a mail; `None` if it has none, or cannot be read.
    async fn message_id(&self, mail: MailId) -> Option<String> {
        let bytes = self.mail_bytes(mail).await.ok()?;
        let read = tokio::task::spawn_blocking(move || View::parse(&bytes).header.message_id);
        let mut id = read.await.ok().flatten()?;
        id.truncate(id.floor_char_boundary(MESSAGE_ID_BYTES_MAX));
        Some(id)
    }
}

/// The event of a delivery that a person dropped. Its kind is null, because it was not determined.
fn dropped_event(delivery: DeliveryId, message_id: Option<String>) -> Map<String, Value> {
    let fields = [
        ("mailId", json!(delivery.to_string())),
        ("emailMessageId", json!(message_id)),
        ("kind", Value::Null),
        ("dropped", json!(OPERATOR_RULE)),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}
