//! Owns one segment: its name, its header, appending frames, scanning frames.
//!
//! Does not interpret records, and does not know other segments.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::frame::{
    self, ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameRow, FrameStamp, Record, RecordSpan, u32_at,
    u64_at,
};
use crate::store::error::OpenError;

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: u64 = 64;
/// Bytes kept free at the end for the seal.
pub(super) const SEAL_BYTES: u64 = FRAME_HEADER_BYTES as u64;
const MAGIC: [u8; 8] = *b"postern\n";
const VERSION: u32 = 1;
const FLAG_REUSED: u32 = 1;

/// The contents of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SegmentKind {
    /// Accepted mail.
    Mail,
    /// Facts.
    State,
}

impl SegmentKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::State => "state",
        }
    }

    const fn code(self) -> u32 {
        match self {
            Self::Mail => 1,
            Self::State => 2,
        }
    }

    /// The name of the file of this kind's segment `number`.
    pub(super) fn file_name(self, number: u64) -> String {
        format!("{}-{number:010}.segment", self.name())
    }

    /// Parses the output of [`SegmentKind::file_name`].
    pub(super) fn parse(name: &str) -> Option<(Self, u64)> {
        let (kind, number) = name.strip_suffix(".segment")?.split_once('-')?;
        let kind = [Self::Mail, Self::State]
            .into_iter()
            .find(|k| k.name() == kind)?;
        let number = number.parse().ok()?;
        (kind.file_name(number) == name).then_some((kind, number))
    }
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) kind: SegmentKind,
    pub(super) number: u64,
    /// A new random value for each reuse of the file, so that old frames are invalid.
    pub(super) salt: u64,
    /// The lower bound of the numbers of its records.
    pub(super) first_seq: u64,
    /// True if the file was reused: bytes after the last frame do not indicate a torn one.
    pub(super) reused: bool,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let flags = if self.reused { FLAG_REUSED } else { 0 };
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.kind.code().to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.resize(60, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Rebuilds the unreadable header of a segment from its first frame. `covered` is the number after the
    /// last one in the earlier segments. `None` if the segment has no frame.
    pub(super) fn recover(
        path: &Path,
        kind: SegmentKind,
        number: u64,
        covered: u64,
    ) -> io::Result<Option<Self>> {
        let header = Self {
            kind,
            number,
            salt: 0,
            first_seq: covered,
            reused: true,
        };
        let mut walk = SegmentWalk::begin(header, path)?;
        let mut at = HEADER_BYTES;
        while let Some(bytes) = walk.bytes(at, FRAME_HEADER_BYTES as u64)? {
            walk.header.salt = u64_at(bytes, 8);
            if let Some((opening, _)) = walk.frame_at(at)? {
                let FrameStamp {
                    salt,
                    batch,
                    first_seq,
                } = opening.stamp;
                let first_seq = match batch {
                    0 => first_seq,
                    _ => covered.min(first_seq),
                };
                return Ok(Some(Self {
                    salt,
                    first_seq,
                    ..header
                }));
            }
            at += ALIGN;
        }
        Ok(None)
    }

    /// Reads the header of the segment at `path` and checks that it matches the name.
    pub(super) fn read(path: &Path, kind: SegmentKind, number: u64) -> Result<Self, OpenError> {
        let damaged = |what| OpenError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what,
        };
        let file = File::open(path).map_err(|e| OpenError::io(path, e))?;
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => damaged("the file ends before its header does"),
                _ => OpenError::io(path, error),
            })?;
        if bytes[..8] != MAGIC || u32_at(&bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Err(damaged("the header's checksum is wrong"));
        }
        let version = u32_at(&bytes, 8);
        if version != VERSION {
            return Err(OpenError::Version {
                path: path.to_owned(),
                version: version.to_string(),
            });
        }
        if u32_at(&bytes, 12) != kind.code() || u64_at(&bytes, 16) != number {
            return Err(damaged("the file has the name of another segment"));
        }
        Ok(Self {
            kind,
            number,
            salt: u64_at(&bytes, 24),
            first_seq: u64_at(&bytes, 32),
            reused: u32_at(&bytes, 40) & FLAG_REUSED != 0,
        })
    }
}

/// The open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    file: File,
    /// The offset of the next frame.
    end: u64,
    batch: u64,
    bytes_max: u64,
}

impl Segment {
    /// A segment with only its header on disk.
    pub(super) const fn begin(
        header: SegmentHeader,
        path: PathBuf,
        file: File,
        bytes_max: u64,
    ) -> Self {
        Self {
            header,
            path,
            file,
            end: HEADER_BYTES,
            batch: 0,
            bytes_max,
        }
    }

