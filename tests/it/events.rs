//! Event delivery: webhooks and the stream, over real sockets and a real store.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use postern::clock;
use postern::events::{
    EventSink, EventWebhook, EventWebhookSettings, Metrics, Subscriber, SubscriberSettings,
    WebhookSigner,
};
use postern::retry;
use postern::store::{Cursor, Event, EventId, EventKind, Fact, Store};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use reqwest::Client;
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;

use crate::ask::ask;
use crate::bench::{KEY, settings_in};
use crate::http::Server;
use crate::wait::{PATIENCE, eventually_or};

const SECRET: &[u8] = b"a secret of test hooks, 32 octets";

fn event(kind: EventKind, thread: &str, n: u64) -> Fact {
    let mut data = serde_json::Map::new();
    data.insert("threadId".to_owned(), thread.into());
    data.insert("n".to_owned(), n.into());
    Fact::Happened(Event {
        kind,
        at: clock::now(),
        thread_id: Some(thread.to_owned()),
        data,
    })
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    eventually_or(what, async || done(), || ()).await;
}

/// The status of the response to an event.
trait Plan: FnMut(&Value) -> u16 + Send {}

impl<F: FnMut(&Value) -> u16 + Send> Plan for F {}

/// A subscriber's webhook: it records the events, and responds by `plan`.
#[derive(Clone)]
struct Ear {
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    plan: Arc<Mutex<Box<dyn Plan>>>,
}

impl Ear {
    async fn listen(plan: impl FnMut(&Value) -> u16 + Send + 'static) -> (Self, SocketAddr) {
        let ear = Self {
            heard: Arc::default(),
            plan: Arc::new(Mutex::new(Box::new(plan))),
        };
        let router = Router::new()
            .route("/hook", post(Self::hear))
            .with_state(ear.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (ear, address)
    }

    async fn hear(State(ear): State<Self>, headers: HeaderMap, body: Bytes) -> StatusCode {
        let field = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (id, at) = (field("webhook-id"), field("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(&body);
        let expected = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()));
        assert_eq!(field("webhook-signature"), expected);
        assert!(at.parse::<u64>().unwrap().abs_diff(clock::now().as_secs()) < 300);
        let told: Value = serde_json::from_slice(&body).unwrap();
        let status = (ear.plan.lock().unwrap())(&told);
        if status == 200 {
            ear.heard.lock().unwrap().push((id, told));
        }
        StatusCode::from_u16(status).unwrap()
    }

    fn heard(&self) -> Vec<(String, Value)> {
        self.heard.lock().unwrap().clone()
    }
}

fn subscribe(store: &Store, address: SocketAddr) -> (watch::Sender<bool>, JoinHandle<()>) {
    subscribe_with(store, address, Metrics::default())
}

fn subscribe_with(
    store: &Store,
    address: SocketAddr,
    metrics: Metrics,
) -> (watch::Sender<bool>, JoinHandle<()>) {
    let key = format!("whsec_{}", BASE64.encode(SECRET));
    let hook = EventWebhook::new(EventWebhookSettings {
        url: format!("http://{address}/hook"),
        signers: vec![WebhookSigner::parse(&key).unwrap()],
        timeout: Duration::from_secs(10),
    });
    let settings = SubscriberSettings {
        retry: retry::Settings {
            wait_first: Duration::from_millis(10),
            wait_max: Duration::from_millis(50),
            max_age: Duration::from_secs(600),
        },
        ..SubscriberSettings::new("test")
    };
    let sink = EventSink::Hook(hook.unwrap());
    let subscriber = Subscriber::new(settings, sink, store.clone(), metrics);
    let (stop, stopped) = watch::channel(false);
    let run = tokio::spawn(async move { subscriber.run(stopped).await.unwrap() });
    (stop, run)
}

fn in_order(heard: &[(String, Value)]) {
    let mut last: HashMap<String, u64> = HashMap::new();
    for (_, told) in heard {
        let data = &told["data"];
        let thread = data["threadId"].as_str().unwrap().to_owned();
        let n = data["n"].as_u64().unwrap();
        let before = last.insert(thread, n);
        assert!(before.is_none_or(|before| before < n), "{heard:?}");
    }
}

#[tokio::test]
async fn a_failing_webhook_receives_all_events_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
    let mut calls = 0;
    let (ear, address) = Ear::listen(move |_| {
        calls += 1;
        if calls % 3 == 0 { 503 } else { 200 }
    })
    .await;
    let (stop, run) = subscribe(&store, address);
    until("the first place is kept", || {
        ask(store.cursor("test")).is_some()
    })
    .await;
    for n in 0..60 {
        let thread = format!("thread-{}", n % 5);
        let fact = event(EventKind::Processed, &thread, n);
        store.record(vec![fact]).await.unwrap();
    }
    until("all is told", || ear.heard().len() == 60).await;
    in_order(&ear.heard());
    let newest = *store.newest_event().borrow();
    let all = Some(Cursor {
        last: newest,
        gaps: Vec::new(),
    });
    until("its place follows", || ask(store.cursor("test")) == all).await;
    stop.send_replace(true);
    run.await.unwrap();
    let heard = ear.heard();
    let told = &heard[0].1;
    assert_eq!(told["type"], "email.processed");
    assert!(told["timestamp"].as_str().unwrap().ends_with('Z'), "{told}");
}

