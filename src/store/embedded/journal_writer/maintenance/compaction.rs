//! Owns the rounds through the state segments: what still means something is written again further on.
//!
//! Does not know what still means something, which is `living`, nor removes a segment.

use super::WorkLeft;
use super::live_records::Relocation;
use crate::store::embedded::frame::Record;
use crate::store::embedded::journal::{AppendError, Appended};
use crate::store::embedded::journal_writer::JournalWriter;
use crate::store::embedded::segment::{SegmentKind, SegmentWalk, WalkStep};
use crate::store::embedded::writer_thread::WriterStopped;

/// Rows of an old state segment looked at in one piece.
const ROWS_ONCE: usize = 256;
/// Bytes of mails of jobs passed in one piece, or a little more.
const JOB_BYTES_ONCE: u64 = 8 << 20;
/// State segments beyond twice what lived at the last compaction before the next one begins.
const STATE_SEGMENTS_SLACK: u64 = 4;

/// One round through the state segments, oldest first.
#[derive(Debug)]
pub(super) struct Compaction {
    walk: SegmentWalk,
    number: u64,
    last: u64,
    /// Bytes of what was carried so far.
    bytes: u64,
}

impl JournalWriter {
    /// One piece of the round that is under way, or of a new one if it is time.
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
                Ok(WalkStep::Seal) => break true,
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
            // Begun again when there is room. What was carried twice means nothing new.
            Err(AppendError::Full) => return Ok(WorkLeft::Nothing),
            Err(AppendError::Dead) => return Err(WriterStopped),
        }
        if !ended {
            self.maintenance.compaction = Some(compaction);
            return Ok(WorkLeft::More);
        }
        self.maintenance.relocated.insert(compaction.number);
        if compaction.number == compaction.last {
            // Not what others wrote meanwhile: how much of that lives nobody knows.
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

    /// Records stand further on now.
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

    /// The round that is under way, or a new one if it is time.
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

    /// A segment that cannot be read is kept, and so are all after it: nothing is lost but room.
    fn leave_segment(&mut self, compaction: &Compaction, why: &str) -> WorkLeft {
        self.maintenance.compaction_stuck = true;
        let (path, offset) = (compaction.walk.path.display(), compaction.walk.at());
        tracing::error!(%path, offset, why, "journal: an old segment cannot be compacted");
        WorkLeft::Nothing
    }
}
