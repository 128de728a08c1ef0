//! Owns the compaction of state segments: records that are still needed are written again.
//!
//! Neither decides which records are needed (`live_records` does) nor removes a segment.

use super::WorkLeft;
use super::live_records::Relocation;
use crate::store::embedded::frame::Record;
use crate::store::embedded::journal::{AppendError, Appended};
use crate::store::embedded::journal_writer::JournalWriter;
use crate::store::embedded::segment::{SegmentKind, SegmentWalk, WalkStep};
use crate::store::embedded::writer_thread::WriterStopped;

/// Rows of an old state segment that are processed in one step.
const ROWS_ONCE: usize = 256;
/// Bytes of job mails that are processed in one step, or slightly more.
const JOB_BYTES_ONCE: u64 = 8 << 20;
/// The number of state segments, beyond twice the live size at the last compaction, at which the next one
/// begins.
const STATE_SEGMENTS_SLACK: u64 = 4;

/// One pass over the state segments, oldest first.
#[derive(Debug)]
pub(super) struct Compaction {
    walk: SegmentWalk,
    number: u64,
    last: u64,
    /// Bytes that were relocated so far.
    bytes: u64,
}

impl JournalWriter {
    /// One step of the current pass, or of a new one if it is due.
    pub(super) fn compact(&mut self) -> Result<WorkLeft, WriterStopped> {
        let Some(mut compaction) = self.compaction() else {
            return Ok(WorkLeft::Nothing);
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let ended = loop {
            match compaction.walk.next(false) {
                Ok(WalkStep::Frame(frame)) => {
                    bytes += frame
                        .iter()
                        .map(|r| u64::from(r.span.body_bytes))
                        .sum::<u64>();
                    rows.extend(frame);
                }
                Ok(WalkStep::Seal(_)) => break true,
                Ok(WalkStep::End) => {
                    return Ok(self.leave_segment(&compaction, "a checksum is wrong"));
                }
                Err(error) => return Ok(self.leave_segment(&compaction, &error.to_string())),
            }
            if rows.len() >= ROWS_ONCE || bytes >= JOB_BYTES_ONCE {
                break false;
            }
        };
        let Some(living) = self.live_records(rows)? else {
            return Ok(self.leave_segment(&compaction, "a record cannot be read"));
        };
        let (records, moves): (Vec<Record>, Vec<Relocation>) =
            living.into_iter().map(|l| (l.record, l.relocation)).unzip();
        match self.journal.append(&[], &records) {
            Ok(written) => {
                compaction.bytes += records.iter().map(|r| r.bytes() as u64).sum::<u64>();
                self.relocated(&records, moves, &written)?;
            }
            // The pass starts again when there is space. Relocated duplicates do no harm.
            Err(AppendError::Full) => return Ok(WorkLeft::Nothing),
            Err(AppendError::Dead) => return Err(WriterStopped),
        }
        if !ended {
            self.maintenance.compaction = Some(compaction);
            return Ok(WorkLeft::More);
        }
        self.maintenance.relocated.insert(compaction.number);
        if compaction.number == compaction.last {
            // Records that other callers wrote meanwhile do not count, because their live share is not
            // known.
            self.shared.state_mut().totals.compact_bytes = compaction.bytes;
            return Ok(WorkLeft::Nothing);
        }
        compaction.number += 1;
        match self.journal.walk(SegmentKind::State, compaction.number) {
            Ok(walk) => {
                self.maintenance.compaction = Some(Compaction { walk, ..compaction });
                Ok(WorkLeft::More)
            }
            Err(error) => Ok(self.leave_segment(&compaction, &error.to_string())),
        }
    }

    /// Applies the new locations of the records.
    fn relocated(
        &self,
        records: &[Record],
        moves: Vec<Relocation>,
        written: &Appended,
    ) -> Result<(), WriterStopped> {
        let mut state = self.shared.state_mut();
        for (nth, moves) in moves.into_iter().enumerate() {
            let (origin, location) = (records[nth].origin, written.facts[nth]);
            let moved = match moves {
                Relocation::Nothing => Ok(()),
                Relocation::Entry(key) => state.relocate_entry(key, origin, location),
                Relocation::Job(job) => {
                    state.relocate_job(job, written.fact_seq + nth as u64, location)
                }
            };
            moved.map_err(|error| self.shared.index_failed(&error))?;
        }
        drop(state);
        self.shared.metrics.relocated(records.len());
        self.publish();
        Ok(())
    }

    /// The current pass, or a new one if it is due.
    fn compaction(&mut self) -> Option<Compaction> {
        if let Some(compaction) = self.maintenance.compaction.take() {
            return Some(compaction);
        }
        let slack = STATE_SEGMENTS_SLACK * self.shared.settings.segment_bytes;
        let lived = self.shared.state().totals.compact_bytes;
        let sealed = self.journal.sealed(SegmentKind::State);
        let carried = self
            .maintenance
            .relocated
            .iter()
            .filter_map(|n| sealed.get(n));
        let going: u64 = carried.map(|s| s.bytes).sum();
        let staying = self.journal.bytes(SegmentKind::State).saturating_sub(going);
        if self.maintenance.compaction_stuck || staying <= 2 * lived + slack {
            return None;
        }
        let waits = |number: &&u64| !self.maintenance.relocated.contains(number);
        let number = *sealed.keys().find(waits)?;
        let last = *sealed.keys().next_back()?;
        match self.journal.walk(SegmentKind::State, number) {
            Ok(walk) => Some(Compaction {
                walk,
                number,
                last,
                bytes: 0,
            }),
            Err(error) => {
                tracing::error!(number, %error, "journal: an old state segment cannot be read");
                None
            }
        }
    }

    /// An unreadable segment is kept, with all after it: only space is lost.
    fn leave_segment(&mut self, compaction: &Compaction, why: &str) -> WorkLeft {
        self.maintenance.compaction_stuck = true;
        let (path, offset) = (compaction.walk.path.display(), compaction.walk.at());
        tracing::error!(%path, offset, why, "journal: an old segment cannot be compacted");
        WorkLeft::Nothing
    }
}
