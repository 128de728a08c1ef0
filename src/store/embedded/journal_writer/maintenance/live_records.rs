//! Owns the decision which records of an old state segment are still needed, and which references depend on
//! their location.
//!
//! Does not write them again; `compaction` does.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::job_id::JobId;
use crate::mail::token::ThreadKey;
use crate::store::embedded::frame::{FrameRow, Record};
use crate::store::embedded::index::{IndexError, IndexKey, RawEntry};
use crate::store::embedded::journal_writer::{JournalWriter, StateRecord};
use crate::store::embedded::lookup::Lookup;
use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::state::StoreState;
use crate::store::embedded::writer_thread::WriterStopped;
use crate::store::fact::{DeliveryOutcome, Fact, Mapping};
use crate::store::id::{DeliveryId, EventId, MailId};

/// A record that is still needed, to be written again.
pub(super) struct LiveRecord {
    pub(super) record: Record,
    pub(super) relocation: Relocation,
}

/// The references to a record's location.
pub(super) enum Relocation {
    Nothing,
    /// A mapping, a message or an event.
    Entry(IndexKey),
    /// The whole record of this job.
    Job(JobId),
}

impl Relocation {
    fn of(fact: Fact, origin: u64) -> Self {
        match fact {
            Fact::Mapped(mapping) => Self::Entry(mapping_key(&mapping)),
            Fact::MessageRecorded {
                conversation,
                message,
            } => Self::Entry(IndexKey::last_message(&conversation, message.by_us)),
            Fact::Happened(_) => Self::Entry(IndexKey::event(EventId(origin))),
            _ => Self::Nothing,
        }
    }
}

/// True if the index still has the entry.
fn is_live_entry(state: &StoreState, entry: &RawEntry) -> Result<bool, IndexError> {
    match IndexKey::parse_entry(entry) {
        Some((key, value)) => Ok(state.get(key)?.as_deref() == Some(&value[..])),
        None => Ok(false),
    }
}

fn mapping_key(mapping: &Mapping) -> IndexKey {
    IndexKey::thread(&mapping.route, ThreadKey::of(&mapping.thread_id))
}

/// The mail of a live job cannot be read.
struct UnreadableJobMail;

impl JournalWriter {
    /// The rows that are still needed; `None` if one cannot be read.
    pub(super) fn live_records(
        &self,
        rows: Vec<FrameRow>,
    ) -> Result<Option<Vec<LiveRecord>>, WriterStopped> {
        let mut records = Vec::new();
        let mut jobs: BTreeMap<JobId, u64> = BTreeMap::new();
        let mut expired = Vec::new();
        let state = self.shared.state();
        for row in rows {
            let Ok(note) = serde_json::from_slice(&row.head) else {
                return Ok(None);
            };
            let about = match &note {
                // Newer totals are written before a segment is removed.
                StateRecord::Totals(_) => continue,
                StateRecord::Fact(fact) => fact.job(),
                StateRecord::Job(kept) => Some(kept.record.job.id),
                StateRecord::JobGone { job, .. } => Some(*job),
                StateRecord::Void => continue,
                StateRecord::Entry(entry) => {
                    if is_live_entry(&state, entry)
                        .map_err(|error| self.shared.index_failed(&error))?
                    {
                        records.push(LiveRecord {
                            record: Record::relocated(row.origin, row.head, bytes::Bytes::new()),
                            relocation: Relocation::Nothing,
                        });
                    }
                    continue;
                }
            };
            if let Some(job) = about {
                jobs.insert(job, row.origin);
                continue;
            }
            let StateRecord::Fact(fact) = note else {
                continue;
            };
            let lives = self.is_live(&state, &fact, row.origin, &mut expired);
            if lives.map_err(|error| self.shared.index_failed(&error))? {
                let record = Record::relocated(row.origin, row.head, bytes::Bytes::new());
                let moves = Relocation::of(fact, row.origin);
                records.push(LiveRecord {
                    record,
                    relocation: moves,
                });
            }
        }
        drop(state);
        if !expired.is_empty() {
            let mut state = self.shared.state_mut();
            for key in expired {
                state.remove_entry(key);
            }
        }
        for (job, newest) in jobs {
            match self.live_job_record(job, newest)? {
                Ok(living) => records.extend(living),
                Err(UnreadableJobMail) => return Ok(None),
            }
        }
        Ok(Some(records))
    }

