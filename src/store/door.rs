//! Owns the store's door: what the rest of the program asks of a store, in four parts.
//!
//! Does not say how anything is kept: that is the business of whatever stands behind the door.
//!
//! ```text
//! MailQueue   mail that came in: accepted, waiting, parked, settled
//! Threads     mappings, links, tokens, the last words of a conversation
//! Outbox      jobs that go out, and the addresses nothing is sent to
//! EventLog    what the product is told, in order, and how far each subscriber is
//! StoreBackend     the four parts, and the facts that change them
//! ```
//!
//! Writes are facts: those of one call are kept all or none, whichever parts they concern. Questions
//! are asynchronous, for the answer may lie on a disk or in another process; four that have to be
//! answered at once ([`MailQueue::has_room`], the two ledgers, [`EventLog::newest_event`]) are
//! answered from memory, and a shared store answers them from what it saw last.
//!
//! The parts are object-safe traits behind [`Store`](super::Store), an `Arc<dyn StoreBackend>`: a second
//! implementation is one more type that implements them, chosen when the program starts, and no
//! caller is generic over it. The one allocation per call that this costs is small beside a sync.

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

/// Mail that came in, until it is settled for each of its recipients.
///
/// # Errors
/// Every question fails with [`StoreError::Unavailable`] if the answer cannot be had now,
/// [`StoreError::Damaged`] if it lies in a record that cannot be read any more, and
/// [`StoreError::Dead`] if the store has stopped. The same holds for the other three parts.
#[async_trait]
pub trait MailQueue: Send + Sync {
    /// Checks that another mail of `bytes` bytes may come in now. Answered from memory.
    fn has_room(&self, bytes: u64) -> Result<(), StoreError>;

    /// Takes responsibility for a mail, which is on disk when this returns. If the caller goes away
    /// before, the mail may or may not be kept.
    ///
    /// # Errors
    /// Nothing was promised.
    ///
    /// # Panics
    /// Panics unless there are 1 to [`RECIPIENTS_MAX`](super::RECIPIENTS_MAX) recipients.
    async fn accept(&self, envelope: Envelope, bytes: Bytes) -> Result<MailId, StoreError>;

    /// Number of deliveries in each state, of all that were ever accepted. Answered from memory.
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

    /// A delivery that waits or is parked; `None` if it is over or never existed.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;

    /// The mail's bytes as they were received.
    ///
    /// # Errors
    /// The mail is settled for all its recipients, or cannot be read.
    async fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError>;

