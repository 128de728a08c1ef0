//! Owns the embedded Messages API's threads and messages, in a separate journal with its own index.
//!
//! Does not speak HTTP, and does not interpret messages: a document is stored unchanged, with an id and a
//! time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::disk::Disk;
use super::folder::{self as data_folder, FolderLock};
use super::frame::Record;
use super::index::IndexError;
use super::journal::Journal;
use super::location::{RecordLocation, RecordReader};
use super::readers::Readers;
use super::segment::SegmentKind;
use super::writer_thread::WriterHandle;
use crate::clock::Timestamp;
use crate::store::error::{OpenError, StoreError};
use crate::store::metrics::Metrics;

use catalogue::{Catalogue, DocumentHead};
use writer::DocumentWriter;

mod catalogue;
mod writer;

#[cfg(test)]
mod tests;

/// Octets of free space without which a closed index is not opened.
const SPACE_MIN: u64 = 8 << 20;

/// Bounds of a page of documents.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// The number of documents.
    pub items: usize,
    /// The size of the JSON in bytes above which a page ends, including the document that exceeds it.
    pub bytes: usize,
}

/// A page of documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DocumentPage {
    /// The documents.
    pub items: Vec<Value>,
    /// True if more follow.
    pub has_more: bool,
}

/// The embedded Messages API's threads and messages. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct EmbeddedMessages {
    documents: Arc<DocumentStore>,
    readers: Arc<Readers>,
    writer: WriterHandle<DocumentRequest>,
}

impl EmbeddedMessages {
    /// Opens the documents in `folder`, or creates the folder. Blocks while the last records of the journal
    /// are read, or all records if there is no index.
    ///
    /// # Errors
    /// The folder is in use, damaged, or of a newer version; or the disk fails.
    pub fn open(folder: PathBuf, now: Timestamp) -> Result<Self, OpenError> {
        const SEGMENT_BYTES: u64 = 16 << 20;
        data_folder::make_folder(&folder)?;
        let journal_folder = folder.join("journal");
        data_folder::make_folder(&journal_folder)?;
        let lock = data_folder::lock(&folder)?;
        let used = data_folder::check_version(&folder)?;
        let metrics = Metrics::default();
        let journal = Journal::open(&journal_folder, SEGMENT_BYTES, Disk::default(), metrics)?;
        // Documents are never deleted.
        if journal
            .sealed(SegmentKind::State)
            .keys()
            .next()
            .is_some_and(|&first| first != 1)
        {
            return Err(OpenError::Missing {
                path: journal_folder.join(SegmentKind::State.file_name(1)),
            });
        }
        let catalogue = Catalogue::open(&folder, &journal)?;
        if !used {
            data_folder::write_version(&folder)?;
        }
        let shelf = Arc::new(DocumentStore {
            folder: folder.clone(),
            reader: RecordReader::new(journal_folder, SegmentKind::State, Disk::default()),
            catalogue,
            _lock: lock,
        });
        let batch_writer = DocumentWriter::new(journal, Arc::clone(&shelf), now);
        let writer = WriterHandle::start("postern-book", batch_writer)
            .map_err(|e| OpenError::io(&folder, e))?;
        let readers = Readers::start("postern-messages").map_err(|e| OpenError::io(&folder, e))?;
        Ok(Self {
            documents: shelf,
            readers: Arc::new(readers),
            writer,
        })
    }

    /// Makes a thread unless `key` (the Idempotency-Key) already made one; returns it, with `id` and
    /// `createdAt`, after it is on disk.
    ///
    /// # Errors
    /// `Full`, or `Dead`.
    pub async fn make_thread(
        &self,
        key: Option<String>,
        thread: Value,
        now: Timestamp,
    ) -> Result<Value, StoreError> {
        let command = DocumentCommand::MakeThread { thread };
        let made = self.ask(command, key, now).await?;
        made.ok_or(StoreError::Dead)
    }

