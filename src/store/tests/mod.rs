//! The conformance tests: those for every backend, and those for the embedded one.
//!
//! ```text
//! queue, outbox   models of the two, against which every action on a store is checked
//! bounds, door    single rules
//! memory          a second backend, only for tests
//! embedded        the disk, the index and the journal's files
//! ```

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::embedded::backend::EmbeddedStore;
use super::embedded::disk::Disk;
use super::*;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use crate::mail::fingerprint::Fingerprint;
use memory::MemoryStore;

mod door;
mod embedded;
mod memory;
mod outbox;
mod queue;
mod queue_model;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

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

/// A store of one kind, as the kit uses it.
trait Subject {
    /// An empty store with these settings, in its own folder.
    fn begin(settings: impl FnOnce(&Path) -> Settings) -> Self;

    fn store(&self) -> &Store;

    /// Ends the process of the store, and begins another.
    fn reopen(&mut self);

    /// Like `reopen`, and data that can be rebuilt is lost.
    fn lose_index(&mut self);
}

/// A store that is closed, reopened and rebuilt, on a disk that can fail.
struct TestStore {
    folder: tempfile::TempDir,
    settings: Settings,
    disk: Disk,
    embedded: Option<Arc<EmbeddedStore>>,
    store: Option<Store>,
}

impl Subject for TestStore {
    fn begin(settings: impl FnOnce(&Path) -> Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fixture = Self {
            settings: settings(folder.path()),
            folder,
            disk: Disk::default(),
            embedded: None,
            store: None,
        };
        fixture.open();
        fixture
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
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

impl TestStore {
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
}

/// A store in memory, which outlives its users as a shared store does.
struct TestMemory(Store);

impl Subject for TestMemory {
    fn begin(settings: impl FnOnce(&Path) -> Settings) -> Self {
        let settings = settings(Path::new("unused"));
        Self(Store::of(Arc::new(MemoryStore::new(settings))))
    }

    fn store(&self) -> &Store {
        &self.0
    }

    fn reopen(&mut self) {}

    fn lose_index(&mut self) {}
}

/// The same tests for every kind of store.
macro_rules! for_every_store {
    ($($test:ident),* $(,)?) => {
        mod embedded_store {
            $(#[test] fn $test() { super::$test::<crate::store::tests::TestStore>(); })*
        }
        mod memory_store {
            $(#[test] fn $test() { super::$test::<crate::store::tests::TestMemory>(); })*
        }
    };
}
use for_every_store;

#[test]
fn a_mapping_keeps_its_first_mail_and_the_newest() {
    let mut thread = mapping(0, 0);
    for n in 0..100 {
        thread.add_reference(&format!("{n}@x"));
        // A repeated id becomes the newest again, except the first.
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
