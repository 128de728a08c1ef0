//! Owns the mail transaction: the sender and the recipients accepted so far.
//!
//! Does not have the mail's bytes until its end.

use std::fmt;

use bytes::Bytes;

use super::client::RelayedClient;
use crate::mail::address::Address;
use crate::mail::envelope::Recipient;

/// A complete mail and its envelope, to be stored.
#[derive(Clone)]
pub struct Transaction {
    /// The reverse-path; `None` is the null sender.
    pub sender: Option<Address>,
    /// The accepted recipients, at least one, in the order of their first RCPT and each once.
    pub recipients: Vec<Recipient>,
    /// True if the transaction used SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The peer's name in EHLO, HELO or LHLO, unchanged: UTF-8 without control characters, at most 255
    /// octets, otherwise not checked.
    pub helo: String,
    /// True if the peer used EHLO or LHLO, not HELO: "with ESMTP", not "with SMTP" (RFC 3848).
    pub extended: bool,
    /// The peer's client, if the peer is a relay and named one.
    pub client: Option<RelayedClient>,
    /// The mail's bytes, dot-unstuffed.
    pub bytes: Bytes,
}

impl fmt::Debug for Transaction {
    /// Leaves out the recipients' addresses, which contain tokens, and the mail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("sender", &self.sender)
            .field("recipients", &self.recipients.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// An incomplete mail: from MAIL to the end of DATA.
pub(super) struct OpenTransaction {
    pub(super) sender: Option<Address>,
    pub(super) smtputf8: bool,
    pub(super) recipients: Vec<Recipient>,
    /// For each accepted RCPT, its index in `recipients`. LMTP sends one response per RCPT, also if two
    /// name the same recipient (RFC 2033 section 4.2).
    pub(super) recipient_indices: Vec<usize>,
}

impl OpenTransaction {
    pub(super) const fn new(sender: Option<Address>, smtputf8: bool) -> Self {
        Self {
            sender,
            smtputf8,
            recipients: Vec::new(),
            recipient_indices: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, recipient: Recipient) {
        let known = self.recipients.iter().position(|held| *held == recipient);
        self.recipient_indices
            .push(known.unwrap_or(self.recipients.len()));
        if known.is_none() {
            self.recipients.push(recipient);
        }
    }
}
