//! Owns the counts of the tables in memory and of the entries of the index, for tests.
//!
//! Is not part of the program.

use std::collections::HashMap;
use std::sync::RwLockReadGuard;

use super::backend::EmbeddedStore;
use super::index::IndexKey;
use super::memory_count::MemoryCount;
use super::nonces::NONCES_MAX;
use super::shared::BEHIND_MAX;
use super::state::StoreState;

impl EmbeddedStore {
    /// The count of every table in memory that grows with mail or jobs, after the index has all changes.
    pub(in crate::store) fn memory_counts(&self) -> Vec<MemoryCount> {
        let written = |state: &StoreState| state.pending_count() == 0;
        let mut counts = self.state_when(written).memory_counts(BEHIND_MAX);
        counts.extend([
            MemoryCount::new("leases", self.leases.len(), 0),
            MemoryCount::new("messages in flight", self.in_flight.len(), 0),
            MemoryCount::new("leased jobs", self.job_leases.busy().len(), 0),
            MemoryCount::new("nonces", self.nonces.len(), NONCES_MAX),
        ]);
        counts
    }

    /// All entries of the index, after it has all changes.
    pub(in crate::store) fn index_entries(&self) -> HashMap<IndexKey, Vec<u8>> {
        drop(self.state_when(StoreState::is_written));
        self.shared.index.entries()
    }

    fn state_when(&self, holds: impl Fn(&StoreState) -> bool) -> RwLockReadGuard<'_, StoreState> {
        loop {
            let state = self.shared.state();
            if holds(&state) || self.shared.has_failed() {
                return state;
            }
            drop(state);
            std::thread::yield_now();
        }
    }
}
