//! The calls of a product, through the real program: events, direct calls, jobs, addresses.

mod callers;
mod jobs;

use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::postern::{Client as Smtp, DOMAIN, Postern, eventually};
use crate::postfix::free_port;
use crate::product::{KEY, Product};
use crate::wait::eventually_or;

const THREAD: &str = "3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b";
const SECRET: &str = "a webhook secret made for tests, worth nothing";
const CAPTURE: &str = "[outbound]\nenabled = true\ncapture = true\nfrom = 'support@product.test'\n\
                       from_name = 'Product'\n";

/// A Postern in capture mode.
fn capturing(more: &str) -> Postern {
    let mut postern = Postern::new(None, &format!("{CAPTURE}{more}"));
    postern.start();
    postern
}

/// A Postern with an unreachable relay, so that jobs wait.
fn waiting() -> Postern {
    waiting_with("")
}

fn waiting_with(more: &str) -> Postern {
    let relay = free_port();
    let lines = format!(
        "[outbound]\nenabled = true\nfrom = 'support@product.test'\nhost = '127.0.0.1'\n\
         port = {relay}\nretry_wait_first = '1h'\n[webhook]\nsecret = '{SECRET}'\n{more}"
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

/// A request signed by the generic scheme at `millis`.
fn signed(postern: &Postern, path: &str, body: &Value, millis: u64) -> RequestBuilder {
    let text = body.to_string();
    let signature = mac(SECRET.as_bytes(), &format!("{millis}.{text}"));
    bare(postern, Method::POST, path)
        .header("X-Webhook-Timestamp", millis.to_string())
        .header("X-Webhook-Signature", HEXLOWER.encode(&signature))
        .body(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_products_message_becomes_a_mail_of_its_thread() {
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

    // Each mail refers to the one before, although the product did not know it.
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
async fn two_concurrent_messages_are_one_chain() {
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
async fn missing_fields_are_taken_from_the_persons_mail() {
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
    let mut answer = (0, Value::Null);
    let is_taken = async || {
        answer = post(&postern, "/gateway/outbound", &little).await;
        answer.0 == 202
    };
    eventually_or("it is taken", is_taken, || ()).await;
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
    let (mut tokens, mut ids) = (Vec::new(), Vec::new());
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
        ids.push(field(&head, "Message-ID").to_owned());
    }
    tokens.dedup();
    ids.dedup();
    assert_eq!((tokens.len(), ids.len()), (3, 1), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_recipient_has_the_whole_chain() {
    let postern = capturing("");
    let mut chains = [Vec::<String>::new(), Vec::new()];
    for round in 0..3 {
        let mut copied = event(&format!("m{round}"));
        copied["cc"] = json!(["bob@example.com"]);
        let answer = post(&postern, "/gateway/events", &copied).await;
        let jobs = answer.1["jobIds"].as_array().unwrap().clone();
        assert_eq!((answer.0, jobs.len()), (202, 2), "{answer:?}");
        for (job, mailbox) in jobs.iter().zip(&mut chains) {
            let (head, _) = mail_of(&postern, job.as_str().unwrap()).await;
            let last = mailbox.last().map_or("", String::as_str);
            assert_eq!(field(&head, "In-Reply-To"), last);
            assert_eq!(field(&head, "References"), mailbox.join(" "));
            mailbox.push(field(&head, "Message-ID").to_owned());
        }
    }
    assert_eq!(chains[0], chains[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_thread_keeps_the_mail_it_began_with() {
    let postern = capturing("");
    let mut ids = Vec::new();
    for round in 0..40 {
        let told = event(&format!("m{round}"));
        let job = job_of(&post(&postern, "/gateway/events", &told).await);
        let (head, _) = mail_of(&postern, &job).await;
        let references: Vec<_> = field(&head, "References").split(' ').collect();
        let last = ids.last().map_or("", String::as_str);
        assert_eq!(field(&head, "In-Reply-To"), last);
        assert_eq!(references.last(), Some(&last), "{round}");
        let root = ids.first().map_or("", String::as_str);
        assert_eq!(references.first(), Some(&root), "{round}");
        ids.push(field(&head, "Message-ID").to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_made_later_is_the_same_mail() {
    let postern = waiting_with("[store]\noutbox_max = 1\n");
    let before = job_of(&post(&postern, "/gateway/events", &event("m0")).await);
    let (head, _) = mail_of(&postern, &before).await;
    let before_id = field(&head, "Message-ID").to_owned();
    // Not during an attempt.
    let make_room = async |job: &str| {
        let path = format!("/gateway/jobs/{job}");
        let is_gone = async || call(&postern, Method::DELETE, &path, &Value::Null).await.0 == 200;
        eventually_or("the job is called back", is_gone, || job).await;
    };
    make_room(&before).await;
    let mut copied = event("m1");
    copied["cc"] = json!(["bob@example.com"]);
    let answer = post(&postern, "/gateway/events", &copied).await;
    assert_eq!(answer.0, 503, "{answer:?}");
    let (_, all) = fetched(&postern, "/gateway/jobs?state=waiting").await;
    let first = all["data"][0]["id"].as_str().unwrap().to_owned();
    let (head, _) = mail_of(&postern, &first).await;
    let first_id = field(&head, "Message-ID").to_owned();
    make_room(&first).await;
    let answer = post(&postern, "/gateway/events", &copied).await;
    assert_eq!(job_of(&answer), first);
    let copy = answer.1["jobIds"][1].as_str().unwrap();
    let (head, _) = mail_of(&postern, copy).await;
    assert_eq!(field(&head, "Message-ID"), first_id);
    assert_eq!(field(&head, "In-Reply-To"), before_id);
    assert_eq!(field(&head, "References"), before_id);
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
async fn messages_of_others_in_the_thread_are_not_shown() {
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
    // The text is recorded just after the product has the message.
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
