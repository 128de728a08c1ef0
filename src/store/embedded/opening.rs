//! Owns the start of a store: lock, version, journal, index; and the rebuilding of an unusable index.
//!
//! Does not run after the store is open.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::folder::{FolderLock, check_version, lock, make_folder, sync_folder, write_version};
use super::frame::FrameRow;
use super::index::{Index, IndexError, IndexMeta};
use super::journal::Journal;
use super::journal_writer::{JournalWriter, Maintenance, StateRecord, WriteRequest};
use super::location::RecordLocation;
use super::open_mail::LedgerTotals;
use super::segment::SegmentKind;
use super::shared::StoreShared;
use super::state::{ApplyContext, RetentionLimits, StoreState, partitions};
use super::writer_thread::WriterHandle;
use crate::store::error::OpenError;
use crate::store::id::MailId;
use crate::store::metrics::Metrics;
use crate::store::settings::Settings;

/// Opens a folder and starts the threads.
pub(super) fn open(
    settings: Settings,
    disk: Disk,
) -> Result<(Arc<StoreShared>, WriterHandle<WriteRequest>), OpenError> {
    let folder = DataFolder::enter(&settings.folder)?;
    let metrics = Metrics::default();
    let bytes = settings.segment_bytes;
    let mut journal = Journal::open(&folder.journal(), bytes, disk, metrics.clone())?;
    folder.begin(&mut journal)?;
    let limits = RetentionLimits {
        dedupe_window: settings.dedupe_window,
        sent_kept: settings.sent_kept,
    };
    let (index, state) = load(&folder, &mut journal, limits)?;
    for number in state.usage().keys() {
        if !journal.sealed(SegmentKind::Mail).contains_key(number) {
            return Err(OpenError::Missing {
                path: folder.journal().join(SegmentKind::Mail.file_name(*number)),
            });
        }
    }
    let path = folder.journal();
    let shared = Arc::new(StoreShared::new(
        settings,
        metrics,
        &path,
        folder.lock,
        state,
    ));
    let clerk = JournalWriter {
        journal,
        shared: Arc::clone(&shared),
        maintenance: Maintenance::default(),
        indexing: None,
    };
    let unstarted = |e| OpenError::io(&shared.settings.folder, e);
    let writer = JournalWriter::start(clerk, index).map_err(unstarted)?;
    Ok((shared, writer))
}

/// A folder that this process has locked.
struct DataFolder {
    path: PathBuf,
    lock: FolderLock,
    /// True if the folder was never used before.
    new: bool,
}

impl DataFolder {
    fn enter(path: &Path) -> Result<Self, OpenError> {
        make_folder(path)?;
        make_folder(&path.join("journal"))?;
        let lock = lock(path)?;
        let new = !check_version(path)?;
        Ok(Self {
            path: path.to_owned(),
            lock,
            new,
        })
    }

    fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// The file that records that an index was completed once, so that its absence is recognised as a loss.
    fn index_mark(&self) -> PathBuf {
        self.journal().join("indexed")
    }

    /// A folder in use always has a state segment; a new one gets it before it counts as in use.
    fn begin(&self, journal: &mut Journal) -> Result<(), OpenError> {
        let empty = journal.sealed(SegmentKind::State).is_empty();
        if empty && !self.new {
            return Err(OpenError::Missing {
                path: self.journal().join(SegmentKind::State.file_name(1)),
            });
        }
        if empty {
            let first = StateRecord::Totals(LedgerTotals::default()).record();
            let unwritten = |_| OpenError::io(&self.journal(), io::Error::other("not written"));
            journal.append(&[], &[first]).map_err(unwritten)?;
            journal.close().map_err(unwritten)?;
        }
        if self.new {
            write_version(&self.path)?;
        }
        Ok(())
    }
}

/// The index, and the state from journal and index.
fn load(
    folder: &DataFolder,
    journal: &mut Journal,
    limits: RetentionLimits,
) -> Result<(Index, StoreState), OpenError> {
    let doubt = if folder.index().exists() {
        match catch_up(folder, journal, limits)? {
            Ok(loaded) => return Ok(loaded),
            Err(doubt) => Some(doubt),
        }
    } else {
        folder
            .index_mark()
            .exists()
            .then_some(RebuildReason::Missing)
    };
    if let Some(doubt) = doubt {
        tracing::warn!(
            path = %folder.index().display(),
            reason = %doubt,
            "store: the index cannot be used; it is rebuilt from the journal"
        );
    }
    rebuild(folder, journal, limits)
}

