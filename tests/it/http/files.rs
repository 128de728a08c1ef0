//! Mail that becomes a message, and the files that are kept.

use std::time::Duration;

use postern::clock;
use postern::http::messages::BASE_PATH;
use postern::objects::ObjectId;
use reqwest::Method;

use super::{Server, THREADS};
use crate::bench::{Bench, mail, mailbox, objects_in};

#[tokio::test]
async fn a_mail_becomes_a_message_in_the_embedded_api() {
    let server = Server::start().await;
    let base = format!("http://{}{BASE_PATH}", server.address);
    let bench = Bench::start_at(tempfile::tempdir().unwrap(), base, |_| {}).await;
    for _ in 0..2 {
        bench.put(mailbox(), &mail(1, "Where is it?")).await;
    }
    // The mail answers the first one: the header leads to the thread that was made for it.
    let second = mail(2, "Still nothing.")
        .replace("Subject:", "In-Reply-To: <m1@mail.example.com>\r\nSubject:");
    bench.put(mailbox(), &second).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [2, 0, 1], "{:?}", bench.reasons());
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"].as_array().unwrap().len(), 1, "{threads}");
    let thread = &threads["data"][0];
    assert_eq!(thread["identityEmail"], "ann@example.com");
    assert_eq!(
        thread["metadata"]["lastEmailMessageId"],
        "m2@mail.example.com"
    );
    let path = format!("{THREADS}/{}/messages", thread["id"].as_str().unwrap());
    let (_, messages) = server.call(Method::GET, &path, "", "").await;
    let said: Vec<_> = messages["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["body"])
        .collect();
    assert_eq!(said, ["Where is it?", "Still nothing."]);
    assert_eq!(messages["data"][1]["match"]["reason"], "stored_message_id");
    bench.stop().await;
}

#[tokio::test]
async fn a_stored_file_is_fetched_only_by_its_link() {
    let server = Server::start().await;
    let objects = objects_in(server.folder.path());
    let id = ObjectId::of(b"<script>0123456789");
    objects.put(id, "<script>0123456789".into()).await.unwrap();
    let link = |at| {
        let url = objects
            .links()
            .url(id, Some("ünd \"x\".html"), "text/html", at);
        url.replace(
            "http://postern.example",
            &format!("http://{}", server.address),
        )
    };
    let good = link(clock::now());
    let get = |url: &str, range: &str| {
        let request = server.client.get(url);
        let request = if range.is_empty() {
            request
        } else {
            request.header("range", range)
        };
        async { request.send().await.unwrap() }
    };
    let whole = get(&good, "").await;
    assert_eq!(whole.status(), 200);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("content-length", "18"),
        (
            "content-disposition",
            "attachment; filename=\"_nd _x_.html\"; filename*=UTF-8''%C3%BCnd%20%22x%22.html",
        ),
    ] {
        assert_eq!(whole.headers()[name], value, "{name}");
    }
    let policy = whole.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("sandbox;"), "{policy}");
    assert_eq!(whole.text().await.unwrap(), "<script>0123456789");
    let part = get(&good, "bytes=8-10").await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 8-10/18");
    assert_eq!(part.text().await.unwrap(), "012");
    assert_eq!(get(&good, "bytes=18-").await.status(), 416);
    let late = link(clock::now().minus(Duration::from_secs(90_000)));
    let other = ObjectId::of(b"other").to_string();
    for (url, status) in [
        (late, 410),
        (good.replace("html", "exe"), 403),
        (good.replace(&id.to_string(), &other), 403),
        (good.replace(&id.to_string(), "..%2f..%2fetc%2fpasswd"), 403),
        (good.split('?').next().unwrap().to_owned(), 403),
    ] {
        assert_eq!(get(&url, "").await.status(), status, "{url}");
    }
    let gone = objects
        .links()
        .url(ObjectId::of(b"gone"), None, "a/b", clock::now());
    let gone = gone.replace(
        "http://postern.example",
        &format!("http://{}", server.address),
    );
    assert_eq!(get(&gone, "").await.status(), 404);
    server.stop().await;
}
