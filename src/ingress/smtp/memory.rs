//! Owns the budget: how many bytes of mail all connections together may hold in memory.
//!
//! Does not hold the bytes, and does not count what the store has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// A number of bytes that all connections share.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    bytes_max: usize,
    used: AtomicUsize,
    /// What is used, for people to see.
    gauge: Gauge,
}

impl MemoryBudget {
    pub(super) fn new(bytes_max: usize, shown: Gauge) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            used: AtomicUsize::new(0),
            gauge: shown,
        })
    }

    /// A share of nothing yet. It gives back what it has when it is dropped.
    pub(super) fn permit(self: &Arc<Self>) -> MemoryPermit {
        MemoryPermit {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }

    /// True if `bytes` more would fit now. It promises nothing.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max.saturating_sub(self.used())
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one connection has of the budget.
#[derive(Debug)]
pub(super) struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryPermit {
    /// Makes the share `bytes` long. False, and nothing changed, if that is more than is left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let MemoryBudget {
            used, gauge: shown, ..
        } = &*self.budget;
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        if bytes <= self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            shown.dec_by(signed(self.bytes - bytes));
        } else {
            let more = bytes - self.bytes;
            let grown = |used: usize| {
                let sum = used.checked_add(more)?;
                (sum <= self.budget.bytes_max).then_some(sum)
            };
            if used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
                .is_err()
            {
                return false;
            }
            shown.inc_by(signed(more));
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_shares_is_bounded() {
        let budget = MemoryBudget::new(100, Gauge::default());
        let mut ann = budget.permit();
        let mut bob = budget.permit();
        assert!(ann.resize(60));
        assert!(!bob.resize(41));
        assert_eq!(budget.used(), 60);
        assert_eq!(budget.gauge.get(), 60);
        assert!(bob.resize(40));
        assert!(!budget.fits(1));
        assert!(ann.resize(10));
        assert!(budget.fits(50));
        assert!(bob.resize(90));
        drop(ann);
        drop(bob);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.gauge.get(), 0);
        assert!(!budget.permit().resize(usize::MAX));
    }

    #[test]
    fn threads_never_share_more_than_there_is() {
        let budget = MemoryBudget::new(1_000, Gauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..1_000 {
                        let mut share = budget.permit();
                        share.resize(step);
                        assert!(budget.used() <= 1_000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
