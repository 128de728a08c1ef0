//! Owns what must survive a crash: accepted mail and what is known about it, behind one narrow door.
//!
//! Does not interpret mail, post it or send it; knows nothing of SMTP or HTTP.
//!
//! Facts go in ([`Store::accept`], [`Store::record`]: on disk before they return), questions come
//! out. The journal is the truth: append-only segments of checksummed batches, one sync for all who
//! wait. The index is what the facts add up to, and can be made again from the journal.
//!
//! ```text
//! FOLDER/lock                            one process at a time
//! FOLDER/version                         the form of all this
//! FOLDER/journal/mail-NUMBER.segment     accepted mail: envelope and bytes
//! FOLDER/journal/state-NUMBER.segment    facts, one JSON object each, with the mail of a job beside it
//! FOLDER/journal/indexed                 an index was finished once
//! FOLDER/index/                          sled
//! ```

use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::partition::PartitionKey;
use crate::mail::token::ThreadKey;

use disk::Disk;
use frame::Record;
use index::{IndexError, IndexKey};
use journal_writer::{StateRecord, WriteRequest};
use location::RecordLocation;
use shared::StoreShared;
use writer_thread::WriterHandle;

pub use embedded_messages::EmbeddedMessages;
pub use error::{OpenError, ReadError, RecordError};
pub use event::{CURSOR_GAPS_MAX, Cursor, Event, EventId, EventKind};
pub use fact::{
    Delivery, DeliveryId, DeliveryOutcome, DeliveryStep, Fact, IdError, ImapPosition, Ledger,
    MailId, Mapping,
};
pub use job::{
    AttemptRecord, ConversationKey, DsnSummary, EnqueueResult, HISTORY_MAX, Job, JobOutcome,
    JobRecord, JobState, LastMessage, OutboxLedger, Suppression,
};
pub use metrics::Metrics;

mod disk;
mod due;
mod embedded_messages;
mod error;
mod event;
mod fact;
mod frame;
mod index;
mod job;
mod journal;
mod journal_writer;
mod location;
mod maintenance;
mod metrics;
mod open_mail;
mod opening;
mod outbox_state;
mod outbox_store;
mod pending_writes;
mod segment;
mod shared;
mod state;
mod stored_job;
mod validator;
mod writer_thread;

#[cfg(test)]
mod tests;

/// Recipients one mail may have here.
pub const RECIPIENTS_MAX: usize = 1000;
/// Turns that threads share.
const THREAD_LOCKS: usize = 256;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything lies in here. Made if it is not there.
    pub folder: PathBuf,
    /// Bytes of a segment of the journal, set aside on disk when it is begun.
    pub segment_bytes: u64,
    /// Deliveries waiting at most; beyond, [`Store::accept`] says `Full`.
    pub waiting_max: u64,
    /// Bytes of mail waiting at most, counted once for each delivery.
    pub waiting_bytes_max: u64,
    /// Free bytes on the disk below which nothing more is accepted.
    pub free_bytes_min: u64,
    /// How long [`Store::find_duplicate`] and [`Store::job_by_key`] remember what is over.
    pub dedupe_window: Duration,
    /// How far [`Store::thread_by_subject`] looks back at most.
    pub subject_window: Duration,
    /// Jobs waiting at most; beyond, [`Store::enqueue`] says `Full`.
    pub outbox_max: u64,
    /// Bytes of mail of the jobs waiting at most.
    pub outbox_bytes_max: u64,
    /// Jobs that are over and still known at most, within `dedupe_window`; a few of the oldest more
    /// or less.
    pub sent_kept: u64,
    /// Jobs that failed and can be tried again at most: the newest.
    pub failed_kept: usize,
    /// How long they can be.
    pub failed_age_max: Duration,
    /// Jobs that were captured and can be looked at at most: the newest.
    pub captured_kept: usize,
}

impl Settings {
    /// What is right for most, in this folder.
    pub const fn new(folder: PathBuf) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            folder,
            segment_bytes: 64 << 20,
            waiting_max: 1_000_000,
            waiting_bytes_max: 50 << 30,
            free_bytes_min: 1 << 30,
            dedupe_window: Duration::from_secs(30 * DAY),
            subject_window: Duration::from_secs(30 * DAY),
            outbox_max: 100_000,
            outbox_bytes_max: 10 << 30,
            sent_kept: 1_000_000,
            failed_kept: 10_000,
            failed_age_max: Duration::from_secs(30 * DAY),
            captured_kept: 1000,
        }
    }
}

