//! Owns a relay for a test on loopback that behaves at each step as the test defines.
//!
//! Speaks SMTP, and LMTP as far as one recipient needs.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A step of a session, by the last command of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    /// A line in response to a 334.
    Proof,
    Rset,
    Mail,
    Rcpt,
    Data,
    /// The end of a mail.
    End,
    Quit,
}

/// An act of the relay at a step.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends the normal reply.
    Usual,
    /// Sends this text, with its line ends.
    Say(String),
    /// Sends this text an octet at a time, ten a second.
    Drip(String),
    /// Sends this text repeatedly until the client disconnects.
    Flood(&'static str),
    /// Sends nothing until the client disconnects.
    Hang,
    /// Closes.
    Close,
    /// Closes with RST.
    Reset,
}

/// A mail that was received to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) bytes: Vec<u8>,
    /// True if the reply to it was 2xx.
    pub(crate) taken: bool,
}

impl Heard {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }
}

/// The relay. It listens until it is dropped.
pub(crate) struct Fake {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    acts: Box<dyn Fn(Step, usize) -> Act + Send + Sync>,
    tls: Option<Arc<ServerConfig>>,
    /// True if TLS begins with the first octet.
    implicit: bool,
    counts: Mutex<HashMap<Step, usize>>,
    heard: Mutex<Vec<Heard>>,
    lines: Mutex<Vec<String>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    ends: AtomicBool,
}

impl Fake {
    /// A relay that behaves by `acts`, which receives the step and its count.
    pub(crate) fn start(acts: impl Fn(Step, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::start_with(acts, None)
    }

    /// A relay with TLS from the first octet.
    pub(crate) fn start_implicit(tls: Arc<ServerConfig>) -> Self {
        Self::listen(|_, _| Act::Usual, Some(tls), true)
    }

    /// Like [`Fake::start`], with STARTTLS and this certificate.
    pub(crate) fn start_with(
        acts: impl Fn(Step, usize) -> Act + Send + Sync + 'static,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        Self::listen(acts, tls, false)
    }

    fn listen(
        acts: impl Fn(Step, usize) -> Act + Send + Sync + 'static,
        tls: Option<Arc<ServerConfig>>,
        implicit: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            acts: Box::new(acts),
            tls,
            implicit,
            counts: Mutex::default(),
            heard: Mutex::default(),
            lines: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if listening.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&listening);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, shared }
    }

    /// The mails that were received to their end, in order.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// The mails that were accepted.
    pub(crate) fn taken(&self) -> Vec<Heard> {
        let mut heard = self.heard();
        heard.retain(|mail| mail.taken);
        heard
    }

    /// Every command, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The maximum number of concurrent connections.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// A certificate for 127.0.0.1 as PEM, its key as PEM, and a server that uses it.
pub(crate) fn certificate(name: &str) -> (String, String, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (
        made.cert.pem(),
        made.signing_key.serialize_pem(),
        Arc::new(config),
    )
}

enum Talk {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Talk {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn octet(&mut self) -> Option<u8> {
        let mut octet = [0];
        let read = match self {
            Self::Plain(stream) => stream.read(&mut octet),
            Self::Tls(stream) => stream.read(&mut octet),
        };
        (read.ok()? == 1).then_some(octet[0])
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            line.push(self.octet()?);
            if line.ends_with(b"\r\n") {
                return Some(line);
            }
            assert!(line.len() < 1 << 20, "a line without an end");
        }
    }

