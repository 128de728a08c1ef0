//! Owns the work of a store's writer thread: writing requests, applying them, answering.
//!
//! Does not free space; `maintenance` does.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::frame::Record;
use super::index::{Index, IndexError, RawEntry};
use super::journal::{AppendError, Appended, Journal};
use super::open_mail::LedgerTotals;
use super::shared::StoreShared;
use super::state::{ApplyContext, partitions};
use super::stored_job::StoredJob;
use super::validator::{EncodedFacts, EnqueueDecision, Validator};
use super::writer_thread::{BatchWriter, WriterHandle, WriterStopped, WriterWaker};
use crate::mail::envelope::Envelope;
use crate::mail::job_id::JobId;
use crate::store::error::StoreError;
use crate::store::fact::Fact;
use crate::store::id::EventId;
use crate::store::id::MailId;
use crate::store::job::EnqueueResult;

pub(super) use maintenance::Maintenance;

mod maintenance;

/// A record of a state segment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateRecord {
    Fact(Fact),
    Totals(LedgerTotals),
    /// The whole job, written before its older records are removed. The mail is the record's body, unless
    /// the job is settled.
    Job(Box<StoredJob>),
    /// A failed or captured job has expired.
    JobGone {
        job: JobId,
        captured: bool,
    },
    /// An entry of the index whose fact is lost.
    Entry(RawEntry),
    /// A record that a mend took out, or one that only uses a number.
    Void,
}

impl StateRecord {
    pub(super) fn record(&self) -> Record {
        Record::new(self.json(), Bytes::new())
    }

    #[expect(clippy::expect_used, reason = "every part of a note has a JSON form")]
    pub(super) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a note has a JSON form")
    }
}

/// A request to the journal's writer.
#[derive(Debug)]
pub(super) enum WriteRequest {
    Accept {
        envelope: Arc<Envelope>,
        record: Record,
        answer: oneshot::Sender<Result<MailId, StoreError>>,
    },
    Record {
        facts: EncodedFacts,
        answer: oneshot::Sender<Result<(), StoreError>>,
    },
    /// A job and its facts, the job first.
    Enqueue {
        facts: EncodedFacts,
        answer: oneshot::Sender<Result<EnqueueResult, StoreError>>,
    },
    /// The facts are recorded only if the job may be cancelled.
    Cancel {
        job: JobId,
        facts: EncodedFacts,
        answer: oneshot::Sender<Result<bool, StoreError>>,
    },
}

impl WriteRequest {
    /// Answers that the disk is full. A caller that was cancelled receives no answer.
    fn refuse(self) {
        match self {
            Self::Accept { answer, .. } => drop(answer.send(Err(StoreError::Full))),
            Self::Record { answer, .. } => drop(answer.send(Err(StoreError::Full))),
            Self::Enqueue { answer, .. } => drop(answer.send(Err(StoreError::Full))),
            Self::Cancel { answer, .. } => drop(answer.send(Err(StoreError::Full))),
        }
    }

    /// True if the caller no longer waits, so that nothing was acknowledged.
    fn is_given_up(&self) -> bool {
        match self {
            Self::Accept { answer, .. } => answer.is_closed(),
            Self::Enqueue { answer, .. } => answer.is_closed(),
            Self::Record { .. } | Self::Cancel { .. } => false,
        }
    }
}

/// The writer thread's part of the store.
#[derive(Debug)]
pub(super) struct JournalWriter {
    pub(super) journal: Journal,
    pub(super) shared: Arc<StoreShared>,
    pub(super) maintenance: Maintenance,
    /// The thread that writes the index.
    pub(super) indexing: Option<JoinHandle<()>>,
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.shared.close_index();
        if let Some(thread) = self.indexing.take() {
            // The panic is in the log already.
            let _ = thread.join();
        }
    }
}

impl BatchWriter for JournalWriter {
    type Request = WriteRequest;

