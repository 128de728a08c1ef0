//! Owns what the facts about jobs, events and words add up to.
//!
//! Does not write to any disk. The same facts applied in the same order always give the same outbox.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::event::{Event, EventId};
use super::fact::Fact;
use super::job::{
    HISTORY_MAX, Job, JobOutcome, JobRecord, JobState, OutboxLedger, Returned, Said, Suppression,
    Trial,
};
use super::place::Place;
use super::state::Stamp;
use crate::clock::Timestamp;
use crate::mail::outgoing::JobId;

/// Events that are kept for those who listen.
const EVENTS_MAX: usize = 50_000;

/// The jobs, and what goes with them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    jobs: BTreeMap<JobId, (JobRecord, Place)>,
    keys: HashMap<[u8; 16], JobId>,
    /// The jobs that wait, thread by thread, oldest first. A job without a thread is its own.
    lines: BTreeMap<Line, VecDeque<JobId>>,
    /// The first job of each line, by when it is due.
    due: BTreeSet<(Timestamp, JobId)>,
    suppressed: BTreeMap<String, Suppression>,
    spoken: HashMap<(String, bool), Said>,
    events: VecDeque<(EventId, Arc<Event>)>,
    heard: BTreeMap<String, EventId>,
    pub(super) ledger: OutboxLedger,
}

/// Jobs that leave one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Thread(String),
    Alone(JobId),
}

impl Line {
    fn of(job: &Job) -> Self {
        match &job.thread_id {
            Some(thread) => Self::Thread(format!("{}\n{thread}", job.route)),
            None => Self::Alone(job.id),
        }
    }
}

impl Outbox {
    // Changes.

    /// Applies one fact; those about other things change nothing.
    pub(super) fn apply(&mut self, fact: Fact, stamp: Stamp) {
        match fact {
            Fact::Enqueued(job) => self.enqueue(*job, stamp.place),
            Fact::Begun { job, at } => self.begin(job, at),
            Fact::Deferred {
                job,
                at,
                due_at,
                relay,
                reply,
            } => {
                let what = "deferred".to_owned();
                let trial = Trial {
                    at,
                    what,
                    relay,
                    reply,
                };
                self.defer(job, due_at, trial);
            }
            Fact::Ended { job, outcome, at } => self.end(job, outcome, at),
            Fact::Retried { job, at, ends_at } => self.retry(job, at, ends_at),
            Fact::CameBack { job, returned, at } => self.come_back(job, returned, at),
            Fact::Suppressed(suppression) => self.suppress(suppression),
            Fact::Unsuppressed { address, .. } => self.unsuppress(&address),
            Fact::Spoken { thread_id, said } => self.speak(thread_id, said),
            Fact::Happened(event) => self.happen(EventId(stamp.origin), event),
            Fact::Heard {
                subscriber, event, ..
            } => self.hear(subscriber, event),
            _ => {}
        }
    }

    fn enqueue(&mut self, job: Job, place: Place) {
        if self.jobs.contains_key(&job.id) || self.keys.contains_key(&job.key) {
            return;
        }
        self.ledger.taken += 1;
        self.keys.insert(job.key, job.id);
        let record = JobRecord {
            state: JobState::Waiting {
                due_at: job.made_at,
            },
            job,
            begun_at: None,
            attempts: 0,
            history: Vec::new(),
        };
        let (id, line, at) = (record.job.id, Line::of(&record.job), record.job.made_at);
        self.jobs.insert(id, (record, place));
        self.line_up(line, id, at);
    }

    fn begin(&mut self, id: JobId, at: Timestamp) {
        if let Some(record) = self.waiting_mut(id) {
            record.begun_at = Some(at);
            record.attempts += 1;
        }
    }

    fn defer(&mut self, id: JobId, due_at: Timestamp, trial: Trial) {
        let Some(record) = self.waiting_mut(id) else {
            return;
        };
        let JobState::Waiting { due_at: before } = record.state else {
            return;
        };
        record.state = JobState::Waiting { due_at };
        record.begun_at = None;
        note(record, trial);
        if self.due.remove(&(before, id)) {
            self.due.insert((due_at, id));
        }
    }

    fn end(&mut self, id: JobId, outcome: JobOutcome, at: Timestamp) {
        let Some(record) = self.waiting_mut(id) else {
            return;
        };
        let JobState::Waiting { due_at } = record.state else {
            return;
        };
        let (state, what, relay, reply) = match outcome {
            JobOutcome::Sent { relay, reply } => (JobState::Sent, "sent", Some(relay), reply),
            JobOutcome::Captured => (JobState::Captured, "captured", None, String::new()),
            JobOutcome::Cancelled => (JobState::Cancelled, "cancelled", None, String::new()),
            JobOutcome::Failed { relay, reason } => {
                let reply = reason.clone();
                (JobState::Failed { reason }, "failed", relay, reply)
            }
        };
        record.state = state.clone();
        record.begun_at = None;
        let what = what.to_owned();
        note(
            record,
            Trial {
                at,
                what,
                relay,
                reply,
            },
        );
        let line = Line::of(&record.job);
        match state {
            JobState::Sent => self.ledger.sent += 1,
            JobState::Captured => self.ledger.captured += 1,
            JobState::Cancelled => self.ledger.cancelled += 1,
            _ => self.ledger.failed += 1,
        }
        self.leave_line(&line, id, due_at);
    }

