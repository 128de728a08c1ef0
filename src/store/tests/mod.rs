//! The store as a whole, on a disk that can fail.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use proptest::prelude::*;

use super::embedded::backend::EmbeddedStore;
use super::embedded::disk::{Disk, DiskChange};
use super::*;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use crate::mail::fingerprint::Fingerprint;
use model::{QueueAction, QueueAnswers, QueueModel, queue_action};

mod model;
mod outbox;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn settings(folder: &Path, segment_bytes: u64) -> Settings {
    Settings {
        segment_bytes,
        free_bytes_min: 0,
        ..Settings::new(folder.to_owned())
    }
}

fn envelope(recipients: u16) -> Envelope {
    let recipient = |n| Recipient {
        address: Address::parse(&format!("box{n}@us.example")).unwrap(),
        route: "us".to_owned(),
        target: RecipientTarget::Mailbox(format!("box{n}")),
    };
    Envelope {
        sender: Some(Address::parse("ann@peer.example").unwrap()),
        sender_untold: false,
        recipients: (0..recipients).map(recipient).collect(),
        peer: Peer {
            door: Door::Smtp,
            ip: Some(IpAddr::from([192, 0, 2, 1])),
            helo: "peer.example".to_owned(),
            tls: None,
        },
        received_at: NOW,
        smtputf8: false,
        told: None,
        verdict: None,
    }
}

fn mail(seed: u8, bytes: usize) -> Bytes {
    vec![seed; bytes].into()
}

