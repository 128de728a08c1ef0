//! Responses that no honest server sends, after which the mails must still arrive.

use super::*;
use crate::store::ask::wait;

/// The responses of a hostile server to one command.
const HOSTILE: [(&str, &[u8]); 15] = [
    ("an answer cut off", b"* 1 FETCH (UID 1 BODY[] {100}\r\nabc"),
    (
        "a literal of all memory",
        b"* 1 FETCH (UID 1 BODY[] {4294967295}\r\n",
    ),
    (
        "a literal of no number",
        b"* 1 FETCH (UID 1 BODY[] {99999999999999999999999999}\r\n",
    ),
    (
        "a literal in a strange place",
        b"* OK hi {10}\r\n1234567890\r\nTAG OK\r\n",
    ),
    ("garbage", b"\x00\xff\xfe\x80\r\n\r\n\r\n"),
    (
        "half a FETCH",
        b"* 1 FETCH (UID 1 FLAGS (\\Seen\r\nTAG OK done\r\n",
    ),
    ("another's tag", b"x99 OK done\r\n"),
    ("a question", b"+ really?\r\n"),
    ("a good-bye", b"* BYE I am gone\r\nTAG OK done\r\n"),
    ("a no", b"TAG NO [ALERT] \x1b[31mforged\r\n"),
    ("a bad", b"TAG BAD what?\r\n"),
    (
        "numbers too large",
        b"* OK [UIDVALIDITY 99999999999] x\r\nTAG OK done\r\n",
    ),
    ("nothing", b""),
    ("empty lines", b"\r\n\r\n"),
    ("an echo", b"TAG UID FETCH\r\n"),
];

#[tokio::test]
async fn hostile_responses_end_only_the_connection() {
    let nested = [
        &b"* 1 FETCH (BODYSTRUCTURE "[..],
        &b"(".repeat(60_000),
        b"\r\n",
    ]
    .concat();
    let endless = vec![b'a'; 1 << 20];
    let mut all: Vec<(&str, Vec<u8>)> = HOSTILE.iter().map(|(n, w)| (*n, w.to_vec())).collect();
    all.push(("nesting", nested));
    all.push(("an endless line", endless));
    for (name, words) in all {
        for command in [
            "CAPABILITY",
            "LOGIN",
            "SELECT",
            "UID FETCH 1:",
            "UID FETCH 1 ",
            "UID STORE",
        ] {
            let mut server_side = orderly(mails([1]));
            let mut is_said = false;
            let words = words.clone();
            let script = move |heard: &str| {
                if heard.starts_with(command) && !is_said {
                    is_said = true;
                    return Some(words.clone());
                }
                server_side(heard)
            };
            let bench = ImapBench::open();
            let server = one(script).await;
            bench
                .until(bench.door(server.port, |_| ()), || {
                    server.heard("SELECT") >= 2 && !bench.deliveries().is_empty()
                })
                .await;
            // A mail that was not marked may come twice; the delivery recognises it.
            let count = bench.deliveries().len();
            assert!((1..=2).contains(&count), "{name} to {command}: {count}");
            assert!(count == 1 || command == "UID STORE", "{name} to {command}");
        }
    }
}

#[tokio::test]
async fn a_greeting_may_be_anything() {
    for greeting in [
        &b""[..],
        b"* BYE full\r\n",
        b"* NO\r\n",
        b"220 mx.example ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ] {
        let bench = ImapBench::open();
        let script = Box::new(orderly(mails([1]))) as Script;
        let server = ScriptedServer::start(greeting, VecDeque::from([script])).await;
        bench
            .until(bench.door(server.port, |_| ()), || {
                server.heard("(connected)") >= 3
            })
            .await;
        assert_eq!(server.heard("LOGIN"), 0, "{}", greeting.escape_ascii());
        assert!(bench.deliveries().is_empty());
    }
    let bench = ImapBench::open();
    let script = Box::new(orderly(mails([1]))) as Script;
    let server = ScriptedServer::start(b"* PREAUTH hi\r\n", VecDeque::from([script])).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            !bench.deliveries().is_empty()
        })
        .await;
    assert_eq!(server.heard("LOGIN"), 0);
}

#[tokio::test]
async fn strange_orders_and_storms_change_nothing() {
    let mut server_side = orderly(mails([1, 2, 3]));
    let script = move |command: &str| {
        let answer = server_side(command)?;
        let storm = b"* 1 EXPUNGE\r\n* 2 FETCH (FLAGS (\\Seen))\r\n* 9 EXPUNGE\r\n".repeat(2_000);
        if !command.contains("BODY") {
            return Some([storm, answer].concat());
        }
        // The mails in reverse order, one of them twice, and one that was not requested.
        let mut parts = Vec::new();
        for uid in [9, 3, 2, 2, 1] {
            let bytes = mail(uid);
            parts.extend_from_slice(
                format!("* {uid} FETCH (BODY[] {{{}}}\r\n", bytes.len()).as_bytes(),
            );
            parts.extend_from_slice(&bytes);
            parts.extend_from_slice(format!(" UID {uid})\r\n").as_bytes());
        }
        parts.extend_from_slice(b"TAG OK done\r\n");
        Some([storm, parts].concat())
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            server.heard("SELECT") >= 3
        })
        .await;
    let found = bench.deliveries();
    let bytes = found
        .iter()
        .map(|one| wait(bench.store.mail_bytes(one.id.mail)).unwrap());
    assert_eq!(bytes.collect::<Vec<_>>(), [mail(1), mail(2), mail(3)]);
}

#[tokio::test]
async fn a_mail_that_is_listed_but_not_given_is_tried_and_left() {
    let mut server_side = orderly(mails([1, 2, 3]));
    let script = move |command: &str| {
        if command.contains("BODY") && command.contains(" 2 ") {
            return Some(b"TAG OK done\r\n".to_vec());
        }
        if command.contains("BODY") && command.contains("1:3") {
            return Some(b"TAG NO [SERVERBUG] one of them is broken\r\n".to_vec());
        }
        server_side(command)
    };
    let bench = ImapBench::open();
    let server = one(script).await;
    bench
        .until(bench.door(server.port, |_| ()), || {
            bench.deliveries().len() == 2
        })
        .await;
    assert!(server.heard("UID FETCH 2 (UID BODY") >= 5);
    assert!(format!("{:?}", bench.metrics).contains("unreadable"));
}
