//! Owns the wire: one SMTP or LMTP conversation as a machine of bytes in, bytes out.
//!
//! Touches no socket and no clock, keeps no mail, and decides neither who is a recipient nor whether
//! a mail may be stored: it asks.

mod body;
mod client;
mod command;
mod line;
pub mod response;
pub mod session;
mod settings;
mod transaction;
