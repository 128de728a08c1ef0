//! Owns the index on disk; no other module uses sled.
//!
//! Is not the source of truth: all of it can be rebuilt from the journal.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(in crate::store) use super::index_error::IndexError;
use super::open_mail::{LedgerTotals, OpenMail};
use crate::mail::job_id::JobId;
use crate::mail::text::bare_message_id;
use crate::mail::token::ThreadKey;
use crate::store::id::EventId;
use crate::store::id::MailId;
use crate::store::job::ConversationKey;

/// The size in bytes of the serialized pages that sled keeps in memory. There they take three to four times
/// as much. Other pages are read from disk when they are needed.
const CACHE_BYTES: u64 = 8 << 20;
/// Entries in one atomic write: with more, look-ups wait longer; with fewer, each costs more.
const BATCH_ENTRIES_MAX: usize = 128;
/// A new format of entries needs a new name here; an index of the old format is then rebuilt.
const META: &[u8] = b"!5";

/// A part of the index: entries in key order; `None` is a removed one.
pub(super) type IndexEntries = BTreeMap<IndexKey, Option<Vec<u8>>>;

/// The key of an entry: its kind, and 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct IndexKey([u8; 17]);

impl IndexKey {
    /// The key of a thread's mapping. It includes the route, because products of two routes may use the
    /// same ids.
    pub(super) fn thread(route: &str, key: ThreadKey) -> Self {
        Self::tagged(Self::THREAD, digest(&[route.as_bytes(), &key.0]))
    }

    /// The key of a Message-ID. Incoming mails have separate entries, so that they never replace those of
    /// sent mails.
    pub(super) fn message_id(route: &str, message_id: &str, sent_by_us: bool) -> Self {
        let bare = bare_message_id(message_id);
        let tag = if sent_by_us { b'o' } else { b'i' };
        Self::tagged(tag, digest_text(&[route, bare]))
    }

    pub(super) fn subject(route: &str, sender: &str, subject: &str) -> Self {
        Self::tagged(b's', digest_text(&[route, sender, subject]))
    }

    pub(super) const fn issued_token(token: [u8; 16]) -> Self {
        Self::tagged(b'k', token)
    }

    pub(super) const fn revoked(token: [u8; 16]) -> Self {
        Self::tagged(b'r', token)
    }

    pub(super) const fn nonce(word: [u8; 16]) -> Self {
        Self::tagged(b'x', word)
    }

    pub(super) fn imap_position(mailbox: &str) -> Self {
        Self::tagged(b'p', digest_text(&[mailbox]))
    }

    pub(super) const fn fingerprint(fingerprint: [u8; 16]) -> Self {
        Self::tagged(b'f', fingerprint)
    }

    /// The key of a mail that is not settled for all its recipients.
    pub(super) const fn open_mail(mail: MailId) -> Self {
        Self::numbered(b'a', mail.0)
    }

    /// The key of a settled mail with a relocated copy on disk.
    pub(super) const fn tombstone(mail: MailId) -> Self {
        Self::numbered(b'g', mail.0)
    }

    pub(super) const THREAD: u8 = b't';
    pub(super) const OPEN_JOB: u8 = b'j';
    pub(super) const SETTLED_JOB: u8 = b'z';
    pub(super) const EVENT: u8 = b'e';
    pub(super) const RECENT: u8 = b'q';
    pub(super) const SUPPRESSED: u8 = b'u';

    /// The key of a job that is waiting, failed or captured.
    pub(super) const fn open_job(id: JobId) -> Self {
        Self::tagged(Self::OPEN_JOB, id.0)
    }

    /// The key of a job without a stored mail.
    pub(super) const fn settled_job(id: JobId) -> Self {
        Self::tagged(Self::SETTLED_JOB, id.0)
    }

    /// The key of a job by its request key.
    pub(super) const fn job_key(key: [u8; 16]) -> Self {
        Self::tagged(b'y', key)
    }

