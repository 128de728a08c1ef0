//! Deferred mails of a provider: noted before the response, fetched after it, never lost in between.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use postern::delivery::attachments::Files;
use postern::ingress::webhook::{BasicAccount, Brevo};
use postern::objects::AttachmentLimits;
use serde_json::json;

use super::body::Body;
use super::kinds::{KITS, WORDS};
use super::kit::adapters;
use super::{House, Post};
use crate::wait::eventually_or;

const API: &str = "https://api.resend.com/emails/receiving/e-1";
const RAW: &str = "https://x.cloudfront.net/e-1?sig=s";

fn told(house: &House, id: &str, to: &str) -> Post {
    let kit = KITS.iter().find(|kit| kit.name == "standard").unwrap();
    let body = json!({"type": "email.received", "data": {"email_id": id, "from": "a@b.example",
        "to": ["else@example.org"], "received_for": [to], "message_id": "<1@b.example>"}});
    let mut post = kit.post(Body::Json(body), house.now);
    post.provider = Some("resend");
    post
}

fn notes(house: &House) -> Vec<PathBuf> {
    let entries = fs::read_dir(house.folder.path().join("errands")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn until(house: &House, holds: impl Fn() -> bool) {
    let wait = eventually_or("the fetch", async || holds(), || house.deliveries());
    tokio::select! {
        () = house.doors.run(std::future::pending()) => {}
        () = wait => {}
    }
}

#[tokio::test]
async fn a_mail_is_fetched_after_the_response() {
    let house = House::new(adapters());
    let post = told(&house, "e-1", "general@in.example.com");
    for _ in 0..3 {
        let heard = house.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&house).len(), 1);
    assert!(house.fetch.asked().is_empty());
    // A new process has nothing in memory.
    house
        .fetch
        .put(API, json!({"raw": {"download_url": RAW}}).to_string());
    house.fetch.put(
        RAW,
        "From: a@b.example\r\nMessage-ID: <1@b.example>\r\n\r\nhi\r\n",
    );
    until(&house, || notes(&house).is_empty()).await;
    let (delivery, view) = house.last();
    assert_eq!(
        delivery.recipient.address.to_string(),
        "general@in.example.com"
    );
    assert_eq!(view.text.as_deref().map(str::trim), Some("hi"));
    assert_eq!(house.deliveries().len(), 1);
}

#[tokio::test]
async fn an_unavailable_mail_is_retried() {
    let house = House::new(adapters());
    house.fetch.put(API, json!({"raw": null}).to_string());
    house
        .send(&told(&house, "e-1", "general@in.example.com"))
        .await;
    until(&house, || house.fetch.asked().len() >= 2).await;
    assert_eq!(notes(&house).len(), 1);
    house.fetch.take_down(API);
    house.fetch.put(
        API,
        json!({"raw": {"download_url": "https://evil.example/x"}}).to_string(),
    );
    until(&house, || house.fetch.asked().len() >= 4).await;
    assert!(house.fetch.asked().iter().all(|url| url == API));
    assert_eq!(notes(&house).len(), 1);
}

#[tokio::test]
async fn a_missing_mail_is_parked() {
    let house = House::new(adapters());
    house
        .send(&told(&house, "e-1", "general@in.example.com"))
        .await;
    let is_parked = |path: &PathBuf| path.ends_with("e-1.parked");
    until(&house, || notes(&house).iter().any(is_parked)).await;
    assert_eq!(notes(&house).len(), 1);
}

#[tokio::test]
async fn a_name_that_is_a_path_is_refused() {
    let house = House::new(adapters());
    for id in ["../x", "a/b", "a.b", "", "a b", "é", &"a".repeat(300)] {
        let heard = house
            .send(&told(&house, id, "general@in.example.com"))
            .await;
        assert_eq!(heard.status, 400, "{id}: {heard:?}");
    }
    assert!(notes(&house).is_empty());
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
    let house = House::new(all);
    for n in 0..20 {
        let id = format!("e-{n}");
        let api = format!("https://api.resend.com/emails/receiving/{id}");
        house.fetch.hang(&api);
        house
            .send(&told(&house, &id, "general@in.example.com"))
            .await;
    }
    house.fetch.put(&format!("{FILES}t1"), "hi");
    house.send(&with_files(&house, &[("a.txt", "t1")])).await;
    until(&house, || !house.deliveries().is_empty()).await;
    until(&house, || notes(&house).len() == 20).await;
    assert_eq!(files(&house), [("a.txt".to_owned(), None)]);
}

const FILES: &str = "https://api.brevo.com/v3/inbound/attachments/";

/// A house with a Brevo whose files can be fetched, or cannot.
fn with_brevo(fetches_files: bool) -> House {
    let brevo = Brevo {
        fetches_files,
        ..Brevo::new(vec![BasicAccount::new("user", "pass:word")], &[])
    };
    House::new(vec![Arc::new(brevo)])
}

/// A mail with these files, each a name and its token.
fn with_files(house: &House, files: &[(&str, &str)]) -> Post {
    let kit = KITS.iter().find(|kit| kit.name == "brevo").unwrap();
    let Body::Json(mut body) = (kit.body)("general@in.example.com") else {
        panic!("Brevo sends JSON");
    };
    let file = |(name, token): &(&str, &str)| {
        json!({"Name": name, "ContentType": "text/plain", "ContentLength": 2, "ContentID": null,
            "DownloadToken": token})
    };
    body["items"][0]["Attachments"] = files.iter().map(file).collect();
    kit.post(Body::Json(body), house.now)
}

/// The files of the last mail: name, and the reason if it is skipped.
fn files(house: &House) -> Vec<(String, Option<&'static str>)> {
    let view = house.last().1;
    assert_eq!(view.text.as_deref().map(str::trim), Some(WORDS));
    let told = Files::of(&view, Some(&AttachmentLimits::default())).listed;
    let told = told.into_iter();
    told.map(|file| (file.filename.unwrap(), file.skipped))
        .collect()
}

#[tokio::test]
async fn brevos_files_are_fetched_after_the_response_and_missing_ones_listed() {
    let house = with_brevo(true);
    let post = with_files(
        &house,
        &[("a.txt", "t1"), ("gone.txt", "t2"), ("c.txt", "t3.x=")],
    );
    for _ in 0..3 {
        let heard = house.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&house).len(), 1, "told of three times, noted once");
    assert!(house.fetch.asked().is_empty());
    house.fetch.put(&format!("{FILES}t1"), "hi");
    house.fetch.put(&format!("{FILES}t3.x="), "ho");
    house.fetch.break_page(&format!("{FILES}t3.x="));
    let asked = |times: usize| {
        let last = format!("{FILES}t3.x=");
        let asked = house.fetch.asked();
        asked.iter().filter(|url| **url == last).count() >= times
    };
    until(&house, || asked(2)).await;
    assert!(
        house.deliveries().is_empty(),
        "a file that may come yet is waited for"
    );
    house.fetch.broken.lock().unwrap().clear();
    until(&house, || notes(&house).is_empty()).await;
    let wanted = [
        ("a.txt".to_owned(), None),
        ("c.txt".to_owned(), None),
        ("gone.txt".to_owned(), Some("elsewhere")),
    ];
    let mut found = files(&house);
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(house.deliveries().len(), 1);
    assert_eq!(house.last().1.attachments[0].bytes(), "hi");
}

