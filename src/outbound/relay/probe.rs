//! Owns the trial of a relay: connection, greeting, encryption and login, and no mail.
//!
//! Does not set it aside, and does not speak of mails.

use std::time::Instant;

use super::connection::RelayConnection;
use super::settings::{Relay, RelayTimeouts};

/// Speaks to a relay as far as its first mail would go, and says goodbye. Blocks, at most as long as an attempt
/// may take and the system's resolver needs.
///
/// # Errors
/// Why no mail could be given to it: at which step, in its words.
pub fn probe(relay: &Relay, hello: &str, timeouts: RelayTimeouts) -> Result<(), String> {
    let until = Instant::now() + timeouts.attempt;
    let opened = RelayConnection::open(relay, hello, timeouts, until);
    opened
        .map(RelayConnection::quit)
        .map_err(|fault| fault.to_string())
}
