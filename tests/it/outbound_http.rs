//! What the product calls, through the real program: events, direct calls, jobs, addresses.

use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, Mac};
use postern::clock;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::postern::{Client as Smtp, DOMAIN, Postern, eventually};
use crate::postfix::free_port;
use crate::product::{KEY, Product};

const THREAD: &str = "3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b";
const SECRET: &str = "a webhook secret made for tests, worth nothing";
const CAPTURE: &str = "[outbound]\nenabled = true\ncapture = true\nfrom = 'support@product.test'\n\
                       from_name = 'Product'\n";

/// A Postern that keeps what it would send.
fn capturing(more: &str) -> Postern {
    let mut postern = Postern::new(None, &format!("{CAPTURE}{more}"));
    postern.start();
    postern
}

/// A Postern whose relay is never there, so that jobs wait.
fn waiting() -> Postern {
    let relay = free_port();
    let lines = format!(
        "[outbound]\nenabled = true\nfrom = 'support@product.test'\nhost = '127.0.0.1'\n\
         port = {relay}\nretry_wait_first = '1h'\n[webhook]\nsecret = '{SECRET}'\n"
    );
    let mut postern = Postern::new(None, &lines);
    postern.start();
    postern
}

/// A request without a key.
fn bare(postern: &Postern, method: Method, path: &str) -> RequestBuilder {
    let client = Client::builder().no_proxy().build().unwrap();
    client.request(method, format!("http://127.0.0.1:{}{path}", postern.http))
}

