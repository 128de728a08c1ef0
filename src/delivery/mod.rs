//! Owns the way from the journal to the Messages API: every waiting delivery, once, in order.
//!
//! Does not take mail in and does not answer it.

mod answer;
pub mod api;
pub mod attachments;
mod attempt;
mod breaker;
mod gate;
mod job;
mod lanes;
mod locks;
pub mod message;
pub mod metrics;
mod place;
pub mod policy;
mod posting;
pub mod reading;
mod returned;
pub mod route;
pub mod sorting;
mod telling;
pub mod underway;
pub mod waits;
pub mod worker;
