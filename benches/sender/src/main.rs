//! The load of the measurements. It prints one line of JSON: the number of accepted and failed requests, the
//! seconds, the latencies in microseconds, and the number accepted in each second.
//!
//! Usage: `sender smtp|hook|jobs ADDRESS:PORT (--seconds S | --count N) [--sessions N] [--size OCTETS]
//! [--rate PER_SECOND] [--to ADDRESS]... [--pipeline] [--fresh] [--starttls] [--times FILE] [--key SECRET]`
//!
//! `smtp` sends mails, `hook` posts them to the generic webhook, signed with the key, and `jobs` requests
//! mails of the outbox with the key. Several `--to` are used in turn. Without `--rate` each session sends the
//! next one after the response to the last one; with it each one has its time. `--fresh` opens a new
//! connection for each mail, without TLS resumption. `--times` writes a line for each mail: the time in
//! microseconds of the Unix epoch at which its last part is sent, and its Message-ID. Latency is the time from
//! the first command (with `--fresh`, from the connection) to the last response. Loopback addresses only.

mod http;
mod options;
mod smtp;

use std::cell::RefCell;
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::options::{Kind, Options};

/// The longest wait for one request with its connection.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The number of failures that ends the run.
const FAILURES_MAX: usize = 20;
/// A line of a mail's text.
const LINE: &str =
    "We looked at the order again, and the parcel has left the house this morning.\r\n";

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A buffered connection, with or without TLS.
pub(crate) type Peer = BufReader<Box<dyn Stream>>;

/// A connection to the server.
pub(crate) async fn connect(options: &Options) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(options.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Mail number n: its header and text, with CRLF and without an end.
pub(crate) fn mail(options: &Options, n: u64) -> Vec<u8> {
    let (to, run) = (options.recipient(n), std::process::id());
    let mut mail = format!(
        "From: Ann <ann@client.bench.test>\r\nTo: <{to}>\r\nSubject: Re: the order {n}\r\n\
         Message-ID: <{n}.{run}@client.bench.test>\r\nDate: Sun, 22 Nov 2026 09:00:00 +0000\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nThis is the answer {n}.\r\n"
    );
    while mail.len() + LINE.len() <= options.size {
        mail.push_str(LINE);
    }
    mail.into_bytes()
}

#[derive(Default)]
struct Results {
    next: u64,
    failed: usize,
    latencies: Vec<u64>,
    each_second: Vec<u64>,
    times: String,
}

enum Session {
    Smtp(smtp::Client),
    Http(http::Client),
}

impl Session {
    async fn open(options: &Options) -> io::Result<Self> {
        Ok(match options.kind {
            Kind::Smtp => Self::Smtp(smtp::Client::open(options).await?),
            Kind::Hook | Kind::Jobs => Self::Http(http::Client::open(options).await?),
        })
    }

    /// Sends number n, and returns the time at which its last part was sent.
    async fn send(&mut self, options: &Options, n: u64) -> io::Result<SystemTime> {
        match self {
            Self::Smtp(client) => client.send(options, n).await,
            Self::Http(client) => client.send(options, n).await,
        }
    }
}

/// One session until the end of the run.
async fn session(options: Rc<Options>, results: Rc<RefCell<Results>>, start: Instant) {
    let mut open = None;
    loop {
        let n = results.borrow().next;
        let due = match options.rate {
            0 => Instant::now(),
            rate => start + Duration::from_secs_f64(n as f64 / rate as f64),
        };
        let is_over = options.count.is_some_and(|count| n >= count)
            || options
                .seconds
                .is_some_and(|seconds| due >= start + seconds);
        if is_over || results.borrow().failed >= FAILURES_MAX {
            break;
        }
        results.borrow_mut().next += 1;
        sleep_until(due).await;
        let begun = Instant::now();
        let sent = timeout(WAIT_MAX, async {
            let mut session = match open.take() {
                Some(session) if !options.fresh => session,
                _ => Session::open(&options).await?,
            };
            let at = session.send(&options, n).await?;
            io::Result::Ok((session, at))
        });
        match sent.await.unwrap_or_else(|late| Err(late.into())) {
            Ok((session, at)) => {
                open = Some(session);
                results.borrow_mut().accepted(&options, n, at, begun, start);
            }
            Err(error) => {
                eprintln!("sender: number {n}: {error}");
                results.borrow_mut().failed += 1;
            }
        }
    }
}

impl Results {
    fn accepted(
        &mut self,
        options: &Options,
        n: u64,
        at: SystemTime,
        begun: Instant,
        start: Instant,
    ) {
        self.latencies.push(begun.elapsed().as_micros() as u64);
        let second = start.elapsed().as_secs() as usize;
        if self.each_second.len() <= second {
            self.each_second.resize(second + 1, 0);
        }
        self.each_second[second] += 1;
        if options.times.is_some() {
            let micros = at
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_micros();
            let run = std::process::id();
            // Writing to a String does not fail.
            let _ = writeln!(self.times, "{micros} <{n}.{run}@client.bench.test>");
        }
    }

    fn print(&mut self, seconds: f64) {
        self.latencies.sort_unstable();
        let accepted = self.latencies.len();
        let at = |share: f64| {
            let place = (accepted as f64 * share) as usize;
            let place = place.min(accepted.saturating_sub(1));
            self.latencies.get(place).copied().unwrap_or(0)
        };
        let line = serde_json::json!({
            "accepted": accepted,
            "failed": self.failed,
            "seconds": seconds,
            "per_second": accepted as f64 / seconds,
            "p50_us": at(0.5),
            "p95_us": at(0.95),
            "p99_us": at(0.99),
            "max_us": at(1.0),
            "each_second": self.each_second,
        });
        println!("{line}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Rc::new(Options::read(std::env::args().skip(1))?);
    let results = Rc::new(RefCell::new(Results::default()));
    let start = Instant::now();
    let sessions = LocalSet::new();
    for _ in 0..options.sessions {
        sessions.spawn_local(session(Rc::clone(&options), Rc::clone(&results), start));
    }
    sessions.await;
    let mut results = results.borrow_mut();
    results.print(start.elapsed().as_secs_f64());
    if let Some(file) = &options.times {
        std::fs::write(file, &results.times)?;
    }
    Ok(())
}
