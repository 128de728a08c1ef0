//! Mails that a provider keeps: noted before the yes, fetched behind it, never lost between.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::body::Body;
use super::kinds::KITS;
use super::kit::adapters;
use super::{House, Post};

const API: &str = "https://api.resend.com/emails/receiving/e-1";
const RAW: &str = "https://x.cloudfront.net/e-1?sig=s";
/// Nothing in a test takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = house.doors.run(std::future::pending()) => {}
        waited = tokio::time::timeout(PATIENCE, wait) => assert!(waited.is_ok(), "never"),
    }
}

#[tokio::test]
async fn a_mail_is_fetched_behind_the_yes() {
    let house = House::new(adapters());
    let post = told(&house, "e-1", "general@in.example.com");
    for _ in 0..3 {
        let heard = house.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{heard:?}");
    }
    assert_eq!(notes(&house).len(), 1);
    assert!(house.fetch.asked().is_empty());
    // Whoever begins now may be another process: nothing is in memory.
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
async fn what_cannot_be_had_yet_is_tried_again() {
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
async fn what_is_gone_is_parked() {
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
