//! Owns the effects of facts about jobs, addresses, messages and events on the state.
//!
//! Does not decide whether a fact takes effect; `validator` does, before it is written.

use super::{ApplyContext, StoreState};
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::embedded::index::{IndexError, IndexKey};
use crate::store::embedded::location::RecordLocation;
use crate::store::embedded::lookup::{Lookup, encode_cursor};
use crate::store::embedded::stored_job::{IndexedJob, StoredJob};
use crate::store::event::{Cursor, Event};
use crate::store::fact::Fact;
use crate::store::id::EventId;
use crate::store::job::{JobOutcome, OutboxLedger, Suppression};

/// The resolution of the age of settled jobs: one part in this many of all kept ones.
const MILESTONES: u64 = 64;

impl StoreState {
    /// The jobs, events and counters from the index.
    pub(super) fn load_outbox(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        index.for_each(IndexKey::OPEN_JOB, |seq, payload| {
            self.outbox.update(&IndexedJob::decode(seq, payload)?);
            Some(())
        })?;
        index.for_each(IndexKey::EVENT, |seq, payload| {
            let location = RecordLocation::decode_head(payload)?;
            if let Some(gone) = self.outbox.add_event(EventId(seq), location, None) {
                self.remove_entry(IndexKey::event(gone));
            }
            Some(())
        })?;
        index.for_each(IndexKey::RECENT, |seq, payload| {
            let (made_at, id) = payload.split_first_chunk()?;
            let made_at = Timestamp::from_millis(u64::from_le_bytes(*made_at));
            self.outbox
                .add_settled(seq, made_at, JobId(id.try_into().ok()?));
            Some(())
        })?;
        // An older version did not record the deleted events: with so many events some may have been deleted.
        if self.totals.events_gone_to == 0
            && self.outbox.is_event_log_full()
            && let Some(oldest) = self.outbox.oldest_event()
        {
            self.totals.events_gone_to = oldest.0.saturating_sub(1);
        }
        Ok(())
    }

