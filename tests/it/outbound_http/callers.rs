//! Callers of the outbound API: their keys, repeated requests, and refused requests.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use data_encoding::BASE64;
use postern::clock;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    SECRET, bare, capturing, direct, event, fetched, field, heard, job_of, mac, mail_of, post,
    signed, waiting,
};
use crate::postern::Postern;
use crate::product::KEY;

#[tokio::test(flavor = "multi_thread")]
async fn calls_need_a_key_or_a_fresh_signature() {
    let mut postern = waiting();
    let now = clock::now().as_millis();
    for path in ["/gateway/events", "/gateway/outbound"] {
        let nothing = bare(&postern, Method::POST, path).body(event("m0").to_string());
        assert_eq!(heard(nothing).await.0, 401, "{path}");
        let wrong = bare(&postern, Method::POST, path).bearer_auth(SECRET);
        assert_eq!(
            heard(wrong.body(event("m0").to_string())).await.0,
            401,
            "{path}"
        );
    }
    for path in ["/gateway/jobs", "/gateway/jobs/x", "/gateway/suppressions"] {
        assert_eq!(
            heard(bare(&postern, Method::GET, path)).await.0,
            401,
            "{path}"
        );
        // A signature does not cover the path.
        let empty = signed(&postern, path, &json!({}), now).build().unwrap();
        let mut get = bare(&postern, Method::GET, path);
        for (name, value) in empty.headers() {
            get = get.header(name, value);
        }
        assert_eq!(heard(get.body("{}")).await.0, 401, "{path}");
    }
    let events = |message: &str, at| signed(&postern, "/gateway/events", &event(message), at);
    let job = job_of(&heard(events("m1", now)).await);
    assert_eq!(
        job_of(&heard(events("m1", now)).await),
        job,
        "the same again"
    );
    for at in [now - 301_000, now + 400_000, now / 1000] {
        let (status, fault) = heard(events("m2", at)).await;
        assert_eq!(
            (status, &fault["error"]["code"]),
            (401, &json!("unauthorized")),
            "{at}"
        );
    }
    let forged = events("m3", now).body(event("m4").to_string());
    assert_eq!(heard(forged).await.0, 401);

    a_signed_request_has_one_key(&mut postern, now).await;

    let (seconds, text) = (now / 1000, event("m5").to_string());
    let signature = BASE64.encode(&mac(SECRET.as_bytes(), &format!("msg_1.{seconds}.{text}")));
    let standard = bare(&postern, Method::POST, "/gateway/events")
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", seconds.to_string())
        .header("webhook-signature", format!("v1,{signature}"))
        .body(text);
    job_of(&heard(standard).await);
    let log = postern.log();
    assert!(!log.contains(SECRET) && !log.contains(KEY));
}

