//! Owns the places: how many connections there may be in all and from one network, and the weather
//! every connection looks at (crowded, closing).
//!
//! Does not answer who gets no place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Settings;
use crate::network::rate_limit_key;

/// The places, and who has them. A network is remembered only while it has one, so that the map is
/// never longer than there are connections.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    connections_max: usize,
    per_network_max: usize,
    crowded_above: usize,
    /// Lower than the mark above, or who comes and goes at the mark would wake all the others each
    /// time.
    calm_at: usize,
    counts: Mutex<ConnectionCounts>,
    load_level: watch::Sender<LoadLevel>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    open: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// What every connection must know of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadLevel {
    /// Most places are taken: who is idle goes sooner.
    pub(super) crowded: bool,
    /// The server stops.
    pub(super) closing: bool,
}

impl ConnectionLimiter {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        let percent = settings.crowded_percent.min(100);
        let crowded_above = settings.connections_max.saturating_mul(percent) / 100;
        Arc::new(Self {
            connections_max: settings.connections_max,
            per_network_max: settings.connections_per_network_max,
            crowded_above,
            calm_at: crowded_above.saturating_sub(settings.connections_max / 10),
            counts: Mutex::default(),
            load_level: watch::Sender::new(LoadLevel::default()),
        })
    }

    /// A place, if one is free. It is given back when it is dropped.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut taken = self.counts();
        if taken.open >= self.connections_max {
            return None;
        }
        taken.open += 1;
        self.publish_load(&taken);
        Some(ConnectionPermit {
            limiter: Arc::clone(self),
            network: None,
        })
    }

    /// Connections that have a place.
    pub(super) fn open(&self) -> usize {
        self.counts().open
    }

    pub(super) fn load_level(&self) -> watch::Receiver<LoadLevel> {
        self.load_level.subscribe()
    }

    /// Tells every connection that the server stops.
    pub(super) fn close(&self) {
        self.load_level
            .send_modify(|weather| weather.closing = true);
    }

    /// True once the server stops.
    pub(super) fn is_closing(&self) -> bool {
        self.load_level.borrow().closing
    }

    fn counts(&self) -> MutexGuard<'_, ConnectionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_load(&self, taken: &ConnectionCounts) {
        self.load_level.send_if_modified(|weather| {
            let crowded = match weather.crowded {
                true => taken.open > self.calm_at,
                false => taken.open > self.crowded_above,
            };
            let changed = weather.crowded != crowded;
            weather.crowded = crowded;
            changed
        });
    }
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    network: Option<IpAddr>,
}

impl ConnectionPermit {
    /// Counts the place for the network of `ip`. False if that has all it may have; then the place
    /// is still held, but counts for no network.
    pub(super) fn count_network(&mut self, ip: IpAddr) -> bool {
        let network = rate_limit_key(ip);
        let mut taken = self.limiter.counts();
        let count = taken.by_network.entry(network).or_default();
        if *count >= self.limiter.per_network_max {
            if *count == 0 {
                taken.by_network.remove(&network);
            }
            return false;
        }
        *count += 1;
        debug_assert!(self.network.is_none(), "a place counts for one network");
        self.network = Some(network);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.limiter.counts();
        taken.open -= 1;
        if let Some(network) = self.network
            && let Some(count) = taken.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&network);
            }
        }
        self.limiter.publish_load(&taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(connections_max: usize, per_network_max: usize) -> Arc<ConnectionLimiter> {
        ConnectionLimiter::new(&Settings {
            connections_max,
            connections_per_network_max: per_network_max,
            ..Settings::new("mx.example.com".to_owned())
        })
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let slots = slots(2, 2);
        let first = slots.try_acquire().unwrap();
        let _second = slots.try_acquire().unwrap();
        assert!(slots.try_acquire().is_none());
        drop(first);
        assert!(slots.try_acquire().is_some());
        assert_eq!(slots.open(), 1);
    }

    #[test]
    fn a_network_is_bounded_and_forgotten() {
        let slots = slots(10, 1);
        let mut first = slots.try_acquire().unwrap();
        let mut second = slots.try_acquire().unwrap();
        let mut other = slots.try_acquire().unwrap();
        assert!(first.count_network("2001:db8::1".parse().unwrap()));
        assert!(!second.count_network("2001:db8::2".parse().unwrap()));
        assert!(other.count_network("2001:db8:1::2".parse().unwrap()));
        drop(second);
        assert!(
            !slots
                .try_acquire()
                .unwrap()
                .count_network("2001:db8::2".parse().unwrap())
        );
        drop(first);
        assert!(
            slots
                .try_acquire()
                .unwrap()
                .count_network("2001:db8::2".parse().unwrap())
        );
        drop(other);
        assert!(slots.counts().by_network.is_empty());
        assert_eq!(slots.open(), 0);
    }

    #[test]
    fn a_bound_of_none_remembers_nobody() {
        let slots = slots(10, 0);
        assert!(
            !slots
                .try_acquire()
                .unwrap()
                .count_network("192.0.2.1".parse().unwrap())
        );
        assert!(slots.counts().by_network.is_empty());
    }

    #[test]
    fn the_weather_turns_above_the_mark_and_back() {
        let slots = slots(10, 10);
        let weather = slots.load_level();
        let mut held: Vec<_> = (0..8).filter_map(|_| slots.try_acquire()).collect();
        assert!(!weather.borrow().crowded);
        held.extend(slots.try_acquire());
        assert!(weather.borrow().crowded);
        held.pop();
        assert!(weather.borrow().crowded);
        held.pop();
        assert!(!weather.borrow().crowded);
        slots.close();
        assert!(weather.borrow().closing);
    }
}
