//! The SMTP and LMTP server over real sockets, with a real store behind it.

mod client;
mod conversation;
mod hostile;
mod limits;
mod log;
mod proxy;
mod shutdown;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use postern::auth::AuthPolicy;
use postern::clock;
use postern::ingress::routes::{Route, Routes};
use postern::ingress::smtp::{Listen, ListenAddress, Metrics, Settings, SmtpParts, SmtpServer};
use postern::mail::address::{Address, Domain};
use postern::mail::token::{Format, KeyRing};
use postern::smtp::session::Protocol;
use postern::store::{self, Delivery, Store};
use postern::tls::Certificates;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::ask::{ask, wait};
use client::Client;

use crate::wait::{PATIENCE, eventually_or};

const HOST: &str = "mx.example.com";
const DOMAIN: &str = "in.example.com";
const THREAD: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// A running server with all its parts.
struct Harness {
    store: Store,
    certificates: Arc<Certificates>,
    registry: Registry,
    addresses: Vec<ListenAddress>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    folder: TempDir,
}

impl Harness {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Listens with SMTP on TCP, LMTP on TCP and LMTP on a unix socket, in this order.
    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_store(|_| {}, change).await
    }

    async fn with_store(
        change_store: impl FnOnce(&mut store::Settings),
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut store_settings = store_settings(folder.path().join("data"));
        change_store(&mut store_settings);
        let store = Store::open(store_settings, clock::now()).unwrap();
        let certs = folder.path().join("certs");
        let certificates = Arc::new(Certificates::load_or_self_sign(&certs, HOST).unwrap());
        let mut settings = Settings::new(HOST.to_owned());
        let tcp = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let unix = ListenAddress::Unix(folder.path().join("lmtp.sock"));
        settings.listen = [
            (tcp.clone(), Protocol::Smtp),
            (tcp, Protocol::Lmtp),
            (unix, Protocol::Lmtp),
        ]
        .map(|(address, protocol)| Listen { address, protocol })
        .to_vec();
        // Idle clients must not delay the end of every test.
        settings.linger_max = Duration::from_millis(200);
        change(&mut settings);
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("postern");
        metrics.register(&mut registry);
        let parts = SmtpParts {
            store: store.clone(),
            routes: Arc::new(routes()),
            auth: None,
            certificates: Some(Arc::clone(&certificates)),
            metrics,
        };
        let server = SmtpServer::bind(settings, parts).unwrap();
        let addresses = server.addresses();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self {
            store,
            certificates,
            registry,
            addresses,
            stop: Some(stop),
            running,
            folder,
        }
    }

    fn tcp(&self, at: usize) -> SocketAddr {
        match &self.addresses[at] {
            ListenAddress::Tcp(address) => *address,
            ListenAddress::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    fn unix(&self) -> PathBuf {
        self.folder.path().join("lmtp.sock")
    }

    /// An SMTP client before the greeting.
    async fn connect(&self) -> Client {
        Client::tcp(self.tcp(0)).await
    }

    /// An SMTP client after EHLO.
    async fn hello(&self) -> Client {
        let mut client = self.connect().await;
        client.hears("220 ").await;
        client.says("EHLO client.example", "250").await;
        client
    }

    fn metric(&self, line_start: &str) -> i64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("postern_ingress_{line_start} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        eventually_or(what, async || holds(self), || self.deliveries()).await;
    }

    fn open(&self) -> i64 {
        ["smtp", "lmtp"]
            .iter()
            .map(|p| self.metric(&format!("connections_open{{protocol=\"{p}\"}}")))
            .sum()
    }

    async fn until_all_are_gone(&self) {
        self.until("all connections end", |harness| harness.open() == 0)
            .await;
    }

    fn deliveries(&self) -> Vec<Delivery> {
        ask(self.store.waiting(None, 1_000))
    }

    fn mail(&self, at: usize) -> Vec<u8> {
        let id = self.deliveries()[at].id.mail;
        wait(self.store.mail_bytes(id)).unwrap().to_vec()
    }

    fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    async fn stopped(self) {
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended
            .expect("the server stops")
            .expect("and does not panic");
    }

    /// Stops the server and checks that nothing panicked.
    async fn end(mut self) {
        assert_eq!(self.metric("panics_total"), 0);
        self.begin_stop();
        self.stopped().await;
    }
}

fn store_settings(folder: PathBuf) -> store::Settings {
    store::Settings {
        segment_bytes: 4 * 1024 * 1024,
        free_bytes_min: 0,
        ..store::Settings::new(folder)
    }
}

fn keys() -> KeyRing {
    KeyRing::new(vec![(1, vec![7; 32])], KeyRing::LIFETIME).unwrap()
}

fn routes() -> Routes {
    let route = Route {
        name: "default".to_owned(),
        domains: vec![Domain::parse(DOMAIN).unwrap()],
        keys: keys(),
        mailboxes: vec!["general".to_owned(), "fans".to_owned()],
        catch_all: None,
        postmaster: "general".to_owned(),
        policy: AuthPolicy::default(),
    };
    Routes::new(vec![route], &Domain::parse(HOST).unwrap()).unwrap()
}

fn reply_address() -> Address {
    let domain = Domain::parse(DOMAIN).unwrap();
    keys()
        .reply_address(Format::V2, &domain, THREAD, None, clock::now())
        .unwrap()
}

/// Runs one ignored test in a separate process, after a shell command.
fn alone(before: &str, test: &str) {
    let ran = Command::new("sh")
        .args(["-c", &format!("{before} && exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}
