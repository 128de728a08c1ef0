//! Owns a fake Messages API on a real socket that can misbehave in every way a network can.
//!
//! Does not check requests: it records them.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::wait::eventually_or;

/// The answer to a request.
#[derive(Clone)]
pub(crate) enum Play {
    /// Execute it, and respond.
    Good,
    /// Do not execute it; respond with this status, these header lines and this body.
    Say(u16, &'static str, String),
    /// Execute it, then disconnect without a response.
    CommitThenDrop,
    /// Disconnect without executing it.
    Drop,
    /// Execute it, but respond only after this time.
    Late(Duration),
    /// Execute it, then wait for [`Fake::open`] before the response.
    CommitThenHold,
    /// Wait for [`Fake::open`], then execute it.
    HoldThenCommit,
    /// Respond with these raw bytes.
    Raw(Vec<u8>),
    /// Respond with 200 and a body of this many bytes.
    Endless(u64),
    /// Respond with 200 and a body that never arrives.
    Stall,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) bearer: String,
    pub(crate) body: Value,
}

impl Seen {
    /// `thread`, `message` or `metadata`.
    pub(crate) fn call(&self) -> &'static str {
        match (self.method.as_str(), self.path.ends_with("/messages")) {
            ("POST", true) => "message",
            ("POST", false) => "thread",
            _ => "metadata",
        }
    }
}

/// Decides on the response, given the request and the number of requests before it.
trait Plan: FnMut(&Seen, usize) -> Play + Send {}

impl<F: FnMut(&Seen, usize) -> Play + Send> Plan for F {}

struct State {
    plan: Box<dyn Plan>,
    seen: Vec<Seen>,
    /// Executed requests, by key, with their response for repetitions.
    done: HashMap<String, (Seen, String)>,
    order: Vec<String>,
    /// Requests without a response: now, and the maximum at a time.
    under_way: usize,
    most_under_way: usize,
}

/// The fake API. Dropping it closes every socket.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Semaphore>,
    _accepting: JoinSet<()>,
}

impl Fake {
    /// A fake with this plan, which receives the request and the number of requests before it.
    pub(crate) async fn start(plan: impl FnMut(&Seen, usize) -> Play + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            plan: Box::new(plan),
            seen: Vec::new(),
            done: HashMap::new(),
            order: Vec::new(),
            under_way: 0,
            most_under_way: 0,
        }));
        let gate = Arc::new(Semaphore::new(0));
        let mut accepting = JoinSet::new();
        let shared = (Arc::clone(&state), Arc::clone(&gate));
        accepting.spawn(async move {
            let mut talks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                talks.spawn(talk(stream, shared.0.clone(), shared.1.clone()));
            }
        });
        Self {
            address,
            state,
            gate,
            _accepting: accepting,
        }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}/api/v1/messages", self.address)
    }

    /// Replaces the plan.
    pub(crate) fn replan(&self, plan: impl FnMut(&Seen, usize) -> Play + Send + 'static) {
        self.state.lock().unwrap().plan = Box::new(plan);
    }

    /// Releases all held requests, and later ones.
    pub(crate) fn open(&self) {
        self.gate.add_permits(1_000_000);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Executed requests, in order, each once.
    pub(crate) fn done(&self) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state
            .order
            .iter()
            .map(|key| state.done[key].0.clone())
            .collect()
    }

    /// The maximum number of concurrent requests without a response since the last call.
    pub(crate) fn most_under_way(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        let now = state.under_way;
        std::mem::replace(&mut state.most_under_way, now)
    }

    /// The number of executed requests by kind: threads, messages, patches.
    pub(crate) fn effects(&self) -> [usize; 3] {
        let done = self.done();
        ["thread", "message", "metadata"]
            .map(|call| done.iter().filter(|seen| seen.call() == call).count())
    }

    /// Waits until the requests satisfy `wanted`.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) {
        eventually_or(what, async || wanted(&self.seen()), || self.seen()).await;
    }
}

/// Counts one request as unanswered until it is dropped.
struct UnderWay(Arc<Mutex<State>>);

impl UnderWay {
    fn begin(state: &Arc<Mutex<State>>) -> Self {
        let mut counted = state.lock().unwrap();
        counted.under_way += 1;
        counted.most_under_way = counted.most_under_way.max(counted.under_way);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

async fn talk(mut stream: TcpStream, state: Arc<Mutex<State>>, gate: Arc<Semaphore>) {
    let mut input = Vec::new();
    while let Some(request) = read(&mut stream, &mut input).await {
        let under_way = UnderWay::begin(&state);
        let play = {
            let mut state = state.lock().unwrap();
            let before = state.seen.len();
            state.seen.push(request.clone());
            (state.plan)(&request, before)
        };
        let answer = match play {
            Play::Good => commit(&state, &request),
            Play::Say(status, head, body) => say(status, head, &body),
            Play::CommitThenDrop => {
                commit(&state, &request);
                return;
            }
            Play::Drop => return,
            Play::Late(wait) => {
                let answer = commit(&state, &request);
                tokio::time::sleep(wait).await;
                answer
            }
            Play::CommitThenHold => {
                let answer = commit(&state, &request);
                gate.acquire().await.unwrap().forget();
                answer
            }
            Play::HoldThenCommit => {
                gate.acquire().await.unwrap().forget();
                commit(&state, &request)
            }
            Play::Raw(bytes) => bytes,
            Play::Endless(length) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
                let block = vec![b'x'; 64 * 1024];
                for _ in 0..length / block.len() as u64 {
                    if stream.write_all(&block).await.is_err() {
                        return;
                    }
                }
                return;
            }
            Play::Stall => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"succ";
                let _ = stream.write_all(head.as_bytes()).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
        };
        // The client may send its next request before this task continues.
        drop(under_way);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn commit(state: &Mutex<State>, request: &Seen) -> Vec<u8> {
    let mut state = state.lock().unwrap();
    let number = state.done.len() + 1;
    let id = match state.done.get(&request.key) {
        Some((_, id)) => id.clone(),
        None => {
            let id = format!("{}-{number}", request.call());
            state.order.push(request.key.clone());
            state
                .done
                .insert(request.key.clone(), (request.clone(), id.clone()));
            id
        }
    };
    say(
        200,
        "",
        &json!({ "success": true, "data": { "id": id } }).to_string(),
    )
}

fn say(status: u16, head: &str, body: &str) -> Vec<u8> {
    // 204 and 304 have no body (RFC 9110 section 6.4.1).
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    format!("HTTP/1.1 {status} X\r\n{head}{length}\r\n{body}").into_bytes()
}

async fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let field = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let length: usize = field("content-length").parse().unwrap_or(0);
    while input.len() < end + 4 + length {
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
    let body: Vec<u8> = input.drain(..end + 4 + length).skip(end + 4).collect();
    let mut words = head.split(' ');
    Some(Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        key: field("idempotency-key"),
        bearer: field("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}
