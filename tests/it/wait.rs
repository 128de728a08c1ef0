//! Owns the waiting of tests for an event that must happen, on however loaded a machine.
//!
//! Does not measure time: the limit only ends a test that would hang.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// The maximum wait for an event that must happen. A passing test never takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `done` is true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    // A check may itself take long, so the time is limited and not the number of checks.
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "this never happened: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until nothing is left, as long as the rest decreases.
#[track_caller]
pub(crate) fn drains(what: &str, mut left: impl FnMut() -> f64) {
    let (mut least, mut since) = (f64::INFINITY, Instant::now());
    loop {
        let now = left();
        if now <= 0.0 {
            return;
        }
        if now < least {
            (least, since) = (now, Instant::now());
        }
        let stalled = since.elapsed() > PATIENCE;
        assert!(!stalled, "this does not go on: {what}; {now} are left");
        thread::sleep(PAUSE);
    }
}

/// Like [`eventually`] in a task. `state` describes the actual state if the event never happens.
pub(crate) async fn eventually_or<S: Debug>(
    what: &str,
    mut done: impl AsyncFnMut() -> bool,
    state: impl FnOnce() -> S,
) {
    let begun = Instant::now();
    while !done().await {
        if begun.elapsed() > PATIENCE {
            panic!("this never happened: {what}; there is {:#?}", state());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
