//! Owns the operations on incoming deliveries that are waiting or parked.
//!
//! Does not change settled deliveries.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::QueueError;
use super::named_thread::NamedThread;
use crate::auth::results;
use crate::clock::{self, Timestamp};
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::fingerprint::Fingerprint;
use crate::mail::partition::PartitionKey;
use crate::mail::received::Hop;
use crate::mail::verdict::VerdictSource;
use crate::mail::view::View;
use crate::store::{
    Delivery, DeliveryId, DeliveryOutcome, DeliveryStep, Event, EventKind, Fact, Lease, LeaseName,
    MailId, Store,
};

/// Octets of a Message-ID in an event.
const MESSAGE_ID_BYTES_MAX: usize = 1024;
/// The rule name for deliveries that a person drops.
const OPERATOR_RULE: &str = "operator";
/// The reason of a delivery that a person parked; the reason that the person gave follows.
const PARKED_BY_OPERATOR: &str = "a person parked it";

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

/// Notifies the worker that a delivery need not wait any longer, if it is the first of this partition.
pub type WakeLine = Arc<dyn Fn(PartitionKey, DeliveryId) -> BoxFuture<'static, ()> + Send + Sync>;

/// The final state of a delivery that a person dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueEnd {
    /// The product does not receive the mail.
    Dropped,
    /// The product has the message already.
    Delivered,
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub struct QueuedMail {
    /// The delivery in the store.
    pub delivery: Delivery,
    /// Its next attempt, if one failed before.
    pub pending_retry: Option<PendingRetry>,
    /// The waiting delivery that is delivered before this one, if this one waits for another.
    pub waits_behind: Option<DeliveryId>,
    /// The thread that the token of its recipient names; `None` for mail to a mailbox.
    pub thread: Option<NamedThread>,
}

/// The deliveries that are not settled. Clones share their lock.
#[derive(Clone)]
pub struct MailQueue {
    store: Store,
    pending_retry: RetryLookup,
    wake_line: WakeLine,
    hostname: String,
    authserv_id: String,
    /// The lock is held from the check of a delivery's state to the write of the fact that changes it. It
    /// ensures correct answers in one process: the store ignores a fact about a delivery that is not in the
    /// state for it.
    changes: Arc<Mutex<()>>,
}

impl MailQueue {
    /// A queue over this store. `hostname` and `authserv_id` are for the Received and
    /// Authentication-Results fields of a mail that is shown.
    pub fn new(store: Store, hostname: String, authserv_id: String) -> Self {
        Self {
            store,
            pending_retry: Arc::new(|_| None),
            wake_line: Arc::new(|_, _| Box::pin(async {})),
            hostname,
            authserv_id,
            changes: Arc::default(),
        }
    }

