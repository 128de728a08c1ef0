//! A store only in memory, as a second backend for the conformance tests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::job_id::JobId;
use crate::mail::partition::PartitionKey;
use crate::mail::token::ThreadKey;
use crate::store::door::{
    Claim, Domains, EventLog, Lease, LeaseName, MailQueue, Nonce, Outbox, StoreBackend, Work,
};
use crate::store::embedded::in_flight::InFlightMessages;
use crate::store::embedded::leases::{JobLeases, Leases};
use crate::store::embedded::stored_job::StoredJob;
use crate::store::error::{ReadError, StoreError};
use crate::store::event::{Cursor, Event};
use crate::store::fact::{
    Delivery, DeliveryOutcome, DeliveryStep, Fact, ImapPosition, Ledger, Mapping,
};
use crate::store::id::{DeliveryId, EventId, MailId};
use crate::store::job::{
    ConversationKey, EnqueueResult, Job, JobOutcome, JobRecord, JobState, JobStateKind,
    LastMessage, OutboxLedger, Suppression,
};
use crate::store::metrics::Metrics;
use crate::store::settings::Settings;

mod contents;
mod threads;

use contents::{bare, conversation};

/// A store in memory.
#[derive(Debug)]
pub(super) struct MemoryStore {
    settings: Settings,
    contents: Mutex<Contents>,
    metrics: Metrics,
    leases: Arc<Leases>,
    in_flight: Arc<InFlightMessages>,
    job_leases: Arc<JobLeases>,
    mail_arrived: Notify,
    job_arrived: Notify,
    newest_event: watch::Sender<EventId>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct OpenDelivery {
    steps: Vec<DeliveryStep>,
    parked: Option<String>,
}

#[derive(Debug)]
struct MemoryJob {
    stored: StoredJob,
    mail: Bytes,
}

#[derive(Debug, Default)]
struct Contents {
    seq: u64,
    mails: BTreeMap<MailId, (Arc<Envelope>, Bytes)>,
    open: BTreeMap<DeliveryId, OpenDelivery>,
    ledger: Ledger,
    fingerprints: HashMap<[u8; 16], (Timestamp, DeliveryId)>,
    mappings: HashMap<(String, ThreadKey), Mapping>,
    subjects: HashMap<[String; 3], ThreadKey>,
    links: HashMap<(String, String, bool), ThreadKey>,
    tokens: HashMap<[u8; 16], (String, Timestamp)>,
    revoked: BTreeSet<[u8; 16]>,
    nonces: HashMap<[u8; 16], [u8; 16]>,
    positions: HashMap<String, ImapPosition>,
    messages: HashMap<(String, bool), LastMessage>,
    jobs: BTreeMap<JobId, MemoryJob>,
    taken: u64,
    suppressions: BTreeMap<String, Suppression>,
    events: BTreeMap<EventId, Arc<Event>>,
    cursors: HashMap<String, Cursor>,
}

impl MemoryStore {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            contents: Mutex::default(),
            metrics: Metrics::default(),
            leases: Arc::default(),
            in_flight: Arc::default(),
            job_leases: Arc::default(),
            mail_arrived: Notify::new(),
            job_arrived: Notify::new(),
            newest_event: watch::Sender::default(),
            ended: watch::Sender::default(),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    fn alive(&self) -> Result<(), StoreError> {
        match *self.ended.borrow() {
            true => Err(StoreError::Dead),
            false => Ok(()),
        }
    }

    /// Notifies the waiters of the facts' changes.
    fn notify(&self, contents: &Contents) {
        let newest = contents.events.keys().next_back().copied();
        let newest = newest.unwrap_or_default();
        self.newest_event
            .send_if_modified(|known| std::mem::replace(known, newest) != newest);
        self.mail_arrived.notify_one();
        self.job_arrived.notify_one();
    }
}

#[async_trait]
impl MailQueue for MemoryStore {
    fn has_room(&self, bytes: u64) -> Result<(), StoreError> {
        self.alive()?;
        let contents = self.contents();
        let waiting: Vec<DeliveryId> = contents.deliveries(None, false).collect();
        let held = waiting.iter().filter_map(|id| contents.mails.get(&id.mail));
        let held: u64 = held.map(|(_, bytes)| bytes.len() as u64).sum();
        let full = waiting.len() as u64 >= self.settings.waiting_max
            || held + bytes > self.settings.waiting_bytes_max;
        if full { Err(StoreError::Full) } else { Ok(()) }
    }

