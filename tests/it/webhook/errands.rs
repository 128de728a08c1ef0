//! Deferred mails of a provider: noted before the response, fetched after it, never lost in between.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use postern::delivery::attachments::{FileChoice, Files};
use postern::ingress::webhook::{BasicAccount, Brevo};
use postern::objects::AttachmentLimits;
use serde_json::json;

use super::body::Body;
use super::kinds::{KITS, WORDS};
use super::kit::adapters;
use super::{Harness, Post};
use crate::wait::eventually_or;

const API: &str = "https://api.resend.com/emails/receiving/e-1";
const RAW: &str = "https://x.cloudfront.net/e-1?sig=s";

fn told(harness: &Harness, id: &str, to: &str) -> Post {
    let kit = KITS.iter().find(|kit| kit.name == "standard").unwrap();
    let body = json!({"type": "email.received", "data": {"email_id": id, "from": "a@b.example",
        "to": ["else@example.org"], "received_for": [to], "message_id": "<1@b.example>"}});
    let mut post = kit.post(Body::Json(body), harness.now);
    post.provider = Some("resend");
    post
}

fn notes(harness: &Harness) -> Vec<PathBuf> {
    let entries = fs::read_dir(harness.folder.path().join("errands")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn until(harness: &Harness, holds: impl Fn() -> bool) {
    let wait = eventually_or("the fetch", async || holds(), || harness.deliveries());
    tokio::select! {
        () = harness.doors.run(std::future::pending()) => {}
        () = wait => {}
    }
}

#[tokio::test]
async fn a_mail_is_fetched_after_the_response() {
    let harness = Harness::new(adapters());
    let post = told(&harness, "e-1", "general@in.example.com");
    for _ in 0..3 {
        let heard = harness.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&harness).len(), 1);
    assert!(harness.fetch.asked().is_empty());
    // A new process has nothing in memory.
    harness
        .fetch
        .put(API, json!({"raw": {"download_url": RAW}}).to_string());
    harness.fetch.put(
        RAW,
        "From: a@b.example\r\nMessage-ID: <1@b.example>\r\n\r\nhi\r\n",
    );
    until(&harness, || notes(&harness).is_empty()).await;
    let (delivery, view) = harness.last();
    assert_eq!(
        delivery.recipient.address.to_string(),
        "general@in.example.com"
    );
    assert_eq!(view.text.as_deref().map(str::trim), Some("hi"));
    assert_eq!(harness.deliveries().len(), 1);
}

#[tokio::test]
async fn an_unavailable_mail_is_retried() {
    let harness = Harness::new(adapters());
    harness.fetch.put(API, json!({"raw": null}).to_string());
    harness
        .send(&told(&harness, "e-1", "general@in.example.com"))
        .await;
    until(&harness, || harness.fetch.asked().len() >= 2).await;
    assert_eq!(notes(&harness).len(), 1);
    harness.fetch.take_down(API);
    harness.fetch.put(
        API,
        json!({"raw": {"download_url": "https://evil.example/x"}}).to_string(),
    );
    until(&harness, || harness.fetch.asked().len() >= 4).await;
    assert!(harness.fetch.asked().iter().all(|url| url == API));
    assert_eq!(notes(&harness).len(), 1);
}

#[tokio::test]
async fn a_missing_mail_is_parked() {
    let harness = Harness::new(adapters());
    harness
        .send(&told(&harness, "e-1", "general@in.example.com"))
        .await;
    let is_parked = |path: &PathBuf| path.ends_with("e-1.parked");
    until(&harness, || notes(&harness).iter().any(is_parked)).await;
    assert_eq!(notes(&harness).len(), 1);
}

#[tokio::test]
async fn a_name_that_is_a_path_is_refused() {
    let harness = Harness::new(adapters());
    for id in ["../x", "a/b", "a.b", "", "a b", "é", &"a".repeat(300)] {
        let heard = harness
            .send(&told(&harness, id, "general@in.example.com"))
            .await;
        assert_eq!(heard.status, 400, "{id}: {heard:?}");
    }
    assert!(notes(&harness).is_empty());
}

/// Hundreds of mails may wait for a provider whose API does not respond.
#[tokio::test]
async fn a_provider_that_hangs_holds_up_no_other() {
    let brevo = Brevo {
        fetches_files: true,
        ..Brevo::new(vec![BasicAccount::new("user", "pass:word")], &[])
    };
    let mut all = adapters();
    all.retain(|adapter| adapter.name() != "brevo");
    all.push(Arc::new(brevo));
    let harness = Harness::new(all);
    for n in 0..20 {
        let id = format!("e-{n}");
        let api = format!("https://api.resend.com/emails/receiving/{id}");
        harness.fetch.hang(&api);
        harness
            .send(&told(&harness, &id, "general@in.example.com"))
            .await;
    }
    harness.fetch.put(&format!("{FILES}t1"), "hi");
    harness
        .send(&with_files(&harness, &[("a.txt", "t1")]))
        .await;
    until(&harness, || !harness.deliveries().is_empty()).await;
    until(&harness, || notes(&harness).len() == 20).await;
    assert_eq!(files(&harness), [("a.txt".to_owned(), None)]);
}

const FILES: &str = "https://api.brevo.com/v3/inbound/attachments/";

/// A harness with a Brevo whose files can be fetched, or cannot.
fn with_brevo(fetches_files: bool) -> Harness {
    let brevo = Brevo {
        fetches_files,
        ..Brevo::new(vec![BasicAccount::new("user", "pass:word")], &[])
    };
    Harness::new(vec![Arc::new(brevo)])
}

/// A mail with these files, each a name and its token.
fn with_files(harness: &Harness, files: &[(&str, &str)]) -> Post {
    let kit = KITS.iter().find(|kit| kit.name == "brevo").unwrap();
    let Body::Json(mut body) = (kit.body)("general@in.example.com") else {
        panic!("Brevo sends JSON");
    };
    let file = |(name, token): &(&str, &str)| {
        json!({"Name": name, "ContentType": "text/plain", "ContentLength": 2, "ContentID": null,
            "DownloadToken": token})
    };
    body["items"][0]["Attachments"] = files.iter().map(file).collect();
    kit.post(Body::Json(body), harness.now)
}

/// The files of the last mail: name, and the reason if it is skipped.
fn files(harness: &Harness) -> Vec<(String, Option<&'static str>)> {
    let view = harness.last().1;
    assert_eq!(view.text.as_deref().map(str::trim), Some(WORDS));
    let told = Files::of(&view, FileChoice::Within(&AttachmentLimits::default())).listed;
    let told = told.into_iter();
    told.map(|file| (file.filename.unwrap(), file.skipped))
        .collect()
}

#[tokio::test]
async fn brevos_files_are_fetched_after_the_response_and_missing_ones_listed() {
    let harness = with_brevo(true);
    let post = with_files(
        &harness,
        &[("a.txt", "t1"), ("gone.txt", "t2"), ("c.txt", "t3.x=")],
    );
    for _ in 0..3 {
        let heard = harness.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&harness).len(), 1, "told of three times, noted once");
    assert!(harness.fetch.asked().is_empty());
    harness.fetch.put(&format!("{FILES}t1"), "hi");
    harness.fetch.put(&format!("{FILES}t3.x="), "ho");
    harness.fetch.break_page(&format!("{FILES}t3.x="));
    let asked = |times: usize| {
        let last = format!("{FILES}t3.x=");
        let asked = harness.fetch.asked();
        asked.iter().filter(|url| **url == last).count() >= times
    };
    until(&harness, || asked(2)).await;
    assert!(
        harness.deliveries().is_empty(),
        "a file that may come yet is waited for"
    );
    harness.fetch.broken.lock().unwrap().clear();
    until(&harness, || notes(&harness).is_empty()).await;
    let wanted = [
        ("a.txt".to_owned(), None),
        ("c.txt".to_owned(), None),
        ("gone.txt".to_owned(), Some("elsewhere")),
    ];
    let mut found = files(&harness);
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(harness.deliveries().len(), 1);
    assert_eq!(harness.last().1.attachments[0].bytes(), "hi");
}

