//! Owns the places on the HTTP addresses: how many connections there may be in all and from one
//! network.
//!
//! Does not answer who gets no place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::server::ServerSettings;
use crate::network::{Network, rate_limit_key};

/// Who is turned away is told of once in so long.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The places of one server, over all its addresses. A network is remembered only while it has one,
/// so that the map is never longer than there are connections.
#[derive(Debug)]
pub(super) struct HttpConnectionLimiter {
    all: Arc<Semaphore>,
    per_network_max: usize,
    exempt: Vec<Network>,
    taken: Mutex<PermitCounts>,
}

#[derive(Debug, Default)]
struct PermitCounts {
    by_network: HashMap<IpAddr, usize>,
    turned_away: u64,
    warned_at: Option<Instant>,
}

impl HttpConnectionLimiter {
    pub(super) fn new(settings: &ServerSettings) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(
                settings.connections_max.min(Semaphore::MAX_PERMITS),
            )),
            per_network_max: settings.connections_per_network_max,
            exempt: settings.exempt.clone(),
            taken: Mutex::default(),
        })
    }

    /// Waits for a place.
    pub(super) async fn acquire(self: &Arc<Self>) -> Option<HttpConnectionPermit> {
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(HttpConnectionPermit {
            places: Arc::clone(self),
            network: None,
            _permit: permit,
        })
    }

    fn is_exempt(&self, ip: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(ip))
    }

    fn taken(&self) -> MutexGuard<'_, PermitCounts> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct HttpConnectionPermit {
    places: Arc<HttpConnectionLimiter>,
    network: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

impl HttpConnectionPermit {
    /// Counts the place for the network of `ip`. False if that has all it may have.
    pub(super) fn count_network(&mut self, ip: IpAddr) -> bool {
        if self.places.is_exempt(ip) {
            return true;
        }
        let network = rate_limit_key(ip);
        let mut taken = self.places.taken();
        let count = taken.by_network.get(&network).copied().unwrap_or_default();
        if count >= self.places.per_network_max {
            taken.note_refusal(network);
            return false;
        }
        taken.by_network.insert(network, count + 1);
        self.network = Some(network);
        true
    }
}

impl PermitCounts {
    fn note_refusal(&mut self, network: IpAddr) {
        self.turned_away += 1;
        if self.warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned_at = Some(Instant::now());
            let turned_away = self.turned_away;
            warn!(protocol = "http", %network, turned_away, "too many connections from one network");
        }
    }
}

impl Drop for HttpConnectionPermit {
    fn drop(&mut self) {
        let Some(network) = self.network else {
            return;
        };
        let mut taken = self.places.taken();
        if let Some(count) = taken.by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(
        connections_max: usize,
        connections_per_network_max: usize,
    ) -> Arc<HttpConnectionLimiter> {
        HttpConnectionLimiter::new(&ServerSettings {
            connections_max,
            connections_per_network_max,
            ..ServerSettings::default()
        })
    }

    #[tokio::test]
    async fn a_network_is_bounded_forgotten_and_may_be_exempt() {
        let places = places(10, 2);
        let mut held = Vec::new();
        for (ip, counts) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("127.0.0.1", true),
            ("127.0.0.1", true),
            ("127.0.0.1", true),
        ] {
            let mut place = places.acquire().await.unwrap();
            assert_eq!(place.count_network(ip.parse().unwrap()), counts, "{ip}");
            held.push(place);
        }
        assert!(places.all.try_acquire().is_err());
        assert_eq!(places.taken().by_network.len(), 3);
        held.clear();
        assert!(places.taken().by_network.is_empty());
        assert!(
            places
                .acquire()
                .await
                .unwrap()
                .count_network("192.0.2.1".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn a_bound_of_none_remembers_nobody() {
        let places = places(1, 0);
        let mut place = places.acquire().await.unwrap();
        assert!(!place.count_network("192.0.2.1".parse().unwrap()));
        assert!(places.taken().by_network.is_empty());
    }
}
