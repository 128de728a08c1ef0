//! Owns what the threads of a store share: the state behind its lock, the room left, the index thread's progress.
//!
//! Does not write to the journal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::event::EventId;
use super::index::{Index, IndexError};
use super::metrics::Metrics;
use super::place::Reader;
use super::segment::Kind;
use super::state::State;
use super::writer::Dead;
use super::{RecordError, Settings};

/// Changes the index may be behind before the writer waits for it.
const BEHIND_MAX: usize = 16 << 10;
/// Changes that are worth a writing to the index at once; fewer wait a little for company.
const BEHIND_WORTH: usize = 2048;
// Tests want everything that follows from a writing to happen at once.
const COMPANY_WAIT: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 250 });

/// How often what was written to the index is handed to the kernel, at most.
const FLUSH_EVERY: Duration = COMPANY_WAIT;

/// What the threads of a store share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) metrics: Metrics,
    pub(super) mails: Reader,
    pub(super) facts: Reader,
    pub(super) arrival: Notify,
    pub(super) job_arrival: Notify,
    pub(super) newest_event: watch::Sender<EventId>,
    pub(super) room: Room,
    /// Held as long as anything of the store is: two processes would destroy each other's journal.
    _lock: File,
    state: RwLock<State>,
    progress: Mutex<Progress>,
    moved: Condvar,
}

