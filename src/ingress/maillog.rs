//! Owns how the addresses of a mail look in log lines.
//!
//! Does not write the lines. No token is ever in one.

use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::redact;

/// The null sender, as log lines have it.
pub(super) const NULL_SENDER: &str = "<>";

/// Recipients named in one line at most.
const NAMED_MAX: usize = 10;

/// The first recipients, and how many more there are.
pub(super) fn masked_recipients(recipients: &[Recipient]) -> String {
    let named = recipients.iter().take(NAMED_MAX).map(|recipient| {
        let has_token = match &recipient.target {
            RecipientTarget::Thread(_) | RecipientTarget::Return(_) => true,
            RecipientTarget::Mailbox(_) => false,
        };
        redact::masked(&recipient.address, has_token)
    });
    let mut named: Vec<String> = named.collect();
    if recipients.len() > NAMED_MAX {
        named.push(format!("+{}", recipients.len() - NAMED_MAX));
    }
    named.join(" ")
}
