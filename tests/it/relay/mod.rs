//! The outbox and its relays: sending, retries and failures, for any behaviour of a relay.

mod away;
mod crowd;
mod dialogue;
mod doubt;
mod outbox;
mod panics;
mod person;
mod postfix;
mod program;
mod restart;
pub(crate) mod server;
mod several;
mod signed;
mod words;

use std::sync::Arc;
use std::time::Duration;

use crate::ask::ask;
use bytes::Bytes;
use postern::client::{TrustedRoots, client_config};
use postern::clock;
use postern::mail::address::Address;
use postern::mail::job_id::JobId;
use postern::outbound::dkim::DkimSigningKey;
use postern::outbound::metrics::Metrics;
use postern::outbound::rate::SendRates;
use postern::outbound::relay::RelayPool;
use postern::outbound::relay::settings::{Relay, RelayPoolSettings, RelaySecurity, RelayTimeouts};
use postern::outbound::urgent::UrgentJobs;
use postern::outbound::worker::{OutboundSettings, OutboundWorker};
use postern::queue::JobQueue;
use postern::retry::SendSchedule;
use postern::store::{EnqueueResult, Event, Job, JobRecord, Settings, Store};
use prometheus_client::registry::Registry;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wait::eventually_or;

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// A port of the machine that refuses connections as long as the socket is held.
fn closed() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// A relay at this port of the machine.
fn relay(port: u16) -> Relay {
    relay_with(port, RelaySecurity::Auto, None)
}

fn relay_with(port: u16, security: RelaySecurity, ca: Option<&str>) -> Relay {
    Relay {
        host: "127.0.0.1".to_owned(),
        port,
        security,
        login: None,
        tls_config: client_config(ca.map_or(TrustedRoots::Public, |pem| {
            TrustedRoots::PublicAnd(pem.as_bytes())
        }))
        .unwrap(),
        server_name: ServerName::try_from("127.0.0.1").unwrap(),
    }
}

/// Long enough for a loaded machine, and short enough for a test that waits for it.
fn timeouts() -> RelayTimeouts {
    RelayTimeouts {
        connect: Duration::from_secs(20),
        greeting: Duration::from_secs(20),
        command: Duration::from_secs(20),
        end: Duration::from_secs(20),
        attempt: Duration::from_secs(60),
    }
}

fn relays(list: Vec<Relay>, timeouts: RelayTimeouts) -> RelayPool {
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    RelayPool::new(list, terms(timeouts), metrics)
}

/// The settings of a test's relays.
fn terms(timeouts: RelayTimeouts) -> RelayPoolSettings {
    RelayPoolSettings {
        ehlo_name: "mx.test".to_owned(),
        timeouts,
        own_domains: settings().own_domains,
        schedule: SendSchedule {
            wait_first: Duration::from_secs(20),
            wait_max: Duration::from_secs(20),
            retries_max: None,
        },
    }
}

fn settings() -> OutboundSettings {
    OutboundSettings {
        connections: 4,
        domain_connections: 4,
        rates: SendRates {
            all: 1_000,
            domain: 1_000,
        },
        schedule: SendSchedule {
            wait_first: Duration::from_millis(50),
            wait_max: Duration::from_millis(400),
            retries_max: None,
        },
        suppress_after: 2,
        capture: false,
        own_domains: vec![address("x@inbox.test").domain().clone()],
        grace: Duration::from_secs(20),
    }
}

/// A job, the nth of its test.
fn job(n: u8, recipient: &str) -> Job {
    let now = clock::now();
    Job {
        id: JobId([n; 16]),
        route: "test".to_owned(),
        thread_id: None,
        product_message_id: Some(format!("message-{n}")),
        message_id: format!("<{n}@mx.test>"),
        recipient: address(recipient),
        return_path: Some(address("bounce@inbox.test")),
        subject: "An answer".to_owned(),
        key: [n; 16],
        second_key: None,
        content: [n; 16],
        made_at: now,
        ends_at: now.plus(Duration::from_secs(3_600)),
    }
}

fn mail(job: &Job) -> Bytes {
    let (id, to) = (&job.message_id, &job.recipient);
    let date = job.made_at.to_rfc5322();
    format!(
        "From: Support <support@example.com>\r\nTo: {to}\r\nSubject: An answer\r\nDate: {date}\r\n\
         Message-ID: {id}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHello.\r\n.\r\n..dots\r\n"
    )
    .into()
}

/// A store with a worker on it.
struct Sending {
    store: Store,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    folder: TempDir,
    registry: Registry,
    urgent: UrgentJobs,
}

impl Sending {
    fn start(list: Vec<Relay>, settings: OutboundSettings) -> Self {
        Self::start_in(TempDir::new().unwrap(), list, settings, Vec::new())
    }

    fn start_in(
        folder: TempDir,
        list: Vec<Relay>,
        settings: OutboundSettings,
        signers: Vec<DkimSigningKey>,
    ) -> Self {
        let terms = RelayPoolSettings {
            schedule: settings.schedule,
            ..terms(timeouts())
        };
        Self::start_with(folder, list, terms, settings, signers)
    }

    fn start_with(
        folder: TempDir,
        list: Vec<Relay>,
        terms: RelayPoolSettings,
        settings: OutboundSettings,
        signers: Vec<DkimSigningKey>,
    ) -> Self {
        let disk = Settings {
            free_bytes_min: 0,
            ..Settings::new(folder.path().to_owned())
        };
        let store = Store::open(disk, clock::now()).unwrap();
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let relays = RelayPool::new(list, terms, Arc::clone(&metrics));
        let worker = OutboundWorker::new(store.clone(), relays, signers.into(), settings, metrics);
        let urgent = worker.urgent_jobs();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { worker.run(stopped).await.unwrap() });
        Self {
            store,
            stop,
            task,
            folder,
            registry,
            urgent,
        }
    }

    /// The jobs as a person uses them while the worker runs.
    fn queue(&self) -> JobQueue {
        let urgent = self.urgent.clone();
        let jobs = JobQueue::new(self.store.clone(), Duration::from_secs(3_600));
        jobs.with_worker(Arc::new(move |job| urgent.add(job)))
    }

    async fn enqueue(&self, job: &Job) {
        let taken = self.store.enqueue(job.clone(), mail(job), Vec::new());
        assert_eq!(taken.await.unwrap(), EnqueueResult::New);
    }

    fn record(&self, n: u8) -> JobRecord {
        ask(self.store.job(JobId([n; 16]))).unwrap()
    }

    async fn until(&self, what: &str, done: impl Fn(&Store) -> bool) {
        let jobs = || ask(self.store.jobs(None, None, 10));
        eventually_or(what, async || done(&self.store), jobs).await;
    }

    /// Waits until no job waits.
    async fn over(&self) {
        self.until("every job is over", |store| {
            store.outbox_ledger().waiting == 0
        })
        .await;
    }

    /// True if the metrics show this relay as available.
    fn is_up(&self, relay: &Relay) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let name = format!("postern_outbound_relay_up{{relay=\"{}\"}} ", relay.label());
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap() == "1"
    }

    fn events(&self) -> Vec<Arc<Event>> {
        let all = ask(self.store.events_after(Default::default(), 1_000));
        all.into_iter().map(|(_, event)| event).collect()
    }

    async fn stop(self) -> TempDir {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.store.close().await;
        self.folder
    }
}
