//! Owns the data in memory about the outbox: waiting jobs and their due times, retained jobs, the newest
//! settled ones, and the locations of events.
//!
//! Does not decide when any of it changes (`state::outbox` does), and holds nothing that the index lacks.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::due::DueQueue;
use super::location::RecordLocation;
#[cfg(test)]
use super::memory_count::MemoryCount;
use super::stored_job::IndexedJob;
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::event::Event;
use crate::store::id::EventId;
use crate::store::job::{Job, JobState};

/// The number of events that are kept for subscribers.
pub(super) const EVENTS_MAX: usize = 50_000;
/// The number of settled jobs that can still be listed.
const SETTLED_LISTED_MAX: usize = 1000;
/// The number of whole events in memory, so that subscribers that keep up need no disk reads.
const RECENT_EVENTS_MAX: usize = 1024;

/// The jobs that are not settled, and related data.
#[derive(Debug, Default)]
pub(super) struct OutboxState {
    waiting: HashMap<JobId, WaitingJob>,
    /// The waiting jobs, thread by thread, oldest first.
    by_order: BTreeSet<(OrderKey, u64, JobId)>,
    /// The first job of each thread.
    due: DueQueue,
    mail_bytes: u64,
    retained: HashMap<JobId, RetainedJob>,
    /// The failed jobs, by the time of their end.
    failed: BTreeSet<(Timestamp, JobId)>,
    captured: BTreeSet<(Timestamp, JobId)>,
    /// All jobs that can be listed, by the time of acceptance.
    by_age: [BTreeSet<(Timestamp, JobId)>; 4],
    /// The newest settled jobs, by the number of the fact that settled them.
    recent_settled: BTreeMap<u64, (Timestamp, JobId)>,
    events: BTreeMap<EventId, RecordLocation>,
    recent_events: VecDeque<(EventId, Arc<Event>)>,
}

/// The list that contains a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobList {
    Waiting,
    Failed,
    Captured,
    Settled,
}

/// A waiting job.
#[derive(Clone, Debug)]
struct WaitingJob {
    due_at: Timestamp,
    made_at: Timestamp,
    order_key: OrderKey,
    /// The recipient's domain, in A-labels.
    domain: Arc<str>,
    order: u64,
    mail_bytes: u32,
    begun: bool,
}

/// A job that is kept for a person.
#[derive(Clone, Copy, Debug)]
struct RetainedJob {
    made_at: Timestamp,
    over_at: Timestamp,
    captured: bool,
}

/// The key of jobs that are sent in order: 16 bytes of a SHA-256 of their common properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OrderKey([u8; 16]);

impl OrderKey {
    /// The key of the jobs to one recipient in one thread of one route; a job without a thread has a
    /// separate key. Recipients do not wait for each other.
    fn of(job: &Job) -> Self {
        let mut hash = Sha256::new();
        match &job.thread_id {
            Some(thread) => {
                hash.update([0]);
                hash.update((job.route.len() as u64).to_le_bytes());
                hash.update(job.route.as_bytes());
                hash.update((thread.len() as u64).to_le_bytes());
                hash.update(thread.as_bytes());
                hash.update(job.recipient.folded().as_bytes());
            }
            None => {
                hash.update([1]);
                hash.update(job.id.0);
            }
        }
        let mut line = [0; 16];
        line.copy_from_slice(&hash.finalize()[..16]);
        Self(line)
    }
}

impl OutboxState {
    /// Replaces all data about the job.
    pub(super) fn update(&mut self, filed: &IndexedJob) {
        let record = &filed.stored.record;
        let (id, made_at) = (record.job.id, record.job.made_at);
        self.remove(id);
        if filed.stored.settled.is_some() {
            return;
        }
        let captured = match record.state {
            JobState::Waiting { due_at } => {
                let waiting = WaitingJob {
                    due_at,
                    made_at,
                    order_key: OrderKey::of(&record.job),
                    domain: self
                        .due
                        .intern_domain(&record.job.recipient.domain().ascii()),
                    order: filed.stored.order,
                    mail_bytes: filed.location.body_bytes,
                    begun: record.begun_at.is_some(),
                };
                return self.add_waiting(id, waiting);
            }
            JobState::Captured => true,
            JobState::Sent
            | JobState::Failed { .. }
            | JobState::Cancelled
            | JobState::Bounced { .. } => false,
        };
        let over_at = filed.stored.over_at.unwrap_or(made_at);
        let shelved = RetainedJob {
            made_at,
            over_at,
            captured,
        };
        self.retained.insert(id, shelved);
        let (by_end, shelf) = self.list_of(captured);
        by_end.insert((over_at, id));
        self.by_age[shelf as usize].insert((made_at, id));
    }