/// The reason why an index is rebuilt.
#[derive(Debug, thiserror::Error)]
enum RebuildReason {
    #[error("it is missing")]
    Missing,
    #[error("it was never completed")]
    Unfinished,
    #[error("it is older than segments that were removed already")]
    Stale,
    #[error("its counts do not add up")]
    Miscounted,
    #[error(transparent)]
    Damaged(#[from] IndexError),
}

/// Takes the index as it is and applies the records that it lacks.
fn catch_up(
    folder: &DataFolder,
    journal: &mut Journal,
    limits: RetentionLimits,
) -> Result<Result<(Index, StoreState), RebuildReason>, OpenError> {
    let opened = Index::open(&folder.index()).and_then(|index| {
        let meta = index.meta()?;
        Ok((index, meta))
    });
    let (index, meta) = match opened {
        Ok((index, Some(meta))) => (index, meta),
        Ok((_, None)) => return Ok(Err(RebuildReason::Unfinished)),
        Err(error) => return Ok(Err(error.into())),
    };
    let seen = meta.seq;
    if seen > journal.last_seq() {
        return Err(OpenError::CutShort {
            path: folder.journal(),
            last: journal.last_seq(),
            known: seen,
            index: folder.index(),
        });
    }
    check_state_segment(folder, journal, meta.state_segment)?;
    let state = match StoreState::load(index.clone(), meta, limits) {
        Ok(state) => state,
        Err(error) => return Ok(Err(error.into())),
    };
    let mut replay = Replay {
        state,
        seen,
        counted: seen,
        failed: None,
        whole: false,
    };
    replay.run(journal)?;
    let state = match replay.finish(journal) {
        Ok(state) => state,
        Err(error) => return Ok(Err(error.into())),
    };
    if state.totals.gone_to > seen {
        return Ok(Err(RebuildReason::Stale));
    }
    if !adds_up(&state) {
        return Ok(Err(RebuildReason::Miscounted));
    }
    Ok(Ok((index, state)))
}

/// The newest state segment is never deleted. Later mails may hide its absence from the record numbers, and
/// without its facts settled mail would be delivered again.
fn check_state_segment(
    folder: &DataFolder,
    journal: &Journal,
    known: u64,
) -> Result<(), OpenError> {
    let newest = journal.sealed(SegmentKind::State).keys().next_back();
    if newest.is_some_and(|&number| number < known) {
        return Err(OpenError::Missing {
            path: folder.journal().join(SegmentKind::State.file_name(known)),
        });
    }
    Ok(())
}

/// Rebuilds the index from the whole journal.
fn rebuild(
    folder: &DataFolder,
    journal: &mut Journal,
    limits: RetentionLimits,
) -> Result<(Index, StoreState), OpenError> {
    let path = folder.index();
    if path.exists() {
        fs::remove_dir_all(&path).map_err(|e| OpenError::io(&path, e))?;
    }
    let unmade = |error: IndexError| OpenError::Index {
        path: path.clone(),
        reason: error.to_string(),
    };
    let index = Index::open(&path).map_err(unmade)?;
    let (counted, totals) = newest_totals(journal)?;
    let meta = IndexMeta {
        seq: 0,
        totals,
        state_segment: 0,
    };
    let mut replay = Replay {
        state: StoreState::load(index.clone(), meta, limits).map_err(unmade)?,
        seen: 0,
        counted,
        failed: None,
        whole: true,
    };
    replay.run(journal)?;
    let mut state = replay.finish(journal).map_err(unmade)?;
    if !adds_up(&state) {
        let (ledger, jobs) = (state.ledger(), state.outbox_ledger());
        let expected = state
            .totals
            .received
            .saturating_sub(state.totals.settled_count());
        let over = jobs.sent + jobs.captured + jobs.failed + jobs.cancelled;
        return Err(OpenError::Lost {
            path: folder.journal(),
            expected: expected + jobs.taken.saturating_sub(over),
            found: ledger.waiting + ledger.parked + jobs.waiting,
        });
    }
    let leaving = state.take_pending();
    leaving.write(&index).map_err(unmade)?;
    index.flush().map_err(unmade)?;
    state.pending_written();
    let mark = folder.index_mark();
    File::create(&mark).map_err(|e| OpenError::io(&mark, e))?;
    sync_folder(&folder.journal())?;
    Ok((index, state))
}

fn adds_up(state: &StoreState) -> bool {
    let open = (state.waiting().len() + state.parked().len()) as u64;
    state.totals.received == state.totals.settled_count() + open && state.outbox_ledger().adds_up()
}

/// The most recently written totals, and their number.
fn newest_totals(journal: &Journal) -> Result<(u64, LedgerTotals), OpenError> {
    let mut newest = (0, LedgerTotals::default());
    journal.replay(SegmentKind::State, 0, |_, row| {
        if row.head.starts_with(b"{\"totals\"")
            && let Ok(StateRecord::Totals(totals)) = serde_json::from_slice(&row.head)
        {
            newest = (row.seq, totals);
        }
        Ok(())
    })?;
    Ok(newest)
}

/// The application of the journal's records to a state that lacks them.
struct Replay {
    state: StoreState,
    /// The state has all records up to this number.
    seen: u64,
    /// The totals count all records up to this number.
    counted: u64,
    failed: Option<IndexError>,
    /// True if everything is replayed, into an empty index.
    whole: bool,
}

impl Replay {
    /// Replays all mails first: a mail was accepted before any fact about it, but its copy may be located
    /// after the fact.
    fn run(&mut self, journal: &Journal) -> Result<(), OpenError> {
        journal.replay(SegmentKind::Mail, self.seen, |segment, row| {
            self.apply_mail(segment, &row)
                .map_err(|error| unreadable(SegmentKind::Mail, segment, &row, error))
        })?;
        journal.replay(SegmentKind::State, self.seen, |segment, row| {
            if self.failed.is_none() {
                self.apply_record(segment, &row)
                    .map_err(|error| unreadable(SegmentKind::State, segment, &row, error))?;
            }
            Ok(())
        })
    }