async fn a_signed_request_has_one_key(postern: &mut Postern, now: u64) {
    // A repeated signed request is one job, and it cannot get another key.
    let direct = |postern: &Postern, key: Option<&str>, at: u64| {
        let request = signed(postern, "/gateway/outbound", &direct(), at);
        match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        }
    };
    let job = job_of(&heard(direct(postern, None, now)).await);
    assert_eq!(job_of(&heard(direct(postern, None, now)).await), job);
    assert_eq!(heard(direct(postern, Some("k1"), now)).await.0, 401);
    let job = job_of(&heard(direct(postern, Some("k1"), now + 1)).await);
    assert_eq!(
        job_of(&heard(direct(postern, Some("k1"), now + 1)).await),
        job
    );
    assert_eq!(heard(direct(postern, Some("k2"), now + 1)).await.0, 401);
    assert_eq!(heard(direct(postern, None, now + 1)).await.0, 401);
    postern.kill();
    postern.start();
    let same = direct(postern, Some("k1"), now + 1);
    assert_eq!(job_of(&heard(same).await), job);
    for other in [Some("k2"), None] {
        let replayed = direct(postern, other, now + 1);
        assert_eq!(heard(replayed).await.0, 401, "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_the_same_job() {
    let postern = capturing("");
    let request = || {
        bare(&postern, Method::POST, "/gateway/outbound")
            .bearer_auth(KEY)
            .header("Idempotency-Key", "k1")
            .body(direct().to_string())
    };
    let tasks: Vec<_> = (0..50).map(|_| tokio::spawn(heard(request()))).collect();
    let mut jobs = Vec::new();
    for task in tasks {
        jobs.push(job_of(&task.await.unwrap()));
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    let (_, all) = fetched(&postern, "/gateway/jobs").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);

    let mut other = direct();
    other["body"] = json!("It did not leave us.");
    let other = bare(&postern, Method::POST, "/gateway/outbound")
        .bearer_auth(KEY)
        .header("Idempotency-Key", "k1")
        .body(other.to_string());
    let (status, fault) = heard(other).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (409, &json!("idempotency_conflict"))
    );
    assert!(
        fault["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&jobs[0])
    );

    a_fresh_key_each_time(&postern).await;

    // By the product's message id, in an envelope or not; a direct call has separate keys.
    let told = job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    let wrapped = json!({ "event": "message.created", "data": event("m1") });
    assert_eq!(
        job_of(&post(&postern, "/gateway/events", &wrapped).await),
        told
    );
    let mut named = direct();
    named["messageId"] = json!("m1");
    let named = job_of(&post(&postern, "/gateway/outbound", &named).await);
    assert_ne!(named, told);
    // Without a key each request is a separate mail.
    let one = job_of(&post(&postern, "/gateway/outbound", &direct()).await);
    assert_ne!(
        job_of(&post(&postern, "/gateway/outbound", &direct()).await),
        one
    );
    let long = bare(&postern, Method::POST, "/gateway/outbound")
        .bearer_auth(KEY)
        .header("Idempotency-Key", "k".repeat(256))
        .body(direct().to_string());
    assert_eq!(heard(long).await.0, 400);
}

/// A product that makes up a key for each attempt, but names its message.
async fn a_fresh_key_each_time(postern: &Postern) {
    let request = |key: &str, body: &str, copied: &str| {
        let mut named = direct();
        named["messageId"] = json!("tried often");
        named["body"] = json!(body);
        named["cc"] = json!([copied]);
        let request = bare(postern, Method::POST, "/gateway/outbound").bearer_auth(KEY);
        heard(
            request
                .header("Idempotency-Key", key)
                .body(named.to_string()),
        )
    };
    let (text, bob) = ("It left us today.", "bob@example.com");
    let tasks: Vec<_> = (0..50)
        .map(|n| tokio::spawn(request(&format!("try {n}"), text, bob)))
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let job = job_of(&answers[0]);
    let (_, all) = fetched(postern, "/gateway/jobs").await;
    let all = all["data"].as_array().unwrap().iter();
    let named = all.filter(|job| job["messageId"] == "tried often");
    assert_eq!(named.count(), 2);
    for (key, body, copied) in [
        ("try again", "It did not leave us.", bob),
        ("try again", text, "eve@example.com"),
    ] {
        let (status, fault) = request(key, body, copied).await;
        assert_eq!(status, 409, "{fault}");
        let words = fault["error"]["message"].as_str().unwrap();
        assert!(words.contains(&job), "{words}");
    }
}

/// Unauthenticated bodies leave memory for a caller with the key.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_a_key_do_not_keep_the_key_out() {
    let postern = capturing(&format!(
        "[outbound.api]\nbody_bytes_max = '1MiB'\nbytes_in_flight_max = '4MiB'\n\
         [webhook]\nsecret = '{SECRET}'\n"
    ));
    let now = clock::now().as_millis();
    let forged = format!(
        "POST /gateway/outbound HTTP/1.1\r\nHost: x\r\nX-Webhook-Timestamp: {now}\r\n\
         X-Webhook-Signature: {}\r\nContent-Length: 1048000\r\n\r\n",
        "0".repeat(64)
    );
    let body = vec![b' '; 1_047_000];
    let mut held = Vec::new();
    let mut refused = String::new();
    while !refused.starts_with("HTTP/1.1 503") {
        assert!(held.len() < 20, "never refused: {refused}");
        let mut stream = TcpStream::connect(("127.0.0.1", postern.http)).unwrap();
        // A refused caller may find the connection closed while it still sends.
        let sent = stream.write_all(forged.as_bytes());
        let _ = sent.and_then(|()| stream.write_all(&body));
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut answer = [0; 256];
        let read = stream.read(&mut answer).unwrap_or(0);
        refused = String::from_utf8_lossy(&answer[..read]).into_owned();
        held.push(stream);
    }
    let (status, answer) = post(&postern, "/gateway/events", &event("m1")).await;
    assert_eq!(status, 202, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_text_is_answered_in_json() {
    let postern = capturing("");
    for path in [
        "/gateway/jobs/%ff",
        "/gateway/suppressions/%ff",
        "/gateway/attachments/%ff?expires=1",
        "/gateway/events?after=1&after=2",
    ] {
        let (status, fault) = heard(bare(&postern, Method::GET, path).bearer_auth(KEY)).await;
        assert_eq!(status, 400, "{path}: {fault}");
        assert_eq!(fault["error"]["code"], "bad_request", "{path}: {fault}");
    }
    // No provider posts mail here.
    let inbound = bare(&postern, Method::POST, "/gateway/inbound/%ff").bearer_auth(KEY);
    let (status, fault) = heard(inbound).await;
    assert_eq!(status, 404, "{fault}");
    assert_eq!(fault["error"]["code"], "not_found", "{fault}");
    let (status, _) = heard(bare(
        &postern,
        Method::GET,
        "/gateway/events?after=1&after=2",
    ))
    .await;
    assert_eq!(status, 401, "the key is asked for first");
}

#[tokio::test(flavor = "multi_thread")]
async fn excessive_and_untimely_requests_are_refused() {
    let postern = capturing("[outbound.api]\nbody_bytes_max = '64KiB'\n");
    let mut large = event("m1");
    large["messageText"] = json!("x".repeat(70_000));
    let (status, fault) = post(&postern, "/gateway/events", &large).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (413, &json!("too_large"))
    );
    let ignored = json!({ "type": "thread.closed", "data": {} });
    let (status, answer) = post(&postern, "/gateway/events", &ignored).await;
    assert_eq!(status, 200);
    assert!(
        answer["data"]["ignored"]
            .as_str()
            .unwrap()
            .contains("thread.closed")
    );
    let mut web = event("m2");
    web["threadMetadata"]["sourceType"] = json!("web");
    let (status, answer) = post(&postern, "/gateway/events", &web).await;
    let why = json!({ "success": true, "data": { "ignored": "sourceType is not email" } });
    assert_eq!((status, answer), (200, why));
    drop(postern);

    let postern = capturing("[store]\nfree_bytes_min = '1024TiB'\n");
    let request = bare(&postern, Method::POST, "/gateway/events").bearer_auth(KEY);
    let response = request.body(event("m1").to_string()).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let (_, all) = fetched(&postern, "/gateway/jobs").await;
    assert_eq!(all["data"], json!([]), "nothing was promised");
    drop(postern);

    let mut postern = Postern::new(None, "");
    postern.start();
    for path in ["/gateway/events", "/gateway/outbound"] {
        let (status, fault) = post(&postern, path, &event("m1")).await;
        assert_eq!(
            (status, &fault["error"]["code"]),
            (403, &json!("outbound_disabled"))
        );
        assert!(
            fault["error"]["message"]
                .as_str()
                .unwrap()
                .contains("outbound.enabled")
        );
    }
    assert_eq!(fetched(&postern, "/gateway/jobs").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_adds_a_line() {
    let postern = capturing("");
    let evil = [
        "a\r\nX-Injected: 1",
        "a\nX-Injected: 1",
        "a\rX-Injected: 1",
        "a\0X-Injected: 1",
        "a\u{2028}X-Injected: 1",
        "a\u{85}X-Injected: 1",
        "a\r\n\r\nX-Injected: 1",
        "a\r\n.\r\nMAIL FROM:<x@y.example>",
        "=?utf-8?Q?a=0D=0AX-Injected:_1?=",
        "a\" <eve@example.com>, \"b",
    ];
    let places = [
        "/threadId",
        "/messageId",
        "/messageText",
        "/messageHtml",
        "/threadMetadata/emailFrom",
        "/threadMetadata/emailSubject",
        "/threadMetadata/lastEmailMessageId",
        "/senderProfile/displayName",
        "/locale",
        "/kind",
        "/route",
        "/cc/0",
        "/headers/X-A",
        "/attachments/0/filename",
        "/attachments/0/contentType",
    ];
    let mut made = 0;
    for (at, place) in places.iter().enumerate() {
        for (number, text) in evil.iter().enumerate() {
            let mut body = event(&format!("m{at}.{number}"));
            body["cc"] = json!(["bob@example.com"]);
            body["headers"] = json!({ "X-A": "b" });
            body["attachments"] = json!([{ "filename": "a", "contentType": "a/b", "content": "" }]);
            body["threadId"] = json!(format!("thread-{at}.{number}"));
            let (parent, name) = place.rsplit_once('/').unwrap();
            match body.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[0] = json!(text),
                object => object[name] = json!(text),
            }
            let answer = post(&postern, "/gateway/events", &body).await;
            if answer.0 == 422 {
                assert!(answer.1["error"]["field"].is_string(), "{answer:?}");
                continue;
            }
            made += 1;
            for job in answer.1["jobIds"].as_array().unwrap() {
                let (head, _) = mail_of(&postern, job.as_str().unwrap()).await;
                let injected = head.iter().any(|line| line.starts_with("X-Injected"));
                assert!(!injected, "{place} {text:?}: {head:?}");
                assert!(!field(&head, "To").contains("eve@"), "{place} {text:?}");
                field(&head, "From");
            }
        }
    }
    assert!(made > 20, "only {made} were made into mails");
}
