//! Owns what the facts about jobs, addresses, words and events do to the state, and what is known of them.
//!
//! Does not decide whether a fact means anything: that is `sense`, before it is written.

use std::collections::BTreeMap;

use super::{Stamp, State};
use crate::clock::Timestamp;
use crate::mail::outgoing::JobId;
use crate::store::event::{Event, EventId, Reach};
use crate::store::fact::Fact;
use crate::store::index::{IndexError, Key};
use crate::store::job::{Job, JobOutcome, OutboxLedger, Suppression, Talk};
use crate::store::kept::{Filed, Kept};
use crate::store::place::Place;

/// How finely it is known which settled jobs are the oldest: one part in this many of all that are kept.
const MILESTONES: u64 = 64;

/// A piece of the index: entries in the order of their names.
type Entries = BTreeMap<Key, Option<Vec<u8>>>;

impl State {
    // Changes.

    /// The jobs, events and counters as the index has them.
    pub(super) fn load_outbox(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        index.each(Key::OPEN_JOB, |seq, payload| {
            self.outbox.show(&Filed::decode(seq, payload)?);
            Some(())
        })?;
        index.each(Key::EVENT, |seq, payload| {
            self.happened(EventId(seq), Place::decode_head(payload)?, None);
            Some(())
        })?;
        index.each(Key::RECENT, |seq, payload| {
            let (made_at, id) = payload.split_first_chunk()?;
            let made_at = Timestamp::from_millis(u64::from_le_bytes(*made_at));
            self.outbox
                .settled(seq, made_at, JobId(id.try_into().ok()?));
            Some(())
        })
    }

