//! Owns the locations of the threads, messages and idempotency keys of the embedded Messages API, in an index
//! on disk.
//!
//! Does not hold the documents. The entries of the newest ones wait in memory to be written together.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::embedded::frame::u64_at;
use crate::store::embedded::index::{Index, IndexError, IndexKey, IndexMeta};
use crate::store::embedded::journal::Journal;
use crate::store::embedded::location::RecordLocation;
use crate::store::embedded::segment::SegmentKind;
use crate::store::error::OpenError;

/// The time for which an idempotency key is remembered.
pub(super) const KEY_WINDOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The number of keys that are removed in one step.
const KEYS_ONCE: usize = 64;
/// The number of journal records that are added in one step at the start.
const RECORDS_ONCE: usize = 4096;

/// The head of a record; the document is its body.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DocumentHead {
    pub(super) thread: String,
    /// The message's id; `None` for a thread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) key: Option<String>,
    pub(super) at: Timestamp,
}

/// A document that is in the journal: its head, its record's number and location.
pub(super) type WrittenDocument = (DocumentHead, u64, RecordLocation);

/// Entries on their way to the index.
type Entries = BTreeMap<IndexKey, Option<Vec<u8>>>;

/// The locations of all documents. All entries can be rebuilt from the journal.
#[derive(Debug)]
pub(super) struct Catalogue {
    folder: PathBuf,
    index: Index,
    pending: RwLock<PendingEntries>,
    /// The number of the last record whose entries were flushed.
    flushed: AtomicU64,
}

/// Entries that are not in the index yet. A thread that is changed often is written once.
#[derive(Debug, Default)]
struct PendingEntries {
    entries: Entries,
    /// The number of the last record whose entries are here; 0 if there are none.
    seq: u64,
}

impl Catalogue {
    /// Opens the index in `folder`, or creates it, and adds the newer documents of the journal.
    ///
    /// # Errors
    /// The index cannot be created, the journal cannot be read, or the journal ends before the index.
    pub(super) fn open(folder: &Path, journal: &Journal) -> Result<Self, OpenError> {
        let path = folder.join("index");
        let unmade = |error: IndexError| unmade(&path, &error);
        let (index, seen) = open_index(&path, &folder.join("journal"), journal)?;
        let catalogue = Self {
            folder: path.clone(),
            index,
            pending: RwLock::default(),
            flushed: AtomicU64::new(seen),
        };
        let mut some: Vec<WrittenDocument> = Vec::new();
        journal.replay(SegmentKind::State, seen, |segment, row| {
            let head =
                serde_json::from_slice(&row.head).map_err(|source| OpenError::Unreadable {
                    path: SegmentKind::State.file_name(segment).into(),
                    record: row.seq,
                    source,
                })?;
            some.push((head, row.seq, RecordLocation::new(segment, row.span)));
            if some.len() == RECORDS_ONCE {
                catalogue.add(&std::mem::take(&mut some)).map_err(unmade)?;
                catalogue.flush().map_err(unmade)?;
            }
            Ok(())
        })?;
        // This is written even without documents, because an index without its meta entry counts as
        // incomplete.
        catalogue.add(&some).map_err(unmade)?;
        catalogue.flush().map_err(unmade)?;
        Ok(catalogue)
    }

    /// The location of a thread's newest document.
    pub(super) fn thread(&self, id: &str) -> Result<Option<RecordLocation>, IndexError> {
        let Some(thread) = self.number(IndexKey::document_thread_id(id))? else {
            return Ok(None);
        };
        let found = self.get(IndexKey::document_thread(thread))?;
        found.map(|value| location(&value)).transpose()
    }

