//! Owns the log lines that tell the fate of a mail at this door, and how addresses look in them.
//!
//! Does not count: that is `metrics`. No token, subject or body is ever in a line.

use tracing::info;

use super::connection::SmtpPeer;
use crate::limits::LogThrottle;
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
}
