//! Bounces through the real program: by SMTP and LMTP, some of them made by a real Postfix.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use postern::clock;
use postern::mail::address::{Address, Domain};
use postern::mail::job_id::{JobId, message_id, return_path};
use postern::mail::token::KeyRing;
use postern::store::{EventId, EventKind, Fact, Job, JobOutcome, JobState, Settings, Store};

use crate::ask::ask;
use crate::postern::{Client, DOMAIN, Postern, SECRET, eventually};
use crate::postfix::Postfix;
use crate::product::Product;

const THREAD: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const JOB: JobId = JobId([42; 16]);
const TO: &str = "nobody@sink.test";

fn keys() -> KeyRing {
    KeyRing::new(vec![(0, SECRET.as_bytes().to_vec())], KeyRing::LIFETIME).unwrap()
}

fn domain() -> Domain {
    Domain::parse(DOMAIN).unwrap()
}

fn bounce_address(job: JobId) -> String {
    return_path(&keys(), &domain(), job).unwrap().to_string()
}

/// Uses the store of a program that is not running.
fn in_store<T>(data: &Path, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let store = Store::open(Settings::new(data.to_owned()), clock::now()).unwrap();
        let done = work(&store).await;
        store.close().await;
        done
    })
}

/// Adds a sent job to the data folder.
fn seed(postern: &Postern) {
    let now = clock::now();
    let job = Job {
        id: JOB,
        route: "test".to_owned(),
        thread_id: Some(THREAD.to_owned()),
        product_message_id: Some("product-42".to_owned()),
        message_id: message_id(&keys(), &domain(), JOB),
        recipient: Address::parse(TO).unwrap(),
        return_path: Address::parse(&bounce_address(JOB)).ok(),
        subject: "Your order".to_owned(),
        key: [42; 16],
        second_key: None,
        content: [42; 16],
        made_at: now,
        ends_at: now.plus(Duration::from_secs(3_600)),
    };
    in_store(&postern.data(), async |store| {
        let bytes = Bytes::from(ours());
        store.enqueue(job, bytes, Vec::new()).await.unwrap();
        let begun = Fact::Begun { job: JOB, at: now };
        let outcome = JobOutcome::Sent {
            relay: "relay.test:25".to_owned(),
            reply: "250 ok".to_owned(),
        };
        let ended = Fact::Ended {
            job: JOB,
            outcome,
            at: now,
        };
        store.record(vec![begun, ended]).await.unwrap();
    });
}

fn ours() -> String {
    format!(
        "From: Shop <reply@{DOMAIN}>\r\nTo: <{TO}>\r\nSubject: Your order\r\nMessage-ID: {}\r\n\
         Date: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\nIt is on its way.\r\n",
        message_id(&keys(), &domain(), JOB)
    )
}

/// An SMTP server that rejects every recipient.
fn sink() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The server ends with the test's process; each session ends with its client.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || refuse(stream));
        }
    });
    port
}

