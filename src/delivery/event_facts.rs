//! Owns the events of delivery about threads, messages, mails and jobs.
//!
//! Does not record them. Each event is recorded in one call with the fact that caused it, so that
//! both survive a crash or neither.

use serde_json::{Map, Value, json};

use super::message::MessageFacts;
use super::parsed_mail::ParsedMail;
use crate::clock::Timestamp;
use crate::mail::address::Domain;
use crate::mail::redact;
use crate::mail::text::bare_message_id;
use crate::store::{Delivery, DeliveryId, DsnSummary, Event, EventKind, Fact, Job};

/// The maximum length in bytes of an event's JSON.
const JSON_BYTES_MAX: usize = 4 * 1024;
/// Bounds in bytes for the text of a field; the next one applies if the event is still too long.
const TEXT_BYTES: [usize; 3] = [1024, 256, 64];

/// The events of one delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventFacts<'a> {
    pub(super) delivery: &'a Delivery,
    /// Domains whose addresses may contain a token.
    pub(super) domains: &'a [Domain],
    pub(super) at: Timestamp,
}

impl EventFacts<'_> {
    pub(super) fn thread_created(
        &self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        thread_id: &str,
    ) -> Fact {
        let data = json!({
            "threadId": thread_id,
            "mailbox": found.post.mailbox,
            "priority": found.post.priority,
            "from": mail.sender_email,
        });
        self.event(EventKind::ThreadCreated, Some(thread_id), data)
    }

    pub(super) fn message_created(
        &self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        (thread_id, message_id): (&str, &str),
    ) -> Fact {
        let data = json!({
            "threadId": thread_id,
            "messageId": message_id,
            "emailMessageId": mail.message_id,
            "kind": found.post.kind,
        });
        self.event(EventKind::MessageCreated, Some(thread_id), data)
    }

    pub(super) fn delivered(
        &self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        (thread_id, message_id): (&str, &str),
    ) -> Fact {
        let data = json!({
            "mailId": self.delivery.id.to_string(),
            "threadId": thread_id,
            "messageId": message_id,
            "emailMessageId": mail.message_id,
            "kind": found.post.kind,
            "match": { "reason": found.post.reason },
            "mailbox": found.post.mailbox,
            "priority": found.post.priority,
        });
        self.event(EventKind::Processed, Some(thread_id), data)
    }

    pub(super) fn dropped(&self, mail: &ParsedMail, rule: &str) -> Fact {
        let data = json!({
            "mailId": self.delivery.id.to_string(),
            "emailMessageId": mail.message_id,
            "kind": mail.kind,
            "dropped": rule,
        });
        self.event(EventKind::Processed, None, data)
    }

    pub(super) fn parked(&self, reason: &str) -> Fact {
        let data = json!({
            "mailId": self.delivery.id.to_string(),
            "reason": reason,
        });
        self.event(EventKind::Parked, None, data)
    }

    pub(super) fn bounced(&self, job: &Job, returned: &DsnSummary) -> Fact {
        let data = json!({
            "jobId": job.id,
            "threadId": job.thread_id,
            "messageId": job.product_message_id,
            "emailMessageId": bare_message_id(&job.message_id),
            "recipient": job.recipient.to_string(),
            "status": returned.status,
            "hard": returned.hard,
            "reason": returned.reason,
            "remoteMta": returned.remote_mta,
        });
        self.event(EventKind::OutboundBounced, job.thread_id.as_deref(), data)
    }

    fn event(&self, kind: EventKind, thread_id: Option<&str>, data: Value) -> Fact {
        let mut data = match data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        // A Message-ID of ours is not an address: it contains no secret, and must stay unchanged.
        for (name, value) in &mut data {
            if name != "emailMessageId"
                && let Value::String(text) = value
            {
                *text = redact::local_parts(text, self.domains).into_owned();
            }
        }
        for most in TEXT_BYTES {
            for value in data.values_mut() {
                if let Value::String(text) = value {
                    text.truncate(text.floor_char_boundary(most));
                }
            }
            if serde_json::to_vec(&data).is_ok_and(|json| json.len() <= JSON_BYTES_MAX) {
                break;
            }
        }
        Fact::Happened(Event {
            kind,
            at: self.at,
            thread_id: thread_id.map(str::to_owned),
            data,
        })
    }
}

/// The event of a delivery that is parked although its mail cannot be read.
pub(super) fn parked_unread(delivery: DeliveryId, reason: &str, at: Timestamp) -> Fact {
    let mut data = Map::new();
    data.insert("mailId".to_owned(), delivery.to_string().into());
    data.insert("reason".to_owned(), reason.into());
    Fact::Happened(Event {
        kind: EventKind::Parked,
        at,
        thread_id: None,
        data,
    })
}
