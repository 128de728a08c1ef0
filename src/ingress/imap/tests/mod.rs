//! The fetcher against hostile, odd or slow servers, each a script on loopback.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::clock;
use crate::ingress::routes::{self, Route};
use crate::mail::address::Domain;
use crate::mail::token::KeyRing;
use crate::store::ask::{ask, wait};
use crate::store::{self, Delivery};

mod corpus;
mod feed;
mod fetch;
mod hostile;

/// Longer than any step of these tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// The allowed pause of a server in these tests.
const SILENCE: Duration = Duration::from_millis(300);
/// The bytes of a response in which `TAG` is the command's tag; `None` disconnects, `HOLD` waits.
type Script = Box<dyn FnMut(&str) -> Option<Vec<u8>> + Send>;

/// A server that responds to every command by its script.
struct ScriptedServer {
    port: u16,
    /// The commands of all connections, without tags; a connection begins with `(connected)`.
    heard: Arc<Mutex<Vec<String>>>,
}

impl ScriptedServer {
    /// Each connection uses the next script; the last one is used repeatedly.
    async fn start(greeting: &'static [u8], mut scripts: VecDeque<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut script = scripts.pop_front().unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                hears.lock().unwrap().push("(connected)".to_owned());
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read.take(1 << 20)).lines();
                drop(write.write_all(greeting).await);
                while let Ok(Some(line)) = lines.next_line().await {
                    let (tag, command) = line.split_once(' ').unwrap_or(("", &line));
                    hears.lock().unwrap().push(command.to_owned());
                    let Some(answer) = script(command) else { break };
                    let answer = replaced(&answer, tag);
                    if write.write_all(&answer).await.is_err() {
                        break;
                    }
                }
                if let Some(next) = scripts.pop_front() {
                    script = next;
                }
            }
        });
        Self { port, heard }
    }

    fn heard(&self, what: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|line| line.starts_with(what)).count()
    }
}

fn replaced(answer: &[u8], tag: &str) -> Vec<u8> {
    match memchr::memmem::find(answer, b"TAG") {
        Some(at) => [&answer[..at], tag.as_bytes(), &answer[at + 3..]].concat(),
        None => answer.to_vec(),
    }
}

/// A folder with mails `(UID, bytes)` on a correct server.
fn orderly(mails: Vec<(u32, Vec<u8>)>) -> impl FnMut(&str) -> Option<Vec<u8>> + Send {
    move |command| {
        let words: Vec<&str> = command.split(' ').collect();
        let mut answer = Vec::new();
        match words[..] {
            ["CAPABILITY"] => answer.extend_from_slice(b"* CAPABILITY IMAP4rev1\r\n"),
            ["SELECT", ..] => {
                let next = mails.last().map_or(1, |(uid, _)| uid + 1);
                let text = format!(
                    "* {} EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT {next}] n\r\n",
                    mails.len()
                );
                answer.extend_from_slice(text.as_bytes());
            }
            ["UID", "FETCH", set, ..] => {
                for (uid, bytes) in mails.iter().filter(|(uid, _)| is_in(*uid, set)) {
                    answer.extend_from_slice(
                        format!(
                            "* {uid} FETCH (UID {uid} FLAGS () RFC822.SIZE {}",
                            bytes.len()
                        )
                        .as_bytes(),
                    );
                    if command.contains("BODY") {
                        answer.extend_from_slice(
                            format!(" BODY[] {{{}}}\r\n", bytes.len()).as_bytes(),
                        );
                        answer.extend_from_slice(bytes);
                    }
                    answer.extend_from_slice(b")\r\n");
                }
            }
            _ => {}
        }
        answer.extend_from_slice(b"TAG OK done\r\n");
        Some(answer)
    }
}

fn is_in(uid: u32, set: &str) -> bool {
    set.split(',').any(|range| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        (first.parse().unwrap()..=last.parse().unwrap()).contains(&uid)
    })
}

fn mail(n: u32) -> Vec<u8> {
    format!(
        "From: a@b.example\r\nTo: general@in.example\r\nMessage-ID: <{n}@b.example>\r\n\r\n{n}\r\n"
    )
    .into_bytes()
}

