//! The store's folder: damage that it survives or refuses, and space that it frees.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ask::{ask, wait};
use bytes::Bytes;
use postern::clock::Timestamp;
use postern::mail::address::Address;
use postern::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use postern::mail::fingerprint::Fingerprint;
use postern::mail::token::ThreadKey;
use postern::store::{
    Delivery, DeliveryId, DeliveryOutcome, Fact, Ledger, MailId, Mapping, ReadError, Settings,
    Store, StoreError,
};
use prometheus_client::registry::Registry;

use crate::wait::eventually_or;

mod before;
mod damage;
mod full;
mod mend;
mod messages;
mod reads;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn settings(folder: &Path) -> Settings {
    Settings {
        segment_bytes: 32 << 10,
        free_bytes_min: 0,
        ..Settings::new(folder.to_owned())
    }
}

fn open(folder: &Path) -> Store {
    Store::open(settings(folder), NOW).unwrap()
}

fn envelope() -> Envelope {
    Envelope {
        sender: None,
        sender_untold: false,
        recipients: vec![Recipient {
            address: Address::parse("box@us.example").unwrap(),
            route: "us".to_owned(),
            target: RecipientTarget::Mailbox("box".to_owned()),
        }],
        peer: Peer {
            door: Door::Lmtp,
            ip: None,
            helo: String::new(),
            tls: None,
        },
        received_at: NOW,
        smtputf8: false,
        told: None,
        verdict: None,
    }
}

fn mail(bytes: usize) -> Bytes {
    vec![b'm'; bytes].into()
}

fn mapping(n: u32) -> Mapping {
    Mapping {
        thread_id: format!("thread-{n}"),
        route: "us".to_owned(),
        participant: Address::parse(&format!("person{n}@peer.example")).ok(),
        subject: format!("subject {n}"),
        title: None,
        mailbox: None,
        priority: None,
        last_message_id: None,
        references: Vec::new(),
        images: Vec::new(),
        made_at: NOW,
        changed_at: NOW,
    }
}

fn settled(mail: MailId, outcome: DeliveryOutcome) -> Fact {
    let mut fingerprint = [0; 16];
    fingerprint[..8].copy_from_slice(&mail.0.to_le_bytes());
    Fact::Settled {
        delivery: DeliveryId { mail, recipient: 0 },
        outcome,
        fingerprint: Some(Fingerprint(fingerprint)),
        at: NOW,
    }
}

fn delivered() -> DeliveryOutcome {
    DeliveryOutcome::Delivered {
        thread_id: "t".to_owned(),
        message_id: "m".to_owned(),
    }
}

fn segments(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("journal")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|p| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.starts_with(kind) && name.ends_with(".segment")
    });
    paths.sort();
    paths
}

fn ids(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|d| d.id.mail.0).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits for the effect of maintenance.
async fn until(done: impl Fn() -> bool) {
    eventually_or("the upkeep", async || done(), || ()).await;
}

#[tokio::test]
async fn many_callers_share_a_sync() {
    const MAILS: u64 = 400;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Settings::new(folder.path().to_owned()), NOW).unwrap();
    let mut registry = Registry::default();
    store.metrics().register(&mut registry);
    let tasks: Vec<_> = (0..MAILS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.accept(envelope(), mail(1000)).await.unwrap() })
        })
        .collect();
    let mut mails = Vec::new();
    for task in tasks {
        mails.push(task.await.unwrap().0);
    }
    mails.sort_unstable();
    mails.dedup();
    assert_eq!(mails.len() as u64, MAILS);
    assert_eq!(store.ledger().waiting, MAILS);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let syncs = text
        .lines()
        .find_map(|l| l.strip_prefix("postern_journal_sync_seconds_count "))
        .unwrap();
    assert!(syncs.parse::<u64>().unwrap() < MAILS / 2, "{syncs} syncs");
    store.close().await;
}