    fn retry(&mut self, id: JobId, at: Timestamp, ends_at: Timestamp) {
        let Some((record, _)) = self.jobs.get_mut(&id) else {
            return;
        };
        match record.state {
            JobState::Failed { .. } => self.ledger.failed -= 1,
            JobState::Captured => self.ledger.captured -= 1,
            _ => return,
        }
        record.state = JobState::Waiting { due_at: at };
        record.job.ends_at = ends_at;
        note(record, Trial::of(at, "retried"));
        let line = Line::of(&record.job);
        self.line_up(line, id, at);
    }

    fn come_back(&mut self, id: JobId, returned: Returned, at: Timestamp) {
        let Some((record, _)) = self.jobs.get_mut(&id) else {
            return;
        };
        let over = matches!(record.state, JobState::Sent | JobState::Bounced { .. });
        if returned.failed && over {
            record.state = JobState::Bounced {
                reason: returned.reason.clone(),
            };
        }
        let what = if returned.failed {
            "bounced"
        } else {
            "delayed"
        };
        note(
            record,
            Trial {
                reply: returned.reason,
                relay: returned.remote_mta,
                ..Trial::of(at, what)
            },
        );
    }

    fn suppress(&mut self, suppression: Suppression) {
        self.suppressed
            .insert(suppression.address.clone(), suppression);
    }

    fn unsuppress(&mut self, address: &str) {
        self.suppressed.remove(address);
    }

    fn speak(&mut self, thread_id: String, said: Said) {
        self.spoken.insert((thread_id, said.by_us), said);
    }

    fn happen(&mut self, id: EventId, event: Event) {
        if self.events.back().is_some_and(|(last, _)| *last >= id) {
            return;
        }
        self.events.push_back((id, Arc::new(event)));
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    fn hear(&mut self, subscriber: String, event: EventId) {
        let heard = self.heard.entry(subscriber).or_default();
        *heard = (*heard).max(event);
    }

    // Questions.

    pub(super) fn job(&self, id: JobId) -> Option<&JobRecord> {
        self.jobs.get(&id).map(|(record, _)| record)
    }

    pub(super) fn place(&self, id: JobId) -> Option<Place> {
        self.jobs.get(&id).map(|(_, place)| *place)
    }

    pub(super) fn by_key(&self, key: &[u8; 16]) -> Option<&JobRecord> {
        self.job(*self.keys.get(key)?)
    }

    pub(super) fn due(&self) -> impl Iterator<Item = (Timestamp, JobId)> + '_ {
        self.due.iter().copied()
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobRecord> + '_ {
        self.jobs.values().map(|(record, _)| record)
    }

    pub(super) fn suppression(&self, address: &str) -> Option<&Suppression> {
        self.suppressed.get(address)
    }

    pub(super) fn suppressions(&self) -> impl Iterator<Item = &Suppression> + '_ {
        self.suppressed.values()
    }

    pub(super) fn said(&self, thread_id: &str, by_us: bool) -> Option<&Said> {
        self.spoken.get(&(thread_id.to_owned(), by_us))
    }

    pub(super) fn events_after(
        &self,
        after: EventId,
    ) -> impl Iterator<Item = (EventId, Arc<Event>)> {
        let from = self.events.partition_point(|(id, _)| *id <= after);
        self.events.range(from..).cloned()
    }

    pub(super) fn oldest_event(&self) -> Option<EventId> {
        self.events.front().map(|(id, _)| *id)
    }

    pub(super) fn heard(&self, subscriber: &str) -> Option<EventId> {
        self.heard.get(subscriber).copied()
    }

    // Inside.

    fn waiting_mut(&mut self, id: JobId) -> Option<&mut JobRecord> {
        let (record, _) = self.jobs.get_mut(&id)?;
        matches!(record.state, JobState::Waiting { .. }).then_some(record)
    }

    fn line_up(&mut self, line: Line, id: JobId, due_at: Timestamp) {
        self.ledger.waiting += 1;
        let waiting = self.lines.entry(line).or_default();
        waiting.push_back(id);
        if waiting.len() == 1 {
            self.due.insert((due_at, id));
        }
    }

    fn leave_line(&mut self, line: &Line, id: JobId, due_at: Timestamp) {
        self.ledger.waiting -= 1;
        self.due.remove(&(due_at, id));
        let Some(waiting) = self.lines.get_mut(line) else {
            return;
        };
        waiting.retain(|other| *other != id);
        let next = waiting.front().copied();
        if waiting.is_empty() {
            self.lines.remove(line);
        }
        if let Some(next) = next
            && let Some((record, _)) = self.jobs.get(&next)
            && let JobState::Waiting { due_at } = record.state
        {
            self.due.insert((due_at, next));
        }
    }
}

impl Trial {
    fn of(at: Timestamp, what: &str) -> Self {
        Self {
            at,
            what: what.to_owned(),
            relay: None,
            reply: String::new(),
        }
    }
}

/// Adds a line to a job's history; the first and the newest are kept.
fn note(record: &mut JobRecord, trial: Trial) {
    if record.history.len() >= HISTORY_MAX {
        record.history.remove(HISTORY_MAX / 4);
    }
    record.history.push(trial);
}
