//! Owns the budget: how many bytes of mail all connections together may hold in memory.
//!
//! Does not hold the bytes, and does not count what the store has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// A number of bytes that all connections share.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    /// What is used, for people to see.
    shown: Gauge,
}

impl Budget {
    pub(super) fn new(bytes_max: usize, shown: Gauge) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            used: AtomicUsize::new(0),
            shown,
        })
    }

    /// A share of nothing yet. It gives back what it has when it is dropped.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
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
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Makes the share `bytes` long. False, and nothing changed, if that is more than is left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let Budget { used, shown, .. } = &*self.budget;
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

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_shares_is_bounded() {
        let budget = Budget::new(100, Gauge::default());
        let mut ann = budget.share();
        let mut bob = budget.share();
        assert!(ann.resize(60));
        assert!(!bob.resize(41));
        assert_eq!(budget.used(), 60);
        assert_eq!(budget.shown.get(), 60);
        assert!(bob.resize(40));
        assert!(!budget.fits(1));
        assert!(ann.resize(10));
        assert!(budget.fits(50));
        assert!(bob.resize(90));
        drop(ann);
        drop(bob);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.shown.get(), 0);
        assert!(!budget.share().resize(usize::MAX));
    }

    #[test]
    fn threads_never_share_more_than_there_is() {
        let budget = Budget::new(1_000, Gauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..1_000 {
                        let mut share = budget.share();
                        share.resize(step);
                        assert!(budget.used() <= 1_000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
