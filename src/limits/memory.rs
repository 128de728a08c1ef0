//! Owns the memory budget: the bytes of received data that a server holds at a time, and their division
//! among peers.
//!
//! Does not hold the bytes themselves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::load::{LoadMonitor, Mark};
use crate::network::rate_limit_key;

/// Bytes of a permit up to which it may use the share for small ones.
pub const SMALL_BYTES_MAX: usize = 256 * 1024;

/// The division of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Bytes of all permits together.
    pub bytes_max: usize,
    /// Bytes of all permits of one untrusted network together.
    pub network_bytes_max: usize,
    /// Bytes of the budget that are reserved for trusted holders.
    pub trusted_bytes: usize,
    /// Further bytes of the budget that untrusted holders may use only for the first [`SMALL_BYTES_MAX`] of
    /// each permit.
    pub small_bytes: usize,
}

impl MemoryLimits {
    /// One undivided budget.
    pub const fn undivided(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            network_bytes_max: bytes_max,
            trusted_bytes: 0,
            small_bytes: 0,
        }
    }

    /// A budget with shares, for items of up to `item_bytes_max` each: an eighth, but at least one item, is
    /// the limit of one network; a quarter is reserved for trusted holders, and a further eighth for small
    /// permits. A budget that is little larger than one item reserves less.
    pub fn shared(bytes_max: usize, item_bytes_max: usize) -> Self {
        let spare = bytes_max.saturating_sub(item_bytes_max);
        Self {
            bytes_max,
            network_bytes_max: (bytes_max / 8).max(item_bytes_max),
            trusted_bytes: (bytes_max / 4).min(spare / 2),
            small_bytes: (bytes_max / 8).min(spare / 4),
        }
    }

    /// Bytes that all untrusted holders together may have in permits of any size.
    const fn bulk_bytes_max(&self) -> usize {
        let kept = self.trusted_bytes.saturating_add(self.small_bytes);
        self.bytes_max.saturating_sub(kept)
    }
}

/// The caller for which bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An unauthenticated caller at this address.
    Stranger(IpAddr),
    /// An authenticated caller, or one that is exempt from the limits of strangers.
    Trusted,
}

/// A number of bytes shared by all connections of a server.
#[derive(Debug)]
pub struct MemoryBudget {
    limits: MemoryLimits,
    usage: Mutex<Usage>,
    gauge: Gauge,
    load: LoadMonitor,
    mark: Mark,
    /// Held by the first waiter, so that a large request is not overtaken for ever.
    queue: AsyncMutex<()>,
    freed: Notify,
}

/// The bytes in use. A network is remembered only while it uses some.
#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl MemoryBudget {
    /// The percentage of the untrusted share above which the memory counts as crowded.
    const CROWDED_PERCENT: usize = 80;

    /// An unused budget. `gauge` shows the bytes in use, and `load` is updated when the crowded state
    /// changes.
    pub fn new(limits: MemoryLimits, gauge: Gauge, load: LoadMonitor) -> Arc<Self> {
        Arc::new(Self {
            mark: Mark::new(limits.bulk_bytes_max(), Self::CROWDED_PERCENT),
            limits,
            usage: Mutex::default(),
            gauge,
            load,
            queue: AsyncMutex::default(),
            freed: Notify::new(),
        })
    }

    /// A permit for zero bytes.
    pub fn permit(self: &Arc<Self>, holder: Holder) -> MemoryPermit {
        MemoryPermit {
            budget: Arc::clone(self),
            network: network_of(holder),
            bytes: 0,
        }
    }

    /// Waits for `bytes`, in the order of the calls. A request above the whole budget waits for the whole
    /// budget.
    pub async fn acquire(self: &Arc<Self>, bytes: usize) -> MemoryPermit {
        let bytes = bytes.min(self.limits.bytes_max);
        let mut permit = self.permit(Holder::Trusted);
        let _first = self.queue.lock().await;
        loop {
            let freed = self.freed.notified();
            if permit.resize(bytes) {
                return permit;
            }
            freed.await;
        }
    }

    /// True if a new permit of `bytes` would succeed now. Nothing is reserved.
    pub fn fits(&self, holder: Holder, bytes: usize) -> bool {
        self.allows(&self.usage(), network_of(holder), 0, bytes)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.usage().bytes
    }

    /// True if a permit of `network` may grow from `before` to `bytes`.
    fn allows(&self, usage: &Usage, network: Option<IpAddr>, before: usize, bytes: usize) -> bool {
        let limits = &self.limits;
        let fits = |used: usize, most: usize| {
            let sum = (used - before).checked_add(bytes);
            sum.is_some_and(|sum| sum <= most)
        };
        let Some(network) = network else {
            return fits(usage.bytes, limits.bytes_max);
        };
        let most = if bytes <= SMALL_BYTES_MAX {
            limits.bytes_max.saturating_sub(limits.trusted_bytes)
        } else {
            limits.bulk_bytes_max()
        };
        let of_network = usage.by_network.get(&network).copied();
        fits(usage.bytes, most) && fits(of_network.unwrap_or(0), limits.network_bytes_max)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one holder. Dropping the permit frees them.
#[derive(Debug)]
pub struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    /// The network for which the bytes count; `None` for a trusted holder.
    network: Option<IpAddr>,
    bytes: usize,
}

