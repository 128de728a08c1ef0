//! Owns the connection limit: the number of concurrent connections, in all and from one network, and the
//! eviction of idle connections when the limit is reached.
//!
//! Does not close connections, and does not respond to rejected clients.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::load::{LoadMonitor, Mark};
use crate::network::rate_limit_key;

/// The bounds of a [`ConnectionLimiter`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The number of concurrent connections. Above it an eighth more is reserved for exempt clients, and
    /// another eighth for connections that are being evicted.
    pub connections_max: usize,
    /// The number of concurrent connections from one network, as [`rate_limit_key`] defines it.
    pub per_network_max: usize,
    /// The percentage of places in use above which the server counts as crowded.
    pub crowded_percent: usize,
}

impl ConnectionLimits {
    /// The places reserved for exempt clients, and equally many for evicted connections.
    const fn extra(&self) -> usize {
        self.connections_max / 8
    }
}

/// The places for connections. A network is remembered only while it has one, so that the map is never
/// longer than the number of connections.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limits: ConnectionLimits,
    mark: Mark,
    places: Mutex<Places>,
    load: LoadMonitor,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Places {
    open: usize,
    by_network: HashMap<IpAddr, usize>,
    /// The idle connections of clients that are not exempt, longest idle first.
    idle: BTreeMap<u64, Arc<Notify>>,
    /// The number of times that a connection became idle: the next key of `idle`.
    idle_count: u64,
    /// The evicted connections that have not ended yet.
    evicted: usize,
}

impl ConnectionLimiter {
    /// A limiter without connections. `load` is updated when the crowded state changes.
    pub fn new(limits: ConnectionLimits, load: LoadMonitor) -> Arc<Self> {
        Arc::new(Self {
            mark: Mark::new(limits.connections_max, limits.crowded_percent),
            limits,
            places: Mutex::default(),
            load,
            freed: Notify::new(),
        })
    }

    /// A place, if one is free or an idle connection can be evicted. Dropping the permit frees it.
    pub fn try_acquire(self: &Arc<Self>, is_exempt: bool) -> Option<ConnectionPermit> {
        let ConnectionLimits {
            connections_max, ..
        } = self.limits;
        let most = match is_exempt {
            true => connections_max.saturating_add(self.limits.extra()),
            false => connections_max,
        };
        let mut places = self.places();
        if places.open >= most && !places.evict(self.limits.extra()) {
            return None;
        }
        places.open += 1;
        self.load.report_connections(self.mark, places.open);
        Some(ConnectionPermit {
            limiter: Arc::clone(self),
            is_exempt,
            evicted: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// Waits for a place.
    pub async fn acquire(self: &Arc<Self>, is_exempt: bool) -> ConnectionPermit {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Registered before the check, so that a place that is freed in between is noticed.
            freed.as_mut().enable();
            if let Some(permit) = self.try_acquire(is_exempt) {
                return permit;
            }
            freed.await;
        }
    }

    /// The number of connections with a place.
    pub fn open(&self) -> usize {
        self.places().open
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Evicts the connection that has been idle longest. False if there is none, or if too many evicted
    /// connections are still open.
    fn evict(&mut self, evicted_max: usize) -> bool {
        if self.evicted >= evicted_max {
            return false;
        }
        let Some((_, told)) = self.idle.pop_first() else {
            return false;
        };
        told.notify_one();
        self.evicted += 1;
        self.open -= 1;
        true
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    /// True if this connection is never evicted.
    is_exempt: bool,
    evicted: Arc<Notify>,
    state: Mutex<PermitState>,
}

#[derive(Debug, Default)]
struct PermitState {
    network: Option<IpAddr>,
    /// The key in the list of idle connections.
    idle: Option<u64>,
    is_busy: bool,
}

impl ConnectionPermit {
    /// Counts the place for the network of `ip`. False if that network has reached its limit: then the
    /// place is still held, but not counted for a network.
    pub fn count_network(&self, ip: IpAddr) -> bool {
        let network = rate_limit_key(ip);
        let mut state = self.state();
        let mut places = self.limiter.places();
        let count = places.by_network.get(&network).copied().unwrap_or(0);
        if count >= self.limiter.limits.per_network_max {
            return false;
        }
        places.by_network.insert(network, count + 1);
        debug_assert!(
            state.network.is_none(),
            "a place is counted for one network"
        );
        state.network = Some(network);
        true
    }

    /// Marks the connection as idle, while it waits for its client, until [`ConnectionPermit::set_busy`].
    pub fn set_idle(&self) {
        let mut state = self.state();
        state.is_busy = false;
        if self.is_exempt || state.idle.is_some() {
            return;
        }
        let mut places = self.limiter.places();
        let key = places.idle_count;
        places.idle_count += 1;
        places.idle.insert(key, Arc::clone(&self.evicted));
        state.idle = Some(key);
    }

    /// Marks the connection as busy. False if it was evicted while it was idle: then it should end after
    /// this work.
    pub fn set_busy(&self) -> bool {
        let mut state = self.state();
        state.is_busy = true;
        match state.idle {
            None => true,
            Some(key) => {
                let is_ours = self.limiter.places().idle.remove(&key).is_some();
                if is_ours {
                    state.idle = None;
                }
                is_ours
            }
        }
    }

    /// False from [`ConnectionPermit::set_busy`] until the next [`ConnectionPermit::set_idle`].
    pub fn is_idle(&self) -> bool {
        !self.state().is_busy
    }

    /// Resolves after another connection has taken the place: this one should end soon.
    pub fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let evicted = Arc::clone(&self.evicted);
        async move { evicted.notified().await }
    }

    fn state(&self) -> MutexGuard<'_, PermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let limiter = &*self.limiter;
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let mut places = limiter.places();
        let was_evicted = state
            .idle
            .is_some_and(|key| places.idle.remove(&key).is_none());
        if was_evicted {
            places.evicted -= 1;
        } else {
            places.open -= 1;
        }
        if let Some(network) = state.network
            && let Some(count) = places.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                places.by_network.remove(&network);
            }
        }
        limiter.load.report_connections(limiter.mark, places.open);
        drop(places);
        limiter.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections_max: usize, per_network_max: usize) -> Arc<ConnectionLimiter> {
        let limits = ConnectionLimits {
            connections_max,
            per_network_max,
            crowded_percent: 80,
        };
        ConnectionLimiter::new(limits, LoadMonitor::default())
    }