    /// A mail without dot-stuffing.
    fn mail(&mut self) -> Option<Vec<u8>> {
        let mut mail = Vec::new();
        loop {
            let line = self.line()?;
            if line == b".\r\n" {
                return Some(mail);
            }
            mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let tls = self.tls.as_ref().filter(|_| self.implicit);
        let talk = match tls.map(|tls| ServerConnection::new(Arc::clone(tls)).unwrap()) {
            Some(tls) => Talk::Tls(Box::new(StreamOwned::new(tls, stream))),
            None => Talk::Plain(stream),
        };
        self.converse(talk);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn converse(&self, mut talk: Talk) -> Option<()> {
        let (mut from, mut to) = (String::new(), String::new());
        self.act(&mut talk, Step::Greeting, "220 fake ESMTP\r\n")?;
        let mut proofs = 0;
        loop {
            let line = String::from_utf8(talk.line()?).unwrap();
            let line = line.trim_end().to_owned();
            self.lines.lock().unwrap().push(line.clone());
            if proofs > 0 {
                proofs -= 1;
                let usual = ["235 2.7.0 in\r\n", "334 UGFzc3dvcmQ6\r\n"][proofs];
                self.act(&mut talk, Step::Proof, usual)?;
                continue;
            }
            let verb = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "LHLO" => {
                    let usual = self.hello(matches!(talk, Talk::Plain(_)));
                    self.act(&mut talk, Step::Ehlo, &usual)?;
                }
                "STARTTLS" => {
                    self.act(&mut talk, Step::StartTls, "220 go on\r\n")?;
                    let Talk::Plain(stream) = talk else {
                        return None;
                    };
                    let tls = ServerConnection::new(Arc::clone(self.tls.as_ref()?)).unwrap();
                    talk = Talk::Tls(Box::new(StreamOwned::new(tls, stream)));
                }
                "AUTH" if line.ends_with("LOGIN") => {
                    proofs = 2;
                    self.act(&mut talk, Step::Auth, "334 VXNlcm5hbWU6\r\n")?;
                }
                "AUTH" => self
                    .act(&mut talk, Step::Auth, "235 2.7.0 in\r\n")
                    .map(drop)?,
                "RSET" => self.act(&mut talk, Step::Rset, "250 ok\r\n").map(drop)?,
                "MAIL" => {
                    from = line;
                    self.act(&mut talk, Step::Mail, "250 ok\r\n")?;
                }
                "RCPT" => {
                    to = line;
                    self.act(&mut talk, Step::Rcpt, "250 ok\r\n")?;
                }
                "DATA" => {
                    let goes_on = self.act(&mut talk, Step::Data, "354 go on\r\n")?;
                    if !goes_on.starts_with("354") {
                        continue;
                    }
                    let bytes = talk.mail()?;
                    // Recorded first, because the client may look as soon as it has its reply.
                    let act = self.choose(Step::End);
                    let taken = match &act {
                        Act::Usual => true,
                        Act::Say(text) | Act::Drip(text) => text.starts_with("250 "),
                        _ => false,
                    };
                    self.heard.lock().unwrap().push(Heard {
                        from: from.clone(),
                        to: to.clone(),
                        bytes,
                        taken,
                    });
                    perform(&mut talk, act, "250 2.0.0 queued\r\n")?;
                }
                "QUIT" => self.act(&mut talk, Step::Quit, "221 bye\r\n").map(drop)?,
                "" => {}
                verb => panic!("the client says {verb}: {line}"),
            }
        }
    }

    fn hello(&self, is_plain: bool) -> String {
        let offer = match self.tls.is_some() && is_plain {
            true => "250-STARTTLS\r\n",
            false => "",
        };
        format!(
            "250-fake\r\n{offer}250-8BITMIME\r\n250-AUTH PLAIN LOGIN XOAUTH2\r\n250 SIZE 1000000\r\n"
        )
    }

    fn choose(&self, step: Step) -> Act {
        let count = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(step).or_default();
            *count += 1;
            *count - 1
        };
        (self.acts)(step, count)
    }

    fn act(&self, talk: &mut Talk, step: Step, usual: &str) -> Option<String> {
        perform(talk, self.choose(step), usual)
    }
}

/// Performs the act, and returns the text that was sent; `None` if the session is over.
fn perform(talk: &mut Talk, act: Act, usual: &str) -> Option<String> {
    match act {
        Act::Usual => talk.say(usual.as_bytes()).ok().map(|()| usual.to_owned()),
        Act::Say(text) => talk.say(text.as_bytes()).ok().map(|()| text),
        Act::Drip(text) => {
            for octet in text.bytes() {
                talk.say(&[octet]).ok()?;
                thread::sleep(Duration::from_millis(100));
            }
            Some(text)
        }
        // At most a GiB.
        Act::Flood(text) => {
            let block = text.repeat((64 << 10) / text.len());
            for _ in 0..16 << 10 {
                talk.say(block.as_bytes()).ok()?;
            }
            None
        }
        Act::Hang => {
            while talk.octet().is_some() {}
            None
        }
        Act::Close => None,
        Act::Reset => {
            socket2::SockRef::from(talk.socket())
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            None
        }
    }
}