fn mails(uids: impl IntoIterator<Item = u32>) -> Vec<(u32, Vec<u8>)> {
    uids.into_iter().map(|uid| (uid, mail(uid))).collect()
}

/// A store and a fetcher for it.
struct ImapBench {
    store: Store,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    _folder: TempDir,
}

impl ImapBench {
    fn open() -> Self {
        let folder = TempDir::new().unwrap();
        let settings = store::Settings {
            segment_bytes: 4 << 20,
            free_bytes_min: 0,
            ..store::Settings::new(folder.path().to_owned())
        };
        Self {
            store: Store::open(settings, clock::now()).unwrap(),
            metrics: Metrics::default(),
            stop: watch::Sender::new(false),
            _folder: folder,
        }
    }

    fn door(&self, port: u16, change: impl FnOnce(&mut Settings)) -> ImapFetcher {
        let password = ImapCredential::Password("hunter2".to_owned());
        let mut settings = Settings {
            port,
            security: ImapSecurity::Plain,
            initial_fetch: InitialFetch::All,
            read_timeout: SILENCE,
            poll_interval: Duration::from_millis(100),
            mail_bytes_max: 100_000,
            ..Settings::new("127.0.0.1".to_owned(), "u".to_owned(), password)
        };
        settings.retry.wait_first = Duration::from_millis(10);
        settings.retry.wait_max = Duration::from_millis(20);
        change(&mut settings);
        let route = Route {
            name: "a".to_owned(),
            domains: vec![Domain::parse("in.example").unwrap()],
            keys: KeyRing::new(vec![(1, vec![7; 32])], KeyRing::LIFETIME).unwrap(),
            mailboxes: vec!["general".to_owned()],
            catch_all: None,
            postmaster: routes::POSTMASTER_MAILBOX.to_owned(),
            policy: crate::auth::AuthPolicy::default(),
        };
        let host = Domain::parse("mx.example").unwrap();
        let parts = ImapParts {
            store: self.store.clone(),
            routes: Arc::new(Routes::new(vec![route], &host).unwrap()),
            auth: None,
            metrics: self.metrics.clone(),
        };
        ImapFetcher::new(settings, parts).unwrap()
    }

    /// Runs the fetcher until `holds` returns true.
    async fn until(&self, door: ImapFetcher, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::select! {
            () = door.run(self.stop.subscribe()) => panic!("the door ended by itself"),
            waited = tokio::time::timeout(PATIENCE, wait) => waited,
        };
        assert!(waited.is_ok(), "never; metrics {:?}", self.metrics);
    }

    fn deliveries(&self) -> Vec<Delivery> {
        ask(self.store.waiting(None, 1000))
    }
}

async fn one(script: impl FnMut(&str) -> Option<Vec<u8>> + Send + 'static) -> ScriptedServer {
    ScriptedServer::start(b"* OK hi\r\n", VecDeque::from([Box::new(script) as Script])).await
}

#[tokio::test]
async fn mails_are_taken_in_order_and_once() {
    let bench = ImapBench::open();
    let server = one(orderly(mails((1..=40).chain([5_000, 4_000_000_000])))).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            server.heard("SELECT") >= 3
        })
        .await;
    let texts: Vec<_> = bench
        .deliveries()
        .iter()
        .map(|found| found.id.mail)
        .collect();
    assert_eq!(texts.len(), 42);
    assert!(texts.is_sorted());
    let last = wait(bench.store.mail_bytes(texts[41])).unwrap();
    assert_eq!(&last[..], mail(4_000_000_000));
    let position = ask(bench.store.imap_position("u@127.0.0.1/INBOX")).unwrap();
    assert_eq!((position.uid_validity, position.uid), (7, 4_000_000_000));
    // Another process continues where this one stopped.
    let seen = server.heard("UID STORE");
    let looks = server.heard("SELECT");
    bench
        .until(bench.door(server.port, |_| ()), || {
            server.heard("SELECT") > looks + 1
        })
        .await;
    assert_eq!(
        (bench.deliveries().len(), server.heard("UID STORE")),
        (42, seen)
    );
}

