//! Owns the decision which facts take effect, while earlier facts of the batch are not applied yet.
//!
//! Does not write or apply them.

use std::collections::{BTreeMap, HashMap};

use super::frame::Record;
use super::index::IndexError;
use super::lookup::Lookup;
use super::state::StoreState;
use crate::mail::job_id::JobId;
use crate::store::event::EventKind;
use crate::store::fact::{DeliveryOutcome, Fact};
use crate::store::id::DeliveryId;
use crate::store::job::{EnqueueResult, Job, JobOutcome, JobState};
use crate::store::settings::Settings;

/// The facts of one call, each with its record.
pub(super) type EncodedFacts = Vec<(Fact, Record)>;

/// Decides which facts take effect.
#[derive(Debug)]
pub(super) struct Validator<'s> {
    state: &'s StoreState,
    settings: &'s Settings,
    deliveries: BTreeMap<DeliveryId, DeliveryStatus>,
    jobs: HashMap<JobId, JobStatus>,
    /// For each key its job, and the digest of the request.
    keys: HashMap<[u8; 16], (JobId, [u8; 16])>,
    /// The number of jobs accepted in this batch, and the bytes of their mails.
    taken: u64,
    taken_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryStatus {
    Waiting,
    Parked,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobStatus {
    Waiting {
        begun: bool,
    },
    /// The job is failed or captured.
    Retained,
    Sent,
    Bounced,
    Cancelled,
    /// The mail was deleted, and it was never sent.
    Gone,
    Unknown,
}

/// The decision about a new job.
#[derive(Debug)]
pub(super) enum EnqueueDecision {
    New(EncodedFacts),
    Exists(EnqueueResult),
    Full,
}

impl<'s> Validator<'s> {
    pub(super) fn new(state: &'s StoreState, settings: &'s Settings) -> Self {
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

    /// Returns the facts of one call that take effect. An event depends on the facts that caused it: if one
    /// about a job is dropped, the sending events and the suppressions are too; if one about a delivery is
    /// dropped, the other events are.
    pub(super) fn filter_facts(&mut self, told: EncodedFacts) -> Result<EncodedFacts, IndexError> {
        let (mut job_refused, mut delivery_refused) = (false, false);
        let mut taken = Vec::with_capacity(told.len());
        for (fact, record) in told {
            if self.accept_fact(&fact, record.body.len() as u64)? {
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

    /// Decides on a job with its facts, the first of which is its `Enqueued`: all of them or none.
    pub(super) fn decide_enqueue(
        &mut self,
        told: EncodedFacts,
    ) -> Result<EnqueueDecision, IndexError> {
        let Some((Fact::Enqueued(job), record)) = told.first() else {
            return Ok(EnqueueDecision::New(self.filter_facts(told)?));
        };
        if let Some((id, same)) = self.existing_job(job)? {
            return Ok(EnqueueDecision::Exists(EnqueueResult::Exists { id, same }));
        }
        let bytes = record.body.len() as u64;
        let waiting = self.state.outbox.waiting() + self.taken;
        let waiting_bytes = self.state.outbox.mail_bytes() + self.taken_bytes;
        if waiting >= self.settings.outbox_max
            || waiting_bytes.saturating_add(bytes) > self.settings.outbox_bytes_max
        {
            return Ok(EnqueueDecision::Full);
        }
        Ok(EnqueueDecision::New(self.filter_facts(told)?))
    }

    /// True if this job may be cancelled, which is not so while an attempt may be in progress.
    pub(super) fn may_cancel(&self, job: JobId) -> Result<bool, IndexError> {
        Ok(self.job_status(job)? == JobStatus::Waiting { begun: false })
    }

    fn accept_fact(&mut self, fact: &Fact, bytes: u64) -> Result<bool, IndexError> {
        match fact {
            Fact::Enqueued(job) => {
                if self.existing_job(job)?.is_some() {
                    return Ok(false);
                }
                for key in job.keys() {
                    self.keys.insert(key, (job.id, job.content));
                }
                let waits = JobStatus::Waiting { begun: false };
                self.jobs.insert(job.id, waits);
                self.taken += 1;
                self.taken_bytes += bytes;
                Ok(true)
            }
            Fact::Begun { .. }
            | Fact::Deferred { .. }
            | Fact::Ended { .. }
            | Fact::Retried { .. }
            | Fact::NoticeReceived { .. } => self.accept_job_fact(fact),
            _ => Ok(self.accept_delivery_fact(fact)),
        }
    }

    /// Decides on a fact about an accepted job.
    fn accept_job_fact(&mut self, fact: &Fact) -> Result<bool, IndexError> {
        let Some(id) = fact.job() else {
            return Ok(false);
        };
        let standing = self.job_status(id)?;
        let waits = matches!(standing, JobStatus::Waiting { .. });
        let next = match fact {
            Fact::Begun { .. } if waits => JobStatus::Waiting { begun: true },
            Fact::Deferred { .. } if waits => JobStatus::Waiting { begun: false },
            Fact::Ended { outcome, .. } if waits => match outcome {
                JobOutcome::Sent { .. } => JobStatus::Sent,
                JobOutcome::Cancelled => JobStatus::Cancelled,
                JobOutcome::Captured | JobOutcome::Failed { .. } => JobStatus::Retained,
            },
            Fact::Retried { .. } => match standing {
                JobStatus::Retained | JobStatus::Waiting { begun: false } => {
                    JobStatus::Waiting { begun: false }
                }
                _ => return Ok(false),
            },
            // A notice of a failure counts once.
            Fact::NoticeReceived { notice, .. } if notice.failed => match standing {
                JobStatus::Bounced | JobStatus::Unknown => return Ok(false),
                JobStatus::Sent => JobStatus::Bounced,
                other => other,
            },
            Fact::NoticeReceived { .. } if standing != JobStatus::Unknown => standing,
            _ => return Ok(false),
        };
        self.jobs.insert(id, next);
        Ok(true)
    }

    /// Decides on a fact about a delivery, or on one that always takes effect.
    fn accept_delivery_fact(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::Advanced { delivery, .. } => {
                self.delivery_status(*delivery) != DeliveryStatus::Over
            }
            Fact::Settled {
                delivery, outcome, ..
            } => {
                let open = self.delivery_status(*delivery) != DeliveryStatus::Over;
                let next = match outcome {
                    DeliveryOutcome::Parked { .. } => DeliveryStatus::Parked,
                    DeliveryOutcome::Delivered { .. } | DeliveryOutcome::Dropped { .. } => {
                        DeliveryStatus::Over
                    }
                };
                if open {
                    self.deliveries.insert(*delivery, next);
                }
                open
            }
            Fact::Released { delivery, .. } => {
                let parked = self.delivery_status(*delivery) == DeliveryStatus::Parked;
                if parked {
                    self.deliveries.insert(*delivery, DeliveryStatus::Waiting);
                }
                parked
            }
            _ => true,
        }
    }

    /// The job with one of this job's keys, or else its id; and true if it is the same request.
    fn existing_job(&self, job: &Job) -> Result<Option<(JobId, bool)>, IndexError> {
        for key in job.keys() {
            if let Some((id, content)) = self.keys.get(&key) {
                return Ok(Some((*id, *content == job.content)));
            }
            if let Some(found) = self.state.job_by_key(key)? {
                let found = found.stored.record.job;
                return Ok(Some((found.id, found.content == job.content)));
            }
        }
        let taken = self.job_status(job.id)? != JobStatus::Unknown;
        Ok(taken.then_some((job.id, false)))
    }

    fn job_status(&self, id: JobId) -> Result<JobStatus, IndexError> {
        if let Some(standing) = self.jobs.get(&id) {
            return Ok(*standing);
        }
        if let Some(begun) = self.state.outbox.begun(id) {
            return Ok(JobStatus::Waiting { begun });
        }
        if self.state.outbox.is_retained(id) {
            return Ok(JobStatus::Retained);
        }
        let found = self.state.job(id)?;
        Ok(match found.map(|filed| filed.stored.record.state) {
            Some(JobState::Sent) => JobStatus::Sent,
            Some(JobState::Bounced { .. }) => JobStatus::Bounced,
            Some(JobState::Cancelled) => JobStatus::Cancelled,
            Some(_) => JobStatus::Gone,
            None => JobStatus::Unknown,
        })
    }

    fn delivery_status(&self, delivery: DeliveryId) -> DeliveryStatus {
        if let Some(standing) = self.deliveries.get(&delivery) {
            return *standing;
        }
        match self.state.open_delivery(delivery) {
            None => DeliveryStatus::Over,
            Some(open) if open.parked.is_some() => DeliveryStatus::Parked,
            Some(_) => DeliveryStatus::Waiting,
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
