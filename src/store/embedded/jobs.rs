//! Owns the embedded store's outbox.
//!
//! Does not write (the writer thread does), and sends no mail.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::backend::{EmbeddedStore, encode_facts};
use super::frame::{self, Record};
use super::journal_writer::{StateRecord, WriteRequest};
use super::lookup::Lookup;
use super::outbox_state::JobList;
use super::questions::ReadFault;
use super::shared::StoreShared;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;
use crate::store::door::{Claim, Domains, Lease, Outbox};
use crate::store::error::{ReadError, StoreError};
use crate::store::fact::Fact;
use crate::store::job::{
    EnqueueResult, Job, JobOutcome, JobRecord, JobState, JobStateKind, OutboxLedger, Suppression,
};

/// The number of jobs that are listed at a time under the state's lock, and read without it.
const NAMES_ONCE: usize = 256;

#[async_trait]
impl Outbox for EmbeddedStore {
    async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<EnqueueResult, StoreError> {
        let keys: Vec<[u8; 16]> = job.keys().collect();
        if let Some(known) = self.read(move |shared| shared.first_of_keys(&keys)).await? {
            return Ok(EnqueueResult::Exists {
                id: known.job.id,
                same: known.job.content == job.content,
            });
        }
        if self.shared.has_failed() || self.writer.has_ended() {
            return Err(StoreError::Dead);
        }
        self.shared.capacity.admit_on_disk(mail.len() as u64)?;
        let note = StateRecord::Fact(Fact::Enqueued(Box::new(job)));
        let record = Record::new(note.json(), mail);
        let mut all = Vec::with_capacity(1 + facts.len());
        if let StateRecord::Fact(fact) = note {
            all.push((fact, record));
        }
        all.extend(encode_facts(facts));
        let bytes = all.iter().map(|(_, r)| r.bytes()).sum::<usize>();
        if bytes > frame::RECORD_BYTES_MAX {
            return Err(StoreError::Full);
        }
        self.shared.capacity.reserve(bytes as u64);
        let ask = |answer| WriteRequest::Enqueue { facts: all, answer };
        self.writer.submit(ask).await
    }

    async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, StoreError> {
        let outcome = JobOutcome::Cancelled;
        let facts = encode_facts(vec![Fact::Ended { job, outcome, at }]);
        let ask = |answer| WriteRequest::Cancel { job, facts, answer };
        self.writer.submit(ask).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        self.read(move |shared| shared.job_record(id)).await
    }

    async fn job_by_key(&self, key: [u8; 16]) -> Result<Option<JobRecord>, StoreError> {
        self.read(move |shared| shared.first_of_keys(&[key])).await
    }

    async fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        self.read_raw(move |shared| shared.job_mail(id)).await?
    }

    async fn jobs(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        self.read(move |shared| shared.jobs(state, after, count))
            .await
    }

    async fn job_ahead(&self, id: JobId) -> Result<Option<JobId>, StoreError> {
        Ok(self.shared.state().outbox.ahead_of(id))
    }

    async fn due_jobs(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let due: Vec<JobId> = {
            let state = self.shared.state();
            let busy = self.job_leases.busy();
            let due = state.outbox.due().due_at(now);
            let due = due.filter(|id| !busy.has(*id) && claim.covers(state.outbox.shard(*id)));
            due.take(count).collect()
        };
        self.read(move |shared| {
            let mut found = Vec::with_capacity(due.len());
            for id in due {
                let record = shared.job_record(id)?;
                // A job that was settled in the meantime is no longer waiting.
                found.extend(record.filter(|r| matches!(r.state, JobState::Waiting { .. })));
            }
            Ok(found)
        })
        .await
    }

    async fn due_by_domain(
        &self,
        claim: &Claim,
        now: Timestamp,
        count: usize,
        closed: &Domains,
    ) -> Result<Vec<(JobId, Arc<str>)>, StoreError> {
        let state = self.shared.state();
        let busy = self.job_leases.busy();
        let is_free = |id| !busy.has(id) && claim.covers(state.outbox.shard(id));
        let is_open = |domain: &str| !closed.contains(domain);
        let due = state.outbox.due();
        Ok(due.first_by_domain(now, count, is_free, is_open))
    }

    async fn next_due(
        &self,
        claim: &Claim,
        closed: &Domains,
    ) -> Result<Option<Timestamp>, StoreError> {
        let state = self.shared.state();
        let busy = self.job_leases.busy();
        let is_free = |id| !busy.has(id) && claim.covers(state.outbox.shard(id));
        let is_open = |domain: &str| !closed.contains(domain);
        Ok(state.outbox.due().next_due(is_free, is_open))
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
        self.shared.job_arrived.notified().await;
    }

    fn outbox_ledger(&self) -> OutboxLedger {
        self.shared.state().outbox_ledger()
    }

    async fn suppression(
        &self,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<Suppression>, StoreError> {
        let address = address.folded();
        let found = self.read(move |shared| Ok(Lookup::suppression(shared, &address)?));
        Ok(found.await?.filter(|found| now < found.until))
    }

    async fn suppressions(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Suppression>, StoreError> {
        let after = after.map(str::to_owned);
        self.read(move |shared| Ok(Lookup::suppressions(shared, after.as_deref(), count)?))
            .await
    }
}

impl StoreShared {
    fn first_of_keys(&self, keys: &[[u8; 16]]) -> Result<Option<JobRecord>, ReadFault> {
        for key in keys {
            if let Some(found) = self.job_by_key(*key)? {
                return Ok(Some(found.stored.record));
            }
        }
        Ok(None)
    }

    fn jobs(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        count: usize,
    ) -> Result<Vec<JobRecord>, ReadFault> {
        let mut before = None;
        if let Some(after) = after {
            let Some(record) = self.job_record(after)? else {
                return Ok(Vec::new());
            };
            before = Some((record.job.made_at, record.job.id));
        }
        let lists = lists_of(state);
        let wanted = |record: &JobRecord| state.is_none_or(|state| record.state.kind() == state);
        let mut found = Vec::new();
        let mut known = HashSet::new();
        loop {
            let names: Vec<_> = {
                let state = self.state();
                let listed = state.outbox.list(lists, before);
                listed.take(NAMES_ONCE).collect()
            };
            let Some(last) = names.last().copied() else {
                return Ok(found);
            };
            before = Some(last);
            for (_, id) in names {
                if found.len() >= count {
                    return Ok(found);
                }
                // A job may move to another list while the lists are read.
                let record = self.job_record(id)?.filter(wanted);
                found.extend(record.filter(|_| known.insert(id)));
            }
        }
    }
}

/// The lists that contain jobs in this state.
const fn lists_of(state: Option<JobStateKind>) -> &'static [JobList] {
    use JobList::{Captured, Failed, Settled, Waiting};
    match state {
        None => &[Waiting, Failed, Captured, Settled],
        Some(JobStateKind::Waiting) => &[Waiting],
        Some(JobStateKind::Failed) => &[Failed, Settled],
        Some(JobStateKind::Captured) => &[Captured, Settled],
        Some(JobStateKind::Sent | JobStateKind::Cancelled | JobStateKind::Bounced) => &[Settled],
    }
}
