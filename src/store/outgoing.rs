//! Owns the store's door to the outbox: jobs, what became of them, and the events.
//!
//! Does not send mail, and tells nobody of an event.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Store;
use super::clerk::{Note, Request};
use super::error::{ReadError, RecordError};
use super::event::{Event, EventId, Reach};
use super::fact::Fact;
use super::frame::{self, Record};
use super::index::IndexError;
use super::job::{
    Enqueued, Job, JobOutcome, JobRecord, JobState, OutboxLedger, Said, Suppression, Talk,
};
use super::outbox::Shelf;
use super::place::Place;
use super::sense::Told;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::outgoing::JobId;

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
    ) -> Result<Enqueued, RecordError> {
        if let Some(known) = job.keys().find_map(|key| self.job_by_key(key)) {
            return Ok(Enqueued::Known {
                id: known.job.id,
                same: known.job.content == job.content,
            });
        }
        if self.shared.has_failed() || self.writer.has_ended() {
            return Err(RecordError::Dead);
        }
        self.shared.room.has_disk(mail.len() as u64)?;
        let note = Note::Fact(Fact::Enqueued(Box::new(job)));
        let record = Record::new(note.json(), mail);
        let mut all = Vec::with_capacity(1 + facts.len());
        if let Note::Fact(fact) = note {
            all.push((fact, record));
        }
        all.extend(told(facts));
        let bytes = all.iter().map(|(_, r)| r.bytes()).sum::<usize>();
        if bytes > frame::RECORD_BYTES_MAX {
            return Err(RecordError::Full);
        }
        self.shared.room.taken(bytes as u64);
        let ask = |answer| Request::Enqueue { facts: all, answer };
        self.writer.ask(ask).await
    }

    /// Calls a job back: it is over when this says `true`. `false`: an attempt may be under way, or it
    /// does not wait, or there is none; then nothing is done.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    pub async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, RecordError> {
        let outcome = JobOutcome::Cancelled;
        let facts = told(vec![Fact::Ended { job, outcome, at }]);
        let ask = |answer| Request::Cancel { job, facts, answer };
        self.writer.ask(ask).await
    }

    /// A job, if it is still known.
    pub fn job(&self, id: JobId) -> Option<JobRecord> {
        let found = self.shared.state().job(id);
        self.found(found).map(|filed| filed.kept.record)
    }

    /// The job that has this key, if it is still known.
    pub fn job_by_key(&self, key: [u8; 16]) -> Option<JobRecord> {
        let found = self.shared.state().job_by_key(key);
        self.found(found).map(|filed| filed.kept.record)
    }

    /// The mail of a job that waits, failed or was captured, as it was composed.
    ///
    /// # Errors
    /// The job is over or not known, or the disk does not give back what was written.
    pub fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        let place = || {
            let found = self.shared.state().job(id);
            let filed = self.found(found)?;
            filed.kept.settled.is_none().then_some(filed.place)
        };
        let body = |place| self.shared.facts.body(place);
        match read_there(place, body) {
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
            let due = state.outbox.due().at(now).filter(|id| wanted(*id));
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
        state.outbox.due().by_domain(now, count, is_free, is_open)
    }

    /// When the next job is due that `is_free`, of the recipient domains that are open.
    pub fn next_due(
        &self,
        is_free: impl Fn(JobId) -> bool,
        is_open: impl Fn(&str) -> bool,
    ) -> Option<Timestamp> {
        self.shared.state().outbox.due().next(is_free, is_open)
    }

    /// Resolves when a job was taken or released since the last call. For one caller.
    pub async fn job_arrival(&self) {
        self.shared.job_arrival.notified().await;
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
        let shelves = shelves(&wanted);
        let state = self.shared.state();
        let mut found = Vec::new();
        for id in state.outbox.listed(&shelves, before) {
            if found.len() >= count {
                break;
            }
            let job = self.found(state.job(id)).map(|filed| filed.kept.record);
            found.extend(job.filter(|record| wanted(&record.state)));
        }
        found
    }

    /// How many jobs there are.
    pub fn outbox(&self) -> OutboxLedger {
        self.shared.state().outbox_ledger()
    }

    /// Why nothing is sent to this address, if it is on the list at `now`.
    pub fn suppression(&self, address: &Address, now: Timestamp) -> Option<Suppression> {
        let found = self.shared.state().suppression(&address.folded());
        self.found(found).filter(|found| now < found.until)
    }

    /// The addresses nothing is sent to, in an order that stays, at most `count` after `after`.
    pub fn suppressions(&self, after: Option<&str>, count: usize) -> Vec<Suppression> {
        let found = self.shared.state().suppressions(after, count);
        self.found(found.map(Some)).unwrap_or_default()
    }

    /// What was said last in a talk, by us or to us.
    pub fn said(&self, talk: &Talk, by_us: bool) -> Option<Said> {
        let place = || {
            let found = self.shared.state().said(talk, by_us);
            self.found(found)
        };
        let said = |place| match self.fact_at(place)? {
            Fact::Spoken { said, .. } => Ok(said),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        self.found(read_there(place, said).map_err(IndexError::from))
    }

    /// The next events after `after`, in order, at most `count`.
    pub fn events_after(&self, after: EventId, count: usize) -> Vec<(EventId, Arc<Event>)> {
        let known: Vec<(EventId, Option<Arc<Event>>)> = {
            let state = self.shared.state();
            let next = state.outbox.events_after(after).take(count);
            next.map(|id| (id, state.outbox.told(id))).collect()
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
    pub fn events(&self) -> watch::Receiver<EventId> {
        self.shared.newest_event.subscribe()
    }

    /// How far a subscriber is, if it ever heard an event.
    pub fn heard(&self, subscriber: &str) -> Option<Reach> {
        let found = self.shared.state().heard(subscriber);
        self.found(found)
    }

    fn event(&self, id: EventId) -> Option<Event> {
        let place = || self.shared.state().outbox.event(id);
        let event = |place| match self.fact_at(place)? {
            Fact::Happened(event) => Ok(event),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        self.found(read_there(place, event).map_err(IndexError::from))
    }

    fn fact_at(&self, place: Place) -> io::Result<Fact> {
        let head = self.shared.facts.head(place)?;
        match serde_json::from_slice(&head)? {
            Note::Fact(fact) => Ok(fact),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The facts with their records.
pub(super) fn told(facts: Vec<Fact>) -> Told {
    let write = |fact| {
        let note = Note::Fact(fact);
        let record = note.record();
        match note {
            Note::Fact(fact) => Some((fact, record)),
            _ => None,
        }
    };
    facts.into_iter().filter_map(write).collect()
}

/// Reads what stands at `place`, which may be another one after a while.
fn read_there<T>(
    place: impl Fn() -> Option<Place>,
    read: impl Fn(Place) -> io::Result<T>,
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
fn shelves(wanted: impl Fn(&JobState) -> bool) -> Vec<Shelf> {
    let reason = String::new;
    let waiting = JobState::Waiting {
        due_at: Timestamp::default(),
    };
    let failed = JobState::Failed { reason: reason() };
    let bounced = JobState::Bounced { reason: reason() };
    let all: [(Shelf, &[&JobState]); 4] = [
        (Shelf::Waiting, &[&waiting]),
        (Shelf::Failed, &[&failed]),
        (Shelf::Captured, &[&JobState::Captured]),
        (
            Shelf::Settled,
            &[
                &JobState::Sent,
                &JobState::Cancelled,
                &JobState::Captured,
                &failed,
                &bounced,
            ],
        ),
    ];
    let may = |(_, states): &(Shelf, &[&JobState])| states.iter().any(|s| wanted(s));
    all.into_iter().filter(may).map(|(s, _)| s).collect()
}