/// The door to everything that must survive a crash. Clones are the same door.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<StoreShared>,
    writer: WriterHandle<WriteRequest>,
    thread_locks: Arc<[tokio::sync::Mutex<()>]>,
}

impl Store {
    /// Opens the store in `settings.folder`, or begins one there. Blocks while the journal's last
    /// segments, and what the index has not seen, are read.
    ///
    /// # Errors
    /// The folder is in use, damaged, or of a newer version; or the disk fails.
    pub fn open(settings: Settings, now: Timestamp) -> Result<Self, OpenError> {
        Self::open_on(settings, now, Disk::default())
    }

    fn open_on(settings: Settings, now: Timestamp, disk: Disk) -> Result<Self, OpenError> {
        let (shared, writer) = opening::open(settings, disk)?;
        let mut state = shared.state_mut();
        // Not what a fact of a wrong clock says.
        state.newest_at = now;
        drop(state);
        let turns = (0..THREAD_LOCKS)
            .map(|_| tokio::sync::Mutex::default())
            .collect();
        Ok(Self {
            shared,
            writer,
            thread_locks: turns,
        })
    }

    /// May another mail of `bytes` bytes come in now? Cheap: reads a few numbers, and asks the disk
    /// once a second.
    ///
    /// # Errors
    /// `Full`, or `Dead`.
    pub fn has_room(&self, bytes: u64) -> Result<(), RecordError> {
        if self.shared.has_failed() || self.writer.has_ended() {
            return Err(RecordError::Dead);
        }
        self.shared.capacity.admit(bytes)
    }

    /// Takes responsibility for a mail: it is on disk when this returns. If the caller goes away
    /// before, it may or may not be kept.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    ///
    /// # Panics
    /// If there is no recipient, or there are more than [`RECIPIENTS_MAX`].
    pub async fn accept(&self, envelope: Envelope, bytes: Bytes) -> Result<MailId, RecordError> {
        assert!(
            (1..=RECIPIENTS_MAX).contains(&envelope.recipients.len()),
            "an envelope has 1 to {RECIPIENTS_MAX} recipients"
        );
        self.has_room(bytes.len() as u64)?;
        let head = serde_json::to_vec(&envelope).map_err(|_| RecordError::Full)?;
        if head.len() + bytes.len() > frame::RECORD_BYTES_MAX {
            return Err(RecordError::Full);
        }
        let record = Record::new(head, bytes);
        self.shared.capacity.reserve(record.bytes() as u64);
        let envelope = Arc::new(envelope);
        let ask = |answer| WriteRequest::Accept {
            envelope,
            record,
            answer,
        };
        self.writer.submit(ask).await
    }

    /// Takes note of facts: they are on disk, and seen by every question, when this returns. Either
    /// all of one call or none survive a crash.
    ///
    /// # Errors
    /// `Full`, or `Dead`. Then nothing was promised.
    pub async fn record(&self, facts: Vec<Fact>) -> Result<(), RecordError> {
        let facts = outbox_store::encode_facts(facts);
        if facts.iter().map(|(_, r)| r.bytes()).sum::<usize>() > frame::RECORD_BYTES_MAX {
            return Err(RecordError::Full);
        }
        let ask = |answer| WriteRequest::Record { facts, answer };
        self.writer.submit(ask).await
    }

    /// The next waiting deliveries after `after`, in order of arrival, at most `count`. Envelopes
    /// not in memory are read from disk.
    pub fn waiting(&self, after: Option<DeliveryId>, count: usize) -> Vec<Delivery> {
        self.list(after, count, |state, from| {
            state.waiting().range(from).next().copied()
        })
    }