    /// The locations of the threads made after `after`, oldest first, at most `count`. Empty if there is
    /// no thread `after`.
    pub(super) fn threads_after(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<RecordLocation>, IndexError> {
        let after = match after {
            None => Some(0),
            Some(id) => self.number(IndexKey::document_thread_id(id))?,
        };
        let Some(after) = after.map(IndexKey::document_thread) else {
            return Ok(Vec::new());
        };
        let last = IndexKey::bounds(IndexKey::DOCUMENT_THREAD).1;
        self.locations(IndexKey::DOCUMENT_THREAD, (after, last), count)
    }

    /// The locations of a thread's messages after `after`, oldest first, at most `count`. `None` if there is
    /// no such thread.
    pub(super) fn messages_after(
        &self,
        thread: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Option<Vec<RecordLocation>>, IndexError> {
        let Some(thread) = self.number(IndexKey::document_thread_id(thread))? else {
            return Ok(None);
        };
        let after = match after {
            None => Some(0),
            Some(id) => self.number(IndexKey::document_message_id(thread, id))?,
        };
        let Some(after) = after else {
            return Ok(Some(Vec::new()));
        };
        let after = IndexKey::document_message(thread, after);
        let last = IndexKey::document_message(thread, u64::MAX);
        self.locations(IndexKey::DOCUMENT_MESSAGE, (after, last), count)
            .map(Some)
    }

    /// The locations in the entries of a kind after the first key and up to the last one, at most `count`.
    fn locations(
        &self,
        tag: u8,
        (after, last): (IndexKey, IndexKey),
        count: usize,
    ) -> Result<Vec<RecordLocation>, IndexError> {
        let behind = (Bound::Excluded(after), Bound::Included(last));
        let pending = self.pending().entries.range(behind).map(cloned).collect();
        // Entries that leave memory meanwhile are in the index before.
        let found = self.index.merged_after(tag, after, count, pending)?;
        let own = found.iter().take_while(|(key, _)| **key <= last);
        let own = own.filter_map(|(_, value)| value.as_deref());
        own.take(count).map(location).collect()
    }

    /// The location of the document that was made with an idempotency key at most [`KEY_WINDOW`] before
    /// `now`.
    pub(super) fn keyed(
        &self,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<RecordLocation>, IndexError> {
        let Some(value) = self.get(IndexKey::idempotency_key(key))? else {
            return Ok(None);
        };
        let bound = BoundKey::decode(&value)?;
        Ok((now.since(bound.at) <= KEY_WINDOW).then_some(bound.location))
    }

    /// Adds documents that are in the journal; [`Catalogue::flush`] passes them to the index. After an
    /// interruption, adding the same ones again gives the same entries.
    pub(super) fn add(&self, documents: &[WrittenDocument]) -> Result<(), IndexError> {
        let mut entries = Entries::new();
        for (head, seq, at) in documents {
            self.add_one(&mut entries, head, *seq, *at)?;
        }
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.entries.extend(entries);
        pending.seq = documents.last().map_or(pending.seq, |(_, seq, _)| *seq);
        Ok(())
    }

    /// Writes the entries that wait in memory to the index, and passes them to the kernel. A power failure may
    /// still lose some; the journal has them. They stay in memory until then, because a full disk may lose
    /// them on the way.
    pub(super) fn flush(&self) -> Result<(), IndexError> {
        let seq = self.flush_to(&self.index)?;
        self.flushed_to(seq);
        Ok(())
    }

    /// Closes the index, which a full disk makes unusable. Until [`Catalogue::reopen`], every question about
    /// entries that are not in memory fails.
    pub(super) fn close(&self) {
        self.index.close();
    }

    /// Opens the closed index and writes the entries that wait in memory.
    ///
    /// # Errors
    /// The index stays closed.
    pub(super) fn reopen(&self) -> Result<(), IndexError> {
        let mut seq = 0;
        self.index
            .reopen(self.flushed.load(Ordering::Relaxed), |index| {
                seq = self.flush_to(index)?;
                Ok(())
            })?;
        self.flushed_to(seq);
        Ok(())
    }

    /// Makes the next start rebuild the index from the journal.
    pub(super) fn condemn(&self) {
        let _ = fs::write(condemned(&self.folder), b"");
    }

    /// Returns the number of the last record whose entries the index now has.
    fn flush_to(&self, index: &Index) -> Result<u64, IndexError> {
        let pending = self.pending();
        let seq = match pending.seq {
            0 => index.meta()?.map_or(0, |meta| meta.seq),
            seq => seq,
        };
        let meta = IndexMeta {
            seq,
            ..IndexMeta::default()
        };
        let entries = pending.entries.iter().map(|(k, v)| (*k, v.as_deref()));
        index.apply(entries, Some(&meta))?;
        index.flush()?;
        Ok(seq)
    }

    fn flushed_to(&self, seq: u64) {
        self.flushed.store(seq, Ordering::Relaxed);
        // Only the caller's thread adds entries, so all of these are written.
        *self.pending.write().unwrap_or_else(PoisonError::into_inner) = PendingEntries::default();
    }

    fn pending(&self) -> RwLockReadGuard<'_, PendingEntries> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: IndexKey) -> Result<Option<Vec<u8>>, IndexError> {
        let pending = self.pending().entries.get(&key).cloned();
        match pending {
            Some(value) => Ok(value),
            None => self.index.get(key),
        }
    }

    fn add_one(
        &self,
        entries: &mut Entries,
        head: &DocumentHead,
        seq: u64,
        at: RecordLocation,
    ) -> Result<(), IndexError> {
        let id = IndexKey::document_thread_id(&head.thread);
        let known = match entries.get(&id) {
            Some(value) => value.as_deref().map(number).transpose()?,
            None => self.number(id)?,
        };
        let location = Some(at.encode_body().to_vec());
        let number_of = |seq: u64| Some(seq.to_le_bytes().to_vec());
        match (&head.message, known) {
            (Some(message), Some(thread)) => {
                entries.insert(IndexKey::document_message(thread, seq), location);
                let id = IndexKey::document_message_id(thread, message);
                entries.insert(id, number_of(seq));
            }
            (None, Some(thread)) => {
                entries.insert(IndexKey::document_thread(thread), location);
            }
            (_, None) => {
                entries.insert(id, number_of(seq));
                entries.insert(IndexKey::document_thread(seq), location);
            }
        }
        if let Some(key) = &head.key {
            let key = IndexKey::idempotency_key(key);
            let bound = BoundKey {
                at: head.at,
                seq,
                location: at,
            };
            entries.insert(key, Some(bound.encode()));
            let mut aged = head.at.as_millis().to_le_bytes().to_vec();
            aged.extend_from_slice(key.as_bytes());
            entries.insert(IndexKey::idempotency_key_by_age(seq), Some(aged));
        }
        Ok(())
    }

    /// Removes some of the keys in the index that are older than [`KEY_WINDOW`]; true if there may be more.
    pub(super) fn forget_keys(&self, now: Timestamp) -> Result<bool, IndexError> {
        let tag = IndexKey::IDEMPOTENCY_KEY_BY_AGE;
        let (first, _) = IndexKey::bounds(tag);
        let mut gone = Entries::new();
        for (by_age, value) in self.index.range_after(tag, first, KEYS_ONCE)? {
            let damaged = || IndexError::damaged("a key's age");
            let (at, key) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
            if now.since(Timestamp::from_millis(u64::from_le_bytes(*at))) <= KEY_WINDOW {
                break;
            }
            gone.insert(by_age, None);
            let key = IndexKey::from_bytes(key).ok_or_else(damaged)?;
            // The key may have been bound to a newer document since.
            let bound = self.index.get(key)?;
            let bound = bound.map(|value| BoundKey::decode(&value)).transpose()?;
            if bound.is_some_and(|bound| IndexKey::idempotency_key_by_age(bound.seq) == by_age) {
                gone.insert(key, None);
            }
        }
        let more = gone.len() >= KEYS_ONCE;
        self.index
            .apply(gone.into_keys().map(|key| (key, None)), None)?;
        Ok(more)
    }

    /// The number of entries in the index.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let written = self.index.entries();
        let pending = self.pending();
        let new = pending.entries.keys();
        written.len() + new.filter(|key| !written.contains_key(key)).count()
    }

    fn number(&self, key: IndexKey) -> Result<Option<u64>, IndexError> {
        self.get(key)?.map(|value| number(&value)).transpose()
    }
}

/// The document to which an idempotency key is bound.
struct BoundKey {
    at: Timestamp,
    /// The number of the document's record.
    seq: u64,
    location: RecordLocation,
}

impl BoundKey {
    fn encode(&self) -> Vec<u8> {
        let mut value = self.at.as_millis().to_le_bytes().to_vec();
        value.extend_from_slice(&self.seq.to_le_bytes());
        value.extend_from_slice(&self.location.encode_body());
        value
    }

