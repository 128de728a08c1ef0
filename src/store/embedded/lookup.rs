//! Owns the questions that entries of the index answer, independent of where the entries are.
//!
//! Does not read the journal: the writer uses the state itself, all others use the index without holding
//! the state's lock.

use super::index::{IndexEntries, IndexError, IndexKey};
use super::location::RecordLocation;
use super::stored_job::{IndexedJob, StoredJob};
use crate::clock::Timestamp;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::job_id::JobId;
use crate::mail::token::ThreadKey;
use crate::store::event::Cursor;
use crate::store::fact::ImapPosition;
use crate::store::id::{DeliveryId, EventId, MailId};
use crate::store::job::{ConversationKey, Suppression};

/// Entries of the index, including those that are not written to it yet.
pub(super) trait Lookup {
    /// The value of an entry.
    fn get(&self, key: IndexKey) -> Result<Option<Vec<u8>>, IndexError>;

    /// The next entries of one kind after `after`, of which at most `count` are in the index.
    fn entries_after(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
    ) -> Result<IndexEntries, IndexError>;

    /// True if the job is not settled, or was settled recently.
    fn is_remembered(&self, job: &StoredJob) -> bool;

    /// The time of the newest fact.
    fn newest_at(&self) -> Timestamp;

    /// The payload of an entry, with the number of the fact that wrote it.
    fn entry(&self, key: IndexKey) -> Result<Option<(u64, Vec<u8>)>, IndexError> {
        Ok(self.get(key)?.and_then(|mut value| {
            let payload = value.split_off(value.len().min(8));
            Some((u64::from_le_bytes(value.try_into().ok()?), payload))
        }))
    }

    /// Location of the record of a thread's mapping.
    fn mapping_location(
        &self,
        route: &str,
        key: ThreadKey,
    ) -> Result<Option<RecordLocation>, IndexError> {
        self.location(IndexKey::thread(route, key))
    }

