//! Owns what the facts about jobs, addresses, words and events do to the state, and what is known of them.
//!
//! Does not decide whether a fact means anything: that is `sense`, before it is written.

use std::collections::BTreeMap;

use super::{ApplyContext, StoreState};
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::event::{Cursor, Event, EventId};
use crate::store::fact::Fact;
use crate::store::index::{IndexError, IndexKey};
use crate::store::job::{ConversationKey, Job, JobOutcome, OutboxLedger, Suppression};
use crate::store::location::RecordLocation;
use crate::store::stored_job::{IndexedJob, StoredJob};

/// How finely it is known which settled jobs are the oldest: one part in this many of all that are kept.
const MILESTONES: u64 = 64;

/// A piece of the index: entries in the order of their names.
type IndexEntries = BTreeMap<IndexKey, Option<Vec<u8>>>;

impl StoreState {
    // Changes.

    /// The jobs, events and counters as the index has them.
    pub(super) fn load_outbox(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        index.for_each(IndexKey::OPEN_JOB, |seq, payload| {
            self.outbox.update(&IndexedJob::decode(seq, payload)?);
            Some(())
        })?;
        index.for_each(IndexKey::EVENT, |seq, payload| {
            self.add_event(EventId(seq), RecordLocation::decode_head(payload)?, None);
            Some(())
        })?;
        index.for_each(IndexKey::RECENT, |seq, payload| {
            let (made_at, id) = payload.split_first_chunk()?;
            let made_at = Timestamp::from_millis(u64::from_le_bytes(*made_at));
            self.outbox
                .add_settled(seq, made_at, JobId(id.try_into().ok()?));
            Some(())
        })
    }

