//! Owns the store's interface, in four parts.
//!
//! Does not prescribe the storage; each backend chooses its own.
//!
//! ```text
//! MailQueue      incoming mail: accepted, waiting, parked, settled
//! Threads        mappings, links, tokens, the last messages of a conversation
//! Outbox         outgoing jobs, and the suppressed addresses
//! EventLog       the events for the product, in order, and the position of each subscriber
//! StoreBackend   the four parts, and the facts that change them
//! ```
//!
//! All writes are facts: the facts of one call are recorded atomically, whichever parts they concern.
//! Questions are asynchronous, because the answer may be on a disk or in another process; four that need an
//! immediate answer ([`MailQueue::has_room`], the two ledgers, [`EventLog::newest_event`]) are answered
//! from memory, and a shared store would answer them from its latest known state.
//!
//! The parts are object-safe traits behind [`Store`](super::Store), an `Arc<dyn StoreBackend>`: a second
//! backend is another type that implements them, chosen at the start, and no caller is generic over it. The
//! one allocation per call is cheap compared with a sync.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::error::{ReadError, StoreError};
use super::event::{Cursor, Event};
use super::fact::{Delivery, Fact, ImapPosition, Ledger, Mapping};
use super::id::{DeliveryId, EventId, MailId};
use super::job::{
    ConversationKey, EnqueueResult, Job, JobRecord, JobStateKind, LastMessage, OutboxLedger,
    Suppression,
};
use super::metrics::Metrics;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::job_id::JobId;
use crate::mail::partition::PartitionKey;
use crate::mail::token::ThreadKey;

/// Incoming mail, until it is settled for each of its recipients.
///
/// # Errors
/// Every question fails with [`StoreError::Unavailable`] if the answer is not available now,
/// [`StoreError::Damaged`] if it is in an unreadable record, and [`StoreError::Dead`] if the store has
/// stopped. The same holds for the other three parts.
#[async_trait]
pub trait MailQueue: Send + Sync {
    /// Checks that another mail of `bytes` bytes would be accepted now. Answered from memory.
    fn has_room(&self, bytes: u64) -> Result<(), StoreError>;

    /// Accepts a mail, which is on disk when this returns. If the caller is cancelled before, the mail may
    /// or may not be kept.
    ///
    /// # Errors
    /// Nothing was accepted.
    ///
    /// # Panics
    /// If there are not 1 to [`RECIPIENTS_MAX`](super::RECIPIENTS_MAX) recipients.
    async fn accept(&self, envelope: Envelope, bytes: Bytes) -> Result<MailId, StoreError>;

    /// The number of deliveries in each state, of all that were ever accepted. Answered from memory.
    fn ledger(&self) -> Ledger;

