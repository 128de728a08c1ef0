//! Owns the reasons why something could not be opened, recorded or read.
//!
//! Does not log them.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::id::MailId;
use crate::mail::job_id::JobId;

/// The reason why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The journal has lost records at its end that the index had seen on disk.
    #[error("{}: ends at record {last}, but record {known} was there: mail or facts are lost", path.display())]
    CutShort {
        /// The journal's folder.
        path: PathBuf,
        /// The last record in the journal.
        last: u64,
        /// The last record in the index.
        known: u64,
    },
    /// Part of the journal differs from what was written, and it is not a torn tail.
    #[error("{}: at byte {offset}: {what}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The kind of damage.
        what: &'static str,
    },
    /// The index can be neither used nor rebuilt.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The folder of the index.
        path: PathBuf,
        /// The index's own message.
        reason: String,
    },
    /// The file system reports an error.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("{}: in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The journal lacks mail or jobs that its totals count.
    #[error("{}: records are missing: {received} deliveries were received, {settled} are settled and {open} wait or are parked; {taken} jobs were taken, {over} are over and {waiting} wait", path.display())]
    Lost {
        /// The journal's folder.
        path: PathBuf,
        /// The number of deliveries that were received, by the totals.
        received: u64,
        /// The number of settled deliveries.
        settled: u64,
        /// The number of deliveries that wait or are parked.
        open: u64,
        /// The number of jobs that were taken, by the totals.
        taken: u64,
        /// The number of finished jobs.
        over: u64,
        /// The number of waiting jobs.
        waiting: u64,
    },
    /// A mend of the folder was begun and is not finished.
    #[error("{}: a mend of it was not finished", path.display())]
    Mending {
        /// The folder.
        path: PathBuf,
    },
    /// A required segment is missing.
    #[error("{}: missing", path.display())]
    Missing {
        /// The segment.
        path: PathBuf,
    },
    /// A record is intact but has an unknown form.
    #[error("{}: record {record}", path.display())]
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// The record's number.
        record: u64,
        /// The error of the record's JSON.
        source: serde_json::Error,
    },
    /// A newer version wrote the folder.
    #[error("{}: version {version}, but this program knows version 1 only", path.display())]
    Version {
        /// The file with the version.
        path: PathBuf,
        /// The version in it.
        version: String,
    },
}

impl OpenError {
    /// True if the folder opens after `postern store mend`.
    pub const fn is_mendable(&self) -> bool {
        matches!(
            self,
            Self::CutShort { .. }
                | Self::Damaged { .. }
                | Self::Lost { .. }
                | Self::Mending { .. }
                | Self::Missing { .. }
        )
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// The reason why a store does not record or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The record with the answer is damaged. The damage is logged, and a retry does not help.
    #[error("a record of the store is damaged")]
    Damaged,
    /// The disk failed, or the store was closed. This is final until a restart.
    #[error("the store has stopped")]
    Dead,
    /// The disk or the queue is full. This may be temporary.
    #[error("the store is full")]
    Full,
    /// The store has no answer now. This may be temporary: try again.
    #[error("the store is unavailable")]
    Unavailable,
}

/// The reason why a mail cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The mail is settled for all its recipients, or never existed.
    #[error("mail {0} is settled")]
    Settled(MailId),
    /// The job is over, or never existed.
    #[error("job {0} is over")]
    NoJob(JobId),
    /// The mail of a job cannot be read from disk.
    #[error("the mail of job {job} cannot be read")]
    Job {
        /// The job.
        job: JobId,
        /// Cause reported by the file system.
        source: io::Error,
    },
    /// The mail cannot be read from disk.
    #[error("mail {mail} cannot be read")]
    Disk {
        /// The mail.
        mail: MailId,
        /// Cause reported by the file system.
        source: io::Error,
    },
    /// The store has no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