    /// The delivery as which a mail with this fingerprint was settled, if that was within the window
    /// before `now`. A delivery that was parked and released finds itself.
    async fn find_duplicate(
        &self,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<DeliveryId>, StoreError>;

    /// The next waiting deliveries of a claim after `after`, in order of arrival, at most `count`, each
    /// with its partition; the partition is `None` where only the mail's envelope tells it.
    async fn waiting_with_partitions(
        &self,
        claim: &Claim,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<(DeliveryId, Option<PartitionKey>)>, StoreError>;

    /// Resolves when a delivery was accepted or released since the last call. For one caller: of
    /// several that wait, one wakes.
    async fn mail_arrived(&self);

    /// Position up to which a folder of an IMAP server was read, as last recorded.
    async fn imap_position(&self, mailbox: &str) -> Result<Option<ImapPosition>, StoreError>;

    /// Binds a nonce to the content it first came with, on disk when this returns. The same nonce with
    /// the same content is a retry, and welcome; `false`: it is bound to other content.
    async fn bind_nonce(&self, nonce: Nonce) -> Result<bool, StoreError>;

    /// The digest of the content that a nonce is bound to.
    async fn nonce_used(&self, nonce: [u8; 16]) -> Result<Option<[u8; 16]>, StoreError>;
}

/// Conversations in the product, and how a mail's thread is found.
#[async_trait]
pub trait Threads: Send + Sync {
    /// The thread of a route that a token's key stands for.
    async fn thread(&self, route: &str, key: ThreadKey) -> Result<Option<Mapping>, StoreError>;

    /// The thread of a route that a Message-ID belongs to, and whether we sent that mail.
    async fn thread_by_message_id(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(Mapping, bool)>, StoreError>;

    /// The newest thread of this sender with this normalised subject, if it was changed at `since` or
    /// later.
    async fn thread_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Result<Option<Mapping>, StoreError>;

    /// The thread's id and the time of issue that were recorded for a token's digest.
    async fn issued_token(
        &self,
        token: [u8; 16],
    ) -> Result<Option<(String, Timestamp)>, StoreError>;

    /// The thread's id that was recorded for a token's digest.
    async fn thread_by_token(&self, token: [u8; 16]) -> Result<Option<String>, StoreError> {
        Ok(self.issued_token(token).await?.map(|(thread, _)| thread))
    }

    /// True if the token with this digest was revoked.
    async fn is_revoked(&self, token: [u8; 16]) -> Result<bool, StoreError>;

    /// The last message of a conversation: ours, or the person's.
    async fn last_message(
        &self,
        conversation: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<LastMessage>, StoreError>;

    /// Waits for the lock on a thread. Whoever changes a mapping holds it from reading the mapping to
    /// recording the change.
    async fn lock_thread(&self, key: ThreadKey) -> Result<Lease, StoreError>;
}

/// Mail that goes out: one job for each mail to one person.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Takes responsibility for sending `mail`, which is on disk when this says
    /// [`EnqueueResult::New`]. `facts` are recorded with it, all or none: if the job exists already,
    /// none of them is.
    ///
    /// # Errors
    /// `Full` if too many jobs or too many bytes of mail wait, or the disk has no room. Nothing was
    /// promised.
    async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<EnqueueResult, StoreError>;

    /// Cancels a job, which is over when this says `true`. `false`: an attempt may be in progress,
    /// the job does not wait, or there is none; then nothing is done.
    async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, StoreError>;

    /// A job, if it is still known.
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;

    /// The job that has this key, if it is still known.
    async fn job_by_key(&self, key: [u8; 16]) -> Result<Option<JobRecord>, StoreError>;

    /// The mail of a job that waits, failed or was captured, as it was composed.
    ///
    /// # Errors
    /// The job is over or not known, or its mail cannot be read.
    async fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError>;

    /// The jobs in this state (`None`: in any), newest first, at most `count` after `after`. Of those
    /// whose mail is gone only the last thousand are listed; nothing follows a job that is not known.
    async fn jobs(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError>;

    /// The jobs of a claim that are due at `now`, the longest overdue first, at most `count`, without
    /// those that are leased. Of the jobs of one thread only the oldest is ever due. A job that would wait for more than a week is due too, for then the
    /// clock was set back.
    async fn due_jobs(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError>;

    /// The first job of a claim due at `now` to each recipient domain, with the domain in A-labels, at
    /// most `count`, the longest overdue first. Left out are the domains in `closed` and jobs that are
    /// leased.
    async fn due_by_domain(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
        closed: &Domains,
    ) -> Result<Vec<(JobId, Arc<str>)>, StoreError>;

    /// Time at which the next job is due that [`Outbox::due_by_domain`] would give.
    async fn next_due(
        &self,
        claim: &Claim,
        closed: &Domains,
    ) -> Result<Option<Timestamp>, StoreError>;

    /// Leases a job for one attempt. `None` if it is leased already, or if `domain_max` jobs to its
    /// domain are.
    async fn lease_job(
        &self,
        claim: &Claim,
        job: JobId,
        domain: &Arc<str>,
        domain_max: usize,
    ) -> Result<Option<Lease>, StoreError>;

    /// Resolves when a job was taken or released since the last call. For one caller.
    async fn job_arrived(&self);

    /// Number of jobs in each state. Answered from memory.
    fn outbox_ledger(&self) -> OutboxLedger;

    /// The entry of an address on the suppression list, if it is valid at `now`.
    async fn suppression(
        &self,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<Suppression>, StoreError>;

    /// The suppression list, in an order that stays, at most `count` after the address `after`.
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

    /// The oldest event that is kept; whoever read less may have missed some.
    async fn oldest_event(&self) -> Result<Option<EventId>, StoreError>;

    /// True if events that followed `read` may have been given up before they were read.
    async fn has_gap_after(&self, read: EventId) -> Result<bool, StoreError>;

    /// The newest event, now and whenever one more is recorded. Answered from memory.
    fn newest_event(&self) -> watch::Receiver<EventId>;

    /// The position of a subscriber, if it ever received an event.
    async fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, StoreError>;
}

/// One implementation of the whole door.
#[async_trait]
pub trait StoreBackend: MailQueue + Threads + Outbox + EventLog + fmt::Debug {
    /// Records facts: they are on disk, and seen by every question, when this returns. All facts of
    /// one call survive a crash, or none.
    ///
    /// # Errors
    /// Nothing was promised.
    async fn record(&self, facts: Vec<Fact>) -> Result<(), StoreError>;

    /// Records facts that finish, or go on with, work taken under `claim`.
    ///
    /// # Errors
    /// The errors of [`StoreBackend::record`]; and `Unavailable` if the claim has lapsed: claim again, then repeat.
    async fn finish(&self, claim: &Claim, facts: Vec<Fact>) -> Result<(), StoreError>;

    /// Claims the work of as many shards of threads as this worker may have. Asked again, it renews
    /// the claim. The embedded store, whose folder is one process's, grants all shards at once and for
    /// ever.
    async fn claim(&self, work: Work) -> Result<Claim, StoreError>;

    /// Waits until nobody else holds this name, and holds it until the lease is dropped.
    async fn lease(&self, name: LeaseName) -> Result<Lease, StoreError>;

    /// The store's counters.
    fn metrics(&self) -> &Metrics;

    /// Resolves when the store can record nothing any more: it was closed, or the disk failed.
    async fn ended(&self);

    /// Writes what is left to write and stops.
    async fn close(&self);
}

/// Recipient domains, in A-labels.
pub type Domains = std::collections::HashSet<Arc<str>>;

/// A value that is good once, and the content it came with, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// The nonce's digest.
    pub digest: [u8; 16],
    /// The content's digest.
    pub content: [u8; 16],
    /// Time after which nobody accepts the nonce any more, so that it can be forgotten.
    pub until: Timestamp,
}

/// The two kinds of work that workers claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Deliveries that wait, by the shard of their partition.
    Deliveries,
    /// Jobs that wait, by the shard of their thread.
    Jobs,
}

/// The right to do the work of some shards, given to one worker at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// First and last shard, of 256.
    shards: (u8, u8),
}

impl Claim {
    /// A claim to every shard.
    pub(super) const ALL: Self = Self {
        shards: (0, u8::MAX),
    };

    /// True if the claim is to the work of this shard: the first octet of a partition or of a thread's
    /// digest.
    pub const fn covers(&self, shard: u8) -> bool {
        self.shards.0 <= shard && shard <= self.shards.1
    }

    /// True if the claim is to the deliveries of this partition.
    pub const fn covers_partition(&self, partition: PartitionKey) -> bool {
        self.covers(partition.0.to_be_bytes()[0])
    }
}

/// The object of a lease. A holder of several takes them in the order of this list, so that no
/// two wait for each other; the embedded store checks it in builds with debug assertions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeaseName {
    /// Reading one account of an IMAP server: `USER@HOST`.
    Mailbox(String),
    /// Delivering one of several copies of a mail.
    Copy(Fingerprint),
    /// Composing the mails of a thread.
    Composing(ThreadKey),
    /// Posting into a thread of the product, or making one.
    Posting(String),
    /// Recording what a notice says of a job.
    Notice(JobId),
    /// Changing the entry of an address on the suppression list.
    Address(String),
    /// Changing a thread's mapping.
    Thread(ThreadKey),
}

/// A name that is held until this is dropped.
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