    /// The key of a recently settled job, by the number of the fact that settled it.
    pub(super) const fn recent_job(seq: u64) -> Self {
        Self::numbered(Self::RECENT, seq)
    }

    pub(super) const fn event(id: EventId) -> Self {
        Self::numbered(Self::EVENT, id.0)
    }

    pub(super) fn suppression(address: &str) -> Self {
        Self::tagged(Self::SUPPRESSED, digest_text(&[address]))
    }

    pub(super) fn last_message(talk: &ConversationKey, by_us: bool) -> Self {
        let side = if by_us { "us" } else { "them" };
        let parts = [side, &talk.route, &talk.thread_id, &talk.with];
        Self::tagged(b'w', digest_text(&parts))
    }

    pub(super) fn cursor(subscriber: &str) -> Self {
        Self::tagged(b'h', digest_text(&[subscriber]))
    }

    pub(super) const DOCUMENT_THREAD: u8 = b'c';
    pub(super) const DOCUMENT_MESSAGE: u8 = b'm';
    pub(super) const IDEMPOTENCY_KEY_BY_AGE: u8 = b'b';

    /// The key of a thread of the embedded Messages API, by the number of its first record.
    pub(super) const fn document_thread(thread: u64) -> Self {
        Self::numbered(Self::DOCUMENT_THREAD, thread)
    }

    /// The key of a thread of the embedded Messages API, by its id.
    pub(super) fn document_thread_id(id: &str) -> Self {
        Self::tagged(b'd', digest_text(&[id]))
    }

    /// The key of a message, by its thread and the number of its record.
    pub(super) fn document_message(thread: u64, message: u64) -> Self {
        let numbers = u128::from(thread) << 64 | u128::from(message);
        Self::tagged(Self::DOCUMENT_MESSAGE, numbers.to_be_bytes())
    }

    /// The key of a message by its id.
    pub(super) fn document_message_id(thread: u64, id: &str) -> Self {
        let name = digest(&[&thread.to_be_bytes(), id.as_bytes()]);
        Self::tagged(b'n', name)
    }

    /// The key of an `Idempotency-Key` of the embedded Messages API.
    pub(super) fn idempotency_key(key: &str) -> Self {
        Self::tagged(b'v', digest_text(&[key]))
    }

    /// The key of an `Idempotency-Key`, by the number of the record that it came with.
    pub(super) const fn idempotency_key_by_age(record: u64) -> Self {
        Self::numbered(Self::IDEMPOTENCY_KEY_BY_AGE, record)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 17] {
        &self.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(*bytes.first_chunk()?))
    }

    /// Kinds of entries that contain their whole fact, and do not depend on other entries.
    pub(super) const WHOLE: [u8; 10] = *b"ioskrxpfuh";

    /// An entry in the form in which the journal keeps it.
    pub(super) fn raw_entry(self, value: &[u8]) -> RawEntry {
        RawEntry {
            key: HEXLOWER.encode(&self.0),
            value: HEXLOWER.encode(value),
        }
    }

    /// Parses the output of [`IndexKey::raw_entry`].
    pub(super) fn parse_entry(entry: &RawEntry) -> Option<(Self, Vec<u8>)> {
        let key = HEXLOWER.decode(entry.key.as_bytes()).ok()?;
        let value = HEXLOWER.decode(entry.value.as_bytes()).ok()?;
        Some((Self(key.try_into().ok()?), value))
    }

    /// The bounds of all keys of a kind.
    pub(super) const fn bounds(tag: u8) -> (Self, Self) {
        (Self::tagged(tag, [0; 16]), Self::tagged(tag, [u8::MAX; 16]))
    }

    #[cfg(test)]
    pub(in crate::store) const fn kind(self) -> u8 {
        self.0[0]
    }

    const fn tagged(tag: u8, name: [u8; 16]) -> Self {
        let mut key = [tag; 17];
        let mut at = 0;
        while at < 16 {
            key[at + 1] = name[at];
            at += 1;
        }
        Self(key)
    }

    const fn numbered(tag: u8, number: u64) -> Self {
        let number = number.to_be_bytes();
        let mut name = [0; 16];
        let mut at = 0;
        while at < 8 {
            name[at] = number[at];
            at += 1;
        }
        Self::tagged(tag, name)
    }
}

