//! Orders given to the queue while a worker runs: each delivery ends in one state, and each message is
//! posted once.

use std::collections::BTreeSet;
use std::time::Duration;

use postern::clock;
use postern::delivery::worker::DeliverySettings;
use postern::mail::envelope::RecipientTarget;
use postern::mail::token::ThreadKey;
use postern::queue::{MailQueue, QueueEnd, QueueError};
use postern::store::{DeliveryId, EventId, EventKind, Fact, Mapping, Store};

use crate::ask::ask;
use crate::bench::{Bench, OTHER, THREAD, mail, token};
use crate::fake_api::{Fake, Play, Seen};

/// Settings with which each failed attempt is followed by a wait that is longer than any test.
fn hours(settings: &mut DeliverySettings) {
    settings.retry.wait_first = Duration::from_secs(3_600);
    settings.retry.wait_max = Duration::from_secs(7_200);
}

async fn begin(fake: &Fake) -> (Bench, MailQueue) {
    let bench = Bench::start_in(tempfile::tempdir().unwrap(), fake, hours).await;
    let queue = bench.queue();
    (bench, queue)
}

fn ids(bench: &Bench) -> Vec<DeliveryId> {
    let waiting = ask(bench.store.waiting(None, 1_000));
    waiting.into_iter().map(|delivery| delivery.id).collect()
}

fn words(fake: &Fake) -> Vec<String> {
    let done = fake.done();
    let messages = done.iter().filter(|seen| seen.call() == "message");
    let words = messages.map(|seen| seen.body["body"].as_str().unwrap().trim().to_owned());
    words.collect()
}

fn is_busy<T>(result: &Result<T, QueueError>) -> bool {
    matches!(result, Err(QueueError::Busy))
}