fn refuse(mut stream: TcpStream) -> Option<()> {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let mut input = BufReader::new(stream.try_clone().ok()?);
    stream.write_all(b"220 sink.test ESMTP\r\n").ok()?;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let answer = match line.get(..4)?.to_ascii_uppercase().as_str() {
            "RCPT" => format!("550 5.1.1 <{TO}>: nobody has this address\r\n"),
            "DATA" => "554 5.5.1 nobody to send to\r\n".to_owned(),
            "QUIT" => "221 2.0.0 bye\r\n".to_owned(),
            _ => "250 2.0.0 ok\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

#[test]
fn a_bounce_made_by_postfix_marks_the_job_and_lands_in_no_thread() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "");
    seed(&postern);
    postern.start();
    let route = format!(
        "transport_maps = inline:{{sink.test=smtp:[127.0.0.1]:{}}}\n",
        sink()
    );
    let postfix = Postfix::start_with(DOMAIN, postern.lmtp, &route);
    let mut client = Client::connect(postfix.port(), "EHLO postern.test").unwrap();
    let taken = client.mail(&bounce_address(JOB), TO, &ours()).unwrap();
    assert!(taken.starts_with("250"), "{taken}");
    eventually("the bounce is dealt with", || {
        postern.metric("postern_ledger_dropped") == 1.0
    });
    assert!(postfix.log().contains("status=bounced"));
    assert!(product.messages().is_empty());
    let log = postern.log();
    let secret = bounce_address(JOB);
    let word = secret.split(['+', '@']).nth(1).unwrap();
    assert!(!log.contains(word), "{log}");
    postern.stop();
    in_store(&postern.data(), async |store| {
        let record = ask(store.job(JOB)).unwrap();
        assert!(
            matches!(&record.state, JobState::Bounced { reason } if reason.contains("nobody has")),
            "{record:?}"
        );
        let address = Address::parse(TO).unwrap();
        let listed = ask(store.suppression(&address, clock::now())).unwrap();
        assert_eq!((listed.bounces, listed.job), (1, Some(JOB)));
        let events = ask(store.events_after(EventId::default(), 100));
        let mut told = events.iter().map(|(_, event)| event);
        let told = told.find(|event| event.kind == EventKind::OutboundBounced);
        let data = &told.unwrap().data;
        assert_eq!(data["messageId"], "product-42");
        assert_eq!(data["status"], "5.1.1");
        assert_eq!(data["hard"], true);
        assert_eq!(data["recipient"], TO);
    });
}

#[test]
fn a_forged_return_path_is_refused_and_a_valid_one_accepted_from_any_sender() {
    let mut postern = Postern::new(None, "");
    postern.start();
    let good = bounce_address(JOB);
    let at = good.find('@').unwrap();
    let other = if &good[at - 3..at - 2] == "a" {
        "b"
    } else {
        "a"
    };
    let forged = format!("{}{other}{}", &good[..at - 3], &good[at - 2..]);
    for sender in ["", "postmaster@far.test"] {
        let mut client = Client::connect(postern.smtp, "EHLO far.test").unwrap();
        client.say(&format!("MAIL FROM:<{sender}>")).unwrap();
        for bad in [&forged, "bounce+x@inbox.test"] {
            let answer = client.say(&format!("RCPT TO:<{bad}>")).unwrap();
            assert!(answer.starts_with("550 5.1.1"), "{answer}");
        }
        client.say("RSET").unwrap();
        let away = format!(
            "From: Ann <ann@far.test>\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n\
             Message-ID: <{}1@far.test>\r\n\r\nI am away.\r\n",
            sender.len()
        );
        let answer = client.mail(sender, &good, &away).unwrap();
        assert!(answer.starts_with("250"), "{answer}");
    }
    eventually("both are dropped", || {
        let (_, text) = postern.fetch("/metrics");
        text.lines().any(|line| {
            line.starts_with("postern_ledger_dropped")
                && line.contains("bounce_address")
                && line.ends_with(" 2")
        })
    });
    postern.stop();
}

#[test]
fn the_queue_shows_attempts_and_reasons() {
    // No program listens on this port.
    let base = format!("http://127.0.0.1:{}/api", crate::postfix::free_port());
    let mut postern = Postern::new(Some(&base), "");
    postern.start();
    let mut client = Client::connect(postern.smtp, "EHLO far.test").unwrap();
    let text = "From: Ann <ann@far.test>\r\nSubject: Hi\r\n\r\nHi.\r\n";
    let to = postern.mint(THREAD);
    let answer = client.mail("ann@far.test", &to, text).unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    let list = |postern: &Postern| {
        let out = postern.command(&["queue", "list", "--state", "waiting"]);
        String::from_utf8(out.stdout).unwrap()
    };
    eventually("it was tried", || list(&postern).contains("tried "));
    let listed = list(&postern);
    assert!(listed.contains("message: "), "{listed}");
    postern.stop();
    assert!(
        !list(&postern).contains("tried "),
        "known to the server alone"
    );
}