/// The index's description of itself, written with the entries for which it is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct IndexMeta {
    /// The number of the last record applied.
    pub(super) seq: u64,
    pub(super) totals: LedgerTotals,
    /// The newest state segment with a fact in the index; 0 if that is not recorded.
    #[serde(default)]
    pub(super) state_segment: u64,
    /// The number of the newest fact that the index has; 0 in an index of an older version.
    #[serde(default)]
    pub(super) state_seq: u64,
}

/// An unchanged entry of the index: its key and its value, both in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawEntry {
    pub(super) key: String,
    pub(super) value: String,
}

/// The index on disk.
#[derive(Clone, Debug)]
pub(in crate::store) struct Index {
    folder: PathBuf,
    /// `None` while a full disk keeps it closed.
    tree: Arc<RwLock<Option<sled::Db>>>,
}

impl Index {
    /// Opens the index in `folder`, or creates an empty one there.
    ///
    /// # Errors
    /// The folder's contents are damaged.
    pub(in crate::store) fn open(folder: &Path) -> Result<Self, IndexError> {
        Ok(Self::of(folder, Self::open_tree(folder)?))
    }

    fn of(folder: &Path, tree: sled::Db) -> Self {
        Self {
            folder: folder.to_owned(),
            tree: Arc::new(RwLock::new(Some(tree))),
        }
    }