    /// The segment after a scan: the next frame follows the last one found.
    pub(super) fn resume(walk: SegmentWalk, bytes_max: u64) -> Self {
        Self {
            header: walk.header,
            path: walk.path,
            file: walk.file,
            end: walk.at,
            batch: walk.batch,
            bytes_max,
        }
    }

    /// True if a frame of `bytes` fits, with the seal after it.
    pub(super) const fn fits(&self, bytes: u64) -> bool {
        self.end + bytes + SEAL_BYTES <= self.bytes_max
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Writes one frame, without a sync, and returns the locations of its records.
    ///
    /// The frame counts only after [`Segment::advance`]; until then the next one overwrites it.
    pub(super) fn write(
        &self,
        disk: &Disk,
        first_seq: u64,
        records: &[Record],
    ) -> io::Result<Vec<RecordSpan>> {
        // Copying a small body costs less than a separate write.
        const BODY_ALONE_BYTES: usize = 64 << 10;
        let mut bytes = frame::encode_front(self.stamp(first_seq), records);
        let mut at = self.end;
        for record in records {
            if record.body.len() < BODY_ALONE_BYTES {
                bytes.extend_from_slice(&record.body);
                continue;
            }
            disk.write_at(&self.file, &bytes, at)?;
            at += bytes.len() as u64;
            bytes.clear();
            disk.write_at(&self.file, &record.body, at)?;
            at += record.body.len() as u64;
        }
        let pad = (at + bytes.len() as u64).next_multiple_of(ALIGN) - at;
        bytes.resize(usize::try_from(pad).map_err(io::Error::other)?, 0);
        if !bytes.is_empty() {
            disk.write_at(&self.file, &bytes, at)?;
        }
        Ok(frame::spans(records, self.end))
    }

    pub(super) fn sync(&self, disk: &Disk) -> io::Result<()> {
        disk.sync(&self.file)
    }

    /// Records that the frame of `bytes` bytes is on disk: the next one follows it.
    pub(super) const fn advance(&mut self, bytes: u64) {
        self.end += bytes;
        self.batch += 1;
    }

    /// Ends the segment permanently, and frees the unused space if `shorten`; on disk when this returns.
    pub(super) fn seal(&mut self, disk: &Disk, next_seq: u64, shorten: bool) -> io::Result<()> {
        let seal = frame::encode_seal(self.stamp(next_seq));
        disk.write_at(&self.file, &seal, self.end)?;
        disk.sync(&self.file)?;
        self.advance(SEAL_BYTES);
        if shorten {
            disk.shorten(&self.file, self.end)?;
        }
        Ok(())
    }

    const fn stamp(&self, first_seq: u64) -> FrameStamp {
        FrameStamp {
            salt: self.header.salt,
            batch: self.batch,
            first_seq,
        }
    }
}

/// The next item of a scan.
#[derive(Debug)]
pub(super) enum WalkStep {
    Frame(Vec<FrameRow>),
    /// The segment ends here with a seal: no record in it has this number or a higher one.
    Seal(u64),
    /// The bytes here are no frame of this segment.
    End,
}

/// A scan of the frames of a segment, from its beginning.
#[derive(Debug)]
pub(super) struct SegmentWalk {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    file: File,
    file_bytes: u64,
    /// The offset of the expected next frame.
    at: u64,
    /// The index that the next frame must have.
    batch: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentWalk {
    pub(super) fn begin(header: SegmentHeader, path: &Path) -> io::Result<Self> {
        let file = Disk::open(path)?;
        Ok(Self {
            header,
            path: path.to_owned(),
            file_bytes: file.metadata()?.len(),
            file,
            at: HEADER_BYTES,
            batch: 0,
            window: Vec::new(),
            window_at: 0,
        })
    }

    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The next frame; its bodies are verified too if `whole`.
    pub(super) fn next(&mut self, whole: bool) -> io::Result<WalkStep> {
        let Some((opening, rows)) = self.frame_at(self.at)? else {
            return Ok(WalkStep::End);
        };
        if opening.stamp.batch != self.batch {
            return Ok(WalkStep::End);
        }
        if whole {
            for row in &rows {
                if self.body_crc(row.span)? != Some(row.span.body_crc) {
                    return Ok(WalkStep::End);
                }
            }
        }
        if opening.seals {
            return Ok(WalkStep::Seal(opening.stamp.first_seq));
        }
        self.at += opening.frame_bytes();
        self.batch += 1;
        Ok(WalkStep::Frame(rows))
    }

    /// Searches for a later frame after the place where the frames ended. A frame is written only when the
    /// one before is on disk, so a later frame proves damage, not a torn tail.
    pub(super) fn later_frame(&mut self) -> io::Result<Option<(u64, FrameStamp)>> {
        let mut at = self.at + ALIGN;
        while at + FRAME_HEADER_BYTES as u64 <= self.file_bytes {
            let salt = self.header.salt;
            let began = self
                .bytes(at, ALIGN)?
                .is_some_and(|b| frame::has_magic(b, salt));
            if began
                && let Some((opening, _)) = self.frame_at(at)?
                && opening.stamp.batch > self.batch
            {
                return Ok(Some((at, opening.stamp)));
            }
            at += ALIGN;
        }
        Ok(None)
    }

    /// Continues at a frame that [`SegmentWalk::later_frame`] found.
    pub(super) const fn skip_to(&mut self, at: u64, batch: u64) {
        self.at = at;
        self.batch = batch;
    }

    /// The turn that the next frame must have.
    pub(super) const fn batch(&self) -> u64 {
        self.batch
    }

    pub(super) const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The checksum of a record's body as it is on disk, read in pieces; `None` if the file ends before.
    pub(super) fn body_crc(&mut self, span: RecordSpan) -> io::Result<Option<u32>> {
        const PIECE_BYTES: u64 = 128 << 10;
        let (mut at, end) = (span.body_at, span.body_at + u64::from(span.body_bytes));
        let mut crc = crc32fast::Hasher::new();
        while at < end {
            let piece = PIECE_BYTES.min(end - at);
            let Some(bytes) = self.bytes(at, piece)? else {
                return Ok(None);
            };
            crc.update(bytes);
            at += piece;
        }
        Ok(Some(crc.finalize()))
    }

    /// The offset of the frame with these rows, and its opening, rows and heads.
    pub(super) fn front_of(&mut self, rows: &[FrameRow]) -> io::Result<Option<(u64, Vec<u8>)>> {
        let Some((at, bytes)) = frame::front_place(rows) else {
            return Ok(None);
        };
        let front = self.bytes(at, bytes)?;
        Ok(front.map(|front| (at, front.to_vec())))
    }

    /// Opening, rows and heads of a possible frame at the place where the frames ended, if by its own lengths
    /// it ends at `end`. No checksum has proven any of it.
    pub(super) fn unproven_front(&mut self, end: u64) -> io::Result<Option<Vec<u8>>> {
        let at = self.at;
        let opening = self.bytes(at, FRAME_HEADER_BYTES as u64)?;
        let Some(opening) = opening.map(FrameHeader::parse_unproven) else {
            return Ok(None);
        };
        if opening.seals || at + opening.frame_bytes() != end {
            return Ok(None);
        }
        let front = self.bytes(at, opening.front_bytes())?;
        Ok(front.map(<[u8]>::to_vec))
    }

    /// True if bytes follow the last frame: then the tail is torn, not clean.
    pub(super) fn is_torn(&mut self) -> io::Result<bool> {
        let (salt, reused) = (self.header.salt, self.header.reused);
        let tail = self.bytes(self.at, ALIGN)?;
        Ok(tail
            .is_some_and(|b| frame::has_magic(b, salt) || (!reused && b.iter().any(|&x| x != 0))))
    }

    fn frame_at(&mut self, at: u64) -> io::Result<Option<(FrameHeader, Vec<FrameRow>)>> {
        let salt = self.header.salt;
        let Some(opening) = self
            .bytes(at, FRAME_HEADER_BYTES as u64)?
            .and_then(|b| FrameHeader::parse(b, salt))
        else {
            return Ok(None);
        };
        if opening.front_bytes() > self.file_bytes
            || at + opening.frame_bytes() > self.file_bytes.next_multiple_of(ALIGN)
        {
            return Ok(None);
        }
        let rows = self
            .bytes(at, opening.front_bytes())?
            .and_then(|front| opening.rows(front, at));
        Ok(rows.map(|rows| (opening, rows)))
    }

    /// The bytes at `at`, read in large blocks; `None` if the file ends before.
    fn bytes(&mut self, at: u64, bytes: u64) -> io::Result<Option<&[u8]>> {
        const WINDOW_BYTES: u64 = 256 << 10;
        if at + bytes > self.file_bytes {
            return Ok(None);
        }
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if at < held.start || at + bytes > held.end {
            let size = bytes.max(WINDOW_BYTES).min(self.file_bytes - at);
            self.window
                .resize(usize::try_from(size).map_err(io::Error::other)?, 0);
            self.window_at = at;
            self.file.read_exact_at(&mut self.window, at)?;
        }
        let from = usize::try_from(at - self.window_at).map_err(io::Error::other)?;
        let to = from + usize::try_from(bytes).map_err(io::Error::other)?;
        Ok(Some(&self.window[from..to]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        for kind in [SegmentKind::Mail, SegmentKind::State] {
            assert_eq!(SegmentKind::parse(&kind.file_name(42)), Some((kind, 42)));
        }
        for name in [
            "mail-42.segment",
            "mail-0000000042.segment.bak",
            "mail-+000000042.segment",
            "lock",
        ] {
            assert_eq!(SegmentKind::parse(name), None, "{name}");
        }
    }
}
