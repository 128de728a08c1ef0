//! Owns the store's door to the outbox: jobs, what became of them, and the events.
//!
//! Does not send mail, and tells nobody of an event.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Store;
use super::clerk::{Note, Request};
use super::error::{ReadError, RecordError};
use super::event::{Event, EventId};
use super::fact::Fact;
use super::frame::{self, Record};
use super::job::{Enqueued, Job, JobOutcome, JobRecord, JobState, OutboxLedger, Said, Suppression};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::outgoing::JobId;

impl Store {
    /// Takes responsibility for sending `mail`: it is on disk when this says `New`. `facts` are
    /// recorded with it, all or none.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    pub async fn enqueue(
        &self,
        job: Job,
        mail: Bytes,
        facts: Vec<Fact>,
    ) -> Result<Enqueued, RecordError> {
        self.has_room(mail.len() as u64)?;
        let (id, key, content) = (job.id, job.key, job.content);
        let mut all = Vec::with_capacity(1 + facts.len());
        let note = Note::Fact(Fact::Enqueued(Box::new(job)));
        let record = Record::new(note.json(), mail);
        if let Note::Fact(fact) = note {
            all.push((fact, record));
        }
        for fact in facts {
            let note = Note::Fact(fact);
            let record = note.record();
            if let Note::Fact(fact) = note {
                all.push((fact, record));
            }
        }
        if all.iter().map(|(_, r)| r.bytes()).sum::<usize>() > frame::RECORD_BYTES_MAX {
            return Err(RecordError::Full);
        }
        if let Some(known) = self.job_by_key(key) {
            let same = known.job.content == content;
            return Ok(Enqueued::Known {
                id: known.job.id,
                same,
            });
        }
        let ask = |answer| Request::Record { facts: all, answer };
        self.writer.ask(ask).await?;
        // Of two that came at once with one key, one was taken.
        match self.job_by_key(key) {
            Some(known) if known.job.id != id => Ok(Enqueued::Known {
                id: known.job.id,
                same: known.job.content == content,
            }),
            _ => Ok(Enqueued::New),
        }
    }

    /// Calls a job back. False if it is being sent, or is over.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    pub async fn cancel(&self, job: JobId, at: Timestamp) -> Result<bool, RecordError> {
        let found = self.job(job);
        let waits =
            |r: &JobRecord| matches!(r.state, JobState::Waiting { .. }) && r.begun_at.is_none();
        if !found.as_ref().is_some_and(waits) {
            return Ok(false);
        }
        let outcome = JobOutcome::Cancelled;
        self.record(vec![Fact::Ended { job, outcome, at }]).await?;
        Ok(true)
    }

    /// A job, if it is still known.
    pub fn job(&self, id: JobId) -> Option<JobRecord> {
        self.shared.state().outbox.job(id).cloned()
    }

    /// The job that was taken under this key, if it is still known.
    pub fn job_by_key(&self, key: [u8; 16]) -> Option<JobRecord> {
        self.shared.state().outbox.by_key(&key).cloned()
    }

    /// The mail of a job that waits, failed or was captured, as it was composed.
    ///
    /// # Errors
    /// The job is over or not known, or the disk does not give back what was written.
    pub fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        let gone = || ReadError::NoJob(id);
        let place = self.shared.state().outbox.place(id).ok_or_else(gone)?;
        let read = self.shared.facts.body(place);
        read.map_err(|source| ReadError::Job { job: id, source })
    }

    /// The jobs that are due at `now`, the longest overdue first, at most `count` of those that `wanted`
    /// lets through. Of the jobs of one thread only the oldest is ever due.
    pub fn due_jobs(
        &self,
        now: Timestamp,
        count: usize,
        wanted: impl Fn(JobId) -> bool,
    ) -> Vec<JobRecord> {
        let state = self.shared.state();
        let due = state.outbox.due().take_while(|(at, _)| *at <= now);
        let due = due.filter(|(_, id)| wanted(*id)).take(count);
        due.filter_map(|(_, id)| state.outbox.job(id).cloned())
            .collect()
    }

    /// When the next job is due of those that `wanted` lets through.
    pub fn next_due(&self, wanted: impl Fn(JobId) -> bool) -> Option<Timestamp> {
        let state = self.shared.state();
        let mut due = state.outbox.due().filter(|(_, id)| wanted(*id));
        due.next().map(|(at, _)| at)
    }

    /// Resolves when a job was taken or released since the last call. For one caller.
    pub async fn job_arrival(&self) {
        self.shared.job_arrival.notified().await;
    }

    /// The jobs in a state that `wanted` lets through, newest first, at most `count` after `after`.
    pub fn jobs(
        &self,
        wanted: impl Fn(&JobState) -> bool,
        after: Option<JobId>,
        count: usize,
    ) -> Vec<JobRecord> {
        let state = self.shared.state();
        let mut found: Vec<&JobRecord> = state.outbox.jobs().filter(|r| wanted(&r.state)).collect();
        found.sort_by_key(|r| std::cmp::Reverse((r.job.made_at, r.job.id)));
        let after = after.and_then(|id| found.iter().position(|r| r.job.id == id));
        let from = after.map_or(0, |at| at + 1);
        found.into_iter().skip(from).take(count).cloned().collect()
    }

    /// How many jobs there are.
    pub fn outbox(&self) -> OutboxLedger {
        self.shared.state().outbox.ledger
    }

    /// Why nothing is sent to this address, if it is on the list at `now`.
    pub fn suppression(&self, address: &Address, now: Timestamp) -> Option<Suppression> {
        let state = self.shared.state();
        let found = state.outbox.suppression(&address.folded())?;
        (now < found.until).then(|| found.clone())
    }

    /// The addresses nothing is sent to, in order, at most `count` after `after`.
    pub fn suppressions(&self, after: Option<&str>, count: usize) -> Vec<Suppression> {
        let state = self.shared.state();
        let all = state.outbox.suppressions();
        all.filter(|s| after.is_none_or(|after| *s.address > *after))
            .take(count)
            .cloned()
            .collect()
    }

    /// What was said last in a thread, by us or to us.
    pub fn said(&self, thread_id: &str, by_us: bool) -> Option<Said> {
        self.shared.state().outbox.said(thread_id, by_us).cloned()
    }

    /// The next events after `after`, in order, at most `count`.
    pub fn events_after(&self, after: EventId, count: usize) -> Vec<(EventId, Arc<Event>)> {
        let state = self.shared.state();
        state.outbox.events_after(after).take(count).collect()
    }

    /// The oldest event that is kept: whoever heard less has missed some.
    pub fn oldest_event(&self) -> Option<EventId> {
        self.shared.state().outbox.oldest_event()
    }

    /// The number of the newest event, and of each that comes.
    pub fn events(&self) -> watch::Receiver<EventId> {
        self.shared.newest_event.subscribe()
    }

    /// The last event a subscriber has, if it ever heard one.
    pub fn heard(&self, subscriber: &str) -> Option<EventId> {
        self.shared.state().outbox.heard(subscriber)
    }
}