#[tokio::test]
async fn without_a_key_brevos_files_are_listed_as_missing() {
    let house = with_brevo(false);
    let post = with_files(&house, &[("a.txt", "t1"), ("\u{202e}b\r\nX: y", "t2")]);
    let heard = house.send(&post).await;
    assert_eq!((heard.status, heard.mails()), (200, 1), "{heard:?}");
    let found = files(&house);
    assert_eq!(found.len(), 2);
    assert!(
        found.iter().all(|(_, why)| *why == Some("elsewhere")),
        "{found:?}"
    );
    assert!(house.fetch.asked().is_empty() && notes(&house).is_empty());
}

#[tokio::test]
async fn a_file_token_is_not_a_path() {
    let house = with_brevo(true);
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
    house.fetch.put(&format!("{FILES}t1"), "hi");
    assert_eq!(house.send(&with_files(&house, &list)).await.status, 200);
    until(&house, || notes(&house).is_empty()).await;
    assert_eq!(house.fetch.asked(), [format!("{FILES}t1")]);
    assert_eq!(files(&house).len(), 10);
}

#[tokio::test]
async fn of_a_batch_with_files_the_sound_mails_are_fetched_and_the_rest_is_set_aside() {
    let house = with_brevo(true);
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
    let post = kit.post(Body::Json(body.clone()), house.now);
    for _ in 0..3 {
        let heard = house.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&house).len(), 1);
    let kept = fs::read_dir(house.folder.path().join("set-aside")).unwrap();
    let mut kept: Vec<_> = kept
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    kept.sort_by_key(|text| text.find("no object"));
    assert_eq!(kept.len(), 2, "each once: {kept:?}");
    assert!(kept[0].contains("<b@x.example>") && kept[1].contains("<c@x.example>"));
    house.fetch.put(&format!("{FILES}t1"), "hi");
    until(&house, || notes(&house).is_empty()).await;
    assert_eq!(house.fetch.asked(), [format!("{FILES}t1")]);
    assert_eq!(house.deliveries().len(), 2);
    assert_eq!(files(&house), [("a.txt".to_owned(), None)]);
    // The provider repeats the batch nevertheless: it is fetched again, and no message is posted twice.
    assert_eq!(house.send(&post).await.status, 200);
    until(&house, || notes(&house).is_empty()).await;
    assert_eq!((house.deliveries().len(), house.effects()), (4, 2));
    // A batch without other items gets the same response as before.
    body["items"] = json!([body["items"][1], body["items"][2]]);
    let broken = kit.post(Body::Json(body), house.now);
    assert_eq!(house.send(&broken).await.status, 400);
    assert!(notes(&house).is_empty());
}
