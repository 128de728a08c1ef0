//! Owns the settings of a store.
//!
//! Does not read them from a file.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the embedded store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of the store. It is made if it does not exist.
    pub folder: PathBuf,
    /// The size of a journal segment in bytes, allocated on disk at its start.
    pub segment_bytes: u64,
    /// The number of waiting deliveries above which [`accept`](super::MailQueue::accept) returns `Full`.
    pub waiting_max: u64,
    /// The largest number of bytes of waiting mail, counted once for each delivery.
    pub waiting_bytes_max: u64,
    /// Free bytes on the disk below which nothing more is accepted.
    pub free_bytes_min: u64,
    /// The time in which a repeated mail or job is recognised after the first was settled.
    pub dedupe_window: Duration,
    /// The age of the last change up to which a thread is still found by its subject.
    pub subject_window: Duration,
    /// The minimum time after a mail for which its Message-ID finds the thread.
    pub link_window: Duration,
    /// The number of waiting jobs above which [`enqueue`](super::Outbox::enqueue) returns `Full`.
    pub outbox_max: u64,
    /// The largest number of bytes of mail of waiting jobs.
    pub outbox_bytes_max: u64,
    /// The approximate number of settled jobs that are kept, within `dedupe_window`.
    pub sent_kept: u64,
    /// The number of the newest failed jobs that can be retried.
    pub failed_kept: usize,
    /// The time for which a failed job can be retried.
    pub failed_age_max: Duration,
    /// The number of the newest captured jobs that can be viewed.
    pub captured_kept: usize,
}

impl Settings {
    /// The default settings, with everything in this folder.
    pub const fn new(folder: PathBuf) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            folder,
            segment_bytes: 64 << 20,
            waiting_max: 1_000_000,
            waiting_bytes_max: 50 << 30,
            free_bytes_min: 1 << 30,
            dedupe_window: Duration::from_secs(30 * DAY),
            subject_window: Duration::from_secs(30 * DAY),
            link_window: Duration::from_secs(730 * DAY),
            outbox_max: 100_000,
            outbox_bytes_max: 10 << 30,
            sent_kept: 1_000_000,
            failed_kept: 10_000,
            failed_age_max: Duration::from_secs(30 * DAY),
            captured_kept: 1000,
        }
    }
}
