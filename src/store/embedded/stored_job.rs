//! Owns the stored form of a job, and the effect of each fact on it.
//!
//! Does not store it. Pure: the same facts in the same order always give the same job.

use serde::{Deserialize, Serialize};

use super::location::RecordLocation;
use crate::clock::Timestamp;
use crate::store::fact::Fact;
use crate::store::job::{
    AttemptRecord, DsnSummary, HISTORY_MAX, Job, JobOutcome, JobRecord, JobState,
};

/// A job, with internal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct StoredJob {
    pub(in crate::store) record: JobRecord,
    /// The number of the fact that last made it wait: the lowest of a thread is sent first.
    pub(in crate::store) order: u64,
    /// The time of the last end.
    pub(in crate::store) over_at: Option<Timestamp>,
    /// The number of the fact that deleted its mail: the job is settled, and forgotten later.
    pub(in crate::store) settled: Option<u64>,
}

/// A job in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexedJob {
    pub(super) stored: StoredJob,
    /// The number of the last fact about the job.
    pub(super) seq: u64,
    /// The number of the record from which all data of the job can be read.
    pub(super) base: u64,
    /// The location of that record, whose body is the mail unless the job is settled.
    pub(super) location: RecordLocation,
}

impl IndexedJob {
    /// A new job.
    pub(super) const fn new(job: Job, seq: u64, location: RecordLocation) -> Self {
        Self {
            stored: StoredJob::new(job, seq),
            seq,
            base: seq,
            location,
        }
    }

    /// The form of the entry in the index, after the number.
    pub(super) fn encode(&self) -> Vec<u8> {
        // All its parts have a JSON form; a failure would be read back as damage.
        serde_json::to_vec(&(self.base, self.location, &self.stored)).unwrap_or_default()
    }

    /// Parses the output of [`IndexedJob::encode`].
    pub(super) fn decode(seq: u64, payload: &[u8]) -> Option<Self> {
        let (base, location, kept) = serde_json::from_slice(payload).ok()?;
        Some(Self {
            stored: kept,
            seq,
            base,
            location,
        })
    }
}

impl StoredJob {
    /// A new job, from the fact `seq`.
    pub(in crate::store) const fn new(job: Job, seq: u64) -> Self {
        let state = JobState::Waiting {
            due_at: job.made_at,
        };
        let record = JobRecord {
            job,
            state,
            begun_at: None,
            attempts: 0,
            doubts: 0,
            history: Vec::new(),
        };
        Self {
            record,
            order: seq,
            over_at: None,
            settled: None,
        }
    }

    /// Applies the fact `seq` to the job. Other facts change nothing.
    pub(in crate::store) fn apply(&mut self, fact: Fact, seq: u64) {
        match fact {
            Fact::Begun { at, .. } => {
                self.record.begun_at = Some(at);
                self.record.attempts = self.record.attempts.saturating_add(1);
            }
            Fact::Deferred {
                at,
                due_at,
                relay,
                reply,
                in_doubt,
                ..
            } => {
                self.record.state = JobState::Waiting { due_at };
                self.record.begun_at = None;
                self.record.doubts = self.record.doubts.saturating_add(in_doubt.into());
                self.add_history(AttemptRecord {
                    relay,
                    reply,
                    ..AttemptRecord::of(at, "deferred")
                });
            }
            Fact::Ended { outcome, at, .. } => self.end(outcome, at, seq),
            Fact::Retried { at, ends_at, .. } => {
                // A waiting job keeps its position before the later ones of its thread.
                if !matches!(self.record.state, JobState::Waiting { .. }) {
                    self.order = seq;
                }
                self.record.state = JobState::Waiting { due_at: at };
                self.record.job.ends_at = ends_at;
                self.record.doubts = 0;
                self.over_at = None;
                self.add_history(AttemptRecord::of(at, "retried"));
            }
            Fact::NoticeReceived { notice, at, .. } => self.apply_notice(notice, at),
            _ => {}
        }
    }

    /// Settles the job: its mail is deleted, and the rest is kept for a while.
    pub(in crate::store) const fn settle(&mut self, seq: u64) {
        self.settled = Some(seq);
    }

    fn end(&mut self, outcome: JobOutcome, at: Timestamp, seq: u64) {
        let (state, trial) = match outcome {
            JobOutcome::Sent { relay, reply } => {
                let trial = AttemptRecord {
                    relay: Some(relay),
                    reply,
                    ..AttemptRecord::of(at, "sent")
                };
                (JobState::Sent, trial)
            }
            JobOutcome::Captured => (JobState::Captured, AttemptRecord::of(at, "captured")),
            JobOutcome::Cancelled => (JobState::Cancelled, AttemptRecord::of(at, "cancelled")),
            JobOutcome::Failed { relay, reason } => {
                let trial = AttemptRecord {
                    relay,
                    reply: reason.clone(),
                    ..AttemptRecord::of(at, "failed")
                };
                (JobState::Failed { reason }, trial)
            }
        };
        if matches!(state, JobState::Sent | JobState::Cancelled) {
            self.settle(seq);
        }
        self.record.state = state;
        self.record.begun_at = None;
        self.over_at = Some(at);
        self.add_history(trial);
    }

    fn apply_notice(&mut self, returned: DsnSummary, at: Timestamp) {
        let sent = matches!(self.record.state, JobState::Sent | JobState::Bounced { .. });
        if returned.failed && sent {
            let reason = returned.reason.clone();
            self.record.state = JobState::Bounced { reason };
        }
        let what = match returned.failed {
            true => "bounced",
            false => "delayed",
        };
        self.add_history(AttemptRecord {
            reply: returned.reason,
            relay: returned.remote_mta,
            ..AttemptRecord::of(at, what)
        });
    }

    /// Adds an entry to the history; the first and the newest ones are kept.
    fn add_history(&mut self, trial: AttemptRecord) {
        if self.record.history.len() >= HISTORY_MAX {
            self.record.history.remove(HISTORY_MAX / 4);
        }
        self.record.history.push(trial);
    }
}

impl AttemptRecord {
    fn of(at: Timestamp, what: &str) -> Self {
        Self {
            at,
            what: what.to_owned(),
            relay: None,
            reply: String::new(),
        }
    }
}