async fn heard(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

async fn call(postern: &Postern, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = bare(postern, method, path).bearer_auth(KEY);
    heard(request.body(body.to_string())).await
}

async fn post(postern: &Postern, path: &str, body: &Value) -> (u16, Value) {
    call(postern, Method::POST, path, body).await
}

async fn fetched(postern: &Postern, path: &str) -> (u16, Value) {
    heard(bare(postern, Method::GET, path).bearer_auth(KEY)).await
}

fn event(message: &str) -> Value {
    json!({
        "threadId": THREAD, "messageId": message, "messageText": "It left us today.",
        "threadMetadata": {
            "sourceType": "email", "emailFrom": "Ann <ann@example.com>",
            "emailSubject": "Where is my order?",
        },
        "senderProfile": { "displayName": "Sam" },
    })
}

fn direct() -> Value {
    json!({
        "threadId": THREAD, "body": "It left us today.", "recipientEmail": "ann@example.com",
        "subject": "Where is my order?", "senderName": "Sam",
    })
}

fn job_of(answer: &(u16, Value)) -> String {
    assert_eq!(answer.0, 202, "{answer:?}");
    answer.1["jobId"].as_str().unwrap().to_owned()
}

/// The mail of a job, its header unfolded.
async fn mail_of(postern: &Postern, job: &str) -> (Vec<String>, String) {
    let (status, mail) = fetched(postern, &format!("/gateway/jobs/{job}/mail")).await;
    assert_eq!(status, 200, "{mail}");
    let mail = mail.as_str().unwrap();
    assert!(!mail.replace("\r\n", "").contains(['\r', '\n', '\0']));
    let (head, body) = mail.split_once("\r\n\r\n").unwrap();
    let head = head.replace("\r\n ", " ");
    let fields = head.split("\r\n").map(str::to_owned).collect();
    (fields, body.to_owned())
}

fn field<'f>(fields: &'f [String], name: &str) -> &'f str {
    let prefix = format!("{name}: ");
    let mut found = fields.iter().filter_map(|line| line.strip_prefix(&prefix));
    let value = found.next().unwrap_or_default();
    assert_eq!(found.next(), None, "{name} twice");
    value
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A request signed the generic way at `millis`.
fn signed(postern: &Postern, path: &str, body: &Value, millis: u64) -> RequestBuilder {
    let text = body.to_string();
    let signature = mac(SECRET.as_bytes(), &format!("{millis}.{text}"));
    bare(postern, Method::POST, path)
        .header("X-Webhook-Timestamp", millis.to_string())
        .header("X-Webhook-Signature", HEXLOWER.encode(&signature))
        .body(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_product_says_becomes_a_mail_of_its_thread() {
    let postern = capturing("");
    let mut first = event("m1");
    first["threadMetadata"]["lastEmailMessageId"] = json!("a1@mail.example.com");
    first["headers"] = json!({ "X-Ticket": "42", "Importance": "high" });
    first["attachments"] = json!([
        { "filename": "slip.txt", "contentType": "text/plain", "content": "U2xpcA==" }
    ]);
    let first = job_of(&post(&postern, "/gateway/events", &first).await);
    let wrapped = json!({ "type": "message.created", "data": event("m2") });
    let second = job_of(&post(&postern, "/gateway/events", &wrapped).await);
    let third = job_of(&post(&postern, "/gateway/outbound", &direct()).await);

    let (head, body) = mail_of(&postern, &first).await;
    assert_eq!(
        field(&head, "From"),
        "\"Sam via Product\" <support@product.test>"
    );
    assert_eq!(field(&head, "To"), "\"Ann\" <ann@example.com>");
    assert_eq!(field(&head, "Subject"), "Re: Where is my order?");
    assert_eq!(field(&head, "In-Reply-To"), "<a1@mail.example.com>");
    assert_eq!(field(&head, "X-Ticket"), "42");
    assert!(body.contains("It left us today.") && body.contains("slip.txt"));
    let reply_to = field(&head, "Reply-To");
    assert!(
        reply_to.starts_with("reply+") && reply_to.ends_with(DOMAIN),
        "{reply_to}"
    );
    let inspected = postern.command(&["token", "inspect", reply_to]);
    let inspected = String::from_utf8(inspected.stdout).unwrap();
    assert!(
        inspected.contains(THREAD) && inspected.contains("participant: bound"),
        "{inspected}"
    );

    // Each refers to the one before, though the product did not know of it.
    let first_id = field(&head, "Message-ID").to_owned();
    let (head, body) = mail_of(&postern, &second).await;
    assert_eq!(field(&head, "In-Reply-To"), first_id);
    assert!(body.contains("It left us today."));
    let second_id = field(&head, "Message-ID").to_owned();
    let (head, _) = mail_of(&postern, &third).await;
    assert_eq!(field(&head, "In-Reply-To"), second_id);
    let chain = format!("<a1@mail.example.com> {first_id} {second_id}");
    assert_eq!(field(&head, "References"), chain);

    eventually("all are captured", || {
        postern.log().matches("captured").count() >= 3
    });
    let (_, job) = fetched(&postern, &format!("/gateway/jobs/{first}")).await;
    let job = &job["data"];
    assert_eq!(job["messageId"], "m1");
    assert_eq!(job["emailMessageId"], first_id);
    assert_eq!(job["recipient"], "ann@example.com");
    assert_eq!(postern.metric("postern_outbound_requests_total"), 3.0);
    assert!(!postern.log().contains(reply_to), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_are_one_chain() {
    let postern = capturing("");
    let all = (0..12).map(|n| {
        let message = event(&format!("m{n}"));
        let request = bare(&postern, Method::POST, "/gateway/events").bearer_auth(KEY);
        tokio::spawn(heard(request.body(message.to_string())))
    });
    let mut answered = Vec::new();
    for task in all.collect::<Vec<_>>() {
        let job = job_of(&task.await.unwrap());
        let (head, _) = mail_of(&postern, &job).await;
        answered.push(field(&head, "In-Reply-To").to_owned());
    }
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), 12, "two mails answer the same one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_known_from_the_persons_mail() {
    let postern = capturing("");
    let to = format!("general@{DOMAIN}");
    let mail = format!(
        "From: Ann <ann@example.com>\r\nTo: {to}\r\nSubject: Where is my order?\r\n\
         Message-ID: <a1@mail.example.com>\r\n\r\nI wait for it.\r\n"
    );
    let mut smtp = Smtp::connect(postern.smtp, "EHLO me").unwrap();
    let answer = smtp.mail("ann@example.com", &to, &mail).unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    let mut thread = String::new();
    for _ in 0..600 {
        let (_, threads) = fetched(&postern, "/api/v1/messages/threads").await;
        if threads["data"][0]["metadata"]["lastEmailMessageId"].is_string() {
            threads["data"][0]["id"]
                .as_str()
                .unwrap()
                .clone_into(&mut thread);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The mapping is recorded just after the product has the message.
    let little = json!({ "threadId": thread, "body": "It left us today." });
    let mut answer = post(&postern, "/gateway/outbound", &little).await;
    for _ in 0..600 {
        if answer.0 == 202 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = post(&postern, "/gateway/outbound", &little).await;
    }
    let (head, _) = mail_of(&postern, &job_of(&answer)).await;
    assert_eq!(field(&head, "To"), "ann@example.com");
    assert_eq!(field(&head, "In-Reply-To"), "<a1@mail.example.com>");
    assert_eq!(field(&head, "Subject"), "Re: Where is my order?");

    let unknown = json!({ "threadId": "another", "body": "Hello" });
    let (status, fault) = post(&postern, "/gateway/outbound", &unknown).await;
    assert_eq!(
        (status, &fault["error"]["field"]),
        (422, &json!("recipientEmail"))
    );
    let mut unknown = event("m9");
    unknown["threadId"] = json!("another");
    unknown["threadMetadata"]["emailFrom"] = json!(null);
    let (status, fault) = post(&postern, "/gateway/events", &unknown).await;
    let field = &fault["error"]["field"];
    assert_eq!((status, field), (422, &json!("threadMetadata.emailFrom")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_the_same_job() {
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

    // By the product's message id, in an envelope or not; a direct call has keys of its own.
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
    // Without a key each is a mail of its own.
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

#[tokio::test(flavor = "multi_thread")]
async fn each_copy_is_a_mail_of_its_own_with_its_own_token() {
    let postern = capturing("");
    let mut copied = event("m1");
    copied["cc"] = json!([
        "bob@example.com",
        "Eve <eve@example.com>",
        "ANN@example.com"
    ]);
    let answer = post(&postern, "/gateway/events", &copied).await;
    let jobs = answer.1["jobIds"].as_array().unwrap().clone();
    assert_eq!((answer.0, jobs.len()), (202, 3), "{answer:?}");
    assert_eq!(post(&postern, "/gateway/events", &copied).await, answer);
    let mut tokens = Vec::new();
    for (job, to) in jobs.iter().zip(["ann@", "bob@", "eve@"]) {
        let job = job.as_str().unwrap();
        let (_, shown) = fetched(&postern, &format!("/gateway/jobs/{job}")).await;
        assert!(
            shown["data"]["recipient"].as_str().unwrap().starts_with(to),
            "{shown}"
        );
        let (head, _) = mail_of(&postern, job).await;
        assert_eq!(field(&head, "To"), "\"Ann\" <ann@example.com>");
        assert_eq!(field(&head, "Cc"), "bob@example.com, eve@example.com");
        tokens.push(field(&head, "Reply-To").to_owned());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_without_a_key_or_a_fresh_signature() {
    let postern = waiting();
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
        // A signature does not say which path it is for.
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

    // The very same signed request is one job, and nobody gives it another key.
    let direct = |key: Option<&str>, at: u64| {
        let request = signed(&postern, "/gateway/outbound", &direct(), at);
        match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        }
    };
    let job = job_of(&heard(direct(None, now)).await);
    assert_eq!(job_of(&heard(direct(None, now)).await), job);
    assert_eq!(heard(direct(Some("k1"), now)).await.0, 401);
    let job = job_of(&heard(direct(Some("k1"), now + 1)).await);
    assert_eq!(job_of(&heard(direct(Some("k1"), now + 1)).await), job);
    assert_eq!(heard(direct(Some("k2"), now + 1)).await.0, 401);
    assert_eq!(heard(direct(None, now + 1)).await.0, 401);

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

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_looked_at_called_back_and_tried_again() {
    let postern = waiting();
    let job = job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    let path = format!("/gateway/jobs/{job}");
    let mut deferred = Value::Null;
    for _ in 0..600 {
        deferred = fetched(&postern, &path).await.1;
        if deferred["data"]["history"][0]["what"] == "deferred" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(deferred["data"]["state"], "waiting", "{deferred}");
    assert_eq!(deferred["data"]["attempts"], 1, "{deferred}");
    let (status, fault) = post(&postern, &format!("{path}/retry"), &json!({})).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (409, &json!("wrong_state"))
    );

    let (status, gone) = call(&postern, Method::DELETE, &path, &json!({})).await;
    assert_eq!((status, &gone["data"]["state"]), (200, &json!("cancelled")));
    // Twice is as good as once.
    let (status, _) = post(&postern, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    for (state, count) in [("waiting", 0), ("cancelled", 1)] {
        let (_, list) = fetched(&postern, &format!("/gateway/jobs?state={state}")).await;
        assert_eq!(
            list["data"].as_array().unwrap().len(),
            count,
            "{state}: {list}"
        );
    }
    for path in ["/gateway/jobs?state=lost", "/gateway/jobs?limit=0"] {
        assert_eq!(fetched(&postern, path).await.0, 400, "{path}");
    }
    for path in [
        "/gateway/jobs/x",
        &format!("/gateway/jobs/{THREAD}"),
        &format!("{path}/mail"),
    ] {
        assert_eq!(fetched(&postern, path).await.0, 404, "{path}");
    }
    drop(postern);

    let postern = capturing("");
    let job = job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    let path = format!("/gateway/jobs/{job}");
    let captured = async || {
        for _ in 0..600 {
            if fetched(&postern, &path).await.1["data"]["state"] == "captured" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never captured");
    };
    captured().await;
    assert_eq!(
        call(&postern, Method::DELETE, &path, &json!({})).await.0,
        409
    );
    let (status, _) = post(&postern, &format!("{path}/retry"), &json!({})).await;
    assert_eq!(status, 200);
    captured().await;
    let (_, shown) = fetched(&postern, &path).await;
    let history = shown["data"]["history"].as_array().unwrap();
    let words: Vec<_> = history
        .iter()
        .map(|trial| trial["what"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["captured", "retried", "captured"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_on_the_list_is_told_at_once() {
    let postern = capturing("");
    let held = json!({ "address": "Ann@EXAMPLE.com", "reason": "asked for it" });
    let (status, _) = post(&postern, "/gateway/suppressions", &held).await;
    assert_eq!(status, 201);
    let (status, fault) = post(&postern, "/gateway/events", &event("m1")).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (422, &json!("suppressed"))
    );
    assert_eq!(fault["error"]["field"], "threadMetadata.emailFrom");
    assert!(
        fault["error"]["message"]
            .as_str()
            .unwrap()
            .contains("asked for it")
    );
    let (_, list) = fetched(&postern, "/gateway/suppressions").await;
    assert_eq!(list["data"][0]["address"], "ann@example.com");
    assert_eq!(list["next"], Value::Null);
    let path = "/gateway/suppressions/ann@example.com";
    assert_eq!(fetched(&postern, path).await.0, 200);
    assert_eq!(
        call(&postern, Method::DELETE, path, &json!({})).await.0,
        200
    );
    assert_eq!(fetched(&postern, path).await.0, 404);
    job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    for (field, wrong) in [
        ("address", json!({})),
        ("address", json!({ "address": "nobody" })),
        ("days", json!({ "address": "a@b.example", "days": 0 })),
        ("days", json!({ "address": "a@b.example", "days": "1" })),
        (
            "reason",
            json!({ "address": "a@b.example", "reason": "a\r\nb" }),
        ),
    ] {
        let (status, fault) = post(&postern, "/gateway/suppressions", &wrong).await;
        assert_eq!((status, &fault["error"]["field"]), (422, &json!(field)));
    }
    // Mail to our own reply domain would come back to us.
    let mut looped = direct();
    looped["recipientEmail"] = json!(format!("general@{DOMAIN}"));
    let (status, fault) = post(&postern, "/gateway/outbound", &looped).await;
    assert_eq!(
        (status, &fault["error"]["field"]),
        (422, &json!("recipientEmail"))
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_not_now_is_refused() {
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
async fn what_was_taken_outlives_a_kill() {
    let relay = free_port();
    let lines = format!(
        "[outbound]\nenabled = true\nfrom = 'support@product.test'\nhost = '127.0.0.1'\nport = {relay}\n"
    );
    let mut postern = Postern::new(None, &lines);
    postern.start();
    let mut known: Vec<(String, String)> = Vec::new();
    for round in 0..5 {
        let message = format!("m{round}");
        let answer = post(&postern, "/gateway/events", &event(&message)).await;
        postern.kill();
        known.push((message, job_of(&answer)));
        postern.start();
        for (message, job) in &known {
            let again = post(&postern, "/gateway/events", &event(message)).await;
            assert_eq!(job_of(&again), *job);
        }
        let (_, list) = fetched(&postern, "/gateway/jobs?state=waiting").await;
        assert_eq!(list["data"].as_array().unwrap().len(), known.len());
    }
    // The chain was kept too.
    let mut before = String::new();
    for (_, job) in &known {
        let (head, _) = mail_of(&postern, job).await;
        assert_eq!(field(&head, "In-Reply-To"), before);
        field(&head, "Message-ID").clone_into(&mut before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_whose_id_is_no_uuid_is_found_again_by_its_reply() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), CAPTURE);
    postern.start();
    let mut told = event("m1");
    told["threadId"] = json!("ticket:42");
    let job = job_of(&post(&postern, "/gateway/events", &told).await);
    let (head, _) = mail_of(&postern, &job).await;
    let (reply_to, id) = (field(&head, "Reply-To"), field(&head, "Message-ID"));
    let mail = format!(
        "From: Ann <ann@example.com>\r\nTo: {reply_to}\r\nSubject: Re: Where is my order?\r\n\
         Message-ID: <a2@mail.example.com>\r\nIn-Reply-To: {id}\r\n\r\nThank you!\r\n"
    );
    let mut smtp = Smtp::connect(postern.smtp, "EHLO me").unwrap();
    let answer = smtp.mail("ann@example.com", reply_to, &mail).unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    eventually("the reply is told", || !product.messages().is_empty());
    let (thread, message) = &product.messages()[0];
    assert_eq!(
        (thread.as_str(), &message["body"]),
        ("ticket:42", &json!("Thank you!"))
    );
    assert_eq!(message["senderEmail"], "ann@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_what_others_of_the_thread_wrote() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), CAPTURE);
    postern.start();
    let to = |whom: &str, body: &str| {
        let mut mail = direct();
        (mail["recipientEmail"], mail["body"]) = (json!(whom), json!(body));
        mail
    };
    let path = "/gateway/outbound";
    let first = job_of(&post(&postern, path, &to("ann@example.com", "Words to Ann.")).await);
    let (head, _) = mail_of(&postern, &first).await;
    let token = field(&head, "Reply-To").to_owned();
    for (nth, from, words) in [
        (1, "ann@example.com", "Words of Ann."),
        (2, "eve@evil.example", "Words of Eve."),
    ] {
        let mail = format!(
            "From: {from}\r\nTo: {token}\r\nSubject: Re: Where is my order?\r\n\
             Message-ID: <x{nth}@mail.example.com>\r\n\r\n{words}\r\n"
        );
        let mut smtp = Smtp::connect(postern.smtp, "EHLO me").unwrap();
        let answer = smtp.mail(from, &token, &mail).unwrap();
        assert!(answer.starts_with("250"), "{answer}");
        eventually("the reply is told", || product.messages().len() == nth);
    }
    // What was said is recorded just after the product has the message.
    eventually("the replies are settled", || {
        postern.metric("postern_ledger_waiting") == 0.0
    });

    let mut copied = to("bob@far.example", "Words to Bob.");
    copied["cc"] = json!(["carl@far.example"]);
    let bobs = post(&postern, path, &copied).await;
    assert_eq!(bobs.0, 202, "{bobs:?}");
    for job in bobs.1["jobIds"].as_array().unwrap() {
        let (_, body) = mail_of(&postern, job.as_str().unwrap()).await;
        assert!(body.contains("Words to Bob."));
        for others in ["Words to Ann.", "Words of Ann.", "Words of Eve."] {
            assert!(!body.contains(others), "{others}: {body}");
        }
    }
    let second = job_of(&post(&postern, path, &to("ann@example.com", "More to Ann.")).await);
    let (_, body) = mail_of(&postern, &second).await;
    for hers in ["More to Ann.", "Words to Ann.", "Words of Ann."] {
        assert!(body.contains(hers), "{hers}: {body}");
    }
    for others in ["Words to Bob.", "Words of Eve."] {
        assert!(!body.contains(others), "{others}: {body}");
    }
}
