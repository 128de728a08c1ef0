//! Owns the words the outbox is spoken of in: a job, what became of it, what was tried.
//!
//! Does not keep them, and sends nothing.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;

/// Entries of one job's history at most: the first ones and the newest are kept.
pub const HISTORY_MAX: usize = 32;

/// One mail to one person, as it was taken. The mail's bytes lie beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, chosen by whoever hands it in.
    pub id: JobId,
    /// The name of the route it belongs to.
    pub route: String,
    /// The thread it belongs to. Jobs of one thread leave in the order in which they came.
    pub thread_id: Option<String>,
    /// The product's own id of the message.
    pub product_message_id: Option<String>,
    /// The mail's Message-ID, in its angle brackets.
    pub message_id: String,
    /// Whom it is for: the envelope's one recipient.
    pub recipient: Address,
    /// The envelope's sender, where bounces go; `None` is the null sender.
    pub return_path: Option<Address>,
    /// The mail's subject.
    pub subject: String,
    /// By which the same request coming again is known.
    pub key: [u8; 16],
    /// What it is known by too.
    #[serde(default)]
    pub also: Option<[u8; 16]>,
    /// The digest of what was asked for: another request under the same key differs in it.
    pub content: [u8; 16],
    /// When it was taken.
    pub made_at: Timestamp,
    /// When it is given up.
    pub ends_at: Timestamp,
}

impl Job {
    /// All that it is known by if the same request comes again.
    pub fn keys(&self) -> impl Iterator<Item = [u8; 16]> {
        [Some(self.key), self.also].into_iter().flatten()
    }
}

/// What `Store::enqueue` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueueResult {
    /// The job is on disk.
    New,
    /// A job with one of its keys is there already, and nothing was done.
    Exists {
        /// That job.
        id: JobId,
        /// It asked for the same.
        same: bool,
    },
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its next attempt.
    Waiting {
        /// When that is, at the earliest.
        due_at: Timestamp,
    },
    /// A relay took it.
    Sent,
    /// It is kept to be looked at, and never sent.
    Captured,
    /// It was given up, and is kept for a person.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was called back before it was sent.
    Cancelled,
    /// It was sent and came back.
    Bounced {
        /// What the other side said.
        reason: String,
    },
}

impl JobState {
    /// The state without its reason or moment.
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

    /// The state's name, as programs ask for it and pages show it.
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
    /// The mail was sent and came back.
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

    /// The state's name, as programs ask for it and pages show it.
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

/// One line of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// When.
    pub at: Timestamp,
    /// What: `sent`, `deferred`, `failed`, `captured`, `cancelled`, `retried`, `bounced` or `delayed`.
    pub what: String,
    /// The relay that was spoken to, as `host:port`.
    pub relay: Option<String>,
    /// What it said, or why; at most 1 KiB.
    pub reply: String,
}

/// A job with all that became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// As it was taken.
    pub job: Job,
    /// Where it is.
    pub state: JobState,
    /// An attempt began then, and nothing is known of its end: it may have been sent.
    pub begun_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// How often it was put off in doubt, for no answer to the end of the mail came and it may have been sent;
    /// since a person last had it tried again.
    #[serde(default)]
    pub doubts: u32,
    /// Oldest first, at most [`HISTORY_MAX`].
    pub history: Vec<AttemptRecord>,
}

/// How an attempt, or a person's word, ended a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// A relay took it.
    Sent {
        /// As `host:port`.
        relay: String,
        /// What it said.
        reply: String,
    },
    /// It is kept to be looked at.
    Captured,
    /// It is given up: no for good, or too old.
    Failed {
        /// As `host:port`, if one was spoken to.
        relay: Option<String>,
        /// Why.
        reason: String,
    },
    /// It was called back.
    Cancelled,
}

/// A notice that came back about a job that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DsnSummary {
    /// It will not be delivered; else it only takes longer.
    pub failed: bool,
    /// The address will never work; else it may another time.
    pub hard: bool,
    /// The enhanced status, as `5.1.1` (RFC 3463).
    pub status: Option<String>,
    /// The diagnostic in the other side's words; at most 1 KiB.
    pub reason: String,
    /// The name of the MTA that said so.
    pub remote_mta: Option<String>,
}

/// An address nothing is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// The address, folded.
    pub address: String,
    /// Why.
    pub reason: String,
    /// The job that came back last.
    pub job: Option<JobId>,
    /// How many jobs came back for good; 0 if a person put it there.
    pub bounces: u32,
    /// Since when.
    pub at: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Between whom words went: us and one person, in one thread of one route. Two products may have threads of
/// the same id, and in one thread several people may write who are not to read each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationKey {
    /// The route's name.
    pub route: String,
    /// The thread's id in the product.
    pub thread_id: String,
    /// The person's address, folded.
    pub with: String,
}

/// Words of a talk that were written last, on one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastMessage {
    /// We sent them; else they came in.
    pub by_us: bool,
    /// Who wrote them, if that is known.
    pub name: Option<String>,
    /// When.
    pub at: Timestamp,
    /// What; at most [`LastMessage::TEXT_BYTES_MAX`].
    pub text: String,
}

impl LastMessage {
    /// Octets of a text that are kept.
    pub const TEXT_BYTES_MAX: usize = 32 * 1024;
}

/// How many jobs there are of each state. `taken` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxLedger {
    /// Ever taken.
    pub taken: u64,
    /// Not over.
    pub waiting: u64,
    /// Taken by a relay, those that came back later among them.
    pub sent: u64,
    /// Kept to be looked at.
    pub captured: u64,
    /// Given up.
    pub failed: u64,
    /// Called back.
    pub cancelled: u64,
}

impl OutboxLedger {
    /// Every job that was taken is somewhere.
    pub(super) const fn adds_up(&self) -> bool {
        self.taken == self.waiting + self.sent + self.captured + self.failed + self.cancelled
    }
}
