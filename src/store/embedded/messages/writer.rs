//! Owns the writer of the documents: the journal first, then the catalogue, and the wait for space.
//!
//! Does not know the operations on documents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalogue::WrittenDocument;
use super::{DocumentBatch, DocumentRequest, DocumentStore, RecentThreads};
use crate::clock::Timestamp;
use crate::store::embedded::index::IndexError;
use crate::store::embedded::journal::{AppendError, Journal};
use crate::store::embedded::writer_thread::{BatchWriter, WriterStopped};
use crate::store::error::StoreError;

/// The number of records whose entries wait in memory to be written to the index together. After a crash they
/// are added again from the journal.
const UNWRITTEN_MAX: usize = 512;
/// The pause before a closed index is opened again.
const REOPEN_WAIT: Duration = Duration::from_secs(1);
/// The number of times that a closed index is opened again although it fails for another reason than a full
/// disk.
const REOPEN_FAILURES_MAX: u32 = 10;

/// The size of the records of threads that stay in memory.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// The writer thread's part.
#[derive(Debug)]
pub(super) struct DocumentWriter {
    journal: Journal,
    shelf: Arc<DocumentStore>,
    /// The number of records whose entries are not in the index yet.
    unwritten: usize,
    threads: RecentThreads,
    /// The time of the newest request.
    newest_at: Timestamp,
    /// The time at which the index is opened again, while a full disk keeps it closed.
    stall: Option<Instant>,
    reopen_failures: u32,
    /// Documents in the journal that could not be added to the catalogue.
    unindexed: Vec<WrittenDocument>,
}

impl DocumentWriter {
    pub(super) fn new(journal: Journal, shelf: Arc<DocumentStore>, now: Timestamp) -> Self {
        Self {
            journal,
            shelf,
            unwritten: 0,
            threads: RecentThreads::default(),
            newest_at: now,
            stall: None,
            reopen_failures: 0,
            unindexed: Vec::new(),
        }
    }
}

impl BatchWriter for DocumentWriter {
    type Request = DocumentRequest;

    fn request_bytes(request: &DocumentRequest) -> usize {
        // Documents are parsed already; an estimate is enough to keep batches small.
        const DOCUMENT_BYTES: usize = 16 << 10;
        request.key.as_ref().map_or(0, String::len) + DOCUMENT_BYTES
    }

    fn commit(&mut self, requests: Vec<DocumentRequest>) -> Result<(), WriterStopped> {
        if !self.has_index()? {
            for request in requests {
                let _ = request.answer.send(Err(StoreError::Full));
            }
            return Ok(());
        }
        let mut page = DocumentBatch {
            threads: std::mem::take(&mut self.threads),
            ..DocumentBatch::default()
        };
        if page.threads.bytes > RECENT_BYTES_MAX {
            page.threads = RecentThreads::default();
        }
        for request in requests {
            self.newest_at = request.now;
            page.write(&self.shelf, request);
        }
        let is_full = page.is_full;
        match self.journal.append(&[], &page.records) {
            Ok(written) => {
                let places = (written.fact_seq..).zip(written.facts);
                let documents: Vec<WrittenDocument> = page
                    .entries
                    .into_iter()
                    .zip(places)
                    .map(|(head, (seq, location))| (head, seq, location))
                    .collect();
                self.index(documents)?;
                self.threads = page.threads;
                for answer in page.answers {
                    let _ = answer.to.send(Ok(answer.document));
                }
                if is_full && self.stall.is_none() {
                    self.stall();
                }
                Ok(())
            }
            Err(error) => {
                let (told, ends) = match error {
                    AppendError::Full => (StoreError::Full, Ok(())),
                    AppendError::Dead => (StoreError::Dead, Err(WriterStopped)),
                };
                for answer in page.answers {
                    let _ = answer.to.send(Err(told));
                }
                ends
            }
        }
    }

    fn maintain(&mut self) -> Result<bool, WriterStopped> {
        if self.unwritten < UNWRITTEN_MAX || self.stall.is_some() {
            return Ok(false);
        }
        let catalogue = &self.shelf.catalogue;
        let done = catalogue.forget_keys(self.newest_at).and_then(|more| {
            if !more {
                catalogue.flush()?;
            }
            Ok(more)
        });
        match done {
            Ok(true) => return Ok(true),
            Ok(false) => self.unwritten = 0,
            Err(error) if error.is_full() => self.stall(),
            Err(error) => return Err(self.stopped(&error)),
        }
        Ok(false)
    }

    fn close(mut self) {
        // An error here is in the log, and the next start repairs it.
        if let Err(error) = self.shelf.catalogue.flush() {
            self.shelf.index_failed(&error);
        }
        let _ = self.journal.close();
    }
}

impl DocumentWriter {
    /// Adds documents of the journal to the catalogue. If a full disk prevents it, they are added after the
    /// index is open again, and before any other document.
    fn index(&mut self, documents: Vec<WrittenDocument>) -> Result<(), WriterStopped> {
        if documents.is_empty() {
            return Ok(());
        }
        match self.shelf.catalogue.add(&documents) {
            Ok(()) => self.unwritten += documents.len(),
            Err(error) if error.is_full() => {
                self.unindexed = documents;
                self.stall();
            }
            Err(error) => return Err(self.stopped(&error)),
        }
        Ok(())
    }

    fn stopped(&self, error: &IndexError) -> WriterStopped {
        self.shelf.index_failed(error);
        WriterStopped
    }

    /// Closes the index until the disk has space: it may have lost what was not flushed.
    fn stall(&mut self) {
        tracing::error!("messages: no space for the index; no document is accepted until there is");
        self.shelf.catalogue.close();
        self.stall = Some(Instant::now() + REOPEN_WAIT);
    }

    /// True if the index is open; opens a closed one if its time has come and the disk has space.
    fn has_index(&mut self) -> Result<bool, WriterStopped> {
        let Some(next) = self.stall else {
            return Ok(true);
        };
        if Instant::now() < next {
            return Ok(false);
        }
        self.stall = Some(Instant::now() + REOPEN_WAIT);
        if !self.shelf.has_space() {
            return Ok(false);
        }
        match self.shelf.catalogue.reopen() {
            Ok(()) => {}
            Err(error) if error.is_full() => return Ok(false),
            Err(error) if self.reopen_failures < REOPEN_FAILURES_MAX => {
                self.reopen_failures += 1;
                tracing::warn!(%error, "messages: the index cannot be opened again yet");
                return Ok(false);
            }
            Err(error) => return Err(self.stopped(&error)),
        }
        (self.stall, self.unwritten, self.reopen_failures) = (None, 0, 0);
        tracing::info!("messages: the disk has space for the index again");
        let documents = std::mem::take(&mut self.unindexed);
        self.index(documents)?;
        Ok(self.stall.is_none())
    }
}
