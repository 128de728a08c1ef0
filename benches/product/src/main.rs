//! A Messages API in a process of its own that answers at once, as the fastest product would.
//!
//! Usage: `product ADDRESS:PORT [TIMES]`. It accepts every key, and remembers the `Idempotency-Key` of each
//! POST: a repeated one gets the first answer and counts as repeated, and as changed if its body differs.
//! `GET /counts` returns the counts as JSON. With `TIMES` each new message is a line of that file: the time of
//! its arrival in microseconds of the Unix epoch, and its `emailMessageId`. The lines are complete when
//! `/counts` has answered.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// Octets of the longest head and of the longest body of a request.
const HEAD_MAX: usize = 16 << 10;
const BODY_MAX: usize = 64 << 20;
/// The number of connections at a time, and of keys that are remembered.
const CONNECTIONS_MAX: usize = 256;
const KEYS_MAX: usize = 20_000_000;
/// The longest silence of a caller.
const SILENCE_MAX: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Product {
    /// By digest of the key: digest of the body, and the number in the answer.
    keys: HashMap<u128, (u64, u64)>,
    threads: u64,
    messages: u64,
    patches: u64,
    repeated: u64,
    changed: u64,
    times: Option<BufWriter<File>>,
}

struct Request {
    method: String,
    path: String,
    key: Option<String>,
    body: Vec<u8>,
    arrived: SystemTime,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "emailMessageId")]
    email_message_id: Option<String>,
}

impl Product {
    fn answer(&mut self, request: &Request) -> io::Result<(u16, String)> {
        let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let id = match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["counts"]) => return Ok((200, self.counts()?)),
            ("POST", [.., "threads"]) => {
                let made = self.once(request)?;
                format!("00000000-0000-4000-9000-{made:012x}")
            }
            ("POST", [.., "threads", _, "messages"]) => {
                format!("message-{}", self.once(request)?)
            }
            ("PATCH", [.., "threads", thread]) => {
                self.patches += 1;
                (*thread).to_owned()
            }
            _ => return Ok((404, r#"{"success":false}"#.to_owned())),
        };
        Ok((200, format!(r#"{{"success":true,"data":{{"id":"{id}"}}}}"#)))
    }

    /// The number of what the request made, now or when its key came first.
    fn once(&mut self, request: &Request) -> io::Result<u64> {
        let key = request.key.as_deref().unwrap_or_default();
        if key.is_empty() || self.keys.len() >= KEYS_MAX {
            return Err(io::Error::other("no key, or no place for it"));
        }
        let key = u128::from(digest(&(0, key))) << 64 | u128::from(digest(&(1, key)));
        let body = digest(&(&request.path, &request.body));
        if let Some((first, number)) = self.keys.get(&key) {
            self.repeated += 1;
            self.changed += u64::from(*first != body);
            return Ok(*number);
        }
        let is_message = request.path.ends_with("/messages");
        let count = if is_message {
            &mut self.messages
        } else {
            &mut self.threads
        };
        *count += 1;
        let number = *count;
        self.keys.insert(key, (body, number));
        if let (true, Some(times)) = (is_message, &mut self.times) {
            let message: Message = serde_json::from_slice(&request.body)?;
            let since = request.arrived.duration_since(UNIX_EPOCH);
            let micros = since.map_err(io::Error::other)?.as_micros();
            let id = message.email_message_id.unwrap_or_default();
            writeln!(times, "{micros} {id}")?;
        }
        Ok(number)
    }

    fn counts(&mut self) -> io::Result<String> {
        if let Some(times) = &mut self.times {
            times.flush()?;
        }
        Ok(format!(
            r#"{{"threads":{},"messages":{},"patches":{},"repeated":{},"changed":{}}}"#,
            self.threads, self.messages, self.patches, self.repeated, self.changed
        ))
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The next request of a connection; `None` at its end.
fn read(peer: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = (HEAD_MAX - head.len()) as u64;
        if peer.by_ref().take(left).read_until(b'\n', &mut head)? == 0 {
            let is_end = head.is_empty();
            return is_end
                .then_some(None)
                .ok_or_else(|| io::Error::other("half a head, or too long"));
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(&head).map_err(io::Error::other)?;
    let field = |name: &str| {
        let found = parsed
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    let length = field("content-length").unwrap_or("0");
    let length: usize = length.parse().map_err(io::Error::other)?;
    if length > BODY_MAX || field("transfer-encoding").is_some() {
        return Err(io::Error::other("the body is too long, or in chunks"));
    }
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        key: field("idempotency-key").map(str::to_owned),
        body: vec![0; length],
        arrived: UNIX_EPOCH,
    };
    peer.read_exact(&mut request.body)?;
    request.arrived = SystemTime::now();
    Ok(Some(request))
}

fn serve(stream: TcpStream, product: &Mutex<Product>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut peer = BufReader::with_capacity(64 << 10, stream);
    while let Some(request) = read(&mut peer)? {
        let answer = product
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(&request);
        let (status, body) = answer?;
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        peer.get_mut().write_all(response.as_bytes())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .ok_or("usage: product ADDRESS:PORT [TIMES]")?;
    let times = arguments.next().map(File::create).transpose()?;
    let product = Arc::new(Mutex::new(Product {
        times: times.map(BufWriter::new),
        ..Product::default()
    }));
    let open = Arc::new(AtomicUsize::new(0));
    for stream in TcpListener::bind(&address)?.incoming() {
        let stream = stream?;
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (product, open) = (Arc::clone(&product), Arc::clone(&open));
        thread::spawn(move || {
            if let Err(error) = serve(stream, &product) {
                eprintln!("product: {error}");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}