    /// The same queue with a running worker: its times of the next attempts, and the channel that notifies
    /// it of the end of a wait.
    pub fn with_worker(self, pending_retry: RetryLookup, wake_line: WakeLine) -> Self {
        Self {
            pending_retry,
            wake_line,
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
        let mut listed = Vec::with_capacity(found.len());
        for delivery in found {
            listed.push(self.queued(delivery).await?);
        }
        Ok(listed)
    }

    /// The delivery of this name.
    ///
    /// # Errors
    /// [`QueueError::NotFound`].
    pub async fn find(&self, id: DeliveryId) -> Result<QueuedMail, QueueError> {
        let found = self.store.delivery(id).await?;
        let found = found.ok_or(QueueError::NotFound("delivery"))?;
        self.queued(found).await
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

    /// Makes the worker attempt a delivery now. A parked delivery waits again, with the person's approval. A
    /// waiting delivery stops waiting, regardless of the time of its next attempt and of a pause of its
    /// route.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Busy`], [`QueueError::Store`].
    pub async fn retry(&self, id: DeliveryId) -> Result<(), QueueError> {
        let _changes = self.changes.lock().await;
        let (delivery, lease) = self.take(id).await?;
        if delivery.parked.is_some() {
            return self.release(id).await;
        }
        if let Some(first) = self.store.delivery_ahead(id).await? {
            let why = format!("it waits behind {first}: retry, park or drop that one");
            return Err(QueueError::WrongState(why));
        }
        drop(lease);
        info!(delivery = %id, "retried");
        self.wake(&delivery).await;
        Ok(())
    }

    /// Parks a waiting delivery until a person releases or drops it, and records the event. Later mail of
    /// its thread is delivered before it. `reason` is the reason that the person gave, if any.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Busy`], [`QueueError::Store`].
    pub async fn park(&self, id: DeliveryId, reason: Option<&str>) -> Result<(), QueueError> {
        let _changes = self.changes.lock().await;
        let (delivery, lease) = self.take(id).await?;
        if delivery.parked.is_some() {
            let why = "it is parked already".to_owned();
            return Err(QueueError::WrongState(why));
        }
        let reason = match reason {
            Some(words) => format!("{PARKED_BY_OPERATOR}: {words}"),
            None => PARKED_BY_OPERATOR.to_owned(),
        };
        let at = clock::now();
        let settled = Fact::Settled {
            delivery: id,
            outcome: DeliveryOutcome::Parked {
                reason: reason.clone(),
            },
            fingerprint: None,
            at,
        };
        let data = json!({ "mailId": id.to_string(), "reason": reason });
        let event = event(EventKind::Parked, at, None, data);
        self.store.record(vec![settled, event]).await?;
        drop(lease);
        warn!(delivery = %id, route = delivery.recipient.route, reason, "parked");
        self.wake(&delivery).await;
        Ok(())
    }

    /// Drops a delivery permanently, and records the event. A delivery whose message the product has
    /// already counts as delivered instead.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Busy`], [`QueueError::Store`].
    pub async fn drop(&self, id: DeliveryId) -> Result<QueueEnd, QueueError> {
        let _changes = self.changes.lock().await;
        let (delivery, lease) = self.take(id).await?;
        let route = delivery.recipient.route.as_str();
        let mail = self.read_identity(&delivery).await;
        let posted = delivery.steps.iter().find_map(|step| match step {
            DeliveryStep::MessagePosted {
                thread_id,
                message_id,
            } => Some((thread_id.as_str(), message_id.as_str())),
            _ => None,
        });
        let end = match posted {
            Some(posted) => {
                self.store
                    .record(delivered_facts(&delivery, posted, mail))
                    .await?;
                info!(delivery = %id, route, thread = posted.0, message_id = posted.1, "delivered");
                QueueEnd::Delivered
            }
            None => {
                self.store.record(dropped_facts(id, mail)).await?;
                info!(delivery = %id, route, rule = OPERATOR_RULE, "dropped");
                QueueEnd::Dropped
            }
        };
        drop(lease);
        self.wake(&delivery).await;
        Ok(end)
    }

    /// Takes a delivery, which is not attempted while the lease is held.
    async fn take(&self, id: DeliveryId) -> Result<(Delivery, Lease), QueueError> {
        let lease = self.store.try_lease(LeaseName::Delivery(id)).await?;
        let delivery = self.store.delivery(id).await?;
        let delivery = delivery.ok_or(QueueError::NotFound("delivery"))?;
        Ok((delivery, lease.ok_or(QueueError::Busy)?))
    }

    async fn release(&self, delivery: DeliveryId) -> Result<(), QueueError> {
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

    /// Makes the worker check the partition of a delivery that waited.
    async fn wake(&self, delivery: &Delivery) {
        let partition = PartitionKey::of(&delivery.envelope, &delivery.recipient);
        (self.wake_line)(partition, delivery.id).await;
    }

    async fn queued(&self, delivery: Delivery) -> Result<QueuedMail, QueueError> {
        Ok(QueuedMail {
            pending_retry: (self.pending_retry)(delivery.id),
            waits_behind: self.store.delivery_ahead(delivery.id).await?,
            thread: self.thread_of(&delivery.recipient).await?,
            delivery,
        })
    }

    /// The thread that the token of a recipient names.
    async fn thread_of(&self, recipient: &Recipient) -> Result<Option<NamedThread>, QueueError> {
        Ok(match &recipient.target {
            RecipientTarget::Mailbox(_) | RecipientTarget::Return(_) => None,
            RecipientTarget::Thread(claims) => {
                Some(NamedThread::find(&self.store, &recipient.route, claims).await?)
            }
        })
    }

    async fn mail_bytes(&self, mail: MailId) -> Result<Bytes, QueueError> {
        let read = self.store.mail_bytes(mail).await;
        read.map_err(|_| QueueError::Unreadable)
    }

    /// The identifiers of a mail for other mails and for the product; empty if its bytes cannot be read.
    async fn read_identity(&self, delivery: &Delivery) -> MailIdentity {
        let Ok(bytes) = self.mail_bytes(delivery.id.mail).await else {
            return MailIdentity::default();
        };
        let recipient = delivery.recipient.clone();
        let read = tokio::task::spawn_blocking(move || {
            let view = View::parse(&bytes);
            MailIdentity {
                fingerprint: Some(Fingerprint::of(&recipient, &view)),
                message_id: view.header.message_id.map(|mut id| {
                    id.truncate(id.floor_char_boundary(MESSAGE_ID_BYTES_MAX));
                    id
                }),
            }
        });
        read.await.unwrap_or_default()
    }
}

/// The identifiers in the bytes of a mail.
#[derive(Default)]
struct MailIdentity {
    fingerprint: Option<Fingerprint>,
    message_id: Option<String>,
}

/// The facts of a delivery that a person dropped. The kind in its event is null, because it was not
/// determined.
fn dropped_facts(delivery: DeliveryId, mail: MailIdentity) -> Vec<Fact> {
    let at = clock::now();
    let settled = Fact::Settled {
        delivery,
        outcome: DeliveryOutcome::Dropped {
            rule: OPERATOR_RULE.to_owned(),
        },
        fingerprint: None,
        at,
    };
    let data = json!({
        "mailId": delivery.to_string(),
        "emailMessageId": mail.message_id,
        "kind": null,
        "dropped": OPERATOR_RULE,
    });
    vec![settled, event(EventKind::Processed, at, None, data)]
}

/// The facts of a delivery whose message the product has, and whose last call a person cancelled.
fn delivered_facts(
    delivery: &Delivery,
    (thread_id, message_id): (&str, &str),
    mail: MailIdentity,
) -> Vec<Fact> {
    let at = clock::now();
    let settled = Fact::Settled {
        delivery: delivery.id,
        outcome: DeliveryOutcome::Delivered {
            thread_id: thread_id.to_owned(),
            message_id: message_id.to_owned(),
        },
        fingerprint: mail.fingerprint,
        at,
    };
    let plan = delivery.steps.iter().find_map(|step| match step {
        DeliveryStep::Planned(plan) => Some(plan),
        _ => None,
    });
    let data = json!({
        "mailId": delivery.id.to_string(),
        "threadId": thread_id,
        "messageId": message_id,
        "emailMessageId": mail.message_id,
        "kind": plan.map(|plan| plan.kind),
        "match": { "reason": plan.map(|plan| plan.reason) },
        "mailbox": plan.map(|plan| &plan.mailbox),
        "priority": plan.map(|plan| plan.priority),
    });
    vec![
        settled,
        event(EventKind::Processed, at, Some(thread_id), data),
    ]
}

fn event(kind: EventKind, at: Timestamp, thread_id: Option<&str>, data: Value) -> Fact {
    let data = match data {
        Value::Object(data) => data,
        _ => Map::new(),
    };
    Fact::Happened(Event {
        kind,
        at,
        thread_id: thread_id.map(str::to_owned),
        data,
    })
}