    async fn accept(&self, envelope: Envelope, bytes: Bytes) -> Result<MailId, StoreError> {
        self.has_room(bytes.len() as u64)?;
        let mut contents = self.contents();
        contents.seq += 1;
        let mail = MailId(contents.seq);
        for recipient in (0..).take(envelope.recipients.len()) {
            let id = DeliveryId { mail, recipient };
            contents.open.insert(id, OpenDelivery::default());
        }
        contents.ledger.received += envelope.recipients.len() as u64;
        contents.mails.insert(mail, (Arc::new(envelope), bytes));
        self.notify(&contents);
        Ok(mail)
    }

    fn ledger(&self) -> Ledger {
        let contents = self.contents();
        Ledger {
            waiting: contents.deliveries(None, false).count() as u64,
            parked: contents.deliveries(None, true).count() as u64,
            ..contents.ledger.clone()
        }
    }

    async fn waiting(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let contents = self.contents();
        let ids = contents.deliveries(after, false).take(count);
        Ok(ids.filter_map(|id| contents.delivery(id)).collect())
    }

    async fn parked(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let contents = self.contents();
        let ids = contents.deliveries(after, true).take(count);
        Ok(ids.filter_map(|id| contents.delivery(id)).collect())
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        Ok(self.contents().delivery(id))
    }

    async fn delivery_ahead(&self, id: DeliveryId) -> Result<Option<DeliveryId>, StoreError> {
        Ok(self.contents().delivery_ahead(id))
    }

    async fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError> {
        let contents = self.contents();
        let found = contents.mails.get(&id).map(|(_, bytes)| bytes.clone());
        found.ok_or(ReadError::Settled(id))
    }

    async fn find_duplicate(
        &self,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let found = self.contents().fingerprints.get(&fingerprint.0).copied();
        let fresh = found.filter(|(at, _)| now.since(*at) < self.settings.dedupe_window);
        Ok(fresh.map(|(_, id)| id))
    }

