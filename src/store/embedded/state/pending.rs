//! Owns the pending changes of the index: taken, still visible, and dropped after the write.
//!
//! Does not write them.

use std::sync::Arc;

use super::StoreState;
use crate::store::embedded::index::{IndexError, IndexKey, IndexMeta};
use crate::store::embedded::pending_writes::{PendingWrites, sorted};

impl StoreState {
    /// The number of changes that the index lacks.
    pub(in crate::store) fn pending_count(&self) -> usize {
        self.pending.len() + self.dirty_mails.len()
    }

    /// The number of index entries among them, and their approximate size in bytes.
    pub(in crate::store) fn pending_entries(&self) -> (usize, usize) {
        (self.pending.len(), self.pending_bytes)
    }

    /// Takes the changes. Questions still see them until [`StoreState::pending_written`].
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
                state_seq: self.state_seq,
            },
        }
    }

    /// Writes the entries to the index at once, without the meta: for a rebuild, which would not fit into
    /// memory.
    pub(in crate::store) fn write_entries(&mut self) -> Result<(), IndexError> {
        let entries = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.index.apply(sorted(&entries), None)
    }

    /// Marks the changes that were taken as written.
    pub(in crate::store) fn pending_written(&mut self) {
        self.writing = Arc::default();
    }
}