#[tokio::test]
async fn a_failing_thread_does_not_hold_back_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
    let stuck = Arc::new(Mutex::new(true));
    let still = Arc::clone(&stuck);
    let (ear, address) = Ear::listen(move |told| {
        let is_stuck = *still.lock().unwrap() && told["data"]["threadId"] == "stuck";
        if is_stuck { 400 } else { 200 }
    })
    .await;
    let (stop, run) = subscribe(&store, address);
    until("the first place is kept", || {
        ask(store.cursor("test")).is_some()
    })
    .await;
    for n in 0..20 {
        let thread = if n % 2 == 0 { "stuck" } else { "free" };
        let fact = event(EventKind::OutboundSent, thread, n);
        store.record(vec![fact]).await.unwrap();
    }
    until("the others are told", || ear.heard().len() == 10).await;
    stop.send_replace(true);
    run.await.unwrap();
    let newest = *store.newest_event().borrow();
    let place = ask(store.cursor("test")).unwrap();
    assert_eq!((place.last, place.gaps.len()), (newest, 10));
    *stuck.lock().unwrap() = false;
    let (stop, run) = subscribe(&store, address);
    let whole = |ear: &Ear| {
        let mut told: Vec<u64> = ear
            .heard()
            .iter()
            .map(|(_, t)| t["data"]["n"].as_u64().unwrap())
            .collect();
        told.sort_unstable();
        told.dedup();
        told.len() == 20
    };
    until("all is told", || whole(&ear)).await;
    stop.send_replace(true);
    run.await.unwrap();
    // Each event keeps its id in every attempt.
    let mut ids: HashMap<u64, String> = HashMap::new();
    for (id, told) in ear.heard() {
        let n = told["data"]["n"].as_u64().unwrap();
        assert_eq!(*ids.entry(n).or_insert_with(|| id.clone()), id);
    }
}

/// Two events of one thread, of which the second waits for the first, and `others` further events.
fn poison_and(others: u64) -> Vec<Fact> {
    let fact = |n| match n {
        0 | 1 => event(EventKind::Parked, "poison", n),
        n => event(EventKind::Parked, &format!("thread-{}", n % 7), n),
    };
    (0..2 + others).map(fact).collect()
}

