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
use super::shared::{JournalFolder, StoreShared};
use super::state::{ApplyContext, RetentionLimits, StoreState, partitions};
use super::writer_thread::WriterHandle;
use crate::mail::envelope::Envelope;
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
    let mut journal = Journal::open(&folder.journal(), bytes, disk.clone(), metrics.clone())?;
    folder.begin(&mut journal)?;
    let limits = RetentionLimits {
        dedupe_window: settings.dedupe_window,
        sent_kept: settings.sent_kept,
    };
    let (index, state) = load_checked(&folder, &mut journal, limits)?;
    let path = folder.journal();
    let shared = Arc::new(StoreShared::new(
        settings,
        metrics,
        JournalFolder {
            path: &path,
            disk: &disk,
        },
        folder.lock,
        state,
    ));
    let journal_writer = JournalWriter {
        journal,
        shared: Arc::clone(&shared),
        maintenance: Maintenance::default(),
        indexing: None,
    };
    let unstarted = |e| OpenError::io(&shared.settings.folder, e);
    let writer = JournalWriter::start(journal_writer, index).map_err(unstarted)?;
    Ok((shared, writer))
}

/// A folder that this process has locked.
pub(super) struct DataFolder {
    path: PathBuf,
    lock: FolderLock,
    /// True if the folder was never used before.
    pub(super) new: bool,
}

impl DataFolder {
    fn enter(path: &Path) -> Result<Self, OpenError> {
        let folder = Self::enter_unmended(path)?;
        match folder.mending().exists() {
            true => Err(OpenError::Mending {
                path: path.to_owned(),
            }),
            false => Ok(folder),
        }
    }

