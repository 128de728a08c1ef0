//! Providers' webhooks: requests of our own for every provider and mode, signed as the provider does,
//! through the adapters into a real store; and over HTTP.
//!
//! The attacks on webhooks, and the tests against them:
//!
//! | attack | tests |
//! | --- | --- |
//! | forged, changed and replayed requests | `hostile::{requests_without_the_secret_are_refused, a_changed_body_has_no_signature, the_bound_on_age_is_exact_and_seconds_are_named, mailguns_token_…, one_of_concurrent_mails_…}`, `bombs::{a_hundred_replays_at_once_…, reencoded_json_…}`; an old secret and a new one: `kit::adapters` |
//! | too large, too slow, too many | `bombs::*`, `wire::{a_body_that_trickles_…, invalid_chunks_…}`, `http::rejected_requests_are_not_read`, `hostile::{too_large_…, a_full_or_closed_store_…}`, `crash::a_failed_fsync_is_never_answered_250`, `doors::kill_9_during_webhooks_…` |
//! | request smuggling | `wire::a_request_that_ends_in_two_places_smuggles_none`; HTTP/2 is not spoken: `https::curl_verifies_…` sees HTTP/1.1 chosen |
//! | server-side request forgery | `hostile::nothing_is_fetched_…`, `modes::only_our_topic_…`, `buckets::*`, `errands::a_file_token_is_not_a_path`, `delivery_api::redirects_are_not_followed`, and in `src/ingress/webhook`: `ses`, `fetch`, `resend` |
//! | a misbehaving Messages API | `delivery_api::*`, `delivery_faults::each_failure_is_retried_or_parked_with_one_effect` |
//! | crashes | `delivery_faults::{each_failure_…, an_interruption_…}`, `crash::kill_9_under_load_…`, `doors::kill_9_…` |
//! | access without a key | `http::without_the_key_nothing_is_read`, `config::tests::http_is_on_loopback_unless_…` |

mod body;
mod bombs;
mod buckets;
mod certificates;
mod errands;
mod feed;
mod hostile;
mod http;
mod kinds;
mod kit;
mod modes;
mod node;
mod parts;
mod post;
mod vectors;
mod wire;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use postern::clock::{self, Timestamp};
use postern::ingress::routes::{Route, Routes};
use postern::ingress::webhook::{
    Adapter, ApiCredential, Fetch, FetchError, FetchQueue, Metrics, ProviderApiKeys, SetAside,
    Settings, WebhookHead, WebhookParts, WebhookReceiver,
};
use postern::mail::address::Domain;
use postern::mail::fingerprint::Fingerprint;
use postern::mail::token::{Format, KeyRing};
use postern::mail::view::View;
use postern::objects::ReadableBuckets;
use postern::secret::Secret;
use postern::store::{self, Delivery, Store};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tempfile::TempDir;

use crate::ask::{ask, wait};
use post::Post;

const DOMAIN: &str = "in.example.com";
const THREAD: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// The answer to a request.
#[derive(Debug)]
struct Heard {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

impl Heard {
    fn mails(&self) -> usize {
        self.body["data"]["mails"].as_array().map_or(0, Vec::len)
    }
}

/// The webhook receiver with a store behind it.
struct Harness {
    store: Store,
    doors: WebhookReceiver,
    registry: Registry,
    fetch: Arc<FakeWeb>,
    now: Timestamp,
    folder: TempDir,
}

impl Harness {
    fn new(adapters: Vec<Arc<dyn Adapter>>) -> Self {
        Self::with(adapters, |_| {})
    }

    fn with(adapters: Vec<Arc<dyn Adapter>>, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut settings = Settings::new(adapters);
        change(&mut settings);
        Self::furnished(folder, settings)
    }

    /// A harness in this folder, which may have been used before.
    fn furnished(folder: TempDir, settings: Settings) -> Self {
        let kept = store::Settings {
            segment_bytes: 4 << 20,
            free_bytes_min: 0,
            ..store::Settings::new(folder.path().join("data"))
        };
        let store = Store::open(kept, clock::now()).unwrap();
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("postern");
        metrics.register(&mut registry);
        let fetch = Arc::new(FakeWeb::default());
        let keys = ProviderApiKeys {
            resend: Some(Secret::new("re_key")),
            brevo: Some(Secret::new("xkeysib-key")),
        };
        let parts = WebhookParts {
            store: store.clone(),
            routes: Arc::new(routes()),
            fetch: Arc::clone(&fetch) as Arc<dyn Fetch>,
            metrics,
            deferred: Some(FetchQueue::open(folder.path().join("errands"), keys).unwrap()),
            buckets: Some(ReadableBuckets::new(&settings.buckets).unwrap()),
            set_aside: Some(SetAside::open(folder.path().join("set-aside")).unwrap()),
        };
        Self {
            doors: WebhookReceiver::new(settings, parts),
            store,
            registry,
            fetch,
            now: clock::now(),
            folder,
        }
    }

