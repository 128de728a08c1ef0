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

/// Notifies the worker that a person wants a waiting job sent now.
pub type SendNow = Arc<dyn Fn(JobId) + Send + Sync>;

/// A job, and the one that is sent before it.
#[derive(Clone, Debug)]
pub struct QueuedJob {
    /// The job as the store has it.
    pub record: JobRecord,
    /// The waiting job to the same recipient in the same thread that is sent before this one, if this one
    /// waits for another.
    pub waits_behind: Option<JobId>,
}

/// The jobs of the outbox. Clones share their lock.
#[derive(Clone)]
pub struct JobQueue {
    store: Store,
    age_max: Duration,
    send_now: SendNow,
    /// The lock is held from the check of a job's state to the write of the fact that changes it. It ensures
    /// correct answers in one process: the store ignores a fact about a job that is not in the state for it.
    changes: Arc<Mutex<()>>,
}

impl JobQueue {
    /// The jobs of this store. A retried job expires `age_max` after the retry.
    pub fn new(store: Store, age_max: Duration) -> Self {
        Self {
            store,
            age_max,
            send_now: Arc::new(|_| {}),
            changes: Arc::default(),
        }
    }

    /// The same jobs with a running worker, which is notified of a job that a person retried.
    pub fn with_worker(self, send_now: SendNow) -> Self {
        Self { send_now, ..self }
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
    ) -> Result<Vec<QueuedJob>, QueueError> {
        let found = self.store.jobs(state, after, limit).await?;
        let mut listed = Vec::with_capacity(found.len());
        for record in found {
            listed.push(self.queued(record).await?);
        }
        Ok(listed)
    }

    /// The job of this name.
    ///
    /// # Errors
    /// [`QueueError::NotFound`].
    pub async fn find(&self, id: JobId) -> Result<QueuedJob, QueueError> {
        let record = self.record(id).await?;
        self.queued(record).await
    }

    /// The composed mail. It is kept while the job is waiting, failed or captured.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::Unreadable`].
    pub async fn mail(&self, id: JobId) -> Result<Bytes, QueueError> {
        let is_kept = matches!(
            self.record(id).await?.state,
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
    pub async fn cancel(&self, id: JobId) -> Result<QueuedJob, QueueError> {
        self.record(id).await?;
        let is_cancelled = self.store.cancel(id, clock::now()).await?;
        let record = self.record(id).await?;
        let why = match &record.state {
            _ if is_cancelled => return self.queued(record).await,
            JobState::Cancelled => return self.queued(record).await,
            JobState::Waiting { .. } => "it is being sent".to_owned(),
            state => format!("it is {} already", state.name()),
        };
        Err(QueueError::WrongState(why))
    }

    /// Makes the worker send a job now: a failed or captured one again, a waiting one without its wait.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::WrongState`], [`QueueError::Store`].
    pub async fn retry(&self, id: JobId) -> Result<QueuedJob, QueueError> {
        let _changes = self.changes.lock().await;
        let record = self.record(id).await?;
        match &record.state {
            JobState::Failed { .. } | JobState::Captured => {}
            JobState::Waiting { .. } if record.begun_at.is_some() => {
                let why = "it is being sent now, try again";
                return Err(QueueError::WrongState(why.to_owned()));
            }
            JobState::Waiting { .. } => {
                if let Some(first) = self.store.job_ahead(id).await? {
                    let why = format!("it waits behind job {first}: retry or cancel that one");
                    return Err(QueueError::WrongState(why));
                }
            }
            state => {
                let why = format!("it is {}, and cannot be sent again", state.name());
                return Err(QueueError::WrongState(why));
            }
        }
        let now = clock::now();
        let fact = Fact::Retried {
            job: id,
            at: now,
            ends_at: now.plus(self.age_max),
        };
        self.store.record(vec![fact]).await?;
        (self.send_now)(id);
        self.find(id).await
    }

    async fn record(&self, id: JobId) -> Result<JobRecord, QueueError> {
        self.store.job(id).await?.ok_or(QueueError::NotFound("job"))
    }

    async fn queued(&self, record: JobRecord) -> Result<QueuedJob, QueueError> {
        Ok(QueuedJob {
            waits_behind: self.store.job_ahead(record.job.id).await?,
            record,
        })
    }
}
