//! Owns the journal: the folder of segments, the numbers of records, appending and deleting.
//!
//! Does not interpret records, and starts no thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::disk::Disk;
use super::frame::{self, FrameRow, Record};
use super::location::RecordLocation;
use super::segment::{
    HEADER_BYTES, SEAL_BYTES, Segment, SegmentHeader, SegmentKind, SegmentWalk, WalkStep,
};
use crate::store::error::OpenError;
use crate::store::metrics::Metrics;

/// Deleted segment files that are kept for reuse: overwriting is twice as fast as growing a new file.
const SPARES_MAX: usize = 3;
/// Bytes reserved at the end of a state segment for facts that free space.
const RESERVE_BYTES_MAX: u64 = 4096;

/// The reason why nothing was appended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AppendError {
    /// There was no space for another segment, or no file descriptor. This may be temporary.
    Full,
    /// The disk failed. Its contents are no longer known, so nothing may be appended again.
    Dead,
}

/// The numbers and positions of the appended records.
#[derive(Debug, Default)]
pub(super) struct Appended {
    /// The number of the first mail; the others are consecutive.
    pub(super) mail_seq: u64,
    pub(super) mails: Vec<RecordLocation>,
    /// The number of the first fact; the others are consecutive.
    pub(super) fact_seq: u64,
    pub(super) facts: Vec<RecordLocation>,
}

/// The journal of one folder.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    disk: Disk,
    segment_bytes: u64,
    mail: SegmentStream,
    state: SegmentStream,
    spare_files: Vec<PathBuf>,
    spares_made: u64,
    last_seq: u64,
    /// The next number; more than one above `last_seq` after a batch that failed.
    next_seq: u64,
    metrics: Metrics,
}

/// The segments of one kind.
#[derive(Debug)]
struct SegmentStream {
    open: Option<Segment>,
    sealed: BTreeMap<u64, SealedSegment>,
    next_number: u64,
}

/// A segment that is no longer written.
#[derive(Clone, Debug)]
pub(super) struct SealedSegment {
    pub(super) header: SegmentHeader,
    /// The upper bound of the numbers of its records.
    pub(super) last_seq: u64,
    pub(super) bytes: u64,
}

impl Journal {
    /// Reads the folder. A torn tail is cut, with a warning.
    ///
    /// # Errors
    /// A file that cannot be read, or damage that is not a torn tail.
    pub(super) fn open(
        folder: &Path,
        segment_bytes: u64,
        disk: Disk,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let mut journal = Self {
            folder: folder.to_owned(),
            disk,
            segment_bytes: segment_bytes.max(HEADER_BYTES + SEAL_BYTES),
            mail: SegmentStream::new(),
            state: SegmentStream::new(),
            spare_files: Vec::new(),
            spares_made: 0,
            last_seq: 0,
            next_seq: 1,
            metrics,
        };
        journal.list_segments()?;
        for kind in [SegmentKind::Mail, SegmentKind::State] {
            journal.repair_tail(kind)?;
        }
        Ok(journal)
    }

    /// The number of the last record on disk; 0 if there is none.
    pub(super) const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// True if the batch before failed, so that the next record has no neighbour.
    pub(super) const fn has_skipped_numbers(&self) -> bool {
        self.next_seq > self.last_seq + 1
    }

    /// The sealed segments of a kind.
    pub(super) const fn sealed(&self, kind: SegmentKind) -> &BTreeMap<u64, SealedSegment> {
        match kind {
            SegmentKind::Mail => &self.mail.sealed,
            SegmentKind::State => &self.state.sealed,
        }
    }

    /// The header of the open segment of a kind, if there is one.
    pub(super) fn open_header(&self, kind: SegmentKind) -> Option<SegmentHeader> {
        let stream = match kind {
            SegmentKind::Mail => &self.mail,
            SegmentKind::State => &self.state,
        };
        stream.open.as_ref().map(|s| s.header)
    }

    /// Bytes of all segments of a kind.
    pub(super) fn bytes(&self, kind: SegmentKind) -> u64 {
        let open = match kind {
            SegmentKind::Mail => &self.mail.open,
            SegmentKind::State => &self.state.open,
        };
        let sealed: u64 = self.sealed(kind).values().map(|s| s.bytes).sum();
        sealed + open.as_ref().map_or(0, Segment::end)
    }

