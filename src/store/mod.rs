//! Owns everything that must survive a crash: accepted mail and the data about it, behind one interface.
//!
//! Does not interpret mail, post it or send it; knows nothing of SMTP or HTTP.
//!
//! ```text
//! handle             Store: the handle for the rest of the program
//! door               the interface, in four parts, independent of the backend
//! fact, job, event   the vocabulary: recorded facts and answers
//! id, error          ids, and the reasons for errors
//! claim              a worker's claim, renewed as it works
//! embedded           the store in one folder, for one process
//! ```

mod claim;
mod door;
mod embedded;
mod error;
mod event;
mod fact;
mod handle;
mod id;
mod job;
mod metrics;
mod settings;

#[cfg(test)]
pub(crate) mod ask;
#[cfg(test)]
mod tests;

pub use claim::WorkClaim;
pub use door::{
    Claim, Domains, EventLog, Lease, LeaseName, MailQueue, Nonce, Outbox, StoreBackend, Threads,
    TokenFacts, TokenQuestion, Work,
};
pub use embedded::mend::{CheckReport, Report as MendReport, check, mend};
pub use embedded::messages::{DocumentPage, EmbeddedMessages, PageLimit};
pub use error::{OpenError, ReadError, StoreError};
pub use event::{CURSOR_GAPS_MAX, Cursor, Event, EventKind};
pub use fact::{
    Delivery, DeliveryOutcome, DeliveryStep, Fact, ImapPosition, Ledger, Mapping, PlannedLinks,
    PlannedPost, QuotedMessage, SkippedFile,
};
pub use handle::Store;
pub use id::{DeliveryId, EventId, IdError, MailId};
pub use job::{
    AttemptRecord, ConversationKey, DsnSummary, EnqueueResult, HISTORY_MAX, Job, JobOutcome,
    JobRecord, JobState, JobStateKind, LastMessage, OutboxLedger, Suppression,
};
pub use metrics::Metrics;
pub use settings::Settings;

/// The largest number of recipients of one mail.
pub const RECIPIENTS_MAX: usize = 1000;
