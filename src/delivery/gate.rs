//! Owns whether a route may be called at all: open, or closed but for one probe at a time.
//!
//! Does not call and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures in a row, with no success between, close a route: every lane would find out for
/// itself otherwise, and all of them again at the same time when the API is back.
pub(super) const FAILURES_MAX: u32 = 32;
/// The wait before the first probe of a closed route.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between probes after 401 or 403.
const PAUSED_PROBE_MAX: Duration = Duration::from_secs(300);
/// The longest wait between probes of an API that is down.
const FAILING_PROBE_MAX: Duration = Duration::from_secs(30);

/// What a job heard of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It did not call.
    Nothing,
    /// An answer that shows the API at work, a refusal among them.
    Life,
    /// Not now.
    Passing,
    /// The key is not good.
    Unauthorized,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Closed because the key is not good. A person must act.
    Paused,
    /// Closed because nothing succeeds.
    Failing,
    /// Open again.
    Opened,
}

/// The gate of one route.
#[derive(Debug)]
pub(super) struct Gate {
    closed: Option<Closed>,
    failures: u32,
}

#[derive(Debug)]
struct Closed {
    unauthorized: bool,
    probe_at: Instant,
    probing: bool,
    probes: u32,
}

impl Gate {
    pub(super) const fn new() -> Self {
        Self {
            closed: None,
            failures: 0,
        }
    }

    /// May a delivery go out now?
    pub(super) fn admits(&self, now: Instant) -> bool {
        self.closed
            .as_ref()
            .is_none_or(|closed| !closed.probing && closed.probe_at <= now)
    }

    /// One goes out: if the gate is closed, it is the probe.
    pub(super) fn pass(&mut self) -> bool {
        let Some(closed) = &mut self.closed else {
            return false;
        };
        closed.probing = true;
        true
    }

    /// When a closed gate admits the next probe.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.closed
            .as_ref()
            .filter(|closed| !closed.probing)
            .map(|closed| closed.probe_at)
    }

    /// True if only a person can open it: the key is not good.
    pub(super) fn is_paused(&self) -> bool {
        self.closed
            .as_ref()
            .is_some_and(|closed| closed.unauthorized)
    }

    /// What came of a job; `probe` if it was let through a closed gate.
    pub(super) fn heard(&mut self, heard: Heard, probe: bool, now: Instant) -> Change {
        if probe && let Some(closed) = &mut self.closed {
            closed.probing = false;
        }
        match heard {
            Heard::Nothing => Change::None,
            Heard::Life => {
                self.failures = 0;
                self.closed.take().map_or(Change::None, |_| Change::Opened)
            }
            Heard::Unauthorized => self.close(true, probe, now),
            Heard::Passing => {
                self.failures = self.failures.saturating_add(1);
                if self.closed.is_some() || self.failures >= FAILURES_MAX {
                    return self.close(false, probe, now);
                }
                Change::None
            }
        }
    }

    fn close(&mut self, unauthorized: bool, probe: bool, now: Instant) -> Change {
        let Some(closed) = &mut self.closed else {
            self.closed = Some(Closed {
                unauthorized,
                probe_at: now + PROBE_FIRST,
                probing: false,
                probes: 0,
            });
            return if unauthorized {
                Change::Paused
            } else {
                Change::Failing
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
            return Change::Paused;
        }
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn a_bad_key_closes_the_route_but_for_probes() {
        let now = Instant::now();
        let mut gate = Gate::new();
        assert!(gate.admits(now) && !gate.pass());
        assert_eq!(gate.heard(Heard::Unauthorized, false, now), Change::Paused);
        assert_eq!(gate.heard(Heard::Unauthorized, false, now), Change::None);
        assert!(gate.is_paused() && !gate.admits(now));
        let mut at = now;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let due = gate.next_due().unwrap();
            waits.push((due - at).as_secs());
            at = due;
            assert!(gate.admits(at) && gate.pass());
            assert!(!gate.admits(at + 1000 * SEC), "one probe at a time");
            assert_eq!(gate.heard(Heard::Unauthorized, true, at), Change::None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(gate.heard(Heard::Life, true, at), Change::Opened);
        assert!(gate.admits(at) && !gate.is_paused());
    }

    #[test]
    fn failures_in_a_row_close_the_route() {
        let now = Instant::now();
        let mut gate = Gate::new();
        for _ in 1..FAILURES_MAX {
            assert_eq!(gate.heard(Heard::Passing, false, now), Change::None);
        }
        gate.heard(Heard::Life, false, now);
        for _ in 1..FAILURES_MAX {
            assert_eq!(gate.heard(Heard::Passing, false, now), Change::None);
        }
        assert_eq!(gate.heard(Heard::Passing, false, now), Change::Failing);
        assert!(!gate.admits(now) && !gate.is_paused());
        assert_eq!(gate.heard(Heard::Unauthorized, false, now), Change::Paused);
    }

    #[test]
    fn a_probe_that_did_not_call_makes_room_for_the_next() {
        let now = Instant::now();
        let mut gate = Gate::new();
        gate.heard(Heard::Unauthorized, false, now);
        gate.pass();
        assert_eq!(gate.heard(Heard::Nothing, true, now), Change::None);
        assert!(gate.admits(now + SEC));
    }
}
