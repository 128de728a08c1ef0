//! Owns what happens on the writer's thread of a store: writing what was asked for, applying it, answering.
//!
//! Does not clean up: that is `upkeep`.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::RecordError;
use super::event::EventId;
use super::fact::{Fact, MailId};
use super::frame::Record;
use super::held::Totals;
use super::index::{Index, IndexError};
use super::job::Enqueued;
use super::journal::{AppendError, Journal, Written};
use super::kept::Kept;
use super::sense::{Sense, Told, Verdict};
use super::shared::Shared;
use super::state::{Stamp, lanes};
use super::upkeep::Upkeep;
use super::writer::{Dead, Nudge, Scribe, Writer};
use crate::mail::envelope::Envelope;
use crate::mail::outgoing::JobId;

/// A record of a state segment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    Fact(Fact),
    Totals(Totals),
    /// All that is known of a job, written when the records that told it go. The mail is the
    /// record's body, unless the job is settled.
    Job(Box<Kept>),
    /// A failed or captured job is not kept for a person any more.
    JobGone {
        job: JobId,
        captured: bool,
    },
}

impl Note {
    pub(super) fn record(&self) -> Record {
        Record::new(self.json(), Bytes::new())
    }

    #[expect(clippy::expect_used, reason = "every part of a note has a JSON form")]
    pub(super) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a note has a JSON form")
    }
}

/// What the store asks of its writer.
#[derive(Debug)]
pub(super) enum Request {
    Accept {
        envelope: Arc<Envelope>,
        record: Record,
        answer: oneshot::Sender<Result<MailId, RecordError>>,
    },
    Record {
        facts: Told,
        answer: oneshot::Sender<Result<(), RecordError>>,
    },
    /// A job and what goes with it, the job first.
    Enqueue {
        facts: Told,
        answer: oneshot::Sender<Result<Enqueued, RecordError>>,
    },
    /// The facts mean something only if the job may be called back.
    Cancel {
        job: JobId,
        facts: Told,
        answer: oneshot::Sender<Result<bool, RecordError>>,
    },
}

impl Request {
    /// Nobody waits for the answer, and nobody was promised anything.
    fn is_given_up(&self) -> bool {
        match self {
            Self::Accept { answer, .. } => answer.is_closed(),
            Self::Enqueue { answer, .. } => answer.is_closed(),
            Self::Record { .. } | Self::Cancel { .. } => false,
        }
    }
}

/// The store's side of the writer thread.
#[derive(Debug)]
pub(super) struct Clerk {
    pub(super) journal: Journal,
    pub(super) shared: Arc<Shared>,
    pub(super) upkeep: Upkeep,
    /// The thread that writes the index.
    pub(super) indexing: Option<JoinHandle<()>>,
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.shared.close_index();
        if let Some(thread) = self.indexing.take() {
            // Its panic is in the log already.
            let _ = thread.join();
        }
    }
}

impl Scribe for Clerk {
    type Request = Request;

    fn weight(request: &Request) -> usize {
        match request {
            Request::Accept { record, .. } => record.bytes(),
            Request::Record { facts, .. }
            | Request::Enqueue { facts, .. }
            | Request::Cancel { facts, .. } => facts.iter().map(|(_, r)| r.bytes()).sum(),
        }
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), Dead> {
        // Who waits for an answer hears that the store is dead if there is none.
        let sorted = self.sort(requests);
        let mut batch = sorted.map_err(|error| self.shared.index_failed(&error))?;
        match self.journal.append(&batch.mails, &batch.facts) {
            Ok(written) => self.apply(batch, &written),
            Err(AppendError::Full) => {
                batch.refuse(RecordError::Full);
                Ok(())
            }
            Err(AppendError::Dead) => {
                batch.refuse(RecordError::Dead);
                Err(Dead)
            }
        }
    }

    fn upkeep(&mut self) -> Result<bool, Dead> {
        self.tidy()
    }

    fn close(mut self) {
        // What fails here is in the log, and the next start mends it.
        let _ = self.journal.close();
    }
}

/// Requests sorted by what they write.
#[derive(Debug, Default)]
struct Batch {
    mails: Vec<Record>,
    senders: Vec<Sender>,
    facts: Vec<Record>,
    told: Vec<Fact>,
    tellers: Vec<Teller>,
}

/// Whoever told facts, and what he hears when all is on disk.
#[derive(Debug)]
enum Teller {
    Recorded(oneshot::Sender<Result<(), RecordError>>),
    Enqueued(oneshot::Sender<Result<Enqueued, RecordError>>, Enqueued),
    Cancelled(oneshot::Sender<Result<bool, RecordError>>, bool),
}

