//! Owns the counts of the state's tables in memory, for the test that none of them grows with settled mail.
//!
//! Is not part of the program.

use super::StoreState;
use crate::store::embedded::memory_count::MemoryCount;

impl StoreState {
    /// True if the index has all changes.
    pub(in crate::store::embedded) fn is_written(&self) -> bool {
        self.pending_count() == 0 && self.writing.is_empty()
    }

    /// The count of every table; the compiler reports a new one. `behind_max` is the number of changes that
    /// the index may lack.
    pub(in crate::store::embedded) fn memory_counts(&self, behind_max: usize) -> Vec<MemoryCount> {
        let Self {
            index: _,
            open_mails,
            waiting,
            parked,
            usage,
            relocated,
            tombstones,
            totals,
            newest_at: _,
            recent_mails,
            recent_mappings,
            seq: _,
            state_segment: _,
            state_seq: _,
            pending,
            pending_bytes: _,
            writing,
            dirty_mails,
            outbox,
            limits: _,
            has_revocations: _,
        } = self;
        let mut counts = vec![
            MemoryCount::new("open mails", open_mails.len(), 0),
            MemoryCount::new("waiting", waiting.len(), 0),
            MemoryCount::new("parked", parked.len(), 0),
            MemoryCount::new("segments in use", usage.len(), 0),
            MemoryCount::new("relocated mails", relocated.len(), 0),
            MemoryCount::new("tombstones", tombstones.len(), 0),
            MemoryCount::new("milestones", totals.jobs.milestones.len(), 65),
            MemoryCount::new("recent mails", recent_mails.mails.len(), 0),
            recent_mappings.memory_count(),
            MemoryCount::new("pending", pending.len() + dirty_mails.len(), behind_max),
            MemoryCount::new("writing", writing.len(), behind_max),
        ];
        counts.extend(outbox.memory_counts());
        counts
    }
}
