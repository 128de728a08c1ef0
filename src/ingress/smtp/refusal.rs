//! Owns the log lines about refusals, and the single line for a client above the connection limit.
//!
//! Does not choose the refusal.

use std::net::IpAddr;

use tracing::{info, warn};

use super::SmtpContext;
use super::peer::SmtpPeer;
use super::stream::SmtpStream;
use crate::limits::LogThrottle;
use crate::mail::address::Address;
use crate::mail::redact;
use crate::smtp::response::Refusal;

/// Sends one line to a rejected client, if that is possible without waiting.
pub(super) fn refuse_connection(
    stream: &SmtpStream,
    peer: &SmtpPeer,
    refusal: Refusal,
    context: &SmtpContext,
) {
    let mut line = Vec::new();
    refusal.write(&mut line);
    stream.try_send(&line);
    context.metrics.connection_refused(refusal.name());
    log_refused(&context.throttle, refusal, (peer, None), None);
}

/// Logs a refusal of a peer, and of its client if the peer is a relay that has named one. `recipient` is the
/// refused address, if there is one.
pub(super) fn log_refused(
    throttle: &LogThrottle,
    refusal: Refusal,
    (peer, client): (&SmtpPeer, Option<IpAddr>),
    recipient: Option<&Address>,
) {
    if throttle.allow() {
        let recipient = recipient.map(|address| redact::masked(address, false));
        let client = client
            .filter(|ip| Some(*ip) != peer.ip)
            .map(|ip| ip.to_string());
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    refusal = refusal.name(),
                    connection = peer.number,
                    protocol = peer.protocol_name(),
                    peer = %peer.log_address(),
                    client,
                    recipient,
                    "refused"
                )
            };
        }
        // A full store refuses every mail until an operator frees space.
        match refusal {
            Refusal::StoreFull => log!(warn),
            _ => log!(info),
        }
    }
}
