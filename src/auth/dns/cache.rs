//! Owns the cached answers: by question, bounded in number and octets.
//!
//! Does not decide how long an answer is valid.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::answer::{DnsAnswer, DnsQuery};
use super::{DnsFailure, DnsSettings};

/// The cost of an entry in bytes, besides its records.
const ENTRY_BYTES: usize = 256;

/// Answers by question; the oldest is removed first.
#[derive(Default)]
pub(super) struct DnsCache {
    slots: HashMap<DnsQuery, CacheSlot>,
    order: VecDeque<DnsQuery>,
    bytes: usize,
}

struct CacheSlot {
    cell: Arc<OnceCell<CachedAnswer>>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct CachedAnswer {
    pub(super) answer: Result<DnsAnswer, DnsFailure>,
    pub(super) until: Instant,
}

impl DnsCache {
    /// The slot of this question's answer, cleared if its content has expired.
    pub(super) fn slot(
        &mut self,
        question: &DnsQuery,
        now: Instant,
        settings: &DnsSettings,
    ) -> Arc<OnceCell<CachedAnswer>> {
        if let Some(slot) = self.slots.get_mut(question) {
            if slot.cell.get().is_some_and(|kept| kept.until <= now) {
                slot.cell = Arc::default();
                self.bytes -= std::mem::take(&mut slot.bytes);
            }
            return slot.cell.clone();
        }
        let cell = Arc::<OnceCell<CachedAnswer>>::default();
        let slot = CacheSlot {
            cell: cell.clone(),
            bytes: 0,
        };
        self.slots.insert(question.clone(), slot);
        self.order.push_back(question.clone());
        self.evict(settings);
        cell
    }

    /// Accounts for the size of an answer.
    pub(super) fn account_bytes(
        &mut self,
        question: &DnsQuery,
        kept: &CachedAnswer,
        settings: &DnsSettings,
    ) {
        let records = kept.answer.as_ref().map_or(0, DnsAnswer::byte_weight);
        if let Some(slot) = self.slots.get_mut(question) {
            let bytes = ENTRY_BYTES + question.name.len() + records;
            self.bytes = self.bytes - slot.bytes + bytes;
            slot.bytes = bytes;
        }
        self.evict(settings);
    }

    fn evict(&mut self, settings: &DnsSettings) {
        while self.slots.len() > settings.cache_entries_max.max(1)
            || self.bytes > settings.cache_bytes_max
        {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(slot) = self.slots.remove(&oldest) {
                self.bytes -= slot.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{DnsRecord, QueryType};
    use super::*;

    #[test]
    fn the_cache_keeps_its_bounds() {
        let settings = DnsSettings {
            cache_entries_max: 10,
            cache_bytes_max: 5_000,
            ..DnsSettings::default()
        };
        let mut cache = DnsCache::default();
        let now = Instant::now();
        for n in 0..100 {
            let question = DnsQuery {
                query_type: QueryType::Txt,
                name: format!("n{n}.example"),
            };
            let kept = CachedAnswer {
                answer: Ok(DnsAnswer {
                    is_name_known: true,
                    records: [DnsRecord::Text(vec![0; 1_000])].into(),
                }),
                until: now,
            };
            drop(cache.slot(&question, now, &settings));
            cache.account_bytes(&question, &kept, &settings);
            assert!(cache.slots.len() <= 10);
            assert!(cache.bytes <= 5_000);
            assert_eq!(cache.order.len(), cache.slots.len());
            assert_eq!(
                cache.bytes,
                cache.slots.values().map(|slot| slot.bytes).sum::<usize>()
            );
        }
        assert_eq!(cache.slots.len(), 3);
    }
}
