//! Owns everything served over HTTP: health, metrics, the embedded Messages API, webhooks, the event
//! stream, the pages for operators, and the control socket of the command line.
//!
//! Does not deliver, and does not interpret the mail it receives.

pub mod admin;
mod attachments;
pub mod auth_failures;
#[cfg(test)]
mod contract;
pub mod control;
mod endpoint;
pub mod error;
mod extract;
pub mod health;
mod idempotency;
pub mod keys;
pub mod messages;
pub mod metrics;
pub mod outbound;
mod page;
pub mod router;
mod schema;
pub mod server;
pub mod stream;
pub mod webhook;
