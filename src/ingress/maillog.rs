//! Owns how the addresses of a mail look in log lines.
//!
//! Does not write the lines. No token is ever in one.

use crate::mail::address::Address;
use crate::mail::envelope::{Recipient, RecipientTarget};

/// The null sender, as log lines have it.
pub(super) const NULL_SENDER: &str = "<>";

/// Recipients named in one line at most.
const NAMED_MAX: usize = 10;
/// Characters of a local part that are shown at most.
const LOCAL_SHOWN_MAX: usize = 24;

/// The first recipients, and how many more there are.
pub(super) fn masked_recipients(recipients: &[Recipient]) -> String {
    let named = recipients.iter().take(NAMED_MAX).map(|recipient| {
        let has_token = match &recipient.target {
            RecipientTarget::Thread(_) | RecipientTarget::Return(_) => true,
            RecipientTarget::Mailbox(_) => false,
        };
        mask_address(&recipient.address, has_token)
    });
    let mut named: Vec<String> = named.collect();
    if recipients.len() > NAMED_MAX {
        named.push(format!("+{}", recipients.len() - NAMED_MAX));
    }
    named.join(" ")
}

/// The address without whatever may be a token: `reply+…@example.com`.
pub(super) fn mask_address(address: &Address, has_token: bool) -> String {
    let local = address.local();
    let domain = address.domain().as_str().escape_debug();
    // A token has a separator before it, or is long.
    let shown = match local.find(['+', '-']) {
        Some(at) if at < LOCAL_SHOWN_MAX => &local[..=at],
        None if !has_token && local.chars().count() <= LOCAL_SHOWN_MAX => {
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
            let address = Address::parse(address).unwrap();
            assert_eq!(mask_address(&address, false), shown);
        }
        let short = Address::parse("abc@in.example").unwrap();
        assert_eq!(mask_address(&short, true), "…@in.example");
    }
}