/// Repeats an order until no attempt prevents it.
async fn given<T>(mut order: impl AsyncFnMut() -> Result<T, QueueError>) -> T {
    let mut result = order().await;
    while is_busy(&result) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        result = order().await;
    }
    result.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_of_a_delivery_ends_at_once() {
    let fake = Fake::start(|_, _| Play::Say(503, "", String::new())).await;
    let (bench, queue) = begin(&fake).await;
    for n in 0..3 {
        bench.put(token(THREAD), &mail(n, &format!("a{n}"))).await;
    }
    bench.put(token(OTHER), &mail(9, "b")).await;
    fake.until("both threads are tried", |seen| seen.len() == 2)
        .await;
    let all = ids(&bench);
    for behind in &all[1..3] {
        let shown = queue.find(*behind).await.unwrap();
        assert_eq!(shown.waits_behind, Some(all[0]));
        let refused = queue.retry(*behind).await;
        let why = format!("it waits behind {}: retry, park or drop that one", all[0]);
        assert!(matches!(refused, Err(QueueError::WrongState(told)) if told == why));
    }
    for first in [all[0], all[3]] {
        assert_eq!(queue.find(first).await.unwrap().waits_behind, None);
    }
    // The delivery fails once more and waits again; the other thread is not affected.
    given(async || queue.retry(all[0]).await).await;
    fake.until("it is tried again", |seen| seen.len() == 3)
        .await;
    fake.replan(|_, _| Play::Good);
    given(async || queue.retry(all[0]).await).await;
    bench
        .until("its thread goes on", |store| store.ledger().waiting == 1)
        .await;
    assert_eq!(words(&fake), ["a0", "a1", "a2"]);
    assert_eq!(bench.fates(), [3, 0, 0]);
    given(async || queue.retry(all[3]).await).await;
    bench.drained().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_or_dropped_delivery_does_not_block_its_thread() {
    let fake = Fake::start(|seen, _| match seen.body["body"].as_str() {
        Some(words) if words.contains("stuck") => Play::Say(500, "", String::new()),
        _ => Play::Good,
    })
    .await;
    let (bench, queue) = begin(&fake).await;
    for (n, words) in ["stuck one", "stuck two", "goes on"].iter().enumerate() {
        bench.put(token(THREAD), &mail(n, words)).await;
    }
    fake.until("the first is tried", |seen| seen.len() == 1)
        .await;
    let all = ids(&bench);
    given(async || queue.park(all[0], Some("ask the team")).await).await;
    fake.until("the second is tried", |seen| seen.len() == 2)
        .await;
    let end = given(async || queue.drop(all[1]).await).await;
    assert_eq!(end, QueueEnd::Dropped);
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 1, 1], "{:?}", bench.store.ledger());
    assert_eq!(words(&fake), ["goes on"]);
    assert_eq!(bench.reasons(), ["a person parked it: ask the team"]);
    assert_eq!(bench.store.ledger().dropped["operator"], 1);
    let again = queue.park(all[0], None).await;
    assert!(
        matches!(again, Err(QueueError::WrongState(_))),
        "it is parked already"
    );
    for result in [queue.retry(all[1]).await, queue.park(all[1], None).await] {
        assert!(matches!(result, Err(QueueError::NotFound("delivery"))));
    }
    let told = ask(bench.store.events_after(EventId::default(), 100));
    let parked = told
        .iter()
        .find(|(_, event)| event.kind == EventKind::Parked);
    let data = &parked.unwrap().1.data;
    assert_eq!(data["mailId"], all[0].to_string());
    assert_eq!(data["reason"], "a person parked it: ask the team");
    // A delivery that a person parked is delivered like any other after its release.
    fake.replan(|_, _| Play::Good);
    queue.retry(all[0]).await.unwrap();
    bench.drained().await;
    assert_eq!(bench.fates(), [2, 0, 1]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_with_a_running_attempt_is_not_changed() {
    let fake = Fake::start(|_, _| Play::HoldThenCommit).await;
    let folder = tempfile::tempdir().unwrap();
    let adjust = |settings: &mut DeliverySettings| hours(settings);
    let bench = Bench::start_in(folder, &fake, adjust).await;
    let queue = bench.queue();
    bench.put(token(THREAD), &mail(1, "Once.")).await;
    fake.until("it is called", |seen| seen.len() == 1).await;
    let id = ids(&bench)[0];
    let (retried, parked, dropped) = (
        queue.retry(id).await,
        queue.park(id, None).await,
        queue.drop(id).await,
    );
    assert!(
        is_busy(&retried) && is_busy(&parked) && is_busy(&dropped),
        "{dropped:?}"
    );
    assert_eq!(bench.fates(), [0, 0, 0]);
    fake.open();
    // A time-out of the held call is not an error of this test: the call is repeated.
    while bench.store.ledger().waiting > 0 {
        let _ = queue.retry(id).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.fates(), [1, 0, 0]);
    assert_eq!(fake.effects(), [0, 1, 1]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_delivery_that_the_product_has_counts_as_delivered() {
    let fake = Fake::start(|seen, _| match seen.call() {
        "metadata" => Play::Say(500, "", String::new()),
        _ => Play::Good,
    })
    .await;
    let (bench, queue) = begin(&fake).await;
    bench.put(token(THREAD), &mail(1, "Told.")).await;
    bench.put(token(THREAD), &mail(2, "Next.")).await;
    fake.until("the metadata fail", |seen| seen.len() == 2)
        .await;
    let id = ids(&bench)[0];
    let end = given(async || queue.drop(id).await).await;
    assert_eq!(end, QueueEnd::Delivered);
    fake.until("the next one is told", |seen| seen.len() == 4)
        .await;
    let next = ids(&bench)[0];
    given(async || queue.drop(next).await).await;
    assert_eq!(bench.fates(), [2, 0, 0]);
    assert_eq!(words(&fake), ["Told.", "Next."]);
    let told = ask(bench.store.events_after(EventId::default(), 100));
    let mut ends = told
        .iter()
        .filter(|(_, event)| event.kind == EventKind::Processed);
    let data = serde_json::Value::from(ends.next().unwrap().1.data.clone());
    assert_eq!(data["mailId"], id.to_string());
    assert_eq!(
        (&data["threadId"], &data["messageId"]),
        (&THREAD.into(), &"message-1".into())
    );
    assert_eq!(
        (&data["kind"], &data["match"]["reason"]),
        (&"person".into(), &"token".into())
    );
    // A copy of it is a duplicate.
    bench.put(token(THREAD), &mail(1, "Told.")).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [2, 0, 1]);
    bench.stop().await;
}

/// Gives any order about any delivery until none is left; those that it dropped, and those of them that the
/// product had already.
async fn give_orders(
    queue: MailQueue,
    store: Store,
) -> (BTreeSet<DeliveryId>, BTreeSet<DeliveryId>) {
    let mut ends = (BTreeSet::new(), BTreeSet::new());
    loop {
        let mut open = store.waiting(None, 1_000).await.unwrap();
        open.extend(store.parked(None, 1_000).await.unwrap());
        let count = u32::try_from(open.len()).unwrap();
        if count == 0 {
            return ends;
        }
        let id = open[(getrandom::u32().unwrap() % count) as usize].id;
        let result = match getrandom::u32().unwrap() % 8 {
            0 => queue.drop(id).await.map(|end| {
                let same = match end {
                    QueueEnd::Dropped => &mut ends.0,
                    QueueEnd::Delivered => &mut ends.1,
                };
                assert!(same.insert(id), "{id} ended twice");
            }),
            1 => queue.park(id, None).await,
            _ => queue.retry(id).await,
        };
        if let Err(QueueError::Store(error)) = result {
            panic!("{error}");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_orders_and_attempts_end_each_delivery_once() {
    const THREADS: usize = 12;
    const MAILS: usize = 10;
    let fake = Fake::start(|_: &Seen, _| match getrandom::u32().unwrap() % 5 {
        0 | 1 => Play::Say(503, "", String::new()),
        2 => Play::Late(Duration::from_millis(3)),
        _ => Play::Good,
    })
    .await;
    let (bench, queue) = begin(&fake).await;
    for n in 0..MAILS {
        for thread in 0..THREADS {
            let target = token(&format!("thread {thread}"));
            bench
                .put(
                    target,
                    &mail(n * THREADS + thread, &format!("{thread}.{n}")),
                )
                .await;
        }
    }
    let mut people = tokio::task::JoinSet::new();
    for _ in 0..3 {
        people.spawn(give_orders(queue.clone(), bench.store.clone()));
    }
    let (mut dropped, mut given_up) = (BTreeSet::new(), BTreeSet::new());
    while let Some(ends) = people.join_next().await {
        let ends = ends.unwrap();
        let count = dropped.len() + given_up.len() + ends.0.len() + ends.1.len();
        dropped.extend(ends.0);
        given_up.extend(ends.1);
        assert_eq!(
            count,
            dropped.len() + given_up.len(),
            "one of them ended twice"
        );
    }
    let told = words(&fake);
    let once: BTreeSet<&String> = told.iter().collect();
    assert_eq!(once.len(), told.len(), "told twice");
    let [delivered, parked, lost] = bench.fates();
    assert_eq!(parked, 0);
    assert_eq!(lost, dropped.len() as u64);
    assert_eq!(delivered, told.len() as u64, "{dropped:?} {given_up:?}");
    assert_eq!(delivered + lost, (THREADS * MAILS) as u64);
    // The messages of a thread were posted in order, except those that a person had parked.
    let events = ask(bench.store.events_after(EventId::default(), 100_000));
    let ends = events
        .iter()
        .filter(|(_, event)| event.kind == EventKind::Processed);
    assert_eq!(
        ends.count(),
        THREADS * MAILS,
        "each delivery has one event of its end"
    );
    bench.stop().await;
}

#[tokio::test]
async fn the_thread_of_a_hash_is_posted_by_its_id_or_not_at_all() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let (bench, queue) = begin(&fake).await;
    // The hash of 77 does not look like a UUID.
    let RecipientTarget::Thread(mut claims) = token("77") else {
        panic!("no token");
    };
    claims.thread = ThreadKey::of("77");
    assert_eq!(claims.thread.as_uuid(), None);
    bench
        .put(RecipientTarget::Thread(claims.clone()), &mail(1, "Of 77."))
        .await;
    bench.drained().await;
    assert_eq!(bench.fates(), [0, 1, 0]);
    let id = ask(bench.store.parked(None, 9))[0].id;
    let unknown = format!("unknown thread (hash {})", claims.thread);
    let thread = async || queue.find(id).await.unwrap().thread.unwrap().to_string();
    assert_eq!(thread().await, unknown);
    // A retry does not make the id known, so the product receives nothing.
    queue.retry(id).await.unwrap();
    bench
        .until("it is parked again", |store| store.ledger().parked == 1)
        .await;
    let mapping = Mapping::new("default", "77", None, clock::now());
    bench
        .store
        .record(vec![Fact::Mapped(mapping)])
        .await
        .unwrap();
    assert_eq!(thread().await, "77");
    queue.retry(id).await.unwrap();
    bench.drained().await;
    let done = fake.done();
    assert_eq!(done[0].path, "/api/v1/messages/threads/77/messages");
    assert_eq!(bench.fates(), [1, 0, 0]);
    bench.stop().await;
}
