//! Owns the path from the journal to the Messages API: every waiting delivery, once, in order.
//!
//! Does not accept mail.

pub mod api;
mod api_calls;
mod api_outcome;
pub mod attachments;
mod attempt;
pub mod bounces;
mod circuit_breaker;
mod context;
mod event_facts;
pub mod known_facts;
pub mod line_waker;
mod loop_detector;
pub mod message;
pub mod metrics;
pub mod omitted;
pub mod parsed_mail;
mod partitions;
pub mod plan;
pub mod policy;
pub mod retry_status;
pub mod route;
mod runner;
mod settings;
pub mod sorting;
mod thread_facts;
pub mod worker;