#[tokio::test]
async fn without_a_key_brevos_files_are_listed_as_missing() {
    let harness = with_brevo(false);
    let post = with_files(&harness, &[("a.txt", "t1"), ("\u{202e}b\r\nX: y", "t2")]);
    let heard = harness.send(&post).await;
    assert_eq!((heard.status, heard.mails()), (200, 1), "{heard:?}");
    let found = files(&harness);
    assert_eq!(found.len(), 2);
    assert!(
        found.iter().all(|(_, why)| *why == Some("elsewhere")),
        "{found:?}"
    );
    assert!(harness.fetch.asked().is_empty() && notes(&harness).is_empty());
}

#[tokio::test]
async fn a_file_token_is_not_a_path() {
    let harness = with_brevo(true);
    let hostile = [
        "../x",
        "a/b",
        "..",
        "a?b",
        "a#b",
        "a%2fb",
        "",
        "http://x",
        &"a".repeat(5000),
    ];
    let mut list: Vec<_> = hostile.iter().map(|token| ("a.txt", *token)).collect();
    list.push(("b.txt", "t1"));
    harness.fetch.put(&format!("{FILES}t1"), "hi");
    assert_eq!(harness.send(&with_files(&harness, &list)).await.status, 200);
    until(&harness, || notes(&harness).is_empty()).await;
    assert_eq!(harness.fetch.asked(), [format!("{FILES}t1")]);
    assert_eq!(files(&harness).len(), 10);
}

