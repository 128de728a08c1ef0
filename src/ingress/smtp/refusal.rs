//! Owns the log lines of what was refused, and the one line that a client without a place receives.
//!
//! Does not choose the refusal.

use tracing::{info, warn};

use super::SmtpContext;
use super::peer::SmtpPeer;
use super::stream::SmtpStream;
use crate::limits::LogThrottle;
use crate::mail::address::Address;
use crate::mail::redact;
use crate::smtp::response::Refusal;

/// Sends one line to a client that is not let in, if that can be done without waiting.
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
    log_refused(&context.throttle, refusal, None, peer);
}

/// Logs a refusal. `recipient` is the address that was refused, where it was one.
pub(super) fn log_refused(
    throttle: &LogThrottle,
    refusal: Refusal,
    recipient: Option<&Address>,
    peer: &SmtpPeer,
) {
    if throttle.allow() {
        let recipient = recipient.map(|address| redact::masked(address, false));
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    refusal = refusal.name(),
                    connection = peer.number,
                    protocol = peer.protocol_name(),
                    peer = %peer.log_address(),
                    recipient,
                    "refused"
                )
            };
        }
        // A full store refuses every mail until a person makes room.
        match refusal {
            Refusal::StoreFull => log!(warn),
            _ => log!(info),
        }
    }
}
