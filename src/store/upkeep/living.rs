//! Owns the question which records of an old state segment still mean something, and what is found by
//! where they stand.
//!
//! Does not write them again: that is `compaction`.

use std::collections::BTreeMap;

use crate::mail::outgoing::JobId;
use crate::mail::token::ThreadKey;
use crate::store::clerk::{Clerk, Note};
use crate::store::event::EventId;
use crate::store::fact::{Fact, MailId, Mapping, Outcome};
use crate::store::frame::{Record, Row};
use crate::store::index::{IndexError, Key};
use crate::store::segment::Kind;
use crate::store::state::State;
use crate::store::writer::Dead;

/// A record that still means something, to be written again.
pub(super) struct Living {
    pub(super) record: Record,
    pub(super) moves: Moves,
}

/// What is found by where a record stands.
pub(super) enum Moves {
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
    /// The rows that still mean something. `None`: one cannot be read.
    pub(super) fn living(&self, rows: Vec<Row>) -> Result<Option<Vec<Living>>, Dead> {
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
}
