//! Owns the start of a store: lock, version, journal, index; and the index's rebuilding where it is not to be believed.
//!
//! Does not run once the store is open.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clerk::{Clerk, Note, Request};
use super::disk::Disk;
use super::fact::MailId;
use super::frame::Row;
use super::held::Totals;
use super::index::{Index, IndexError, Meta};
use super::journal::Journal;
use super::metrics::Metrics;
use super::place::Place;
use super::segment::Kind;
use super::shared::Shared;
use super::state::{Limits, Stamp, State, lanes};
use super::upkeep::Upkeep;
use super::writer::Writer;
use super::{OpenError, Settings};

/// The form of what lies in the folder.
const VERSION: &str = "1";

/// Opens a folder and starts the threads.
pub(super) fn open(
    settings: Settings,
    disk: Disk,
) -> Result<(Arc<Shared>, Writer<Request>), OpenError> {
    let folder = Folder::enter(&settings.folder)?;
    let metrics = Metrics::default();
    let bytes = settings.segment_bytes;
    let mut journal = Journal::open(&folder.journal(), bytes, disk, metrics.clone())?;
    folder.begin(&mut journal)?;
    let limits = Limits {
        dedupe_window: settings.dedupe_window,
        sent_kept: settings.sent_kept,
    };
    let (index, state) = load(&folder, &mut journal, limits)?;
    for number in state.live().keys() {
        if !journal.sealed(Kind::Mail).contains_key(number) {
            return Err(OpenError::Missing {
                path: folder.journal().join(Kind::Mail.file_name(*number)),
            });
        }
    }
    let path = folder.journal();
    let shared = Arc::new(Shared::new(settings, metrics, &path, folder.lock, state));
    let clerk = Clerk {
        journal,
        shared: Arc::clone(&shared),
        upkeep: Upkeep::default(),
        indexing: None,
    };
    let unstarted = |e| OpenError::io(&shared.settings.folder, e);
    let writer = Clerk::start(clerk, index).map_err(unstarted)?;
    Ok((shared, writer))
}

/// A folder that is ours alone.
struct Folder {
    path: PathBuf,
    lock: File,
    /// It was never used before.
    new: bool,
}

impl Folder {
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

    /// Says that an index was finished once, so that its absence is seen to be a loss.
    fn mark(&self) -> PathBuf {
        self.journal().join("indexed")
    }

