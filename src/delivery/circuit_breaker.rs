//! Owns the circuit breaker of a route: calls are allowed, or only one probe at a time.
//!
//! Does not call and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::mail::partition::PartitionKey;

/// The number of consecutive failures that open the circuit. Without it every partition would meet the
/// failure separately, and all would call at once when the API recovers.
pub(super) const FAILURES_MAX: u32 = 32;
/// This many partitions refused in a row, without a success between, show that the API refuses the key and
/// not the threads.
const FORBIDDEN_MAX: usize = 3;
/// The wait before the first probe.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between probes after 401 or 403.
const PAUSED_PROBE_MAX: Duration = Duration::from_secs(300);
/// The longest wait between probes of an API that is down.
const FAILING_PROBE_MAX: Duration = Duration::from_secs(30);

/// The state of the API as one attempt saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiHealth {
    /// The attempt made no call.
    Unknown,
    /// The API works: it answered, even with a refusal.
    Alive,
    /// The API fails temporarily.
    Failing,
    /// The API refuses the key.
    Unauthorized,
    /// The API refuses calls about one thread, because of the thread or of the key.
    Forbidden,
}

/// The change of a circuit breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CircuitChange {
    None,
    /// The circuit opened because the API refuses the key. A person must act.
    Paused,
    /// The circuit opened because no call succeeds.
    Failing,
    /// The circuit closed again.
    Recovered,
}

/// The circuit breaker of one route. It belongs to one process: a second process detects the failure by
/// itself, and no mail depends on it.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    open: Option<OpenCircuit>,
    failures: u32,
    /// Partitions that were refused since the last success; at most [`FORBIDDEN_MAX`].
    forbidden: Vec<PartitionKey>,
}

#[derive(Debug)]
struct OpenCircuit {
    unauthorized: bool,
    probe_at: Instant,
    probing: bool,
    probes: u32,
}

impl CircuitBreaker {
    pub(super) const fn new() -> Self {
        Self {
            open: None,
            failures: 0,
            forbidden: Vec::new(),
        }
    }

    /// True if a delivery may begin now.
    pub(super) fn allows_call(&self, now: Instant) -> bool {
        self.open
            .as_ref()
            .is_none_or(|closed| !closed.probing && closed.probe_at <= now)
    }

    /// Begins a delivery; true if it is the probe of an open circuit.
    pub(super) fn begin_call(&mut self) -> bool {
        let Some(closed) = &mut self.open else {
            return false;
        };
        closed.probing = true;
        true
    }

    /// The time of the next probe of an open circuit.
    pub(super) fn next_probe_at(&self) -> Option<Instant> {
        self.open
            .as_ref()
            .filter(|closed| !closed.probing)
            .map(|closed| closed.probe_at)
    }

    /// True if the API refuses the key, which only a person can change.
    pub(super) fn is_paused(&self) -> bool {
        self.open.as_ref().is_some_and(|closed| closed.unauthorized)
    }

    /// Records the result of an attempt; `probe` if it was the probe of an open circuit.
    pub(super) fn record(
        &mut self,
        health: ApiHealth,
        partition: PartitionKey,
        probe: bool,
        now: Instant,
    ) -> CircuitChange {
        if probe && let Some(open) = &mut self.open {
            open.probing = false;
        }
        match health {
            ApiHealth::Unknown => CircuitChange::None,
            ApiHealth::Alive => {
                self.failures = 0;
                self.forbidden.clear();
                self.open
                    .take()
                    .map_or(CircuitChange::None, |_| CircuitChange::Recovered)
            }
            ApiHealth::Unauthorized => self.trip(true, probe, now),
            ApiHealth::Forbidden => {
                if !self.forbidden.contains(&partition) && self.forbidden.len() < FORBIDDEN_MAX {
                    self.forbidden.push(partition);
                }
                if self.is_paused() || self.forbidden.len() >= FORBIDDEN_MAX {
                    return self.trip(true, probe, now);
                }
                CircuitChange::None
            }
            ApiHealth::Failing => {
                self.failures = self.failures.saturating_add(1);
                if self.open.is_some() || self.failures >= FAILURES_MAX {
                    return self.trip(false, probe, now);
                }
                CircuitChange::None
            }
        }
    }

