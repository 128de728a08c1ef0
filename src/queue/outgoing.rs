//! Owns the operations on outgoing jobs: list, show, cancel and retry.
//!
//! Does not send anything.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::error;

use super::QueueError;
use crate::clock;
use crate::mail::job_id::JobId;
use crate::store::{Fact, JobRecord, JobState, JobStateKind, OutboxLedger, ReadError, Store};

/// The jobs of the outbox. Clones share their lock.
#[derive(Clone)]
pub struct JobQueue {
    store: Store,
    age_max: Duration,
    /// Held from the check of a job's state to the write of the fact that changes it.
    changes: Arc<Mutex<()>>,
}

impl JobQueue {
    /// The jobs of this store. A retried job expires `age_max` after the retry.
    pub fn new(store: Store, age_max: Duration) -> Self {
        Self {
            store,
            age_max,
            changes: Arc::default(),
        }
    }

    /// The number of jobs in each state.
    pub fn ledger(&self) -> OutboxLedger {
        self.store.outbox_ledger()
    }

    /// Up to `limit` jobs after `after`, newest first, in this state or in any.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn list(
        &self,
        state: Option<JobStateKind>,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<JobRecord>, QueueError> {
        Ok(self.store.jobs(state, after, limit).await?)
    }

    /// The job of this name.
    ///
    /// # Errors
    /// [`QueueError::NotFound`].
    pub async fn find(&self, id: JobId) -> Result<JobRecord, QueueError> {
        self.store.job(id).await?.ok_or(QueueError::NotFound("job"))
    }

    /// The composed mail. It is kept while the job is waiting, failed or captured.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unreadable`].
    pub async fn mail(&self, id: JobId) -> Result<Bytes, QueueError> {
        let is_kept = matches!(
            self.find(id).await?.state,
            JobState::Waiting { .. } | JobState::Failed { .. } | JobState::Captured
        );
        let is_over = QueueError::NotFound("mail: the job is over");
        if !is_kept {
            return Err(is_over);
        }
        match self.store.job_mail(id).await {
            Ok(bytes) => Ok(bytes),
            Err(ReadError::NoJob(_)) => Err(is_over),
            Err(ReadError::Store(error)) => Err(error.into()),
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                error!(cause, "outbox: {error}");
                Err(QueueError::Unreadable)
            }
        }
    }

    /// Cancels a waiting job. A cancelled job stays cancelled.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Store`].
    pub async fn cancel(&self, id: JobId) -> Result<JobRecord, QueueError> {
        self.find(id).await?;
        let is_cancelled = self.store.cancel(id, clock::now()).await?;
        let record = self.find(id).await?;
        let why = match &record.state {
            _ if is_cancelled => return Ok(record),
            JobState::Cancelled => return Ok(record),
            JobState::Waiting { .. } => "it is being sent".to_owned(),
            state => format!("it is {} already", state.name()),
        };
        Err(QueueError::WrongState(why))
    }

    /// Attempts a failed or captured job again.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Store`].
    pub async fn retry(&self, id: JobId) -> Result<JobRecord, QueueError> {
        let _changes = self.changes.lock().await;
        let record = self.find(id).await?;
        if !matches!(record.state, JobState::Failed { .. } | JobState::Captured) {
            let word = record.state.name();
            let why = format!("it is {word}, neither failed nor captured");
            return Err(QueueError::WrongState(why));
        }
        let now = clock::now();
        let fact = Fact::Retried {
            job: id,
            at: now,
            ends_at: now.plus(self.age_max),
        };
        self.store.record(vec![fact]).await?;
        self.find(id).await
    }
}
