//! Mail fetched from a real Dovecot by the real program, and posted to a product exactly once, for every
//! interruption.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use postern::clock;
use sha2::Sha256;

use crate::dovecot::{Dovecot, PASSWORD, USER};
use crate::postern::{Client, Postern, eventually};
use crate::postfix::free_port;
use crate::product::Product;
use crate::wait::drains;

/// The secret that signs the webhook's requests.
const SECRET: &str = "3f9a1c5e7b2d4068a9c1e3f5b7d90246";

/// `[imap]` for a Dovecot, with this `security` and `extra` keys.
fn imap(dovecot: &Dovecot, security: &str, extra: &str) -> String {
    let (port, ca) = match security {
        "tls" => (dovecot.port_tls, dovecot.ca()),
        _ => (dovecot.port, dovecot.ca()),
    };
    format!(
        "[imap]\nhost = \"localhost\"\nport = {port}\nuser = \"{USER}\"\npassword = '{PASSWORD}'\n\
         security = \"{security}\"\nca_file = \"{}\"\nretry_wait_first = \"50ms\"\n\
         retry_wait_max = \"500ms\"\ntimeout = \"20s\"\n{extra}\n",
        ca.display()
    )
}

/// A Postern that fetches from `dovecot` and posts to `product`, not yet started.
fn postern(product: &Product, imap: &str) -> Postern {
    let postern = Postern::new(Some(&product.base_url()), imap);
    let path = postern.config();
    let text = fs::read_to_string(&path).unwrap();
    let doors = "[server]\ninbound = [\"smtp\", \"lmtp\", \"imap\"]\n";
    let doors = match imap.contains("[webhook]") {
        true => doors.replace("imap\"", "imap\", \"webhook\""),
        false => doors.to_owned(),
    };
    fs::write(&path, text.replacen("[server]\n", &doors, 1)).unwrap();
    postern
}

/// Waits until a file that is written now has a later second than the clock shows at first. The times of
/// files lag some milliseconds behind the clock, and Dovecot uses them as the arrival time of a mail.
fn another_second() {
    let begun = clock::now().as_secs();
    eventually("another second", || {
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = file.as_file().metadata().unwrap().mtime();
        u64::try_from(written).unwrap() > begun
    });
}

fn mail(name: &str, to: &str) -> String {
    format!(
        "Return-Path: <ann@example.com>\nFrom: Ann <ann@example.com>\nTo: {to}\n\
         Subject: mail {name}\nMessage-ID: <{name}@example.com>\n\
         Date: Sat, 31 Jan 2026 23:59:59 +0000\n\nThe words of {name}.\n"
    )
}

fn put(dovecot: &Dovecot, names: impl IntoIterator<Item = String>) {
    for name in names {
        dovecot.deliver(&name, &mail(&name, "general@inbox.test"));
    }
}

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{prefix}{n}"))
}

