//! Owns the form of a table's count, for the test that no table in memory grows with settled mail.
//!
//! Is not part of the program, and counts nothing.

/// The number of entries of one table in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct MemoryCount {
    pub(in crate::store) table: &'static str,
    pub(in crate::store) entries: usize,
    /// The maximum number of entries that settled mail and settled jobs may leave in the table.
    pub(in crate::store) bound: usize,
}

impl MemoryCount {
    pub(super) const fn new(table: &'static str, entries: usize, bound: usize) -> Self {
        Self {
            table,
            entries,
            bound,
        }
    }
}
