//! Owns the record of failed logins: a metric, a log line, and a pause for networks that guess keys.
//!
//! Does not compare keys.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::network::rate_limit_key;

/// The number of failures of one network within the window after which its further attempts are not
/// examined.
const FAILURES_MAX: u32 = 30;
/// The time after the first failure for which failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// The number of networks that are remembered.
const NETWORKS_MAX: usize = 10_000;

/// The protected parts of the HTTP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProtectedArea {
    /// The pages for people.
    Admin,
    /// The product's calls.
    Gateway,
    /// The embedded Messages API.
    Messages,
    /// The metrics over TLS.
    Metrics,
}

impl ProtectedArea {
    const ALL: [Self; 4] = [Self::Admin, Self::Gateway, Self::Messages, Self::Metrics];

    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Gateway => "gateway",
            Self::Messages => "messages",
            Self::Metrics => "metrics",
        }
    }
}

/// The failed logins. Clones share the record.
#[derive(Clone, Debug, Default)]
pub struct AuthFailures {
    counters: Family<AuthFailureLabels, Counter>,
    networks: Arc<Mutex<HashMap<IpAddr, FailureWindow>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthFailureLabels {
    area: String,
}

#[derive(Clone, Copy, Debug)]
struct FailureWindow {
    begun: Instant,
    failures: u32,
}

impl AuthFailures {
    /// Registers `postern_http_auth_failures`, with a series for each area.
    pub fn register(&self, registry: &mut Registry) {
        for area in ProtectedArea::ALL {
            self.counter(area);
        }
        registry.register(
            "postern_http_auth_failures",
            "Requests with a wrong key or password, by the part of the HTTP address",
            self.counters.clone(),
        );
    }

    /// True if the network of this client guesses keys: its attempts are not examined for a while.
    pub(super) fn is_paused(&self, client: Option<IpAddr>) -> bool {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let window = networks.get(&network_of(client));
        window.is_some_and(|window| window.is_open() && window.failures >= FAILURES_MAX)
    }

    /// Records a request with a wrong key or password. The first one of a network in each window is logged,
    /// and the one that pauses it.
    pub(super) fn record(&self, area: ProtectedArea, client: Option<IpAddr>) {
        self.counter(area).inc();
        let network = network_of(client);
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if networks.len() >= NETWORKS_MAX && !networks.contains_key(&network) {
            networks.retain(|_, window| window.is_open());
            if networks.len() >= NETWORKS_MAX {
                return;
            }
        }
        let fresh = FailureWindow {
            begun: Instant::now(),
            failures: 0,
        };
        let window = networks.entry(network).or_insert(fresh);
        if !window.is_open() {
            *window = fresh;
        }
        window.failures = window.failures.saturating_add(1);
        let failures = window.failures;
        if failures == 1 || failures == FAILURES_MAX {
            let area = area.name();
            warn!(protocol = "http", %network, area, failures, "wrong key or password");
        }
    }

    fn counter(&self, area: ProtectedArea) -> Counter {
        let labels = AuthFailureLabels {
            area: area.name().to_owned(),
        };
        self.counters.get_or_create(&labels).clone()
    }
}

impl FailureWindow {
    fn is_open(&self) -> bool {
        self.begun.elapsed() < WINDOW
    }
}

/// The network by which a client is counted; clients of a unix socket share one.
fn network_of(client: Option<IpAddr>) -> IpAddr {
    client.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), rate_limit_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_guesses_is_paused_and_others_are_not() {
        let failures = AuthFailures::default();
        let ip = |text: &str| Some(text.parse().unwrap());
        for _ in 0..FAILURES_MAX {
            assert!(!failures.is_paused(ip("192.0.2.1")));
            failures.record(ProtectedArea::Admin, ip("192.0.2.1"));
        }
        assert!(failures.is_paused(ip("192.0.2.1")));
        assert!(!failures.is_paused(ip("192.0.2.2")));
        assert_eq!(failures.counter(ProtectedArea::Admin).get(), 30);
        assert_eq!(failures.counter(ProtectedArea::Gateway).get(), 0);
    }

    #[test]
    fn the_record_is_bounded() {
        let failures = AuthFailures::default();
        for n in 0..NETWORKS_MAX as u32 + 10 {
            let ip = IpAddr::V4(Ipv4Addr::from_bits(n));
            failures.record(ProtectedArea::Gateway, Some(ip));
        }
        assert_eq!(failures.networks.lock().unwrap().len(), NETWORKS_MAX);
    }
}
