//! Owns the newest mappings in memory, so that a thread with traffic is looked up without a read.
//!
//! Does not read from disk: only a recorded mapping enters.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::index::IndexKey;
#[cfg(test)]
use super::memory_count::MemoryCount;
use crate::store::fact::Mapping;

/// The size in bytes of the records whose mappings are kept.
const BYTES_MAX: usize = 4 << 20;
/// The number of outdated places in the order, beyond one for each thread, above which they are removed.
const OUTDATED_MAX: usize = 64;

/// The mappings that were recorded last. Each is the current one of its thread.
#[derive(Debug, Default)]
pub(super) struct RecentMappings {
    kept: HashMap<IndexKey, KeptMapping>,
    /// The threads in the order of their records; one that was recorded again occurs again.
    order: VecDeque<(IndexKey, u64)>,
    bytes: usize,
}

#[derive(Debug)]
struct KeptMapping {
    mapping: Arc<Mapping>,
    /// The number of the record.
    seq: u64,
    bytes: usize,
}

impl RecentMappings {
    /// The current mapping, if it is in memory.
    pub(super) fn get(&self, key: IndexKey) -> Option<Arc<Mapping>> {
        Some(Arc::clone(&self.kept.get(&key)?.mapping))
    }

    /// Replaces the mapping of a thread by the one in the record `seq` of `bytes` bytes.
    pub(super) fn insert(&mut self, key: IndexKey, mapping: Mapping, seq: u64, bytes: usize) {
        let kept = KeptMapping {
            mapping: Arc::new(mapping),
            seq,
            bytes,
        };
        self.bytes += bytes;
        if let Some(old) = self.kept.insert(key, kept) {
            self.bytes -= old.bytes;
        }
        self.order.push_back((key, seq));
        while self.bytes > BYTES_MAX
            && let Some((key, seq)) = self.order.pop_front()
        {
            if self.is_current(key, seq) {
                self.bytes -= self.kept.remove(&key).map_or(0, |kept| kept.bytes);
            }
        }
        if self.order.len() > 2 * self.kept.len() + OUTDATED_MAX {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|(key, seq)| self.is_current(*key, *seq));
            self.order = order;
        }
    }

    /// The size of the records whose mappings are in memory.
    #[cfg(test)]
    pub(super) fn memory_count(&self) -> MemoryCount {
        MemoryCount::new("bytes of recent mappings", self.bytes, BYTES_MAX)
    }

    fn is_current(&self, key: IndexKey, seq: u64) -> bool {
        self.kept.get(&key).is_some_and(|kept| kept.seq == seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::token::ThreadKey;

    fn key(thread: &str) -> IndexKey {
        IndexKey::thread("r", ThreadKey::of(thread))
    }

    fn insert(recent: &mut RecentMappings, thread: &str, seq: u64, bytes: usize) {
        let mut mapping = Mapping::new("r", thread, None, Timestamp::default());
        mapping.subject = seq.to_string();
        recent.insert(key(thread), mapping, seq, bytes);
    }

    #[test]
    fn the_newest_record_of_a_thread_counts() {
        let mut recent = RecentMappings::default();
        for seq in 0..10_000 {
            insert(&mut recent, "busy", seq, 100);
            if seq < 10 {
                insert(&mut recent, &format!("quiet {seq}"), seq, 100);
            }
        }
        assert_eq!(recent.get(key("busy")).unwrap().subject, "9999");
        // A busy thread displaces no other.
        assert_eq!(recent.get(key("quiet 3")).unwrap().subject, "3");
        assert!(recent.order.len() < 200, "{}", recent.order.len());
        assert_eq!(recent.bytes, 11 * 100);
    }

    #[test]
    fn the_oldest_threads_leave_when_the_bytes_are_used_up() {
        let mut recent = RecentMappings::default();
        let each = BYTES_MAX / 10;
        for seq in 0..30 {
            insert(&mut recent, &seq.to_string(), seq, each);
            insert(&mut recent, "busy", seq, 1);
        }
        assert!(recent.bytes <= BYTES_MAX);
        assert_eq!(recent.kept.len(), 10 + 1);
        assert!(recent.get(key("busy")).is_some());
        assert!(recent.get(key("29")).is_some());
        assert!(recent.get(key("5")).is_none());
    }
}
