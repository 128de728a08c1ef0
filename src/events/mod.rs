//! Owns the notification of subscribers: each event, in order, to each subscriber's webhook and to the log.
//!
//! Does not define events: the facts in the store do. Does not serve the event stream; `http` does.
//!
//! Each subscriber has a cursor in the store: all events up to it were delivered or given up, except a few
//! that are listed. Events delivered beyond the cursor before the process ended are delivered again under
//! the same `webhook-id`. Events of one thread are delivered one after the other; those of different
//! threads may overtake each other.

mod metrics;
mod order;
mod subscriber;
mod webhook;

pub use metrics::Metrics;
pub use subscriber::{EventSink, Subscriber, SubscriberSettings};
pub use webhook::{
    EventWebhook, EventWebhookError, EventWebhookSettings, WebhookSigner, WebhookSignerError,
};
