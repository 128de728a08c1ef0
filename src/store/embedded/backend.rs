//! Owns the embedded store as one type, shared by callers, writer and readers.
//!
//! Does not implement the four parts; each has its own module.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::disk::Disk;
use super::frame::{self, Record};
use super::in_flight::InFlightMessages;
use super::journal_writer::{StateRecord, WriteRequest};
use super::leases::{JobLeases, Leases};
use super::nonces::NonceCache;
use super::opening;
use super::questions::ReadFault;
use super::readers::Readers;
use super::shared::StoreShared;
use super::validator::EncodedFacts;
use super::writer_thread::WriterHandle;
use crate::clock::Timestamp;
use crate::store::door::{Claim, Lease, LeaseName, StoreBackend, TokenFacts, TokenQuestion, Work};
use crate::store::error::{OpenError, StoreError};
use crate::store::fact::Fact;
use crate::store::metrics::Metrics;
use crate::store::settings::Settings;

/// A store in a folder that belongs to this process alone.
pub(in crate::store) struct EmbeddedStore {
    pub(super) shared: Arc<StoreShared>,
    pub(super) writer: WriterHandle<WriteRequest>,
    readers: Readers,
    pub(super) leases: Arc<Leases>,
    pub(super) in_flight: Arc<InFlightMessages>,
    pub(super) nonces: NonceCache,
    pub(super) job_leases: Arc<JobLeases>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = &self.shared.settings.folder;
        f.debug_struct("EmbeddedStore")
            .field("folder", folder)
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the folder, or creates a store there. Blocks while the last segments of the journal, and
    /// records that the index lacks, are read.
    pub(in crate::store) fn open(
        settings: Settings,
        now: Timestamp,
        disk: Disk,
    ) -> Result<Self, OpenError> {
        let folder = settings.folder.clone();
        let (shared, writer) = opening::open(settings, disk)?;
        // The journal's time is that of its newest fact, and that clock may have been wrong.
        shared.state_mut().newest_at = now;
        let readers = Readers::start("postern-read").map_err(|e| OpenError::io(&folder, e))?;
        Ok(Self {
            shared,
            writer,
            readers,
            leases: Arc::default(),
            in_flight: Arc::default(),
            nonces: NonceCache::default(),
            job_leases: Arc::default(),
        })
    }

    /// Makes the index fail, as a test of the shutdown.
    #[cfg(test)]
    pub(in crate::store) fn fail_index(&self) {
        let error = super::index::IndexError::damaged("a test's index");
        self.shared.index_failed(&error);
    }

    /// The number of the last record whose changes are in the index and flushed.
    #[cfg(test)]
    pub(in crate::store) fn index_flushed(&self) -> u64 {
        self.shared.flushed()
    }

    /// Runs a question on a reader thread.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&StoreShared) -> Result<T, ReadFault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_raw(move |shared| question(shared).map_err(|fault| shared.judge(fault)))
            .await?
    }

    /// A variant of [`EmbeddedStore::read`] for questions with their own error type.
    pub(super) async fn read_raw<T: Send + 'static>(
        &self,
        question: impl FnOnce(&StoreShared) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.shared.has_failed() {
            return Err(StoreError::Dead);
        }
        let shared = Arc::clone(&self.shared);
        let ask = move || {
            let answer = question(&shared);
            // Dropped before the answer: the caller may close the store at once.
            drop(shared);
            answer
        };
        self.readers.run(ask).await
    }
}

#[async_trait]
impl StoreBackend for EmbeddedStore {
    async fn record(&self, facts: Vec<Fact>) -> Result<(), StoreError> {
        let facts = encode_facts(facts);
        if facts.iter().map(|(_, r)| r.bytes()).sum::<usize>() > frame::RECORD_BYTES_MAX {
            return Err(StoreError::Full);
        }
        let ask = |answer| WriteRequest::Record { facts, answer };
        self.writer.submit(ask).await
    }

    async fn finish(&self, _: &Claim, facts: Vec<Fact>) -> Result<(), StoreError> {
        self.record(facts).await
    }

    async fn token_facts(
        &self,
        question: TokenQuestion,
        now: Timestamp,
    ) -> Result<TokenFacts, StoreError> {
        let since = now.minus(self.shared.settings.dedupe_window);
        self.read(move |shared| shared.token_facts(&question, since))
            .await
    }

    async fn claim(&self, _: Work) -> Result<Claim, StoreError> {
        Ok(Claim::ALL)
    }

    async fn lease(&self, name: LeaseName) -> Result<Lease, StoreError> {
        Ok(self.leases.take(name).await)
    }

    async fn try_lease(&self, name: LeaseName) -> Result<Option<Lease>, StoreError> {
        Ok(self.leases.try_take(name))
    }

    fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    async fn ended(&self) {
        self.writer.ended().await;
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
    }
}

/// The facts with their records.
pub(super) fn encode_facts(facts: Vec<Fact>) -> EncodedFacts {
    let write = |fact| {
        let note = StateRecord::Fact(fact);
        let record: Record = note.record();
        match note {
            StateRecord::Fact(fact) => Some((fact, record)),
            _ => None,
        }
    };
    facts.into_iter().filter_map(write).collect()
}
