//! Owns the operations on mail that is not settled: list, show, retry, park, drop and cancel, of
//! incoming deliveries and of outgoing jobs.
//!
//! Does not print or answer requests: the command line, the HTTP API and the pages share these operations.

mod bulk;
mod incoming;
mod named_thread;
mod outgoing;

use thiserror::Error;

use crate::store::StoreError;

pub use bulk::{BulkAction, BulkPage, MailFilter};
pub use incoming::{
    MailQueue, PendingRetry, QueueEnd, QueueState, QueuedMail, RetryLookup, WakeLine,
};
pub use named_thread::NamedThread;
pub use outgoing::{JobQueue, QueuedJob, SendNow};

/// The reason why an operation failed. Nothing has changed.
#[derive(Debug, Error)]
pub enum QueueError {
    /// There is no delivery, job or mail of this name; the text names which.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The state of the delivery or job does not allow the operation; the text says why.
    #[error("{0}")]
    WrongState(String),
    /// An attempt at the delivery is in progress.
    #[error("it is being delivered now, try again")]
    Busy,
    /// The bytes of the mail cannot be read from the journal.
    #[error("the mail cannot be read")]
    Unreadable,
    /// The store does not accept the change.
    #[error("the store accepts no change")]
    Store(#[from] StoreError),
}