    #[test]
    fn places_are_bounded_and_freed() {
        let limiter = limiter(2, 2);
        let first = limiter.try_acquire(false).unwrap();
        let _second = limiter.try_acquire(false).unwrap();
        assert!(limiter.try_acquire(false).is_none());
        assert!(limiter.try_acquire(true).is_none(), "two have no eighth");
        drop(first);
        assert!(limiter.try_acquire(false).is_some());
        assert_eq!(limiter.open(), 1);
    }

    #[tokio::test]
    async fn a_place_can_be_waited_for() {
        let limiter = limiter(1, 1);
        let first = limiter.acquire(false).await;
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.acquire(false).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        assert_eq!(limiter.open(), 0);
    }

    #[test]
    fn a_network_is_bounded_and_forgotten() {
        let limiter = limiter(20, 2);
        let mut held = Vec::new();
        for (ip, counts) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:1::3", true),
        ] {
            let permit = limiter.try_acquire(false).unwrap();
            assert_eq!(permit.count_network(ip.parse().unwrap()), counts, "{ip}");
            held.push(permit);
        }
        assert_eq!(limiter.open(), 8);
        assert_eq!(limiter.places().by_network.len(), 4);
        held.clear();
        assert!(limiter.places().by_network.is_empty());
        assert_eq!(limiter.open(), 0);
        let again = limiter.try_acquire(false).unwrap();
        assert!(again.count_network("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn without_a_network_limit_no_network_is_remembered() {
        let limiter = limiter(10, 0);
        let permit = limiter.try_acquire(false).unwrap();
        assert!(!permit.count_network("192.0.2.1".parse().unwrap()));
        assert!(limiter.places().by_network.is_empty());
    }

    #[test]
    fn the_load_is_reported() {
        let limiter = limiter(10, 10);
        let mut held: Vec<_> = (0..8).filter_map(|_| limiter.try_acquire(false)).collect();
        assert!(!limiter.load.level().is_crowded());
        held.extend(limiter.try_acquire(false));
        assert!(limiter.load.level().is_crowded());
        held.truncate(7);
        assert!(!limiter.load.level().is_crowded());
    }

    #[tokio::test]
    async fn the_connection_that_is_idle_for_longest_gives_up_its_place() {
        let limiter = limiter(16, 16);
        let exempt = limiter.try_acquire(true).unwrap();
        exempt.set_idle();
        let held: Vec<_> = (0..15)
            .map(|_| limiter.try_acquire(false).unwrap())
            .collect();
        assert!(limiter.try_acquire(false).is_none(), "nobody is idle");
        let reserved = [(); 2].map(|()| limiter.try_acquire(true).unwrap());
        assert!(limiter.try_acquire(true).is_none());
        drop(reserved);
        for at in [3, 1, 2] {
            held[at].set_idle();
        }
        held[3].set_idle();
        assert!(held[1].set_busy());
        held[1].set_idle();
        // At most an eighth of the places may belong to evicted connections.
        let _fourth = limiter.try_acquire(false).unwrap();
        held[3].evicted().await;
        assert!(!held[3].set_busy());
        let _fifth = limiter.try_acquire(false).unwrap();
        held[2].evicted().await;
        assert!(limiter.try_acquire(false).is_none());
        assert!(held[1].set_busy());
        assert_eq!(limiter.open(), 16);
        drop(held);
        assert_eq!(limiter.open(), 3);
        let places = limiter.places();
        assert_eq!((places.evicted, places.idle.len()), (0, 0));
    }
}
