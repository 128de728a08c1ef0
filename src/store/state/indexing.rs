//! Owns the way of the state's changes to the index: taken out, still seen, and forgotten.
//!
//! Does not write them there.

use std::sync::Arc;

use super::State;
use crate::store::index::{IndexError, Key, Meta};
use crate::store::leaving::{Leaving, sorted};

impl State {
    /// How many changes the index has not seen.
    pub(in crate::store) fn behind(&self) -> usize {
        self.fresh.len() + self.dirty.len()
    }

    /// How many of them are entries, and about how many bytes those have.
    pub(in crate::store) fn entries(&self) -> (usize, usize) {
        (self.fresh.len(), self.fresh_bytes)
    }

    /// Takes the changes out. Questions still see them until [`State::left`].
    pub(in crate::store) fn leave(&mut self) -> Leaving {
        self.leaving = Arc::new(std::mem::take(&mut self.fresh));
        self.fresh_bytes = 0;
        let mut mails = Vec::with_capacity(self.dirty.len());
        for mail in std::mem::take(&mut self.dirty) {
            let held = self.held.get_mut(&mail).map(|held| {
                held.indexed = true;
                held.clone()
            });
            mails.push((Key::held(mail), held));
        }
        Leaving {
            entries: Arc::clone(&self.leaving),
            mails,
            meta: Meta {
                seq: self.seq,
                totals: self.totals.clone(),
            },
        }
    }

    /// Writes the entries to the index at once, but not yet what they are true for: for a rebuild,
    /// which would not fit into memory.
    pub(in crate::store) fn shed(&mut self) -> Result<(), IndexError> {
        let entries = std::mem::take(&mut self.fresh);
        self.fresh_bytes = 0;
        self.index.apply(sorted(&entries), None)
    }

    /// What was taken out is in the index.
    pub(in crate::store) fn left(&mut self) {
        self.leaving = Arc::default();
    }
}
