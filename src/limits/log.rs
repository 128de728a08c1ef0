//! Owns the bound on log lines that untrusted peers can cause.
//!
//! Does not write those lines.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// A bound on log lines per second. Suppressed lines are counted, and the count is logged.
#[derive(Debug)]
pub struct LogThrottle {
    lines_max: u32,
    lines: AtomicU32,
    suppressed: AtomicU64,
    window_start: Mutex<Instant>,
}

impl LogThrottle {
    const WINDOW: Duration = Duration::from_secs(1);

    /// A throttle that allows `lines_max` lines in each second.
    pub fn new(lines_max: u32) -> Self {
        Self {
            lines_max,
            lines: AtomicU32::new(0),
            suppressed: AtomicU64::new(0),
            window_start: Mutex::new(Instant::now()),
        }
    }

    /// True if a line may be written now.
    pub fn allow(&self) -> bool {
        {
            let start = self.window_start.lock();
            let mut start = start.unwrap_or_else(PoisonError::into_inner);
            if start.elapsed() >= Self::WINDOW {
                *start = Instant::now();
                self.lines.store(0, Ordering::Relaxed);
                let lines = self.suppressed.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    warn!(lines, "log lines of refusals were suppressed");
                }
            }
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < self.lines_max {
            return true;
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl Default for LogThrottle {
    /// 50 lines a second: about 4 million a day at most.
    fn default() -> Self {
        Self::new(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_throttled() {
        let throttle = LogThrottle::new(3);
        *throttle.window_start.lock().unwrap() = Instant::now() + Duration::from_secs(3_600);
        let passed = (0..100).filter(|_| throttle.allow()).count();
        assert_eq!(passed, 3);
        assert_eq!(throttle.suppressed.load(Ordering::Relaxed), 97);
        *throttle.window_start.lock().unwrap() = Instant::now() - LogThrottle::WINDOW;
        assert!(throttle.allow());
        assert_eq!(throttle.suppressed.load(Ordering::Relaxed), 0);
    }
}
