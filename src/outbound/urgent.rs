//! Owns the jobs that a person wants sent now, until the worker starts them.
//!
//! Changes no job: the retry by a person is a fact in the store before the job is listed here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mail::job_id::JobId;

/// The maximum number of listed jobs; any other is sent in its normal order.
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
    /// Makes the worker send this job next, if it waits; a relay that is not in use after failures is tried
    /// again for it.
    pub fn add(&self, job: JobId) {
        let mut jobs = self.jobs();
        if jobs.len() < URGENT_MAX {
            jobs.insert(job);
        }
        drop(jobs);
        self.0.added.notify_one();
    }

    /// Removes and returns one of the jobs.
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
