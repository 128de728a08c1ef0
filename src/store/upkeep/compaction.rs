//! Owns the rounds through the state segments: what still means something is written again further on.
//!
//! Does not know what still means something, which is `living`, nor removes a segment.

use super::Piece;
use super::living::Moves;
use crate::store::clerk::Clerk;
use crate::store::frame::Record;
use crate::store::journal::{AppendError, Written};
use crate::store::segment::{Kind, Step, Walk};
use crate::store::writer::Dead;

/// Rows of an old state segment looked at in one piece.
const ROWS_ONCE: usize = 256;
/// Bytes of mails of jobs passed in one piece, or a little more.
const JOB_BYTES_ONCE: u64 = 8 << 20;
/// State segments beyond twice what lived at the last compaction before the next one begins.
const STATE_SEGMENTS_SLACK: u64 = 4;

/// One round through the state segments, oldest first.
#[derive(Debug)]
pub(super) struct Compaction {
    walk: Walk,
    number: u64,
    last: u64,
    /// Bytes of what was carried so far.
    bytes: u64,
}

impl Clerk {
    /// One piece of the round that is under way, or of a new one if it is time.
    pub(super) fn compact(&mut self) -> Result<Piece, Dead> {
        let Some(mut compaction) = self.compaction() else {
            return Ok(Piece::Nothing);
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let ended = loop {
            match compaction.walk.next(false) {
                Ok(Step::Frame(frame)) => {
                    bytes += frame
                        .iter()
                        .map(|r| u64::from(r.span.body_bytes))
                        .sum::<u64>();
                    rows.extend(frame);
                }
                Ok(Step::Seal) => break true,
                Ok(Step::End) => {
                    return Ok(self.leave_segment(&compaction, "a checksum is wrong"));
                }
                Err(error) => return Ok(self.leave_segment(&compaction, &error.to_string())),
            }
            if rows.len() >= ROWS_ONCE || bytes >= JOB_BYTES_ONCE {
                break false;
            }
        };
        let Some(living) = self.living(rows)? else {
            return Ok(self.leave_segment(&compaction, "a record cannot be read"));
        };
        let (records, moves): (Vec<Record>, Vec<Moves>) =
            living.into_iter().map(|l| (l.record, l.moves)).unzip();
        match self.journal.append(&[], &records) {
            Ok(written) => {
                compaction.bytes += records.iter().map(|r| r.bytes() as u64).sum::<u64>();
                self.carried(&records, moves, &written)?;
            }
            // Begun again when there is room. What was carried twice means nothing new.
            Err(AppendError::Full) => return Ok(Piece::Nothing),
            Err(AppendError::Dead) => return Err(Dead),
        }
        if !ended {
            self.upkeep.compaction = Some(compaction);
            return Ok(Piece::More);
        }
        self.upkeep.carried.insert(compaction.number);
        if compaction.number == compaction.last {
            // Not what others wrote meanwhile: how much of that lives nobody knows.
            self.shared.state_mut().totals.compact_bytes = compaction.bytes;
            return Ok(Piece::Nothing);
        }
        compaction.number += 1;
        match self.journal.walk(Kind::State, compaction.number) {
            Ok(walk) => {
                self.upkeep.compaction = Some(Compaction { walk, ..compaction });
                Ok(Piece::More)
            }
            Err(error) => Ok(self.leave_segment(&compaction, &error.to_string())),
        }
    }

    /// Records stand further on now.
    fn carried(
        &self,
        records: &[Record],
        moves: Vec<Moves>,
        written: &Written,
    ) -> Result<(), Dead> {
        let mut state = self.shared.state_mut();
        for (nth, moves) in moves.into_iter().enumerate() {
            let (origin, place) = (records[nth].origin, written.facts[nth]);
            let moved = match moves {
                Moves::Nothing => Ok(()),
                Moves::Entry(key) => state.place_moved(key, origin, place),
                Moves::Job(job) => state.job_moved(job, written.fact_seq + nth as u64, place),
            };
            moved.map_err(|error| self.shared.index_failed(&error))?;
        }
        drop(state);
        self.shared.metrics.carried(records.len());
        self.applied();
        Ok(())
    }

    /// The round that is under way, or a new one if it is time.
    fn compaction(&mut self) -> Option<Compaction> {
        if let Some(compaction) = self.upkeep.compaction.take() {
            return Some(compaction);
        }
        let slack = STATE_SEGMENTS_SLACK * self.shared.settings.segment_bytes;
        let lived = self.shared.state().totals.compact_bytes;
        let sealed = self.journal.sealed(Kind::State);
        let carried = self.upkeep.carried.iter().filter_map(|n| sealed.get(n));
        let going: u64 = carried.map(|s| s.bytes).sum();
        let staying = self.journal.bytes(Kind::State).saturating_sub(going);
        if self.upkeep.compaction_stuck || staying <= 2 * lived + slack {
            return None;
        }
        let waits = |number: &&u64| !self.upkeep.carried.contains(number);
        let number = *sealed.keys().find(waits)?;
        let last = *sealed.keys().next_back()?;
        match self.journal.walk(Kind::State, number) {
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
    fn leave_segment(&mut self, compaction: &Compaction, why: &str) -> Piece {
        self.upkeep.compaction_stuck = true;
        let (path, offset) = (compaction.walk.path.display(), compaction.walk.at());
        tracing::error!(%path, offset, why, "journal: an old segment cannot be compacted");
        Piece::Nothing
    }
}
