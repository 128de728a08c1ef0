//! Owns a product's Messages API for tests of the real program: it honours idempotency keys and records all
//! messages.
//!
//! Does not misbehave: the tests of `delivery` use an API that does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::routing::{patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The API key that the product accepts.
pub(crate) const KEY: &str = "a key made for tests, worth nothing elsewhere";

/// A Messages API on a free loopback port. It lives as long as the test's process.
pub(crate) struct Product {
    port: u16,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    answers: HashMap<String, Value>,
    /// The first request under each idempotency key, as its bytes.
    requests: HashMap<String, (String, Bytes)>,
    /// Number of requests under a key that was known.
    repeats: usize,
    /// Keys under which another request came, with both of them.
    changed: Vec<String>,
    /// Each answer whose number this divides is lost the first time.
    loses: Option<usize>,
    threads: u64,
    messages: Vec<(String, Value)>,
    echo: Option<Echo>,
    echoes: Vec<(u16, Value)>,
}

/// The way in which a product reports each new message, including those that Postern posts.
#[derive(Clone, Copy)]
pub(crate) struct Echo {
    /// The port of Postern's HTTP.
    pub(crate) http: u16,
    /// True if the product reports before it responds, false if concurrently.
    pub(crate) is_first: bool,
}

impl Product {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (send, receive) = std::sync::mpsc::channel();
        let state = Arc::clone(&told);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap().port()).unwrap();
                let routes = Router::new()
                    .route("/api/threads", post(make_thread))
                    .route("/api/threads/{id}", patch(patch_thread))
                    .route("/api/threads/{id}/messages", post(add_message))
                    .with_state(state);
                axum::serve(listener, routes).await.unwrap();
            });
        });
        Self {
            port: receive.recv().unwrap(),
            told,
        }
    }

    /// The value for `api.base_url`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// Every created message: its thread's id, and its JSON.
    pub(crate) fn messages(&self) -> Vec<(String, Value)> {
        self.told.lock().unwrap().messages.clone()
    }

    /// Reports each message to Postern from now on.
    pub(crate) fn echo(&self, echo: Echo) {
        self.told.lock().unwrap().echo = Some(echo);
    }

    /// Loses every nth response: the call is executed, and the caller receives 503.
    pub(crate) fn lose_every(&self, nth: usize) {
        self.told.lock().unwrap().loses = Some(nth);
    }

    /// The number of requests under a known key, and their differences from the first one.
    pub(crate) fn repeats(&self) -> (usize, Vec<String>) {
        let told = self.told.lock().unwrap();
        (told.repeats, told.changed.clone())
    }

    /// Postern's responses to those reports: status and body.
    pub(crate) fn echoes(&self) -> Vec<(u16, Value)> {
        self.told.lock().unwrap().echoes.clone()
    }

    /// The number of messages made from each mail, by `emailMessageId`.
    pub(crate) fn effects(&self) -> HashMap<String, usize> {
        let mut effects = HashMap::new();
        for (_, message) in &self.told.lock().unwrap().messages {
            let id = message["emailMessageId"].as_str().unwrap_or_default();
            *effects
                .entry(id.trim_matches(['<', '>']).to_owned())
                .or_default() += 1;
        }
        effects
    }
}

impl Told {
    /// The earlier response for the key, or the result of `make`; `None` if the response is lost.
    fn once(&mut self, call: &Call, make: impl FnOnce(&mut Self, Value) -> Value) -> Option<Value> {
        let key = call.headers["idempotency-key"].to_str().unwrap().to_owned();
        if let Some(answer) = self.answers.get(&key) {
            self.repeats += 1;
            let first = &self.requests[&key];
            if (&first.0, &first.1) != (&call.target, &call.body) {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let (was, is) = (text(&first.1), text(&call.body));
                self.changed
                    .push(format!("{key}: {} {was}\n{} {is}", first.0, call.target));
            }
            return Some(answer.clone());
        }
        let body = serde_json::from_slice(&call.body).unwrap();
        let answer = json!({ "success": true, "data": make(self, body) });
        self.answers.insert(key.clone(), answer.clone());
        let request = (call.target.clone(), call.body.clone());
        self.requests.insert(key, request);
        let is_lost = self
            .loses
            .is_some_and(|nth| self.answers.len().is_multiple_of(nth));
        (!is_lost).then_some(answer)
    }
}

fn refused(headers: &HeaderMap) -> Option<(StatusCode, Json<Value>)> {
    let wanted = format!("Bearer {KEY}");
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    (given != Some(wanted.as_str()))
        .then(|| (StatusCode::UNAUTHORIZED, Json(json!({"success": false}))))
}

/// A call as it was received.
struct Call {
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn new(method: &Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Self {
        let target = format!("{method} {uri}");
        Self {
            target,
            headers,
            body,
        }
    }
}

/// The response to a call, or 503 if it is lost.
fn answered(status: StatusCode, answer: Option<Value>) -> (StatusCode, Json<Value>) {
    match answer {
        Some(answer) => (status, Json(answer)),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "success": false })),
        ),
    }
}

async fn make_thread(
    State(told): State<Arc<Mutex<Told>>>,
    (method, uri): (Method, Uri),
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let call = Call::new(&method, &uri, headers, body);
    refused(&call.headers).unwrap_or_else(|| {
        let answer = told.lock().unwrap().once(&call, |told, _| {
            told.threads += 1;
            json!({ "id": format!("thread-{}", told.threads) })
        });
        answered(StatusCode::CREATED, answer)
    })
}

async fn add_message(
    State(told): State<Arc<Mutex<Told>>>,
    Path(thread): Path<String>,
    (method, uri): (Method, Uri),
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let call = Call::new(&method, &uri, headers, body);
    if let Some(refused) = refused(&call.headers) {
        return refused;
    }
    let (answer, echo) = {
        let mut told = told.lock().unwrap();
        let answer = told.once(&call, |told, message| {
            told.messages.push((thread.clone(), message));
            json!({ "id": format!("message-{}", told.messages.len()) })
        });
        (answer, told.echo)
    };
    if let (Some(echo), Some(answer)) = (echo, &answer) {
        let message: Value = serde_json::from_slice(&call.body).unwrap();
        let text = message["body"].clone();
        let event = json!({
            "threadId": thread, "messageId": answer["data"]["id"], "messageText": text,
            "threadMetadata": { "sourceType": "email" },
        });
        let telling = tokio::spawn(tell(told, echo.http, event));
        if echo.is_first {
            telling.await.unwrap();
        }
    }
    answered(StatusCode::CREATED, answer)
}

async fn tell(told: Arc<Mutex<Told>>, http: u16, event: Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://127.0.0.1:{http}/gateway/events");
    let request = client.post(url).bearer_auth(KEY).json(&event);
    let heard = request.send().await.unwrap();
    let (status, body) = (heard.status().as_u16(), heard.json().await.unwrap());
    told.lock().unwrap().echoes.push((status, body));
}

async fn patch_thread(
    State(told): State<Arc<Mutex<Told>>>,
    Path(thread): Path<String>,
    (method, uri): (Method, Uri),
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let call = Call::new(&method, &uri, headers, body);
    refused(&call.headers).unwrap_or_else(|| {
        let mut told = told.lock().unwrap();
        let answer = told.once(&call, |_, _| json!({ "id": thread }));
        answered(StatusCode::OK, answer)
    })
}
