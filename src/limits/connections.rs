//! Owns the connection limit: how many connections a server has at a time, in all and from one
//! network.
//!
//! Does not answer clients that get no place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::load::{LoadMonitor, Mark};
use crate::network::rate_limit_key;

/// The bounds of a [`ConnectionLimiter`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Connections at a time from one network, as [`rate_limit_key`] counts.
    pub per_network_max: usize,
    /// Percent of the places above which the server counts as crowded.
    pub crowded_percent: usize,
}

/// The places for connections. A network is remembered only while it has one, so that the map is
/// never longer than there are connections.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limits: ConnectionLimits,
    mark: Mark,
    counts: Mutex<ConnectionCounts>,
    load: LoadMonitor,
    freed: Notify,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    open: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl ConnectionLimiter {
    /// A limiter without connections. `load` is told when most places are taken.
    pub fn new(limits: ConnectionLimits, load: LoadMonitor) -> Arc<Self> {
        Arc::new(Self {
            mark: Mark::new(limits.connections_max, limits.crowded_percent),
            limits,
            counts: Mutex::default(),
            load,
            freed: Notify::new(),
        })
    }

    /// A place, if one is free. It is given back when it is dropped.
    pub fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut counts = self.counts();
        if counts.open >= self.limits.connections_max {
            return None;
        }
        counts.open += 1;
        self.load.report_connections(self.mark, counts.open);
        Some(ConnectionPermit {
            limiter: Arc::clone(self),
            network: None,
        })
    }

    /// Waits for a place.
    pub async fn acquire(self: &Arc<Self>) -> ConnectionPermit {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Registered before the look, so that no place becomes free unnoticed between the two.
            freed.as_mut().enable();
            if let Some(permit) = self.try_acquire() {
                return permit;
            }
            freed.await;
        }
    }

    /// Connections that have a place.
    pub fn open(&self) -> usize {
        self.counts().open
    }

    fn counts(&self) -> MutexGuard<'_, ConnectionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    network: Option<IpAddr>,
}

impl ConnectionPermit {
    /// Counts the place for the network of `ip`. False if that network has all it may have: then the
    /// place is still held, but counts for no network.
    pub fn count_network(&mut self, ip: IpAddr) -> bool {
        let network = rate_limit_key(ip);
        let mut counts = self.limiter.counts();
        let count = counts.by_network.get(&network).copied().unwrap_or(0);
        if count >= self.limiter.limits.per_network_max {
            return false;
        }
        counts.by_network.insert(network, count + 1);
        debug_assert!(self.network.is_none(), "a place counts for one network");
        self.network = Some(network);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let limiter = &*self.limiter;
        let mut counts = limiter.counts();
        counts.open -= 1;
        if let Some(network) = self.network
            && let Some(count) = counts.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_network.remove(&network);
            }
        }
        limiter.load.report_connections(limiter.mark, counts.open);
        drop(counts);
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
    fn places_are_bounded_and_come_back() {
        let limiter = limiter(2, 2);
        let first = limiter.try_acquire().unwrap();
        let _second = limiter.try_acquire().unwrap();
        assert!(limiter.try_acquire().is_none());
        drop(first);
        assert!(limiter.try_acquire().is_some());
        assert_eq!(limiter.open(), 1);
    }

    #[tokio::test]
    async fn a_place_can_be_waited_for() {
        let limiter = limiter(1, 1);
        let first = limiter.acquire().await;
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.acquire().await }
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
            let mut permit = limiter.try_acquire().unwrap();
            assert_eq!(permit.count_network(ip.parse().unwrap()), counts, "{ip}");
            held.push(permit);
        }
        assert_eq!(limiter.open(), 8);
        assert_eq!(limiter.counts().by_network.len(), 4);
        held.clear();
        assert!(limiter.counts().by_network.is_empty());
        assert_eq!(limiter.open(), 0);
        let mut again = limiter.try_acquire().unwrap();
        assert!(again.count_network("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_bound_of_none_remembers_nobody() {
        let limiter = limiter(10, 0);
        let mut permit = limiter.try_acquire().unwrap();
        assert!(!permit.count_network("192.0.2.1".parse().unwrap()));
        assert!(limiter.counts().by_network.is_empty());
    }

    #[test]
    fn the_load_is_reported() {
        let limiter = limiter(10, 10);
        let mut held: Vec<_> = (0..8).filter_map(|_| limiter.try_acquire()).collect();
        assert!(!limiter.load.level().is_crowded());
        held.extend(limiter.try_acquire());
        assert!(limiter.load.level().is_crowded());
        held.truncate(7);
        assert!(!limiter.load.level().is_crowded());
    }
}