    /// Passes every row of a kind with a number above `after` to the caller, in the order of writing.
    ///
    /// Only for a journal that was just opened: then every segment is sealed.
    pub(super) fn replay(
        &self,
        kind: SegmentKind,
        after: u64,
        mut show: impl FnMut(u64, FrameRow) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        for (&number, sealed) in self.sealed(kind) {
            if sealed.last_seq <= after {
                continue;
            }
            let mut walk = self
                .walk(kind, number)
                .map_err(|e| OpenError::io(&self.folder, e))?;
            loop {
                match walk.next(false).map_err(|e| OpenError::io(&walk.path, e))? {
                    WalkStep::Frame(rows) => {
                        for row in rows.into_iter().filter(|r| r.seq > after) {
                            show(number, row)?;
                        }
                    }
                    WalkStep::Seal(_) => break,
                    WalkStep::End => return Err(damaged(&walk)),
                }
            }
        }
        Ok(())
    }

    /// A scan of a segment of this journal.
    pub(super) fn walk(&self, kind: SegmentKind, number: u64) -> io::Result<SegmentWalk> {
        let sealed = self
            .sealed(kind)
            .get(&number)
            .ok_or(io::ErrorKind::NotFound)?;
        SegmentWalk::begin(sealed.header, &self.folder.join(kind.file_name(number)))
    }

    /// Writes mails and facts, each kind as one frame; all are on disk when this returns `Ok`.
    pub(super) fn append(
        &mut self,
        mails: &[Record],
        facts: &[Record],
    ) -> Result<Appended, AppendError> {
        self.append_with_reserve(
            mails,
            facts,
            self.segment_bytes.min(RESERVE_BYTES_MAX * 8) / 8,
        )
    }

    /// Writes one fact that frees space: a full disk has a reserve for a few of them.
    pub(super) fn append_from_reserve(&mut self, fact: Record) -> Result<Appended, AppendError> {
        self.append_with_reserve(&[], &[fact], 0)
    }

    fn append_with_reserve(
        &mut self,
        mails: &[Record],
        facts: &[Record],
        reserve: u64,
    ) -> Result<Appended, AppendError> {
        let (mail_seq, fact_seq) = (self.next_seq, self.next_seq + mails.len() as u64);
        // A failed batch may still appear at the next start: its numbers are not reused.
        self.next_seq = fact_seq + facts.len() as u64;
        let mut written = Appended {
            mail_seq,
            fact_seq,
            ..Appended::default()
        };
        for (kind, records, seq) in [
            (SegmentKind::Mail, mails, mail_seq),
            (SegmentKind::State, facts, fact_seq),
        ] {
            if records.is_empty() {
                continue;
            }
            let locations = self.write(
                kind,
                seq,
                records,
                if kind == SegmentKind::State {
                    reserve
                } else {
                    0
                },
            )?;
            match kind {
                SegmentKind::Mail => written.mails = locations,
                SegmentKind::State => written.facts = locations,
            }
        }
        for (kind, records) in [(SegmentKind::Mail, mails), (SegmentKind::State, facts)] {
            if !records.is_empty() {
                self.sync_frame(kind, records)?;
            }
        }
        if !mails.is_empty() || !facts.is_empty() {
            self.last_seq = self.next_seq - 1;
        }
        Ok(written)
    }

    /// Deletes segments, in this order: their files are kept for reuse, or removed. A file that cannot be
    /// removed is left for the next time.
    ///
    /// # Errors
    /// `Dead` if the folder cannot be synced.
    pub(super) fn retire(&mut self, kind: SegmentKind, numbers: &[u64]) -> Result<(), AppendError> {
        let folder = self.folder.clone();
        for &number in numbers {
            let path = folder.join(kind.file_name(number));
            if let Err(error) = self.recycle(kind, number, &path) {
                tracing::warn!(path = %path.display(), %error, "journal: an obsolete segment could not be removed");
                break;
            }
            self.stream(kind).sealed.remove(&number);
            // One by one, because a missing later segment would look like a loss.
            self.disk
                .sync_folder(&folder)
                .map_err(|error| disk_failed(&folder, &error))?;
        }
        Ok(())
    }

    /// Seals the open segments, so that the next start finds no tail to repair.
    pub(super) fn close(&mut self) -> Result<(), AppendError> {
        let next_seq = self.next_seq;
        self.seal(SegmentKind::Mail, next_seq)?;
        self.seal(SegmentKind::State, next_seq)
    }

    fn stream(&mut self, kind: SegmentKind) -> &mut SegmentStream {
        match kind {
            SegmentKind::Mail => &mut self.mail,
            SegmentKind::State => &mut self.state,
        }
    }

    fn recycle(&mut self, kind: SegmentKind, number: u64, path: &Path) -> io::Result<()> {
        let bytes = self.stream(kind).sealed.get(&number).map_or(0, |s| s.bytes);
        if self.spare_files.len() == SPARES_MAX || bytes != self.segment_bytes {
            return self.disk.remove(path);
        }
        self.spares_made += 1;
        let spare = self.folder.join(format!("spare-{}", self.spares_made));
        self.disk.rename(path, &spare)?;
        self.spare_files.push(spare);
        Ok(())
    }

