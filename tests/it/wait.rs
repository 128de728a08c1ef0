//! Owns how tests wait: for something that must happen, however long a loaded machine needs for it.
//!
//! Does not measure time: the patience only ends a test that would hang.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for something that must happen. A test that passes never takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `done` is true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    // A look may itself take long, so time counts and not the number of looks.
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "this never happened: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until nothing is left, for as long as there is ever less.
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

/// The same as [`eventually`] in a task. `state` describes what there is instead if it never happens.
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
