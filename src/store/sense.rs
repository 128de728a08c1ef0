//! Owns which facts mean something, when those before them in the batch are not applied yet.
//!
//! Does not write or apply them.

use std::collections::{BTreeMap, HashMap};

use super::Settings;
use super::event::EventKind;
use super::fact::{DeliveryId, Fact, Outcome};
use super::frame::Record;
use super::index::IndexError;
use super::job::{Enqueued, Job, JobOutcome, JobState};
use super::state::State;
use crate::mail::outgoing::JobId;

/// Facts that are told at once, each with its record.
pub(super) type Told = Vec<(Fact, Record)>;

/// Tells which facts mean something.
#[derive(Debug)]
pub(super) struct Sense<'s> {
    state: &'s State,
    settings: &'s Settings,
    deliveries: BTreeMap<DeliveryId, Standing>,
    jobs: HashMap<JobId, JobStanding>,
    /// Whose each key is, and what was asked for.
    keys: HashMap<[u8; 16], (JobId, [u8; 16])>,
    /// Jobs taken in this batch, and the bytes of their mails.
    taken: u64,
    taken_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Waiting,
    Parked,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobStanding {
    Waiting {
        begun: bool,
    },
    /// Failed or captured.
    Shelved,
    Sent,
    Bounced,
    Cancelled,
    /// Its mail is gone, and it was never sent.
    Gone,
    Unknown,
}

/// What becomes of a job that is handed in.
#[derive(Debug)]
pub(super) enum Verdict {
    New(Told),
    Known(Enqueued),
    Full,
}

impl<'s> Sense<'s> {
    pub(super) fn new(state: &'s State, settings: &'s Settings) -> Self {
        Self {
            state,
            settings,
            deliveries: BTreeMap::new(),
            jobs: HashMap::new(),
            keys: HashMap::new(),
            taken: 0,
            taken_bytes: 0,
        }
    }

    /// Of the facts of one call those that mean something. An event goes with the facts that made it
    /// so: if one about a job is left out, the events about sending are too, and so is what was
    /// concluded about an address; if one about a delivery is, the other events are.
    pub(super) fn takes(&mut self, told: Told) -> Result<Told, IndexError> {
        let (mut job_refused, mut delivery_refused) = (false, false);
        let mut taken = Vec::with_capacity(told.len());
        for (fact, record) in told {
            if self.means(&fact, record.body.len() as u64)? {
                taken.push((fact, record));
                continue;
            }
            job_refused |= fact.job().is_some();
            delivery_refused |= fact.job().is_none();
        }
        taken.retain(|(fact, _)| match fact {
            Fact::Happened(event) => match is_about_sending(event.kind) {
                true => !job_refused,
                false => !delivery_refused,
            },
            Fact::Suppressed(_) => !job_refused,
            _ => true,
        });
        Ok(taken)
    }

    /// A job with its facts, the first of which is its `Enqueued`: all of them or none.
    pub(super) fn enqueues(&mut self, told: Told) -> Result<Verdict, IndexError> {
        let Some((Fact::Enqueued(job), record)) = told.first() else {
            return Ok(Verdict::New(self.takes(told)?));
        };
        if let Some((id, same)) = self.holder(job)? {
            return Ok(Verdict::Known(Enqueued::Known { id, same }));
        }
        let bytes = record.body.len() as u64;
        let waiting = self.state.outbox.waiting() + self.taken;
        let waiting_bytes = self.state.outbox.mail_bytes() + self.taken_bytes;
        if waiting >= self.settings.outbox_max
            || waiting_bytes.saturating_add(bytes) > self.settings.outbox_bytes_max
        {
            return Ok(Verdict::Full);
        }
        Ok(Verdict::New(self.takes(told)?))
    }

    /// May this job be called back? Not while an attempt may be under way.
    pub(super) fn cancels(&self, job: JobId) -> Result<bool, IndexError> {
        Ok(self.job(job)? == JobStanding::Waiting { begun: false })
    }

    fn means(&mut self, fact: &Fact, bytes: u64) -> Result<bool, IndexError> {
        match fact {
            Fact::Enqueued(job) => {
                if self.holder(job)?.is_some() {
                    return Ok(false);
                }
                for key in job.keys() {
                    self.keys.insert(key, (job.id, job.content));
                }
                let waits = JobStanding::Waiting { begun: false };
                self.jobs.insert(job.id, waits);
                self.taken += 1;
                self.taken_bytes += bytes;
                Ok(true)
            }
            Fact::Begun { .. }
            | Fact::Deferred { .. }
            | Fact::Ended { .. }
            | Fact::Retried { .. }
            | Fact::CameBack { .. } => self.moves(fact),
            _ => Ok(self.settles(fact)),
        }
    }

