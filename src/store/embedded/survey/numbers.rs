//! Owns finding missing records and segments by their numbers.
//!
//! Does not check records. Records of both kinds share one sequence. A number without a record is not a loss
//! by itself, because a batch that found no room skips its numbers. It is a loss if no segment covers it.

use std::io;

use super::{Coverage, Damage, Lost, Repair, Survey};
use crate::store::embedded::index::IndexMeta;
use crate::store::embedded::segment::{SegmentKind, SegmentWalk, WalkStep};
use crate::store::error::OpenError;

impl Survey {
    /// Adds the segments and records that are missing.
    pub(super) fn find_gaps(&mut self, known: Option<&IndexMeta>) -> Result<(), OpenError> {
        let known_totals = known.map(|meta| &meta.totals);
        let gone_to = known_totals.map_or(0, |t| t.gone_to);
        let gone_to = gone_to.max(self.totals.gone_to);
        let state_from = known_totals.map_or(0, |t| t.state_from);
        let state_from = state_from.max(self.totals.state_from);
        let last = known.map_or(0, |meta| meta.seq).max(self.last_seq);
        self.bound_losses(last);
        let mut missing = self.missing_state(gone_to, state_from, last, known);
        missing.extend(self.missing_mail(gone_to));
        for damage in missing {
            self.add(damage);
        }
        for nth in 0..self.damages.len() {
            self.subtract_others(nth)?;
        }
        // A start refuses a gap between state segments even if it contained no record.
        self.damages
            .retain(|d| d.at_most() > 0 || d.is_certain || d.lost == Lost::Nothing);
        self.end_before_another();
        self.note_mail_tail(last)?;
        self.last_seq = last;
        Ok(())
    }

    /// Adds the end of the newest state segment, if another one is to be created after it.
    fn end_before_another(&mut self) {
        let newest = self.state.newest;
        let behind = |damage: &Damage| {
            matches!(damage.repair, Repair::Fill { .. }) && damage.segment > newest
        };
        if let Some(nth) = self.damages.iter().position(behind)
            && let Some(end) = self.state.open_end.take()
        {
            self.damages.insert(nth, end);
        }
    }

    /// Sets the end of the losses of which only the beginning was known.
    fn bound_losses(&mut self, last: u64) {
        for damage in &mut self.damages {
            if let Lost::Numbers(from, to, 0) = damage.lost
                && matches!(damage.repair, Repair::Seal { .. } | Repair::Replace { .. })
            {
                let coverage = match damage.kind {
                    SegmentKind::Mail => &self.mail,
                    SegmentKind::State => &self.state,
                };
                let next = coverage
                    .headers
                    .iter()
                    .find(|header| header.number > damage.segment)
                    .map_or(last + 1, |header| header.first_seq);
                let to = next.saturating_sub(1).max(to);
                damage.lost = Lost::Numbers(from, to, to + 1 - from);
                if let Repair::Seal { next_seq, .. }
                | Repair::Replace {
                    first_seq: next_seq,
                } = &mut damage.repair
                {
                    *next_seq = next.max(from);
                }
            }
        }
    }

    fn missing_state(
        &self,
        gone_to: u64,
        state_from: u64,
        last: u64,
        known: Option<&IndexMeta>,
    ) -> Vec<Damage> {
        let kind = SegmentKind::State;
        let mut missing = Vec::new();
        let (number, first_seq) = self.state.first.unwrap_or((1, gone_to + 1));
        let oldest = state_from.max(1);
        // Older versions removed segments without their number in the totals, so such a gap is no loss.
        if number > oldest && (state_from > 0 || gone_to == 0) {
            missing.push(gap(
                kind,
                (oldest, number - 1),
                (gone_to + 1, first_seq.saturating_sub(1)),
                true,
            ));
        }
        for found in &self.state.gaps {
            missing.push(gap(
                kind,
                (found.first, found.last),
                (found.from, found.to),
                true,
            ));
        }
        let newest = self.state.newest;
        let known_newest = known.map_or(0, |meta| meta.state_segment);
        let from = self.state.to.max(gone_to + 1);
        let is_certain = known_newest > newest || self.state.first.is_none();
        if from <= last || is_certain {
            missing.push(gap(
                kind,
                (newest + 1, known_newest.max(newest + 1)),
                (from, last.max(from - 1)),
                is_certain,
            ));
        }
        missing
    }