    fn list_segments(&mut self) -> Result<(), OpenError> {
        let folder = self.folder.clone();
        let unread = |e| OpenError::io(&folder, e);
        let mut found: Vec<(SegmentKind, u64, u64)> = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = entry.metadata().map_err(unread)?.len();
            if let Some((kind, number)) = SegmentKind::parse(&name) {
                found.push((kind, number, bytes));
            } else if name.starts_with("spare-") || name.starts_with("new-") {
                // An incomplete or deleted segment: its content does not count.
                self.disk.remove(&entry.path()).map_err(unread)?;
            }
        }
        found.sort_unstable();
        for (kind, number, bytes) in found.into_iter().rev() {
            let header = SegmentHeader::read(&folder.join(kind.file_name(number)), kind, number)?;
            let stream = self.stream(kind);
            let later = stream.sealed.values().next();
            let last_seq = later.map_or(u64::MAX, |s| s.header.first_seq - 1);
            stream.next_number = stream.next_number.max(number + 1);
            let sealed = SealedSegment {
                header,
                last_seq,
                bytes,
            };
            stream.sealed.insert(number, sealed);
        }
        self.check_numbers()
    }

    /// Checks for missing segments: state segments are deleted oldest first, so a gap is a loss.
    fn check_numbers(&self) -> Result<(), OpenError> {
        let numbers: Vec<u64> = self.state.sealed.keys().copied().collect();
        for pair in numbers.windows(2) {
            if pair[0] + 1 != pair[1] {
                let name = SegmentKind::State.file_name(pair[0] + 1);
                return Err(OpenError::Missing {
                    path: self.folder.join(name),
                });
            }
        }
        Ok(())
    }

    /// Scans the last segment of a kind to its end, cuts a torn tail, and seals the segment if necessary.
    fn repair_tail(&mut self, kind: SegmentKind) -> Result<(), OpenError> {
        let Some(&number) = self.stream(kind).sealed.keys().next_back() else {
            return Ok(());
        };
        let path = self.folder.join(kind.file_name(number));
        let mut walk = self
            .walk(kind, number)
            .map_err(|e| OpenError::io(&path, e))?;
        let mut last_seq = walk.header.first_seq.saturating_sub(1);
        let next_seq = loop {
            match walk.next(true).map_err(|e| OpenError::io(&path, e))? {
                WalkStep::Frame(rows) => last_seq = rows.last().map_or(last_seq, |r| r.seq),
                WalkStep::Seal(next_seq) => break Some(next_seq),
                WalkStep::End => break None,
            }
        };
        if next_seq.is_none() {
            if walk
                .later_frame()
                .map_err(|e| OpenError::io(&path, e))?
                .is_some()
            {
                return Err(damaged(&walk));
            }
            if walk.is_torn().map_err(|e| OpenError::io(&path, e))? {
                tracing::warn!(
                    path = %path.display(),
                    offset = walk.at(),
                    "journal: an unacknowledged write was incomplete; it is removed"
                );
            }
            let mut segment = Segment::resume(walk, u64::MAX);
            let sealed = segment.seal(&self.disk, last_seq + 1, true);
            sealed.map_err(|e| OpenError::io(&path, e))?;
            if let Some(sealed) = self.stream(kind).sealed.get_mut(&number) {
                sealed.bytes = segment.end();
            }
        }
        if let Some(sealed) = self.stream(kind).sealed.get_mut(&number) {
            sealed.last_seq = last_seq.max(next_seq.unwrap_or_default().saturating_sub(1));
        }
        self.last_seq = self.last_seq.max(last_seq);
        self.next_seq = self.last_seq + 1;
        Ok(())
    }

    fn write(
        &mut self,
        kind: SegmentKind,
        first_seq: u64,
        records: &[Record],
        reserve: u64,
    ) -> Result<Vec<RecordLocation>, AppendError> {
        let bytes = frame::frame_bytes(records);
        let fits = |s: &Segment| s.fits(bytes + reserve);
        if !self.stream(kind).open.as_ref().is_some_and(fits) {
            self.begin_segment(kind, first_seq, bytes + reserve)?;
        }
        let disk = self.disk.clone();
        let segment = self.stream(kind).open.as_ref().ok_or(AppendError::Dead)?;
        match segment.write(&disk, first_seq, records) {
            Ok(spans) => {
                let number = segment.header.number;
                let location = |span| RecordLocation::new(number, span);
                Ok(spans.into_iter().map(location).collect())
            }
            // Nothing was acknowledged yet, and the next frame overwrites the incomplete one.
            Err(error) if is_transient(&error) => Err(disk_full(&segment.path, &error)),
            Err(error) => Err(disk_failed(&segment.path, &error)),
        }
    }

    fn sync_frame(&mut self, kind: SegmentKind, records: &[Record]) -> Result<(), AppendError> {
        let disk = self.disk.clone();
        let metrics = self.metrics.clone();
        let segment = self.stream(kind).open.as_mut().ok_or(AppendError::Dead)?;
        let begun = Instant::now();
        // After a failed sync the kernel may report success for the next one although the bytes are lost.
        segment
            .sync(&disk)
            .map_err(|error| disk_failed(&segment.path, &error))?;
        let bytes = frame::frame_bytes(records);
        segment.advance(bytes);
        metrics.synced(begun.elapsed(), bytes, records.len());
        Ok(())
    }

    fn seal(&mut self, kind: SegmentKind, next_seq: u64) -> Result<(), AppendError> {
        let disk = self.disk.clone();
        let stream = self.stream(kind);
        let Some(mut segment) = stream.open.take() else {
            return Ok(());
        };
        // A nearly full segment may be reused later; any other frees its unused space now.
        let shorten = segment.end() < segment.bytes_max() / 2 && !segment.header.reused;
        segment
            .seal(&disk, next_seq, shorten)
            .map_err(|error| disk_failed(&segment.path, &error))?;
        let sealed = SealedSegment {
            header: segment.header,
            last_seq: next_seq - 1,
            bytes: if shorten {
                segment.end()
            } else {
                segment.bytes_max()
            },
        };
        stream.sealed.insert(segment.header.number, sealed);
        Ok(())
    }

    /// Makes the next segment. Its space is allocated before the previous one is sealed, so that a full
    /// disk leaves that one in use; its header is on disk before its name, so a segment without a header is
    /// always damage.
    fn begin_segment(
        &mut self,
        kind: SegmentKind,
        first_seq: u64,
        bytes: u64,
    ) -> Result<(), AppendError> {
        let bytes = self.segment_bytes.max(HEADER_BYTES + bytes + SEAL_BYTES);
        let number = self.stream(kind).next_number;
        let path = self.folder.join(kind.file_name(number));
        let spare = (bytes == self.segment_bytes)
            .then(|| self.spare_files.pop())
            .flatten();
        let reused = spare.is_some();
        let draft = spare.unwrap_or_else(|| self.folder.join("new-segment"));
        let header = SegmentHeader {
            kind,
            number,
            salt: getrandom::u64().map_err(|_| AppendError::Dead)?,
            first_seq,
            reused,
        };
        let failed = |error: io::Error| match is_transient(&error) {
            true => disk_full(&path, &error),
            false => disk_failed(&path, &error),
        };
        let file = self.write_draft(&header, &draft, bytes).map_err(|error| {
            // Best effort: the next start removes drafts too.
            let _ = self.disk.remove(&draft);
            failed(error)
        })?;
        self.seal(kind, first_seq)?;
        self.disk.rename(&draft, &path).map_err(failed)?;
        self.disk
            .sync_folder(&self.folder)
            .map_err(|e| disk_failed(&path, &e))?;
        let stream = self.stream(kind);
        stream.next_number = number + 1;
        stream.open = Some(Segment::begin(header, path, file, bytes));
        Ok(())
    }

    fn write_draft(&self, header: &SegmentHeader, draft: &Path, bytes: u64) -> io::Result<File> {
        let file = if header.reused {
            Disk::open(draft)?
        } else {
            self.disk.create(draft, bytes)?
        };
        self.disk.write_at(&file, &header.encode(), 0)?;
        self.disk.sync(&file)?;
        Ok(file)
    }
}

impl SegmentStream {
    const fn new() -> Self {
        Self {
            open: None,
            sealed: BTreeMap::new(),
            next_number: 1,
        }
    }
}

/// True for errors that mean no space or no file descriptor, after which the disk is still reliable.
fn is_transient(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

fn disk_full(path: &Path, error: &io::Error) -> AppendError {
    tracing::error!(path = %path.display(), %error, "journal: no space; nothing is accepted until there is some");
    AppendError::Full
}

fn disk_failed(path: &Path, error: &io::Error) -> AppendError {
    tracing::error!(path = %path.display(), %error, "journal: the disk failed; nothing is accepted until a restart");
    AppendError::Dead
}

fn damaged(walk: &SegmentWalk) -> OpenError {
    OpenError::Damaged {
        path: walk.path.clone(),
        offset: walk.at(),
        what: "a record's checksum is wrong and it is not the last one",
    }
}
