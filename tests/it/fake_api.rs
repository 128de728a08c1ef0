//! Owns a fake Messages API on a real socket that can misbehave in every way a network can.
//!
//! Does not check what it is sent: it remembers it.
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
    /// Do it, and say so.
    Good,
    /// Do not do it; answer with this status, these header lines and this body.
    Say(u16, &'static str, String),
    /// Do it, then hang up without an answer.
    CommitThenDrop,
    /// Hang up without doing it.
    Drop,
    /// Do it, but answer only after so long.
    Late(Duration),
    /// Do it, then wait for [`Fake::open`] before the answer.
    CommitThenHold,
    /// Wait for [`Fake::open`], then do it.
    HoldThenCommit,
    /// Answer with these raw bytes.
    Raw(Vec<u8>),
    /// 200 and a body of so many bytes.
    Endless(u64),
    /// 200 and a body that never comes.
    Stall,
}

/// A request as it came.
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

/// A function that decides on the answers, given the request and the number of those before it.
trait Plan: FnMut(&Seen, usize) -> Play + Send {}

impl<F: FnMut(&Seen, usize) -> Play + Send> Plan for F {}

struct State {
    plan: Box<dyn Plan>,
    seen: Vec<Seen>,
    /// Requests that were done, by key: done once, answered again.
    done: HashMap<String, (Seen, String)>,
    order: Vec<String>,
    /// Requests that are not answered yet: now, and the most at a time.
    under_way: usize,
    most_under_way: usize,
}

/// The fake. Dropping it closes every socket.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    gate: Arc<Semaphore>,
    _accepting: JoinSet<()>,
}

impl Fake {
    /// A fake that answers by this plan: given the request and how many came before it.
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

    /// From now on by another plan.
    pub(crate) fn replan(&self, plan: impl FnMut(&Seen, usize) -> Play + Send + 'static) {
        self.state.lock().unwrap().plan = Box::new(plan);
    }

    /// Lets everything that is held, or ever will be, go on.
    pub(crate) fn open(&self) {
        self.gate.add_permits(1_000_000);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Requests that were done, in order, each once.
    pub(crate) fn done(&self) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state
            .order
            .iter()
            .map(|key| state.done[key].0.clone())
            .collect()
    }

    /// The most requests at a time that waited for an answer since the last time this was asked.
    pub(crate) fn most_under_way(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        let now = state.under_way;
        std::mem::replace(&mut state.most_under_way, now)
    }

    /// Number of times that each call was done: threads, messages, patches.
    pub(crate) fn effects(&self) -> [usize; 3] {
        let done = self.done();
        ["thread", "message", "metadata"]
            .map(|call| done.iter().filter(|seen| seen.call() == call).count())
    }

    /// Waits until it has seen what is wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) {
        eventually_or(what, async || wanted(&self.seen()), || self.seen()).await;
    }
}

/// Counts one request as under way until it is dropped.
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
        // Whoever has the answer may ask again before this task goes on.
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
