//! Owns what keeps the journal small: facts that still mean something and mails not settled are
//! written again further on, then the old segments go.
//!
//! Does all of it on the writer's thread, in small pieces, so that no fact can come between the
//! question whether an old one still means something and the writing of it.

use std::collections::{BTreeMap, BTreeSet};

use super::clerk::{Clerk, Note};
use super::event::EventId;
use super::fact::{Fact, MailId, Mapping, Outcome};
use super::frame::{Record, Row};
use super::held::Live;
use super::index::{IndexError, Key};
use super::journal::{AppendError, Written};
use super::place::Place;
use super::segment::{Kind, Step, Walk};
use super::state::{Stamp, State};
use super::writer::Dead;
use crate::clock::Timestamp;
use crate::mail::outgoing::JobId;
use crate::mail::token::ThreadKey;

/// Rows of an old state segment looked at in one piece.
const ROWS_ONCE: usize = 256;
/// Mails carried forward in one piece, and about as many bytes.
const MAILS_ONCE: usize = 64;
const MAIL_BYTES_ONCE: u64 = 2 << 20;
/// Bytes of mails of jobs passed in one piece, or a little more.
const JOB_BYTES_ONCE: u64 = 8 << 20;
/// Failed and captured jobs given up in one piece.
const JOBS_ONCE: usize = 64;
/// State segments beyond twice what lived at the last compaction before the next one begins.
const STATE_SEGMENTS_SLACK: u64 = 4;
/// A mail segment is emptied when less than one part in this many of it is not settled,
const LIVE_PART: u64 = 4;
/// and this many have been begun since.
const MAIL_SEGMENTS_YOUNG: u64 = 4;

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

/// One round through the state segments, oldest first.
#[derive(Debug)]
struct Compaction {
    walk: Walk,
    number: u64,
    last: u64,
    /// Bytes of what was carried so far.
    bytes: u64,
}

/// What the upkeep met, besides having done its piece.
enum Piece {
    More,
    Nothing,
}

/// A record that still means something, to be written again.
struct Living {
    record: Record,
    moves: Moves,
}

/// What is found by where a record stands.
enum Moves {
    Nothing,
    /// A mapping, words or an event.
    Entry(Key),
    /// All that is known of this job.
    Job(JobId),
}

impl Moves {
    fn of(fact: Fact, origin: u64) -> Self {
        match fact {
            Fact::Mapped(mapping) => Self::Entry(mapping_key(&mapping)),
            Fact::Spoken { talk, said } => Self::Entry(Key::said(&talk, said.by_us)),
            Fact::Happened(_) => Self::Entry(Key::event(EventId(origin))),
            _ => Self::Nothing,
        }
    }
}

fn mapping_key(mapping: &Mapping) -> Key {
    Key::thread(&mapping.route, ThreadKey::of(&mapping.thread_id))
}