    /// Applies a fact about the outbox; those about other things change nothing.
    pub(super) fn send(&mut self, fact: Fact, stamp: Stamp) -> Result<(), IndexError> {
        if let Some(at) = moment(&fact) {
            self.passed(at, stamp);
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
                self.restore(Filed::new(*job, stamp.origin, stamp.place), stamp)
            }
            Fact::Suppressed(suppression) => {
                let key = Key::suppressed(&suppression.address);
                self.put(key, stamp, &json(&suppression))
            }
            Fact::Unsuppressed { address, .. } => {
                let key = Key::suppressed(&address);
                let newer = self.entry(key)?.is_some_and(|(seq, _)| seq > stamp.origin);
                if !newer {
                    self.forget(key);
                }
                Ok(())
            }
            Fact::Spoken { talk, said } => {
                let key = Key::said(&talk, said.by_us);
                self.put(key, stamp, &stamp.place.encode_head())
            }
            Fact::Happened(event) => {
                self.happened(EventId(stamp.origin), stamp.place, Some(event));
                Ok(())
            }
            Fact::Heard {
                subscriber,
                event,
                open,
                ..
            } => {
                let said = Reach { event, open };
                // Not by the fact's age: one that says less may have been told later.
                let is_less = |known: Reach| {
                    let place = known.event.cmp(&said.event);
                    place.then(said.open.len().cmp(&known.open.len())).is_ge()
                };
                if self.heard(&subscriber)?.is_some_and(is_less) {
                    return Ok(());
                }
                self.insert(Key::heard(&subscriber), stamp.origin, &place_encoded(&said));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A record that tells all that is known of a job.
    pub(in crate::store) fn job_told(
        &mut self,
        kept: Kept,
        stamp: Stamp,
    ) -> Result<(), IndexError> {
        let filed = Filed {
            kept,
            seq: stamp.origin,
            base: stamp.origin,
            place: stamp.place,
        };
        self.restore(filed, stamp)
    }

    /// All that is known of a job stands in the record `seq` now.
    pub(in crate::store) fn job_moved(
        &mut self,
        id: JobId,
        seq: u64,
        place: Place,
    ) -> Result<(), IndexError> {
        if let Some(was) = self.filed(id)? {
            let filed = Filed {
                kept: was.kept.clone(),
                seq,
                base: seq,
                place,
            };
            self.file(&filed, false);
        }
        Ok(())
    }

    /// A job that was kept for a person is kept no more: its mail goes, and it is over for good.
    pub(in crate::store) fn let_job_go(
        &mut self,
        id: JobId,
        captured: bool,
        stamp: Stamp,
    ) -> Result<(), IndexError> {
        if stamp.counts {
            match captured {
                true => self.totals.jobs.captured_gone += 1,
                false => self.totals.jobs.failed_gone += 1,
            }
            self.count_settled(stamp.origin);
        }
        self.change(id, stamp, |kept| kept.settle(stamp.origin))
    }

    /// Forgets a job and what it is found by.
    pub(in crate::store) fn forget_job(&mut self, id: JobId) -> Result<(), IndexError> {
        let Some(filed) = self.filed(id)? else {
            return Ok(());
        };
        for key in filed.kept.record.job.keys().map(Key::job_key) {
            if self.entry(key)?.is_some_and(|(_, found)| found == id.0) {
                self.forget(key);
            }
        }
        self.forget(Key::open_job(id));
        self.forget(Key::settled_job(id));
        Ok(())
    }

    /// The mapping, the words or the event that the fact `origin` told stand in another place too, from now on read there.
    pub(in crate::store) fn place_moved(
        &mut self,
        key: Key,
        origin: u64,
        place: Place,
    ) -> Result<(), IndexError> {
        if key == Key::event(EventId(origin)) {
            if self.outbox.event(EventId(origin)).is_some() {
                self.happened(EventId(origin), place, None);
            }
            return Ok(());
        }
        if self.entry(key)?.is_none_or(|(seq, _)| seq != origin) {
            return Ok(());
        }
        self.insert(key, origin, &place.encode_head());
        Ok(())
    }

    // Questions.

    /// A job, if it is still known.
    pub(in crate::store) fn job(&self, id: JobId) -> Result<Option<Filed>, IndexError> {
        Ok(self.filed(id)?.filter(|filed| self.remembers(&filed.kept)))
    }

    /// The job that was taken under this key, if it is still known.
    pub(in crate::store) fn job_by_key(&self, key: [u8; 16]) -> Result<Option<Filed>, IndexError> {
        let Some((_, id)) = self.entry(Key::job_key(key))? else {
            return Ok(None);
        };
        let id = id.try_into().map_err(|_| IndexError::damaged("a key"))?;
        let found = self.job(JobId(id))?;
        Ok(found.filter(|filed| filed.kept.record.job.keys().any(|known| known == key)))
    }

    /// A job, though it may be so old that nobody is told of it.
    pub(in crate::store) fn filed(&self, id: JobId) -> Result<Option<Filed>, IndexError> {
        let read = |key| match self.entry(key)? {
            Some((seq, payload)) => match Filed::decode(seq, &payload) {
                Some(filed) => Ok(Some(filed)),
                None => Err(IndexError::damaged("a job")),
            },
            None => Ok(None),
        };
        let both = [read(Key::open_job(id))?, read(Key::settled_job(id))?];
        // An index that was left while it was written may have the job twice.
        Ok(both.into_iter().flatten().max_by_key(|filed| filed.seq))
    }

    /// Is the job not settled, or settled lately?
    pub(in crate::store) fn remembers(&self, kept: &Kept) -> bool {
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
        match self.entry(Key::suppressed(address))? {
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
        let (first, _) = Key::ends(Key::SUPPRESSED);
        let mut after = after.map_or(first, Key::suppressed);
        let mut found = Vec::new();
        while found.len() < count {
            let entries = self.next_entries(Key::SUPPRESSED, after, count)?;
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
    pub(in crate::store) fn said(
        &self,
        talk: &Talk,
        by_us: bool,
    ) -> Result<Option<Place>, IndexError> {
        let entry = self.entry(Key::said(talk, by_us))?;
        Ok(entry.and_then(|(_, payload)| Place::decode_head(&payload)))
    }

    /// How far a subscriber is.
    pub(in crate::store) fn heard(&self, subscriber: &str) -> Result<Option<Reach>, IndexError> {
        let entry = self.entry(Key::heard(subscriber))?;
        Ok(entry.and_then(|(_, payload)| place_decoded(&payload)))
    }

    // Inside.

    /// It is `at` now. Time goes back with the clock: one that was a year ahead for a moment must not
    /// have everything forgotten for good. What is replayed may be older than what was told.
    pub(super) fn passed(&mut self, at: Timestamp, stamp: Stamp) {
        self.newest_at = match stamp.replayed {
            true => self.newest_at.max(at),
            false => at,
        };
    }

    fn change_job(&mut self, id: JobId, fact: Fact, stamp: Stamp) -> Result<(), IndexError> {
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
        self.change(id, stamp, |kept| kept.apply(fact, stamp.origin))
    }

    /// Changes a job that does not have the fact yet; one that is not there was forgotten.
    fn change(
        &mut self,
        id: JobId,
        stamp: Stamp,
        change: impl FnOnce(&mut Kept),
    ) -> Result<(), IndexError> {
        let Some(mut filed) = self.filed(id)? else {
            return Ok(());
        };
        let was_settled = filed.kept.settled.is_some();
        let known = filed.seq >= stamp.origin;
        if !known {
            change(&mut filed.kept);
            filed.seq = stamp.origin;
        }
        self.file(&filed, known || was_settled != filed.kept.settled.is_some());
        Ok(())
    }

    /// Takes a job as it is told, unless more is known.
    fn restore(&mut self, filed: Filed, stamp: Stamp) -> Result<(), IndexError> {
        let Job { id, key, also, .. } = filed.kept.record.job;
        match self.filed(id)? {
            Some(known) if known.seq >= filed.seq => self.file(&known, true),
            older => self.file(&filed, older.is_some()),
        }
        for key in [Some(key), also].into_iter().flatten() {
            self.put(Key::job_key(key), stamp, &id.0)?;
        }
        Ok(())
    }

    /// Writes a job to where it belongs. `elsewhere`: it may be in the other place too.
    fn file(&mut self, filed: &Filed, elsewhere: bool) {
        let job = &filed.kept.record.job;
        let (id, settled) = (job.id, filed.kept.settled);
        let (key, other) = match settled {
            Some(_) => (Key::settled_job(id), Key::open_job(id)),
            None => (Key::open_job(id), Key::settled_job(id)),
        };
        if elsewhere {
            self.forget(other);
        }
        self.insert(key, filed.seq, &filed.encode());
        self.outbox.show(filed);
        if let Some(settled) = settled {
            let mut payload = job.made_at.as_millis().to_le_bytes().to_vec();
            payload.extend_from_slice(&id.0);
            self.insert(Key::recent(settled), settled, &payload);
            if let Some(gone) = self.outbox.settled(settled, job.made_at, id) {
                self.forget(Key::recent(gone));
            }
        }
    }

    fn happened(&mut self, id: EventId, place: Place, event: Option<Event>) {
        self.insert(Key::event(id), id.0, &place.encode_head());
        if let Some(gone) = self.outbox.happened(id, place, event) {
            self.forget(Key::event(gone));
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
    fn next_entries(&self, tag: u8, after: Key, count: usize) -> Result<Entries, IndexError> {
        let written = self.index.next(tag, after, count)?;
        let to = match written.last() {
            Some((last, _)) if written.len() == count => *last,
            _ => Key::ends(tag).1,
        };
        let mut entries: Entries = written.into_iter().map(|(k, v)| (k, Some(v))).collect();
        for newer in [&*self.leaving, &self.fresh] {
            let here = newer.iter().filter(|(key, _)| after < **key && **key <= to);
            entries.extend(here.map(|(key, value)| (*key, value.clone())));
        }
        Ok(entries)
    }
}

/// The moment a fact about the outbox speaks of.
fn moment(fact: &Fact) -> Option<Timestamp> {
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
fn place_encoded(position: &Reach) -> Vec<u8> {
    let ids = std::iter::once(&position.event).chain(&position.open);
    ids.flat_map(|id| id.0.to_le_bytes()).collect()
}

fn place_decoded(payload: &[u8]) -> Option<Reach> {
    let (ids, rest) = payload.as_chunks::<8>();
    let mut ids = ids.iter().map(|id| EventId(u64::from_le_bytes(*id)));
    let event = ids.next().filter(|_| rest.is_empty())?;
    let open = ids.collect();
    Some(Reach { event, open })
}
