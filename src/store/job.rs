//! Owns the outbox's vocabulary: jobs, their states, their attempts.
//!
//! Does not store jobs and does not send mail.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;

/// Upper bound of the entries in a job's history: the first ones and the newest are kept.
pub const HISTORY_MAX: usize = 32;

/// One mail to one person, as it was accepted. The mail's bytes are stored beside the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The job's id, chosen by the caller.
    pub id: JobId,
    /// The name of the job's route.
    pub route: String,
    /// The job's thread. Jobs of one thread are sent in the order in which they were accepted.
    pub thread_id: Option<String>,
    /// The product's own id of the message.
    pub product_message_id: Option<String>,
    /// The mail's Message-ID, in its angle brackets.
    pub message_id: String,
    /// The single recipient of the envelope.
    pub recipient: Address,
    /// The sender of the envelope, to which bounces go; `None` is the null sender.
    pub return_path: Option<Address>,
    /// The mail's subject.
    pub subject: String,
    /// The key by which a repeated request is recognised.
    pub key: [u8; 16],
    /// A second key by which a repeated request is recognised.
    #[serde(default, rename = "also")]
    pub second_key: Option<[u8; 16]>,
    /// The digest of the request's content, which identifies a different request under the same key.
    pub content: [u8; 16],
    /// Time of acceptance.
    pub made_at: Timestamp,
    /// Time at which the job is given up.
    pub ends_at: Timestamp,
}

impl Job {
    /// All keys by which a repeated request is recognised.
    pub fn keys(&self) -> impl Iterator<Item = [u8; 16]> {
        [Some(self.key), self.second_key].into_iter().flatten()
    }
}

/// The answer to a new job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueueResult {
    /// The job is on disk.
    New,
    /// A job with one of its keys exists, and nothing was changed.
    Exists {
        /// The id of the existing job.
        id: JobId,
        /// True if the existing job has the same content.
        same: bool,
    },
}

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The job waits for its next attempt.
    Waiting {
        /// Earliest time of the next attempt.
        due_at: Timestamp,
    },
    /// A relay accepted the mail.
    Sent,
    /// The mail is kept for viewing and is never sent.
    Captured,
    /// Postern gave the job up and keeps it for a person.
    Failed {
        /// The reason.
        reason: String,
    },
    /// The job was cancelled before it was sent.
    Cancelled,
    /// The mail was sent and returned.
    Bounced {
        /// The diagnostic of the other side.
        reason: String,
    },
}

impl JobState {
    /// The state without its reason or time.
    pub const fn kind(&self) -> JobStateKind {
        match self {
            Self::Waiting { .. } => JobStateKind::Waiting,
            Self::Sent => JobStateKind::Sent,
            Self::Captured => JobStateKind::Captured,
            Self::Failed { .. } => JobStateKind::Failed,
            Self::Cancelled => JobStateKind::Cancelled,
            Self::Bounced { .. } => JobStateKind::Bounced,
        }
    }

    /// The state's name in the API and on the pages.
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// A state of jobs, by which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobStateKind {
    /// The job waits for its next attempt.
    Waiting,
    /// A relay accepted the mail.
    Sent,
    /// The mail is kept for viewing.
    Captured,
    /// Postern gave the job up.
    Failed,
    /// The job was cancelled before it was sent.
    Cancelled,
    /// The mail was sent and returned.
    Bounced,
}

impl JobStateKind {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Sent,
        Self::Captured,
        Self::Failed,
        Self::Cancelled,
        Self::Bounced,
    ];

    /// The state's name in the API and on the pages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Captured => "captured",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Bounced => "bounced",
        }
    }

    /// The state with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// One entry of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Time of the entry.
    pub at: Timestamp,
    /// The kind of entry: `sent`, `deferred`, `failed`, `captured`, `cancelled`, `retried`, `bounced` or `delayed`.
    pub what: String,
    /// The relay that was reached, as `host:port`.
    pub relay: Option<String>,
    /// The relay's reply, or the cause; at most 1 KiB.
    pub reply: String,
}

/// A job with its state and history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job as it was accepted.
    pub job: Job,
    /// The job's state.
    pub state: JobState,
    /// Start of an attempt whose end is unknown: the mail may have been sent.
    pub begun_at: Option<Timestamp>,
    /// Number of attempts.
    pub attempts: u32,
    /// The number of attempts, since a person last retried the job, that ended without a reply to the end
    /// of the mail, so that the mail may have been sent.
    #[serde(default)]
    pub doubts: u32,
    /// The entries, oldest first; at most [`HISTORY_MAX`].
    pub history: Vec<AttemptRecord>,
}

/// The end of a job by an attempt or by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// A relay accepted the mail.
    Sent {
        /// The relay as `host:port`.
        relay: String,
        /// The relay's reply.
        reply: String,
    },
    /// The mail is kept for viewing.
    Captured,
    /// The job failed: a permanent refusal, or it expired.
    Failed {
        /// The relay as `host:port`, if one was reached.
        relay: Option<String>,
        /// The reason.
        reason: String,
    },
    /// The job was cancelled.
    Cancelled,
}

/// A notice about a sent job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DsnSummary {
    /// True if the delivery failed; otherwise it is only delayed.
    pub failed: bool,
    /// True if the failure is permanent for the address.
    pub hard: bool,
    /// The enhanced status, for example `5.1.1` (RFC 3463).
    pub status: Option<String>,
    /// The other side's diagnostic; at most 1 KiB.
    pub reason: String,
    /// The name of the remote MTA.
    pub remote_mta: Option<String>,
}

/// An address to which Postern sends nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// The address, folded.
    pub address: String,
    /// The reason.
    pub reason: String,
    /// The job whose mail bounced last.
    pub job: Option<JobId>,
    /// The number of jobs whose mail bounced permanently; 0 if a person suppressed the address.
    pub bounces: u32,
    /// Start of the suppression.
    pub at: Timestamp,
    /// End of the suppression.
    pub until: Timestamp,
}

/// The two sides of a conversation: Postern and one person, in one thread of one route. The route
/// distinguishes equal thread ids of two products, and the person keeps the messages to several people of
/// one thread apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationKey {
    /// The route's name.
    pub route: String,
    /// The thread's id in the product.
    pub thread_id: String,
    /// The person's address, folded.
    pub with: String,
}

/// The last message of one side of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMessage {
    /// True if Postern sent the message.
    pub by_us: bool,
    /// The author's name, if known.
    pub name: Option<String>,
    /// Time of the message.
    pub at: Timestamp,
    /// The text; at most [`LastMessage::TEXT_BYTES_MAX`].
    pub text: String,
}

impl LastMessage {
    /// Upper bound of the kept text, in octets.
    pub const TEXT_BYTES_MAX: usize = 32 * 1024;
}

/// The numbers of jobs by state. `taken` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxLedger {
    /// Jobs that were ever accepted.
    pub taken: u64,
    /// Jobs that wait for an attempt.
    pub waiting: u64,
    /// Jobs whose mail a relay accepted, including those that bounced later.
    pub sent: u64,
    /// Jobs whose mail is kept for viewing.
    pub captured: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
}

impl OutboxLedger {
    /// True if the counts of all states add up.
    pub(super) const fn adds_up(&self) -> bool {
        self.taken == self.waiting + self.sent + self.captured + self.failed + self.cancelled
    }
}
