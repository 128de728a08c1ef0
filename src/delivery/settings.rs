//! Owns the settings of the delivery worker.
//!
//! Does not read them from a file.

use std::time::Duration;

use crate::retry;

/// Bounds of the worker.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// The maximum number of concurrent deliveries.
    pub concurrency: usize,
    /// The maximum number of queued deliveries: 16 bytes each, about 200 if each has a separate partition.
    /// If it equals the store's limit of waiting deliveries, none can be hidden behind others.
    pub queued_max: usize,
    /// The schedule of retries, and the age at which a mail is parked.
    pub retry: retry::Settings,
    /// The time since its last change in which a thread is found by sender and subject.
    pub subject_window: Duration,
    /// The time for which an address is suppressed after a hard bounce.
    pub suppress_for: Duration,
    /// The longest wait for running deliveries when the worker stops.
    pub grace: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            queued_max: 262_144,
            retry: retry::Settings {
                wait_first: Duration::from_secs(2),
                wait_max: Duration::from_secs(600),
                max_age: Duration::from_secs(5 * 86_400),
            },
            subject_window: Duration::from_secs(30 * 86_400),
            suppress_for: Duration::from_secs(90 * 86_400),
            grace: Duration::from_secs(10),
        }
    }
}
