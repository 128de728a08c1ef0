//! Owns the settings of a store.
//!
//! Does not read them from anywhere.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the embedded store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder that holds everything. It is made if it is not there.
    pub folder: PathBuf,
    /// Bytes of a segment of the journal, set aside on disk when it is begun.
    pub segment_bytes: u64,
    /// Greatest number of waiting deliveries; beyond it [`accept`](super::MailQueue::accept) says
    /// `Full`.
    pub waiting_max: u64,
    /// Greatest number of bytes of waiting mail, counted once for each delivery.
    pub waiting_bytes_max: u64,
    /// Free bytes on the disk below which nothing more is accepted.
    pub free_bytes_min: u64,
    /// Time for which settled mail and jobs are recognised when they come again.
    pub dedupe_window: Duration,
    /// Age of the oldest change by which a thread is still found by its subject.
    pub subject_window: Duration,
    /// Greatest number of waiting jobs; beyond it [`enqueue`](super::Outbox::enqueue) says `Full`.
    pub outbox_max: u64,
    /// Greatest number of bytes of mail of waiting jobs.
    pub outbox_bytes_max: u64,
    /// Number of finished jobs that are still known, within `dedupe_window`; a few of the oldest more
    /// or less.
    pub sent_kept: u64,
    /// Number of failed jobs that can be tried again: the newest.
    pub failed_kept: usize,
    /// Time for which a failed job can be tried again.
    pub failed_age_max: Duration,
    /// Number of captured jobs that can be looked at: the newest.
    pub captured_kept: usize,
}

impl Settings {
    /// Settings for most servers, with everything in this folder.
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
            outbox_max: 100_000,
            outbox_bytes_max: 10 << 30,
            sent_kept: 1_000_000,
            failed_kept: 10_000,
            failed_age_max: Duration::from_secs(30 * DAY),
            captured_kept: 1000,
        }
    }
}
