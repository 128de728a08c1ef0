//! Owns the test bench of the worker: a real store, a fake Messages API, mails, a log.
//!
//! Does not contain tests.
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock::{self, Timestamp};
use postern::delivery::api::{Api, ApiSettings};
use postern::delivery::line_waker::LineWaker;
use postern::delivery::metrics::Metrics;
use postern::delivery::policy::RoutePolicy;
use postern::delivery::route::DeliveryRoute;
use postern::delivery::worker::{DeliverySettings, DeliveryWorker, DeliveryWorkerError};
use postern::mail::address::{Address, Domain};
use postern::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use postern::mail::token::{Claims, KeyRing, ThreadKey};
use postern::objects::{AttachmentLimits, LinkSigner, Objects, StorageLocation};
use postern::queue::{MailQueue, WakeLine};
use postern::retry;
use postern::secret::Secret;
use postern::store::{Settings, Store};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ask::ask;
use crate::fake_api::Fake;
use crate::wait::eventually_or;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const KEY: &str = "k-secret-do-not-log";
pub(crate) const THREAD: &str = "3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b";
/// The route's own marker.
pub(crate) const MARKER: &str = "Antwort bitte hier drüber";
pub(crate) const OTHER: &str = "9d0c2a77-1111-4f6e-9b7a-2d1c0e5f4a3b";

/// The settings of a small store in this folder.
pub(crate) fn settings_in(folder: &Path) -> Settings {
    Settings {
        segment_bytes: 1 << 20,
        waiting_max: 100_000,
        waiting_bytes_max: 1 << 30,
        free_bytes_min: 0,
        dedupe_window: 7 * DAY,
        subject_window: 30 * DAY,
        ..Settings::new(folder.to_owned())
    }
}

/// The stored files in this folder, at most 1000 bytes each.
pub(crate) fn objects_in(folder: &Path) -> Objects {
    let settings = postern::objects::Settings {
        location: StorageLocation::Folder(folder.join("attachments")),
        bounds: AttachmentLimits {
            bytes_max: 1000,
            ..AttachmentLimits::default()
        },
        links: LinkSigner::new("http://postern.example", &[Secret::new("link secret")], DAY),
        age_max: 30 * DAY,
        free_bytes_min: 0,
    };
    Objects::open(settings).unwrap()
}

/// A worker on a store, posting to a fake API.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    waker: LineWaker,
    pub(crate) worked: JoinHandle<Result<(), DeliveryWorkerError>>,
}