/// A mail that must be carried on cannot be read.
struct Unreadable;

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

    fn compact(&mut self) -> Result<Piece, Dead> {
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

    /// The rows that still mean something. `None`: one cannot be read.
    fn living(&self, rows: Vec<Row>) -> Result<Option<Vec<Living>>, Dead> {
        let mut records = Vec::new();
        let mut jobs: BTreeMap<JobId, u64> = BTreeMap::new();
        let mut expired = Vec::new();
        let state = self.shared.state();
        for row in rows {
            let Ok(note) = serde_json::from_slice(&row.head) else {
                return Ok(None);
            };
            let about = match &note {
                // Newer totals are written before a segment goes.
                Note::Totals(_) => continue,
                Note::Fact(fact) => fact.job(),
                Note::Job(kept) => Some(kept.record.job.id),
                Note::JobGone { job, .. } => Some(*job),
            };
            if let Some(job) = about {
                jobs.insert(job, row.origin);
                continue;
            }
            let Note::Fact(fact) = note else {
                continue;
            };
            let lives = self.lives(&state, &fact, row.origin, &mut expired);
            if lives.map_err(|error| self.shared.index_failed(&error))? {
                let record = Record::carried(row.origin, row.head, bytes::Bytes::new());
                let moves = Moves::of(fact, row.origin);
                records.push(Living { record, moves });
            }
        }
        drop(state);
        if !expired.is_empty() {
            let mut state = self.shared.state_mut();
            for key in expired {
                state.forget(key);
            }
        }
        for (job, newest) in jobs {
            match self.living_job(job, newest)? {
                Ok(living) => records.extend(living),
                Err(Unreadable) => return Ok(None),
            }
        }
        Ok(Some(records))
    }

    /// A job of which the record `newest` tells something: all that is known of it, unless that stands
    /// further on already. One that nobody is told of any more is forgotten.
    fn living_job(
        &self,
        id: JobId,
        newest: u64,
    ) -> Result<Result<Option<Living>, Unreadable>, Dead> {
        let mut state = self.shared.state_mut();
        let filed = state.filed(id);
        let filed = filed.map_err(|error| self.shared.index_failed(&error))?;
        let Some(filed) = filed.filter(|filed| filed.base <= newest) else {
            return Ok(Ok(None));
        };
        if !state.remembers(&filed.kept) {
            let forgotten = state.forget_job(id);
            forgotten.map_err(|error| self.shared.index_failed(&error))?;
            return Ok(Ok(None));
        }
        drop(state);
        let mail = match filed.kept.settled {
            Some(_) => bytes::Bytes::new(),
            None => match self.shared.facts.body(filed.place) {
                Ok(mail) => mail,
                Err(error) => {
                    tracing::error!(job = %id, %error, "journal: the mail of a job cannot be read; its segment is kept");
                    return Ok(Err(Unreadable));
                }
            },
        };
        let record = Record::new(Note::Job(Box::new(filed.kept)).json(), mail);
        let moves = Moves::Job(id);
        Ok(Ok(Some(Living { record, moves })))
    }

    fn lives(
        &self,
        state: &State,
        fact: &Fact,
        origin: u64,
        expired: &mut Vec<Key>,
    ) -> Result<bool, IndexError> {
        let stands = |key| Ok(state.entry(key)?.is_some_and(|(seq, _)| seq == origin));
        let mut lasts = |key, until| {
            let (stands, over) = (stands(key)?, until <= state.newest_at);
            if stands && over {
                expired.push(key);
            }
            Ok(stands && !over)
        };
        match fact {
            Fact::Mapped(mapping) => {
                let by_subject = State::subject_key(mapping);
                Ok(stands(mapping_key(mapping))? || by_subject.map_or(Ok(false), stands)?)
            }
            Fact::Linked {
                route,
                message_id,
                sent_by_us,
                ..
            } => stands(Key::message_id(route, message_id, *sent_by_us)),
            Fact::Minted { token, .. } => stands(Key::minted(*token)),
            Fact::Polled { mailbox, .. } => stands(Key::polled(mailbox)),
            Fact::Revoked { token, .. } => stands(Key::revoked(*token)),
            Fact::Spent { word, until, .. } => lasts(Key::spent(*word), *until),
            Fact::Suppressed(suppression) => {
                lasts(Key::suppressed(&suppression.address), suppression.until)
            }
            Fact::Spoken { talk, said } => stands(Key::said(talk, said.by_us)),
            Fact::Happened(_) => Ok(state.outbox.event(EventId(origin)).is_some()),
            Fact::Heard { subscriber, .. } => stands(Key::heard(subscriber)),
            // What it took away is nowhere any more, and jobs are told as a whole.
            Fact::Unsuppressed { .. }
            | Fact::Enqueued(_)
            | Fact::Begun { .. }
            | Fact::Deferred { .. }
            | Fact::Ended { .. }
            | Fact::Retried { .. }
            | Fact::CameBack { .. } => Ok(false),
            Fact::Advanced { delivery, step } => Ok(state
                .open(*delivery)
                .is_some_and(|o| o.steps.contains(step))),
            // The fact that parked it may live on for its fingerprint's sake.
            Fact::Released { delivery, .. } => Ok(state.status_seq(*delivery) == Some(origin)),
            Fact::Settled {
                delivery,
                outcome,
                fingerprint,
                at,
            } => {
                if let Some(fingerprint) = fingerprint {
                    let key = Key::fingerprint(fingerprint.0);
                    let fresh = at.plus(self.shared.settings.dedupe_window) > state.newest_at;
                    if stands(key)? {
                        if fresh {
                            return Ok(true);
                        }
                        expired.push(key);
                    }
                }
                Ok(match outcome {
                    Outcome::Parked { .. } => state.status_seq(*delivery) == Some(origin),
                    // As long as the mail can be found in a segment, its end must be too.
                    Outcome::Delivered { .. } | Outcome::Dropped { .. } => {
                        self.is_on_disk(state, delivery.mail)
                    }
                })
            }
        }
    }

    fn is_on_disk(&self, state: &State, mail: MailId) -> bool {
        let sealed = self.journal.sealed(Kind::Mail);
        let open = self.journal.open_header(Kind::Mail);
        open.is_some_and(|h| h.first_seq <= mail.0)
            || state.held(mail).is_some()
            || state.is_ghost(mail)
            || sealed
                .values()
                .any(|s| s.header.first_seq <= mail.0 && mail.0 <= s.last_seq)
    }

    /// Carries mails forward out of an old segment that is nearly all settled.
    fn empty_mails(&mut self) -> Result<Piece, Dead> {
        let Some(number) = self.pinned_segment() else {
            return Ok(Piece::Nothing);
        };
        let mails = self.mails_of(number);
        let mut records = Vec::with_capacity(mails.len());
        for (mail, place) in &mails {
            let reader = &self.shared.mails;
            let read = reader
                .head(*place)
                .and_then(|h| Ok((h, reader.body(*place)?)));
            match read {
                Ok((head, body)) => records.push(Record::carried(mail.0, head, body)),
                Err(error) => {
                    tracing::error!(%mail, %error, "journal: a mail that waits cannot be read; its segment is kept");
                    self.upkeep.stuck.insert(number);
                    return Ok(Piece::More);
                }
            }
        }
        let written = match self.journal.append(&records, &[]) {
            Ok(written) => written,
            Err(AppendError::Full) => return Ok(Piece::Nothing),
            Err(AppendError::Dead) => return Err(Dead),
        };
        self.shared.metrics.carried(records.len());
        let mut state = self.shared.state_mut();
        for ((mail, _), place) in mails.iter().zip(written.mails) {
            state.moved(*mail, place);
        }
        drop(state);
        self.applied();
        Ok(Piece::More)
    }

    /// The oldest mail segment that is worth emptying.
    fn pinned_segment(&self) -> Option<u64> {
        let state = self.shared.state();
        let sealed = self.journal.sealed(Kind::Mail);
        let open = self.journal.open_header(Kind::Mail).map(|h| h.number);
        let newest = open.or_else(|| sealed.keys().next_back().copied())?;
        let worth = |&(number, live): &(&u64, &Live)| {
            number + MAIL_SEGMENTS_YOUNG <= newest
                && !self.upkeep.stuck.contains(number)
                && sealed
                    .get(number)
                    .is_some_and(|s| live.bytes * LIVE_PART < s.bytes)
        };
        state.live().iter().find(worth).map(|(number, _)| *number)
    }

    fn mails_of(&self, number: u64) -> Vec<(MailId, Place)> {
        let Some(sealed) = self.journal.sealed(Kind::Mail).get(&number) else {
            return Vec::new();
        };
        let own = sealed.header.first_seq..=sealed.last_seq;
        let mut mails = self.shared.state().held_in(number, own, MAILS_ONCE);
        let mut bytes = 0;
        // At least one, however large.
        mails.retain(|(_, place)| {
            let fits = bytes < MAIL_BYTES_ONCE;
            bytes += u64::from(place.body_bytes);
            fits
        });
        mails
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