    /// Location of the last message of a conversation.
    fn last_message_location(
        &self,
        conversation: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<RecordLocation>, IndexError> {
        self.location(IndexKey::last_message(conversation, by_us))
    }

    /// The location in an entry.
    fn location(&self, key: IndexKey) -> Result<Option<RecordLocation>, IndexError> {
        let entry = self.entry(key)?;
        Ok(entry.and_then(|(_, payload)| RecordLocation::decode_head(&payload)))
    }

    /// The thread of a route for a Message-ID, and true if we sent it.
    fn link(&self, route: &str, message_id: &str) -> Result<Option<(ThreadKey, bool)>, IndexError> {
        for sent_by_us in [true, false] {
            let entry = self.entry(IndexKey::message_id(route, message_id, sent_by_us))?;
            if let Some(key) = entry.and_then(|(_, key)| key.try_into().ok()) {
                return Ok(Some((ThreadKey(key), sent_by_us)));
            }
        }
        Ok(None)
    }

    /// The time at which a mail with this fingerprint was settled, and the delivery.
    fn fingerprint(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<(Timestamp, DeliveryId)>, IndexError> {
        let entry = self.entry(IndexKey::fingerprint(fingerprint.0))?;
        Ok(entry.and_then(|(_, payload)| {
            let at = u64::from_le_bytes(*payload.first_chunk()?);
            let mail = u64::from_le_bytes(*payload.get(8..)?.first_chunk()?);
            let recipient = u16::from_le_bytes(*payload.get(16..)?.first_chunk()?);
            let delivery = DeliveryId {
                mail: MailId(mail),
                recipient,
            };
            Some((Timestamp::from_millis(at), delivery))
        }))
    }

    /// The thread for which a token was issued, and the time of issue.
    fn issued_token(&self, token: [u8; 16]) -> Result<Option<(String, Timestamp)>, IndexError> {
        let entry = self.entry(IndexKey::issued_token(token))?;
        Ok(entry.and_then(|(_, mut payload)| {
            let thread_id = payload.split_off(payload.len().min(8));
            let at = u64::from_le_bytes(payload.try_into().ok()?);
            let thread_id = String::from_utf8(thread_id).ok()?;
            Some((thread_id, Timestamp::from_millis(at)))
        }))
    }

    /// The recorded position in a folder of an IMAP server.
    fn imap_position(&self, mailbox: &str) -> Result<Option<ImapPosition>, IndexError> {
        let entry = self.entry(IndexKey::imap_position(mailbox))?;
        Ok(entry.and_then(|(_, payload)| ImapPosition::decode(&payload)))
    }

    /// A job, if it is still stored.
    fn job(&self, id: JobId) -> Result<Option<IndexedJob>, IndexError> {
        let found = self.indexed_job(id)?;
        Ok(found.filter(|indexed| self.is_remembered(&indexed.stored)))
    }

    /// The job that was enqueued under this key, if it is still stored.
    fn job_by_key(&self, key: [u8; 16]) -> Result<Option<IndexedJob>, IndexError> {
        let Some((_, id)) = self.entry(IndexKey::job_key(key))? else {
            return Ok(None);
        };
        let id = id.try_into().map_err(|_| IndexError::damaged("a key"))?;
        let found = self.job(JobId(id))?;
        Ok(found.filter(|indexed| indexed.stored.record.job.keys().any(|known| known == key)))
    }

    /// A job, even one that is too old to be visible.
    fn indexed_job(&self, id: JobId) -> Result<Option<IndexedJob>, IndexError> {
        let read = |key| match self.entry(key)? {
            Some((seq, payload)) => match IndexedJob::decode(seq, &payload) {
                Some(indexed) => Ok(Some(indexed)),
                None => Err(IndexError::damaged("a job")),
            },
            None => Ok(None),
        };
        // In this order, because a job moves from the first to the second, and is written there before it
        // is removed here.
        let both = [
            read(IndexKey::open_job(id))?,
            read(IndexKey::settled_job(id))?,
        ];
        // An index whose writing was interrupted may have the job twice.
        Ok(both.into_iter().flatten().max_by_key(|indexed| indexed.seq))
    }

    /// The entry of an address on the suppression list.
    fn suppression(&self, address: &str) -> Result<Option<Suppression>, IndexError> {
        match self.entry(IndexKey::suppression(address))? {
            Some((_, payload)) => suppression_of(&payload).map(Some),
            None => Ok(None),
        }
    }

    /// The suppression list after the entry of `after`, at most `count`, in key order.
    fn suppressions(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Suppression>, IndexError> {
        let (first, _) = IndexKey::bounds(IndexKey::SUPPRESSED);
        let mut after = after.map_or(first, IndexKey::suppression);
        let now = self.newest_at();
        let mut found = Vec::new();
        while found.len() < count {
            let entries = self.entries_after(IndexKey::SUPPRESSED, after, count)?;
            let Some((last, _)) = entries.last_key_value() else {
                break;
            };
            after = *last;
            for value in entries.into_values().flatten() {
                let listed = suppression_of(value.get(8..).unwrap_or_default())?;
                found.extend(Some(listed).filter(|listed| listed.until > now));
            }
        }
        found.truncate(count);
        Ok(found)
    }

    /// The position of a subscriber.
    fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, IndexError> {
        let entry = self.entry(IndexKey::cursor(subscriber))?;
        Ok(entry.and_then(|(_, payload)| decode_cursor(&payload)))
    }
}

fn suppression_of(payload: &[u8]) -> Result<Suppression, IndexError> {
    serde_json::from_slice(payload).map_err(|_| IndexError::damaged("a suppression"))
}

/// The last event and the gaps below it, eight octets each.
pub(super) fn encode_cursor(cursor: &Cursor) -> Vec<u8> {
    let ids = std::iter::once(&cursor.last).chain(&cursor.gaps);
    ids.flat_map(|id| id.0.to_le_bytes()).collect()
}

fn decode_cursor(payload: &[u8]) -> Option<Cursor> {
    let (ids, rest) = payload.as_chunks::<8>();
    let mut ids = ids.iter().map(|id| EventId(u64::from_le_bytes(*id)));
    let last = ids.next().filter(|_| rest.is_empty())?;
    let gaps = ids.collect();
    Some(Cursor { last, gaps })
}
