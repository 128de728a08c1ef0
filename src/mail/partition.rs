//! Owns the name of a partition: the mails of one partition are delivered one after the other.
//!
//! Does not store the queues, and does not decide which mail is next.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::envelope::{Envelope, Recipient, RecipientTarget};

/// The name of a partition: of a token's thread, of a returned mail, or of a sender to a route's mailboxes.
/// The name is a hash, so that a long address costs no more than a short one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionKey(pub u128);

impl PartitionKey {
    /// The partition of a mail with this envelope for this recipient.
    pub fn of(envelope: &Envelope, recipient: &Recipient) -> Self {
        let mut hash = Sha256::new();
        hash.update(recipient.route.as_bytes());
        match &recipient.target {
            RecipientTarget::Thread(claims) => {
                hash.update(b"\0thread\0");
                hash.update(claims.thread.0);
            }
            RecipientTarget::Return(job) => {
                hash.update(b"\0return\0");
                hash.update(job.0);
            }
            RecipientTarget::Mailbox(_) => {
                hash.update(b"\0sender\0");
                let sender = envelope.sender.as_ref();
                hash.update(sender.map(|s| s.folded()).unwrap_or_default());
            }
        }
        let digest = hash.finalize();
        Self(u128::from_be_bytes(std::array::from_fn(|at| digest[at])))
    }
}

impl fmt::Debug for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