    /// Adds a message to a thread unless `key` already did; returns it, with `id`, `threadId` and
    /// `createdAt`, after it is on disk; `None` if there is no such thread.
    ///
    /// # Errors
    /// `Full`, or `Dead`.
    pub async fn add_message(
        &self,
        thread: &str,
        key: Option<String>,
        message: Value,
        now: Timestamp,
    ) -> Result<Option<Value>, StoreError> {
        let thread = thread.to_owned();
        self.ask(DocumentCommand::AddMessage { thread, message }, key, now)
            .await
    }

    /// Merges `metadata` into the thread's; a `null` removes a field. `None` if there is no such thread.
    ///
    /// # Errors
    /// `Full`, or `Dead`.
    pub async fn patch_thread(
        &self,
        thread: &str,
        metadata: Value,
        now: Timestamp,
    ) -> Result<Option<Value>, StoreError> {
        let thread = thread.to_owned();
        self.ask(DocumentCommand::Patch { thread, metadata }, None, now)
            .await
    }

    /// The threads made after `after` (a thread's id; `None`: from the first), oldest first. Empty if there
    /// is no thread `after`.
    ///
    /// # Errors
    /// The documents cannot be read now.
    pub async fn threads(
        &self,
        after: Option<&str>,
        limit: PageLimit,
    ) -> Result<DocumentPage, StoreError> {
        let after = after.map(str::to_owned);
        self.read(move |documents| {
            let catalogue = &documents.catalogue;
            let locations = catalogue.threads_after(after.as_deref(), limit.items + 1)?;
            Ok(documents.page(locations, limit))
        })
        .await
    }

    /// A thread.
    ///
    /// # Errors
    /// The document cannot be read now.
    pub async fn thread(&self, id: &str) -> Result<Option<Value>, StoreError> {
        let id = id.to_owned();
        self.read(move |documents| {
            let location = documents.catalogue.thread(&id)?;
            Ok(location.and_then(|location| documents.document(location)))
        })
        .await
    }

    /// The messages of a thread after `after` (a message's id; `None`: from the first), oldest first;
    /// `None` if there is no such thread.
    ///
    /// # Errors
    /// The documents cannot be read now.
    pub async fn messages(
        &self,
        thread: &str,
        after: Option<&str>,
        limit: PageLimit,
    ) -> Result<Option<DocumentPage>, StoreError> {
        let (thread, after) = (thread.to_owned(), after.map(str::to_owned));
        self.read(move |documents| {
            let catalogue = &documents.catalogue;
            let locations = catalogue.messages_after(&thread, after.as_deref(), limit.items + 1)?;
            Ok(locations.map(|locations| documents.page(locations, limit)))
        })
        .await
    }

    /// Reads documents on a thread that may block on the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&DocumentStore) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let documents = Arc::clone(&self.documents);
        let read = move || {
            let answer = read(&documents);
            let answer = answer.map_err(|error| documents.index_failed(&error));
            // Dropped before the answer: the caller may close the store at once.
            drop(documents);
            answer
        };
        let answer = self.readers.run(read).await?;
        answer.map_err(|()| StoreError::Unavailable)
    }

    /// Resolves when no further document can be stored: the store was closed, or the disk failed.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Writes pending changes and stops. The folder is free for another process when this returns and no
    /// other clone is left.
    pub async fn close(self) {
        self.writer.close().await;
        self.readers.close().await;
    }

    async fn ask(
        &self,
        command: DocumentCommand,
        key: Option<String>,
        now: Timestamp,
    ) -> Result<Option<Value>, StoreError> {
        let ask = |answer| DocumentRequest {
            command,
            key,
            now,
            answer,
        };
        self.writer.submit(ask).await
    }
}

/// A request to the writer.
#[derive(Debug)]
struct DocumentRequest {
    command: DocumentCommand,
    key: Option<String>,
    now: Timestamp,
    answer: oneshot::Sender<Result<Option<Value>, StoreError>>,
}

#[derive(Debug)]
enum DocumentCommand {
    MakeThread { thread: Value },
    AddMessage { thread: String, message: Value },
    Patch { thread: String, metadata: Value },
}