/// How far the index is.
#[derive(Debug, Default)]
struct Progress {
    behind: usize,
    /// The number of the last record whose changes are in the index and with the kernel.
    flushed: u64,
    failed: bool,
    closing: bool,
    ended: bool,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        metrics: Metrics,
        journal: &Path,
        lock: File,
        state: State,
    ) -> Self {
        let reader = |kind| Reader::new(journal.to_owned(), kind);
        let shared = Self {
            _lock: lock,
            room: Room::new(&settings),
            progress: Mutex::new(Progress {
                flushed: state.seq,
                ..Progress::default()
            }),
            settings,
            metrics,
            mails: reader(Kind::Mail),
            facts: reader(Kind::State),
            arrival: Notify::new(),
            job_arrival: Notify::new(),
            newest_event: watch::Sender::new(state.outbox.newest_event()),
            state: RwLock::new(state),
            moved: Condvar::new(),
        };
        shared.changed(&shared.state());
        shared
    }

    // A panic while the state was changed ends the writer, so nothing is built on it; it may be read.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be told after every change of the state.
    pub(super) fn changed(&self, state: &State) {
        self.room
            .waiting
            .store(state.waiting().len() as u64, Ordering::Relaxed);
        self.room
            .waiting_bytes
            .store(state.waiting_bytes(), Ordering::Relaxed);
        let behind = state.behind();
        self.metrics
            .behind
            .set(i64::try_from(behind).unwrap_or(i64::MAX));
        let mut progress = self.progress();
        let woken = progress.behind == 0 || behind >= BEHIND_WORTH;
        progress.behind = behind;
        drop(progress);
        if woken && behind > 0 {
            self.moved.notify_all();
        }
    }

    /// Waits while the index is too far behind.
    pub(super) fn wait_for_index(&self) -> Result<(), Dead> {
        let mut progress = self.progress();
        while progress.behind > BEHIND_MAX && !progress.failed {
            progress = self
                .moved
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if progress.failed { Err(Dead) } else { Ok(()) }
    }

    /// The number of the last record whose changes are in the index and with the kernel.
    pub(super) fn flushed(&self) -> u64 {
        self.progress().flushed
    }

    /// The index cannot be used any more: so the store cannot.
    pub(super) fn index_failed(&self, error: &IndexError) -> Dead {
        let mut progress = self.progress();
        if !progress.failed {
            tracing::error!(%error, "store: the index failed; the store ends as soon as the disk has room");
        }
        progress.failed = true;
        drop(progress);
        self.moved.notify_all();
        Dead
    }

    /// Nothing more can be believed: the index failed.
    pub(super) fn has_failed(&self) -> bool {
        self.progress().failed
    }

    /// The index failed, and the next start has room to make it again. On a full disk it is better to
    /// go on refusing than to end: nobody would start us a hundred times.
    pub(super) fn is_over(&self) -> bool {
        self.has_failed() && !self.room.is_short()
    }

    /// Has the index thread write what it is behind and end.
    pub(super) fn close_index(&self) {
        let mut progress = self.progress();
        progress.closing = true;
        self.moved.notify_all();
        while !progress.ended {
            progress = self
                .moved
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The index thread: writes the state's changes to the index, many at a time, until told to close.
    pub(super) fn keep_index(&self, index: &Index, nudge: impl Fn()) {
        // However this ends, a writer that waits for it must wake.
        let _end = End(self);
        let (mut flushed_at, mut unflushed) = (Instant::now(), false);
        loop {
            let closing = self.wait_for_changes(unflushed);
            let written = self.write_index(index).and_then(|seq| {
                let due = closing || flushed_at.elapsed() >= FLUSH_EVERY;
                if due {
                    index.flush()?;
                    flushed_at = Instant::now();
                }
                unflushed = !due;
                Ok(due.then_some(seq))
            });
            match written {
                Ok(Some(seq)) => {
                    self.progress().flushed = seq;
                    nudge();
                }
                Ok(None) => {}
                Err(error) => {
                    self.index_failed(&error);
                }
            }
            self.moved.notify_all();
            if closing {
                return;
            }
            if self.has_failed() {
                self.wait_for_room();
                // The writer sees that it is over.
                nudge();
                return;
            }
        }
    }

    /// Waits until the disk has room, or until told to close.
    fn wait_for_room(&self) {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let mut progress = self.progress();
        while !progress.closing && self.room.is_short() {
            let waited = self.moved.wait_timeout(progress, LOOK_EVERY);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for something to write, or to flush. True: it is time to end.
    fn wait_for_changes(&self, unflushed: bool) -> bool {
        let mut progress = self.progress();
        while progress.behind == 0 && !progress.closing && !progress.failed && !unflushed {
            progress = self
                .moved
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + COMPANY_WAIT;
        while progress.behind < BEHIND_WORTH && !progress.closing && !progress.failed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.moved.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.closing
    }

    fn write_index(&self, index: &Index) -> Result<u64, IndexError> {
        let leaving = {
            let mut state = self.state_mut();
            let leaving = state.leave();
            self.changed(&state);
            leaving
        };
        // The next changes may gather while these are written.
        self.moved.notify_all();
        leaving.write(index)?;
        self.state_mut().left();
        Ok(leaving.meta.seq)
    }
}

struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.ended = true;
        // A thread that ended while nobody asked it to has failed.
        progress.failed |= !progress.closing;
        drop(progress);
        self.0.moved.notify_all();
    }
}

/// What tells whether more mail may come in.
#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    waiting: AtomicU64,
    waiting_max: u64,
    waiting_bytes: AtomicU64,
    waiting_bytes_max: u64,
    free_bytes: AtomicU64,
    free_bytes_min: u64,
    begun: Instant,
    /// When the disk is asked next, in milliseconds after `begun`.
    sample_at: AtomicU64,
}

impl Room {
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

    pub(super) fn has(&self, bytes: u64) -> Result<(), RecordError> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let waiting_bytes = self.waiting_bytes.load(Ordering::Relaxed);
        if waiting >= self.waiting_max
            || waiting_bytes.saturating_add(bytes) > self.waiting_bytes_max
        {
            return Err(RecordError::Full);
        }
        self.has_disk(bytes)
    }

    /// Has the disk room for so many bytes?
    pub(super) fn has_disk(&self, bytes: u64) -> Result<(), RecordError> {
        match self.free().saturating_sub(bytes) < self.free_bytes_min {
            true => Err(RecordError::Full),
            false => Ok(()),
        }
    }

    /// The disk has less than the floor, as it tells now.
    fn is_short(&self) -> bool {
        self.sample_at.store(0, Ordering::Relaxed);
        self.free() < self.free_bytes_min
    }

    /// So many bytes will be written before the disk is asked again.
    pub(super) fn taken(&self, bytes: u64) {
        let less = |free: u64| Some(free.saturating_sub(bytes));
        // The closure never says no.
        let _ = self
            .free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Free bytes on the disk, as told at most a second ago, less what was taken since.
    fn free(&self) -> u64 {
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
    fn what_was_taken_is_not_free_though_the_disk_was_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            free_bytes_min: 1000,
            ..Settings::new(folder.path().to_owned())
        };
        let room = Room::new(&settings);
        room.sample_at.store(u64::MAX, Ordering::Relaxed);
        room.free_bytes.store(3000, Ordering::Relaxed);
        assert_eq!(room.has(1500), Ok(()));
        room.taken(1500);
        assert_eq!(room.has(501), Err(RecordError::Full));
        assert_eq!(room.has(500), Ok(()));
        room.taken(5000);
        assert_eq!(room.has(0), Err(RecordError::Full));
    }
}