    /// The complete record of a job to which the record `newest` belongs, unless a later record has it
    /// already. A job that is no longer visible is forgotten.
    fn live_job_record(
        &self,
        id: JobId,
        newest: u64,
    ) -> Result<Result<Option<LiveRecord>, UnreadableJobMail>, WriterStopped> {
        let mut state = self.shared.state_mut();
        let filed = state.indexed_job(id);
        let filed = filed.map_err(|error| self.shared.index_failed(&error))?;
        let Some(filed) = filed.filter(|filed| filed.base <= newest) else {
            return Ok(Ok(None));
        };
        if !state.is_remembered(&filed.stored) {
            let forgotten = state.forget_job(id);
            forgotten.map_err(|error| self.shared.index_failed(&error))?;
            return Ok(Ok(None));
        }
        drop(state);
        let mail = match filed.stored.settled {
            Some(_) => bytes::Bytes::new(),
            None => match self.shared.fact_reader.body(filed.location) {
                Ok(mail) => mail,
                Err(error) => {
                    tracing::error!(job = %id, %error, "journal: the mail of a job cannot be read; its segment is kept");
                    return Ok(Err(UnreadableJobMail));
                }
            },
        };
        let record = Record::new(StateRecord::Job(Box::new(filed.stored)).json(), mail);
        let moves = Relocation::Job(id);
        Ok(Ok(Some(LiveRecord {
            record,
            relocation: moves,
        })))
    }

    fn is_live(
        &self,
        state: &StoreState,
        fact: &Fact,
        origin: u64,
        expired: &mut Vec<IndexKey>,
    ) -> Result<bool, IndexError> {
        let settings = &self.shared.settings;
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
                let until = mapping.changed_at.plus(settings.subject_window);
                let by_subject = StoreState::subject_key(mapping);
                let by_subject = by_subject.map_or(Ok(false), |key| lasts(key, until))?;
                Ok(stands(mapping_key(mapping))? || by_subject)
            }
            Fact::Linked {
                route,
                message_id,
                sent_by_us,
                at,
                ..
            } => {
                let key = IndexKey::message_id(route, message_id, *sent_by_us);
                match *at == Timestamp::default() {
                    true => stands(key),
                    false => lasts(key, at.plus(settings.link_window)),
                }
            }
            Fact::TokenIssued { token, .. } => stands(IndexKey::issued_token(*token)),
            Fact::MailboxPolled { mailbox, .. } => stands(IndexKey::imap_position(mailbox)),
            Fact::Revoked { token, .. } => stands(IndexKey::revoked(*token)),
            Fact::NonceUsed { nonce, until, .. } => lasts(IndexKey::nonce(*nonce), *until),
            Fact::Suppressed(suppression) => lasts(
                IndexKey::suppression(&suppression.address),
                suppression.until,
            ),
            Fact::MessageRecorded {
                conversation,
                message,
            } => stands(IndexKey::last_message(conversation, message.by_us)),
            Fact::Happened(_) => Ok(state.outbox.event_location(EventId(origin)).is_some()),
            Fact::CursorAdvanced { subscriber, .. } => stands(IndexKey::cursor(subscriber)),
            // The entry is removed already, and jobs are written as a whole.
            Fact::Unsuppressed { .. }
            | Fact::Enqueued(_)
            | Fact::Begun { .. }
            | Fact::Deferred { .. }
            | Fact::Ended { .. }
            | Fact::Retried { .. }
            | Fact::NoticeReceived { .. } => Ok(false),
            Fact::Advanced { delivery, step } => Ok(state
                .open_delivery(*delivery)
                .is_some_and(|o| o.steps.contains(step))),
            // The fact that parked the delivery may still be needed for its fingerprint.
            Fact::Released { delivery, .. } => Ok(state.status_seq(*delivery) == Some(origin)),
            Fact::Settled {
                delivery,
                outcome,
                fingerprint,
                at,
            } => {
                if let Some(Fingerprint(name)) = *fingerprint
                    && lasts(IndexKey::fingerprint(name), at.plus(settings.dedupe_window))?
                {
                    return Ok(true);
                }
                Ok(self.outcome_is_live(state, *delivery, outcome, origin))
            }
        }
    }

    fn outcome_is_live(
        &self,
        state: &StoreState,
        delivery: DeliveryId,
        outcome: &DeliveryOutcome,
        origin: u64,
    ) -> bool {
        match outcome {
            DeliveryOutcome::Parked { .. } => state.status_seq(delivery) == Some(origin),
            // The settlement stays in the journal as long as its mail does.
            DeliveryOutcome::Delivered { .. } | DeliveryOutcome::Dropped { .. } => {
                self.is_on_disk(state, delivery.mail)
            }
        }
    }

    fn is_on_disk(&self, state: &StoreState, mail: MailId) -> bool {
        let sealed = self.journal.sealed(SegmentKind::Mail);
        let open = self.journal.open_header(SegmentKind::Mail);
        open.is_some_and(|h| h.first_seq <= mail.0)
            || state.open_mail(mail).is_some()
            || state.has_tombstone(mail)
            || sealed
                .values()
                .any(|s| s.header.first_seq <= mail.0 && mail.0 <= s.last_seq)
    }
}