impl Teller {
    // Whoever went away does not hear it.
    fn answer(self, written: Result<(), RecordError>) {
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

/// Whoever handed a mail in.
#[derive(Debug)]
struct Sender {
    envelope: Arc<Envelope>,
    answer: oneshot::Sender<Result<MailId, RecordError>>,
}

impl Batch {
    fn refuse(&mut self, error: RecordError) {
        for sender in self.senders.drain(..) {
            let _ = sender.answer.send(Err(error));
        }
        for teller in self.tellers.drain(..) {
            teller.answer(Err(error));
        }
    }

    fn tell(&mut self, facts: Told) {
        for (fact, record) in facts {
            self.told.push(fact);
            self.facts.push(record);
        }
    }
}

impl Clerk {
    /// Starts the index thread and the writer thread.
    pub(super) fn start(mut clerk: Self, index: Index) -> io::Result<Writer<Request>> {
        let shared = Arc::clone(&clerk.shared);
        let (nudge, nudged) = sync_channel::<Nudge<Request>>(1);
        let keep = move || {
            // The writer is started after this thread; until then there is nobody to wake.
            let nudge = OnceCell::new();
            shared.keep_index(&index, || {
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
        clerk.indexing = Some(thread);
        let writer = Writer::start("postern-journal", clerk)?;
        let _ = nudge.send(writer.nudge());
        Ok(writer)
    }

    /// Leaves out what nobody waits for any more, and the facts that mean nothing.
    fn sort(&self, requests: Vec<Request>) -> Result<Batch, IndexError> {
        let mut batch = Batch::default();
        let state = self.shared.state();
        let mut sense = Sense::new(&state, &self.shared.settings);
        for request in requests.into_iter().filter(|r| !r.is_given_up()) {
            match request {
                Request::Accept {
                    envelope,
                    record,
                    answer,
                } => {
                    batch.mails.push(record);
                    batch.senders.push(Sender { envelope, answer });
                }
                Request::Record { facts, answer } => {
                    batch.tell(sense.takes(facts)?);
                    batch.tellers.push(Teller::Recorded(answer));
                }
                Request::Enqueue { facts, answer } => {
                    let found = match sense.enqueues(facts)? {
                        Verdict::New(facts) => {
                            batch.tell(facts);
                            Enqueued::New
                        }
                        Verdict::Known(known) => known,
                        Verdict::Full => {
                            let _ = answer.send(Err(RecordError::Full));
                            continue;
                        }
                    };
                    batch.tellers.push(Teller::Enqueued(answer, found));
                }
                Request::Cancel { job, facts, answer } => {
                    let may = sense.cancels(job)?;
                    if may {
                        batch.tell(sense.takes(facts)?);
                    }
                    batch.tellers.push(Teller::Cancelled(answer, may));
                }
            }
        }
        Ok(batch)
    }

    fn apply(&mut self, batch: Batch, written: &Written) -> Result<(), Dead> {
        let mut arrived = !batch.mails.is_empty();
        let (mut jobs, mut happened) = (false, None);
        let mut accepted = VecDeque::with_capacity(batch.senders.len());
        {
            let mut state = self.shared.state_mut();
            for (nth, Sender { envelope, answer }) in batch.senders.into_iter().enumerate() {
                let mail = MailId(written.mail_seq + nth as u64);
                state.accept(mail, written.mails[nth], &lanes(&envelope), true);
                state.keep_recent(mail, envelope, batch.mails[nth].body.clone());
                accepted.push_back((mail, answer));
            }
            for (nth, fact) in batch.told.into_iter().enumerate() {
                let origin = written.fact_seq + nth as u64;
                arrived |= matches!(fact, Fact::Released { .. });
                jobs |= matches!(fact, Fact::Enqueued(_) | Fact::Retried { .. });
                if matches!(fact, Fact::Happened(_)) {
                    happened = Some(EventId(origin));
                }
                let stamp = Stamp {
                    origin,
                    counts: true,
                    replayed: false,
                    place: written.facts[nth],
                };
                let applied = state.apply(fact, stamp);
                applied.map_err(|error| self.shared.index_failed(&error))?;
            }
            state.seq = self.journal.last_seq();
            self.shared.changed(&state);
        }
        if let Some(event) = happened {
            self.shared.newest_event.send_replace(event);
        }
        for (mail, answer) in accepted {
            let _ = answer.send(Ok(mail));
        }
        for teller in batch.tellers {
            teller.answer(Ok(()));
        }
        if arrived {
            self.shared.arrival.notify_one();
        }
        if jobs {
            self.shared.job_arrival.notify_one();
        }
        self.shared.wait_for_index()
    }
}
