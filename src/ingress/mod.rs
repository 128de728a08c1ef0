//! Owns the doors mail comes in by.
//!
//! Does not keep mail: every door hands it to the store before it answers that it was taken.

pub mod accept;
pub mod imap;
mod maillog;
pub mod routes;
pub mod smtp;
pub mod webhook;