    async fn waiting_with_partitions(
        &self,
        claim: &Claim,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<(DeliveryId, Option<PartitionKey>)>, StoreError> {
        let contents = self.contents();
        let partition = |id: DeliveryId| {
            let delivery = contents.delivery(id)?;
            Some(PartitionKey::of(&delivery.envelope, &delivery.recipient))
        };
        let waiting = contents
            .deliveries(after, false)
            .map(|id| (id, partition(id)));
        let claimed =
            waiting.filter(|(_, partition)| partition.is_none_or(|p| claim.covers_partition(p)));
        Ok(claimed.take(count).collect())
    }

    async fn mail_arrived(&self) {
        self.mail_arrived.notified().await;
    }

    async fn imap_position(&self, mailbox: &str) -> Result<Option<ImapPosition>, StoreError> {
        Ok(self.contents().positions.get(mailbox).copied())
    }

    async fn bind_nonce(&self, nonce: Nonce) -> Result<bool, StoreError> {
        self.alive()?;
        let mut contents = self.contents();
        let bound = contents.nonces.entry(nonce.digest).or_insert(nonce.content);
        Ok(*bound == nonce.content)
    }

    async fn nonce_used(&self, nonce: [u8; 16]) -> Result<Option<[u8; 16]>, StoreError> {
        Ok(self.contents().nonces.get(&nonce).copied())
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<EnqueueResult, StoreError> {
        self.alive()?;
        let mut contents = self.contents();
        if let Some(known) = contents.holder(&job) {
            return Ok(EnqueueResult::Exists {
                id: known.job.id,
                same: known.job.content == job.content
                    && known
                        .job
                        .keys()
                        .any(|key| job.keys().any(|other| other == key)),
            });
        }
        let waiting = contents.in_state(JobStateKind::Waiting);
        let held: Vec<u64> = waiting.map(|job| job.mail.len() as u64).collect();
        if held.len() as u64 >= self.settings.outbox_max
            || held.iter().sum::<u64>() + mail.len() as u64 > self.settings.outbox_bytes_max
        {
            return Err(StoreError::Full);
        }
        let first = (Fact::Enqueued(Box::new(job)), mail);
        let rest = facts.into_iter().map(|fact| (fact, Bytes::new()));
        contents.record([first].into_iter().chain(rest).collect());
        self.notify(&contents);
        Ok(EnqueueResult::New)
    }

    async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, StoreError> {
        self.alive()?;
        let mut contents = self.contents();
        let record = contents.jobs.get(&job).map(|job| &job.stored.record);
        let may = record.is_some_and(|record| {
            record.state.kind() == JobStateKind::Waiting && record.begun_at.is_none()
        });
        if may {
            let outcome = JobOutcome::Cancelled;
            contents.record(vec![(Fact::Ended { job, outcome, at }, Bytes::new())]);
        }
        Ok(may)
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let contents = self.contents();
        Ok(contents.jobs.get(&id).map(|job| job.stored.record.clone()))
    }

    async fn job_by_key(&self, key: [u8; 16]) -> Result<Option<JobRecord>, StoreError> {
        let contents = self.contents();
        let mut records = contents.jobs.values().map(|job| &job.stored.record);
        Ok(records
            .find(|record| record.job.keys().any(|known| known == key))
            .cloned())
    }

    async fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        let contents = self.contents();
        let job = contents.jobs.get(&id);
        let kept = job.filter(|job| job.stored.settled.is_none());
        kept.map(|job| job.mail.clone()).ok_or(ReadError::NoJob(id))
    }

    async fn jobs(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let contents = self.contents();
        let age = |record: &JobRecord| (record.job.made_at, record.job.id);
        let before = match after.map(|id| contents.jobs.get(&id)) {
            None => None,
            Some(None) => return Ok(Vec::new()),
            Some(Some(job)) => Some(age(&job.stored.record)),
        };
        let records = contents.jobs.values().map(|job| &job.stored.record);
        let records = records.filter(|record| {
            state.is_none_or(|state| record.state.kind() == state)
                && before.is_none_or(|before| age(record) < before)
        });
        let mut found: Vec<JobRecord> = records.cloned().collect();
        found.sort_by_key(|record| std::cmp::Reverse(age(record)));
        found.truncate(count);
        Ok(found)
    }

    async fn job_ahead(&self, id: JobId) -> Result<Option<JobId>, StoreError> {
        Ok(self.contents().job_ahead(id))
    }

    async fn due_jobs(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let none = Domains::new();
        let contents = self.contents();
        let due = self.free(&contents, claim, &none);
        let due = due.into_iter().filter(|(at, _, _)| *at <= now).take(count);
        let record = |(_, id, _)| Some(contents.jobs.get(&id)?.stored.record.clone());
        Ok(due.filter_map(record).collect())
    }

    async fn due_by_domain(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
        closed: &Domains,
    ) -> Result<Vec<(JobId, Arc<str>)>, StoreError> {
        let contents = self.contents();
        let mut found: Vec<(JobId, Arc<str>)> = Vec::new();
        for (at, id, domain) in self.free(&contents, claim, closed) {
            if at <= now && found.len() < count && found.iter().all(|(_, known)| *known != domain) {
                found.push((id, domain));
            }
        }
        Ok(found)
    }

    async fn next_due(
        &self,
        claim: &Claim,
        closed: &Domains,
    ) -> Result<Option<Timestamp>, StoreError> {
        let contents = self.contents();
        let free = self.free(&contents, claim, closed);
        Ok(free.first().map(|(at, _, _)| *at))
    }

    async fn lease_job(
        &self,
        _: &Claim,
        job: JobId,
        domain: &Arc<str>,
        domain_max: usize,
    ) -> Result<Option<Lease>, StoreError> {
        Ok(self.job_leases.take(job, domain, domain_max))
    }

    async fn job_arrived(&self) {
        self.job_arrived.notified().await;
    }

    fn outbox_ledger(&self) -> OutboxLedger {
        let contents = self.contents();
        let count = |state| contents.in_state(state).count() as u64;
        OutboxLedger {
            taken: contents.taken,
            waiting: count(JobStateKind::Waiting),
            sent: count(JobStateKind::Sent) + count(JobStateKind::Bounced),
            captured: count(JobStateKind::Captured),
            failed: count(JobStateKind::Failed),
            cancelled: count(JobStateKind::Cancelled),
        }
    }

    async fn suppression(
        &self,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<Suppression>, StoreError> {
        let found = self.contents().suppressions.get(&address.folded()).cloned();
        Ok(found.filter(|found| now < found.until))
    }

    async fn suppressions(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let contents = self.contents();
        let listed = contents
            .suppressions
            .range::<str, _>((from, Bound::Unbounded));
        Ok(listed.take(count).map(|(_, one)| one.clone()).collect())
    }
}

impl MemoryStore {
    /// The jobs of a claim that may be next: not leased, their domain not closed.
    fn free(
        &self,
        contents: &Contents,
        claim: &Claim,
        closed: &Domains,
    ) -> Vec<(Timestamp, JobId, Arc<str>)> {
        let busy = self.job_leases.busy();
        let mut due = contents.due();
        due.retain(|(_, id, domain)| {
            // The job's id serves as its shard: any other stable rule would do.
            !busy.has(*id) && !closed.contains(domain) && claim.covers(id.0[0])
        });
        due
    }
}

#[async_trait]
impl EventLog for MemoryStore {
    async fn events_after(
        &self,
        after: EventId,
        count: usize,
    ) -> Result<Vec<(EventId, Arc<Event>)>, StoreError> {
        let contents = self.contents();
        let next = contents
            .events
            .range((Bound::Excluded(after), Bound::Unbounded));
        Ok(next
            .take(count)
            .map(|(id, e)| (*id, Arc::clone(e)))
            .collect())
    }

    async fn event(&self, id: EventId) -> Result<Option<Arc<Event>>, StoreError> {
        Ok(self.contents().events.get(&id).cloned())
    }

    async fn has_gap_after(&self, _: EventId) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn newest_event(&self) -> watch::Receiver<EventId> {
        self.newest_event.subscribe()
    }

    async fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, StoreError> {
        Ok(self.contents().cursors.get(subscriber).cloned())
    }
}

#[async_trait]
impl StoreBackend for MemoryStore {
    async fn record(&self, facts: Vec<Fact>) -> Result<(), StoreError> {
        self.alive()?;
        let mut contents = self.contents();
        let facts = facts.into_iter().map(|fact| (fact, Bytes::new()));
        contents.record(facts.collect());
        contents.drop_surplus(&self.settings);
        self.notify(&contents);
        Ok(())
    }

    async fn finish(&self, _: &Claim, facts: Vec<Fact>) -> Result<(), StoreError> {
        self.record(facts).await
    }

    async fn claim(&self, _: Work) -> Result<Claim, StoreError> {
        Ok(Claim::ALL)
    }

    async fn lease(&self, name: LeaseName) -> Result<Lease, StoreError> {
        Ok(self.leases.take(name).await)
    }

    async fn try_lease(&self, name: LeaseName) -> Result<Option<Lease>, StoreError> {
        Ok(self.leases.try_take(name))
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn ended(&self) {
        // The sender belongs to this store, so the channel is never closed.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    async fn close(&self) {
        self.ended.send_replace(true);
    }
}