/// The state that the threads share.
#[derive(Debug)]
struct DocumentStore {
    folder: PathBuf,
    reader: RecordReader,
    catalogue: Catalogue,
    _lock: FolderLock,
}

impl DocumentStore {
    /// The documents at these locations, up to the bounds of a page. An unreadable one is logged and left
    /// out.
    fn page(&self, locations: Vec<RecordLocation>, limit: PageLimit) -> DocumentPage {
        let mut page = DocumentPage::default();
        let mut bytes = 0;
        for location in locations {
            if page.items.len() == limit.items || bytes > limit.bytes {
                page.has_more = true;
                break;
            }
            if let Some(document) = self.document(location) {
                bytes += location.body_bytes as usize;
                page.items.push(document);
            }
        }
        page
    }

    fn document(&self, location: RecordLocation) -> Option<Value> {
        self.read(location).ok()
    }

    fn read(&self, location: RecordLocation) -> Result<Value, UnreadableDocument> {
        let read = self.reader.body(location);
        let document = read.and_then(|body| Ok(serde_json::from_slice(&body)?));
        document.map_err(|error| {
            let segment = SegmentKind::State.file_name(location.segment);
            tracing::error!(segment, %error, "book: a document cannot be read");
            UnreadableDocument { is_full: false }
        })
    }

    /// Logs a failure of the index. One that a full disk did not cause is a damage, and the next start rebuilds
    /// the index.
    fn index_failed(&self, error: &IndexError) {
        if !error.is_full() {
            self.catalogue.condemn();
            tracing::error!(%error, "messages: the index failed; the next start rebuilds it");
        }
    }

    fn unread(&self, error: &IndexError) -> UnreadableDocument {
        self.index_failed(error);
        UnreadableDocument {
            is_full: error.is_full(),
        }
    }

    fn has_space(&self) -> bool {
        let disk = rustix::fs::statvfs(&self.folder);
        disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= SPACE_MIN)
    }
}

/// A stored document cannot be read; the error was logged where it occurred.
#[derive(Debug)]
struct UnreadableDocument {
    /// True if a full disk prevents the reading of the index.
    is_full: bool,
}

/// The writes of one batch, and their effects on later requests of the batch.
#[derive(Default)]
struct DocumentBatch {
    records: Vec<Record>,
    entries: Vec<DocumentHead>,
    answers: Vec<DocumentAnswer>,
    threads: RecentThreads,
    keys: HashMap<String, Value>,
    /// True if a full disk prevented the reading of the index.
    is_full: bool,
}

/// Threads that were made or changed recently, so that a change needs no read.
#[derive(Debug, Default)]
struct RecentThreads {
    documents: HashMap<String, Value>,
    /// The size of all records of these threads since the table was last emptied.
    bytes: usize,
}

/// An answer that is sent after the batch is on disk.
struct DocumentAnswer {
    to: oneshot::Sender<Result<Option<Value>, StoreError>>,
    document: Option<Value>,
}

impl DocumentBatch {
    fn write(&mut self, shelf: &DocumentStore, request: DocumentRequest) {
        let DocumentRequest {
            command,
            key,
            now,
            answer,
        } = request;
        // A key belongs to one operation on one thread, so that two operations with the same key do not
        // collide.
        let key = key.map(|key| match &command {
            DocumentCommand::AddMessage { thread, .. } => format!("message {thread} {key}"),
            DocumentCommand::MakeThread { .. } | DocumentCommand::Patch { .. } => {
                format!("thread {key}")
            }
        });
        let done = key
            .as_ref()
            .map_or(Ok(None), |key| self.existing_result(shelf, key, now));
        let applied = match done {
            Ok(Some(document)) => return self.answer(answer, Some(document)),
            Ok(None) => self.apply(shelf, command, now),
            Err(unread) => Err(unread),
        };
        let (mut entry, document) = match applied {
            Ok(Some(applied)) => applied,
            Ok(None) => return self.answer(answer, None),
            // To continue would repeat an operation, or deny an existing document.
            Err(unread) => {
                self.is_full |= unread.is_full;
                let _ = answer.send(Err(StoreError::Full));
                return;
            }
        };
        entry.key.clone_from(&key);
        if let Some(key) = key {
            self.keys.insert(key, document.clone());
        }
        let record = record(&entry, &document);
        if entry.message.is_none() {
            self.threads.bytes += record.bytes();
        }
        self.records.push(record);
        self.entries.push(entry);
        self.answer(answer, Some(document));
    }