    /// The next waiting deliveries after `after`, in order of arrival, at most `count`, each with the
    /// line it stands in. Reads nothing from disk; a delivery whose line is not in memory has `None`.
    pub fn waiting_with_lanes(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Vec<(DeliveryId, Option<PartitionKey>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.shared.state();
        let waiting = state.waiting().range((from, Bound::Unbounded)).take(count);
        waiting
            .map(|id| (*id, state.open_delivery(*id).and_then(|open| open.lane)))
            .collect()
    }

    /// Resolves when something was accepted or released since the last call. For one caller: of
    /// several that wait, one wakes.
    pub async fn mail_arrived(&self) {
        self.shared.mail_arrived.notified().await;
    }

    /// The next parked deliveries after `after`, in order of arrival, at most `count`.
    pub fn parked(&self, after: Option<DeliveryId>, count: usize) -> Vec<Delivery> {
        self.list(after, count, |state, from| {
            state.parked().range(from).next().copied()
        })
    }

    /// A delivery that waits or is parked; `None` if it is over or there never was one.
    pub fn delivery(&self, id: DeliveryId) -> Option<Delivery> {
        // The mail may be carried to another segment while it is read.
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            let sketch = UnreadDelivery::of(&self.shared.state(), id)?;
            match sketch.fill(&self.shared) {
                Ok(delivery) => return Some(delivery),
                Err(error) if !self.has_moved(id.mail, sketch.place) => {
                    tracing::error!(delivery = %id, %error, "store: a delivery's envelope cannot be read");
                    return None;
                }
                Err(_) => {}
            }
        }
        None
    }

    /// The mail's bytes as they were received. Reads from disk unless it was accepted lately.
    ///
    /// # Errors
    /// The mail is settled for all its recipients, or the disk does not give back what was written.
    pub fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError> {
        const TRIES: usize = 3;
        let mut tries = 0;
        loop {
            let place = {
                let state = self.shared.state();
                if let Some((_, bytes)) = state.recent_mail(id) {
                    return Ok(bytes.clone());
                }
                state.open_mail(id).ok_or(ReadError::Settled(id))?.place
            };
            tries += 1;
            match self.shared.mail_reader.body(place) {
                Ok(bytes) => return Ok(bytes),
                Err(_) if tries < TRIES && self.has_moved(id, place) => {}
                Err(source) => return Err(ReadError::Disk { mail: id, source }),
            }
        }
    }

