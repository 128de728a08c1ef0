//! Owns telling the product what happened: each event, in order, to each subscriber's
//! webhook, and to the log.
//!
//! Does not decide what is an event: the facts in the store say so. Does not serve the stream of
//! events, which is `http`'s.
//!
//! Each subscriber has a place in the store: all events up to it were told or given up, but for a few that
//! are named. What was told beyond it when the process ended is told again under the same `webhook-id`.
//! Events of one thread are told one after the other; those of different threads overtake each other.

mod metrics;
mod order;
mod subscriber;
mod webhook;

pub use metrics::Metrics;
pub use subscriber::{EventSink, Subscriber, SubscriberSettings};
pub use webhook::{
    EventWebhook, EventWebhookError, EventWebhookSettings, WebhookSigner, WebhookSignerError,
};