    /// The next waiting deliveries after `after`, in order of arrival, at most `count`.
    async fn waiting(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// The next parked deliveries after `after`, in order of arrival, at most `count`.
    async fn parked(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// A delivery that waits or is parked; `None` if it is settled or never existed.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;

    /// The first waiting delivery in the partition of a waiting delivery, which is delivered before it;
    /// `None` if that is the delivery itself, or if it does not wait. Answered from memory.
    async fn delivery_ahead(&self, id: DeliveryId) -> Result<Option<DeliveryId>, StoreError>;

    /// The bytes of the mail as received.
    ///
    /// # Errors
    /// The mail is settled for all its recipients, or cannot be read.
    async fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError>;

    /// The settled delivery of a mail with this fingerprint, if it was settled within the deduplication
    /// window before `now`. A delivery that was parked and released finds itself.
    async fn find_duplicate(
        &self,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<DeliveryId>, StoreError>;

    /// The next waiting deliveries of a claim after `after`, in order of arrival, at most `count`, each
    /// with its partition, which is `None` if only the mail's envelope contains it.
    async fn waiting_with_partitions(
        &self,
        claim: &Claim,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<(DeliveryId, Option<PartitionKey>)>, StoreError>;

    /// Resolves when a delivery was accepted or released since the last call. For one caller: of several
    /// waiters only one wakes.
    async fn mail_arrived(&self);

    /// The last recorded position in a folder of an IMAP server.
    async fn imap_position(&self, mailbox: &str) -> Result<Option<ImapPosition>, StoreError>;

    /// Binds a nonce to the content of its first use; the binding is on disk when this returns. The same
    /// nonce with the same content is a retry and returns true; `false` means that the nonce is bound to
    /// other content.
    async fn bind_nonce(&self, nonce: Nonce) -> Result<bool, StoreError>;

    /// The digest of the content to which a nonce is bound.
    async fn nonce_used(&self, nonce: [u8; 16]) -> Result<Option<[u8; 16]>, StoreError>;
}

/// The conversations in the product, and the ways to find a mail's thread.
#[async_trait]
pub trait Threads: Send + Sync {
    /// The thread of a route for a token's key.
    async fn thread(&self, route: &str, key: ThreadKey) -> Result<Option<Mapping>, StoreError>;

    /// The thread of a route for a Message-ID, and true if we sent that mail.
    async fn thread_by_message_id(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(Mapping, bool)>, StoreError>;

    /// The newest thread of this sender with this normalised subject, if its last change was at `since` or
    /// later.
    async fn thread_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Result<Option<Mapping>, StoreError>;

    /// The thread id and the time of issue that were recorded for a token's digest.
    async fn issued_token(
        &self,
        token: [u8; 16],
    ) -> Result<Option<(String, Timestamp)>, StoreError>;

    /// The thread id that was recorded for a token's digest.
    async fn thread_by_token(&self, token: [u8; 16]) -> Result<Option<String>, StoreError> {
        Ok(self.issued_token(token).await?.map(|(thread, _)| thread))
    }

    /// True if the token with this digest was revoked.
    async fn is_revoked(&self, token: [u8; 16]) -> Result<bool, StoreError>;

    /// The last message of one side of a conversation.
    async fn last_message(
        &self,
        conversation: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<LastMessage>, StoreError>;

    /// Marks a message with this text as in flight, until the lease is dropped: it is being posted into a
    /// thread of the product. The caller records the id of the message before it drops the lease.
    async fn begin_posting(
        &self,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Result<Lease, StoreError>;

    /// True if a message of exactly this text, apart from white space, is in flight into this thread;
    /// `None` if no message is, so that every posted message has its id in the store.
    async fn is_posting(
        &self,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Result<Option<bool>, StoreError>;

    /// Waits for the lock on a thread. A caller that changes a mapping must hold it from reading the
    /// mapping until the change is recorded.
    async fn lock_thread(&self, key: ThreadKey) -> Result<Lease, StoreError>;
}

/// Outgoing mail: one job for each mail to one person.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Accepts `mail` for sending; it is on disk when this returns [`EnqueueResult::New`]. `facts` are
    /// recorded atomically with it; if the job exists already, none is.
    ///
    /// # Errors
    /// `Full` if too many jobs or too many bytes of mail are waiting, or the disk is full. Nothing was
    /// recorded.
    async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<EnqueueResult, StoreError>;

    /// Cancels a job. `true` means that it is cancelled; `false` means that an attempt may be in progress,
    /// or no such job is waiting, and nothing was changed.
    async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, StoreError>;

    /// A job, if it is still stored.
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;

    /// The job with this key, if it is still stored.
    async fn job_by_key(&self, key: [u8; 16]) -> Result<Option<JobRecord>, StoreError>;

    /// The composed mail of a job that is waiting, failed or captured.
    ///
    /// # Errors
    /// The job is over or not stored, or its mail cannot be read.
    async fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError>;

    /// The jobs in this state (`None`: in any), newest first, at most `count` after `after`. Of the jobs
    /// without a stored mail only the last thousand are listed; nothing follows an unknown job.
    async fn jobs(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError>;

    /// The oldest waiting job to the same recipient in the same thread as a waiting job, which is sent
    /// before it; `None` if that is the job itself, or if it does not wait. Answered from memory.
    async fn job_ahead(&self, id: JobId) -> Result<Option<JobId>, StoreError>;

    /// The jobs of a claim that are due at `now`, the longest overdue first, at most `count`, without
    /// leased ones. Of the jobs of one thread only the oldest can be due. A job that would wait for more
    /// than a week counts as due, because the clock must have been set back.
    async fn due_jobs(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError>;

    /// The first job of a claim due at `now` to each recipient domain, with the domain in A-labels, at most
    /// `count`, the longest overdue first. The domains in `closed` and leased jobs are left out.
    async fn due_by_domain(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
        closed: &Domains,
    ) -> Result<Vec<(JobId, Arc<str>)>, StoreError>;

    /// The time at which the next job is due that [`Outbox::due_by_domain`] would return.
    async fn next_due(
        &self,
        claim: &Claim,
        closed: &Domains,
    ) -> Result<Option<Timestamp>, StoreError>;

    /// Leases a job for one attempt; `None` if it is leased already, or if `domain_max` jobs to its domain
    /// are.
    async fn lease_job(
        &self,
        claim: &Claim,
        job: JobId,
        domain: &Arc<str>,
        domain_max: usize,
    ) -> Result<Option<Lease>, StoreError>;

    /// Resolves when a job was enqueued or released since the last call. For one caller.
    async fn job_arrived(&self);

    /// The number of jobs in each state. Answered from memory.
    fn outbox_ledger(&self) -> OutboxLedger;

    /// The entry of an address on the suppression list, if it is valid at `now`.
    async fn suppression(
        &self,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<Suppression>, StoreError>;

    /// The suppression list in a stable order, at most `count` after the address `after`.
    async fn suppressions(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Suppression>, StoreError>;
}

/// The events for the product, in the order in which they happened.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The next events after `after`, in order, at most `count`.
    async fn events_after(
        &self,
        after: EventId,
        count: usize,
    ) -> Result<Vec<(EventId, Arc<Event>)>, StoreError>;

    /// An event, if it is still kept.
    async fn event(&self, id: EventId) -> Result<Option<Arc<Event>>, StoreError>;

    /// True if an event after `read` was deleted.
    async fn has_gap_after(&self, read: EventId) -> Result<bool, StoreError>;

    /// The newest event, and each newer one when it is recorded. Answered from memory.
    fn newest_event(&self) -> watch::Receiver<EventId>;

    /// The position of a subscriber, if it ever received an event.
    async fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, StoreError>;
}

/// A complete backend.
#[async_trait]
pub trait StoreBackend: MailQueue + Threads + Outbox + EventLog + fmt::Debug {
    /// Records facts atomically: when this returns they are on disk, and visible to every question.
    ///
    /// # Errors
    /// Nothing was recorded.
    async fn record(&self, facts: Vec<Fact>) -> Result<(), StoreError>;

    /// Records facts that finish or continue work under `claim`.
    ///
    /// # Errors
    /// The errors of [`StoreBackend::record`]; and `Unavailable` if the claim has lapsed: then the caller
    /// must claim again and repeat.
    async fn finish(&self, claim: &Claim, facts: Vec<Fact>) -> Result<(), StoreError>;

    /// The facts about a mail whose recipient is a token, in one question.
    async fn token_facts(
        &self,
        question: TokenQuestion,
        now: Timestamp,
    ) -> Result<TokenFacts, StoreError> {
        let mut facts = TokenFacts {
            duplicate_of: self.find_duplicate(question.fingerprint, now).await?,
            mapping: self.thread(&question.route, question.thread).await?,
            issued: self.thread_by_token(question.token).await?,
            last_message: None,
        };
        if let Some(conversation) = question.conversation(&facts) {
            let found = self.last_message(&conversation, true).await?;
            facts.last_message = Some((conversation, found));
        }
        Ok(facts)
    }

    /// Claims the work of as many shards of threads as this worker may have; a further call renews the
    /// claim. The embedded store, whose folder belongs to one process, grants all shards at once and for
    /// ever.
    async fn claim(&self, work: Work) -> Result<Claim, StoreError>;

    /// Waits until no other caller holds this name, and holds it until the lease is dropped.
    async fn lease(&self, name: LeaseName) -> Result<Lease, StoreError>;

    /// Holds this name until the lease is dropped; `None` if another caller holds it or waits for it.
    async fn try_lease(&self, name: LeaseName) -> Result<Option<Lease>, StoreError>;

    /// The store's counters.
    fn metrics(&self) -> &Metrics;

    /// Resolves when the store can no longer record: it was closed, or the disk failed.
    async fn ended(&self);

    /// Writes pending changes and stops.
    async fn close(&self);
}

/// Recipient domains, in A-labels.
pub type Domains = std::collections::HashSet<Arc<str>>;

/// A value that may be used once, with the content of its use, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// The nonce's digest.
    pub digest: [u8; 16],
    /// The content's digest.
    pub content: [u8; 16],
    /// The time after which the nonce is refused for its age, so that it can be forgotten.
    pub until: Timestamp,
}

/// A mail whose recipient is a token.
#[derive(Clone, Debug)]
pub struct TokenQuestion {
    /// The fingerprint of the mail.
    pub fingerprint: Fingerprint,
    /// The route of the recipient.
    pub route: String,
    /// The key of the token's thread.
    pub thread: ThreadKey,
    /// The thread's id, if the token says it.
    pub thread_id: Option<String>,
    /// The digest of the token.
    pub token: [u8; 16],
    /// The author of the mail, folded.
    pub author: Option<String>,
}

impl TokenQuestion {
    /// The conversation of the author in the thread of the token, whose id may be in the facts or in the
    /// token.
    pub(super) fn conversation(&self, facts: &TokenFacts) -> Option<ConversationKey> {
        let mapped = facts.mapping.as_ref().map(|m| m.thread_id.clone());
        let known = mapped.or_else(|| facts.issued.clone());
        Some(ConversationKey {
            route: self.route.clone(),
            thread_id: known.or_else(|| self.thread_id.clone())?,
            with: self.author.clone()?,
        })
    }
}

/// The facts about such a mail.
#[derive(Clone, Debug, Default)]
pub struct TokenFacts {
    /// The delivery of the same mail that was settled before, as [`MailQueue::find_duplicate`] finds it.
    pub duplicate_of: Option<DeliveryId>,
    /// The thread of the token.
    pub mapping: Option<Mapping>,
    /// The thread id that was recorded for the token.
    pub issued: Option<String>,
    /// The conversation of the author in this thread, with our last message in it; `None` if the thread or
    /// the author is not known.
    pub last_message: Option<(ConversationKey, Option<LastMessage>)>,
}

/// The two kinds of work that workers claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Waiting deliveries, by the shard of their partition.
    Deliveries,
    /// Waiting jobs, by the shard of their thread.
    Jobs,
}

/// The right to work on some shards, given to one worker at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The first and the last shard, of 256.
    shards: (u8, u8),
}

impl Claim {
    /// A claim to every shard.
    pub(super) const ALL: Self = Self {
        shards: (0, u8::MAX),
    };

    /// True if the claim covers this shard, which is the first octet of a partition or of a thread's
    /// digest.
    pub const fn covers(&self, shard: u8) -> bool {
        self.shards.0 <= shard && shard <= self.shards.1
    }

    /// True if the claim covers the deliveries of this partition.
    pub const fn covers_partition(&self, partition: PartitionKey) -> bool {
        self.covers(partition.0.to_be_bytes()[0])
    }
}

/// The object of a lease. A caller that needs several takes them in the order of this list, so that no two
/// callers wait for each other; the embedded store checks the order in builds with debug assertions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeaseName {
    /// Polling one account of an IMAP server: `USER@HOST`.
    Mailbox(String),
    /// Attempting a delivery, or changing its state for a person.
    Delivery(DeliveryId),
    /// Delivering one of several copies of a mail.
    Copy(Fingerprint),
    /// Composing the mails of a thread.
    Composing(ThreadKey),
    /// Posting into a thread of the product, or creating one.
    Posting(String),
    /// Recording a notice about a job.
    Notice(JobId),
    /// Changing the suppression of an address.
    Address(String),
    /// Changing a thread's mapping.
    Thread(ThreadKey),
}

/// A name that is held until the lease is dropped.
pub struct Lease(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl Lease {
    /// A lease that ends when `guard` is dropped.
    pub(super) fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}