#[tokio::test]
async fn an_unfetchable_mail_blocks_no_other() {
    let mut all = mails(1..=9);
    all[2].1 = vec![b'x'; 200_000];
    all[3].1 = b"To: ann@elsewhere.example\r\n\r\nhi\r\n".to_vec();
    let mut server_side = orderly(all);
    // A request for mail 6 breaks the connection.
    let script = move |command: &str| {
        let fetches = command.starts_with("UID FETCH") && command.contains("BODY");
        let asks = fetches && is_in(6, command.split(' ').nth(2).unwrap());
        if asks { None } else { server_side(command) }
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            bench.deliveries().len() == 6
        })
        .await;
    let text = format!("{:?}", bench.metrics);
    for reason in ["too_big", "not_ours", "unreadable"] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    let stored = server.heard.lock().unwrap().join("\n");
    assert!(
        !stored.contains("STORE 3") && !stored.contains("STORE 4"),
        "{stored}"
    );
    assert_eq!(server.heard("(connected)"), 7, "{stored}");
}

#[tokio::test]
async fn a_wrong_size_loses_no_mail() {
    let long = [mail(2), vec![b'y'; 90_000]].concat();
    let mut server_side = orderly(vec![
        (1, mail(1)),
        (2, long),
        (3, mail(3)),
        (4, [mail(4), vec![b'z'; 400_000]].concat()),
    ]);
    let script = move |command: &str| {
        let answer = server_side(command)?;
        if command.contains("BODY") {
            return Some(answer);
        }
        let text = String::from_utf8(answer).unwrap();
        let lied = text.replace("RFC822.SIZE ", "RFC822.SIZE 1 X-REAL ");
        Some(lied.into_bytes())
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            bench.deliveries().len() == 3
        })
        .await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            ask(bench.store.imap_position("u@127.0.0.1/INBOX"))
                .unwrap()
                .uid
                == 4
        })
        .await;
    assert!(format!("{:?}", bench.metrics).contains("unreadable"));
}

#[tokio::test]
async fn nothing_is_sent_in_plain_text_if_tls_is_required() {
    for answer in [
        "TAG BAD no\r\n",
        "TAG OK go on\r\n* OK injected\r\n",
        "TAG OK go on\r\nnot TLS",
        "* BYE\r\n",
    ] {
        let script = move |command: &str| match command {
            "CAPABILITY" => Some(b"* CAPABILITY IMAP4rev1 STARTTLS\r\nTAG OK\r\n".to_vec()),
            _ => Some(answer.as_bytes().to_vec()),
        };
        let bench = ImapBench::open();
        let server = one(script).await;
        let door = bench.door(server.port, |settings| {
            settings.security = ImapSecurity::StartTls
        });
        bench.until(door, || server.heard("(connected)") >= 3).await;
        let heard = server.heard.lock().unwrap().join("\n");
        assert!(
            heard.contains("STARTTLS") && !heard.contains("hunter2"),
            "{heard}"
        );
    }
    let bench = ImapBench::open();
    let server = one(orderly(mails([1]))).await;
    let door = bench.door(server.port, |settings| {
        settings.security = ImapSecurity::StartTls
    });
    bench.until(door, || server.heard("(connected)") >= 3).await;
    assert_eq!(server.heard("STARTTLS") + server.heard("LOGIN"), 0);
}

#[tokio::test]
async fn a_token_is_read_at_each_login() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "first-token\n").unwrap();
    let fresh = path.clone();
    let words = |token: &str| format!("user=u\x01auth=Bearer {token}\x01\x01");
    let (first, second) = (words("first-token"), words("second-token"));
    let mut server_side = orderly(mails([1]));
    let script = move |command: &str| {
        // A continuation line has no tag: this is only the base64.
        let said = |words: &str| data_encoding::BASE64.encode(words.as_bytes());
        if command == "AUTHENTICATE XOAUTH2" {
            return Some(b"+ \r\n".to_vec());
        }
        if command == said(&first) {
            std::fs::write(&fresh, "second-token").unwrap();
            return Some(b"+ eyJzdGF0dXMiOiI0MDEifQ==\r\n".to_vec());
        }
        match command {
            "" => Some(b"p2 NO SASL authentication failed\r\n".to_vec()),
            _ if command == said(&second) => Some(b"p2 OK welcome\r\n".to_vec()),
            _ => server_side(command),
        }
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    let door = bench.door(server.port, |settings| {
        settings.credential = ImapCredential::TokenFile(path);
    });
    bench.until(door, || !bench.deliveries().is_empty()).await;
    assert_eq!(server.heard("AUTHENTICATE"), 2);
    assert_eq!(server.heard("LOGIN"), 0);
}

