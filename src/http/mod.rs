//! Owns what is served over HTTP: health, metrics, the embedded Messages API, the path of
//! webhooks, the stream of events, the pages for people, and the control socket of the command line.
//!
//! Does not deliver, and does not know whose mail it carries in.

pub mod admin;
mod attachments;
#[cfg(test)]
mod contract;
pub mod control;
pub mod error;
pub mod health;
mod idempotency;
pub mod keys;
pub mod messages;
pub mod metrics;
pub mod outbound;
mod path_text;
pub mod router;
pub mod server;
pub mod stream;
pub mod webhook;