    fn missing_mail(&self, gone_to: u64) -> Vec<Damage> {
        let kind = SegmentKind::Mail;
        let mut missing = Vec::new();
        if let Some((number, first_seq)) = self.mail.first
            && number > 1
        {
            missing.push(gap(
                kind,
                (number - 1, number - 1),
                (gone_to + 1, first_seq.saturating_sub(1)),
                false,
            ));
        }
        for found in &self.mail.gaps {
            let from = found.from.max(gone_to + 1);
            missing.push(gap(
                kind,
                (found.first, found.last),
                (from, found.to),
                false,
            ));
        }
        missing.retain(|damage| damage.at_most() > 0);
        missing
    }

    /// Removes the numbers that records of the other kind have, because they are not lost.
    fn subtract_others(&mut self, nth: usize) -> Result<(), OpenError> {
        let damage = &self.damages[nth];
        let Lost::Numbers(from, to, count) = damage.lost else {
            return Ok(());
        };
        let others = match damage.kind {
            SegmentKind::Mail => SegmentKind::State,
            SegmentKind::State => SegmentKind::Mail,
        };
        let taken = self.count(others, from, to)?;
        self.damages[nth].lost = Lost::Numbers(from, to, count.saturating_sub(taken));
        Ok(())
    }

    /// Notes the numbers at the end without a record. An unfinished write leaves them, and so does a mail
    /// that is lost with all later ones: the journal alone cannot distinguish these.
    fn note_mail_tail(&mut self, last: u64) -> Result<(), OpenError> {
        let from = self.mail.to.max(self.totals.gone_to + 1);
        if from > last {
            return Ok(());
        }
        let taken = self.count(SegmentKind::State, from, last)?;
        let count = (last + 1 - from).saturating_sub(taken);
        let lost = self.damages.iter().filter(|d| d.kind == SegmentKind::State);
        let lost: u64 = lost.map(Damage::at_most).sum();
        self.mail_tail = count.saturating_sub(lost);
        if self.mail_tail > 0 {
            self.notes.push(format!(
                "{count} numbers from {from} to {last} belong to no record: mail that was never acknowledged, or mail segments that are missing"
            ));
        }
        Ok(())
    }

    /// The number of records of a kind with numbers from `from` to `to`.
    fn count(&self, kind: SegmentKind, from: u64, to: u64) -> Result<u64, OpenError> {
        let coverage: &Coverage = match kind {
            SegmentKind::Mail => &self.mail,
            SegmentKind::State => &self.state,
        };
        let mut count = 0;
        for (nth, header) in coverage.headers.iter().enumerate() {
            let next = coverage.headers.get(nth + 1);
            if header.first_seq > to || next.is_some_and(|next| next.first_seq <= from) {
                continue;
            }
            let path = self.path(kind, header.number);
            let walk = SegmentWalk::begin(*header, &path);
            let counted = walk.and_then(|walk| count_in(walk, from, to));
            count += counted.map_err(|e| OpenError::io(&path, e))?;
        }
        Ok(count)
    }
}

fn count_in(mut walk: SegmentWalk, from: u64, to: u64) -> io::Result<u64> {
    let mut count = 0;
    loop {
        match walk.next(false)? {
            WalkStep::Frame(rows) => {
                let inside = rows.iter().filter(|row| (from..=to).contains(&row.seq));
                count += inside.count() as u64;
            }
            WalkStep::Seal(_) => return Ok(count),
            WalkStep::End => match walk.later_frame()? {
                Some((at, stamp)) => walk.skip_to(at, stamp.batch),
                None => return Ok(count),
            },
        }
    }
}

fn gap(kind: SegmentKind, segments: (u64, u64), numbers: (u64, u64), is_certain: bool) -> Damage {
    let (from, to) = numbers;
    let count = (to + 1).saturating_sub(from);
    Damage {
        kind,
        segment: segments.0,
        from: 0,
        to: 0,
        front_at: 0,
        why: "missing",
        lost: Lost::Numbers(from, to, count),
        repair: match kind {
            SegmentKind::State => Repair::Fill {
                to: segments.1,
                first_seq: (to + 1).max(from),
            },
            SegmentKind::Mail => Repair::Nothing,
        },
        is_certain,
        about: Vec::new(),
        mails: Vec::new(),
        jobs: Vec::new(),
    }
}
