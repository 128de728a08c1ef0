//! The calls about jobs and addresses, and the state after a kill.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    THREAD, call, capturing, direct, event, fetched, field, job_of, mail_of, post, waiting,
};
use crate::postern::{DOMAIN, Postern};
use crate::postfix::free_port;
use crate::wait::eventually_or;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_shown_cancelled_and_retried() {
    let postern = waiting();
    let job = job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    let path = format!("/gateway/jobs/{job}");
    let mut deferred = Value::Null;
    let is_deferred = async || {
        deferred = fetched(&postern, &path).await.1;
        deferred["data"]["history"][0]["what"] == "deferred"
    };
    eventually_or("it is deferred", is_deferred, || ()).await;
    assert_eq!(deferred["data"]["state"], "waiting", "{deferred}");
    assert_eq!(deferred["data"]["attempts"], 1, "{deferred}");
    assert_eq!(deferred["data"]["waitsBehind"], Value::Null);
    let (status, gone) = call(&postern, Method::DELETE, &path, &json!({})).await;
    assert_eq!((status, &gone["data"]["state"]), (200, &json!("cancelled")));
    // A repeated call has the same effect.
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
        let is_captured = async || fetched(&postern, &path).await.1["data"]["state"] == "captured";
        eventually_or("it is captured", is_captured, || ()).await;
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
async fn a_waiting_job_is_sent_now_unless_it_waits_behind_another() {
    let postern = waiting();
    let job = job_of(&post(&postern, "/gateway/events", &event("m1")).await);
    let path = format!("/gateway/jobs/{job}");
    let is_deferred =
        async || fetched(&postern, &path).await.1["data"]["history"][0]["what"] == "deferred";
    eventually_or("it is deferred", is_deferred, || ()).await;
    // The next job of the thread waits behind it, and is not sent before it.
    let next = job_of(&post(&postern, "/gateway/events", &event("m2")).await);
    let behind = format!("/gateway/jobs/{next}");
    let (_, shown) = fetched(&postern, &behind).await;
    assert_eq!(shown["data"]["waitsBehind"], job.as_str());
    let (status, fault) = post(&postern, &format!("{behind}/retry"), &json!({})).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (409, &json!("wrong_state"))
    );
    let why = fault["error"]["message"].as_str().unwrap();
    assert!(why.contains(&format!("waits behind job {job}")), "{why}");
    let (status, _) = call(&postern, Method::DELETE, &behind, &json!({})).await;
    assert_eq!(status, 200);
    // The job is sent now, although its wait is an hour and the relay is not in use.
    let mut retried = post(&postern, &format!("{path}/retry"), &json!({})).await;
    while retried.0 == 409 {
        retried = post(&postern, &format!("{path}/retry"), &json!({})).await;
    }
    assert_eq!(
        (retried.0, &retried.1["data"]["state"]),
        (200, &json!("waiting"))
    );
    let is_tried = async || fetched(&postern, &path).await.1["data"]["attempts"] == 2;
    eventually_or("it is tried again", is_tried, || ()).await;
    let mut shown = Value::Null;
    let is_deferred = async || {
        shown = fetched(&postern, &path).await.1;
        shown["data"]["history"][2]["what"] == "deferred"
    };
    eventually_or("it is deferred again", is_deferred, || ()).await;
    assert_eq!(shown["data"]["history"][1]["what"], "retried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppressed_address_is_refused_at_once() {
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
async fn the_unsubscribe_url_names_each_persons_job() {
    let postern = capturing("list_unsubscribe = 'https://product.test/{job}/leave?job={job}'\n");
    let mut copied = event("m1");
    copied["cc"] = json!(["bob@example.com"]);
    let answer = post(&postern, "/gateway/events", &copied).await;
    assert_eq!(answer.0, 202, "{answer:?}");
    let jobs = answer.1["jobIds"].as_array().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        let job = job.as_str().unwrap();
        let (head, body) = mail_of(&postern, job).await;
        let url = format!("https://product.test/{job}/leave?job=");
        assert_eq!(field(&head, "List-Unsubscribe"), format!("<{url}{job}>"));
        let post = "List-Unsubscribe=One-Click";
        assert_eq!(field(&head, "List-Unsubscribe-Post"), post);
        // The displayed link, in quoted-printable.
        let shown = body.replace("=\r\n", "").replace("=3D", "=");
        assert!(shown.contains(&format!("{url}{job}")), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_jobs_survive_a_kill() {
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
    // The chain was stored too.
    let mut before = String::new();
    for (_, job) in &known {
        let (head, _) = mail_of(&postern, job).await;
        assert_eq!(field(&head, "In-Reply-To"), before);
        field(&head, "Message-ID").clone_into(&mut before);
    }
}
