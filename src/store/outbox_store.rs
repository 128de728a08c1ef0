//! Owns the store's door to the outbox: jobs, what became of them, and the events.
//!
//! Does not send mail, and tells nobody of an event.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Store;
use super::error::{ReadError, RecordError};
use super::event::{Cursor, Event, EventId};
use super::fact::Fact;
use super::frame::{self, Record};
use super::index::IndexError;
use super::job::{
    ConversationKey, EnqueueResult, Job, JobOutcome, JobRecord, JobState, LastMessage,
    OutboxLedger, Suppression,
};
use super::journal_writer::{StateRecord, WriteRequest};
use super::location::RecordLocation;
use super::outbox_state::JobList;
use super::validator::EncodedFacts;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;

/// A record may be carried to another segment while it is read: so often it is looked for again.
const TRIES: usize = 3;

impl Store {
    /// Takes responsibility for sending `mail`: it is on disk when this says `New`. `facts` are
    /// recorded with it, all or none: if the job is `Known`, nothing of them is.
    ///
    /// # Errors
    /// `Full` if too many jobs wait, too many bytes of mail do, or the disk has no room; or `Dead`.
    /// Then nothing was promised.
    pub async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<EnqueueResult, RecordError> {
        if let Some(known) = job.keys().find_map(|key| self.job_by_key(key)) {
            return Ok(EnqueueResult::Exists {
                id: known.job.id,
                same: known.job.content == job.content,
            });
        }
        if self.shared.has_failed() || self.writer.has_ended() {
            return Err(RecordError::Dead);
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
            return Err(RecordError::Full);
        }
        self.shared.capacity.reserve(bytes as u64);
        let ask = |answer| WriteRequest::Enqueue { facts: all, answer };
        self.writer.submit(ask).await
    }