    fn decode(value: &[u8]) -> Result<Self, IndexError> {
        let place = value.get(16..).unwrap_or_default();
        Ok(Self {
            location: location(place)?,
            at: Timestamp::from_millis(u64_at(value, 0)),
            seq: u64_at(value, 8),
        })
    }
}

fn cloned((key, value): (&IndexKey, &Option<Vec<u8>>)) -> (IndexKey, Option<Vec<u8>>) {
    (*key, value.clone())
}

fn location(value: &[u8]) -> Result<RecordLocation, IndexError> {
    RecordLocation::decode_body(value).ok_or_else(|| IndexError::damaged("a location"))
}

fn number(value: &[u8]) -> Result<u64, IndexError> {
    let bytes = value.try_into();
    let bytes = bytes.map_err(|_| IndexError::damaged("a number"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The index, and the number of the last record that it has. An unreadable index is rebuilt.
fn open_index(
    path: &Path,
    journal_folder: &Path,
    journal: &Journal,
) -> Result<(Index, u64), OpenError> {
    let io = |error| OpenError::io(path, error);
    let mark = condemned(path);
    if mark.try_exists().map_err(io)? {
        tracing::warn!(path = %path.display(), "messages: the damaged index is rebuilt from the journal");
        if path.try_exists().map_err(io)? {
            fs::remove_dir_all(path).map_err(io)?;
        }
        fs::remove_file(mark).map_err(io)?;
    }
    if path.try_exists().map_err(io)? {
        let opened = Index::open(path).and_then(|index| Ok((index.meta()?, index)));
        let reason = match opened {
            Ok((Some(meta), index)) if meta.seq <= journal.last_seq() => {
                return Ok((index, meta.seq));
            }
            Ok((Some(meta), _)) => {
                return Err(OpenError::CutShort {
                    path: journal_folder.to_owned(),
                    last: journal.last_seq(),
                    known: meta.seq,
                });
            }
            Ok((None, _)) => "it was never completed".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %path.display(), reason, "messages: the index is rebuilt from the journal");
        fs::remove_dir_all(path).map_err(io)?;
    }
    let index = Index::open(path).map_err(|error| unmade(path, &error))?;
    Ok((index, 0))
}

/// The file that marks an index that was found damaged while it was used.
fn condemned(index: &Path) -> PathBuf {
    index.with_extension("damaged")
}

fn unmade(path: &Path, error: &IndexError) -> OpenError {
    OpenError::Index {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