    /// Applies a fact about the outbox; those about other things change nothing.
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
                self.restore_job(IndexedJob::new(*job, stamp.origin, stamp.place), stamp)
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
            Fact::Spoken { talk, said } => {
                let key = IndexKey::last_message(&talk, said.by_us);
                self.put_entry(key, stamp, &stamp.place.encode_head())
            }
            Fact::Happened(event) => {
                self.add_event(EventId(stamp.origin), stamp.place, Some(event));
                Ok(())
            }
            Fact::Heard {
                subscriber,
                event,
                open,
                ..
            } => {
                let said = Cursor {
                    last: event,
                    gaps: open,
                };
                // Not by the fact's age: one that says less may have been told later.
                let is_less = |known: Cursor| {
                    let place = known.last.cmp(&said.last);
                    place.then(said.gaps.len().cmp(&known.gaps.len())).is_ge()
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

    /// A record that tells all that is known of a job.
    pub(in crate::store) fn apply_job_snapshot(
        &mut self,
        kept: StoredJob,
        stamp: ApplyContext,
    ) -> Result<(), IndexError> {
        let filed = IndexedJob {
            stored: kept,
            seq: stamp.origin,
            base: stamp.origin,
            place: stamp.place,
        };
        self.restore_job(filed, stamp)
    }

    /// All that is known of a job stands in the record `seq` now.
    pub(in crate::store) fn relocate_job(
        &mut self,
        id: JobId,
        seq: u64,
        place: RecordLocation,
    ) -> Result<(), IndexError> {
        if let Some(was) = self.indexed_job(id)? {
            let filed = IndexedJob {
                stored: was.stored.clone(),
                seq,
                base: seq,
                place,
            };
            self.put_job(&filed, false);
        }
        Ok(())
    }

    /// A job that was kept for a person is kept no more: its mail goes, and it is over for good.
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

    /// Forgets a job and what it is found by.
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

    /// The mapping, the words or the event that the fact `origin` told stand in another place too, from now on read there.
    pub(in crate::store) fn relocate_entry(
        &mut self,
        key: IndexKey,
        origin: u64,
        place: RecordLocation,
    ) -> Result<(), IndexError> {
        if key == IndexKey::event(EventId(origin)) {
            if self.outbox.event_location(EventId(origin)).is_some() {
                self.add_event(EventId(origin), place, None);
            }
            return Ok(());
        }
        if self.entry(key)?.is_none_or(|(seq, _)| seq != origin) {
            return Ok(());
        }
        self.insert_entry(key, origin, &place.encode_head());
        Ok(())
    }

    // Questions.

    /// A job, if it is still known.
    pub(in crate::store) fn job(&self, id: JobId) -> Result<Option<IndexedJob>, IndexError> {
        Ok(self
            .indexed_job(id)?
            .filter(|filed| self.is_remembered(&filed.stored)))
    }

    /// The job that was taken under this key, if it is still known.
    pub(in crate::store) fn job_by_key(
        &self,
        key: [u8; 16],
    ) -> Result<Option<IndexedJob>, IndexError> {
        let Some((_, id)) = self.entry(IndexKey::job_key(key))? else {
            return Ok(None);
        };
        let id = id.try_into().map_err(|_| IndexError::damaged("a key"))?;
        let found = self.job(JobId(id))?;
        Ok(found.filter(|filed| filed.stored.record.job.keys().any(|known| known == key)))
    }

    /// A job, though it may be so old that nobody is told of it.
    pub(in crate::store) fn indexed_job(
        &self,
        id: JobId,
    ) -> Result<Option<IndexedJob>, IndexError> {
        let read = |key| match self.entry(key)? {
            Some((seq, payload)) => match IndexedJob::decode(seq, &payload) {
                Some(filed) => Ok(Some(filed)),
                None => Err(IndexError::damaged("a job")),
            },
            None => Ok(None),
        };
        let both = [
            read(IndexKey::open_job(id))?,
            read(IndexKey::settled_job(id))?,
        ];
        // An index that was left while it was written may have the job twice.
        Ok(both.into_iter().flatten().max_by_key(|filed| filed.seq))
    }

    /// Is the job not settled, or settled lately?
    pub(in crate::store) fn is_remembered(&self, kept: &StoredJob) -> bool {
        let Some(settled) = kept.settled else {
            return true;
        };
        let over_at = kept.over_at.unwrap_or_default();
        settled > self.totals.jobs.settled_gone_to
            && self.newest_at.since(over_at) < self.limits.dedupe_window
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

    pub(in crate::store) fn suppression(
        &self,
        address: &str,
    ) -> Result<Option<Suppression>, IndexError> {
        match self.entry(IndexKey::suppression(address))? {
            Some((_, payload)) => suppression(&payload).map(Some),
            None => Ok(None),
        }
    }

    /// The suppressions behind that of `after`, at most `count`, in the order of their names in the index.
    pub(in crate::store) fn suppressions(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Suppression>, IndexError> {
        let (first, _) = IndexKey::bounds(IndexKey::SUPPRESSED);
        let mut after = after.map_or(first, IndexKey::suppression);
        let mut found = Vec::new();
        while found.len() < count {
            let entries = self.next_entries(IndexKey::SUPPRESSED, after, count)?;
            let Some((last, _)) = entries.last_key_value() else {
                break;
            };
            after = *last;
            for value in entries.into_values().flatten() {
                let found_here = suppression(value.get(8..).unwrap_or_default())?;
                found.extend(Some(found_here).filter(|s| s.until > self.newest_at));
            }
        }
        found.truncate(count);
        Ok(found)
    }

    /// Where what was said last in a talk stands.
    pub(in crate::store) fn last_message_location(
        &self,
        talk: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<RecordLocation>, IndexError> {
        let entry = self.entry(IndexKey::last_message(talk, by_us))?;
        Ok(entry.and_then(|(_, payload)| RecordLocation::decode_head(&payload)))
    }

    /// How far a subscriber is.
    pub(in crate::store) fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, IndexError> {
        let entry = self.entry(IndexKey::cursor(subscriber))?;
        Ok(entry.and_then(|(_, payload)| decode_cursor(&payload)))
    }

    // Inside.

    /// It is `at` now. Time goes back with the clock: one that was a year ahead for a moment must not
    /// have everything forgotten for good. What is replayed may be older than what was told.
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

    /// Changes a job that does not have the fact yet; one that is not there was forgotten.
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

    /// Takes a job as it is told, unless more is known.
    fn restore_job(&mut self, filed: IndexedJob, stamp: ApplyContext) -> Result<(), IndexError> {
        let Job { id, key, also, .. } = filed.stored.record.job;
        match self.indexed_job(id)? {
            Some(known) if known.seq >= filed.seq => self.put_job(&known, true),
            older => self.put_job(&filed, older.is_some()),
        }
        for key in [Some(key), also].into_iter().flatten() {
            self.put_entry(IndexKey::job_key(key), stamp, &id.0)?;
        }
        Ok(())
    }

    /// Writes a job to where it belongs. `elsewhere`: it may be in the other place too.
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

    fn add_event(&mut self, id: EventId, place: RecordLocation, event: Option<Event>) {
        self.insert_entry(IndexKey::event(id), id.0, &place.encode_head());
        if let Some(gone) = self.outbox.add_event(id, place, event) {
            self.remove_entry(IndexKey::event(gone));
        }
    }

    /// One more job is settled: those that are too many are forgotten, the oldest first.
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

    /// The next entries of one kind after `after`, those that were taken away as `None`; at most `count`
    /// of them are in the index.
    fn next_entries(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
    ) -> Result<IndexEntries, IndexError> {
        let written = self.index.range_after(tag, after, count)?;
        let to = match written.last() {
            Some((last, _)) if written.len() == count => *last,
            _ => IndexKey::bounds(tag).1,
        };
        let mut entries: IndexEntries = written.into_iter().map(|(k, v)| (k, Some(v))).collect();
        for newer in [&*self.writing, &self.pending] {
            let here = newer.iter().filter(|(key, _)| after < **key && **key <= to);
            entries.extend(here.map(|(key, value)| (*key, value.clone())));
        }
        Ok(entries)
    }
}

/// The moment a fact about the outbox speaks of.
fn time_of(fact: &Fact) -> Option<Timestamp> {
    Some(match fact {
        Fact::Enqueued(job) => job.made_at,
        Fact::Happened(event) => event.at,
        Fact::Begun { at, .. }
        | Fact::Deferred { at, .. }
        | Fact::Ended { at, .. }
        | Fact::Retried { at, .. }
        | Fact::CameBack { at, .. } => *at,
        _ => return None,
    })
}

fn suppression(payload: &[u8]) -> Result<Suppression, IndexError> {
    serde_json::from_slice(payload).map_err(|_| IndexError::damaged("a suppression"))
}

fn json(suppression: &Suppression) -> Vec<u8> {
    // Every part of it has a JSON form; what has none would be read back as damage.
    serde_json::to_vec(suppression).unwrap_or_default()
}

/// The place, and what is open below it: eight octets each.
fn encode_cursor(position: &Cursor) -> Vec<u8> {
    let ids = std::iter::once(&position.last).chain(&position.gaps);
    ids.flat_map(|id| id.0.to_le_bytes()).collect()
}

fn decode_cursor(payload: &[u8]) -> Option<Cursor> {
    let (ids, rest) = payload.as_chunks::<8>();
    let mut ids = ids.iter().map(|id| EventId(u64::from_le_bytes(*id)));
    let event = ids.next().filter(|_| rest.is_empty())?;
    let open = ids.collect();
    Some(Cursor {
        last: event,
        gaps: open,
    })
}
