//! Owns what keeps the journal small: facts that still mean something and mails not settled are
//! written again further on, then the old segments go.
//!
//! Does all of it on the writer's thread, in small pieces, so that no fact can come between the
//! question whether an old one still means something and the writing of it.
//!
//! ```text
//! compaction   rounds through the state segments
//!   living     what of them still means something
//! emptying     mail segments that are nearly all settled
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

/// Failed and captured jobs given up in one piece.
const JOBS_ONCE: usize = 64;

/// The progress of the maintenance.
#[derive(Debug, Default)]
pub(in crate::store::embedded) struct Maintenance {
    compaction: Option<Compaction>,
    /// A state segment cannot be read: no further round is begun.
    compaction_stuck: bool,
    /// State segments of which all that lives was carried on.
    relocated: BTreeSet<u64>,
    /// Mail segments that cannot be read, and so not emptied.
    stuck: BTreeSet<u64>,
    /// The index was this far when it was last seen that there is nothing to do.
    seen: u64,
}

/// The result of one piece of maintenance.
enum WorkLeft {
    More,
    Nothing,
}

impl JournalWriter {
    /// One piece of upkeep; true if there is more to do now.
    pub(super) fn run_maintenance(&mut self) -> Result<bool, WriterStopped> {
        if self.shared.must_end() {
            return Err(WriterStopped);
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

    /// Gives up the mails of the oldest failed and captured jobs, if there are too many, or they are too old.
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

    /// The failed and captured jobs that are kept no longer, and whether they were captured.
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

    /// Gives up the segments that nothing needs, once the index knows all that they said.
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

    /// Makes the appended records part of the state.
    fn publish(&self) {
        let mut state = self.shared.state_mut();
        state.seq = self.journal.last_seq();
        self.shared.publish_state(&state);
    }
}
