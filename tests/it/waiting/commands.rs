//! The commands about waiting mail, with a running server and without one.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern::mail::token::ThreadKey;
use serde_json::Value;

use crate::crash::mail;
use crate::fake_api::{Fake, Play};
use crate::postern::{Client, Postern, eventually};

/// An API that fails until it is repaired.
async fn troubled() -> (Fake, Arc<AtomicBool>) {
    let is_mended = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_mended);
    let fake = Fake::start(move |_, _| match switch.load(Ordering::SeqCst) {
        true => Play::Good,
        false => Play::Say(503, "retry-after: 3600\r\n", String::new()),
    })
    .await;
    (fake, is_mended)
}

fn send(postern: &Postern, to: &str, count: usize) {
    let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
    for n in 0..count {
        let answer = client.mail("ann@peer.test", to, &mail(&format!("{n}@peer.test")));
        assert!(answer.unwrap().starts_with("250"));
    }
}

fn queue(postern: &Postern, arguments: &[&str]) -> Output {
    postern.command(&[&["queue"], arguments].concat())
}

#[track_caller]
fn done(postern: &Postern, arguments: &[&str]) -> String {
    let out = queue(postern, arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[track_caller]
fn refused(postern: &Postern, arguments: &[&str]) -> String {
    let out = queue(postern, arguments);
    assert_eq!(out.status.code(), Some(65), "{arguments:?}: {out:?}");
    String::from_utf8(out.stderr).unwrap()
}

fn listed(postern: &Postern, state: &str) -> Vec<Value> {
    let lines = done(postern, &["list", "--state", state, "--json"]);
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(postern: &Postern) -> Vec<String> {
    let waiting = listed(postern, "waiting");
    let id = |delivery: &Value| delivery["id"].as_str().unwrap().to_owned();
    waiting.iter().map(id).collect()
}

fn is_tried(postern: &Postern, id: &str) -> bool {
    let shown: Value = serde_json::from_str(&done(postern, &["show", id])).unwrap();
    shown["attempts"].as_u64().is_some()
}

/// Repeats an order until no attempt prevents it.
fn ordered(postern: &Postern, arguments: &[&str]) -> String {
    let mut said = String::new();
    eventually("no attempt is in the way", || {
        let out = queue(postern, arguments);
        let why = String::from_utf8(out.stderr).unwrap();
        said = String::from_utf8(out.stdout).unwrap();
        assert!(
            out.status.success() || why.contains("being delivered now"),
            "{why}"
        );
        out.status.success()
    });
    said
}

fn bodies(fake: &Fake) -> Vec<String> {
    let done = fake.done();
    let messages = done.iter().filter(|seen| seen.call() == "message");
    let id = |body: &Value| body["emailMessageId"].as_str().unwrap().to_owned();
    messages.map(|seen| id(&seen.body)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_mail_is_retried_parked_and_dropped_while_the_server_runs() {
    let (fake, is_mended) = troubled().await;
    let mut postern = Postern::new(Some(&fake.base()), "");
    postern.start();
    let to = postern.mint("00000000-0000-4000-8000-000000000001");
    send(&postern, &to, 4);
    let all = names(&postern);
    eventually("the first is tried", || is_tried(&postern, &all[0]));
    let behind = format!("waits behind {}", all[0]);
    let list = done(&postern, &["list"]);
    assert_eq!(list.matches(&behind).count(), 3, "{list}");
    let shown = listed(&postern, "waiting");
    assert_eq!(shown[0]["waitsBehind"], Value::Null);
    assert_eq!(shown[3]["waitsBehind"], all[0].as_str());
    let why = refused(&postern, &["retry", &all[1]]);
    assert!(why.contains(&behind), "{why}");

    let said = ordered(&postern, &["park", &all[0], "--reason", "looks odd"]);
    assert_eq!(said, format!("{} parked\n", all[0]));
    eventually("the second is tried", || is_tried(&postern, &all[1]));
    let why = refused(&postern, &["park", &all[0]]);
    assert!(why.contains("parked already"), "{why}");
    let parked = done(&postern, &["list", "--state", "parked"]);
    assert!(parked.contains("a person parked it: looks odd"), "{parked}");

    let said = ordered(&postern, &["drop", &all[1]]);
    assert_eq!(said, format!("{} dropped\n", all[1]));
    eventually("the third is tried", || is_tried(&postern, &all[2]));
    is_mended.store(true, Ordering::SeqCst);
    let said = ordered(&postern, &["retry", &all[2]]);
    assert_eq!(said, format!("{} waiting\n", all[2]));
    postern.drained();
    assert_eq!(bodies(&fake), ["2@peer.test", "3@peer.test"]);

    done(&postern, &["retry", &all[0]]);
    postern.drained();
    assert_eq!(bodies(&fake)[2..], ["0@peer.test"]);
    let counted = ["delivered", "parked", "dropped"]
        .map(|name| postern.metric(&format!("postern_ledger_{name}")));
    assert_eq!(counted, [3.0, 0.0, 1.0]);
    let log = postern.log();
    for line in [
        format!("retried delivery={}", all[2]),
        format!(
            "dropped delivery={} route=\"test\" rule=\"operator\"",
            all[1]
        ),
        format!(
            "parked delivery={} route=\"test\" reason=\"a person parked it",
            all[0]
        ),
    ] {
        assert_eq!(log.matches(&line).count(), 1, "{line} in {log}");
    }
    postern.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_mail_is_retried_parked_and_dropped_without_a_server() {
    let (fake, is_mended) = troubled().await;
    let mut postern = Postern::new(Some(&fake.base()), "");
    postern.start();
    let to = postern.mint("00000000-0000-4000-8000-000000000002");
    send(&postern, &to, 4);
    let all = names(&postern);
    eventually("the first is tried", || is_tried(&postern, &all[0]));
    postern.stop();
    assert_eq!(
        done(&postern, &["retry", &all[0]]),
        format!("{} waiting\n", all[0])
    );
    let why = refused(&postern, &["retry", &all[1]]);
    assert!(why.contains(&format!("waits behind {}", all[0])), "{why}");
    assert_eq!(
        done(&postern, &["park", &all[0]]),
        format!("{} parked\n", all[0])
    );
    assert_eq!(
        done(&postern, &["drop", &all[1]]),
        format!("{} dropped\n", all[1])
    );
    let waiting = listed(&postern, "waiting");
    assert_eq!(waiting[0]["waitsBehind"], Value::Null);
    assert_eq!(waiting[1]["waitsBehind"], all[2].as_str());
    let parked = &listed(&postern, "parked")[0];
    assert_eq!(parked["reason"], "a person parked it");
    for reason in ["", "two\nlines", &"x".repeat(257)] {
        let why = refused(&postern, &["park", &all[2], "--reason", reason]);
        assert!(why.contains("reason"), "{why}");
    }
    is_mended.store(true, Ordering::SeqCst);
    postern.start();
    postern.drained();
    assert_eq!(bodies(&fake), ["2@peer.test", "3@peer.test"]);
    let counted = ["delivered", "parked", "dropped"]
        .map(|name| postern.metric(&format!("postern_ledger_{name}")));
    assert_eq!(counted, [2.0, 1.0, 1.0]);
    postern.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_another_store_is_never_named_by_its_hash() {
    // The hash of this id has the form of a UUID.
    let thread = (1..)
        .map(|n| n.to_string())
        .find(|id| ThreadKey::of(id).as_uuid().is_some())
        .unwrap();
    let (fake, is_mended) = troubled().await;
    is_mended.store(true, Ordering::SeqCst);
    let other = Postern::new(Some(&fake.base()), "");
    std::fs::create_dir(other.data()).unwrap();
    let to = other.mint(&thread);
    let mut postern = Postern::new(Some(&fake.base()), "");
    postern.start();
    let inspected = |postern: &Postern, more: &[&str]| {
        let out = postern.command(&[&["token", "inspect", &to], more].concat());
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(inspected(&other, &[]).contains(&format!("thread: {thread}\n")));
    let text = inspected(&postern, &[]);
    assert!(text.contains("thread: unknown thread (hash "), "{text}");
    let object: Value = serde_json::from_str(&inspected(&postern, &["--json"])).unwrap();
    assert_eq!(object["thread"], Value::Null);
    let note = object["threadNote"].as_str().unwrap().to_owned();
    assert!(note.starts_with("unknown thread (hash "), "{note}");

    // The mail is kept for a person, and the product receives nothing.
    send(&postern, &to, 1);
    postern.drained();
    let parked = &listed(&postern, "parked")[0];
    assert_eq!(parked["thread"], Value::Null);
    assert_eq!(parked["threadNote"], note.as_str());
    assert!(
        parked["reason"]
            .as_str()
            .unwrap()
            .contains("token mint --thread"),
        "{parked}"
    );
    assert!(fake.seen().is_empty());
    let file = postern.scratch("a.eml");
    std::fs::write(&file, mail("0@peer.test")).unwrap();
    let file = file.display().to_string();
    let explain = |postern: &Postern, more: &[&str]| {
        let words = [&["mail", "explain", &file, "--rcpt", &to], more].concat();
        String::from_utf8(postern.command(&words).stdout).unwrap()
    };
    let text = explain(&postern, &[]);
    assert!(
        text.contains(&format!("thread:   {note} (reason store_not_asked)")),
        "{text}"
    );

    // As soon as this store has the id, all of them show it.
    let id = parked["id"].as_str().unwrap().to_owned();
    postern.mint(&thread);
    assert!(inspected(&postern, &[]).contains(&format!("thread: {thread}\n")));
    assert_eq!(listed(&postern, "parked")[0]["thread"], thread.as_str());
    done(&postern, &["retry", &id]);
    postern.drained();
    let path = format!("/api/v1/messages/threads/{thread}/messages");
    assert_eq!(fake.done()[0].path, path);
    postern.stop();
    let text = explain(&postern, &["--store"]);
    let known = format!("thread:   {thread} (reason token)");
    assert!(text.contains(&known), "{text}");
    let object: Value = serde_json::from_str(&explain(&postern, &["--json"])).unwrap();
    assert_eq!(
        (&object["thread"]["match"], &object["thread"]["note"]),
        (&Value::Null, &note.into())
    );
}
