//! Owns the SMTP and LMTP dialogue as a state machine over bytes.
//!
//! Uses no socket and no clock, stores no mail, and decides neither about recipients nor about acceptance:
//! it asks the caller.

mod body;
mod client;
mod command;
mod line;
pub mod response;
pub mod session;
mod settings;
mod transaction;
