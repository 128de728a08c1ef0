//! Owns what happens on the writer's thread of a store: which facts mean something, writing them, applying them, answering.
//!
//! Does not clean up: that is `upkeep`.

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::RecordError;
use super::event::EventId;
use super::fact::{DeliveryId, Fact, MailId, Outcome};
use super::frame::Record;
use super::held::Totals;
use super::index::Index;
use super::journal::{AppendError, Journal, Written};
use super::shared::Shared;
use super::state::{Stamp, State, lanes};
use super::upkeep::Upkeep;
use super::writer::{Dead, Nudge, Scribe, Writer};
use crate::mail::envelope::Envelope;

/// A record of a state segment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    Fact(Fact),
    Totals(Totals),
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
        facts: Vec<(Fact, Record)>,
        answer: oneshot::Sender<Result<(), RecordError>>,
    },
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
            Request::Record { facts, .. } => facts.iter().map(|(_, r)| r.bytes()).sum(),
        }
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), Dead> {
        let mut batch = self.sort(requests);
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
    tellers: Vec<oneshot::Sender<Result<(), RecordError>>>,
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
        for answer in self.tellers.drain(..) {
            let _ = answer.send(Err(error));
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
    fn sort(&self, requests: Vec<Request>) -> Batch {
        let mut batch = Batch::default();
        let state = self.shared.state();
        let mut sense = Sense::new(&state);
        for request in requests {
            match request {
                Request::Accept { answer, .. } if answer.is_closed() => {}
                Request::Accept {
                    envelope,
                    record,
                    answer,
                } => {
                    batch.mails.push(record);
                    batch.senders.push(Sender { envelope, answer });
                }
                Request::Record { facts, answer } => {
                    for (fact, record) in facts {
                        if sense.takes(&fact) {
                            batch.told.push(fact);
                            batch.facts.push(record);
                        }
                    }
                    batch.tellers.push(answer);
                }
            }
        }
        batch
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
        for (mail, answer) in accepted {
            let _ = answer.send(Ok(mail));
        }
        for answer in batch.tellers {
            let _ = answer.send(Ok(()));
        }
        if arrived {
            self.shared.arrival.notify_one();
        }
        if jobs {
            self.shared.job_arrival.notify_one();
        }
        if let Some(event) = happened {
            self.shared.newest_event.send_replace(event);
        }
        self.shared.wait_for_index()
    }
}

/// Tells which facts mean something, when those before them in the batch are not applied yet.
struct Sense<'s> {
    state: &'s State,
    staged: BTreeMap<DeliveryId, Standing>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    Parked,
    Over,
}

impl<'s> Sense<'s> {
    const fn new(state: &'s State) -> Self {
        Self {
            state,
            staged: BTreeMap::new(),
        }
    }

    fn takes(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::Advanced { delivery, .. } => self.standing(*delivery) != Standing::Over,
            Fact::Settled {
                delivery, outcome, ..
            } => {
                let open = self.standing(*delivery) != Standing::Over;
                let next = match outcome {
                    Outcome::Parked { .. } => Standing::Parked,
                    Outcome::Delivered { .. } | Outcome::Dropped { .. } => Standing::Over,
                };
                if open {
                    self.staged.insert(*delivery, next);
                }
                open
            }
            Fact::Released { delivery, .. } => {
                let parked = self.standing(*delivery) == Standing::Parked;
                if parked {
                    self.staged.insert(*delivery, Standing::Waiting);
                }
                parked
            }
            _ => true,
        }
    }

    fn standing(&self, delivery: DeliveryId) -> Standing {
        if let Some(standing) = self.staged.get(&delivery) {
            return *standing;
        }
        match self.state.open(delivery) {
            None => Standing::Over,
            Some(open) if open.parked.is_some() => Standing::Parked,
            Some(_) => Standing::Waiting,
        }
    }
}
