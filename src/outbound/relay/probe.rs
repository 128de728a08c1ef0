//! Owns the test of a relay: connection, greeting, TLS and authentication, without a mail.
//!
//! Does not mark the relay as failed.

use std::time::Instant;

use prometheus_client::metrics::gauge::Gauge;

use super::connection::RelayConnection;
use super::settings::{Relay, RelayTimeouts};

/// Opens a session up to the point before the first mail, and quits. It takes the time of an attempt at
/// most.
///
/// # Errors
/// The step that failed, with the relay's text.
pub async fn probe(relay: &Relay, hello: &str, timeouts: RelayTimeouts) -> Result<(), String> {
    let until = Instant::now() + timeouts.attempt;
    let uncounted = Gauge::default();
    let opened = RelayConnection::open(relay, hello, timeouts, until, &uncounted).await;
    match opened {
        Ok(connection) => {
            connection.quit().await;
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}
