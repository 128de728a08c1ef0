//! Owns the questions that need both index and journal. All of them may read from disk.
//!
//! Does not choose its thread, and never holds the state's lock while it reads.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{IndexEntries, IndexError, IndexKey};
use super::journal_writer::StateRecord;
use super::location::RecordLocation;
use super::lookup::Lookup;
use super::shared::StoreShared;
use super::state::StoreState;
use super::stored_job::{IndexedJob, StoredJob};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::job_id::JobId;
use crate::mail::token::ThreadKey;
use crate::store::door::{TokenFacts, TokenQuestion};
use crate::store::error::{ReadError, StoreError};
use crate::store::event::Event;
use crate::store::fact::{Delivery, DeliveryStep, Fact, Mapping};
use crate::store::id::{DeliveryId, EventId, MailId};
use crate::store::job::{ConversationKey, JobRecord, LastMessage};

/// The number of reads before a record counts as unreadable. It may be relocated during a read, and a disk
/// may fail once.
const TRIES: usize = 3;

/// The reason why a question has no answer.
#[derive(Debug)]
pub(super) enum ReadFault {
    Index(IndexError),
    /// A record cannot be read.
    Record(io::Error),
}

impl From<IndexError> for ReadFault {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

/// True for errors that mean that the bytes differ from those that were written; others may be temporary.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

impl Lookup for StoreShared {
    fn get(&self, key: IndexKey) -> Result<Option<Vec<u8>>, IndexError> {
        // The lock is released before the index is read. An entry that was not pending may have been
        // written meanwhile; then the newer one is found.
        let pending = self.state().pending_entry(key);
        match pending {
            Some(value) => Ok(value),
            None => self.index.get(key),
        }
    }

    fn entries_after(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
    ) -> Result<IndexEntries, IndexError> {
        let pending = self.state().pending_after(tag, after);
        self.index.merged_after(tag, after, count, pending)
    }

    fn is_remembered(&self, job: &StoredJob) -> bool {
        self.state().is_remembered(job)
    }

    fn newest_at(&self) -> Timestamp {
        self.state().newest_at
    }
}

impl StoreShared {
    /// The caller's error for a fault. An index that a full disk keeps closed answers later; an unreadable one stops the store, because a missing answer would
    /// be wrong; an unreadable record affects only its own question.
    pub(super) fn judge(&self, fault: ReadFault) -> StoreError {
        match fault {
            ReadFault::Index(error) if error.is_full() => StoreError::Unavailable,
            ReadFault::Index(error) => {
                self.index_failed(&error);
                StoreError::Dead
            }
            ReadFault::Record(error) if is_damage(&error) => {
                tracing::error!(%error, "store: a record of the journal is damaged");
                StoreError::Damaged
            }
            ReadFault::Record(error) => {
                tracing::warn!(%error, "store: a record of the journal cannot be read now");
                StoreError::Unavailable
            }
        }
    }

    /// The mapping of a thread, if it is in memory.
    pub(super) fn recent_mapping(&self, route: &str, key: ThreadKey) -> Option<Mapping> {
        let thread = IndexKey::thread(route, key);
        let found = self.state().recent_mappings.get(thread);
        found.map(|mapping| Mapping::clone(&mapping))
    }

    pub(super) fn mapping(
        &self,
        route: &str,
        key: ThreadKey,
    ) -> Result<Option<Mapping>, ReadFault> {
        if let Some(mapping) = self.recent_mapping(route, key) {
            return Ok(Some(mapping));
        }
        self.fact_at(
            || self.mapping_location(route, key),
            |fact| match fact {
                Fact::Mapped(mapping) => Some(mapping),
                _ => None,
            },
        )
    }

