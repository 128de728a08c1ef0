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
mod emptying;
mod living;

use std::collections::BTreeSet;

use super::clerk::{Clerk, Note};
use super::frame::Record;
use super::journal::AppendError;
use super::segment::Kind;
use super::state::Stamp;
use super::writer::Dead;
use crate::clock::Timestamp;
use crate::mail::outgoing::JobId;

use compaction::Compaction;

/// Failed and captured jobs given up in one piece.
const JOBS_ONCE: usize = 64;

/// How far upkeep is.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    compaction: Option<Compaction>,
    /// A state segment cannot be read: no further round is begun.
    compaction_stuck: bool,
    /// State segments of which all that lives was carried on.
    carried: BTreeSet<u64>,
    /// Mail segments that cannot be read, and so not emptied.
    stuck: BTreeSet<u64>,
    /// The index was this far when it was last seen that there is nothing to do.
    seen: u64,
}

/// What the upkeep met, besides having done its piece.
enum Piece {
    More,
    Nothing,
}

impl Clerk {
    /// One piece of upkeep; true if there is more to do now.
    pub(super) fn tidy(&mut self) -> Result<bool, Dead> {
        if self.shared.is_over() {
            return Err(Dead);
        }
        let gone = self.let_jobs_go()?;
        let flushed = self.shared.flushed();
        if flushed == self.upkeep.seen && self.upkeep.compaction.is_none() {
            return Ok(matches!(gone, Piece::More));
        }
        let pieces = [gone, self.compact()?, self.empty_mails()?];
        self.retire(flushed)?;
        let more = pieces.iter().any(|p| matches!(p, Piece::More));
        if !more {
            self.upkeep.seen = flushed;
        }
        let segments = [Kind::Mail, Kind::State].map(|k| self.journal.sealed(k).len());
        let segments = i64::try_from(segments.iter().sum::<usize>()).unwrap_or(i64::MAX);
        self.shared.metrics.segments.set(segments);
        Ok(more)
    }

    /// Gives up the mails of the oldest failed and captured jobs, if there are too many, or they are too old.
    fn let_jobs_go(&mut self) -> Result<Piece, Dead> {
        let jobs = self.jobs_to_go();
        if jobs.is_empty() {
            return Ok(Piece::Nothing);
        }
        let note = |&(job, captured)| Note::JobGone { job, captured }.record();
        let records: Vec<Record> = jobs.iter().map(note).collect();
        let written = match self.journal.append(&[], &records) {
            Ok(written) => written,
            Err(AppendError::Full) => return Ok(Piece::Nothing),
            Err(AppendError::Dead) => return Err(Dead),
        };
        let mut state = self.shared.state_mut();
        for (nth, ((job, captured), place)) in jobs.into_iter().zip(written.facts).enumerate() {
            let stamp = Stamp {
                origin: written.fact_seq + nth as u64,
                counts: true,
                replayed: false,
                place,
            };
            let gone = state.let_job_go(job, captured, stamp);
            gone.map_err(|error| self.shared.index_failed(&error))?;
        }
        drop(state);
        self.applied();
        Ok(Piece::More)
    }

    /// The failed and captured jobs that are kept no longer, and whether they were captured.
    fn jobs_to_go(&self) -> Vec<(JobId, bool)> {
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
    fn retire(&mut self, flushed: u64) -> Result<(), Dead> {
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
            let empty = |number: &&u64| !state.live().contains_key(number);
            let sealed = self.journal.sealed(Kind::Mail).keys();
            let mails: Vec<u64> = sealed
                .filter(empty)
                .copied()
                .filter(|n| known(Kind::Mail, n))
                .collect();
            let carried = self.upkeep.carried.iter().copied();
            let states: Vec<u64> = carried.take_while(|n| known(Kind::State, n)).collect();
            (mails, states)
        };
        if mails.is_empty() && states.is_empty() {
            return Ok(());
        }
        let mut totals = self.shared.state().totals.clone();
        totals.gone_to = totals.gone_to.max(gone_to);
        match self
            .journal
            .append_to_make_room(Note::Totals(totals.clone()).record())
        {
            Ok(_) => {}
            Err(AppendError::Full) => return Ok(()),
            Err(AppendError::Dead) => return Err(Dead),
        }
        self.shared.state_mut().totals = totals;
        let retired = self
            .journal
            .retire(Kind::Mail, &mails)
            .and_then(|()| self.journal.retire(Kind::State, &states));
        let mut state = self.shared.state_mut();
        for number in mails {
            if !self.journal.sealed(Kind::Mail).contains_key(&number) {
                state.segment_gone(number);
                self.upkeep.stuck.remove(&number);
            }
        }
        drop(state);
        let left = self.journal.sealed(Kind::State);
        self.upkeep.carried.retain(|n| left.contains_key(n));
        self.applied();
        retired.map_err(|_| Dead)
    }

    /// What was appended is part of the state.
    fn applied(&self) {
        let mut state = self.shared.state_mut();
        state.seq = self.journal.last_seq();
        self.shared.changed(&state);
    }
}
