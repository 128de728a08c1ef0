//! Owns the jobs that a person wants sent now, until the worker takes them up.
//!
//! Changes no job: that a person retried it is a fact in the store before it is listed here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mail::job_id::JobId;

/// The most jobs that are listed at a time; any other is sent in its turn.
const URGENT_MAX: usize = 1024;

/// The urgent jobs. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct UrgentJobs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    jobs: Mutex<BTreeSet<JobId>>,
    added: Notify,
}

impl UrgentJobs {
    /// Has the worker send this job next, if it waits: a relay that is left alone is tried again for it.
    pub fn add(&self, job: JobId) {
        let mut jobs = self.jobs();
        if jobs.len() < URGENT_MAX {
            jobs.insert(job);
        }
        drop(jobs);
        self.0.added.notify_one();
    }

    /// Takes one of them.
    pub(super) fn take(&self) -> Option<JobId> {
        self.jobs().pop_first()
    }

    /// Resolves when a job was added since the last call. For one caller.
    pub(super) async fn added(&self) {
        self.0.added.notified().await;
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeSet<JobId>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