    pub(super) fn mapping_by_message_id(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(Mapping, bool)>, ReadFault> {
        let Some((key, sent_by_us)) = self.link(route, message_id)? else {
            return Ok(None);
        };
        let mapping = self.mapping(route, key)?;
        Ok(mapping.map(|mapping| (mapping, sent_by_us)))
    }

    pub(super) fn mapping_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Result<Option<Mapping>, ReadFault> {
        let folded = sender.folded();
        let entry = self.entry(IndexKey::subject(route, &folded, subject))?;
        let key = entry.and_then(|(_, key)| key.try_into().ok());
        let Some(key) = key else {
            return Ok(None);
        };
        let Some(mapping) = self.mapping(route, ThreadKey(key))? else {
            return Ok(None);
        };
        // The thread may have another subject by now.
        let participant = mapping.participant.as_ref();
        let fits = mapping.subject == subject && participant.is_some_and(|p| p.folded() == folded);
        let newest = self.newest_at().max(mapping.changed_at);
        let since = since.max(newest.minus(self.settings.subject_window));
        Ok(Some(mapping).filter(|mapping| fits && mapping.changed_at >= since))
    }

    pub(super) fn token_facts(
        &self,
        question: &TokenQuestion,
        since: Timestamp,
    ) -> Result<TokenFacts, ReadFault> {
        let settled = self.fingerprint(question.fingerprint)?;
        let settled = settled.filter(|(at, _)| *at > since);
        let mut facts = TokenFacts {
            duplicate_of: settled.map(|(_, delivery)| delivery),
            mapping: self.mapping(&question.route, question.thread)?,
            issued: self.issued_token(question.token)?.map(|(thread, _)| thread),
            last_message: None,
        };
        if let Some(conversation) = question.conversation(&facts) {
            let found = self.message_of(&conversation, true)?;
            facts.last_message = Some((conversation, found));
        }
        Ok(facts)
    }

    pub(super) fn message_of(
        &self,
        conversation: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<LastMessage>, ReadFault> {
        self.fact_at(
            || self.last_message_location(conversation, by_us),
            |fact| match fact {
                Fact::MessageRecorded { message, .. } => Some(message),
                _ => None,
            },
        )
    }

    /// An event that is kept, from memory or from the journal.
    pub(super) fn event(&self, id: EventId) -> Result<Option<Arc<Event>>, ReadFault> {
        if let Some(event) = self.state().outbox.recent_event(id) {
            return Ok(Some(event));
        }
        self.fact_at(
            || Ok(self.state().outbox.event_location(id)),
            |fact| match fact {
                Fact::Happened(event) => Some(Arc::new(event)),
                _ => None,
            },
        )
    }

    pub(super) fn job_record(&self, id: JobId) -> Result<Option<JobRecord>, ReadFault> {
        Ok(self.job(id)?.map(|indexed| indexed.stored.record))
    }

    /// The mail of a job, if it is still stored.
    pub(super) fn job_mail(&self, id: JobId) -> Result<Bytes, ReadError> {
        let is_kept = |indexed: &IndexedJob| indexed.stored.settled.is_none();
        let location = || {
            Ok(self
                .job(id)?
                .filter(is_kept)
                .map(|indexed| indexed.location))
        };
        match self.record_at(location, |at| self.fact_reader.body(at)) {
            Ok(Some(mail)) => Ok(mail),
            Ok(None) => Err(ReadError::NoJob(id)),
            Err(ReadFault::Record(source)) if is_damage(&source) => {
                Err(ReadError::Job { job: id, source })
            }
            Err(fault) => Err(ReadError::Store(self.judge(fault))),
        }
    }

    /// The bytes of an open mail.
    pub(super) fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError> {
        let location = || Ok(self.state().open_mail(id).map(|mail| mail.location));
        match self.record_at(location, |at| self.mail_reader.body(at)) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ReadError::Settled(id)),
            Err(ReadFault::Record(source)) if is_damage(&source) => {
                Err(ReadError::Disk { mail: id, source })
            }
            Err(fault) => Err(ReadError::Store(self.judge(fault))),
        }
    }

    /// A delivery that waits or is parked, with its envelope.
    pub(super) fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, ReadFault> {
        let mut last = None;
        for _ in 0..TRIES {
            let Some(unread) = UnreadDelivery::of(&self.state(), id) else {
                return Ok(None);
            };
            match unread.fill(self) {
                Ok(delivery) => return Ok(Some(delivery)),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::InvalidData.into());
        Err(ReadFault::Record(error))
    }

    /// The fact in the record at `location`, if `take` accepts it.
    fn fact_at<T>(
        &self,
        location: impl Fn() -> Result<Option<RecordLocation>, IndexError>,
        take: impl Fn(Fact) -> Option<T>,
    ) -> Result<Option<T>, ReadFault> {
        let read = |at| {
            let head = self.fact_reader.head(at)?;
            let record = serde_json::from_slice(&head)?;
            let found = match record {
                StateRecord::Fact(fact) => take(fact),
                _ => None,
            };
            found.ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        self.record_at(location, read)
    }

    /// Reads the record at the current location, which may change meanwhile.
    fn record_at<T>(
        &self,
        location: impl Fn() -> Result<Option<RecordLocation>, IndexError>,
        read: impl Fn(RecordLocation) -> io::Result<T>,
    ) -> Result<Option<T>, ReadFault> {
        let mut tries = 0;
        loop {
            let Some(at) = location()? else {
                return Ok(None);
            };
            tries += 1;
            match read(at) {
                Ok(found) => return Ok(Some(found)),
                Err(error) if tries >= TRIES => return Err(ReadFault::Record(error)),
                Err(_) => {}
            }
        }
    }
}

/// A delivery whose envelope may still have to be read.
pub(super) struct UnreadDelivery {
    id: DeliveryId,
    location: RecordLocation,
    envelope: Option<Arc<Envelope>>,
    steps: Vec<DeliveryStep>,
    parked: Option<String>,
}

impl UnreadDelivery {
    pub(super) fn of(state: &StoreState, id: DeliveryId) -> Option<Self> {
        let open = state.open_delivery(id)?;
        Some(Self {
            id,
            location: state.open_mail(id.mail)?.location,
            envelope: state.recent_mail(id.mail).map(|(e, _)| Arc::clone(e)),
            steps: open.steps.clone(),
            parked: open.parked.as_deref().map(str::to_owned),
        })
    }

    /// True if the envelope is in memory, so that no read is needed.
    pub(super) const fn is_in_memory(&self) -> bool {
        self.envelope.is_some()
    }

    pub(super) fn fill(&self, shared: &StoreShared) -> io::Result<Delivery> {
        let envelope = match &self.envelope {
            Some(envelope) => Arc::clone(envelope),
            None => Arc::new(serde_json::from_slice(
                &shared.mail_reader.head(self.location)?,
            )?),
        };
        let recipient = envelope.recipients.get(usize::from(self.id.recipient));
        let recipient = recipient.ok_or(io::ErrorKind::InvalidData)?.clone();
        Ok(Delivery {
            id: self.id,
            envelope,
            recipient,
            steps: self.steps.clone(),
            parked: self.parked.clone(),
            bytes: u64::from(self.location.body_bytes),
        })
    }
}
