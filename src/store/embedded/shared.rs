//! Owns the data shared by the threads of a store: the locked state, the capacity, the index thread's
//! progress.
//!
//! Does not write to the journal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::disk::Disk;
use super::folder::FolderLock;
use super::index::{Index, IndexError};
use super::location::RecordReader;
use super::pending_writes::PendingWrites;
use super::segment::SegmentKind;
use super::state::StoreState;
use super::writer_thread::WriterStopped;
use crate::store::error::StoreError;
use crate::store::id::EventId;
use crate::store::metrics::Metrics;
use crate::store::settings::Settings;

/// The number of changes by which the index may be behind before the writer waits for it.
pub(super) const BEHIND_MAX: usize = 16 << 10;
/// The number of changes that are written to the index at once; fewer wait a short time for more.
const BEHIND_ENOUGH: usize = 2048;
// Tests need all effects of a write at once.
const GATHER_WAIT: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 250 });

/// The shortest time between two flushes of the index to the kernel.
const FLUSH_EVERY: Duration = GATHER_WAIT;
/// The number of batches between two flushes; they are kept in memory until the flush.
const UNFLUSHED_MAX: usize = 16;
/// The number of times that an index is opened again after a full disk although it fails for another reason.
const REOPEN_FAILURES_MAX: u32 = 10;

/// The folder of the journal, and its disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalFolder<'f> {
    pub(super) path: &'f Path,
    pub(super) disk: &'f Disk,
}

/// The state that the threads of a store share.
#[derive(Debug)]
pub(super) struct StoreShared {
    pub(super) settings: Settings,
    pub(super) metrics: Metrics,
    /// Read without the state's lock.
    pub(super) index: Index,
    pub(super) mail_reader: RecordReader,
    pub(super) fact_reader: RecordReader,
    pub(super) mail_arrived: Notify,
    pub(super) job_arrived: Notify,
    pub(super) newest_event: watch::Sender<EventId>,
    pub(super) capacity: Capacity,
    disk: Disk,
    index_use: Mutex<()>,
    /// Held as long as any part of the store exists: two processes would destroy each other's journal.
    _lock: FolderLock,
    state: RwLock<StoreState>,
    progress: Mutex<IndexProgress>,
    progressed: Condvar,
}

/// The progress of the index.
#[derive(Debug, Default)]
struct IndexProgress {
    behind: usize,
    /// The number of the last record whose changes are in the index and flushed.
    flushed: u64,
    /// True while the disk has no space for the index, which is written as soon as it has.
    stalled: bool,
    failed: bool,
    closing: bool,
    ended: bool,
}

impl StoreShared {
    pub(super) fn new(
        settings: Settings,
        metrics: Metrics,
        journal: JournalFolder<'_>,
        lock: FolderLock,
        state: StoreState,
    ) -> Self {
        let reader = |kind| RecordReader::new(journal.path.to_owned(), kind, journal.disk.clone());
        let shared = Self {
            _lock: lock,
            disk: journal.disk.clone(),
            index_use: Mutex::default(),
            capacity: Capacity::new(&settings),
            progress: Mutex::new(IndexProgress {
                flushed: state.seq,
                ..IndexProgress::default()
            }),
            settings,
            metrics,
            index: state.index(),
            mail_reader: reader(SegmentKind::Mail),
            fact_reader: reader(SegmentKind::State),
            mail_arrived: Notify::new(),
            job_arrived: Notify::new(),
            newest_event: watch::Sender::new(state.outbox.newest_event()),
            state: RwLock::new(state),
            progressed: Condvar::new(),
        };
        shared.publish_state(&shared.state());
        shared
    }