/// Stops a subscriber, or aborts it like a crash.
async fn end(stop: &watch::Sender<bool>, run: JoinHandle<()>, is_graceful: bool) {
    if is_graceful {
        stop.send_replace(true);
        run.await.unwrap();
    } else {
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test]
async fn after_a_restart_only_unaccepted_events_are_sent_again() {
    const OTHERS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
    let (poisoned, posts) = (Arc::new(Mutex::new(true)), Arc::new(Mutex::new(Vec::new())));
    let (still, told_of) = (Arc::clone(&poisoned), Arc::clone(&posts));
    let (ear, address) = Ear::listen(move |told| {
        told_of
            .lock()
            .unwrap()
            .push(told["data"]["n"].as_u64().unwrap());
        let is_stuck = *still.lock().unwrap() && told["data"]["threadId"] == "poison";
        if is_stuck { 400 } else { 200 }
    })
    .await;
    let (mut stop, mut run) = subscribe(&store, address);
    until("the first place is kept", || {
        ask(store.cursor("test")).is_some()
    })
    .await;
    store.record(poison_and(OTHERS)).await.unwrap();
    let all = ask(store.events_after(EventId::default(), 1_000));
    let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
    let mut place = Cursor {
        last: *store.newest_event().borrow(),
        gaps: ids[..2].to_vec(),
    };
    for (turn, is_graceful) in [(0, true), (1, false), (2, true)] {
        until("its place is kept", || {
            ask(store.cursor("test")).as_ref() == Some(&place)
        })
        .await;
        end(&stop, run, is_graceful).await;
        store.close().await;
        posts.lock().unwrap().clear();
        store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
        (stop, run) = subscribe(&store, address);
        let n = 1_000 + turn;
        store
            .record(vec![event(EventKind::Parked, "thread-0", n)])
            .await
            .unwrap();
        place.last = *store.newest_event().borrow();
        let posted = |wanted| {
            posts
                .lock()
                .unwrap()
                .iter()
                .filter(|n| **n == wanted)
                .count()
        };
        until("both are posted", || posted(0) > 2 && posted(n) == 1).await;
        let all = posts.lock().unwrap().clone();
        assert!(all.iter().all(|posted| [0, n].contains(posted)), "{all:?}");
    }
    *poisoned.lock().unwrap() = false;
    place.gaps.clear();
    until("all is told", || {
        ask(store.cursor("test")).as_ref() == Some(&place)
    })
    .await;
    stop.send_replace(true);
    run.await.unwrap();
    in_order(&ear.heard());
    let told = ear.heard();
    let told: Vec<_> = told
        .iter()
        .map(|(_, t)| t["data"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(told.len() as u64, 2 + OTHERS + 3, "each is taken once");
}

#[tokio::test]
async fn a_subscriber_too_far_behind_continues_with_a_warning() {
    const KEPT: u64 = 50_000;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
    let facts = |from: u64, to: u64| {
        let fact = |n| event(EventKind::Processed, "thread", n);
        (from..to).map(fact).collect::<Vec<_>>()
    };
    store.record(facts(0, 1)).await.unwrap();
    let heard = Fact::CursorAdvanced {
        subscriber: "test".to_owned(),
        event: *store.newest_event().borrow(),
        open: Vec::new(),
        at: clock::now(),
    };
    store.record(vec![heard.clone()]).await.unwrap();
    store.record(facts(1, 1_001)).await.unwrap();
    // The newest event that will be deleted. The number of the next event is not the following one.
    let gone = *store.newest_event().borrow();
    store.record(vec![heard]).await.unwrap();
    for from in (1_001..=KEPT + 1).step_by(1_000) {
        store.record(facts(from, from + 1_000)).await.unwrap();
        assert!(!store.has_gap_after(gone).await.unwrap(), "{from}");
    }
    for lost in [None, Some("index")] {
        store.close().await;
        if let Some(index) = lost {
            std::fs::remove_dir_all(folder.path().join(index)).unwrap();
        }
        store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
        assert!(!store.has_gap_after(gone).await.unwrap(), "{lost:?}");
        assert!(
            store.has_gap_after(gone.just_before()).await.unwrap(),
            "{lost:?}"
        );
    }
    let (ear, address) = Ear::listen(|_| 200).await;
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let (stop, run) = subscribe_with(&store, address, metrics);
    until("the oldest that is kept is told", || {
        !ear.heard().is_empty()
    })
    .await;
    stop.send_replace(true);
    run.await.unwrap();
    let oldest = ask(store.events_after(EventId::default(), 1))[0].0;
    assert_eq!(ear.heard()[0].0, format!("evt_{oldest}"));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let missed = "events_attempts_total{subscriber=\"test\",outcome=\"missed\"} 1";
    assert!(text.contains(missed), "{text}");
}

/// Reads a stream until it has `count` events: their ids, names and data.
async fn listen(server: &Server, after: Option<EventId>, count: usize) -> Vec<[String; 3]> {
    let client = Client::builder().no_proxy().build().unwrap();
    let mut request = client
        .get(format!("http://{}/gateway/events", server.address))
        .bearer_auth(KEY);
    if let Some(after) = after {
        request = request.header("last-event-id", after.to_string());
    }
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let read = async {
        while text.matches("\n\n").count() < count {
            let chunk = response.chunk().await.unwrap().expect("the stream goes on");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    time::timeout(PATIENCE, read).await.expect("events come");
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    blocks
        .map(|block| ["id:", "event:", "data:"].map(|name| field(block, name)))
        .collect()
}

#[tokio::test]
async fn a_stream_resumes_at_the_last_event_id() {
    let server = Server::start().await;
    for n in 0..150 {
        let fact = event(EventKind::MessageCreated, "t", n);
        server.store.record(vec![fact]).await.unwrap();
    }
    let all = listen(&server, Some(EventId::default()), 150).await;
    assert_eq!(all.len(), 150);
    let [id, name, data] = &all[99];
    assert_eq!(name, "email.message.created");
    let told: Value = serde_json::from_str(data).unwrap();
    assert_eq!(told["data"]["n"], 99);
    let rest = listen(&server, Some(id.parse().unwrap()), 50).await;
    assert_eq!(rest, all[100..]);

    // Without an id the stream begins with new events.
    let store = server.store.clone();
    let later = tokio::spawn(async move {
        for n in 150.. {
            time::sleep(Duration::from_millis(20)).await;
            let fact = event(EventKind::Parked, "t", n);
            if store.record(vec![fact]).await.is_err() {
                return;
            }
        }
    });
    let fresh = listen(&server, None, 2).await;
    assert!(
        fresh.iter().all(|[_, name, _]| name == "email.parked"),
        "{fresh:?}"
    );
    later.abort();
}

#[tokio::test]
async fn a_stream_needs_the_key_and_a_valid_id() {
    let server = Server::start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/gateway/events", server.address);
    for key in ["", "another key"] {
        let status = client.get(&url).bearer_auth(key).send().await.unwrap();
        assert_eq!(status.status(), 401, "{key}");
    }
    for id in ["x", "-1", "1.5", "99999999999999999999999"] {
        let request = client
            .get(&url)
            .bearer_auth(KEY)
            .header("last-event-id", id);
        assert_eq!(request.send().await.unwrap().status(), 400, "{id}");
    }
}

#[tokio::test]
async fn listeners_are_bounded() {
    let server = Server::start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/gateway/events", server.address);
    let mut open = Vec::new();
    for _ in 0..64 {
        let response = client.get(&url).bearer_auth(KEY).send().await.unwrap();
        assert_eq!(response.status(), 200);
        open.push(response);
    }
    let refused = client.get(&url).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn pages_are_behind_the_password() {
    let server = Server::start().await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/admin/outbox", server.address);
    let refused = client.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let asks = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(asks.starts_with("Basic "), "{asks}");
    let wrong = client.get(&url).basic_auth("admin", Some("wrong"));
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let page = client
        .get(&url)
        .basic_auth("admin", Some(KEY))
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(page.text().await.unwrap().contains("No mail in this state"));
    let id = "00000000-0000-4000-8000-000000000000";
    for (path, status) in [(id, 404), ("x", 404)] {
        let request = client
            .get(format!("{url}/{path}"))
            .basic_auth("a", Some(KEY));
        assert_eq!(request.send().await.unwrap().status(), status, "{path}");
    }
    // A foreign page cannot use our buttons with the password that the browser remembers.
    let foreign = client
        .post(format!("{url}/{id}/cancel"))
        .basic_auth("admin", Some(KEY))
        .header("origin", "http://evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), 403);
}