    /// Enters the folder, even if a mend of it was not finished.
    pub(super) fn enter_unmended(path: &Path) -> Result<Self, OpenError> {
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

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// The plan of a mend that is not finished.
    pub(super) fn mending(&self) -> PathBuf {
        self.path.join("mending")
    }

    /// Another file or folder of the store.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
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

/// Checks that the oldest state segment that was not removed exists: without its facts settled mail would be
/// delivered again.
fn check_oldest(
    folder: &DataFolder,
    journal: &Journal,
    state: &StoreState,
) -> Result<(), OpenError> {
    let totals = &state.totals;
    let wanted = match totals.state_from {
        // The totals do not have the number, but no segment was ever removed.
        0 if totals.gone_to == 0 => 1,
        0 => return Ok(()),
        number => number,
    };
    let oldest = journal.sealed(SegmentKind::State).keys().next();
    match oldest.is_some_and(|oldest| *oldest > wanted) {
        true => Err(OpenError::Missing {
            path: folder.journal().join(SegmentKind::State.file_name(wanted)),
        }),
        false => Ok(()),
    }
}

/// Checks that no fact is missing after the last one. Facts are written after the mails of their batch, and a
/// fact follows a number that a full disk skipped: so every later number belongs to a mail.
fn check_newest(folder: &DataFolder, journal: &Journal) -> Result<(), OpenError> {
    let newest = journal.sealed(SegmentKind::State).values().next_back();
    let (last, known) = (newest.map_or(0, |s| s.last_seq), journal.last_seq());
    let mut mails = 0;
    journal.replay(SegmentKind::Mail, last, |_, _| {
        mails += 1;
        Ok(())
    })?;
    match known > last + mails {
        true => Err(OpenError::CutShort {
            path: folder.journal(),
            last,
            known,
        }),
        false => Ok(()),
    }
}

/// The index and the state, with all segments that they need.
pub(super) fn load_checked(
    folder: &DataFolder,
    journal: &mut Journal,
    limits: RetentionLimits,
) -> Result<(Index, StoreState), OpenError> {
    let (index, state) = load(folder, journal, limits)?;
    check_oldest(folder, journal, &state)?;
    check_newest(folder, journal)?;
    for number in state.usage().keys() {
        if !journal.sealed(SegmentKind::Mail).contains_key(number) {
            return Err(OpenError::Missing {
                path: folder.journal().join(SegmentKind::Mail.file_name(*number)),
            });
        }
    }
    Ok((index, state))
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
pub(super) enum RebuildReason {
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
    journal: &Journal,
    limits: RetentionLimits,
) -> Result<Result<(Index, StoreState), RebuildReason>, OpenError> {
    let (index, meta) = match read_index(&folder.index()) {
        Ok(read) => read,
        Err(reason) => return Ok(Err(reason)),
    };
    let (seen, state_seq) = (meta.seq, meta.state_seq);
    check_state_segment(folder, journal, meta.state_segment)?;
    let newest = journal.sealed(SegmentKind::State).values().next_back();
    let last_fact = newest.map_or(0, |segment| segment.last_seq);
    for (last, known) in [(journal.last_seq(), seen), (last_fact, state_seq)] {
        if known > last {
            let path = folder.journal();
            return Err(OpenError::CutShort { path, last, known });
        }
    }
    let caught_up = caught_up(journal, index, meta, limits)?;
    Ok(caught_up.and_then(|(index, state)| match adds_up(&state) {
        true => Ok((index, state)),
        false => Err(RebuildReason::Miscounted),
    }))
}

/// The index in a folder, with its meta entry.
pub(super) fn read_index(path: &Path) -> Result<(Index, IndexMeta), RebuildReason> {
    let index = Index::open(path)?;
    match index.meta()? {
        Some(meta) => Ok((index, meta)),
        None => Err(RebuildReason::Unfinished),
    }
}

/// The index, after the records that it had not seen were added.
pub(super) fn caught_up(
    journal: &Journal,
    index: Index,
    meta: IndexMeta,
    limits: RetentionLimits,
) -> Result<Result<(Index, StoreState), RebuildReason>, OpenError> {
    let seen = meta.seq;
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
    match state.totals.gone_to > seen {
        true => Ok(Err(RebuildReason::Stale)),
        false => Ok(Ok((index, state))),
    }
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
    let (index, mut state) = replayed(&path, journal, limits)?;
    check_counts(folder, &state)?;
    write_whole(folder, &index, &mut state)?;
    Ok((index, state))
}

fn unmade(path: PathBuf) -> impl Fn(IndexError) -> OpenError {
    move |error| OpenError::Index {
        path: path.clone(),
        reason: error.to_string(),
    }
}

/// The state that results from the whole journal, with a new index at `path`.
pub(super) fn replayed(
    path: &Path,
    journal: &Journal,
    limits: RetentionLimits,
) -> Result<(Index, StoreState), OpenError> {
    let index = Index::open(path).map_err(unmade(path.to_owned()))?;
    let (counted, totals) = newest_totals(journal)?;
    let meta = IndexMeta {
        seq: 0,
        totals,
        state_segment: 0,
        state_seq: 0,
    };
    let mut replay = Replay {
        state: StoreState::load(index.clone(), meta, limits).map_err(unmade(path.to_owned()))?,
        seen: 0,
        counted,
        failed: None,
        whole: true,
    };
    replay.run(journal)?;
    let state = replay.finish(journal).map_err(unmade(path.to_owned()))?;
    Ok((index, state))
}

fn check_counts(folder: &DataFolder, state: &StoreState) -> Result<(), OpenError> {
    if !adds_up(state) {
        let (ledger, jobs) = (state.ledger(), state.outbox_ledger());
        let settled = ledger.delivered + ledger.dropped.values().sum::<u64>();
        let over = jobs.sent + jobs.captured + jobs.failed + jobs.cancelled;
        return Err(OpenError::Lost {
            path: folder.journal(),
            received: ledger.received,
            settled,
            open: ledger.waiting + ledger.parked,
            taken: jobs.taken,
            over,
            waiting: jobs.waiting,
        });
    }
    Ok(())
}

/// Writes a whole state to its new index, and marks the index as finished.
pub(super) fn write_whole(
    folder: &DataFolder,
    index: &Index,
    state: &mut StoreState,
) -> Result<(), OpenError> {
    let unmade = unmade(folder.index());
    let leaving = state.take_pending();
    leaving.write(index).map_err(&unmade)?;
    index.flush().map_err(&unmade)?;
    state.pending_written();
    let mark = folder.index_mark();
    File::create(&mark).map_err(|e| OpenError::io(&mark, e))?;
    sync_folder(&folder.journal())
}

pub(super) fn adds_up(state: &StoreState) -> bool {
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
        // A mend writes `null` in place of an envelope that it took out.
        let Some(envelope) = serde_json::from_slice::<Option<Envelope>>(&row.head)? else {
            return Ok(());
        };
        let partitions = match held && row.is_relocated() {
            true => Vec::new(),
            false => partitions(&envelope),
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
        let record = serde_json::from_slice(&row.head)?;
        self.failed = apply_record(&mut self.state, record, stamp).err();
        let (entries, bytes) = self.state.pending_entries();
        if self.failed.is_none() && (entries > ENTRIES_MAX || bytes > ENTRY_BYTES_MAX) {
            self.failed = self.state.write_entries().err();
        }
        Ok(())
    }
}

/// Applies one record of a state segment.
pub(super) fn apply_record(
    state: &mut StoreState,
    record: StateRecord,
    stamp: ApplyContext,
) -> Result<(), IndexError> {
    match record {
        StateRecord::Totals(totals) => {
            state.totals.gone_to = state.totals.gone_to.max(totals.gone_to);
            state.totals.state_from = state.totals.state_from.max(totals.state_from);
            state.totals.compact_bytes = totals.compact_bytes;
            Ok(())
        }
        StateRecord::Fact(fact) => state.apply(fact, stamp),
        StateRecord::Job(kept) => state.apply_job_snapshot(*kept, stamp),
        StateRecord::JobGone { job, captured } => state.drop_job_mail(job, captured, stamp),
        StateRecord::Entry(entry) => state.apply_entry(&entry),
        StateRecord::Void => Ok(()),
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