    /// A folder in use always has a state segment; a new one gets it before it counts as in use.
    fn begin(&self, journal: &mut Journal) -> Result<(), OpenError> {
        let empty = journal.sealed(Kind::State).is_empty();
        if empty && !self.new {
            return Err(OpenError::Missing {
                path: self.journal().join(Kind::State.file_name(1)),
            });
        }
        if empty {
            let first = Note::Totals(Totals::default()).record();
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

/// The index and the state that journal and index add up to.
fn load(
    folder: &Folder,
    journal: &mut Journal,
    limits: Limits,
) -> Result<(Index, State), OpenError> {
    let doubt = if folder.index().exists() {
        match catch_up(folder, journal, limits)? {
            Ok(loaded) => return Ok(loaded),
            Err(doubt) => Some(doubt),
        }
    } else {
        folder.mark().exists().then_some(Doubt::Missing)
    };
    if let Some(doubt) = doubt {
        tracing::warn!(
            path = %folder.index().display(),
            reason = %doubt,
            "store: the index is not to be believed; it is made again from the journal"
        );
    }
    rebuild(folder, journal, limits)
}

/// Why an index is not believed.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    #[error("it is gone")]
    Missing,
    #[error("it was never finished")]
    Unfinished,
    #[error("it is older than segments that are gone already")]
    Stale,
    #[error("its counts do not add up")]
    Miscounted,
    #[error(transparent)]
    Damaged(#[from] IndexError),
}

/// Takes the index as it is and applies what it has not seen.
fn catch_up(
    folder: &Folder,
    journal: &mut Journal,
    limits: Limits,
) -> Result<Result<(Index, State), Doubt>, OpenError> {
    let opened = Index::open(&folder.index()).and_then(|index| {
        let meta = index.meta()?;
        Ok((index, meta))
    });
    let (index, meta) = match opened {
        Ok((index, Some(meta))) => (index, meta),
        Ok((_, None)) => return Ok(Err(Doubt::Unfinished)),
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
    let state = match State::load(index.clone(), meta, limits) {
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
        return Ok(Err(Doubt::Stale));
    }
    if !adds_up(&state) {
        return Ok(Err(Doubt::Miscounted));
    }
    Ok(Ok((index, state)))
}

/// Makes the index anew from all of the journal.
fn rebuild(
    folder: &Folder,
    journal: &mut Journal,
    limits: Limits,
) -> Result<(Index, State), OpenError> {
    let path = folder.index();
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(|e| OpenError::io(&path, e))?;
    }
    let unmade = |error: IndexError| OpenError::Index {
        path: path.clone(),
        reason: error.to_string(),
    };
    let index = Index::open(&path).map_err(unmade)?;
    let (counted, totals) = newest_totals(journal)?;
    let meta = Meta { seq: 0, totals };
    let mut replay = Replay {
        state: State::load(index.clone(), meta, limits).map_err(unmade)?,
        seen: 0,
        counted,
        failed: None,
        whole: true,
    };
    replay.run(journal)?;
    let mut state = replay.finish(journal).map_err(unmade)?;
    if !adds_up(&state) {
        let (ledger, jobs) = (state.ledger(), state.outbox_ledger());
        let expected = state.totals.received.saturating_sub(state.totals.over());
        let over = jobs.sent + jobs.captured + jobs.failed + jobs.cancelled;
        return Err(OpenError::Lost {
            path: folder.journal(),
            expected: expected + jobs.taken.saturating_sub(over),
            found: ledger.waiting + ledger.parked + jobs.waiting,
        });
    }
    let leaving = state.leave();
    leaving.write(&index).map_err(unmade)?;
    index.flush().map_err(unmade)?;
    state.left();
    let mark = folder.mark();
    File::create(&mark).map_err(|e| OpenError::io(&mark, e))?;
    sync_folder(&folder.journal())?;
    Ok((index, state))
}

fn adds_up(state: &State) -> bool {
    let open = (state.waiting().len() + state.parked().len()) as u64;
    state.totals.received == state.totals.over() + open && state.outbox_ledger().adds_up()
}

/// The totals that were written last, and their number.
fn newest_totals(journal: &Journal) -> Result<(u64, Totals), OpenError> {
    let mut newest = (0, Totals::default());
    journal.replay(Kind::State, 0, |_, row| {
        if row.head.starts_with(b"{\"totals\"")
            && let Ok(Note::Totals(totals)) = serde_json::from_slice(&row.head)
        {
            newest = (row.seq, totals);
        }
        Ok(())
    })?;
    Ok(newest)
}

/// Applying the journal's records to a state that has not seen them.
struct Replay {
    state: State,
    /// The state has all records up to this number.
    seen: u64,
    /// The totals count all records up to this number.
    counted: u64,
    failed: Option<IndexError>,
    /// Everything is replayed, into an empty index.
    whole: bool,
}

impl Replay {
    /// All mails first: whatever a fact says of one, it was accepted before, but its copy may stand
    /// behind the fact.
    fn run(&mut self, journal: &Journal) -> Result<(), OpenError> {
        journal.replay(Kind::Mail, self.seen, |segment, row| {
            self.mail(segment, &row)
                .map_err(|error| unreadable(Kind::Mail, segment, &row, error))
        })?;
        journal.replay(Kind::State, self.seen, |segment, row| {
            if self.failed.is_none() {
                self.note(segment, &row)
                    .map_err(|error| unreadable(Kind::State, segment, &row, error))?;
            }
            Ok(())
        })
    }

    fn finish(mut self, journal: &Journal) -> Result<State, IndexError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.state.seq = journal.last_seq();
        Ok(self.state)
    }

    fn mail(&mut self, segment: u64, row: &Row) -> Result<(), serde_json::Error> {
        let mail = MailId(row.origin);
        let held = self.state.held(mail).is_some();
        if row.is_carried() && !self.whole && row.origin <= self.seen && !held {
            // The index knew the mail and let it go: it is settled.
            return Ok(());
        }
        let lanes = if held && row.is_carried() {
            Vec::new()
        } else {
            lanes(&serde_json::from_slice(&row.head)?)
        };
        let counts = !row.is_carried() && row.seq > self.counted;
        let place = Place::new(segment, row.span);
        self.state.accept(mail, place, &lanes, counts);
        if row.is_carried() {
            self.state.mark_carried(mail);
        }
        Ok(())
    }

    fn note(&mut self, segment: u64, row: &Row) -> Result<(), serde_json::Error> {
        // Entries kept in memory before they are written to the index.
        // The more, the closer together they lie in the index, which makes it several times faster.
        const ENTRIES_MAX: usize = 1_000_000;
        const ENTRY_BYTES_MAX: usize = 64 << 20;
        let stamp = Stamp {
            origin: row.origin,
            counts: !row.is_carried() && row.seq > self.counted,
            replayed: true,
            place: Place::new(segment, row.span),
        };
        match serde_json::from_slice(&row.head)? {
            Note::Totals(totals) => {
                self.state.totals.gone_to = self.state.totals.gone_to.max(totals.gone_to);
                self.state.totals.compact_bytes = totals.compact_bytes;
            }
            Note::Fact(fact) => self.applied(|state, stamp| state.apply(fact, stamp), stamp),
            Note::Job(kept) => self.applied(|state, stamp| state.job_told(*kept, stamp), stamp),
            Note::JobGone { job, captured } => {
                self.applied(|s, stamp| s.let_job_go(job, captured, stamp), stamp);
            }
        }
        let (entries, bytes) = self.state.entries();
        if self.failed.is_none() && (entries > ENTRIES_MAX || bytes > ENTRY_BYTES_MAX) {
            self.failed = self.state.shed().err();
        }
        Ok(())
    }

    fn applied(
        &mut self,
        apply: impl FnOnce(&mut State, Stamp) -> Result<(), IndexError>,
        stamp: Stamp,
    ) {
        self.failed = apply(&mut self.state, stamp).err();
    }
}

fn unreadable(kind: Kind, segment: u64, row: &Row, error: serde_json::Error) -> OpenError {
    OpenError::Unreadable {
        path: PathBuf::from(kind.file_name(segment)),
        record: row.seq,
        source: error,
    }
}

/// Makes a folder only its owner may enter, unless it is there.
pub(super) fn make_folder(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| OpenError::io(path, e))?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// Takes the folder for this process alone.
pub(super) fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| OpenError::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path, error)),
    }
}

/// False if the folder has no version yet.
pub(super) fn check_version(folder: &Path) -> Result<bool, OpenError> {
    let path = folder.join("version");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == VERSION => Ok(true),
        Ok(text) => Err(OpenError::Version {
            path,
            version: text.trim().chars().take(20).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io(&path, error)),
    }
}

pub(super) fn write_version(folder: &Path) -> Result<(), OpenError> {
    let draft = folder.join("new-version");
    let write = || {
        std::fs::write(&draft, format!("{VERSION}\n"))?;
        File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, folder.join("version"))
    };
    write().map_err(|e| OpenError::io(&draft, e))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| OpenError::io(folder, e))
}