    fn finish(mut self, journal: &Journal) -> Result<StoreState, IndexError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.state.seq = journal.last_seq();
        Ok(self.state)
    }

    fn apply_mail(&mut self, segment: u64, row: &FrameRow) -> Result<(), serde_json::Error> {
        let mail = MailId(row.origin);
        let held = self.state.open_mail(mail).is_some();
        if row.is_relocated() && !self.whole && row.origin <= self.seen && !held {
            // The index had the mail and removed it: it is settled.
            return Ok(());
        }
        let partitions = if held && row.is_relocated() {
            Vec::new()
        } else {
            partitions(&serde_json::from_slice(&row.head)?)
        };
        let counts = !row.is_relocated() && row.seq > self.counted;
        let location = RecordLocation::new(segment, row.span);
        self.state.accept(mail, location, &partitions, counts);
        if row.is_relocated() {
            self.state.mark_relocated(mail);
        }
        Ok(())
    }

    fn apply_record(&mut self, segment: u64, row: &FrameRow) -> Result<(), serde_json::Error> {
        // Entries that are collected in memory before they are written to the index. More entries are
        // closer together in the index, which makes it several times faster.
        const ENTRIES_MAX: usize = 1_000_000;
        const ENTRY_BYTES_MAX: usize = 64 << 20;
        let stamp = ApplyContext {
            origin: row.origin,
            counts: !row.is_relocated() && row.seq > self.counted,
            replayed: true,
            location: RecordLocation::new(segment, row.span),
        };
        match serde_json::from_slice(&row.head)? {
            StateRecord::Totals(totals) => {
                self.state.totals.gone_to = self.state.totals.gone_to.max(totals.gone_to);
                self.state.totals.compact_bytes = totals.compact_bytes;
            }
            StateRecord::Fact(fact) => {
                self.apply_with(|state, stamp| state.apply(fact, stamp), stamp)
            }
            StateRecord::Job(kept) => {
                self.apply_with(|state, stamp| state.apply_job_snapshot(*kept, stamp), stamp)
            }
            StateRecord::JobGone { job, captured } => {
                self.apply_with(|s, stamp| s.drop_job_mail(job, captured, stamp), stamp);
            }
        }
        let (entries, bytes) = self.state.pending_entries();
        if self.failed.is_none() && (entries > ENTRIES_MAX || bytes > ENTRY_BYTES_MAX) {
            self.failed = self.state.write_entries().err();
        }
        Ok(())
    }

    fn apply_with(
        &mut self,
        apply: impl FnOnce(&mut StoreState, ApplyContext) -> Result<(), IndexError>,
        stamp: ApplyContext,
    ) {
        self.failed = apply(&mut self.state, stamp).err();
    }
}

fn unreadable(
    kind: SegmentKind,
    segment: u64,
    row: &FrameRow,
    error: serde_json::Error,
) -> OpenError {
    OpenError::Unreadable {
        path: PathBuf::from(kind.file_name(segment)),
        record: row.seq,
        source: error,
    }
}
