//! Owns the error of the index, and whether it passes.
//!
//! Does not know sled.

use std::io;

use thiserror::Error;

/// The index cannot be read or written.
#[derive(Debug, Error)]
#[error("index: {problem}")]
pub(in crate::store) struct IndexError {
    problem: String,
    is_full: bool,
}

impl IndexError {
    /// `what` has an unknown format.
    pub(super) fn damaged(what: &str) -> Self {
        Self::new(format!("{what} is damaged"))
    }

    pub(super) const fn new(problem: String) -> Self {
        Self {
            problem,
            is_full: false,
        }
    }

    /// True if the disk has no space: what was flushed is intact, and the index can be opened again later.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        Self {
            is_full: matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            problem: error.to_string(),
        }
    }
}
