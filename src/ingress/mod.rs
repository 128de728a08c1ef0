//! Owns the doors mail comes in by.
//!
//! Does not keep mail: every door hands it to the store before it says yes.

pub mod imap;
pub mod routes;
pub mod smtp;
pub mod webhook;
