//! Owns the description of one damage.
//!
//! Does not find it.

use std::fmt;

use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::stored_job::StoredJob;
use crate::store::id::MailId;

/// A part of a journal that differs from the written one, or is missing.
#[derive(Clone, Debug)]
pub(in crate::store::embedded) struct Damage {
    pub(in crate::store::embedded) kind: SegmentKind,
    pub(in crate::store::embedded) segment: u64,
    /// The range of bytes in the file, with `to`; both are 0 if there is no file.
    pub(in crate::store::embedded) from: u64,
    pub(in crate::store::embedded) to: u64,
    /// Offset of the front that [`Repair::Front`] replaces.
    pub(in crate::store::embedded) front_at: u64,
    pub(in crate::store::embedded) why: &'static str,
    pub(in crate::store::embedded) lost: Lost,
    pub(in crate::store::embedded) repair: Repair,
    /// True if a start refuses the folder even without a lost record.
    pub(in crate::store::embedded) is_certain: bool,
    /// The affected mails, jobs and threads that could be identified.
    pub(in crate::store::embedded) about: Vec<String>,
    /// The mails whose record is lost.
    pub(in crate::store::embedded) mails: Vec<MailId>,
    /// The jobs of which only the mail is lost.
    pub(in crate::store::embedded) jobs: Vec<StoredJob>,
}

/// The records that are lost by a damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::embedded) enum Lost {
    Nothing,
    /// The records with these numbers.
    Records(Vec<u64>),
    /// Some or all of the numbers from the first to the second; the third is their maximum count.
    Numbers(u64, u64, u64),
}

/// The repair after which the journal opens.
#[derive(Clone, Debug)]
pub(in crate::store::embedded) enum Repair {
    /// A frame's front is written anew.
    Front(Vec<u8>),
    /// This many frames without records are written, the first with this turn.
    Void { batch: u64, frames: u64 },
    /// The segment is ended where its frames end.
    Seal { batch: u64, next_seq: u64 },
    /// The segment's header is written anew.
    Header(Vec<u8>),
    /// The file is moved away, and an empty segment takes its place.
    Replace { first_seq: u64 },
    /// The segment stays as it is.
    Nothing,
    /// Empty segments are created, from the number of the damaged one to this number.
    Fill { to: u64, first_seq: u64 },
}

impl Damage {
    /// The highest number that is lost; 0 if there is none.
    pub(in crate::store::embedded) fn lost_to(&self) -> u64 {
        match &self.lost {
            Lost::Nothing => 0,
            Lost::Records(numbers) => numbers.iter().copied().max().unwrap_or_default(),
            Lost::Numbers(_, to, _) => *to,
        }
    }

    /// The maximum number of lost records.
    pub(in crate::store::embedded) fn at_most(&self) -> u64 {
        match &self.lost {
            Lost::Nothing => 0,
            Lost::Records(numbers) => numbers.len() as u64,
            Lost::Numbers(_, _, count) => *count,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind.file_name(self.segment);
        match &self.repair {
            Repair::Fill { to, .. } if *to > self.segment => {
                write!(f, "{name} to {}: {}", self.kind.file_name(*to), self.why)?;
            }
            Repair::Fill { .. } | Repair::Nothing => write!(f, "{name}: {}", self.why)?,
            _ => write!(
                f,
                "{name}: bytes {} to {}: {}",
                self.from, self.to, self.why
            )?,
        }
        let noun = match self.kind {
            SegmentKind::Mail => "mail",
            SegmentKind::State => "fact",
        };
        match &self.lost {
            Lost::Nothing => write!(f, "; nothing is lost")?,
            Lost::Records(numbers) => {
                const LISTED: usize = 20;
                let listed: Vec<String> = numbers.iter().take(LISTED).map(u64::to_string).collect();
                write!(f, "; {noun} record {}", listed.join(", "))?;
                if numbers.len() > LISTED {
                    write!(f, " and {} more", numbers.len() - LISTED)?;
                }
            }
            Lost::Numbers(from, to, count) => write!(
                f,
                "; at most {count} {noun} records, numbered {from} to {to}"
            )?,
        }
        if !self.about.is_empty() {
            write!(f, " ({})", self.about.join("; "))?;
        }
        Ok(())
    }
}
