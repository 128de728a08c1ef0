//! The outbox, the events and the cursors against a model of them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::queue::runner;
use super::{NOW, Subject, for_every_store, run};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;
use crate::store::ask::ask;
use crate::store::{
    Cursor, EnqueueResult, Event, EventId, EventKind, Fact, Job, JobState, Settings, Store,
    StoreError, Suppression,
};
use model::{OutboxAction, OutboxAnswers, OutboxModel, outbox_action};

mod bounds;
pub(super) mod model;
mod rules;

const WAITING_MAX: u64 = 6;
const FAILED_KEPT: usize = 3;
const CAPTURED_KEPT: usize = 2;

pub(super) fn settings(folder: &Path, segment_bytes: u64) -> Settings {
    Settings {
        segment_bytes,
        free_bytes_min: 0,
        outbox_max: WAITING_MAX,
        failed_kept: FAILED_KEPT,
        captured_kept: CAPTURED_KEPT,
        ..Settings::new(folder.to_owned())
    }
}

pub(super) fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

pub(super) fn id(nth: usize) -> JobId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(nth as u64).to_be_bytes());
    JobId(id)
}

pub(super) fn job(nth: usize, key: u8, thread: Option<u8>) -> Job {
    Job {
        id: id(nth),
        route: "us".to_owned(),
        thread_id: thread.map(|n| format!("thread-{n}")),
        product_message_id: None,
        message_id: format!("<{nth}@us.example>"),
        recipient: Address::parse("ann@peer.example").unwrap(),
        return_path: None,
        subject: "a subject".to_owned(),
        key: [key; 16],
        second_key: None,
        content: [key; 16],
        made_at: later(nth as u64),
        ends_at: later(1_000_000),
    }
}

pub(super) fn letter(nth: usize, bytes: usize) -> Bytes {
    vec![u8::try_from(nth % 251).unwrap(); bytes].into()
}

/// An event that carries its number.
pub(super) fn happened(serial: u64) -> Fact {
    let mut data = serde_json::Map::new();
    data.insert("serial".to_owned(), serial.into());
    Fact::Happened(Event {
        kind: EventKind::OutboundSent,
        at: NOW,
        thread_id: None,
        data,
    })
}

pub(super) fn suppression(n: u8) -> Suppression {
    Suppression {
        address: format!("box{n}@peer.example"),
        reason: "it came back".to_owned(),
        job: None,
        bounces: u32::from(n),
        at: NOW,
        until: later(1_000_000),
    }
}

/// An outbox with a model of it.
pub(super) struct ModelledOutbox<S> {
    pub(super) real: S,
    model: OutboxModel,
}

impl<S: Subject> ModelledOutbox<S> {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            real: S::begin(|folder| settings(folder, segment_bytes)),
            model: OutboxModel::default(),
        }
    }

    /// The answers, after the writer has enforced its bounds.
    pub(super) fn answers(&self) -> OutboxAnswers {
        for _ in 0..2 {
            // A stopped disk returns an error, and there is nothing to enforce.
            let _ = run(self.real.store().record(Vec::new()));
        }
        OutboxAnswers::of(self.real.store(), self.model.jobs.len() + 1)
    }

    pub(super) fn check(&mut self) {
        assert_eq!(self.answers(), self.model.answers);
        for (event_id, event) in ask(self.real.store().events_after(EventId::default(), 100_000)) {
            let serial = event.data["serial"].as_u64().unwrap();
            let first = *self.model.event_ids.entry(serial).or_insert(event_id);
            assert_eq!(first, event_id, "the name of event {serial}");
        }
    }

    /// False if the store returned an error; a reopen shows if the action was done.
    pub(super) fn act(&mut self, action: &OutboxAction) -> bool {
        let done = match *action {
            OutboxAction::Reopen => {
                self.real.reopen();
                return true;
            }
            OutboxAction::LoseIndex => {
                self.real.lose_index();
                return true;
            }
            OutboxAction::Enqueue { key, thread, bytes } => {
                let nth = self.model.jobs.len();
                let facts = self.model.facts(action);
                let asked =
                    self.real
                        .store()
                        .enqueue(job(nth, key, thread), letter(nth, bytes), facts);
                let full = self.model.answers.ledger.waiting >= WAITING_MAX;
                match (run(asked), self.model.answers.keys.get(&key)) {
                    (Ok(EnqueueResult::New), None) => assert!(!full),
                    (Ok(EnqueueResult::Exists { id, same }), Some(known)) => {
                        assert_eq!((id, same), (*known, true));
                    }
                    (Err(StoreError::Full), None) if full => {}
                    (Err(_), _) => return false,
                    (answer, known) => panic!("{answer:?}, {known:?}"),
                }
                true
            }
            OutboxAction::Cancel(nth) => {
                let nth = self.model.pick(nth);
                match run(self.real.store().cancel(id(nth), NOW)) {
                    Ok(cancelled) => {
                        let job = self.model.jobs.get(nth);
                        let waits = job.is_some_and(|job| {
                            let known = &job.known;
                            matches!(known.state, JobState::Waiting { .. }) && !known.begun
                        });
                        assert_eq!(cancelled, waits);
                        true
                    }
                    Err(_) => false,
                }
            }
            _ => run(self.real.store().record(self.model.facts(action))).is_ok(),
        };
        if done {
            self.told(action);
        }
        done
    }

    pub(super) fn told(&mut self, action: &OutboxAction) {
        self.model.told(action);
        if let Some((event_id, event)) = self.newest() {
            let serial = event.data["serial"].as_u64().unwrap();
            let first = *self.model.event_ids.entry(serial).or_insert(event_id);
            assert_eq!(first, event_id);
        }
    }

    pub(super) fn newest(&self) -> Option<(EventId, std::sync::Arc<Event>)> {
        let newest = *self.real.store().newest_event().borrow();
        let mut last = ask(self.real.store().events_after(newest.just_before(), 1));
        last.pop()
    }

    /// After a failed action and a reopen: it was done completely or not at all.
    pub(super) fn settle_doubt(&mut self, action: &OutboxAction) {
        if self.answers() != self.model.answers {
            self.told(action);
        }
    }
}