fn mapping(thread: u8, subject: u8) -> Mapping {
    Mapping {
        thread_id: format!("thread-{thread}"),
        route: "us".to_owned(),
        participant: Some(Address::parse("ann@peer.example").unwrap()),
        subject: format!("subject {subject}"),
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

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn settled(delivery: DeliveryId, end: u8, fingerprint: Option<u8>) -> Fact {
    let outcome = match end {
        0 => DeliveryOutcome::Delivered {
            thread_id: "t".to_owned(),
            message_id: "m".to_owned(),
        },
        1 => DeliveryOutcome::Parked {
            reason: "a reason".to_owned(),
        },
        _ => DeliveryOutcome::Dropped {
            rule: format!("rule-{end}"),
        },
    };
    Fact::Settled {
        delivery,
        outcome,
        fingerprint: fingerprint.map(|f| Fingerprint([f; 16])),
        at: NOW,
    }
}

/// A store that is closed, opened again and rebuilt, on a disk that can fail.
struct TestStore {
    folder: tempfile::TempDir,
    settings: Settings,
    disk: Disk,
    embedded: Option<Arc<EmbeddedStore>>,
    store: Option<Store>,
}

impl TestStore {
    fn new(settings: impl FnOnce(&Path) -> Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut house = Self {
            settings: settings(folder.path()),
            folder,
            disk: Disk::default(),
            embedded: None,
            store: None,
        };
        house.open();
        house
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn open(&mut self) {
        self.disk = Disk::default();
        let opened = EmbeddedStore::open(self.settings.clone(), NOW, self.disk.clone());
        let opened = Arc::new(opened.unwrap());
        self.store = Some(Store::of(Arc::clone(&opened) as Arc<dyn StoreBackend>));
        self.embedded = Some(opened);
    }

    fn close(&mut self) {
        self.embedded = None;
        run(self.store.take().unwrap().close());
    }

    fn reopen(&mut self) {
        self.close();
        self.open();
    }

    fn lose_index(&mut self) {
        self.close();
        std::fs::remove_dir_all(self.folder.path().join("index")).unwrap();
        self.open();
    }
}

/// A store with a model of it.
struct ModelledStore {
    real: TestStore,
    model: QueueModel,
}

impl ModelledStore {
    fn new(segment_bytes: u64) -> Self {
        Self {
            real: TestStore::new(|folder| settings(folder, segment_bytes)),
            model: QueueModel::default(),
        }
    }

    fn check(&self) {
        let answers = QueueAnswers::of(self.real.store());
        assert!(answers.adds_up(), "{:?}", answers.ledger);
        answers.assert_are(&self.model.answers);
    }

    /// False: the store refused, and whether it was done will be known after a reopen.
    fn act(&mut self, deed: &QueueAction) -> bool {
        match deed {
            QueueAction::Accept { recipients, bytes } => {
                let bytes = mail(self.model.mails, *bytes);
                match run(self
                    .real
                    .store()
                    .accept(envelope(*recipients), bytes.clone()))
                {
                    Ok(id) => self.model.accepted(id, *recipients, &bytes),
                    Err(_) => return false,
                }
            }
            QueueAction::Reopen => self.real.reopen(),
            QueueAction::LoseIndex => self.real.lose_index(),
            _ => {
                let facts = self.model.facts(deed);
                if run(self.real.store().record(facts.clone())).is_err() {
                    return false;
                }
                self.model.told(deed, &facts);
            }
        }
        true
    }

    /// After a deed that failed and a reopen: it was done whole or not at all.
    fn settle_doubt(&mut self, deed: &QueueAction) {
        let answers = QueueAnswers::of(self.real.store());
        assert!(answers.adds_up(), "{:?}", answers.ledger);
        if answers == self.model.answers {
            return;
        }
        match deed {
            QueueAction::Accept { recipients, bytes } => {
                let known: BTreeSet<MailId> =
                    self.model.answers.open.keys().map(|d| d.mail).collect();
                let new = answers
                    .open
                    .keys()
                    .find(|d| !known.contains(&d.mail))
                    .unwrap()
                    .mail;
                let bytes = mail(self.model.mails, *bytes);
                self.model.accepted(new, *recipients, &bytes);
            }
            _ => {
                let facts = self.model.facts(deed);
                self.model.told(deed, &facts);
            }
        }
        answers.assert_are(&self.model.answers);
    }
}

#[test]
fn a_mapping_keeps_its_first_mail_and_the_newest() {
    let mut thread = mapping(0, 0);
    for n in 0..100 {
        thread.add_reference(&format!("{n}@x"));
        // One that comes again is the newest again, but for the first.
        thread.add_reference("0@x");
        thread.add_reference(&format!("{n}@x"));
        assert!(thread.references.len() <= Mapping::REFERENCES_MAX);
    }
    let newest = (100 - Mapping::REFERENCES_MAX + 1)..100;
    let kept: Vec<String> = [0]
        .into_iter()
        .chain(newest)
        .map(|n| format!("{n}@x"))
        .collect();
    assert_eq!(thread.references, kept);
    thread.add_reference("80@x");
    assert_eq!(thread.references.len(), Mapping::REFERENCES_MAX);
    let ends = [thread.references.first(), thread.references.last()];
    assert_eq!(ends.map(|id| id.unwrap().as_str()), ["0@x", "80@x"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, closed, reopened and rebuilt, with segments so small that they go all the time.
    #[test]
    fn answers_are_what_was_told(deeds in proptest::collection::vec(queue_action(), 1..120), segment_bytes in 300u64..6000) {
        let mut pair = ModelledStore::new(segment_bytes);
        for deed in &deeds {
            prop_assert!(pair.act(deed));
        }
        pair.check();
        pair.real.reopen();
        pair.check();
        pair.real.lose_index();
        pair.check();
    }

    /// The disk stops at any change, in the middle of a write, of compaction, of giving segments up.
    #[test]
    fn a_stop_at_any_point_loses_nothing(
        rounds in proptest::collection::vec((proptest::collection::vec(queue_action(), 1..40), 0u64..120), 1..6),
        segment_bytes in 300u64..4000,
    ) {
        let mut pair = ModelledStore::new(segment_bytes);
        for (deeds, stop) in &rounds {
            pair.real.disk.faults.stop_after(*stop);
            let failed = deeds.iter().find(|deed| {
                !matches!(deed, QueueAction::Reopen | QueueAction::LoseIndex) && !pair.act(deed)
            });
            pair.real.reopen();
            if let Some(deed) = failed {
                pair.settle_doubt(deed);
            }
            pair.check();
        }
        pair.real.lose_index();
        pair.check();
    }
}

#[test]
fn a_failed_sync_is_final() {
    let mut pair = ModelledStore::new(1 << 20);
    let accept = QueueAction::Accept {
        recipients: 1,
        bytes: 100,
    };
    assert!(pair.act(&accept));
    pair.real.disk.faults.fail_once(DiskChange::Sync, EIO);
    let answer = run(pair.real.store().accept(envelope(1), mail(1, 10)));
    assert_eq!(answer, Err(StoreError::Dead));
    // The disk would say yes now, but what it says is worth nothing.
    let answer = run(pair.real.store().accept(envelope(1), mail(9, 10)));
    assert_eq!(answer, Err(StoreError::Dead));
    assert_eq!(
        run(pair.real.store().record(Vec::new())),
        Err(StoreError::Dead)
    );
    run(pair.real.store().ended());
    pair.real.reopen();
    pair.settle_doubt(&QueueAction::Accept {
        recipients: 1,
        bytes: 10,
    });
}

#[test]
fn a_failed_index_ends_the_store() {
    let mut pair = ModelledStore::new(1 << 20);
    assert!(pair.act(&QueueAction::Accept {
        recipients: 1,
        bytes: 100,
    }));
    pair.real.embedded.as_ref().unwrap().fail_index();
    // At once, though the writer has not heard of it yet: no token may pass for lack of an answer.
    assert_eq!(pair.real.store().has_room(1), Err(StoreError::Dead));
    run(pair.real.store().ended());
    pair.real.reopen();
    pair.check();
}

#[test]
fn a_full_disk_passes() {
    for change in [DiskChange::Create, DiskChange::Write] {
        let mut pair = ModelledStore::new(2000);
        let accept = QueueAction::Accept {
            recipients: 1,
            bytes: 1500,
        };
        assert!(pair.act(&accept));
        pair.real.disk.faults.fail_once(change, ENOSPC);
        let answer = run(pair.real.store().accept(envelope(1), mail(9, 1500)));
        assert_eq!(answer, Err(StoreError::Full), "{change:?}");
        pair.check();
        assert!(pair.act(&accept));
        pair.check();
        pair.real.reopen();
        pair.check();
    }
}

#[test]
fn a_full_disk_passes_in_the_middle_of_a_large_mail() {
    let mut pair = ModelledStore::new(1 << 20);
    assert!(pair.act(&QueueAction::Accept {
        recipients: 1,
        bytes: 10
    }));
    pair.real.disk.faults.fail_once(DiskChange::Write, ENOSPC);
    let answer = run(pair.real.store().accept(envelope(1), mail(9, 200_000)));
    assert_eq!(answer, Err(StoreError::Full));
    assert!(pair.act(&QueueAction::Accept {
        recipients: 2,
        bytes: 20
    }));
    pair.check();
    pair.real.reopen();
    pair.check();
    pair.real.lose_index();
    pair.check();
}
