//! Several doors of the real program at once, with the program killed meanwhile: every acknowledged mail is
//! posted once, whichever door it came through and however often.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use postern::clock;
use ring::hmac;
use serde_json::{Value, json};

use crate::crash::{addresses, assert_each_told_once, assert_ledger_adds_up, kill_often, mail};
use crate::postern::{Client, Postern};
use crate::product::Product;

const SECRET: &str = "a webhook secret made for tests, worth nothing";
const PASSWORD: &str = "a relay password made for tests";

/// A Postern with the doors for SMTP, LMTP and webhooks enabled, not yet started.
fn postern(product: &Product) -> Postern {
    let extra =
        format!("[webhook]\nsecret = \"{SECRET}\"\n[webhook.relay]\npassword = \"{PASSWORD}\"\n");
    let postern = Postern::new(Some(&product.base_url()), &extra);
    let text = fs::read_to_string(postern.config()).unwrap();
    let open = "[server]\ninbound = [\"smtp\", \"lmtp\", \"webhook\"]\n";
    fs::write(postern.config(), text.replacen("[server]\n", open, 1)).unwrap();
    postern
}

/// Posts a request and returns its status; `None` if the server is not there or disconnects.
fn post(port: u16, path: &str, fields: &str, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok()?;
    let heard = String::from_utf8_lossy(&heard);
    heard.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Posts to the generic webhook, signed now.
fn post_signed(port: u16, body: &Value) -> Option<u16> {
    let (at, body) = (clock::now().as_millis(), body.to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let mac = hmac::sign(&key, format!("{at}.{body}").as_bytes());
    let fields = format!(
        "X-Webhook-Timestamp: {at}\r\nX-Webhook-Signature: {}\r\n",
        HEXLOWER.encode(mac.as_ref())
    );
    post(port, "/gateway/inbound", &fields, body.as_bytes())
}

fn raw(text: &str, to: &str) -> Value {
    let envelope = json!({"to": [to], "from": "ann@peer.test"});
    json!({"envelope": envelope, "raw": BASE64.encode(text.as_bytes())})
}

/// The mail of [`mail`] in parts.
fn parts(id: &str, to: &str) -> Value {
    json!({
        "from": "Ann Smith <ann@peer.test>", "to": to, "subject": "Re: your order",
        "text": format!("This is mail {id}.\n"),
        "headers": {"Message-ID": format!("<{id}>"), "Date": "Fri, 20 Nov 2026 10:00:00 +0000"},
    })
}

/// Hands in a mail through every door, in this order, each until it is acknowledged.
fn hand_in(doors: &[&str], ports: Ports, id: &str, to: &str, stop: &AtomicBool) -> bool {
    for door in doors {
        loop {
            let yes = match *door {
                "raw" => post_signed(ports.http, &raw(&mail(id), to)) == Some(200),
                "parts" => post_signed(ports.http, &parts(id, to)) == Some(200),
                "relay" => post_relay(ports.http, &mail(id), to) == Some(200),
                _ => by_smtp(ports, door, &mail(id), to),
            };
            if yes {
                break;
            }
            if stop.load(Ordering::SeqCst) {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    true
}

#[derive(Clone, Copy)]
struct Ports {
    smtp: u16,
    lmtp: u16,
    http: u16,
}

impl Ports {
    fn of(postern: &Postern) -> Self {
        Self {
            smtp: postern.smtp,
            lmtp: postern.lmtp,
            http: postern.http,
        }
    }
}

fn post_relay(port: u16, text: &str, to: &str) -> Option<u16> {
    let account = BASE64.encode(format!("postern:{PASSWORD}").as_bytes());
    let fields = format!(
        "Content-Type: message/rfc822\r\nAuthorization: Basic {account}\r\nX-Envelope-To: {to}\r\n\
         X-Envelope-From: ann@peer.test\r\n"
    );
    post(port, "/gateway/inbound/relay", &fields, text.as_bytes())
}

fn by_smtp(ports: Ports, door: &str, text: &str, to: &str) -> bool {
    let (port, greeting) = match door {
        "smtp" => (ports.smtp, "EHLO load.test"),
        _ => (ports.lmtp, "LHLO load.test"),
    };
    let client = Client::connect(port, greeting);
    let answer = client.and_then(|mut client| client.mail("ann@peer.test", to, text));
    answer.is_some_and(|answer| answer.starts_with("250"))
}

#[test]
fn kill_9_during_webhooks_loses_nothing_and_posts_nothing_twice() {
    let cycles = std::env::var("POSTERN_CRASH_CYCLES").map_or(30, |text| text.parse().unwrap());
    let product = Product::start();
    let mut postern = postern(&product).with_known_ports();
    let to = addresses(&postern, 20);
    let (stop, kept) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(BTreeSet::new())),
    );
    let ways: [&[&str]; 5] = [
        &["raw"],
        &["parts"],
        &["raw", "smtp"],
        &["smtp", "parts"],
        &["relay", "raw"],
    ];
    let ports = Ports::of(&postern);
    let senders = ways.into_iter().enumerate().map(|(sender, ways)| {
        let (stop, kept, to) = (Arc::clone(&stop), Arc::clone(&kept), to.clone());
        thread::spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let id = format!("{sender}.{number}@load.test");
                let to = &to[number % to.len()];
                // At the end the server runs, so that everything is finished.
                let never = AtomicBool::new(false);
                if hand_in(ways, ports, &id, to, &never) {
                    kept.lock().unwrap().insert(id);
                }
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    kill_often(&mut postern, cycles, |_, _| {});
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().unwrap();
    }
    postern.drained();
    let kept = kept.lock().unwrap().clone();
    assert!(
        kept.len() > cycles as usize,
        "only {} mails in {cycles} cycles",
        kept.len()
    );
    assert_each_told_once(&product, &kept);
    assert_ledger_adds_up(&postern);
    println!(
        "{} mails through {cycles} kills, each told once",
        kept.len()
    );
    postern.stop();
}

#[test]
fn the_same_mail_through_all_doors_at_once_is_one_message() {
    const DOORS: [&str; 5] = ["smtp", "lmtp", "raw", "parts", "relay"];
    const MAILS: usize = 30;
    let product = Product::start();
    let mut postern = postern(&product);
    let to = addresses(&postern, 3);
    postern.start();
    let (ports, at_once) = (Ports::of(&postern), Arc::new(Barrier::new(DOORS.len())));
    let senders = DOORS.map(|door| {
        let (to, at_once) = (to.clone(), Arc::clone(&at_once));
        thread::spawn(move || {
            for number in 0..MAILS {
                let id = format!("{number}@load.test");
                at_once.wait();
                let to = &to[number % to.len()];
                assert!(
                    hand_in(&[door], ports, &id, to, &AtomicBool::new(true)),
                    "{door}: {id}"
                );
            }
        })
    });
    for sender in senders {
        sender.join().unwrap();
    }
    postern.drained();
    let all = (0..MAILS).map(|n| format!("{n}@load.test")).collect();
    assert_each_told_once(&product, &all);
    assert_eq!(product.messages().len(), MAILS);
    assert_ledger_adds_up(&postern);
    postern.stop();
}

#[test]
fn an_earlier_forgery_suppresses_nothing_and_trace_fields_make_no_new_mail() {
    let product = Product::start();
    let mut postern = postern(&product);
    let to = addresses(&postern, 1).remove(0);
    postern.start();
    let ports = Ports::of(&postern);
    let told = |count: usize| {
        postern.drained();
        assert_eq!(product.messages().len(), count);
    };
    let real = mail("1@load.test");
    // The facts that an attacker can know about a mail before it arrives: its Message-ID, its author, its
    // date.
    for (at, forged) in [
        real.replace("ann@peer.test", "eve@peer.test"),
        real.replace("This is", "This is not"),
        real.replace("20 Nov", "19 Nov"),
    ]
    .iter()
    .enumerate()
    {
        assert_ne!(*forged, real);
        assert!(by_smtp(ports, "smtp", forged, &to));
        told(at + 1);
    }
    assert_eq!(post_signed(ports.http, &raw(&real, &to)), Some(200));
    told(4);
    let words = product.messages()[3].1["body"].as_str().unwrap().to_owned();
    assert_eq!(words.trim(), "This is mail 1@load.test.");
    // The same mail on other paths, with the fields that servers add on top and change below.
    for traced in [
        real.clone(),
        format!(
            "Return-Path: <ann@peer.test>\r\nReceived: from a by b; {}\r\n{real}",
            "Fri, 20 Nov 2026 10:00:03 +0000"
        ),
        format!(
            "DKIM-Signature: v=1; a=rsa-sha256; d=peer.test\r\nX-Spam: no\r\nAuthentication-Results: x; spf=pass\r\n{real}"
        ),
        real.replace("Subject: Re: your order", "Subject: [list] Re: your order"),
        real.replace(".\r\n", ".\r\n\r\n"),
    ] {
        assert!(by_smtp(ports, "lmtp", &traced, &to));
        assert_eq!(post_relay(ports.http, &traced, &to), Some(200));
    }
    assert_eq!(
        post_signed(ports.http, &parts("1@load.test", &to)),
        Some(200)
    );
    told(4);
    assert_ledger_adds_up(&postern);
    postern.stop();
}
