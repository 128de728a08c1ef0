//! Owns why something could not be opened, recorded or read.
//!
//! Does not log it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::id::MailId;
use crate::mail::job_id::JobId;

/// The reason for which a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The journal has lost records at its end that the index had seen on disk.
    #[error("{}: ends at record {last}, but record {known} was there: mail or facts are lost; restore it, or remove {} to go on without them", path.display(), index.display())]
    CutShort {
        /// The journal's folder.
        path: PathBuf,
        /// The last record that is there.
        last: u64,
        /// The last record that was there.
        known: u64,
        /// The index that knows.
        index: PathBuf,
    },
    /// Something in the journal is not as it was written, and it is not a torn tail.
    #[error("{}: at byte {offset}: {what}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The kind of damage.
        what: &'static str,
    },
    /// The index can be neither used nor made again.
    #[error("{}: {reason}", path.display())]
    Index {
        /// Its folder.
        path: PathBuf,
        /// The index's own message.
        reason: String,
    },
    /// The file system says no.
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
    /// The journal does not hold all the mail it should.
    #[error("{}: {expected} deliveries and jobs should wait or be parked, {found} do: segments are missing", path.display())]
    Lost {
        /// The journal's folder.
        path: PathBuf,
        /// Deliveries and jobs that should be there.
        expected: u64,
        /// Deliveries and jobs that are there.
        found: u64,
    },
    /// A segment that is needed is not there.
    #[error("{}: missing", path.display())]
    Missing {
        /// The segment.
        path: PathBuf,
    },
    /// A record is whole but has no form we know.
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
        /// The file that says so.
        path: PathBuf,
        /// The version it tells.
        version: String,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// The reason for which a store does not do or answer what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The record that holds the answer is not as it was written. It is in the log, and asking again
    /// does not help.
    #[error("a record of the store is damaged")]
    Damaged,
    /// The disk failed, or the store was closed. Final until a restart.
    #[error("the store has stopped")]
    Dead,
    /// The disk or the queue has no room. It may pass.
    #[error("the store is full")]
    Full,
    /// The store cannot answer now. It may pass: try again.
    #[error("the store is unavailable")]
    Unavailable,
}

/// The reason for which a mail cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The mail is settled for all its recipients, or there never was one.
    #[error("mail {0} is settled")]
    Settled(MailId),
    /// The job is over, or there never was one.
    #[error("job {0} is over")]
    NoJob(JobId),
    /// The disk does not give back the mail of a job.
    #[error("the mail of job {job} cannot be read")]
    Job {
        /// The job.
        job: JobId,
        /// Cause reported by the file system.
        source: io::Error,
    },
    /// The disk does not give back what was written.
    #[error("mail {mail} cannot be read")]
    Disk {
        /// The mail.
        mail: MailId,
        /// Cause reported by the file system.
        source: io::Error,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
