//! Tests that memory does not grow with the number of settled mails and jobs.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::outbox::{happened, id, job, letter};
use super::super::{NOW, Subject, TestStore, envelope, mail, mapping, run, settings};
use crate::clock::Timestamp;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::embedded::memory_count::MemoryCount;
use crate::store::{
    ConversationKey, DeliveryId, DeliveryOutcome, Fact, JobOutcome, LastMessage, LeaseName, Nonce,
    Settings,
};

/// The number of mails accepted, posted and settled in one round, and of jobs.
const ROUND: usize = 2000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// This is more than the maximum number of kept events.
const EVENTS: usize = 51_000;

fn digest(n: usize) -> [u8; 16] {
    let mut digest = [7; 16];
    digest[..8].copy_from_slice(&(n as u64).to_le_bytes());
    digest
}

/// The facts about a mail that was posted into one of many threads.
fn told(nth: usize, delivery: DeliveryId, now: Timestamp) -> Vec<Fact> {
    let mut mapping = mapping(0, 0);
    mapping.thread_id = format!("thread-{}", nth / 3);
    mapping.subject = format!("subject {nth}");
    mapping.changed_at = now;
    let conversation = ConversationKey {
        route: "us".to_owned(),
        thread_id: mapping.thread_id.clone(),
        with: "ann@peer.example".to_owned(),
    };
    vec![
        happened(nth as u64),
        Fact::Linked {
            route: "us".to_owned(),
            message_id: format!("{nth}@peer.example"),
            thread_id: mapping.thread_id.clone(),
            sent_by_us: false,
            at: now,
        },
        Fact::Mapped(mapping),
        Fact::MessageRecorded {
            conversation,
            message: LastMessage {
                by_us: false,
                name: None,
                at: NOW,
                text: "words".to_owned(),
            },
        },
        Fact::Settled {
            delivery,
            outcome: DeliveryOutcome::Delivered {
                thread_id: "t".to_owned(),
                message_id: "m".to_owned(),
            },
            fingerprint: Some(Fingerprint(digest(nth))),
            at: now,
        },
    ]
}

fn nonce(nth: usize, until: Timestamp) -> Nonce {
    Nonce {
        digest: digest(nth),
        content: [0; 16],
        until,
    }
}

fn ended(nth: usize) -> Fact {
    Fact::Ended {
        job: id(nth),
        at: NOW,
        outcome: JobOutcome::Sent {
            relay: "relay.example:25".to_owned(),
            reply: "250 ok".to_owned(),
        },
    }
}

async fn settle_round(real: &TestStore, round: usize) {
    let store = real.store();
    let numbers = round * ROUND..(round + 1) * ROUND;
    for some in numbers.collect::<Vec<_>>().chunks(250) {
        join_all(some.iter().map(async |&nth| {
            let mail = store.accept(envelope(1), mail(1, 200)).await.unwrap();
            let delivery = DeliveryId { mail, recipient: 0 };
            let thread = ThreadKey::of(&format!("thread-{}", nth / 3));
            let posting = LeaseName::Posting(format!("thread-{}", nth / 3));
            let posting = store.lease(posting).await.unwrap();
            let lock = store.lock_thread(thread).await.unwrap();
            store.record(told(nth, delivery, NOW)).await.unwrap();
            drop((lock, posting));
            let mut job = job(nth, 0, None);
            (job.key, job.content) = (digest(nth), digest(nth));
            store
                .enqueue(job, letter(nth, 100), Vec::new())
                .await
                .unwrap();
            store.record(vec![ended(nth)]).await.unwrap();
            store.bind_nonce(nonce(nth, NOW)).await.unwrap();
        }))
        .await;
    }
}

fn check(real: &TestStore, when: &str) -> Vec<MemoryCount> {
    let counts = real.embedded.as_ref().unwrap().memory_counts();
    for count in &counts {
        assert!(count.entries <= count.bound, "{when}: {count:?}");
    }
    counts
}

#[test]
fn memory_does_not_grow_with_settled_mail() {
    let mut real = TestStore::begin(|folder| settings(folder, 1 << 20));
    for round in 0..2 {
        run(settle_round(&real, round));
        check(&real, "settled");
    }
    let mut events = (0..EVENTS as u64).map(happened);
    while let Some(some) =
        Some(events.by_ref().take(1000).collect::<Vec<_>>()).filter(|e| !e.is_empty())
    {
        run(real.store().record(some)).unwrap();
    }
    let full = check(&real, "more events than are kept");
    let ledger = (real.store().ledger(), real.store().outbox_ledger());
    assert_eq!(ledger.0.delivered, 2 * ROUND as u64);
    assert_eq!(ledger.1.sent, 2 * ROUND as u64);
    assert!(run(real.store().job(id(2 * ROUND - 1))).unwrap().is_some());
    real.reopen();
    let reopened = check(&real, "reopened");
    let events = |counts: &[MemoryCount]| {
        let events = counts.iter().find(|count| count.table == "events");
        events.map(|count| count.entries)
    };
    assert_eq!(events(&reopened), events(&full));
    real.lose_index();
    check(&real, "rebuilt");
}

/// The number of index entries of a kind.
fn entries(real: &TestStore, kind: u8) -> usize {
    let entries = real.embedded.as_ref().unwrap().index_entries();
    entries.keys().filter(|key| key.kind() == kind).count()
}

async fn deliver(real: &TestStore, numbers: Range<usize>, now: Timestamp) {
    let store = real.store();
    join_all(numbers.map(async |nth| {
        let mail = store.accept(envelope(1), mail(1, 20)).await.unwrap();
        let delivery = DeliveryId { mail, recipient: 0 };
        store.record(told(nth, delivery, now)).await.unwrap();
        store.bind_nonce(nonce(nth, now.plus(DAY))).await.unwrap();
    }))
    .await;
}

#[test]
fn the_index_forgets_old_entries() {
    const OLD: usize = 300;
    const NEW: usize = 50;
    let real = TestStore::begin(|folder| Settings {
        dedupe_window: DAY,
        subject_window: DAY,
        link_window: 3 * DAY,
        ..settings(folder, 16 << 10)
    });
    let link = || run(real.store().thread_by_message_id("us", "0@peer.example"));
    run(deliver(&real, 0..OLD, NOW));
    for kind in [b'f', b'i', b's', b'x'] {
        assert_eq!(entries(&real, kind), OLD);
    }
    // New mails follow until the compaction has reached all old records.
    let compact = |now, kinds: &[u8]| {
        let over = |kind: &u8| entries(&real, *kind) <= NEW;
        let mut rounds = 0;
        while !kinds.iter().all(over) {
            rounds += 1;
            let counts: Vec<usize> = kinds.iter().map(|kind| entries(&real, *kind)).collect();
            assert!(rounds < 200, "{counts:?}");
            run(deliver(&real, OLD..OLD + NEW, now));
        }
    };
    compact(NOW.plus(2 * DAY), b"fsx");
    assert_eq!(entries(&real, b'i'), OLD + NEW);
    assert!(link().unwrap().is_some());
    compact(NOW.plus(4 * DAY), b"fsxi");
    assert_eq!(link(), Ok(None));
    // A thread is kept, because it identifies its tokens.
    let thread = run(real.store().thread("us", ThreadKey::of("thread-0")));
    assert!(thread.unwrap().is_some());
}
