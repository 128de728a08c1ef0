//! The Messages API client against every kind of misbehaving API.
use std::time::Duration;

use postern::delivery::api::{Api, ApiOutcome, ApiSettings};
use serde_json::json;

use crate::fake_api::{Fake, Play};

const KEY: &str = "k-secret-do-not-print";

fn api(base: &str) -> Api {
    Api::new(&ApiSettings {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(300),
        total_timeout: Duration::from_millis(1_500),
        ..ApiSettings::new(base, KEY)
    })
    .unwrap()
}

async fn post(play: Play) -> ApiOutcome {
    let fake = Fake::start(move |_, _| play.clone()).await;
    api(&fake.base())
        .create_message("t1", "f-message", &json!({ "body": "x" }))
        .await
}

#[tokio::test]
async fn each_status_has_the_outcome_of_the_table() {
    let id = json!({ "success": true, "data": { "id": "m1" } }).to_string();
    for (status, body, class) in [
        (200, id.as_str(), "done"),
        (201, &id, "done"),
        (202, &id, "done"),
        (200, "{\"success\":true", "passing"),
        (202, "", "passing"),
        (204, "", "passing"),
        (301, &id, "final"),
        (302, "", "final"),
        (307, "", "final"),
        (400, "", "final"),
        (401, "", "unauthorized"),
        (403, "", "unauthorized"),
        (404, "", "final"),
        (408, "", "passing"),
        (409, "", "final"),
        (409, &id, "done"),
        (410, "", "final"),
        (413, "", "final"),
        (422, "", "final"),
        (425, "", "passing"),
        (429, "", "passing"),
        (500, &id, "passing"),
        (502, "<html>", "passing"),
        (503, "", "passing"),
        (504, "", "passing"),
    ] {
        let head = "location: http://127.0.0.1:1/elsewhere\r\n";
        let answer = post(Play::Say(status, head, body.to_owned())).await;
        assert_eq!(answer.class(), class, "{status} {body}: {answer:?}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let fake = Fake::start(|_, _| {
        Play::Say(
            307,
            "location: /api/v1/messages/threads/other/messages\r\n",
            String::new(),
        )
    })
    .await;
    let answer = api(&fake.base())
        .create_message("t1", "k", &json!({}))
        .await;
    assert_eq!(answer.class(), "final");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn retry_after_is_read_and_clamped() {
    for (head, wish) in [
        ("retry-after: 7\r\n", Some(7)),
        ("retry-after: 0\r\n", Some(1)),
        ("retry-after: 1000000000\r\n", Some(3600)),
        ("retry-after: 1e9\r\n", None),
        ("retry-after: -1\r\n", None),
        ("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", Some(1)),
        ("retry-after: Fri, 06 Nov 2099 08:49:37 GMT\r\n", Some(3600)),
        ("", None),
    ] {
        let answer = post(Play::Say(429, head, String::new())).await;
        let ApiOutcome::Transient {
            retry_after: heard, ..
        } = answer
        else {
            panic!("{head}: {answer:?}");
        };
        assert_eq!(heard, wish.map(Duration::from_secs), "{head}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_transient() {
    let bomb = "x-bomb: 1\r\n".repeat(500_000);
    for (name, play) in [
        ("hang-up", Play::Drop),
        ("hang-up after the deed", Play::CommitThenDrop),
        ("garbage", Play::Raw(b"\0\xff\r\n\r\nnonsense".to_vec())),
        (
            "another protocol",
            Play::Raw(b"220 mx.example ESMTP\r\n".to_vec()),
        ),
        (
            "header bomb",
            Play::Raw(format!("HTTP/1.1 200 OK\r\n{bomb}\r\n").into_bytes()),
        ),
        (
            "cut body",
            Play::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec()),
        ),
        ("slow body", Play::Stall),
        ("late answer", Play::Late(Duration::from_secs(20))),
    ] {
        // The fake closes after a raw response because the client does.
        let answer = post(play).await;
        assert_eq!(answer.class(), "passing", "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn an_unreachable_api_is_transient() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let api = api(&format!("http://{address}/api"));
    let answer = api.create_thread("k", &json!({})).await;
    assert_eq!(answer.class(), "passing", "{answer:?}");
}

#[tokio::test]
async fn a_huge_body_is_not_read() {
    let answer = post(Play::Endless(1 << 30)).await;
    let ApiOutcome::Transient { reason, .. } = &answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("over 65536 bytes"), "{reason}");
    assert!(reason.chars().count() < 300, "{reason}");
}

#[tokio::test]
async fn calls_match_the_contract() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let api = api(&fake.base());
    let done = |id: &str| ApiOutcome::Done { id: id.to_owned() };
    let thread = api
        .create_thread("f-thread", &json!({ "sourceType": "email" }))
        .await;
    assert_eq!(thread, done("thread-1"));
    let message = api
        .create_message("a/b c?d", "f-message", &json!({ "body": "hi" }))
        .await;
    assert_eq!(message, done("message-2"));
    let patched = api
        .patch_thread("a/b c?d", "f-metadata", &json!({ "metadata": {} }))
        .await;
    assert_eq!(patched, done("a/b c?d"));
    let told: Vec<_> = fake
        .seen()
        .iter()
        .map(|s| format!("{} {} {}", s.method, s.path, s.key))
        .collect();
    assert_eq!(
        told,
        [
            "POST /api/v1/messages/threads f-thread",
            "POST /api/v1/messages/threads/a%2Fb%20c%3Fd/messages f-message",
            "PATCH /api/v1/messages/threads/a%2Fb%20c%3Fd f-metadata",
        ]
    );
    assert!(
        fake.seen()
            .iter()
            .all(|s| s.bearer == format!("Bearer {KEY}"))
    );
}

#[tokio::test]
async fn an_id_that_names_another_resource_is_not_called() {
    let fake = Fake::start(|_, _| Play::Good).await;
    for id in ["", ".", "..", "a\r\nb", &"x".repeat(257)] {
        let answer = api(&fake.base()).create_message(id, "k", &json!({})).await;
        assert_eq!(answer.class(), "final", "{id:?}");
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn the_key_is_in_no_outcome() {
    let echo = format!("your key {KEY} is bad");
    for status in [200, 400, 401, 500] {
        let answer = post(Play::Say(status, "", echo.clone())).await;
        assert!(!format!("{answer:?}").contains(KEY), "{answer:?}");
    }
}
