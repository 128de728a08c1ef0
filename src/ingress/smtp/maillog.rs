//! Owns the log lines that tell the fate of a mail at this door, and how addresses look in them.
//!
//! Does not count: that is `metrics`. No token, subject or body is ever in a line.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::connection::SmtpPeer;
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, RecipientTarget};
use crate::smtp::response::Refusal;
use crate::store::MailId;

/// Recipients named in one line at most.
const NAMED_MAX: usize = 10;
/// Letters of a local part that are shown at most.
const LOCAL_SHOWN_MAX: usize = 24;

/// Says that we took responsibility for a mail.
pub(super) fn log_received(id: MailId, envelope: &Envelope, bytes: usize, peer: &SmtpPeer) {
    let sender = match &envelope.sender {
        Some(sender) => sender.domain().as_str(),
        None => "<>",
    };
    let mut recipients: Vec<String> = envelope
        .recipients
        .iter()
        .take(NAMED_MAX)
        .map(|recipient| match &recipient.target {
            RecipientTarget::Thread(_) | RecipientTarget::Return(_) => {
                mask_address(&recipient.address, true)
            }
            RecipientTarget::Mailbox(_) => mask_address(&recipient.address, false),
        })
        .collect();
    if envelope.recipients.len() > NAMED_MAX {
        recipients.push(format!("+{}", envelope.recipients.len() - NAMED_MAX));
    }
    info!(
        mail = id.0,
        connection = peer.number,
        protocol = peer.protocol_name(),
        peer = %peer.log_address(),
        sender_domain = %sender.escape_debug(),
        recipients = recipients.join(" "),
        bytes,
        tls = envelope.peer.tls.is_some(),
        "received"
    );
}

/// Says that we said no. `address` is the recipient, where it was one that was refused.
pub(super) fn log_refused(
    throttle: &LogThrottle,
    refusal: Refusal,
    address: Option<&Address>,
    peer: &SmtpPeer,
) {
    if throttle.allow() {
        let recipient = address.map(|address| mask_address(address, false));
        info!(
            refusal = refusal.name(),
            connection = peer.number,
            protocol = peer.protocol_name(),
            peer = %peer.log_address(),
            recipient,
            "refused"
        );
    }
}

/// Keeps a stranger from filling the log: so many lines a second, and then only how many were left
/// out.
#[derive(Debug)]
pub(in crate::ingress) struct LogThrottle {
    lines_max: u32,
    lines: AtomicU32,
    suppressed: AtomicU64,
    window_start: Mutex<Instant>,
}

impl LogThrottle {
    const WINDOW: Duration = Duration::from_secs(1);

    pub(super) fn new(lines_max: u32) -> Self {
        Self {
            lines_max,
            lines: AtomicU32::new(0),
            suppressed: AtomicU64::new(0),
            window_start: Mutex::new(Instant::now()),
        }
    }

    /// True if a line may be written now.
    pub(in crate::ingress) fn allow(&self) -> bool {
        {
            let mut second = self
                .window_start
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if second.elapsed() >= Self::WINDOW {
                *second = Instant::now();
                self.lines.store(0, Ordering::Relaxed);
                let lines = self.suppressed.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    warn!(lines, "log lines of refusals left out");
                }
            }
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < self.lines_max {
            return true;
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl Default for LogThrottle {
    /// 50 lines a second: about 4 million a day at the worst.
    fn default() -> Self {
        Self::new(50)
    }
}

/// The address with whatever may be a token cut away: `reply+…@example.com`.
pub(in crate::ingress) fn mask_address(address: &Address, token: bool) -> String {
    let local = address.local();
    let domain = address.domain().as_str().escape_debug();
    // What a token is worth guarding has a separator before it or is long.
    let shown = match local.find(['+', '-']) {
        Some(at) if at < LOCAL_SHOWN_MAX => &local[..=at],
        None if !token && local.chars().count() <= LOCAL_SHOWN_MAX => {
            return format!("{}@{domain}", local.escape_debug());
        }
        _ => "",
    };
    format!("{}…@{domain}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_cut_away() {
        for (address, shown) in [
            ("reply+gezdgnbvgy3tqojq@in.example", "reply+…@in.example"),
            ("reply-gezdgnbvgy3tqojq@in.example", "reply-…@in.example"),
            (
                "gezdgnbvgy3tqojqgezdgnbvgy3tqojq@in.example",
                "…@in.example",
            ),
            (
                "gezdgnbvgy3tqojqgezdgnbvgy3tqojq+x@in.example",
                "…@in.example",
            ),
            ("general@in.example", "general@in.example"),
            ("\"a b\"@in.example", "a b@in.example"),
            ("\u{202e}x@in.example", "\\u{202e}x@in.example"),
        ] {
            assert_eq!(
                mask_address(&Address::parse(address).unwrap(), false),
                shown
            );
        }
        let short = Address::parse("abc@in.example").unwrap();
        assert_eq!(mask_address(&short, true), "…@in.example");
    }

    #[test]
    fn a_flood_of_lines_is_cut() {
        let throttle = LogThrottle::new(3);
        *throttle.window_start.lock().unwrap() = Instant::now() + Duration::from_secs(3_600);
        let passed = (0..100).filter(|_| throttle.allow()).count();
        assert_eq!(passed, 3);
        assert_eq!(throttle.suppressed.load(Ordering::Relaxed), 97);
        *throttle.window_start.lock().unwrap() = Instant::now() - LogThrottle::WINDOW;
        assert!(throttle.allow());
        assert_eq!(throttle.suppressed.load(Ordering::Relaxed), 0);
    }
}