#[tokio::test]
async fn without_uidplus_mails_of_others_are_not_deleted() {
    for (after, capabilities, wanted, never) in [
        (
            AfterFetch::Delete,
            "UIDPLUS",
            "UID EXPUNGE 1:2",
            "EXPUNGE\n",
        ),
        (
            AfterFetch::Delete,
            "",
            "UID STORE 1:2 +FLAGS.SILENT (\\Deleted)",
            "EXPUNGE",
        ),
        (
            AfterFetch::Move("Ä".to_owned()),
            "MOVE",
            "UID MOVE 1:2 \"&AMQ-\"",
            "STORE",
        ),
        (
            AfterFetch::Move("b".to_owned()),
            "UIDPLUS",
            "UID COPY 1:2 \"b\"",
            "EXPUNGE\n",
        ),
    ] {
        let mut server_side = orderly(mails([1, 2]));
        let mut is_there = false;
        let script = move |command: &str| {
            if command == "CAPABILITY" {
                let words = format!("* CAPABILITY IMAP4rev1 {capabilities}\r\nTAG OK\r\n");
                return Some(words.into_bytes());
            }
            if command.starts_with("CREATE") {
                is_there = true;
            }
            let needs = command.starts_with("UID COPY") || command.starts_with("UID MOVE");
            if needs && !is_there {
                return Some(b"TAG NO [TRYCREATE] no such folder\r\n".to_vec());
            }
            server_side(command)
        };
        let bench = ImapBench::open();
        let server = one(script).await;
        let is_move = matches!(after, AfterFetch::Move(_));
        let door = bench.door(server.port, |settings| settings.after_fetch = after);
        bench.until(door, || server.heard("SELECT") >= 2).await;
        assert_eq!(bench.deliveries().len(), 2);
        let heard = server.heard.lock().unwrap().join("\n");
        assert!(heard.contains(wanted), "{heard}");
        assert!(!heard.replace("UID EXPUNGE", "").contains(never), "{heard}");
        assert_eq!(server.heard("CREATE") == 1, is_move, "{heard}");
    }
}

#[tokio::test]
async fn idle_announces_new_mail() {
    let inner = Arc::new(Mutex::new(orderly(mails([1]))));
    let mut idles = 0;
    let script = move |command: &str| match command {
        "CAPABILITY" => Some(b"* CAPABILITY IMAP4rev1 IDLE\r\nTAG OK\r\n".to_vec()),
        "IDLE" => {
            idles += 1;
            *inner.lock().unwrap() = orderly(mails(1..=1 + idles));
            Some(
                format!("+ idling\r\n* OK Still here\r\n* 1 EXPUNGE\r\n* {idles} EXISTS\r\n")
                    .into_bytes(),
            )
        }
        // DONE has no tag, and the result has the tag of IDLE, which counts the commands.
        "DONE" => None,
        _ => inner.lock().unwrap()(command),
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    let door = bench.door(server.port, |settings| {
        settings.poll_interval = PATIENCE * 10
    });
    bench.until(door, || bench.deliveries().len() >= 4).await;
    assert!(server.heard("DONE") >= 3 || server.heard("IDLE") >= 3);
}

#[tokio::test]
async fn a_stop_ends_every_wait() {
    for (greeting, silence) in [(&b""[..], PATIENCE), (b"* OK hi\r\n", SILENCE)] {
        let bench = ImapBench::open();
        let script = Box::new(orderly(mails([1]))) as Script;
        let server = ScriptedServer::start(greeting, VecDeque::from([script])).await;
        let door = bench.door(server.port, |settings| {
            settings.read_timeout = silence;
            settings.poll_interval = PATIENCE * 10;
        });
        let stop = bench.stop.subscribe();
        let run = tokio::spawn(door.run(stop));
        while server.heard("(connected)") == 0
            || (silence == SILENCE && bench.deliveries().is_empty())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.stop.send_replace(true);
        tokio::time::timeout(PATIENCE / 2, run)
            .await
            .unwrap()
            .unwrap();
    }
}
