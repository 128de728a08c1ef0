//! Rules of the outbox that hold for every store.

use super::super::{mapping, run};
use super::*;
use crate::mail::token::ThreadKey;
use crate::store::JobOutcome;

pub(super) fn ended(nth: usize, outcome: JobOutcome, at: Timestamp) -> Fact {
    let job = id(nth);
    Fact::Ended { job, outcome, at }
}

pub(super) fn sent() -> JobOutcome {
    JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    }
}

fn serials(store: &Store) -> Vec<u64> {
    let events = ask(store.events_after(EventId::default(), 1000));
    events
        .iter()
        .filter_map(|(_, e)| e.data["serial"].as_u64())
        .collect()
}

fn of_two_at_once_with_one_key_one_is_taken_and_nothing_of_the_other<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    let store = real.store();
    let taken = run(async {
        let tell = |n: u8| vec![Fact::Mapped(mapping(n, n)), happened(u64::from(n))];
        let first = store.enqueue(job(0, 7, None), letter(0, 10), tell(0));
        let second = store.enqueue(job(1, 7, None), letter(1, 10), tell(1));
        let mut other = job(2, 7, None);
        other.content = [9; 16];
        let third = store.enqueue(other, letter(2, 10), tell(2));
        let answers = tokio::join!(first, second, third);
        let answers = [answers.0, answers.1, answers.2].map(Result::unwrap);
        let is_new = |answer: &EnqueueResult| matches!(answer, EnqueueResult::New);
        // Either of them may come first.
        let taken = answers.iter().position(is_new).unwrap();
        let content = |n: usize| n / 2;
        for (n, answer) in answers.iter().enumerate().filter(|(n, _)| *n != taken) {
            let same = content(n) == content(taken);
            let id = id(taken);
            assert_eq!(*answer, EnqueueResult::Exists { id, same });
        }
        taken
    });
    assert_eq!(serials(store), [taken as u64]);
    let mapped = |n: u8| ask(store.thread("us", ThreadKey::of(&format!("thread-{n}")))).is_some();
    let only_taken = |n: u8| usize::from(n) == taken;
    assert_eq!([mapped(0), mapped(1), mapped(2)], [0, 1, 2].map(only_taken));
    assert_eq!(store.outbox_ledger().taken, 1);
}

fn an_event_of_what_did_not_happen_is_not_told_and_a_deliverys_is<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    let store = real.store();
    let processed = |serial| match happened(serial) {
        Fact::Happened(event) => Fact::Happened(Event {
            kind: EventKind::Processed,
            ..event
        }),
        other => other,
    };
    let facts = vec![
        happened(1),
        ended(5, sent(), NOW),
        Fact::Suppressed(suppression(1)),
        processed(2),
    ];
    run(store.record(facts)).unwrap();
    assert_eq!(serials(store), [2]);
    assert!(ask(store.suppressions(None, 10)).is_empty());
}

fn too_many_bytes_of_mail_are_refused_until_some_are_sent<S: Subject>() {
    let real = S::begin(|folder| Settings {
        outbox_bytes_max: 1000,
        ..settings(folder, 1 << 20)
    });
    let store = real.store();
    let enqueue = |nth: usize| {
        let key = u8::try_from(nth).unwrap();
        run(store.enqueue(job(nth, key, None), letter(nth, 600), Vec::new()))
    };
    assert_eq!(enqueue(0), Ok(EnqueueResult::New));
    assert_eq!(enqueue(1), Err(StoreError::Full));
    // A known job needs no further space.
    assert!(matches!(enqueue(0), Ok(EnqueueResult::Exists { .. })));
    run(store.record(vec![ended(0, sent(), NOW)])).unwrap();
    assert_eq!(enqueue(1), Ok(EnqueueResult::New));
}

for_every_store!(
    of_two_at_once_with_one_key_one_is_taken_and_nothing_of_the_other,
    an_event_of_what_did_not_happen_is_not_told_and_a_deliverys_is,
    too_many_bytes_of_mail_are_refused_until_some_are_sent,
);