    /// Waits for the turn of a thread. Whoever changes a mapping holds it from his look at the mapping to
    /// the fact that he records.
    pub async fn lock_thread(&self, key: ThreadKey) -> tokio::sync::MutexGuard<'_, ()> {
        self.thread_locks[usize::from(key.0[0]) % THREAD_LOCKS]
            .lock()
            .await
    }

    /// The thread of a route that a token's key stands for.
    pub fn thread(&self, route: &str, key: ThreadKey) -> Option<Mapping> {
        // The record may be carried to another segment while it is read.
        const TRIES: usize = 3;
        let mut last = None;
        for _ in 0..TRIES {
            let place = self.shared.state().mapping_location(route, key);
            let place = self.answer_or_fail(place)?;
            let read = self.shared.fact_reader.head(place).and_then(|head| {
                let note = serde_json::from_slice(&head)?;
                match note {
                    StateRecord::Fact(Fact::Mapped(mapping)) => Ok(mapping),
                    _ => Err(io::ErrorKind::InvalidData.into()),
                }
            });
            match read {
                Ok(mapping) => return Some(mapping),
                Err(error) if last == Some(place) => {
                    return self.answer_or_fail(Err(IndexError::from(error)));
                }
                Err(_) => last = Some(place),
            }
        }
        None
    }

    /// The thread of a route that a Message-ID belongs to, and whether we sent that mail.
    pub fn thread_by_message_id(&self, route: &str, message_id: &str) -> Option<(Mapping, bool)> {
        let link = self.shared.state().link(route, message_id);
        let (key, sent_by_us) = self.answer_or_fail(link)?;
        Some((self.thread(route, key)?, sent_by_us))
    }

    /// The newest thread of this sender with this normalised subject, if it was changed at `since`
    /// or later.
    pub fn thread_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Option<Mapping> {
        let folded = sender.folded();
        let entry = self
            .shared
            .state()
            .entry(IndexKey::subject(route, &folded, subject));
        let (_, key) = self.answer_or_fail(entry)?;
        let mapping = self.thread(route, ThreadKey(key.try_into().ok()?))?;
        // The thread may have gone to another subject since.
        let fits = mapping.subject == subject
            && mapping
                .participant
                .as_ref()
                .is_some_and(|p| p.folded() == folded);
        let newest = self.shared.state().newest_at.max(mapping.changed_at);
        let since = since.max(newest.minus(self.shared.settings.subject_window));
        (fits && mapping.changed_at >= since).then_some(mapping)
    }

    /// The thread's id that was recorded with [`Fact::Minted`] for a token's digest.
    pub fn thread_by_token(&self, token: [u8; 16]) -> Option<String> {
        self.issued_token(token).map(|(thread_id, _)| thread_id)
    }

    /// The thread's id and the moment that were recorded with [`Fact::Minted`] for a token's digest.
    pub fn issued_token(&self, token: [u8; 16]) -> Option<(String, Timestamp)> {
        let minted = self.shared.state().issued_token(token);
        self.answer_or_fail(minted)
    }

    /// How far a folder of an IMAP server has been looked through, as [`Fact::Polled`] told last.
    pub fn imap_position(&self, mailbox: &str) -> Option<ImapPosition> {
        let position = self.shared.state().imap_position(mailbox);
        self.answer_or_fail(position)
    }

    /// Is the token with this digest void?
    pub fn is_revoked(&self, token: [u8; 16]) -> bool {
        let entry = self.shared.state().entry(IndexKey::revoked(token));
        self.answer_or_fail(entry).is_some()
    }

    /// The digest of the content that was recorded with [`Fact::Spent`] for a word's digest.
    pub fn nonce_used(&self, word: [u8; 16]) -> Option<[u8; 16]> {
        let entry = self.shared.state().entry(IndexKey::nonce(word));
        let (_, content) = self.answer_or_fail(entry)?;
        content.try_into().ok()
    }

    /// The delivery as which a mail with this fingerprint was settled, if that was within the window
    /// before `now`. A delivery that was parked and released finds itself.
    pub fn find_duplicate(&self, fingerprint: Fingerprint, now: Timestamp) -> Option<DeliveryId> {
        let found = self.shared.state().fingerprint(fingerprint);
        let (at, delivery) = self.answer_or_fail(found)?;
        (now.since(at) < self.shared.settings.dedupe_window).then_some(delivery)
    }

    /// Where every delivery is that was ever accepted.
    pub fn ledger(&self) -> Ledger {
        self.shared.state().ledger()
    }

    /// What the store counts about itself.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Resolves when the store can record nothing any more: it was closed, or the disk failed.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Writes what is left to write and stops. The folder is free for another process when this
    /// returns and no other clone is left.
    pub async fn close(self) {
        self.writer.close().await;
    }

    fn list(
        &self,
        after: Option<DeliveryId>,
        count: usize,
        next: impl Fn(&state::StoreState, (Bound<DeliveryId>, Bound<DeliveryId>)) -> Option<DeliveryId>,
    ) -> Vec<Delivery> {
        let mut found: Vec<Delivery> = Vec::new();
        let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
        while found.len() < count {
            let id = next(&self.shared.state(), (from, Bound::Unbounded));
            let Some(id) = id else {
                break;
            };
            from = Bound::Excluded(id);
            found.extend(self.delivery(id));
        }
        found
    }

    fn has_moved(&self, mail: MailId, place: RecordLocation) -> bool {
        self.shared
            .state()
            .open_mail(mail)
            .is_none_or(|h| h.place != place)
    }

    /// An index that cannot be read ends the store: an answer it does not give is no answer.
    fn answer_or_fail<T>(&self, answer: Result<Option<T>, IndexError>) -> Option<T> {
        answer.unwrap_or_else(|error| {
            self.shared.index_failed(&error);
            None
        })
    }
}

/// A delivery whose envelope may still have to be read.
struct UnreadDelivery {
    id: DeliveryId,
    place: RecordLocation,
    envelope: Option<Arc<Envelope>>,
    steps: Vec<DeliveryStep>,
    parked: Option<String>,
}

impl UnreadDelivery {
    fn of(state: &state::StoreState, id: DeliveryId) -> Option<Self> {
        let open = state.open_delivery(id)?;
        Some(Self {
            id,
            place: state.open_mail(id.mail)?.place,
            envelope: state.recent_mail(id.mail).map(|(e, _)| Arc::clone(e)),
            steps: open.steps.clone(),
            parked: open.parked.as_deref().map(str::to_owned),
        })
    }

    fn fill(&self, shared: &StoreShared) -> io::Result<Delivery> {
        let envelope = match &self.envelope {
            Some(envelope) => Arc::clone(envelope),
            None => Arc::new(serde_json::from_slice(
                &shared.mail_reader.head(self.place)?,
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
            bytes: u64::from(self.place.body_bytes),
        })
    }
}
