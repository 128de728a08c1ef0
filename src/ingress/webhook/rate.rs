//! Owns how often a source, and all of them together, may come in a second.
//!
//! Does not turn anybody away for good: who comes too often is asked to come again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sources that are counted at a time. One more is let in uncounted, up to the bound on all.
const SOURCES_MAX: usize = 20_000;

/// A pace, and how far ahead of it one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// Counts requests by source and all together.
#[derive(Debug)]
pub(super) struct SourceRates {
    each: Rate,
    all: Rate,
    buckets: Mutex<SourceBuckets>,
}

#[derive(Debug)]
struct SourceBuckets {
    all: SourceBucket,
    sources: HashMap<IpAddr, SourceBucket>,
}

impl SourceRates {
    pub(super) fn new(each: Rate, all: Rate, now: Instant) -> Self {
        Self {
            each,
            all,
            buckets: Mutex::new(SourceBuckets {
                all: SourceBucket::new(now),
                sources: HashMap::new(),
            }),
        }
    }

    /// May this source come in now? If so it is counted.
    pub(super) fn admit(&self, source: Option<IpAddr>, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = source {
            if buckets.sources.len() >= SOURCES_MAX && !buckets.sources.contains_key(&source) {
                buckets.sources.retain(|_, bucket| !bucket.is_idle(now));
            }
            if buckets.sources.len() < SOURCES_MAX || buckets.sources.contains_key(&source) {
                let fresh = SourceBucket::new(now);
                let bucket = buckets.sources.entry(source).or_insert(fresh);
                if !bucket.take(self.each, now) {
                    return false;
                }
            }
        }
        buckets.all.take(self.all, now)
    }
}

/// When the pace will have caught up with what was taken (GCRA).
#[derive(Clone, Copy, Debug)]
struct SourceBucket {
    due: Instant,
}

impl SourceBucket {
    const fn new(now: Instant) -> Self {
        Self { due: now }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.due <= now
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let step = Duration::from_secs(1) / rate.per_second.max(1);
        let due = self.due.max(now) + step;
        if due > now + step * rate.burst.max(1) {
            return false;
        }
        self.due = due;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_and_then_the_pace() {
        let now = Instant::now();
        let each = Rate {
            per_second: 10,
            burst: 3,
        };
        let all = Rate {
            per_second: 100,
            burst: 4,
        };
        let rates = SourceRates::new(each, all, now);
        let [a, b] = [1, 2].map(|n| Some(IpAddr::from([192, 0, 2, n])));
        let admitted = |source, at: u64, times| {
            let now = now + Duration::from_millis(at);
            (0..times).filter(|_| rates.admit(source, now)).count()
        };
        assert_eq!(admitted(a, 0, 10), 3);
        assert_eq!(admitted(b, 0, 10), 1, "all together have four");
        assert_eq!(admitted(a, 100, 10), 1);
        assert_eq!(admitted(None, 1000, 10), 4);
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let now = Instant::now();
        let each = Rate {
            per_second: 1,
            burst: 1,
        };
        let all = Rate {
            per_second: 1_000_000,
            burst: 1_000_000,
        };
        let rates = SourceRates::new(each, all, now);
        for n in 0..2 * SOURCES_MAX {
            let source = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            assert!(rates.admit(Some(source), now));
        }
        assert_eq!(rates.buckets.lock().unwrap().sources.len(), SOURCES_MAX);
        let later = now + Duration::from_secs(2);
        assert!(rates.admit(Some(IpAddr::from([255, 0, 0, 1])), later));
        assert_eq!(rates.buckets.lock().unwrap().sources.len(), 1);
    }
}