    /// Calls a job back: it is over when this says `true`. `false`: an attempt may be under way, or it
    /// does not wait, or there is none; then nothing is done.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    pub async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, RecordError> {
        let outcome = JobOutcome::Cancelled;
        let facts = encode_facts(vec![Fact::Ended { job, outcome, at }]);
        let ask = |answer| WriteRequest::Cancel { job, facts, answer };
        self.writer.submit(ask).await
    }

    /// A job, if it is still known.
    pub fn job(&self, id: JobId) -> Option<JobRecord> {
        let found = self.shared.state().job(id);
        self.answer_or_fail(found).map(|filed| filed.stored.record)
    }

    /// The job that has this key, if it is still known.
    pub fn job_by_key(&self, key: [u8; 16]) -> Option<JobRecord> {
        let found = self.shared.state().job_by_key(key);
        self.answer_or_fail(found).map(|filed| filed.stored.record)
    }

    /// The mail of a job that waits, failed or was captured, as it was composed.
    ///
    /// # Errors
    /// The job is over or not known, or the disk does not give back what was written.
    pub fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        let place = || {
            let found = self.shared.state().job(id);
            let filed = self.answer_or_fail(found)?;
            filed.stored.settled.is_none().then_some(filed.place)
        };
        let body = |place| self.shared.fact_reader.body(place);
        match read_at_current(place, body) {
            Ok(Some(mail)) => Ok(mail),
            Ok(None) => Err(ReadError::NoJob(id)),
            Err(source) => Err(ReadError::Job { job: id, source }),
        }
    }

    /// The jobs that are due at `now`, the longest overdue first, at most `count` of those that `wanted`
    /// lets through. Of the jobs of one thread only the oldest is ever due. A job that would wait for
    /// more than a week is due too, for then the clock was set back.
    pub fn due_jobs(
        &self,
        now: Timestamp,
        count: usize,
        wanted: impl Fn(JobId) -> bool,
    ) -> Vec<JobRecord> {
        let due: Vec<JobId> = {
            let state = self.shared.state();
            let due = state.outbox.due().due_at(now).filter(|id| wanted(*id));
            due.take(count).collect()
        };
        // One that is over by now does not wait any more.
        let jobs = due.into_iter().filter_map(|id| self.job(id));
        jobs.filter(|record| matches!(record.state, JobState::Waiting { .. }))
            .collect()
    }

    /// Of each recipient domain that `is_open` the first job that is due at `now` and `is_free`, with the
    /// domain in A-labels; at most `count`, the domains first whose jobs are overdue longest. What it costs grows
    /// with the domains that are due and not open, and not with their jobs.
    pub fn due_by_domain(
        &self,
        now: Timestamp,
        count: usize,
        is_free: impl Fn(JobId) -> bool,
        is_open: impl Fn(&str) -> bool,
    ) -> Vec<(JobId, Arc<str>)> {
        let state = self.shared.state();
        state
            .outbox
            .due()
            .first_by_domain(now, count, is_free, is_open)
    }

    /// When the next job is due that `is_free`, of the recipient domains that are open.
    pub fn next_due(
        &self,
        is_free: impl Fn(JobId) -> bool,
        is_open: impl Fn(&str) -> bool,
    ) -> Option<Timestamp> {
        self.shared.state().outbox.due().next_due(is_free, is_open)
    }

    /// Resolves when a job was taken or released since the last call. For one caller.
    pub async fn job_arrived(&self) {
        self.shared.job_arrived.notified().await;
    }

    /// The jobs in a state that `wanted` lets through, newest first, at most `count` after `after`. Of
    /// those that are over for good only the last thousand. `wanted` is asked first about states with
    /// neither reason nor moment; nothing follows a job that is not known any more.
    pub fn jobs(
        &self,
        wanted: impl Fn(&JobState) -> bool,
        after: Option<JobId>,
        count: usize,
    ) -> Vec<JobRecord> {
        let before = match after.map(|id| self.job(id)) {
            Some(None) => return Vec::new(),
            Some(Some(record)) => Some((record.job.made_at, record.job.id)),
            None => None,
        };
        let shelves = lists_of(&wanted);
        let state = self.shared.state();
        let mut found = Vec::new();
        for id in state.outbox.list(&shelves, before) {
            if found.len() >= count {
                break;
            }
            let job = self
                .answer_or_fail(state.job(id))
                .map(|filed| filed.stored.record);
            found.extend(job.filter(|record| wanted(&record.state)));
        }
        found
    }

    /// How many jobs there are.
    pub fn outbox_ledger(&self) -> OutboxLedger {
        self.shared.state().outbox_ledger()
    }

    /// Why nothing is sent to this address, if it is on the list at `now`.
    pub fn suppression(&self, address: &Address, now: Timestamp) -> Option<Suppression> {
        let found = self.shared.state().suppression(&address.folded());
        self.answer_or_fail(found).filter(|found| now < found.until)
    }

    /// The addresses nothing is sent to, in an order that stays, at most `count` after `after`.
    pub fn suppressions(&self, after: Option<&str>, count: usize) -> Vec<Suppression> {
        let found = self.shared.state().suppressions(after, count);
        self.answer_or_fail(found.map(Some)).unwrap_or_default()
    }

    /// What was said last in a talk, by us or to us.
    pub fn last_message(&self, talk: &ConversationKey, by_us: bool) -> Option<LastMessage> {
        let place = || {
            let found = self.shared.state().last_message_location(talk, by_us);
            self.answer_or_fail(found)
        };
        let said = |place| match self.fact_at(place)? {
            Fact::Spoken { said, .. } => Ok(said),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        self.answer_or_fail(read_at_current(place, said).map_err(IndexError::from))
    }

    /// The next events after `after`, in order, at most `count`.
    pub fn events_after(&self, after: EventId, count: usize) -> Vec<(EventId, Arc<Event>)> {
        let known: Vec<(EventId, Option<Arc<Event>>)> = {
            let state = self.shared.state();
            let next = state.outbox.events_after(after).take(count);
            next.map(|id| (id, state.outbox.recent_event(id))).collect()
        };
        let event = |(id, told): (EventId, Option<Arc<Event>>)| {
            let event = told.or_else(|| self.event(id).map(Arc::new))?;
            Some((id, event))
        };
        known.into_iter().filter_map(event).collect()
    }

    /// The oldest event that is kept: whoever heard less has missed some.
    pub fn oldest_event(&self) -> Option<EventId> {
        self.shared.state().outbox.oldest_event()
    }

    /// The number of the newest event, and of each that comes.
    pub fn newest_event(&self) -> watch::Receiver<EventId> {
        self.shared.newest_event.subscribe()
    }

    /// How far a subscriber is, if it ever heard an event.
    pub fn cursor(&self, subscriber: &str) -> Option<Cursor> {
        let found = self.shared.state().cursor(subscriber);
        self.answer_or_fail(found)
    }

    fn event(&self, id: EventId) -> Option<Event> {
        let place = || self.shared.state().outbox.event_location(id);
        let event = |place| match self.fact_at(place)? {
            Fact::Happened(event) => Ok(event),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        self.answer_or_fail(read_at_current(place, event).map_err(IndexError::from))
    }

    fn fact_at(&self, place: RecordLocation) -> io::Result<Fact> {
        let head = self.shared.fact_reader.head(place)?;
        match serde_json::from_slice(&head)? {
            StateRecord::Fact(fact) => Ok(fact),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The facts with their records.
pub(super) fn encode_facts(facts: Vec<Fact>) -> EncodedFacts {
    let write = |fact| {
        let note = StateRecord::Fact(fact);
        let record = note.record();
        match note {
            StateRecord::Fact(fact) => Some((fact, record)),
            _ => None,
        }
    };
    facts.into_iter().filter_map(write).collect()
}

/// Reads what stands at `place`, which may be another one after a while.
fn read_at_current<T>(
    place: impl Fn() -> Option<RecordLocation>,
    read: impl Fn(RecordLocation) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let mut tries = 0;
    loop {
        let Some(there) = place() else {
            return Ok(None);
        };
        tries += 1;
        match read(there) {
            Ok(found) => return Ok(Some(found)),
            Err(error) if tries >= TRIES || place() == Some(there) => return Err(error),
            Err(_) => {}
        }
    }
}

/// Where jobs are in a state that `wanted` may let through.
fn lists_of(wanted: impl Fn(&JobState) -> bool) -> Vec<JobList> {
    let reason = String::new;
    let waiting = JobState::Waiting {
        due_at: Timestamp::default(),
    };
    let failed = JobState::Failed { reason: reason() };
    let bounced = JobState::Bounced { reason: reason() };
    let all: [(JobList, &[&JobState]); 4] = [
        (JobList::Waiting, &[&waiting]),
        (JobList::Failed, &[&failed]),
        (JobList::Captured, &[&JobState::Captured]),
        (
            JobList::Settled,
            &[
                &JobState::Sent,
                &JobState::Cancelled,
                &JobState::Captured,
                &failed,
                &bounced,
            ],
        ),
    ];
    let may = |(_, states): &(JobList, &[&JobState])| states.iter().any(|s| wanted(s));
    all.into_iter().filter(may).map(|(s, _)| s).collect()
}
