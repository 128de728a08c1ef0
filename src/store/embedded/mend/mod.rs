//! Owns the mending of a folder that does not open, or has lost records: damaged bytes are set aside, and a
//! start from the remaining journal posts and sends nothing twice.
//!
//! Does not remove intact records. A mend that was stopped at any point reaches the same state when it is run
//! again; until then the folder does not open.
//!
//! ```text
//! survey           the damaged and missing parts
//! plan             the damage that was found, on disk before the first change
//! files            damaged bytes are copied aside and overwritten
//! records          the lost facts that the index knows, and the end of unknown mail and jobs
//! index            a new one is made from the journal and replaces the old one
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::index::{Index, IndexMeta};
use super::journal::Journal;
use super::journal_writer::StateRecord;
use super::location::RecordReader;
use super::opening::{self, DataFolder, RebuildReason};
use super::segment::SegmentKind;
use super::state::{RetentionLimits, StoreState};
use super::survey::Survey;
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::error::OpenError;
use crate::store::metrics::Metrics;
use crate::store::settings::Settings;

use files::SegmentFiles;
use plan::Plan;
use records::Recovery;

mod files;
mod plan;
mod records;

/// The maximum number of named mails whose bytes are missing.
const NAMED_MAX: usize = 20;

/// The damaged and missing parts of a store's folder.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// The number of segments that were read.
    pub segments: u64,
    /// The number of intact records.
    pub records: u64,
    /// The size of the segments in bytes.
    pub bytes: u64,
    /// The damages, a sentence each; at most about a thousand.
    pub damages: Vec<String>,
    /// The number of further damages.
    pub unlisted: u64,
    /// Remarks that do not report damage.
    pub notes: Vec<String>,
}

/// The work of a mend, and the losses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The damages that were found, a sentence each.
    pub damages: Vec<String>,
    /// The number of further damages.
    pub unlisted: u64,
    /// The files with the bytes that were set aside.
    pub aside: BTreeSet<String>,
    /// The maximum number of lost mail records.
    pub mail_records: u64,
    /// The maximum number of lost fact records.
    pub fact_records: u64,
    /// The known mails that waited or were parked, and are lost.
    pub lost_mails: BTreeSet<u64>,
    /// The number of deliveries that the counts lack.
    pub lost_deliveries: u64,
    /// The number of deliveries that are settled because only the index knew their end.
    pub settled: u64,
    /// The deliveries that are parked because they may have been delivered.
    pub parked: BTreeSet<String>,
    /// The jobs that are held as failed because they may have been sent.
    pub held_jobs: BTreeSet<JobId>,
    /// The jobs whose mail is lost.
    pub lost_jobs: BTreeSet<JobId>,
    /// The number of jobs that the counts lack.
    pub uncounted_jobs: u64,
    /// The number of lost mappings of threads that the index knew.
    pub mappings: u64,
}

/// Reads every record of the journal in the folder of `settings`, which no process may have open.
///
/// # Errors
/// The folder is in use, cannot be read, or is of a newer version.
pub fn check(settings: &Settings) -> Result<CheckReport, OpenError> {
    let folder = DataFolder::enter_unmended(&settings.folder)?;
    if folder.new {
        return Ok(CheckReport::default());
    }
    let known = known_index(&folder)?;
    let meta = known.as_ref().ok().map(|(_, meta)| meta);
    let survey = Survey::run(&folder.journal(), meta)?;
    let mut report = CheckReport {
        segments: survey.segments,
        records: survey.records,
        bytes: survey.bytes,
        damages: survey.damages.iter().map(ToString::to_string).collect(),
        unlisted: survey.unlisted,
        notes: survey.notes,
    };
    if folder.mending().exists() {
        let what = "a mend was begun and is not finished".to_owned();
        report.damages.push(what);
    }
    match known {
        Ok((index, _)) => report.damages.extend(missing_mails(&folder, &index)?),
        Err(reason) => report.notes.push(format!(
            "index: {reason}; the next start makes it again from the journal"
        )),
    }
    Ok(report)
}

/// Sets aside the damaged parts of the folder of `settings`, which no process may have open, and leaves a
/// folder that opens. `None` if there was nothing to do.
///
/// # Errors
/// The folder is in use, cannot be read or written, or is of a newer version. The next call continues an
/// unfinished mend.
pub fn mend(settings: &Settings, now: Timestamp) -> Result<Option<Report>, OpenError> {
    mend_on(settings, now, &Disk::default())
}

pub(in crate::store) fn mend_on(
    settings: &Settings,
    now: Timestamp,
    disk: &Disk,
) -> Result<Option<Report>, OpenError> {
    let folder = DataFolder::enter_unmended(&settings.folder)?;
    if folder.new {
        return Ok(None);
    }
    let mend = Mend {
        settings,
        now,
        disk,
        folder,
    };
    mend.run()
}

