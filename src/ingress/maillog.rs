//! Owns the form of a mail's addresses in log lines.
//!
//! Does not write the lines. They never contain a token.

use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::redact;

/// The null sender in log lines.
pub(super) const NULL_SENDER: &str = "<>";

/// The maximum number of recipients in one line.
const NAMED_MAX: usize = 10;

/// The first recipients, and the number of the others.
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
