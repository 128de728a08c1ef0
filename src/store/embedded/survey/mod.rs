//! Owns the survey of a journal: every record of every segment is read, and each damage is listed with its
//! repair.
//!
//! Does not change anything, and has one frame in memory at a time.
//!
//! ```text
//! damage     the description of one damage
//! segment    one segment, frame by frame
//! numbers    missing records and segments, found by their numbers
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::index::IndexMeta;
use super::open_mail::LedgerTotals;
use super::segment::{SegmentHeader, SegmentKind};
use crate::store::error::OpenError;

pub(super) use damage::{Damage, Lost, Repair};

mod damage;
mod numbers;
mod segment;

/// The maximum number of listed damages; the others are counted.
const DAMAGES_MAX: usize = 1000;

/// The findings about a journal.
#[derive(Debug, Default)]
pub(super) struct Survey {
    folder: PathBuf,
    pub(super) segments: u64,
    /// The number of intact records.
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) damages: Vec<Damage>,
    /// The number of damages that are not listed.
    pub(super) unlisted: u64,
    /// Remarks that do not report damage.
    pub(super) notes: Vec<String>,
    /// The count of numbers at the end that no record has: their mail was never acknowledged, or is lost.
    pub(super) mail_tail: u64,
    /// The number of the last record that the journal itself has.
    pub(super) last_seq: u64,
    /// The totals written last.
    totals: LedgerTotals,
    mail: Coverage,
    state: Coverage,
}

/// The numbers that the segments of one kind cover.
#[derive(Debug, Default)]
struct Coverage {
    /// The number of the oldest segment, and the lowest record number that it may have.
    first: Option<(u64, u64)>,
    newest: u64,
    /// No existing record of this kind has this number or a higher one.
    to: u64,
    headers: Vec<SegmentHeader>,
    /// The missing end of the newest segment, which it needs if another segment follows it.
    open_end: Option<Damage>,
    /// The gaps of missing segments between others.
    gaps: Vec<Gap>,
}

/// Consecutive missing segments.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u64,
    last: u64,
    /// The lowest number of a record in them that the other segments do not have.
    from: u64,
    to: u64,
}

impl Survey {
    /// Reads the whole journal in `folder`. `known` is the meta entry of its index, if there is one.
    ///
    /// # Errors
    /// The folder cannot be read, or a newer version wrote it.
    pub(super) fn run(folder: &Path, known: Option<&IndexMeta>) -> Result<Self, OpenError> {
        let mut survey = Self {
            folder: folder.to_owned(),
            ..Self::default()
        };
        let found = survey.list()?;
        for kind in [SegmentKind::State, SegmentKind::Mail] {
            let of_kind = found.get(&kind).cloned().unwrap_or_default();
            survey.read_kind(kind, &of_kind)?;
        }
        survey.find_gaps(known)?;
        Ok(survey)
    }

    /// True if a start would refuse the folder, or could not notice that records are lost.
    pub(super) fn is_damaged(&self) -> bool {
        !self.damages.is_empty()
    }

    fn list(&mut self) -> Result<BTreeMap<SegmentKind, Vec<u64>>, OpenError> {
        let unread = |e| OpenError::io(&self.folder, e);
        let mut found: BTreeMap<SegmentKind, Vec<u64>> = BTreeMap::new();
        let mut notes = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match SegmentKind::parse(&name) {
                Some((kind, number)) => found.entry(kind).or_default().push(number),
                None if name == "indexed" || name.starts_with("spare-") => {}
                None if name.starts_with("new-") => {}
                None if notes.len() < DAMAGES_MAX => notes.push(format!(
                    "{}: no file of ours; it is left alone",
                    entry.path().display()
                )),
                None => {}
            }
        }
        self.notes = notes;
        for numbers in found.values_mut() {
            numbers.sort_unstable();
        }
        Ok(found)
    }

    fn path(&self, kind: SegmentKind, number: u64) -> PathBuf {
        self.folder.join(kind.file_name(number))
    }

    const fn coverage(&mut self, kind: SegmentKind) -> &mut Coverage {
        match kind {
            SegmentKind::Mail => &mut self.mail,
            SegmentKind::State => &mut self.state,
        }
    }

    fn add(&mut self, damage: Damage) {
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        } else {
            self.unlisted += 1;
        }
    }
}