struct Mend<'a> {
    settings: &'a Settings,
    now: Timestamp,
    disk: &'a Disk,
    folder: DataFolder,
}

impl Mend<'_> {
    fn run(&self) -> Result<Option<Report>, OpenError> {
        let plan_path = self.folder.mending();
        self.find_old_index()?;
        let mut plan = Plan::read(&plan_path)?;
        if !plan_path.exists() && !self.is_needed()? {
            return Ok(None);
        }
        self.mend_files(&mut plan)?;
        let mut journal = self.open_journal(&plan)?;
        let limits = self.limits();
        let new_index = self.folder.file("index.new");
        let (index, mut state) = opening::replayed(&new_index, &journal, limits)?;
        if plan.totals.is_none() {
            let known = self.known_state(&journal, &mut plan)?;
            let known = known.as_ref().map(|(state, seen)| (state, *seen));
            let mut recovery = Recovery {
                facts: RecordReader::new(
                    self.folder.journal(),
                    SegmentKind::State,
                    self.disk.clone(),
                ),
                journal: &mut journal,
                state: &mut state,
                known,
                now: self.now,
            };
            recovery.settle(&mut plan, |plan| plan.write(&plan_path, self.disk))?;
            recovery.keep_entries(&mut plan)?;
            let totals = recovery.totals(&mut plan);
            plan.totals = Some(totals);
            plan.write(&plan_path, self.disk)?;
        }
        if let Some(totals) = plan.totals.clone().filter(|totals| *totals != state.totals) {
            let record = StateRecord::Totals(totals.clone()).record();
            let written = journal.append(&[], &[record]);
            written.map_err(|_| records::unwritten())?;
            state.totals = totals;
        }
        state.seq = journal.last_seq();
        opening::write_whole(&self.folder, &index, &mut state)?;
        drop((state, index));
        journal.close().map_err(|_| records::unwritten())?;
        drop(journal);
        self.replace_index()?;
        self.check_start()?;
        self.finish(&plan_path)?;
        Ok(Some(plan.report))
    }

    /// True if the folder does not open as it is, or has lost records.
    fn is_needed(&self) -> Result<bool, OpenError> {
        let known = known_index(&self.folder)?;
        let meta = known.as_ref().ok().map(|(_, meta)| meta);
        let survey = Survey::run(&self.folder.journal(), meta)?;
        if survey.is_damaged() || (meta.is_none() && survey.mail_tail > 0) {
            return Ok(true);
        }
        if let Ok((index, _)) = &known
            && missing_mails(&self.folder, index)?.is_some()
        {
            return Ok(true);
        }
        drop(known);
        match self.check_start() {
            Ok(()) => Ok(false),
            Err(error) if error.is_mendable() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Repairs the damage, in as many rounds as the list of damages needs.
    fn mend_files(&self, plan: &mut Plan) -> Result<(), OpenError> {
        let plan_path = self.folder.mending();
        let files = SegmentFiles {
            journal: self.folder.journal(),
            aside: self.folder.file("set-aside").join("journal"),
            disk: self.disk,
        };
        loop {
            let meta = known_index(&self.folder)?.ok().map(|(_, meta)| meta);
            let survey = Survey::run(&files.journal, meta.as_ref())?;
            plan.add(&survey);
            plan.write(&plan_path, self.disk)?;
            for damage in &survey.damages {
                let copy = files.mend(damage)?;
                let copy = copy.map(|path| path.display().to_string());
                plan.report.aside.extend(copy);
            }
            if survey.unlisted == 0 {
                return Ok(());
            }
        }
    }

    /// Opens the journal so that no number is used again.
    fn open_journal(&self, plan: &Plan) -> Result<Journal, OpenError> {
        let path = self.folder.journal();
        let open = || {
            let metrics = Metrics::default();
            Journal::open(
                &path,
                self.settings.segment_bytes,
                self.disk.clone(),
                metrics,
            )
        };
        let journal = open()?;
        if journal.last_seq() >= plan.last_seq {
            return Ok(journal);
        }
        let newest = journal.sealed(SegmentKind::State).keys().next_back();
        let number = newest.copied().unwrap_or_default() + 1;
        drop(journal);
        let files = SegmentFiles {
            journal: path.clone(),
            aside: path.clone(),
            disk: self.disk,
        };
        let filled = files.fill(SegmentKind::State, number, plan.last_seq + 1);
        filled.map_err(|e| OpenError::io(&path, e))?;
        open()
    }

    /// The state from the index, if it can be trusted, and the number of the last record that the index has.
    fn known_state(
        &self,
        journal: &Journal,
        plan: &mut Plan,
    ) -> Result<Option<(StoreState, u64)>, OpenError> {
        if plan.is_judged && plan.known_totals.is_none() {
            return Ok(None);
        }
        let known = self.read_state(journal)?.filter(|(state, seen)| {
            // The totals of the index do not add up without facts that it has not seen, or with the facts of
            // a mend.
            plan.is_judged || opening::adds_up(state) || plan.lost_to > *seen
        });
        if !plan.is_judged {
            plan.is_judged = true;
            plan.known_totals = known.as_ref().map(|(state, _)| state.totals.clone());
        }
        Ok(known)
    }

    fn read_state(&self, journal: &Journal) -> Result<Option<(StoreState, u64)>, OpenError> {
        let Ok((index, meta)) = known_index(&self.folder)? else {
            return Ok(None);
        };
        let seen = meta.seq;
        let state = opening::caught_up(journal, index, meta, self.limits())?;
        Ok(state.ok().map(|(_, state)| (state, seen)))
    }

    /// Tries the next start.
    fn check_start(&self) -> Result<(), OpenError> {
        let journal = self.folder.journal();
        let metrics = Metrics::default();
        let bytes = self.settings.segment_bytes;
        let mut journal = Journal::open(&journal, bytes, self.disk.clone(), metrics)?;
        opening::load_checked(&self.folder, &mut journal, self.limits()).map(|_| ())
    }

    /// Moves the old index back, unless a new one is finished.
    fn find_old_index(&self) -> Result<(), OpenError> {
        let (index, old) = (self.folder.index(), self.folder.file("index.old"));
        remove_folder(&self.folder.file("index.new"))?;
        match old.exists() && !index.exists() {
            true => self.disk.rename(&old, &index),
            false => Ok(()),
        }
        .map_err(|e| OpenError::io(&old, e))?;
        remove_folder(&old)
    }

    fn replace_index(&self) -> Result<(), OpenError> {
        let (index, old) = (self.folder.index(), self.folder.file("index.old"));
        let replace = || {
            if index.exists() {
                self.disk.rename(&index, &old)?;
            }
            self.disk.rename(&self.folder.file("index.new"), &index)
        };
        replace().map_err(|e| OpenError::io(&index, e))?;
        remove_folder(&old)
    }

    fn finish(&self, plan_path: &Path) -> Result<(), OpenError> {
        let removed = self.disk.remove(plan_path);
        let synced = removed.and_then(|()| self.disk.sync_folder(&self.settings.folder));
        synced.map_err(|e| OpenError::io(plan_path, e))
    }

    const fn limits(&self) -> RetentionLimits {
        RetentionLimits {
            dedupe_window: self.settings.dedupe_window,
            sent_kept: self.settings.sent_kept,
        }
    }
}

type KnownIndex = Result<(Index, IndexMeta), RebuildReason>;

/// The index of a folder, or the reason why it has none.
fn known_index(folder: &DataFolder) -> Result<KnownIndex, OpenError> {
    let path = folder.index();
    match path.try_exists() {
        Ok(true) => Ok(opening::read_index(&path)),
        Ok(false) => Ok(Err(RebuildReason::Missing)),
        Err(error) => Err(OpenError::io(&path, error)),
    }
}

/// A sentence about the waiting or parked mails whose bytes are in no segment.
fn missing_mails(folder: &DataFolder, index: &Index) -> Result<Option<String>, OpenError> {
    let Ok(open) = index.open_mails() else {
        return Ok(None);
    };
    let mut lengths = BTreeMap::new();
    let mut missing = Vec::new();
    for (mail, held) in open {
        let segment = held.location.segment;
        let length = *lengths.entry(segment).or_insert_with(|| {
            let path = folder.journal().join(SegmentKind::Mail.file_name(segment));
            fs::metadata(path).map_or(0, |meta| meta.len())
        });
        if held.location.end() > length {
            missing.push(mail.0);
        }
    }
    if missing.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} mails wait or are parked, and no segment has their bytes: {}",
        missing.len(),
        listed(&missing)
    )))
}

fn listed(numbers: &[u64]) -> String {
    let shown: Vec<String> = numbers.iter().take(NAMED_MAX).map(u64::to_string).collect();
    match numbers.len() > NAMED_MAX {
        true => format!(
            "{} and {} more",
            shown.join(", "),
            numbers.len() - NAMED_MAX
        ),
        false => shown.join(", "),
    }
}

fn remove_folder(path: &Path) -> Result<(), OpenError> {
    match path.exists() {
        true => fs::remove_dir_all(path).map_err(|e| OpenError::io(path, e)),
        false => Ok(()),
    }
}
