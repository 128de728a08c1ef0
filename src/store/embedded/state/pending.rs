//! Owns the way of the state's changes to the index: taken out, still seen, and forgotten.
//!
//! Does not write them there.

use std::sync::Arc;

use super::StoreState;
use crate::store::embedded::index::{IndexError, IndexKey, IndexMeta};
use crate::store::embedded::pending_writes::{PendingWrites, sorted};

impl StoreState {
    /// Number of changes that the index does not have.
    pub(in crate::store) fn pending_count(&self) -> usize {
        self.pending.len() + self.dirty_mails.len()
    }

    /// Number of index entries among them, and their approximate size in bytes.
    pub(in crate::store) fn pending_entries(&self) -> (usize, usize) {
        (self.pending.len(), self.pending_bytes)
    }

    /// Takes the changes out. Questions still see them until [`StoreState::pending_written`].
    pub(in crate::store) fn take_pending(&mut self) -> PendingWrites {
        self.writing = Arc::new(std::mem::take(&mut self.pending));
        self.pending_bytes = 0;
        let mut mails = Vec::with_capacity(self.dirty_mails.len());
        for mail in std::mem::take(&mut self.dirty_mails) {
            let held = self.open_mails.get_mut(&mail).map(|held| {
                held.indexed = true;
                held.clone()
            });
            mails.push((IndexKey::open_mail(mail), held));
        }
        PendingWrites {
            entries: Arc::clone(&self.writing),
            mails,
            meta: IndexMeta {
                seq: self.seq,
                totals: self.totals.clone(),
                state_segment: self.state_segment,
            },
        }
    }

    /// Writes the entries to the index at once, but not yet what they are true for: for a rebuild,
    /// which would not fit into memory.
    pub(in crate::store) fn write_entries(&mut self) -> Result<(), IndexError> {
        let entries = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.index.apply(sorted(&entries), None)
    }

    /// Marks the changes that were taken out as written.
    pub(in crate::store) fn pending_written(&mut self) {
        self.writing = Arc::default();
    }
}