    // After a panic during a change the writer stops, so nothing is built on the state; reading it is
    // harmless.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, StoreState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, StoreState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, IndexProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called after every change of the state.
    pub(super) fn publish_state(&self, state: &StoreState) {
        self.capacity
            .waiting
            .store(state.waiting().len() as u64, Ordering::Relaxed);
        self.capacity
            .waiting_bytes
            .store(state.waiting_bytes(), Ordering::Relaxed);
        let behind = state.pending_count();
        self.metrics
            .behind
            .set(i64::try_from(behind).unwrap_or(i64::MAX));
        let mut progress = self.progress();
        let woken = progress.behind == 0 || behind >= BEHIND_ENOUGH;
        progress.behind = behind;
        drop(progress);
        if woken && behind > 0 {
            self.progressed.notify_all();
        }
    }

    /// Waits while the index is too far behind.
    pub(super) fn wait_for_index(&self) -> Result<(), WriterStopped> {
        let mut progress = self.progress();
        // While it is stalled nothing is added, so it falls no further behind.
        while progress.behind > BEHIND_MAX && !progress.failed && !progress.stalled {
            progress = self
                .progressed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if progress.failed {
            Err(WriterStopped)
        } else {
            Ok(())
        }
    }

    /// The number of the last record whose changes are in the index and flushed.
    pub(super) fn flushed(&self) -> u64 {
        self.progress().flushed
    }

    /// True while the disk has no space for the index: then nothing is accepted.
    pub(super) fn is_stalled(&self) -> bool {
        self.progress().stalled
    }

    /// Held by the writer while it may use the index, so that the index is not closed meanwhile.
    pub(super) fn index_use(&self) -> MutexGuard<'_, ()> {
        self.index_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the index is unusable, and so the store.
    pub(super) fn index_failed(&self, error: &IndexError) -> WriterStopped {
        let mut progress = self.progress();
        if !progress.failed {
            tracing::error!(%error, "store: the index failed; the store stops as soon as the disk has space");
        }
        progress.failed = true;
        drop(progress);
        self.progressed.notify_all();
        WriterStopped
    }

    /// True if the index failed.
    pub(super) fn has_failed(&self) -> bool {
        self.progress().failed
    }

    /// True if the index failed and the next start has space to rebuild it. On a full disk it is better to
    /// refuse mail than to end, because restarts would fail repeatedly.
    pub(super) fn must_end(&self) -> bool {
        self.has_failed() && !self.capacity.is_short()
    }

    /// Makes the index thread write its pending changes and end.
    pub(super) fn close_index(&self) {
        let mut progress = self.progress();
        progress.closing = true;
        self.progressed.notify_all();
        while !progress.ended {
            progress = self
                .progressed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The index thread: writes the state's changes to the index, in large batches, until it is closed.
    pub(super) fn run_index(&self, index: &Index, nudge: impl Fn()) {
        // However this ends, a waiting writer must wake.
        let _end = IndexThreadEnd(self);
        let (mut flushed_at, mut unflushed) = (Instant::now(), UnflushedWrites::default());
        loop {
            let closing = self.wait_for_changes(!unflushed.batches.is_empty());
            let due = closing || flushed_at.elapsed() >= FLUSH_EVERY;
            let due = due || unflushed.batches.len() >= UNFLUSHED_MAX;
            let mut written = self.write_index(index, &mut unflushed, due);
            if let Err(error) = &written
                && error.is_full()
            {
                written = match self.wait_for_space(index, &mut unflushed, error) {
                    Some(rewritten) => rewritten.map(Some),
                    None => return,
                };
            }
            match written {
                Ok(Some(seq)) => {
                    flushed_at = Instant::now();
                    self.index_flushed(seq);
                    nudge();
                }
                Ok(None) => {}
                Err(error) => {
                    self.index_failed(&error);
                }
            }
            self.progressed.notify_all();
            if closing {
                return;
            }
            if self.has_failed() {
                self.wait_for_room();
                // The writer checks for the failure.
                nudge();
                return;
            }
        }
    }

    fn index_flushed(&self, seq: u64) {
        let mut progress = self.progress();
        progress.flushed = seq;
        if std::mem::take(&mut progress.stalled) {
            tracing::info!("store: the disk has space for the index again");
        }
    }

    /// Closes the index until the disk has space, and then writes all that it lacks: the number of the last
    /// record. `None` if the store is closed first; the next start makes up for it from the journal.
    fn wait_for_space(
        &self,
        index: &Index,
        unflushed: &mut UnflushedWrites,
        error: &IndexError,
    ) -> Option<Result<u64, IndexError>> {
        tracing::error!(%error, "store: no space for the index; nothing is accepted until there is");
        self.progress().stalled = true;
        self.progressed.notify_all();
        {
            let _unused = self.index_use();
            index.close();
        }
        let mut failures = 0;
        while self.wait_to_reopen() {
            match self.rewrite_index(index, unflushed) {
                Err(error) if error.is_full() => {}
                Err(error) if failures < REOPEN_FAILURES_MAX => {
                    failures += 1;
                    tracing::warn!(%error, "store: the index cannot be opened again yet");
                }
                done => return Some(done),
            }
        }
        None
    }

    /// Waits before the index is opened again: a pause, and then until there is some space. False if the
    /// store is closed.
    fn wait_to_reopen(&self) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
        /// Less is not enough to open the index.
        const SPACE_MIN: u64 = 8 << 20;
        let mut progress = self.progress();
        let mut next = Instant::now() + LOOK_EVERY;
        while !progress.closing {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if self.capacity.free_bytes_now() >= SPACE_MIN {
                    break;
                }
                next = Instant::now() + LOOK_EVERY;
                continue;
            }
            let waited = self.progressed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !progress.closing
    }

    /// Waits until the disk has space, or until it is closed.
    fn wait_for_room(&self) {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let mut progress = self.progress();
        while !progress.closing && self.capacity.is_short() {
            let waited = self.progressed.wait_timeout(progress, LOOK_EVERY);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for changes to write, or to flush; true when it is time to end.
    fn wait_for_changes(&self, unflushed: bool) -> bool {
        let mut progress = self.progress();
        while progress.behind == 0 && !progress.closing && !progress.failed && !unflushed {
            progress = self
                .progressed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + GATHER_WAIT;
        while progress.behind < BEHIND_ENOUGH && !progress.closing && !progress.failed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.progressed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.closing
    }

    /// Writes the changes; if a flush is due, flushes and returns the number of the last record.
    fn write_index(
        &self,
        index: &Index,
        unflushed: &mut UnflushedWrites,
        due: bool,
    ) -> Result<Option<u64>, IndexError> {
        let leaving = {
            let mut state = self.state_mut();
            let leaving = state.take_pending();
            self.publish_state(&state);
            leaving
        };
        // The next changes may gather while these are written.
        self.progressed.notify_all();
        let seq = leaving.meta.seq;
        // First, because a write that fails is repeated from there.
        unflushed.batches.push(leaving);
        self.disk.index_write()?;
        if let Some(leaving) = unflushed.batches.last() {
            leaving.write(index)?;
        }
        if due {
            index.flush()?;
            unflushed.flushed(seq);
        }
        self.state_mut().pending_written();
        Ok(due.then_some(seq))
    }

    /// Opens the closed index, which has only what was flushed, and writes the rest once more.
    fn rewrite_index(
        &self,
        index: &Index,
        unflushed: &mut UnflushedWrites,
    ) -> Result<u64, IndexError> {
        self.disk.index_write()?;
        index.reopen(unflushed.flushed, |index| {
            for leaving in &unflushed.batches {
                leaving.write(index)?;
            }
            index.flush()
        })?;
        let last = unflushed.batches.last();
        let seq = last.map_or(unflushed.flushed, |last| last.meta.seq);
        unflushed.flushed(seq);
        self.state_mut().pending_written();
        Ok(seq)
    }
}

/// The batches that the index may lose if it is opened again.
#[derive(Debug, Default)]
struct UnflushedWrites {
    batches: Vec<PendingWrites>,
    /// The number of the last record that was flushed; 0 before the first flush.
    flushed: u64,
}

impl UnflushedWrites {
    fn flushed(&mut self, seq: u64) {
        self.batches.clear();
        self.flushed = seq;
    }
}

struct IndexThreadEnd<'s>(&'s StoreShared);

impl Drop for IndexThreadEnd<'_> {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.ended = true;
        // A thread that ended without a close has failed.
        progress.failed |= !progress.closing;
        drop(progress);
        self.0.progressed.notify_all();
    }
}

/// The decision whether more mail is accepted.
#[derive(Debug)]
pub(super) struct Capacity {
    folder: PathBuf,
    waiting: AtomicU64,
    waiting_max: u64,
    waiting_bytes: AtomicU64,
    waiting_bytes_max: u64,
    free_bytes: AtomicU64,
    free_bytes_min: u64,
    begun: Instant,
    /// The time of the next check of the disk, in milliseconds after `begun`.
    sample_at: AtomicU64,
}

impl Capacity {
    fn new(settings: &Settings) -> Self {
        Self {
            folder: settings.folder.clone(),
            waiting: AtomicU64::new(0),
            waiting_max: settings.waiting_max,
            waiting_bytes: AtomicU64::new(0),
            waiting_bytes_max: settings.waiting_bytes_max,
            free_bytes: AtomicU64::new(u64::MAX),
            free_bytes_min: settings.free_bytes_min,
            begun: Instant::now(),
            sample_at: AtomicU64::new(0),
        }
    }

    pub(super) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let waiting_bytes = self.waiting_bytes.load(Ordering::Relaxed);
        if waiting >= self.waiting_max
            || waiting_bytes.saturating_add(bytes) > self.waiting_bytes_max
        {
            return Err(StoreError::Full);
        }
        self.admit_on_disk(bytes)
    }

    /// Checks that the disk has space for `bytes`.
    pub(super) fn admit_on_disk(&self, bytes: u64) -> Result<(), StoreError> {
        match self.free_bytes().saturating_sub(bytes) < self.free_bytes_min {
            true => Err(StoreError::Full),
            false => Ok(()),
        }
    }

    /// True if the free space is below the minimum, by a new check.
    fn is_short(&self) -> bool {
        self.free_bytes_now() < self.free_bytes_min
    }

    /// The free bytes by a new check.
    fn free_bytes_now(&self) -> u64 {
        self.sample_at.store(0, Ordering::Relaxed);
        self.free_bytes()
    }

    /// Reserves `bytes` until the next check of the disk.
    pub(super) fn reserve(&self, bytes: u64) {
        let less = |free: u64| Some(free.saturating_sub(bytes));
        // The closure always returns a value.
        let _ = self
            .free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The free bytes at the last check, at most a second ago, less the reserved ones.
    fn free_bytes(&self) -> u64 {
        const SAMPLE_MILLIS: u64 = 1000;
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.sample_at.load(Ordering::Relaxed);
        let next = now.saturating_add(SAMPLE_MILLIS);
        let mine = now >= due
            && self
                .sample_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine && let Ok(disk) = rustix::fs::statvfs(&self.folder) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            self.free_bytes.store(free, Ordering::Relaxed);
        }
        self.free_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_space_is_not_free_before_the_next_check() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            free_bytes_min: 1000,
            ..Settings::new(folder.path().to_owned())
        };
        let room = Capacity::new(&settings);
        room.sample_at.store(u64::MAX, Ordering::Relaxed);
        room.free_bytes.store(3000, Ordering::Relaxed);
        assert_eq!(room.admit(1500), Ok(()));
        room.reserve(1500);
        assert_eq!(room.admit(501), Err(StoreError::Full));
        assert_eq!(room.admit(500), Ok(()));
        room.reserve(5000);
        assert_eq!(room.admit(0), Err(StoreError::Full));
    }
}