    fn answer(
        &mut self,
        to: oneshot::Sender<Result<Option<Value>, StoreError>>,
        document: Option<Value>,
    ) {
        self.answers.push(DocumentAnswer { to, document });
    }

    /// The earlier result of this key.
    fn existing_result(
        &self,
        shelf: &DocumentStore,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<Value>, UnreadableDocument> {
        if let Some(document) = self.keys.get(key) {
            return Ok(Some(document.clone()));
        }
        let location = shelf.catalogue.keyed(key, now);
        let location = location.map_err(|error| shelf.unread(&error))?;
        location.map(|location| shelf.read(location)).transpose()
    }

    /// `None` if there is no such thread.
    fn apply(
        &mut self,
        shelf: &DocumentStore,
        command: DocumentCommand,
        now: Timestamp,
    ) -> Result<Option<(DocumentHead, Value)>, UnreadableDocument> {
        let id = uuid::Uuid::new_v4().to_string();
        let entry = |thread: &str, message| DocumentHead {
            thread: thread.to_owned(),
            message,
            key: None,
            at: now,
        };
        match command {
            DocumentCommand::MakeThread { thread } => {
                let document = document(thread, &[("id", &id)], now);
                self.threads.documents.insert(id.clone(), document.clone());
                Ok(Some((entry(&id, None), document)))
            }
            DocumentCommand::AddMessage { thread, message } => {
                let known = self.threads.documents.contains_key(&thread);
                let stored = || shelf.catalogue.thread(&thread);
                if !known && stored().map_err(|error| shelf.unread(&error))?.is_none() {
                    return Ok(None);
                }
                let document = document(message, &[("id", &id), ("threadId", &thread)], now);
                Ok(Some((entry(&thread, Some(id)), document)))
            }
            DocumentCommand::Patch { thread, metadata } => {
                let threads = &mut self.threads.documents;
                if !threads.contains_key(&thread) {
                    let location = shelf.catalogue.thread(&thread);
                    let location = location.map_err(|error| shelf.unread(&error))?;
                    let Some(location) = location else {
                        return Ok(None);
                    };
                    threads.insert(thread.clone(), shelf.read(location)?);
                }
                let document = threads.get_mut(&thread).map(|document| {
                    merge(document, metadata, now);
                    document.clone()
                });
                Ok(document.map(|document| (entry(&thread, None), document)))
            }
        }
    }
}

/// The given object with our fields added; any other value is replaced by an empty object.
fn document(given: Value, ours: &[(&str, &str)], now: Timestamp) -> Value {
    let mut fields = match given {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for (name, value) in ours {
        fields.insert((*name).to_owned(), Value::from(*value));
    }
    fields.insert("createdAt".to_owned(), Value::from(now.to_rfc3339()));
    Value::Object(fields)
}

fn merge(document: &mut Value, metadata: Value, now: Timestamp) {
    let Value::Object(fields) = document else {
        return;
    };
    let kept = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !kept.is_object() {
        *kept = Value::Object(Map::new());
    }
    if let (Value::Object(kept), Value::Object(new)) = (kept, metadata) {
        for (name, value) in new {
            if value.is_null() {
                kept.remove(&name);
            } else {
                kept.insert(name, value);
            }
        }
    }
    fields.insert("updatedAt".to_owned(), Value::from(now.to_rfc3339()));
}

#[expect(
    clippy::expect_used,
    reason = "an entry and a document have a JSON form"
)]
fn record(entry: &DocumentHead, document: &Value) -> Record {
    let head = serde_json::to_vec(entry).expect("an entry has a JSON form");
    let body = serde_json::to_vec(document).expect("a document has a JSON form");
    Record::new(head, Bytes::from(body))
}
