//! Owns the measurement of the wall clock's jumps while the process runs.
//!
//! Does not read a clock: both times are arguments. A jump before the start of the process cannot be
//! detected.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;

/// The least difference between the clocks that counts as a jump: smaller ones are corrections.
const JUMP_MIN: Duration = Duration::from_secs(3_600);

/// Compares the wall clock with the monotonic one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockJumps {
    last: (Timestamp, Instant),
    ahead: Duration,
}

impl ClockJumps {
    pub(super) const fn new(wall: Timestamp, now: Instant) -> Self {
        Self {
            last: (wall, now),
            ahead: Duration::ZERO,
        }
    }

    /// Compares the clocks, and returns the time by which the wall clock is ahead of the real elapsed time,
    /// and true if a new jump was found.
    pub(super) fn update(&mut self, wall: Timestamp, now: Instant) -> (Duration, bool) {
        let (last_wall, last) = std::mem::replace(&mut self.last, (wall, now));
        let expected = last_wall.plus(now.saturating_duration_since(last));
        let (ahead, behind) = (wall.since(expected), expected.since(wall));
        let has_jumped = ahead >= JUMP_MIN;
        if has_jumped {
            self.ahead = self.ahead.saturating_add(ahead);
        } else if behind >= JUMP_MIN {
            self.ahead = self.ahead.saturating_sub(behind);
        }
        (self.ahead, has_jumped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ahead_counts_until_it_is_taken_back() {
        let (wall, now) = (Timestamp::from_secs(1_000_000_000), Instant::now());
        let secs = Duration::from_secs;
        let year = secs(365 * 86_400);
        let mut jumps = ClockJumps::new(wall, now);
        for (wall_after, passed, ahead, jumped) in [
            (secs(10), 10, Duration::ZERO, false),
            (secs(50), 20, Duration::ZERO, false),
            (year, 30, year - secs(60), true),
            (year + secs(10), 40, year - secs(60), false),
            (secs(50), 50, Duration::ZERO, false),
        ] {
            let found = jumps.update(wall.plus(wall_after), now + secs(passed));
            assert_eq!(found.1, jumped, "{wall_after:?}");
            let off = found.0.abs_diff(ahead);
            assert!(off < secs(60), "{found:?} for {ahead:?}");
        }
    }
}
