//! The HTTP address, over real sockets and a real store.

mod api;
mod connections;
mod files;
mod health;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock;
use postern::http::admin::Admin;
use postern::http::auth_failures::AuthFailures;
use postern::http::health::Health;
use postern::http::keys::AccessKeys;
use postern::http::messages::EmbeddedApi;
use postern::http::metrics::register_ledger;
use postern::http::router::{App, router};
use postern::http::server::{ServerSettings, serve};
use postern::http::stream::EventStreams;
use postern::queue::JobQueue;
use postern::store::{EmbeddedMessages, Store};
use prometheus_client::registry::Registry;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bench::{KEY, objects_in, settings_in};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A running server over a separate store.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    book: EmbeddedMessages,
    paused: Arc<Mutex<Vec<String>>>,
    client: Client,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), ServerSettings::default()).await
    }

    async fn start_in(folder: tempfile::TempDir, settings: ServerSettings) -> Self {
        let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
        let book = EmbeddedMessages::open(folder.path().join("messages"), clock::now()).unwrap();
        let mut registry = Registry::default();
        register_ledger(&mut registry, store.clone());
        let auth_failures = AuthFailures::default();
        auth_failures.register(&mut registry);
        let paused = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&paused);
        let app = App {
            health: Health {
                store: store.clone(),
                paused_routes: Arc::new(move || seen.lock().unwrap().clone()),
                embedded: Some(book.clone()),
            },
            registry: Arc::new(registry),
            messages: Some(EmbeddedApi::new(book.clone(), KEY)),
            webhooks: None,
            gateway: None,
            objects: Some(objects_in(folder.path())),
            listeners: Some(EventStreams::new(store.clone(), AccessKeys::new([KEY]))),
            admin: Some(Admin::new(
                JobQueue::new(store.clone(), DAY),
                AccessKeys::new([KEY]),
                false,
            )),
            keys: AccessKeys::new([KEY]),
            auth_failures,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(listener, router(app), settings, stopped));
        Self {
            address,
            store,
            book,
            paused,
            client: Client::builder().no_proxy().build().unwrap(),
            stop,
            served,
            folder,
        }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        self.served.await.unwrap();
        self.book.close().await;
        self.store.close().await;
        self.folder
    }

    async fn call(&self, method: Method, path: &str, key: &str, body: &str) -> (u16, Value) {
        let mut request = self
            .client
            .request(method, format!("http://{}{path}", self.address))
            .bearer_auth(KEY)
            .body(body.to_owned());
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let response = self.client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn say(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.call(method, path, "", &body.to_string()).await
    }
}

const THREADS: &str = "/api/v1/messages/threads";

fn a_thread() -> Value {
    json!({ "sourceType": "email", "identityEmail": "ann@example.com", "metadata": { "a": 1 } })
}

fn a_message(body: &str) -> Value {
    json!({ "sourceType": "email", "senderEmail": "ann@example.com", "body": body })
}