    /// Applies a fact about the outbox; other facts change nothing.
    pub(super) fn apply_outbox_fact(
        &mut self,
        fact: Fact,
        stamp: ApplyContext,
    ) -> Result<(), IndexError> {
        if let Some(at) = time_of(&fact) {
            self.advance_clock(at, stamp);
        }
        if let Some(job) = fact.job()
            && !matches!(fact, Fact::Enqueued(_))
        {
            return self.change_job(job, fact, stamp);
        }
        match fact {
            Fact::Enqueued(job) => {
                if stamp.counts {
                    self.totals.jobs.taken += 1;
                }
                self.restore_job(IndexedJob::new(*job, stamp.origin, stamp.location), stamp)
            }
            Fact::Suppressed(suppression) => {
                let key = IndexKey::suppression(&suppression.address);
                self.put_entry(key, stamp, &json(&suppression))
            }
            Fact::Unsuppressed { address, .. } => {
                let key = IndexKey::suppression(&address);
                let newer = self.entry(key)?.is_some_and(|(seq, _)| seq > stamp.origin);
                if !newer {
                    self.remove_entry(key);
                }
                Ok(())
            }
            Fact::MessageRecorded {
                conversation,
                message,
            } => {
                let key = IndexKey::last_message(&conversation, message.by_us);
                self.put_entry(key, stamp, &stamp.location.encode_head())
            }
            Fact::Happened(event) => {
                self.add_event(EventId(stamp.origin), stamp.location, Some(event));
                Ok(())
            }
            Fact::CursorAdvanced {
                subscriber,
                event,
                open,
                ..
            } => {
                let said = Cursor {
                    last: event,
                    gaps: open,
                };
                // Decided by content and not by age, because an older position may be recorded later.
                let is_less = |known: Cursor| {
                    let location = known.last.cmp(&said.last);
                    location
                        .then(said.gaps.len().cmp(&known.gaps.len()))
                        .is_ge()
                };
                if self.cursor(&subscriber)?.is_some_and(is_less) {
                    return Ok(());
                }
                self.insert_entry(
                    IndexKey::cursor(&subscriber),
                    stamp.origin,
                    &encode_cursor(&said),
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Applies a record with all data of a job.
    pub(in crate::store) fn apply_job_snapshot(
        &mut self,
        kept: StoredJob,
        stamp: ApplyContext,
    ) -> Result<(), IndexError> {
        let filed = IndexedJob {
            stored: kept,
            seq: stamp.origin,
            base: stamp.origin,
            location: stamp.location,
        };
        self.restore_job(filed, stamp)
    }

    /// Records that all data of a job is now in the record `seq`.
    pub(in crate::store) fn relocate_job(
        &mut self,
        id: JobId,
        seq: u64,
        location: RecordLocation,
    ) -> Result<(), IndexError> {
        if let Some(was) = self.indexed_job(id)? {
            let filed = IndexedJob {
                stored: was.stored.clone(),
                seq,
                base: seq,
                location,
            };
            self.put_job(&filed, false);
        }
        Ok(())
    }

    /// Deletes the mail of a retained job, which settles it.
    pub(in crate::store) fn drop_job_mail(
        &mut self,
        id: JobId,
        captured: bool,
        stamp: ApplyContext,
    ) -> Result<(), IndexError> {
        if stamp.counts {
            match captured {
                true => self.totals.jobs.captured_gone += 1,
                false => self.totals.jobs.failed_gone += 1,
            }
            self.count_settled(stamp.origin);
        }
        self.change_indexed_job(id, stamp, |kept| kept.settle(stamp.origin))
    }

    /// Forgets a job and its keys.
    pub(in crate::store) fn forget_job(&mut self, id: JobId) -> Result<(), IndexError> {
        let Some(filed) = self.indexed_job(id)? else {
            return Ok(());
        };
        for key in filed.stored.record.job.keys().map(IndexKey::job_key) {
            if self.entry(key)?.is_some_and(|(_, found)| found == id.0) {
                self.remove_entry(key);
            }
        }
        self.remove_entry(IndexKey::open_job(id));
        self.remove_entry(IndexKey::settled_job(id));
        Ok(())
    }

    /// Records another location of the mapping, message or event of the fact `origin`, from which it is now
    /// read.
    pub(in crate::store) fn relocate_entry(
        &mut self,
        key: IndexKey,
        origin: u64,
        location: RecordLocation,
    ) -> Result<(), IndexError> {
        if key == IndexKey::event(EventId(origin)) {
            if self.outbox.event_location(EventId(origin)).is_some() {
                self.add_event(EventId(origin), location, None);
            }
            return Ok(());
        }
        if self.entry(key)?.is_none_or(|(seq, _)| seq != origin) {
            return Ok(());
        }
        self.insert_entry(key, origin, &location.encode_head());
        Ok(())
    }

    pub(in crate::store) fn outbox_ledger(&self) -> OutboxLedger {
        let jobs = &self.totals.jobs;
        OutboxLedger {
            taken: jobs.taken,
            waiting: self.outbox.waiting(),
            sent: jobs.sent,
            captured: jobs.captured_gone + self.outbox.captured().len() as u64,
            failed: jobs.failed_gone + self.outbox.failed().len() as u64,
            cancelled: jobs.cancelled,
        }
    }

    /// Sets the time to `at`, also backwards: a clock that was a year ahead for a moment must not make the
    /// store forget everything. Replayed facts may be older than the current time.
    pub(super) fn advance_clock(&mut self, at: Timestamp, stamp: ApplyContext) {
        self.newest_at = match stamp.replayed {
            true => self.newest_at.max(at),
            false => at,
        };
    }

    fn change_job(&mut self, id: JobId, fact: Fact, stamp: ApplyContext) -> Result<(), IndexError> {
        if stamp.counts
            && let Fact::Ended { outcome, .. } = &fact
        {
            match outcome {
                JobOutcome::Sent { .. } => self.totals.jobs.sent += 1,
                JobOutcome::Cancelled => self.totals.jobs.cancelled += 1,
                JobOutcome::Captured | JobOutcome::Failed { .. } => {}
            }
            if matches!(outcome, JobOutcome::Sent { .. } | JobOutcome::Cancelled) {
                self.count_settled(stamp.origin);
            }
        }
        self.change_indexed_job(id, stamp, |kept| kept.apply(fact, stamp.origin))
    }

    /// Changes a job that lacks the fact; a missing job was forgotten.
    fn change_indexed_job(
        &mut self,
        id: JobId,
        stamp: ApplyContext,
        change: impl FnOnce(&mut StoredJob),
    ) -> Result<(), IndexError> {
        let Some(mut filed) = self.indexed_job(id)? else {
            return Ok(());
        };
        let was_settled = filed.stored.settled.is_some();
        let known = filed.seq >= stamp.origin;
        if !known {
            change(&mut filed.stored);
            filed.seq = stamp.origin;
        }
        self.put_job(
            &filed,
            known || was_settled != filed.stored.settled.is_some(),
        );
        Ok(())
    }

    /// Restores a job from a record, unless newer data is known.
    fn restore_job(&mut self, filed: IndexedJob, stamp: ApplyContext) -> Result<(), IndexError> {
        let job = &filed.stored.record.job;
        let (id, keys) = (job.id, job.keys().collect::<Vec<_>>());
        match self.indexed_job(id)? {
            Some(known) if known.seq >= filed.seq => self.put_job(&known, true),
            older => self.put_job(&filed, older.is_some()),
        }
        for key in keys {
            self.put_entry(IndexKey::job_key(key), stamp, &id.0)?;
        }
        Ok(())
    }

    /// Writes a job under its key. If `elsewhere`, it may also be under the other key.
    fn put_job(&mut self, filed: &IndexedJob, elsewhere: bool) {
        let job = &filed.stored.record.job;
        let (id, settled) = (job.id, filed.stored.settled);
        let (key, other) = match settled {
            Some(_) => (IndexKey::settled_job(id), IndexKey::open_job(id)),
            None => (IndexKey::open_job(id), IndexKey::settled_job(id)),
        };
        if elsewhere {
            self.remove_entry(other);
        }
        self.insert_entry(key, filed.seq, &filed.encode());
        self.outbox.update(filed);
        if let Some(settled) = settled {
            let mut payload = job.made_at.as_millis().to_le_bytes().to_vec();
            payload.extend_from_slice(&id.0);
            self.insert_entry(IndexKey::recent_job(settled), settled, &payload);
            if let Some(gone) = self.outbox.add_settled(settled, job.made_at, id) {
                self.remove_entry(IndexKey::recent_job(gone));
            }
        }
    }

    fn add_event(&mut self, id: EventId, location: RecordLocation, event: Option<Event>) {
        self.insert_entry(IndexKey::event(id), id.0, &location.encode_head());
        if let Some(gone) = self.outbox.add_event(id, location, event) {
            self.totals.events_gone_to = self.totals.events_gone_to.max(gone.0);
            self.remove_entry(IndexKey::event(gone));
        }
    }

    /// Counts one more settled job, and forgets the oldest above the bound.
    fn count_settled(&mut self, seq: u64) {
        let most = self.limits.sent_kept.max(1);
        let jobs = &mut self.totals.jobs;
        let all = jobs.sent + jobs.cancelled + jobs.captured_gone + jobs.failed_gone;
        let last = jobs.milestones.back().map_or(0, |(_, count)| *count);
        if all - last >= most.div_ceil(MILESTONES) {
            jobs.milestones.push_back((seq, all));
        }
        while let Some(&(seq, count)) = jobs.milestones.front()
            && all - count >= most
        {
            jobs.settled_gone_to = seq;
            jobs.milestones.pop_front();
        }
    }
}

/// The time of a fact about the outbox.
fn time_of(fact: &Fact) -> Option<Timestamp> {
    Some(match fact {
        Fact::Enqueued(job) => job.made_at,
        Fact::Happened(event) => event.at,
        Fact::Begun { at, .. }
        | Fact::Deferred { at, .. }
        | Fact::Ended { at, .. }
        | Fact::Retried { at, .. }
        | Fact::NoticeReceived { at, .. } => *at,
        _ => return None,
    })
}

fn json(suppression: &Suppression) -> Vec<u8> {
    // All its parts have a JSON form; a failure would be read back as damage.
    serde_json::to_vec(suppression).unwrap_or_default()
}