/// Any sequence of actions, closings, reopenings and rebuilds, with segments so small that they are deleted
/// all the time.
fn the_outbox_equals_its_model<S: Subject>() {
    let actions = proptest::collection::vec(outbox_action(), 1..120);
    let tried = runner(300).run(&(actions, 300u64..6000), |(actions, segment_bytes)| {
        let mut pair = ModelledOutbox::<S>::new(segment_bytes);
        for action in &actions {
            prop_assert!(pair.act(action));
        }
        pair.check();
        pair.real.reopen();
        pair.check();
        pair.real.lose_index();
        pair.check();
        Ok(())
    });
    tried.unwrap();
}

fn what_is_open_below_a_place_outlives_reopening_and_compaction<S: Subject>() {
    let mut fixture = S::begin(|folder| settings(folder, 8 << 10));
    let events = (0..10).map(happened).collect();
    run(fixture.store().record(events)).unwrap();
    let ids: Vec<_> = ask(fixture.store().events_after(EventId::default(), 100))
        .iter()
        .map(|(id, _)| *id)
        .collect();
    let place = |event: usize, open: &[usize]| Cursor {
        last: ids[event],
        gaps: open.iter().map(|nth| ids[*nth]).collect(),
    };
    let heard = |reach: Cursor| Fact::CursorAdvanced {
        subscriber: "us".to_owned(),
        event: reach.last,
        open: reach.gaps,
        at: NOW,
    };
    // The old form, from before events could be open below a position.
    let old = serde_json::to_value(heard(place(3, &[]))).unwrap();
    assert!(!old.to_string().contains("open"), "{old}");
    let old: Fact = serde_json::from_value(old).unwrap();
    run(fixture.store().record(vec![old])).unwrap();
    assert_eq!(ask(fixture.store().cursor("us")), Some(place(3, &[])));
    let newest = place(8, &[5]);
    for (said, known) in [
        (place(8, &[2, 5]), place(8, &[2, 5])),
        (place(8, &[5]), newest.clone()),
        // An older position changes nothing, whenever it is recorded.
        (place(8, &[2, 5]), newest.clone()),
        (place(7, &[]), newest.clone()),
    ] {
        run(fixture.store().record(vec![heard(said)])).unwrap();
        assert_eq!(ask(fixture.store().cursor("us")), Some(known));
    }
    for turn in 0..3 {
        for nth in 0..100 {
            let noise = Fact::Linked {
                route: "us".to_owned(),
                message_id: "x".repeat(900 + nth % 2),
                thread_id: "thread-noise".to_owned(),
                sent_by_us: true,
                at: NOW,
            };
            run(fixture.store().record(vec![noise])).unwrap();
        }
        match turn {
            0 => fixture.reopen(),
            1 => fixture.lose_index(),
            _ => {}
        }
        assert_eq!(
            ask(fixture.store().cursor("us")),
            Some(newest.clone()),
            "{turn}"
        );
    }
}

for_every_store!(
    the_outbox_equals_its_model,
    what_is_open_below_a_place_outlives_reopening_and_compaction,
);
