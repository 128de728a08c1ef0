//! Owns the maintenance of the journal's size: live facts and open mails are written again, then the old
//! segments are removed.
//!
//! Does all of it on the writer thread, in small steps, so that no other fact can come between the decision
//! about a record and its relocation.
//!
//! ```text
//! compaction   passes over the state segments
//!   live_records which of their records are still needed
//! evacuation   mail segments that are nearly all settled
//! ```

mod compaction;
mod evacuation;
mod live_records;

use std::collections::BTreeSet;

use super::{JournalWriter, StateRecord};
use crate::clock::Timestamp;
use crate::mail::job_id::JobId;
use crate::store::embedded::frame::Record;
use crate::store::embedded::journal::AppendError;
use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::state::ApplyContext;
use crate::store::embedded::writer_thread::WriterStopped;

use compaction::Compaction;

/// Failed and captured jobs whose mail is deleted in one step.
const JOBS_ONCE: usize = 64;

/// The progress of the maintenance.
#[derive(Debug, Default)]
pub(in crate::store::embedded) struct Maintenance {
    compaction: Option<Compaction>,
    /// True if a state segment cannot be read: then no further pass begins.
    compaction_stuck: bool,
    /// State segments whose live records were all relocated.
    relocated: BTreeSet<u64>,
    /// Mail segments that cannot be read, and so not evacuated.
    stuck: BTreeSet<u64>,
    /// The progress of the index when there was last nothing to do.
    seen: u64,
}

/// The result of one step of maintenance.
enum WorkLeft {
    More,
    Nothing,
}

impl JournalWriter {
    /// One step of maintenance; true if there is more to do now.
    pub(super) fn run_maintenance(&mut self) -> Result<bool, WriterStopped> {
        if self.shared.must_end() {
            return Err(WriterStopped);
        }
        if self.shared.is_stalled() {
            return Ok(false);
        }
        let gone = self.drop_expired_job_mail()?;
        let flushed = self.shared.flushed();
        if flushed == self.maintenance.seen && self.maintenance.compaction.is_none() {
            return Ok(matches!(gone, WorkLeft::More));
        }
        let pieces = [gone, self.compact()?, self.evacuate_mails()?];
        self.retire(flushed)?;
        let more = pieces.iter().any(|p| matches!(p, WorkLeft::More));
        if !more {
            self.maintenance.seen = flushed;
        }
        let segments =
            [SegmentKind::Mail, SegmentKind::State].map(|k| self.journal.sealed(k).len());
        let segments = i64::try_from(segments.iter().sum::<usize>()).unwrap_or(i64::MAX);
        self.shared.metrics.segments.set(segments);
        Ok(more)
    }

    /// Deletes the mails of the oldest failed and captured jobs above the bounds on number and age.
    fn drop_expired_job_mail(&mut self) -> Result<WorkLeft, WriterStopped> {
        let jobs = self.expired_jobs();
        if jobs.is_empty() {
            return Ok(WorkLeft::Nothing);
        }
        let note = |&(job, captured)| StateRecord::JobGone { job, captured }.record();
        let records: Vec<Record> = jobs.iter().map(note).collect();
        let written = match self.journal.append(&[], &records) {
            Ok(written) => written,
            Err(AppendError::Full) => return Ok(WorkLeft::Nothing),
            Err(AppendError::Dead) => return Err(WriterStopped),
        };
        let mut state = self.shared.state_mut();
        for (nth, ((job, captured), location)) in jobs.into_iter().zip(written.facts).enumerate() {
            let stamp = ApplyContext {
                origin: written.fact_seq + nth as u64,
                counts: true,
                replayed: false,
                location,
            };
            let gone = state.drop_job_mail(job, captured, stamp);
            gone.map_err(|error| self.shared.index_failed(&error))?;
        }
        drop(state);
        self.publish();
        Ok(WorkLeft::More)
    }

    /// The failed and captured jobs that have expired, and true for each captured one.
    fn expired_jobs(&self) -> Vec<(JobId, bool)> {
        let settings = &self.shared.settings;
        let state = self.shared.state();
        let (failed, captured) = (state.outbox.failed(), state.outbox.captured());
        let too_many = failed.len().saturating_sub(settings.failed_kept);
        let too_old = |at: Timestamp| state.newest_at.since(at) >= settings.failed_age_max;
        let failed = failed.iter().enumerate();
        let failed = failed.take_while(|(nth, (at, _))| *nth < too_many || too_old(*at));
        let too_many = captured.len().saturating_sub(settings.captured_kept);
        let captured = captured.iter().take(too_many).map(|(_, job)| (*job, true));
        let failed = failed.map(|(_, (_, job))| (*job, false));
        failed.chain(captured).take(JOBS_ONCE).collect()
    }

    /// Removes the segments that are no longer needed, after the index has all their facts.
    fn retire(&mut self, flushed: u64) -> Result<(), WriterStopped> {
        let mut gone_to = 0;
        let (mails, states) = {
            let state = self.shared.state();
            let mut known = |kind, number: &u64| {
                let last = self.journal.sealed(kind).get(number).map(|s| s.last_seq);
                let known = last.is_some_and(|last| last <= flushed);
                if known {
                    gone_to = gone_to.max(last.unwrap_or_default());
                }
                known
            };
            let empty = |number: &&u64| !state.usage().contains_key(number);
            let sealed = self.journal.sealed(SegmentKind::Mail).keys();
            let mails: Vec<u64> = sealed
                .filter(empty)
                .copied()
                .filter(|n| known(SegmentKind::Mail, n))
                .collect();
            let carried = self.maintenance.relocated.iter().copied();
            let states: Vec<u64> = carried
                .take_while(|n| known(SegmentKind::State, n))
                .collect();
            (mails, states)
        };
        if mails.is_empty() && states.is_empty() {
            return Ok(());
        }
        let mut totals = self.shared.state().totals.clone();
        totals.gone_to = totals.gone_to.max(gone_to);
        let staying = self.journal.sealed(SegmentKind::State).keys();
        let staying = staying.copied().find(|number| !states.contains(number));
        let open = self.journal.open_header(SegmentKind::State);
        totals.state_from = staying
            .or_else(|| open.map(|header| header.number))
            .unwrap_or_default();
        match self
            .journal
            .append_from_reserve(StateRecord::Totals(totals.clone()).record())
        {
            Ok(_) => {}
            Err(AppendError::Full) => return Ok(()),
            Err(AppendError::Dead) => return Err(WriterStopped),
        }
        self.shared.state_mut().totals = totals;
        let retired = self
            .journal
            .retire(SegmentKind::Mail, &mails)
            .and_then(|()| self.journal.retire(SegmentKind::State, &states));
        let mut state = self.shared.state_mut();
        for number in mails {
            if !self.journal.sealed(SegmentKind::Mail).contains_key(&number) {
                state.segment_removed(number);
                self.maintenance.stuck.remove(&number);
            }
        }
        drop(state);
        let left = self.journal.sealed(SegmentKind::State);
        self.maintenance.relocated.retain(|n| left.contains_key(n));
        self.publish();
        retired.map_err(|_| WriterStopped)
    }

    /// Applies the appended records to the state.
    fn publish(&self) {
        let mut state = self.shared.state_mut();
        state.seq = self.journal.last_seq();
        self.shared.publish_state(&state);
    }
}