#[tokio::test]
async fn the_worker_walks_in_order_and_is_woken() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut mails = Vec::new();
    for _ in 0..5 {
        mails.push(store.accept(envelope(), mail(10)).await.unwrap().0);
    }
    store.mail_arrived().await;
    let first = ask(store.waiting(None, 2));
    assert_eq!(ids(&first), mails[..2]);
    assert_eq!(ids(&ask(store.waiting(Some(first[1].id), 9))), mails[2..]);
    let parked = DeliveryOutcome::Parked {
        reason: "why".to_owned(),
    };
    store
        .record(vec![settled(MailId(mails[3]), parked)])
        .await
        .unwrap();
    assert_eq!(ask(store.parked(None, 9))[0].parked.as_deref(), Some("why"));
    assert_eq!(
        ids(&ask(store.waiting(Some(first[1].id), 9))),
        [mails[2], mails[4]]
    );
    let delivery = ask(store.parked(None, 9))[0].id;
    store
        .record(vec![Fact::Released { delivery, at: NOW }])
        .await
        .unwrap();
    store.mail_arrived().await;
    assert_eq!(ids(&ask(store.waiting(None, 9))), mails);
    store
        .record(vec![settled(MailId(mails[0]), delivered())])
        .await
        .unwrap();
    // A second settlement of the same delivery has no effect.
    let dropped = DeliveryOutcome::Dropped {
        rule: "loop".to_owned(),
    };
    store
        .record(vec![settled(MailId(mails[0]), dropped)])
        .await
        .unwrap();
    assert!(
        ask(store.delivery(DeliveryId {
            mail: MailId(mails[0]),
            recipient: 0
        }))
        .is_none()
    );
    assert!(matches!(
        wait(store.mail_bytes(MailId(mails[0]))),
        Err(ReadError::Settled(_))
    ));
    let ledger = Ledger {
        received: 5,
        waiting: 4,
        delivered: 1,
        ..Ledger::default()
    };
    assert_eq!(store.ledger(), ledger);
    store.close().await;
}

#[tokio::test]
async fn stored_facts_are_found_only_within_their_window() {
    let day = Duration::from_secs(24 * 60 * 60);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let id = store.accept(envelope(), mail(10)).await.unwrap();
    store
        .record(vec![settled(id, delivered()), Fact::Mapped(mapping(1))])
        .await
        .unwrap();
    let mut name = [0; 16];
    name[..8].copy_from_slice(&id.0.to_le_bytes());
    let seen = |now| ask(store.find_duplicate(Fingerprint(name), now));
    assert!(seen(NOW.plus(29 * day)).is_some());
    assert_eq!(seen(NOW.plus(30 * day)), None);
    let sender = Address::parse("Person1@PEER.example").unwrap();
    let find = |subject: &str, since| ask(store.thread_by_subject("us", &sender, subject, since));
    assert_eq!(find("subject 1", NOW), Some(mapping(1)));
    assert_eq!(find("subject 1", NOW.plus(day)), None);
    assert_eq!(find("subject 2", NOW), None);
    assert_eq!(
        ask(store.thread_by_subject("else", &sender, "subject 1", NOW)),
        None
    );
    let link = |thread: u32, sent_by_us| Fact::Linked {
        route: "us".to_owned(),
        message_id: "<a@b>".to_owned(),
        thread_id: format!("thread-{thread}"),
        sent_by_us,
        at: NOW,
    };
    store
        .record(vec![
            Fact::Mapped(mapping(2)),
            link(1, false),
            link(2, true),
        ])
        .await
        .unwrap();
    // An incoming Message-ID does not replace that of a sent mail.
    store.record(vec![link(1, false)]).await.unwrap();
    assert_eq!(
        ask(store.thread_by_message_id("us", "a@b")),
        Some((mapping(2), true))
    );
    assert_eq!(ask(store.thread_by_message_id("us", "<x@b>")), None);
    store.close().await;
}

#[tokio::test]
async fn bounds_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let few = Settings {
        waiting_max: 2,
        waiting_bytes_max: 1000,
        ..settings(folder.path())
    };
    let store = Store::open(few, NOW).unwrap();
    assert_eq!(store.has_room(1001), Err(StoreError::Full));
    let id = store.accept(envelope(), mail(600)).await.unwrap();
    assert_eq!(
        store.accept(envelope(), mail(600)).await,
        Err(StoreError::Full)
    );
    store.accept(envelope(), mail(100)).await.unwrap();
    assert_eq!(store.has_room(1), Err(StoreError::Full));
    // Facts are still accepted, because they free space.
    store.record(vec![settled(id, delivered())]).await.unwrap();
    assert_eq!(store.has_room(1), Ok(()));
    store.close().await;
    let poor = Settings {
        free_bytes_min: u64::MAX / 2,
        ..settings(folder.path())
    };
    let store = Store::open(poor, NOW).unwrap();
    assert_eq!(
        store.accept(envelope(), mail(1)).await,
        Err(StoreError::Full)
    );
    store.close().await;
}