impl Bench {
    pub(crate) async fn start(fake: &Fake) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), fake, |_| {}).await
    }

    pub(crate) async fn start_in(
        folder: tempfile::TempDir,
        fake: &Fake,
        adjust: impl FnOnce(&mut DeliverySettings),
    ) -> Self {
        Self::start_at(folder, fake.base(), adjust).await
    }

    /// A worker that posts to this base URL.
    pub(crate) async fn start_at(
        folder: tempfile::TempDir,
        base: String,
        adjust: impl FnOnce(&mut DeliverySettings),
    ) -> Self {
        let policy = RoutePolicy::shipped().unwrap();
        Self::start_with(folder, base, policy, adjust).await
    }

    /// A worker that posts to this base URL by this policy.
    pub(crate) async fn start_with(
        folder: tempfile::TempDir,
        base: String,
        policy: RoutePolicy,
        adjust: impl FnOnce(&mut DeliverySettings),
    ) -> Self {
        let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
        let api = ApiSettings {
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_millis(800),
            total_timeout: Duration::from_secs(3),
            ..ApiSettings::new(base, KEY)
        };
        let route = DeliveryRoute {
            name: "default".to_owned(),
            api: Api::new(&api).unwrap(),
            keys: Arc::new(KeyRing::new(vec![(1, vec![7; 32])], 365 * DAY).unwrap()),
            loop_mark: Some("this-instance".to_owned()),
            message_id_domains: vec![Domain::parse("inbox.example.com").unwrap()],
            reply_marker: MARKER.to_owned(),
            policy,
            senders: postern::auth::AuthPolicy::default(),
        };
        let objects = Some(objects_in(folder.path()));
        let mut settings = DeliverySettings {
            retry: retry::Settings {
                wait_first: Duration::from_millis(20),
                wait_max: Duration::from_millis(100),
                max_age: 5 * DAY,
            },
            ..DeliverySettings::default()
        };
        adjust(&mut settings);
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let worker = DeliveryWorker::new(
            store.clone(),
            vec![route],
            settings,
            Arc::clone(&metrics),
            objects,
        );
        let (stop, stopped) = watch::channel(false);
        Self {
            store,
            folder,
            stop,
            metrics,
            registry,
            waker: worker.line_waker(),
            worked: tokio::spawn(worker.run(stopped)),
        }
    }

    /// The queue as a person uses it while the worker runs.
    pub(crate) fn queue(&self) -> MailQueue {
        let queue = MailQueue::new(
            self.store.clone(),
            "mx.test".to_owned(),
            "mx.test".to_owned(),
        );
        let waker = self.waker.clone();
        let wake: WakeLine = Arc::new(move |partition, delivery| {
            let waker = waker.clone();
            Box::pin(async move { waker.wake(partition, delivery).await })
        });
        queue.with_worker(Arc::new(|_| None), wake)
    }

    /// Aborts the worker, like a crash.
    pub(crate) async fn kill(self) -> tempfile::TempDir {
        self.worked.abort();
        let _ = self.worked.await;
        self.store.close().await;
        self.folder
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        self.worked.await.unwrap().unwrap();
        self.store.close().await;
        self.folder
    }

    pub(crate) async fn put(&self, target: RecipientTarget, mail: &str) {
        put(&self.store, target, mail).await;
    }

    /// Waits until no mail is waiting.
    pub(crate) async fn drained(&self) {
        self.until("drained", |store| store.ledger().waiting == 0)
            .await;
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Store) -> bool) {
        let ledger = || self.store.ledger();
        eventually_or(what, async || wanted(&self.store), ledger).await;
    }

    /// The numbers of delivered, parked and dropped mails.
    pub(crate) fn fates(&self) -> [u64; 3] {
        let ledger = self.store.ledger();
        let fates = [
            ledger.delivered,
            ledger.parked,
            ledger.dropped.values().sum(),
        ];
        assert_eq!(
            ledger.received,
            ledger.waiting + fates.iter().sum::<u64>(),
            "{ledger:?}"
        );
        fates
    }

    /// The number of attempts so far.
    pub(crate) fn attempts(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let lines = text.lines();
        let counts = lines.filter(|line| line.starts_with("postern_delivery_attempts_total{"));
        let counts = counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        counts.sum()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        let parked = ask(self.store.parked(None, 100));
        parked
            .into_iter()
            .filter_map(|delivery| delivery.parked)
            .collect()
    }
}

pub(crate) fn envelope(
    sender: Option<&str>,
    targets: Vec<RecipientTarget>,
    at: Timestamp,
) -> Envelope {
    Envelope {
        sender: sender.map(|sender| Address::parse(sender).unwrap()),
        sender_untold: false,
        recipients: targets
            .into_iter()
            .map(|target| Recipient {
                address: Address::parse("reply+secret-token-do-not-log@inbox.example.com").unwrap(),
                route: "default".to_owned(),
                target,
            })
            .collect(),
        peer: Peer {
            door: Door::Smtp,
            ip: None,
            helo: "mail.example.com".to_owned(),
            tls: None,
        },
        received_at: at,
        smtputf8: false,
        told: None,
        verdict: None,
    }
}

pub(crate) async fn put(store: &Store, target: RecipientTarget, mail: &str) {
    let envelope = envelope(Some("ann@example.com"), vec![target], clock::now());
    let bytes = mail.to_owned().into_bytes().into();
    store.accept(envelope, bytes).await.unwrap();
}

pub(crate) fn token(thread: &str) -> RecipientTarget {
    let mut key = ThreadKey::of(thread);
    // A token leads to an unknown thread only if the thread id is a UUID.
    key.0[6] = key.0[6] & 0x0f | 0x40;
    key.0[8] = key.0[8] & 0x3f | 0x80;
    RecipientTarget::Thread(Claims {
        thread: key,
        thread_id: None,
        is_hash: false,
        issued_at: clock::now(),
        participant: None,
        digest: ThreadKey::of(&format!("digest {thread}")).0,
    })
}

pub(crate) fn mailbox() -> RecipientTarget {
    RecipientTarget::Mailbox("general".to_owned())
}

pub(crate) fn mail(number: usize, words: &str) -> String {
    format!(
        "From: Ann Other <ann@example.com>\r\nTo: reply@inbox.example.com\r\n\
         Subject: Where is my order?\r\nMessage-ID: <m{number}@mail.example.com>\r\n\
         Date: Sat, 31 Jan 2026 23:59:59 +0000\r\n\r\n{words}\r\n"
    )
}

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
