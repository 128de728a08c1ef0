//! Owns the plan of a mend: the damage that it found before the first change. The plan is on disk until the
//! mend is finished, so a mend that was stopped halfway continues with the original losses, not with the
//! remaining damage.
//!
//! Does not search for damage, and changes no segment.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Report;
use crate::store::embedded::disk::Disk;
use crate::store::embedded::open_mail::LedgerTotals;
use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::stored_job::StoredJob;
use crate::store::embedded::survey::Survey;
use crate::store::error::OpenError;
use crate::store::id::MailId;

/// The maximum size in bytes of a plan: the listed damages, and the jobs of which only the mail is lost.
const PLAN_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The highest number of a lost fact.
    pub(super) facts_lost_to: u64,
    /// The highest number of any lost record.
    pub(super) lost_to: u64,
    /// The highest number of any record.
    pub(super) last_seq: u64,
    /// The count of numbers at the end that no record has.
    mail_tail: u64,
    /// The mails whose record is lost.
    pub(super) mails: BTreeSet<MailId>,
    /// The jobs of which only the mail is lost.
    pub(super) jobs: Vec<StoredJob>,
    /// True if the mend has decided about trusting the index.
    pub(super) is_judged: bool,
    /// The index's totals before the mend recorded anything, if the index is trusted.
    pub(super) known_totals: Option<LedgerTotals>,
    /// The totals, which are written after all other records.
    pub(super) totals: Option<LedgerTotals>,
    /// The report, which is returned at the end.
    pub(super) report: Report,
}

impl Plan {
    /// The plan of a mend that was not finished, or an empty one.
    pub(super) fn read(path: &Path) -> Result<Self, OpenError> {
        let bytes = match fs::metadata(path) {
            Ok(meta) if meta.len() > PLAN_BYTES_MAX => {
                return Err(OpenError::io(path, io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => fs::read(path).map_err(|e| OpenError::io(path, e))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(OpenError::io(path, error)),
        };
        serde_json::from_slice(&bytes).map_err(|e| OpenError::io(path, e.into()))
    }

    /// Adds the findings of a survey.
    pub(super) fn add(&mut self, survey: &Survey) {
        self.last_seq = self.last_seq.max(survey.last_seq);
        for damage in &survey.damages {
            let lost_to = damage.lost_to();
            self.lost_to = self.lost_to.max(lost_to);
            // If the job of a fact is known, only the job's mail is lost.
            let is_told = damage.jobs.len() as u64 == damage.at_most();
            if damage.kind == SegmentKind::State && !is_told {
                self.facts_lost_to = self.facts_lost_to.max(lost_to);
            }
            match damage.kind {
                SegmentKind::Mail => self.report.mail_records += damage.at_most(),
                SegmentKind::State => self.report.fact_records += damage.at_most(),
            }
            self.mails.extend(&damage.mails);
            self.jobs.extend(damage.jobs.iter().cloned());
            self.report.damages.push(damage.to_string());
        }
        self.report.unlisted += survey.unlisted;
        if self.mail_tail == 0 {
            self.mail_tail = survey.mail_tail;
            self.report.mail_records += survey.mail_tail;
        }
        self.lost_to = self.lost_to.max(match survey.mail_tail {
            0 => 0,
            _ => survey.last_seq,
        });
    }

    /// Writes the plan to disk.
    pub(super) fn write(&self, path: &Path, disk: &Disk) -> Result<(), OpenError> {
        let Some(folder) = path.parent() else {
            return Err(OpenError::io(path, io::ErrorKind::InvalidInput.into()));
        };
        let draft = folder.join("new-mending");
        let write = || {
            let bytes = serde_json::to_vec(self)?;
            let file = disk.create(&draft, bytes.len() as u64)?;
            disk.write_at(&file, &bytes, 0)?;
            disk.sync(&file)?;
            disk.rename(&draft, path)?;
            disk.sync_folder(folder)
        };
        write().map_err(|e| OpenError::io(path, e))
    }
}