    fn request_bytes(request: &WriteRequest) -> usize {
        match request {
            WriteRequest::Accept { record, .. } => record.bytes(),
            WriteRequest::Record { facts, .. }
            | WriteRequest::Enqueue { facts, .. }
            | WriteRequest::Cancel { facts, .. } => facts.iter().map(|(_, r)| r.bytes()).sum(),
        }
    }

    fn commit(&mut self, requests: Vec<WriteRequest>) -> Result<(), WriterStopped> {
        let shared = Arc::clone(&self.shared);
        let _index = shared.index_use();
        if shared.is_stalled() {
            requests.into_iter().for_each(WriteRequest::refuse);
            return Ok(());
        }
        // A caller without an answer receives the error that the store is dead.
        let sorted = self.build_batch(requests);
        let mut batch = sorted.map_err(|error| self.shared.index_failed(&error))?;
        if batch.facts.is_empty() && self.journal.has_skipped_numbers() {
            // Without this record, the numbers that a full disk skipped would look like lost facts.
            batch.facts.push(StateRecord::Void.record());
        }
        match self.journal.append(&batch.mails, &batch.facts) {
            Ok(written) => self.apply(batch, &written),
            Err(AppendError::Full) => {
                batch.refuse(StoreError::Full);
                Ok(())
            }
            Err(AppendError::Dead) => {
                batch.refuse(StoreError::Dead);
                Err(WriterStopped)
            }
        }
    }

    fn maintain(&mut self) -> Result<bool, WriterStopped> {
        let shared = Arc::clone(&self.shared);
        let _index = shared.index_use();
        self.run_maintenance()
    }

    fn close(mut self) {
        // An error here is in the log, and the next start repairs it.
        let _ = self.journal.close();
    }
}

/// Requests sorted by what they write.
#[derive(Debug, Default)]
struct WriteBatch {
    mails: Vec<Record>,
    accepts: Vec<AcceptAnswer>,
    facts: Vec<Record>,
    applied: Vec<Fact>,
    answers: Vec<FactAnswer>,
}

/// The recipient of an answer after facts are on disk.
#[derive(Debug)]
enum FactAnswer {
    Recorded(oneshot::Sender<Result<(), StoreError>>),
    Enqueued(
        oneshot::Sender<Result<EnqueueResult, StoreError>>,
        EnqueueResult,
    ),
    Cancelled(oneshot::Sender<Result<bool, StoreError>>, bool),
}

impl FactAnswer {
    // A caller that was cancelled receives no answer.
    fn answer(self, written: Result<(), StoreError>) {
        match self {
            Self::Recorded(answer) => {
                let _ = answer.send(written);
            }
            Self::Enqueued(answer, found) => {
                let _ = answer.send(written.map(|()| found));
            }
            Self::Cancelled(answer, done) => {
                let _ = answer.send(written.map(|()| done));
            }
        }
    }
}

/// The recipient of the answer to an accepted mail.
#[derive(Debug)]
struct AcceptAnswer {
    envelope: Arc<Envelope>,
    answer: oneshot::Sender<Result<MailId, StoreError>>,
}

impl WriteBatch {
    fn refuse(&mut self, error: StoreError) {
        for sender in self.accepts.drain(..) {
            let _ = sender.answer.send(Err(error));
        }
        for teller in self.answers.drain(..) {
            teller.answer(Err(error));
        }
    }

    fn add_facts(&mut self, facts: EncodedFacts) {
        for (fact, record) in facts {
            self.applied.push(fact);
            self.facts.push(record);
        }
    }
}

impl JournalWriter {
    /// Starts the index thread and the writer thread.
    pub(super) fn start(
        mut journal_writer: Self,
        index: Index,
    ) -> io::Result<WriterHandle<WriteRequest>> {
        let shared = Arc::clone(&journal_writer.shared);
        let (nudge, nudged) = sync_channel::<WriterWaker<WriteRequest>>(1);
        let keep = move || {
            // The writer is started after this thread; until then there is none to wake.
            let nudge = OnceCell::new();
            shared.run_index(&index, || {
                if nudge.get().is_none()
                    && let Ok(got) = nudged.try_recv()
                {
                    let _ = nudge.set(got);
                }
                if let Some(nudge) = nudge.get() {
                    nudge.wake();
                }
            });
        };
        let thread = Builder::new()
            .name("postern-index".to_owned())
            .spawn(keep)?;
        journal_writer.indexing = Some(thread);
        let writer = WriterHandle::start("postern-journal", journal_writer)?;
        let _ = nudge.send(writer.waker());
        Ok(writer)
    }

