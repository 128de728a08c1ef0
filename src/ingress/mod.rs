//! Owns the doors for incoming mail.
//!
//! Does not keep mail: every door stores a mail before it reports the acceptance.

pub mod accept;
pub mod imap;
mod maillog;
pub mod routes;
pub mod smtp;
pub mod webhook;