    fn open_tree(folder: &Path) -> Result<sled::Db, IndexError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        // sled panics on some damage; an index on which it panics is discarded.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        opened
            .map_err(|_| IndexError::new("a panic while it was opened".to_owned()))?
            .map_err(index_error)
    }

    /// Closes the index after a failed write. Until it is open again, every question fails as on a full
    /// disk: sled may have lost pages that were not written.
    pub(super) fn close(&self) {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        *tree = None;
    }

    /// Opens a closed index, in which `write` replaces everything that was not flushed before anyone reads.
    ///
    /// # Errors
    /// The index stays closed: it cannot be opened or written, or it lacks the record `flushed`.
    pub(super) fn reopen(
        &self,
        flushed: u64,
        write: impl FnOnce(&Self) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let tree = Self::open_tree(&self.folder)?;
        let opened = Self::of(&self.folder, tree.clone());
        if opened.meta()?.is_none_or(|meta| meta.seq < flushed) {
            return Err(IndexError::damaged("the flushed part"));
        }
        write(&opened)?;
        *self.tree.write().unwrap_or_else(PoisonError::into_inner) = Some(tree);
        Ok(())
    }

    fn with<T>(
        &self,
        question: impl FnOnce(&sled::Db) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        match &*tree {
            Some(tree) => question(tree),
            None => Err(io::Error::from(io::ErrorKind::StorageFull).into()),
        }
    }

    /// `None` if the index was never completed.
    pub(super) fn meta(&self) -> Result<Option<IndexMeta>, IndexError> {
        let found = self.with(|tree| catch_panic(|| tree.get(META)))?;
        let Some(bytes) = found else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| IndexError::new(e.to_string()))
    }

    pub(super) fn get(&self, key: IndexKey) -> Result<Option<Vec<u8>>, IndexError> {
        let found = self.with(|tree| tree.get(key.0).map_err(index_error))?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }

    /// Writes entries (`None` removes one). `meta` is written with the last of them.
    ///
    /// The write is not atomic. After an interruption the old meta is valid, and applying the same records
    /// again gives the same entries.
    pub(in crate::store) fn apply<'a>(
        &self,
        entries: impl Iterator<Item = (IndexKey, Option<&'a [u8]>)>,
        meta: Option<&IndexMeta>,
    ) -> Result<(), IndexError> {
        self.with(|tree| apply_to(tree, entries, meta))
    }

    /// All entries.
    #[cfg(test)]
    pub(in crate::store) fn entries(&self) -> std::collections::HashMap<IndexKey, Vec<u8>> {
        self.with(|tree| {
            let entries = tree.iter().map(|entry| entry.unwrap());
            let entries = entries.filter(|(key, _)| key != META);
            Ok(entries
                .map(|(key, value)| (IndexKey(key.as_ref().try_into().unwrap()), value.to_vec()))
                .collect())
        })
        .unwrap()
    }

    /// Passes all writes to the kernel. A power failure may still lose some of them.
    pub(in crate::store) fn flush(&self) -> Result<(), IndexError> {
        self.with(|tree| tree.flush().map(|_| ()).map_err(index_error))
    }

    /// Every mail that was not settled for all its recipients.
    pub(super) fn open_mails(&self) -> Result<Vec<(MailId, OpenMail)>, IndexError> {
        let read = |value: &[u8]| {
            serde_json::from_slice::<OpenMail>(value).map_err(|e| IndexError::new(e.to_string()))
        };
        self.numbered(b'a', read)
    }

    /// Every settled mail with a relocated copy on disk, with the copy's segment.
    pub(super) fn tombstones(&self) -> Result<Vec<(MailId, u64)>, IndexError> {
        let read = |value: &[u8]| match value.first_chunk::<8>() {
            Some(number) => Ok(u64::from_le_bytes(*number)),
            None => Err(IndexError::new("a short entry".to_owned())),
        };
        self.numbered(b'g', read)
    }

    /// Passes every entry of a kind to `show`: its number and its payload. If `show` returns `None`, the
    /// entry is damaged.
    pub(super) fn for_each(
        &self,
        tag: u8,
        mut show: impl FnMut(u64, &[u8]) -> Option<()>,
    ) -> Result<(), IndexError> {
        self.with(|tree| {
            let walk = AssertUnwindSafe(|| {
                for found in tree.scan_prefix([tag]) {
                    let (_, value) = found.map_err(index_error)?;
                    let shown = value
                        .split_first_chunk()
                        .and_then(|(seq, payload)| show(u64::from_le_bytes(*seq), payload));
                    shown.ok_or_else(|| IndexError::damaged("an entry"))?;
                }
                Ok(())
            });
            catch_unwind(walk).map_err(|_| read_panic())?
        })
    }

    /// True if the index has a revoked token.
    pub(super) fn has_revocations(&self) -> Result<bool, IndexError> {
        let first = IndexKey::revoked([0; 16]);
        let is_first = self.get(first)?.is_some();
        Ok(is_first || !self.range_after(b'r', first, 1)?.is_empty())
    }

    /// The next entries of a kind after `after`, at most `count`.
    pub(super) fn range_after(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
    ) -> Result<Vec<(IndexKey, Vec<u8>)>, IndexError> {
        let (_, last) = IndexKey::bounds(tag);
        let behind = (
            Bound::Excluded(after.0.as_slice()),
            Bound::Included(last.0.as_slice()),
        );
        let entry = |found: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = found.map_err(index_error)?;
            let key = key.as_ref().try_into();
            let key = key.map_err(|_| IndexError::damaged("a key"))?;
            Ok((IndexKey(key), value.to_vec()))
        };
        self.with(|tree| {
            let range = tree.range::<&[u8], _>(behind);
            range.take(count).map(entry).collect()
        })
    }

    /// The next entries of a kind after `after`, of which at most `count` are in the index, with the
    /// `pending` ones merged in.
    pub(super) fn merged_after(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
        pending: IndexEntries,
    ) -> Result<IndexEntries, IndexError> {
        let written = self.range_after(tag, after, count)?;
        let to = match written.last() {
            Some((last, _)) if written.len() == count => *last,
            _ => IndexKey::bounds(tag).1,
        };
        let mut entries: IndexEntries = written.into_iter().map(|(k, v)| (k, Some(v))).collect();
        entries.extend(pending.into_iter().filter(|(key, _)| *key <= to));
        Ok(entries)
    }

    fn numbered<T>(
        &self,
        tag: u8,
        read: impl Fn(&[u8]) -> Result<T, IndexError>,
    ) -> Result<Vec<(MailId, T)>, IndexError> {
        let entry = |found: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = found.map_err(index_error)?;
            let number = key.get(1..9).and_then(|b| b.first_chunk::<8>());
            let number = number.ok_or_else(|| IndexError::new("a short key".to_owned()))?;
            Ok((MailId(u64::from_be_bytes(*number)), read(&value)?))
        };
        self.with(|tree| {
            let walk = AssertUnwindSafe(|| tree.scan_prefix([tag]).map(entry).collect());
            catch_unwind(walk).map_err(|_| read_panic())?
        })
    }
}

