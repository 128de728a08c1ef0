//! Owns the test of a relay: connection, greeting, TLS and authentication, without a mail.
//!
//! Does not mark the relay as failed.

use std::time::Instant;

use super::connection::RelayConnection;
use super::settings::{Relay, RelayTimeouts};

/// Opens a session up to the point before the first mail, and quits. Blocks for the time of an
/// attempt and of the system's resolver at most.
///
/// # Errors
/// The step that failed, with the relay's text.
pub fn probe(relay: &Relay, hello: &str, timeouts: RelayTimeouts) -> Result<(), String> {
    let until = Instant::now() + timeouts.attempt;
    let opened = RelayConnection::open(relay, hello, timeouts, until);
    opened
        .map(RelayConnection::quit)
        .map_err(|fault| fault.to_string())
}