impl MemoryPermit {
    /// Resizes the permit to `bytes`. False, without a change, if the budget does not allow it.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let budget = &*self.budget;
        let mut usage = budget.usage();
        if bytes > self.bytes && !budget.allows(&usage, self.network, self.bytes, bytes) {
            return false;
        }
        usage.bytes = usage.bytes - self.bytes + bytes;
        if let Some(network) = self.network {
            let of_network = usage.by_network.entry(network).or_default();
            *of_network = *of_network - self.bytes + bytes;
            if *of_network == 0 {
                usage.by_network.remove(&network);
            }
        }
        let is_less = bytes < self.bytes;
        self.bytes = bytes;
        // The gauge is set within the lock, so that the last report is the last value.
        let shown = i64::try_from(usage.bytes).unwrap_or(i64::MAX);
        budget.gauge.set(shown);
        budget.load.report_memory(budget.mark, usage.bytes);
        drop(usage);
        if is_less {
            budget.freed.notify_one();
        }
        true
    }

    /// Adds `more` bytes. False, without a change, if the budget does not allow it.
    pub fn grow(&mut self, more: usize) -> bool {
        let bytes = self.bytes.checked_add(more);
        bytes.is_some_and(|bytes| self.resize(bytes))
    }

    /// The bytes held.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.resize(0);
    }
}

fn network_of(holder: Holder) -> Option<IpAddr> {
    match holder {
        Holder::Stranger(ip) => Some(rate_limit_key(ip)),
        Holder::Trusted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn budget(limits: MemoryLimits) -> Arc<MemoryBudget> {
        MemoryBudget::new(limits, Gauge::default(), LoadMonitor::default())
    }

    fn stranger(last: u8) -> Holder {
        Holder::Stranger(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn the_sum_of_all_permits_is_bounded_counted_and_given_back() {
        let budget = budget(MemoryLimits::undivided(100));
        let mut ann = budget.permit(stranger(1));
        let mut bob = budget.permit(Holder::Trusted);
        assert!(ann.resize(60));
        assert!(!bob.resize(41));
        assert_eq!((budget.used(), budget.gauge.get()), (60, 60));
        assert!(bob.grow(40) && !bob.grow(1));
        assert!(!budget.fits(stranger(2), 1));
        assert!(ann.resize(10));
        assert!(budget.fits(stranger(2), 50));
        assert!(bob.resize(90));
        assert_eq!(bob.bytes(), 90);
        drop(ann);
        drop(bob);
        assert_eq!((budget.used(), budget.gauge.get()), (0, 0));
        assert!(budget.usage().by_network.is_empty());
        assert!(!budget.permit(stranger(1)).resize(usize::MAX));
    }

    #[test]
    fn a_network_has_its_share_and_small_and_trusted_permits_have_room_of_their_own() {
        let budget = budget(MemoryLimits {
            bytes_max: 1_000 * KIB,
            network_bytes_max: 400 * KIB,
            trusted_bytes: 100 * KIB,
            small_bytes: 200 * KIB,
        });
        let mut ann = budget.permit(stranger(1));
        assert!(ann.resize(300 * KIB) && !ann.resize(401 * KIB));
        let mut ann_again = budget.permit(stranger(1));
        assert!(!ann_again.resize(101 * KIB) && ann_again.resize(100 * KIB));
        let mut bob = budget.permit(stranger(2));
        assert!(!bob.resize(301 * KIB) && bob.resize(300 * KIB));
        // The share for large permits is used up; small ones still fit.
        assert!(budget.load.level().memory_crowded);
        assert!(!budget.fits(stranger(3), 257 * KIB));
        let mut eve = budget.permit(stranger(3));
        assert!(eve.resize(200 * KIB) && !eve.grow(1));
        let mut product = budget.permit(Holder::Trusted);
        assert!(product.resize(100 * KIB) && !product.grow(1));
        drop((ann, ann_again, bob));
        assert!(!budget.load.level().memory_crowded);
        assert!(eve.resize(400 * KIB));
    }

    #[test]
    fn an_item_always_fits_into_an_idle_budget() {
        for (bytes_max, item) in [(512, 26), (128, 30), (100, 90), (100, 100), (10, 100)] {
            let budget = budget(MemoryLimits::shared(bytes_max << 20, item << 20));
            let fits = budget.fits(stranger(1), item << 20);
            assert_eq!(fits, item <= bytes_max, "{item} of {bytes_max}");
        }
    }

    #[test]
    fn threads_never_share_more_than_there_is() {
        let budget = budget(MemoryLimits::undivided(1_000));
        std::thread::scope(|scope| {
            for n in 0..4 {
                let budget = &budget;
                scope.spawn(move || {
                    for step in 0..1_000 {
                        let mut permit = budget.permit(stranger(n));
                        permit.resize(step);
                        assert!(budget.used() <= 1_000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_large_request_waits_and_is_not_overtaken() {
        let budget = budget(MemoryLimits::undivided(100));
        let first = budget.acquire(60).await;
        let large = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.acquire(1_000).await }
        });
        while budget.queue.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        let small = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.acquire(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!small.is_finished());
        drop(first);
        assert_eq!(large.await.unwrap().bytes(), 100);
        assert_eq!(small.await.unwrap().bytes(), 1);
    }
}