/// Waits until the product has all of these, and checks that it has each once, and nothing else.
fn told_once(product: &Product, postern: &Postern, names: impl IntoIterator<Item = String>) {
    let wanted: BTreeSet<String> = names
        .into_iter()
        .map(|name| format!("{name}@example.com"))
        .collect();
    drains("all mails are told", || {
        wanted.len().saturating_sub(product.effects().len()) as f64
    });
    postern.drained();
    let effects = product.effects();
    let told: BTreeSet<String> = effects.keys().cloned().collect();
    assert_eq!(told, wanted);
    let twice: Vec<_> = effects.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn mail_comes_by_idle_and_by_polling_over_tls_and_starttls() {
    for (security, extra) in [
        ("tls", "poll_interval = \"1h\""),
        ("starttls", "poll_interval = \"1h\""),
        ("starttls", "poll_interval = \"1s\"\nidle = false"),
        (
            "none",
            "poll_interval = \"1s\"\nafter = \"move\"\nmove_to = \"Done & gone ü\"",
        ),
        ("tls", "poll_interval = \"1s\"\nafter = \"delete\""),
    ] {
        let (dovecot, product) = (Dovecot::start(""), Product::start());
        put(&dovecot, names("a", 3));
        let mut postern = postern(&product, &imap(&dovecot, security, extra));
        postern.start();
        told_once(&product, &postern, names("a", 3));
        eventually("it is connected", || {
            postern.metric("postern_imap_connected") == 1.0
        });
        put(&dovecot, names("b", 2));
        told_once(&product, &postern, names("a", 3).chain(names("b", 2)));
        let all = || names("a", 3).chain(names("b", 2));
        let marked = || match extra {
            extra if extra.contains("after") => dovecot.names("").is_empty(),
            _ => all().all(|name| dovecot.is_seen(&name) == Some(true)),
        };
        eventually("mails are marked", marked);
        if extra.contains("move_to") {
            assert_eq!(dovecot.names(".Done &- gone &APw-").len(), 5);
        }
        assert_eq!(postern.metric("postern_imap_mails_total"), 5.0);
        let (_, metrics) = postern.fetch("/metrics");
        assert!(!metrics.contains(PASSWORD) && !postern.log().contains(PASSWORD));
        postern.stop();
        assert!(
            postern.log().contains("protocol=\"imap\""),
            "{}",
            postern.log()
        );
    }
}

#[test]
fn skipped_mail_stays_unchanged() {
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    // Mails that were read before the first poll are old.
    put(&dovecot, ["old".to_owned()]);
    let (from, to) = ("new/old", "cur/old:2,S");
    dovecot.rename(from, to);
    dovecot.deliver("foreign", &mail("foreign", "ann@elsewhere.example"));
    let long = format!(
        "{}{}\n",
        mail("long", "general@inbox.test"),
        "x".repeat(70_000)
    );
    dovecot.deliver("long", &long);
    dovecot.deliver("noise", "\u{1}\u{2} no mail at all\n");
    let extra = "poll_interval = \"1s\"\nmail_bytes_max = \"64KiB\"\nidle = false";
    let mut postern = postern(&product, &imap(&dovecot, "tls", extra));
    let token = postern.mint("5f0c7a52-9d1e-4a64-8a3f-2f6f5f4d0c11");
    put(&dovecot, names("a", 2));
    let both = format!("{token}, General <general@inbox.test>");
    dovecot.deliver("token", &mail("token", &both));
    postern.start();
    let mut wanted: Vec<String> = names("a", 2).collect();
    wanted.push("token".to_owned());
    told_once(&product, &postern, wanted);
    let thread = product.messages().into_iter().find(|(_, message)| {
        let id = message["emailMessageId"].as_str().unwrap_or_default();
        id.contains("token@")
    });
    assert_eq!(thread.unwrap().0, "5f0c7a52-9d1e-4a64-8a3f-2f6f5f4d0c11");
    assert_eq!(postern.metric("postern_imap_left_total"), 3.0);
    for name in ["foreign", "long", "noise"] {
        assert_eq!(dovecot.is_seen(name), Some(false), "{name}");
    }
    // Another poll, and another process, logs them no more.
    postern.stop();
    postern.start();
    put(&dovecot, ["late".to_owned()]);
    let all = names("a", 2).chain(["token".to_owned(), "late".to_owned()]);
    told_once(&product, &postern, all);
    assert_eq!(postern.metric("postern_imap_left_total"), 0.0);
    assert_eq!(postern.log().matches("skipped at the server").count(), 3);
}

#[test]
fn a_renumbered_folder_posts_nothing_twice() {
    let (mut dovecot, product) = (Dovecot::start(""), Product::start());
    put(&dovecot, ["old".to_owned()]);
    dovecot.age("new/old", "cur/old:2,S");
    put(&dovecot, ["unread".to_owned()]);
    let extra = "poll_interval = \"1s\"";
    let mut postern = postern(&product, &imap(&dovecot, "tls", extra));
    postern.start();
    told_once(&product, &postern, ["unread".to_owned()]);
    // An arrival time has whole seconds, and these arrive after the first poll.
    another_second();
    put(&dovecot, names("a", 5));
    let first = || names("a", 5).chain(["unread".to_owned()]);
    told_once(&product, &postern, first());
    eventually("mails are marked", || {
        first().all(|name| dovecot.is_seen(&name) == Some(true))
    });
    dovecot.stop();
    dovecot.renumber();
    // This mail was read by a person between two polls: it is new all the same.
    put(&dovecot, ["read".to_owned()]);
    dovecot.rename("new/read", "cur/read:2,S");
    put(&dovecot, names("b", 2));
    // Another UIDVALIDITY needs another second.
    another_second();
    dovecot.resume();
    let all = || {
        let others = ["unread", "read"].map(str::to_owned);
        names("a", 5).chain(names("b", 2)).chain(others)
    };
    told_once(&product, &postern, all());
    eventually("it started over", || {
        postern.metric("postern_imap_started_over_total") == 1.0
    });
    assert!(postern.log().contains("UIDVALIDITY has changed"));
    eventually("what came again is known", || {
        postern.metric("postern_ledger_dropped{rule=\"duplicate\"}") >= 5.0
    });
    told_once(&product, &postern, all());
}

#[test]
fn a_mail_that_finds_no_room_stays_unread() {
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    put(&dovecot, names("a", 40));
    let nobody = format!("http://127.0.0.1:{}/api", free_port());
    let room = "poll_interval = \"1s\"\n[store]\nwaiting_max = 3";
    let mut postern = postern(&product, &imap(&dovecot, "tls", room));
    let text = fs::read_to_string(postern.config()).unwrap();
    let (small, large) = (
        text.replace(&product.base_url(), &nobody),
        text.replace("waiting_max = 3", ""),
    );
    fs::write(postern.config(), small).unwrap();
    postern.start();
    eventually("it is full", || {
        postern.log().contains("store: the store is full")
    });
    // The first group was stored at once, before any of it was counted.
    let waiting = postern.metric("postern_ledger_waiting");
    assert!(waiting < 20.0, "{waiting}");
    let seen = names("a", 40).filter(|name| dovecot.is_seen(name) == Some(true));
    assert!(seen.count() as f64 <= waiting);
    postern.stop();
    fs::write(postern.config(), large).unwrap();
    postern.start();
    told_once(&product, &postern, names("a", 40));
    eventually("mails are marked", || {
        names("a", 40).all(|name| dovecot.is_seen(&name) == Some(true))
    });
}

#[test]
fn a_wrong_password_is_reported_and_can_be_corrected() {
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    put(&dovecot, names("a", 1));
    dovecot.set_password("another");
    let mut postern = postern(&product, &imap(&dovecot, "tls", ""));
    postern.start();
    eventually("it is told", || postern.log().contains("LOGIN refused"));
    assert_eq!(postern.metric("postern_imap_connected"), 0.0);
    assert!(product.effects().is_empty());
    dovecot.set_password(PASSWORD);
    told_once(&product, &postern, names("a", 1));
    // Only its own CA certifies this server.
    postern.stop();
    let path = postern.config();
    let text = fs::read_to_string(&path).unwrap();
    let ca = format!("ca_file = \"{}\"\n", dovecot.ca().display());
    fs::write(&path, text.replace(&ca, "")).unwrap();
    postern.start();
    eventually("it is told", || {
        postern.log().contains("invalid peer certificate")
    });
    assert_eq!(postern.metric("postern_imap_connected"), 0.0);
}

#[test]
fn a_kill_at_any_time_loses_no_mail_and_posts_none_twice() {
    const ROUNDS: u64 = 12;
    let (mut dovecot, product) = (Dovecot::start(""), Product::start());
    let extra = "poll_interval = \"1s\"";
    let mut postern = postern(&product, &imap(&dovecot, "starttls", extra));
    let mut wanted = Vec::new();
    for round in 0..ROUNDS {
        let fresh: Vec<String> = names(&format!("r{round}-"), 40).collect();
        put(&dovecot, fresh.clone());
        wanted.extend(fresh);
        postern.start();
        // The kill comes at any time between the first connection and the last mark.
        thread::sleep(Duration::from_millis(round * 37 % 400));
        postern.kill();
        if round % 4 == 3 {
            dovecot.stop();
            dovecot.resume();
        }
        // A marked mail must be on our disk, because it is never fetched again.
        let on_disk = segments(&postern);
        for name in wanted
            .iter()
            .filter(|name| dovecot.is_seen(name) == Some(true))
        {
            let id = format!("<{name}@example.com>");
            let known = memchr::memmem::find(&on_disk, id.as_bytes()).is_some();
            assert!(
                known
                    || product
                        .effects()
                        .contains_key(&format!("{name}@example.com")),
                "{name}"
            );
        }
    }
    postern.start();
    dovecot.stop();
    eventually("it is missed", || {
        postern.metric("postern_imap_connected") == 0.0
    });
    dovecot.resume();
    told_once(&product, &postern, wanted.clone());
    eventually("mails are marked", || {
        wanted
            .iter()
            .all(|name| dovecot.is_seen(name) == Some(true))
    });
    postern.drained();
    told_once(&product, &postern, wanted);
}

/// All octets of the journal's segments of mail.
fn segments(postern: &Postern) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in walk(&postern.data()) {
        if entry
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("mail-")
        {
            all.extend(fs::read(entry).unwrap());
        }
    }
    all
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn a_backlog_drains_in_bounded_memory() {
    const MAILS: usize = 10_000;
    const KIB_MAX: u64 = 200 << 10;
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    put(&dovecot, names("m", MAILS));
    let extra = "poll_interval = \"1s\"";
    let mut postern = postern(&product, &imap(&dovecot, "none", extra));
    postern.start();
    let mut most = 0;
    drains("all mails are fetched", || {
        most = most.max(resident_kib(postern.pid()));
        MAILS as f64 - postern.metric("postern_imap_mails_total")
    });
    println!("{most} KiB at most");
    assert!(most < KIB_MAX, "{most} KiB");
    told_once(&product, &postern, names("m", MAILS));
    assert_eq!(postern.metric("postern_imap_mails_total"), MAILS as f64);
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_same_mail_by_smtp_webhook_and_imap_is_one_message() {
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    let extra = format!("poll_interval = \"1s\"\n[webhook]\nsecret = \"{SECRET}\"");
    let mut postern = postern(&product, &imap(&dovecot, "tls", &extra));
    let token = postern.mint("5f0c7a52-9d1e-4a64-8a3f-2f6f5f4d0c11");
    postern.start();
    for name in names("a", 5) {
        let text = mail(&name, &token).replace('\n', "\r\n");
        // Fields that each path adds on top are not part of the mail.
        let trace = format!("X-Original-To: {token}\nDelivered-To: {USER}\n");
        dovecot.deliver(&name, &format!("{trace}{}", mail(&name, &token)));
        hook(&postern, &token, &format!("X-Hook: 1\r\n{text}"));
        let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
        let answer = client.mail("ann@example.com", &token, &text).unwrap();
        assert!(answer.starts_with("250"), "{answer}");
    }
    eventually("all come by IMAP", || {
        postern.metric("postern_imap_mails_total") == 5.0
    });
    told_once(&product, &postern, names("a", 5));
    assert_eq!(postern.metric("postern_ledger_received"), 15.0);
}

/// Posts a mail to the generic webhook.
fn hook(postern: &Postern, to: &str, raw: &str) {
    let raw = data_encoding::BASE64.encode(raw.as_bytes());
    let body = serde_json::json!({ "from": "ann@example.com", "to": to, "raw": raw }).to_string();
    let at = clock::now().as_millis();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    let signature = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    let url = format!("http://127.0.0.1:{}/gateway/inbound", postern.http);
    let out = Command::new("curl")
        .args([
            "-sS",
            "--fail-with-body",
            "-H",
            "Content-Type: application/json",
        ])
        .args(["-H", &format!("X-Webhook-Timestamp: {at}")])
        .args(["-H", &format!("X-Webhook-Signature: {signature}")])
        .args(["--data-binary", &body, &url])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn each_folder_is_polled_and_a_trusted_server_counts() {
    let (dovecot, product) = (Dovecot::start(""), Product::start());
    dovecot.make(".Support");
    let extra = "poll_interval = \"1h\"\nfolders = [\"INBOX\", \"Support\"]\n\
        [auth]\nrelay_authserv_ids = [\"mail.test\"]\n[auth.dns]\nservers = [\"127.0.0.1:9\"]";
    let mut postern = postern(&product, &imap(&dovecot, "tls", extra));
    postern.start();
    eventually("both are connected", || {
        postern.metric("postern_imap_connected") == 2.0
    });
    let said = "Authentication-Results: mail.test; dmarc=pass header.from=example.com\n";
    let text = |name: &str| mail(name, "general@inbox.test");
    dovecot.deliver("vouched", &format!("{said}{}", text("vouched")));
    let forged = said.replace("mail.test", "elsewhere.test");
    dovecot.deliver_to(
        ".Support",
        "claimed",
        &format!("{forged}{}", text("claimed")),
    );
    told_once(
        &product,
        &postern,
        ["vouched", "claimed"].map(str::to_owned),
    );
    for (_, message) in product.messages() {
        let id = message["emailMessageId"].as_str().unwrap_or_default();
        let wanted = match id.contains("vouched") {
            true => "verified",
            false => "unverified",
        };
        assert_eq!(message["authentication"]["identity"], wanted, "{message}");
    }
}