    /// A fact about a job that was taken.
    fn moves(&mut self, fact: &Fact) -> Result<bool, IndexError> {
        let Some(id) = fact.job() else {
            return Ok(false);
        };
        let standing = self.job(id)?;
        let waits = matches!(standing, JobStanding::Waiting { .. });
        let next = match fact {
            Fact::Begun { .. } if waits => JobStanding::Waiting { begun: true },
            Fact::Deferred { .. } if waits => JobStanding::Waiting { begun: false },
            Fact::Ended { outcome, .. } if waits => match outcome {
                JobOutcome::Sent { .. } => JobStanding::Sent,
                JobOutcome::Cancelled => JobStanding::Cancelled,
                JobOutcome::Captured | JobOutcome::Failed { .. } => JobStanding::Shelved,
            },
            Fact::Retried { .. } if standing == JobStanding::Shelved => {
                JobStanding::Waiting { begun: false }
            }
            // A notice that it failed counts once.
            Fact::CameBack { returned, .. } if returned.failed => match standing {
                JobStanding::Bounced | JobStanding::Unknown => return Ok(false),
                JobStanding::Sent => JobStanding::Bounced,
                other => other,
            },
            Fact::CameBack { .. } if standing != JobStanding::Unknown => standing,
            _ => return Ok(false),
        };
        self.jobs.insert(id, next);
        Ok(true)
    }

    /// A fact about a delivery, or one that always means something.
    fn settles(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::Advanced { delivery, .. } => self.delivery(*delivery) != Standing::Over,
            Fact::Settled {
                delivery, outcome, ..
            } => {
                let open = self.delivery(*delivery) != Standing::Over;
                let next = match outcome {
                    Outcome::Parked { .. } => Standing::Parked,
                    Outcome::Delivered { .. } | Outcome::Dropped { .. } => Standing::Over,
                };
                if open {
                    self.deliveries.insert(*delivery, next);
                }
                open
            }
            Fact::Released { delivery, .. } => {
                let parked = self.delivery(*delivery) == Standing::Parked;
                if parked {
                    self.deliveries.insert(*delivery, Standing::Waiting);
                }
                parked
            }
            _ => true,
        }
    }

    /// The job that has one of this one's keys, or else its id; and whether it is the same request.
    fn holder(&self, job: &Job) -> Result<Option<(JobId, bool)>, IndexError> {
        for key in job.keys() {
            if let Some((id, content)) = self.keys.get(&key) {
                return Ok(Some((*id, *content == job.content)));
            }
            if let Some(found) = self.state.job_by_key(key)? {
                let found = found.kept.record.job;
                return Ok(Some((found.id, found.content == job.content)));
            }
        }
        let taken = self.job(job.id)? != JobStanding::Unknown;
        Ok(taken.then_some((job.id, false)))
    }

    fn job(&self, id: JobId) -> Result<JobStanding, IndexError> {
        if let Some(standing) = self.jobs.get(&id) {
            return Ok(*standing);
        }
        if let Some(begun) = self.state.outbox.begun(id) {
            return Ok(JobStanding::Waiting { begun });
        }
        if self.state.outbox.is_shelved(id) {
            return Ok(JobStanding::Shelved);
        }
        let found = self.state.job(id)?;
        Ok(match found.map(|filed| filed.kept.record.state) {
            Some(JobState::Sent) => JobStanding::Sent,
            Some(JobState::Bounced { .. }) => JobStanding::Bounced,
            Some(JobState::Cancelled) => JobStanding::Cancelled,
            Some(_) => JobStanding::Gone,
            None => JobStanding::Unknown,
        })
    }

    fn delivery(&self, delivery: DeliveryId) -> Standing {
        if let Some(standing) = self.deliveries.get(&delivery) {
            return *standing;
        }
        match self.state.open(delivery) {
            None => Standing::Over,
            Some(open) if open.parked.is_some() => Standing::Parked,
            Some(_) => Standing::Waiting,
        }
    }
}

const fn is_about_sending(kind: EventKind) -> bool {
    match kind {
        EventKind::OutboundQueued
        | EventKind::OutboundSent
        | EventKind::OutboundDeferred
        | EventKind::OutboundFailed
        | EventKind::OutboundBounced => true,
        EventKind::ThreadCreated
        | EventKind::MessageCreated
        | EventKind::Processed
        | EventKind::Parked => false,
    }
}