#[tokio::test]
async fn settled_mail_leaves_the_disk() {
    const MAILS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut mails = Vec::new();
    for _ in 0..MAILS {
        mails.push(store.accept(envelope(), mail(3000)).await.unwrap());
    }
    assert!(segments(folder.path(), "mail").len() > 10);
    // One in fifty stays, and would keep its segment.
    let stays = |nth: &usize| nth.is_multiple_of(50);
    for nth in (0..MAILS).filter(|n| !stays(n)) {
        store
            .record(vec![settled(mails[nth], delivered())])
            .await
            .unwrap();
    }
    let left: Vec<u64> = (0..MAILS).filter(stays).map(|n| mails[n].0).collect();
    until(|| segments(folder.path(), "mail").len() <= 6).await;
    let check = |store: &Store| {
        assert_eq!(ids(&ask(store.waiting(None, 100))), left);
        for id in &left {
            assert_eq!(wait(store.mail_bytes(MailId(*id))).unwrap(), mail(3000));
        }
    };
    check(&store);
    store.close().await;
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    let store = open(folder.path());
    check(&store);
    assert_eq!(store.ledger().delivered, 196);
    store.close().await;
}

#[tokio::test]
async fn obsolete_facts_leave_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let token = [7; 16];
    let revoked = Fact::Revoked { token, at: NOW };
    store
        .record(vec![revoked, Fact::Mapped(mapping(1000))])
        .await
        .unwrap();
    // Nonces are removed after their expiry.
    let spent = |word, until| Fact::NonceUsed {
        nonce: [word; 16],
        content: [9; 16],
        until,
    };
    let (old, fresh) = (NOW.minus(crate::bench::DAY), NOW.plus(crate::bench::DAY));
    store
        .record(vec![spent(1, old), spent(2, fresh)])
        .await
        .unwrap();
    let mail = store.accept(envelope(), mail(1)).await.unwrap();
    let settled = Fact::Settled {
        delivery: format!("{mail}.0").parse().unwrap(),
        outcome: DeliveryOutcome::Dropped {
            rule: "loop".to_owned(),
        },
        fingerprint: None,
        at: NOW,
    };
    store.record(vec![settled]).await.unwrap();
    assert_eq!(ask(store.nonce_used([1; 16])), Some([9; 16]));
    for round in 0..400 {
        // The same ten threads repeatedly.
        let facts = (0..10).map(|n| {
            Fact::Mapped(Mapping {
                last_message_id: Some(format!("{round}")),
                ..mapping(n)
            })
        });
        store.record(facts.collect()).await.unwrap();
    }
    let first = folder.path().join("journal/state-0000000001.segment");
    until(|| !first.exists() && segments(folder.path(), "state").len() <= 8).await;
    store.close().await;
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    let store = open(folder.path());
    assert!(ask(store.is_revoked(token)));
    assert_eq!(
        (
            ask(store.nonce_used([1; 16])),
            ask(store.nonce_used([2; 16]))
        ),
        (None, Some([9; 16]))
    );
    assert_eq!(
        ask(store.thread("us", ThreadKey::of("thread-1000"))),
        Some(mapping(1000))
    );
    for n in 0..10 {
        let found = ask(store.thread("us", ThreadKey::of(&format!("thread-{n}")))).unwrap();
        assert_eq!(found.last_message_id.as_deref(), Some("399"));
    }
    store.close().await;
}

#[tokio::test]
async fn a_closed_store_returns_dead() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let other = store.clone();
    store.close().await;
    other.ended().await;
    assert_eq!(other.record(Vec::new()).await, Err(StoreError::Dead));
    assert_eq!(
        other.accept(envelope(), mail(1)).await,
        Err(StoreError::Dead)
    );
}
