//! Owns a product's Messages API for tests of the real program: it honours idempotency keys and records all
//! messages.
//!
//! Does not misbehave: the tests of `delivery` use an API that does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
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
    /// The earlier response for `key`, or the result of `make`.
    fn once(&mut self, headers: &HeaderMap, make: impl FnOnce(&mut Self) -> Value) -> Value {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        if let Some(answer) = self.answers.get(&key) {
            return answer.clone();
        }
        let answer = json!({ "success": true, "data": make(self) });
        self.answers.insert(key, answer.clone());
        answer
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

async fn make_thread(
    State(told): State<Arc<Mutex<Told>>>,
    headers: HeaderMap,
    Json(_): Json<Value>,
) -> (StatusCode, Json<Value>) {
    refused(&headers).unwrap_or_else(|| {
        let answer = told.lock().unwrap().once(&headers, |told| {
            told.threads += 1;
            json!({ "id": format!("thread-{}", told.threads) })
        });
        (StatusCode::CREATED, Json(answer))
    })
}

async fn add_message(
    State(told): State<Arc<Mutex<Told>>>,
    Path(thread): Path<String>,
    headers: HeaderMap,
    Json(message): Json<Value>,
) -> (StatusCode, Json<Value>) {
    if let Some(refused) = refused(&headers) {
        return refused;
    }
    let text = message["body"].clone();
    let (answer, echo) = {
        let mut told = told.lock().unwrap();
        let answer = told.once(&headers, |told| {
            told.messages.push((thread.clone(), message));
            json!({ "id": format!("message-{}", told.messages.len()) })
        });
        (answer, told.echo)
    };
    if let Some(echo) = echo {
        let event = json!({
            "threadId": thread, "messageId": answer["data"]["id"], "messageText": text,
            "threadMetadata": { "sourceType": "email" },
        });
        let telling = tokio::spawn(tell(told, echo.http, event));
        if echo.is_first {
            telling.await.unwrap();
        }
    }
    (StatusCode::CREATED, Json(answer))
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
    headers: HeaderMap,
    Json(_): Json<Value>,
) -> (StatusCode, Json<Value>) {
    refused(&headers).unwrap_or_else(|| {
        let answer = told
            .lock()
            .unwrap()
            .once(&headers, |_| json!({ "id": thread }));
        (StatusCode::OK, Json(answer))
    })
}