    fn remove(&mut self, id: JobId) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.remove_waiting(id, &waiting);
        }
        if let Some(shelved) = self.retained.remove(&id) {
            let (by_end, shelf) = self.list_of(shelved.captured);
            by_end.remove(&(shelved.over_at, id));
            self.by_age[shelf as usize].remove(&(shelved.made_at, id));
        }
    }

    fn list_of(&mut self, captured: bool) -> (&mut BTreeSet<(Timestamp, JobId)>, JobList) {
        match captured {
            true => (&mut self.captured, JobList::Captured),
            false => (&mut self.failed, JobList::Failed),
        }
    }

    /// Records that the fact `seq` settled a job. Returns the number of the job that is no longer listed.
    pub(super) fn add_settled(&mut self, seq: u64, made_at: Timestamp, id: JobId) -> Option<u64> {
        let shelf = JobList::Settled as usize;
        self.recent_settled.insert(seq, (made_at, id));
        self.by_age[shelf].insert((made_at, id));
        if self.recent_settled.len() <= SETTLED_LISTED_MAX {
            return None;
        }
        let (gone, entry) = self.recent_settled.pop_first()?;
        self.by_age[shelf].remove(&entry);
        Some(gone)
    }

    /// Records the location of an event. Returns the event that is no longer kept.
    pub(super) fn add_event(
        &mut self,
        id: EventId,
        location: RecordLocation,
        event: Option<Event>,
    ) -> Option<EventId> {
        self.events.insert(id, location);
        let newest = self.recent_events.back().is_none_or(|(last, _)| *last < id);
        if let Some(event) = event.filter(|_| newest) {
            self.recent_events.push_back((id, Arc::new(event)));
            if self.recent_events.len() > RECENT_EVENTS_MAX {
                self.recent_events.pop_front();
            }
        }
        if self.events.len() <= EVENTS_MAX {
            return None;
        }
        self.events.pop_first().map(|(given_up, _)| given_up)
    }

    /// The jobs that may be next, by due time.
    pub(super) const fn due(&self) -> &DueQueue {
        &self.due
    }

    /// The jobs of some lists that were accepted before `before`, newest first.
    pub(super) fn list<'s>(
        &'s self,
        shelves: &'s [JobList],
        before: Option<(Timestamp, JobId)>,
    ) -> impl Iterator<Item = (Timestamp, JobId)> + 's {
        let last = (Timestamp::from_millis(u64::MAX), JobId([u8::MAX; 16]));
        let mut next = before;
        std::iter::from_fn(move || {
            let newest = |shelf: &JobList| {
                let all = &self.by_age[*shelf as usize];
                match next {
                    Some(before) => all.range(..before).next_back().copied(),
                    None => all.range(..=last).next_back().copied(),
                }
            };
            next = Some(shelves.iter().filter_map(newest).max()?);
            next
        })
    }

    /// `None` if the job is not waiting; true if an attempt began and its end is unknown.
    pub(super) fn begun(&self, id: JobId) -> Option<bool> {
        self.waiting.get(&id).map(|waiting| waiting.begun)
    }

    /// The first job in the order of a waiting job, if that is another one.
    pub(super) fn ahead_of(&self, id: JobId) -> Option<JobId> {
        let line = self.waiting.get(&id)?.order_key;
        self.first_of(line).filter(|first| *first != id)
    }

    pub(super) fn is_retained(&self, id: JobId) -> bool {
        self.retained.contains_key(&id)
    }

    /// The number of waiting jobs.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The bytes of their mails.
    pub(super) const fn mail_bytes(&self) -> u64 {
        self.mail_bytes
    }

    /// The failed jobs that can be retried, by the time of their end.
    pub(super) const fn failed(&self) -> &BTreeSet<(Timestamp, JobId)> {
        &self.failed
    }

    /// The captured jobs that can be viewed, by the time of their end.
    pub(super) const fn captured(&self) -> &BTreeSet<(Timestamp, JobId)> {
        &self.captured
    }

    pub(super) fn events_after(&self, after: EventId) -> impl Iterator<Item = EventId> + '_ {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.events.range(behind).map(|(id, _)| *id)
    }

    /// The location of an event, if it is kept.
    pub(super) fn event_location(&self, id: EventId) -> Option<RecordLocation> {
        self.events.get(&id).copied()
    }

    /// True if the maximum number of events is kept.
    pub(super) fn is_event_log_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }

    /// The shard of a waiting job: the first octet of its order key.
    pub(super) fn shard(&self, id: JobId) -> u8 {
        self.waiting.get(&id).map_or(0, |job| job.order_key.0[0])
    }

    /// An event, if it is in memory.
    pub(super) fn recent_event(&self, id: EventId) -> Option<Arc<Event>> {
        let at = self
            .recent_events
            .binary_search_by_key(&id, |(id, _)| *id)
            .ok()?;
        self.recent_events
            .get(at)
            .map(|(_, event)| Arc::clone(event))
    }

    pub(super) fn oldest_event(&self) -> Option<EventId> {
        self.events.keys().next().copied()
    }

    pub(super) fn newest_event(&self) -> EventId {
        self.events.keys().next_back().copied().unwrap_or_default()
    }

    /// The count of every table, with the maximum that settled jobs may leave in it.
    #[cfg(test)]
    pub(super) fn memory_counts(&self) -> Vec<MemoryCount> {
        let Self {
            waiting,
            by_order,
            due,
            mail_bytes: _,
            retained,
            failed,
            captured,
            by_age,
            recent_settled,
            events,
            recent_events,
        } = self;
        let listed = by_age.iter().map(BTreeSet::len).sum();
        vec![
            MemoryCount::new("waiting jobs", waiting.len(), 0),
            MemoryCount::new("jobs by thread", by_order.len(), 0),
            MemoryCount::new("due jobs", due.len(), 0),
            MemoryCount::new("retained jobs", retained.len(), 0),
            MemoryCount::new("failed jobs", failed.len(), 0),
            MemoryCount::new("captured jobs", captured.len(), 0),
            MemoryCount::new("listed jobs", listed, SETTLED_LISTED_MAX),
            MemoryCount::new("settled jobs", recent_settled.len(), SETTLED_LISTED_MAX),
            MemoryCount::new("events", events.len(), EVENTS_MAX),
            MemoryCount::new("recent events", recent_events.len(), RECENT_EVENTS_MAX),
        ]
    }

    fn add_waiting(&mut self, id: JobId, waiting: WaitingJob) {
        let first = self.first_of(waiting.order_key);
        self.mail_bytes += u64::from(waiting.mail_bytes);
        self.by_order.insert((waiting.order_key, waiting.order, id));
        self.by_age[JobList::Waiting as usize].insert((waiting.made_at, id));
        if self.first_of(waiting.order_key) == Some(id) {
            if let Some((first, before)) = first.and_then(|id| Some((id, self.waiting.get(&id)?))) {
                self.due.remove(before.due_at, first);
            }
            self.due.insert(waiting.due_at, id, &waiting.domain);
        }
        self.waiting.insert(id, waiting);
    }

    fn remove_waiting(&mut self, id: JobId, waiting: &WaitingJob) {
        self.mail_bytes -= u64::from(waiting.mail_bytes);
        self.by_order
            .remove(&(waiting.order_key, waiting.order, id));
        self.by_age[JobList::Waiting as usize].remove(&(waiting.made_at, id));
        if !self.due.remove(waiting.due_at, id) {
            return;
        }
        if let Some(next) = self.first_of(waiting.order_key)
            && let Some(waiting) = self.waiting.get(&next)
        {
            self.due.insert(waiting.due_at, next, &waiting.domain);
        }
    }

    fn first_of(&self, line: OrderKey) -> Option<JobId> {
        let first = self.by_order.range((line, 0, JobId([0; 16]))..).next()?;
        (first.0 == line).then_some(first.2)
    }
}