    /// The same harness after a restart of its process.
    async fn restarted(self) -> Self {
        let Self {
            store,
            doors,
            folder,
            fetch,
            ..
        } = self;
        drop(doors);
        store.close().await;
        let harness = Self::furnished(folder, Settings::new(kit::adapters()));
        *harness.fetch.pages.lock().unwrap() = fetch.pages.lock().unwrap().clone();
        harness
    }

    async fn send(&self, post: &Post) -> Heard {
        send(&self.doors, post, self.now).await
    }

    fn deliveries(&self) -> Vec<Delivery> {
        ask(self.store.waiting(None, 100_000))
    }

    fn last(&self) -> (Delivery, View) {
        let delivery = self.deliveries().pop().expect("a mail was kept");
        let view = View::parse(&wait(self.store.mail_bytes(delivery.id.mail)).unwrap());
        (delivery, view)
    }

    /// The number of messages that a product would receive.
    fn effects(&self) -> usize {
        let mut prints: Vec<Fingerprint> = Vec::new();
        for delivery in self.deliveries() {
            let view = View::parse(&wait(self.store.mail_bytes(delivery.id.mail)).unwrap());
            prints.push(Fingerprint::of(&delivery.recipient, &view));
        }
        prints.sort_unstable();
        prints.dedup();
        prints.len()
    }

    fn metric(&self, line_start: &str) -> i64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("postern_webhook_{line_start} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

async fn send(doors: &WebhookReceiver, post: &Post, now: Timestamp) -> Heard {
    let head = WebhookHead {
        provider: post.provider,
        headers: post.headers(),
        peer: Some(IpAddr::from([192, 0, 2, 1])),
    };
    let response = match doors.admit(head) {
        Err(response) => response,
        Ok(mut entry) => match entry.reserve(post.body.len()) {
            Err(response) => response,
            Ok(()) => entry.receive_at(post.body.clone(), now).await,
        },
    };
    Heard {
        status: response.status,
        headers: response.headers(),
        body: serde_json::from_str(&response.body).unwrap(),
    }
}

/// Pages by their URLs, and the requested ones.
#[derive(Debug, Default)]
struct FakeWeb {
    pages: Mutex<Vec<(String, Bytes)>>,
    asked: Mutex<Vec<String>>,
    broken: Mutex<Vec<String>>,
    hanging: Mutex<Vec<String>>,
}

impl FakeWeb {
    fn put(&self, url: &str, page: impl Into<Bytes>) {
        self.pages
            .lock()
            .unwrap()
            .push((url.to_owned(), page.into()));
    }

    /// Makes this page fail until it is set again.
    fn break_page(&self, url: &str) {
        self.broken.lock().unwrap().push(url.to_owned());
    }

    /// Makes this page never respond.
    fn hang(&self, url: &str) {
        self.hanging.lock().unwrap().push(url.to_owned());
    }

    fn take_down(&self, url: &str) {
        self.pages.lock().unwrap().retain(|(known, _)| known != url);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Fetch for FakeWeb {
    fn get<'f>(
        &'f self,
        url: &'f str,
        key: Option<ApiCredential<'f>>,
        _: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, FetchError>> + Send + 'f>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(url.to_owned());
            let is_api = url.starts_with("https://api.");
            assert_eq!(is_api, key.is_some(), "{url}");
            let is_field = matches!(key, Some(ApiCredential::Header("api-key", _)));
            assert_eq!(is_field, url.starts_with("https://api.brevo."), "{url}");
            let hangs = self
                .hanging
                .lock()
                .unwrap()
                .iter()
                .any(|known| known == url);
            if hangs {
                std::future::pending::<()>().await;
            }
            let pages = self.pages.lock().unwrap();
            if self.broken.lock().unwrap().iter().any(|known| known == url) {
                return Err(FetchError::Status(500));
            }
            let page = pages.iter().find(|(known, _)| known == url);
            page.map(|(_, page)| page.clone())
                .ok_or(FetchError::Status(404))
        })
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
        mailboxes: vec!["general".to_owned()],
        catch_all: None,
        postmaster: "general".to_owned(),
        policy: postern::auth::AuthPolicy::default(),
    };
    Routes::new(vec![route], &Domain::parse("mx.example.com").unwrap()).unwrap()
}

fn reply_address() -> String {
    let domain = Domain::parse(DOMAIN).unwrap();
    let minted = keys().reply_address(Format::V2, &domain, THREAD, None, clock::now());
    minted.unwrap().to_string()
}