    fn trip(&mut self, unauthorized: bool, probe: bool, now: Instant) -> CircuitChange {
        let Some(closed) = &mut self.open else {
            self.open = Some(OpenCircuit {
                unauthorized,
                probe_at: now + PROBE_FIRST,
                probing: false,
                probes: 0,
            });
            return if unauthorized {
                CircuitChange::Paused
            } else {
                CircuitChange::Failing
            };
        };
        if probe {
            closed.probes = closed.probes.saturating_add(1);
            let most = if closed.unauthorized || unauthorized {
                PAUSED_PROBE_MAX
            } else {
                FAILING_PROBE_MAX
            };
            let wait = PROBE_FIRST.saturating_mul(1 << closed.probes.min(16));
            closed.probe_at = now + wait.min(most);
        }
        if unauthorized && !closed.unauthorized {
            closed.unauthorized = true;
            return CircuitChange::Paused;
        }
        CircuitChange::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);
    const ONE: PartitionKey = PartitionKey(1);

    #[test]
    fn a_bad_key_closes_the_route_but_for_probes() {
        let now = Instant::now();
        let mut gate = CircuitBreaker::new();
        assert!(gate.allows_call(now) && !gate.begin_call());
        assert_eq!(
            gate.record(ApiHealth::Unauthorized, ONE, false, now),
            CircuitChange::Paused
        );
        assert_eq!(
            gate.record(ApiHealth::Unauthorized, ONE, false, now),
            CircuitChange::None
        );
        assert!(gate.is_paused() && !gate.allows_call(now));
        let mut at = now;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let due = gate.next_probe_at().unwrap();
            waits.push((due - at).as_secs());
            at = due;
            assert!(gate.allows_call(at) && gate.begin_call());
            assert!(!gate.allows_call(at + 1000 * SEC), "one probe at a time");
            assert_eq!(
                gate.record(ApiHealth::Unauthorized, ONE, true, at),
                CircuitChange::None
            );
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(
            gate.record(ApiHealth::Alive, ONE, true, at),
            CircuitChange::Recovered
        );
        assert!(gate.allows_call(at) && !gate.is_paused());
    }

    #[test]
    fn failures_in_a_row_close_the_route() {
        let now = Instant::now();
        let mut gate = CircuitBreaker::new();
        for _ in 1..FAILURES_MAX {
            assert_eq!(
                gate.record(ApiHealth::Failing, ONE, false, now),
                CircuitChange::None
            );
        }
        gate.record(ApiHealth::Alive, ONE, false, now);
        for _ in 1..FAILURES_MAX {
            assert_eq!(
                gate.record(ApiHealth::Failing, ONE, false, now),
                CircuitChange::None
            );
        }
        assert_eq!(
            gate.record(ApiHealth::Failing, ONE, false, now),
            CircuitChange::Failing
        );
        assert!(!gate.allows_call(now) && !gate.is_paused());
        assert_eq!(
            gate.record(ApiHealth::Unauthorized, ONE, false, now),
            CircuitChange::Paused
        );
    }

    #[test]
    fn a_probe_without_a_call_allows_the_next_one() {
        let now = Instant::now();
        let mut gate = CircuitBreaker::new();
        gate.record(ApiHealth::Unauthorized, ONE, false, now);
        gate.begin_call();
        assert_eq!(
            gate.record(ApiHealth::Unknown, ONE, true, now),
            CircuitChange::None
        );
        assert!(gate.allows_call(now + SEC));
    }

    #[test]
    fn refusals_of_several_threads_indicate_the_key() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new();
        let refuse = |breaker: &mut CircuitBreaker, n| {
            breaker.record(ApiHealth::Forbidden, PartitionKey(n), false, now)
        };
        for _ in 0..9 {
            assert_eq!(refuse(&mut breaker, 1), CircuitChange::None);
        }
        assert_eq!(refuse(&mut breaker, 2), CircuitChange::None);
        breaker.record(ApiHealth::Alive, ONE, false, now);
        assert_eq!(refuse(&mut breaker, 2), CircuitChange::None);
        assert_eq!(refuse(&mut breaker, 3), CircuitChange::None);
        assert_eq!(refuse(&mut breaker, 4), CircuitChange::Paused);
        assert!(breaker.is_paused());
    }
}
