//! Owns the load level of a server: crowded or not, and stopping or not.
//!
//! Does not measure the load. The connection limiter and the memory budget report it.

use std::sync::Arc;

use tokio::sync::watch;

/// The state of a server that each of its connections must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadLevel {
    /// True if most connection places are taken.
    pub connections_crowded: bool,
    /// True if most of the memory budget is in use.
    pub memory_crowded: bool,
    /// True if the server is stopping.
    pub closing: bool,
}

impl LoadLevel {
    /// True if idle clients must be closed sooner than usual.
    pub const fn is_crowded(self) -> bool {
        self.connections_crowded || self.memory_crowded
    }
}

/// The load level of one server. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LoadMonitor(Arc<watch::Sender<LoadLevel>>);

impl LoadMonitor {
    /// A receiver of every change.
    pub fn subscribe(&self) -> watch::Receiver<LoadLevel> {
        self.0.subscribe()
    }

    /// The current level.
    pub fn level(&self) -> LoadLevel {
        *self.0.borrow()
    }

    /// Notifies every connection that the server is stopping.
    pub fn close(&self) {
        self.0.send_modify(|level| level.closing = true);
    }

    pub(super) fn report_connections(&self, mark: Mark, open: usize) {
        self.update(|level| {
            level.connections_crowded = mark.is_crowded(level.connections_crowded, open);
        });
    }

    pub(super) fn report_memory(&self, mark: Mark, used: usize) {
        self.update(|level| level.memory_crowded = mark.is_crowded(level.memory_crowded, used));
    }

    fn update(&self, change: impl FnOnce(&mut LoadLevel)) {
        self.0.send_if_modified(|level| {
            let before = *level;
            change(level);
            *level != before
        });
    }
}

/// The amount above which a limit counts as crowded, and the lower one at which it no longer does.
///
/// With a single threshold, a connection that comes and goes at the threshold would wake all others each
/// time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    crowded_above: usize,
    calm_at: usize,
}

impl Mark {
    /// A mark at `percent` of `most`; the lower threshold is a tenth of `most` below it.
    pub(super) fn new(most: usize, percent: usize) -> Self {
        let share = u128::try_from(most).unwrap_or(u128::MAX) * percent.min(100) as u128 / 100;
        // A share of `most` is not above it.
        let crowded_above = usize::try_from(share).unwrap_or(most);
        Self {
            crowded_above,
            calm_at: crowded_above.saturating_sub(most / 10),
        }
    }

    const fn is_crowded(self, was_crowded: bool, used: usize) -> bool {
        if was_crowded {
            used > self.calm_at
        } else {
            used > self.crowded_above
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_crowded_above_the_mark_and_calm_below_the_lower_one() {
        let load = LoadMonitor::default();
        let mark = Mark::new(10, 80);
        for (open, crowded) in [(8, false), (9, true), (8, true), (7, false), (8, false)] {
            load.report_connections(mark, open);
            assert_eq!(load.level().is_crowded(), crowded, "{open}");
        }
        load.report_memory(Mark::new(usize::MAX, 100), usize::MAX);
        assert!(!load.level().is_crowded());
        load.report_memory(Mark::new(100, 80), 81);
        load.report_connections(mark, 0);
        assert!(load.level().is_crowded());
        load.close();
        assert!(load.subscribe().borrow().closing);
    }
}
