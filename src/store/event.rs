//! Owns the form of an event, by which the product is notified.
//!
//! Does not send it.

use serde::{Deserialize, Serialize};

use super::id::EventId;
use crate::clock::Timestamp;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// The product has created a thread.
    #[serde(rename = "email.thread.created")]
    ThreadCreated,
    /// The product has accepted a message.
    #[serde(rename = "email.message.created")]
    MessageCreated,
    /// A mail is settled.
    #[serde(rename = "email.processed")]
    Processed,
    /// A mail waits for a person.
    #[serde(rename = "email.parked")]
    Parked,
    /// A job was accepted.
    #[serde(rename = "email.outbound.queued")]
    OutboundQueued,
    /// A relay accepted a job's mail.
    #[serde(rename = "email.outbound.sent")]
    OutboundSent,
    /// An attempt failed, and another follows.
    #[serde(rename = "email.outbound.deferred")]
    OutboundDeferred,
    /// A job failed.
    #[serde(rename = "email.outbound.failed")]
    OutboundFailed,
    /// A job's mail was returned.
    #[serde(rename = "email.outbound.bounced")]
    OutboundBounced,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ThreadCreated,
        Self::MessageCreated,
        Self::Processed,
        Self::Parked,
        Self::OutboundQueued,
        Self::OutboundSent,
        Self::OutboundDeferred,
        Self::OutboundFailed,
        Self::OutboundBounced,
    ];

    /// The name, for example `email.processed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreadCreated => "email.thread.created",
            Self::MessageCreated => "email.message.created",
            Self::Processed => "email.processed",
            Self::Parked => "email.parked",
            Self::OutboundQueued => "email.outbound.queued",
            Self::OutboundSent => "email.outbound.sent",
            Self::OutboundDeferred => "email.outbound.deferred",
            Self::OutboundFailed => "email.outbound.failed",
            Self::OutboundBounced => "email.outbound.bounced",
        }
    }
}

/// Upper bound of the open events below a subscriber's cursor; at this bound the cursor does not advance.
pub const CURSOR_GAPS_MAX: usize = 256;

/// The position of a subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last event such that the subscriber has every event up to it, except for `gaps`.
    pub last: EventId,
    /// Earlier events that the subscriber does not have, in order; at most [`CURSOR_GAPS_MAX`].
    pub gaps: Vec<EventId>,
}

/// One event, recorded together with the fact that caused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The event's kind.
    pub kind: EventKind,
    /// Time of the event.
    pub at: Timestamp,
    /// The event's thread: events of one thread are sent in order.
    pub thread_id: Option<String>,
    /// The event's fields, in camelCase: `threadId`, `messageId`, `jobId`, `reason` and the like. Never a token,
    /// a body or a secret. At most 4 KiB of JSON.
    pub data: serde_json::Map<String, serde_json::Value>,
}

impl Event {
    /// The event as a subscriber receives it: `{"type","timestamp","data"}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "type": self.kind.name(),
            "timestamp": self.at.to_rfc3339(),
            "data": self.data,
        })
    }
}