fn apply_to<'a>(
    tree: &sled::Db,
    entries: impl Iterator<Item = (IndexKey, Option<&'a [u8]>)>,
    meta: Option<&IndexMeta>,
) -> Result<(), IndexError> {
    let mut batch = sled::Batch::default();
    let mut count = 0;
    for (key, value) in entries {
        match value {
            Some(value) => batch.insert(&key.0, value),
            None => batch.remove(&key.0),
        }
        count += 1;
        if count == BATCH_ENTRIES_MAX {
            tree.apply_batch(std::mem::take(&mut batch))
                .map_err(index_error)?;
            count = 0;
        }
    }
    if let Some(meta) = meta {
        let bytes = serde_json::to_vec(meta).map_err(|e| IndexError::new(e.to_string()))?;
        batch.insert(META, bytes);
    }
    tree.apply_batch(batch).map_err(index_error)
}

fn catch_panic<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| read_panic())?
        .map_err(index_error)
}

fn read_panic() -> IndexError {
    IndexError::new("a panic while it was read".to_owned())
}

fn index_error(error: sled::Error) -> IndexError {
    match error {
        sled::Error::Io(error) => error.into(),
        error => IndexError::new(error.to_string()),
    }
}

fn digest_text(parts: &[&str]) -> [u8; 16] {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    digest(&parts)
}

/// 16 bytes of a SHA-256 of the parts, each with its own end mark so that no two lists collide.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_kinds_of_entries_share_a_name() {
        let (mail, job, talk) = (MailId(7), JobId([7; 16]), ConversationKey::default());
        let keys = [
            IndexKey::thread("r", ThreadKey([7; 16])),
            IndexKey::message_id("r", "a@b", true),
            IndexKey::message_id("r", "a@b", false),
            IndexKey::subject("r", "s", "t"),
            IndexKey::issued_token([7; 16]),
            IndexKey::revoked([7; 16]),
            IndexKey::nonce([7; 16]),
            IndexKey::imap_position("p"),
            IndexKey::fingerprint([7; 16]),
            IndexKey::open_mail(mail),
            IndexKey::tombstone(mail),
            IndexKey::open_job(job),
            IndexKey::settled_job(job),
            IndexKey::job_key([7; 16]),
            IndexKey::recent_job(7),
            IndexKey::event(EventId(7)),
            IndexKey::suppression("a@b"),
            IndexKey::last_message(&talk, true),
            IndexKey::cursor("h"),
            IndexKey::document_thread(7),
            IndexKey::document_thread_id("t"),
            IndexKey::document_message(7, 7),
            IndexKey::document_message_id(7, "m"),
            IndexKey::idempotency_key("k"),
            IndexKey::idempotency_key_by_age(7),
        ];
        let tags: BTreeSet<u8> = keys.iter().map(|key| key.0[0]).collect();
        assert_eq!(tags.len(), keys.len());
        assert!(!tags.contains(&META[0]));
        assert_ne!(
            IndexKey::last_message(&talk, true),
            IndexKey::last_message(&talk, false)
        );
    }
}
