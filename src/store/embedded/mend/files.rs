//! Owns the changes that a mend makes to segments: damaged bytes are copied aside, then overwritten.
//!
//! Does not move or change intact records, and never overwrites a copy: so every step can be stopped and
//! repeated.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::store::embedded::disk::Disk;
use crate::store::embedded::folder::make_folder;
use crate::store::embedded::frame::{self, FRAME_HEADER_BYTES, FrameStamp};
use crate::store::embedded::segment::{SegmentHeader, SegmentKind};
use crate::store::embedded::survey::{Damage, Repair};
use crate::store::error::OpenError;

const PIECE_BYTES: usize = 128 << 10;

/// The segments of a journal, and the folder for the bytes that are taken out of them.
pub(super) struct SegmentFiles<'d> {
    pub(super) journal: PathBuf,
    pub(super) aside: PathBuf,
    pub(super) disk: &'d Disk,
}

impl SegmentFiles<'_> {
    /// Copies the bytes of a damage aside and repairs the segment, so that it opens. Returns the path of the
    /// copy, if there were bytes.
    pub(super) fn mend(&self, damage: &Damage) -> Result<Option<PathBuf>, OpenError> {
        let path = self.journal.join(damage.kind.file_name(damage.segment));
        let failed = |e| OpenError::io(&path, e);
        match &damage.repair {
            Repair::Nothing => return Ok(None),
            Repair::Fill { to, first_seq } => {
                for number in damage.segment..=*to {
                    self.fill(damage.kind, number, *first_seq).map_err(failed)?;
                }
                return Ok(None);
            }
            _ => {}
        }
        make_folder(&self.aside)?;
        let copy = self.copy_aside(&path, damage).map_err(failed)?;
        self.repair(&path, damage).map_err(failed)?;
        Ok(Some(copy))
    }

    fn repair(&self, path: &Path, damage: &Damage) -> io::Result<()> {
        if let Repair::Replace { first_seq } = damage.repair {
            // An unchanged copy of its bytes is aside.
            self.disk.remove(path)?;
            return self.fill(damage.kind, damage.segment, first_seq);
        }
        let file = Disk::open(path)?;
        let salt = || salt_of(path, damage);
        match &damage.repair {
            Repair::Front(front) => self.disk.write_at(&file, front, damage.front_at)?,
            Repair::Header(header) => self.disk.write_at(&file, header, 0)?,
            Repair::Void { batch, frames } => {
                let stamp = |nth| FrameStamp {
                    salt: 0,
                    batch: batch + nth,
                    first_seq: 0,
                };
                let mut at = damage.from;
                let salt = salt()?;
                for nth in 0..*frames {
                    let bytes = match nth + 1 == *frames {
                        true => damage.to - at,
                        false => FRAME_HEADER_BYTES as u64,
                    };
                    let void = frame::encode_void(FrameStamp { salt, ..stamp(nth) }, bytes);
                    self.disk.write_at(&file, &void, at)?;
                    at += bytes;
                }
            }
            Repair::Seal { batch, next_seq } => {
                let seal = frame::encode_seal(FrameStamp {
                    salt: salt()?,
                    batch: *batch,
                    first_seq: *next_seq,
                });
                self.disk.write_at(&file, &seal, damage.from)?;
            }
            Repair::Replace { .. } | Repair::Fill { .. } | Repair::Nothing => {}
        }
        self.disk.sync(&file)
    }

    /// Creates an empty segment, unless one of that name exists.
    pub(super) fn fill(&self, kind: SegmentKind, number: u64, first_seq: u64) -> io::Result<()> {
        let path = self.journal.join(kind.file_name(number));
        if path.exists() {
            return Ok(());
        }
        let header = SegmentHeader {
            kind,
            number,
            salt: getrandom::u64().map_err(io::Error::other)?,
            first_seq,
            reused: false,
        };
        let seal = frame::encode_seal(FrameStamp {
            salt: header.salt,
            batch: 0,
            first_seq,
        });
        let bytes = [header.encode(), seal].concat();
        let draft = self.journal.join("new-segment");
        let file = self.disk.create(&draft, bytes.len() as u64)?;
        self.disk.write_at(&file, &bytes, 0)?;
        self.disk.sync(&file)?;
        self.disk.rename(&draft, &path)?;
        self.disk.sync_folder(&self.journal)
    }

    /// Copies the bytes to a file of their own, which is never changed: the same bytes have the same file.
    fn copy_aside(&self, path: &Path, damage: &Damage) -> io::Result<PathBuf> {
        const NAMES_MAX: u32 = 1000;
        let file = File::open(path)?;
        let to = match damage.repair {
            // The rest of a segment is mostly unused space.
            Repair::Seal { .. } => used_to(&file, damage.from, damage.to)?,
            _ => damage.to,
        };
        let name = damage.kind.file_name(damage.segment);
        let is_mail = damage.kind == SegmentKind::Mail && damage.mails.len() == 1;
        let extension = match is_mail && damage.front_at != damage.from {
            true => ".eml",
            false => "",
        };
        for nth in 1..=NAMES_MAX {
            let nth = match nth {
                1 => String::new(),
                nth => format!("-{nth}"),
            };
            let copy = self
                .aside
                .join(format!("{name}-{}{nth}{extension}", damage.from));
            if !copy.exists() {
                let draft = self.aside.join("new-copy");
                self.write_copy(&file, (damage.from, to), &draft)?;
                self.disk.rename(&draft, &copy)?;
                self.disk.sync_folder(&self.aside)?;
                return Ok(copy);
            }
            if is_copy(&file, (damage.from, to), &copy)? {
                return Ok(copy);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn write_copy(&self, file: &File, (from, to): (u64, u64), draft: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut copy = options.open(draft)?;
        for_pieces(file, (from, to), |piece| {
            copy.write_all(piece).map(|()| true)
        })?;
        self.disk.sync(&copy)
    }
}

/// The salt of the segment's life, which each of its frames has.
fn salt_of(path: &Path, damage: &Damage) -> io::Result<u64> {
    SegmentHeader::read(path, damage.kind, damage.segment)
        .map(|header| header.salt)
        .map_err(io::Error::other)
}

/// The end of the last byte that is not zero.
fn used_to(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let (mut at, mut used) = (from, from);
    for_pieces(file, (from, to), |piece| {
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            used = at + last as u64 + 1;
        }
        at += piece.len() as u64;
        Ok(true)
    })?;
    Ok(used)
}

fn is_copy(file: &File, (from, to): (u64, u64), copy: &Path) -> io::Result<bool> {
    let mut copy = File::open(copy)?;
    if copy.metadata()?.len() != to - from {
        return Ok(false);
    }
    let mut same = true;
    for_pieces(file, (from, to), |piece| {
        let mut other = vec![0; piece.len()];
        copy.read_exact(&mut other)?;
        same = other == piece;
        Ok(same)
    })?;
    Ok(same)
}

/// Passes the bytes from `from` to `to`, or to the end of the file, to `show`, until it returns false.
fn for_pieces(
    file: &File,
    (from, to): (u64, u64),
    mut show: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = from;
    while at < to {
        let wanted = usize::try_from(to - at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let read = file.read_at(&mut piece[..wanted], at)?;
        if read == 0 || !show(&piece[..read])? {
            return Ok(());
        }
        at += read as u64;
    }
    Ok(())
}