#[tokio::test]
async fn of_a_batch_with_files_the_sound_mails_are_fetched_and_the_rest_is_set_aside() {
    let harness = with_brevo(true);
    let kit = KITS.iter().find(|kit| kit.name == "brevo").unwrap();
    let Body::Json(mut body) = (kit.body)("general@in.example.com") else {
        panic!("Brevo sends JSON");
    };
    let sound = body["items"][0].take();
    let item = |id: &str, file: serde_json::Value| {
        let mut item = sound.clone();
        item["MessageId"] = json!(id);
        item["Headers"] = json!({});
        item["Attachments"] = json!([file]);
        item
    };
    let file = json!({"Name": "a.txt", "ContentType": "text/plain", "DownloadToken": "t1"});
    body["items"] = json!([
        item("<a@x.example>", file.clone()),
        item(
            "<b@x.example>",
            json!({"Name": "b.txt", "ContentType": 7, "DownloadToken": "t2"})
        ),
        item("<c@x.example>", json!("no object")),
        item("<d@x.example>", file),
    ]);
    let post = kit.post(Body::Json(body.clone()), harness.now);
    for _ in 0..3 {
        let heard = harness.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&harness).len(), 1);
    let kept = fs::read_dir(harness.folder.path().join("set-aside")).unwrap();
    let mut kept: Vec<_> = kept
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    kept.sort_by_key(|text| text.find("no object"));
    assert_eq!(kept.len(), 2, "each once: {kept:?}");
    assert!(kept[0].contains("<b@x.example>") && kept[1].contains("<c@x.example>"));
    harness.fetch.put(&format!("{FILES}t1"), "hi");
    until(&harness, || notes(&harness).is_empty()).await;
    assert_eq!(harness.fetch.asked(), [format!("{FILES}t1")]);
    assert_eq!(harness.deliveries().len(), 2);
    assert_eq!(files(&harness), [("a.txt".to_owned(), None)]);
    // The provider repeats the batch nevertheless: it is fetched again, and no message is posted twice.
    assert_eq!(harness.send(&post).await.status, 200);
    until(&harness, || notes(&harness).is_empty()).await;
    assert_eq!((harness.deliveries().len(), harness.effects()), (4, 2));
    // A batch without other items gets the same response as before.
    body["items"] = json!([body["items"][1], body["items"][2]]);
    let broken = kit.post(Body::Json(body), harness.now);
    assert_eq!(harness.send(&broken).await.status, 400);
    assert!(notes(&harness).is_empty());
}