    /// Leaves out requests that were cancelled, and facts without effect.
    fn build_batch(&self, requests: Vec<WriteRequest>) -> Result<WriteBatch, IndexError> {
        let mut batch = WriteBatch::default();
        let state = self.shared.state();
        let mut sense = Validator::new(&state, &self.shared.settings);
        for request in requests.into_iter().filter(|r| !r.is_given_up()) {
            match request {
                WriteRequest::Accept {
                    envelope,
                    record,
                    answer,
                } => {
                    batch.mails.push(record);
                    batch.accepts.push(AcceptAnswer { envelope, answer });
                }
                WriteRequest::Record { facts, answer } => {
                    batch.add_facts(sense.filter_facts(facts)?);
                    batch.answers.push(FactAnswer::Recorded(answer));
                }
                WriteRequest::Enqueue { facts, answer } => {
                    let found = match sense.decide_enqueue(facts)? {
                        EnqueueDecision::New(facts) => {
                            batch.add_facts(facts);
                            EnqueueResult::New
                        }
                        EnqueueDecision::Exists(known) => known,
                        EnqueueDecision::Full => {
                            let _ = answer.send(Err(StoreError::Full));
                            continue;
                        }
                    };
                    batch.answers.push(FactAnswer::Enqueued(answer, found));
                }
                WriteRequest::Cancel { job, facts, answer } => {
                    let may = sense.may_cancel(job)?;
                    if may {
                        batch.add_facts(sense.filter_facts(facts)?);
                    }
                    batch.answers.push(FactAnswer::Cancelled(answer, may));
                }
            }
        }
        Ok(batch)
    }

    fn apply(&mut self, batch: WriteBatch, written: &Appended) -> Result<(), WriterStopped> {
        let mut arrived = !batch.mails.is_empty();
        let (mut jobs, mut happened) = (false, None);
        let mut accepted = VecDeque::with_capacity(batch.accepts.len());
        {
            let mut state = self.shared.state_mut();
            for (nth, AcceptAnswer { envelope, answer }) in batch.accepts.into_iter().enumerate() {
                let mail = MailId(written.mail_seq + nth as u64);
                state.accept(mail, written.mails[nth], &partitions(&envelope), true);
                state.keep_recent(mail, envelope, batch.mails[nth].body.clone());
                accepted.push_back((mail, answer));
            }
            for (nth, fact) in batch.applied.into_iter().enumerate() {
                let origin = written.fact_seq + nth as u64;
                arrived |= matches!(fact, Fact::Released { .. });
                jobs |= matches!(fact, Fact::Enqueued(_) | Fact::Retried { .. });
                if matches!(fact, Fact::Happened(_)) {
                    happened = Some(EventId(origin));
                }
                let stamp = ApplyContext {
                    origin,
                    counts: true,
                    replayed: false,
                    location: written.facts[nth],
                };
                let applied = state.apply(fact, stamp);
                applied.map_err(|error| self.shared.index_failed(&error))?;
            }
            state.seq = self.journal.last_seq();
            self.shared.publish_state(&state);
        }
        if let Some(event) = happened {
            self.shared.newest_event.send_replace(event);
        }
        for (mail, answer) in accepted {
            let _ = answer.send(Ok(mail));
        }
        for teller in batch.answers {
            teller.answer(Ok(()));
        }
        if arrived {
            self.shared.mail_arrived.notify_one();
        }
        if jobs {
            self.shared.job_arrived.notify_one();
        }
        self.shared.wait_for_index()
    }
}
