//! Mail that SES has put into a bucket: fetched before the response, only from listed buckets.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::{Value, json};

use super::body::Body;
use super::kinds::{KITS, WORDS, raw_mail};
use super::kit::{self, CERTIFICATE_URL, adapters};
use super::{Harness, Post};
use crate::ask::wait;
use crate::buckets::Moto;

const TO: &str = "general@in.example.com";

/// A notification about a mail in a bucket.
fn told(harness: &Harness, bucket: &str, key: &str) -> Post {
    acting(
        harness,
        json!({"type": "S3", "bucketName": bucket, "objectKeyPrefix": "in", "objectKey": key}),
    )
}

fn acting(harness: &Harness, action: Value) -> Post {
    let kit = KITS.iter().find(|kit| kit.name == "ses").unwrap();
    let Body::Json(mut body) = (kit.body)(TO) else {
        panic!("SNS carries JSON");
    };
    body["receipt"]["action"] = action;
    body.as_object_mut().unwrap().remove("content");
    kit.post(Body::Json(body), harness.now)
}

#[tokio::test]
async fn only_listed_buckets_are_read() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    moto.put("mail/in/1", raw_mail().into(), &[]).await;
    moto.put("mail/in/long", vec![b'x'; 200_001], &[]).await;
    moto.put("mail/in/empty", Vec::new(), &[]).await;
    let sealed = [("x-amz-meta-x-amz-key-v2", "AAAA")];
    moto.put("mail/in/sealed", raw_mail().into(), &sealed).await;
    moto.put("other", Vec::new(), &[]).await;
    moto.put("other/in/1", raw_mail().into(), &[]).await;
    let harness = Harness::with(adapters(), |settings| {
        settings.mail_bytes_max = 200_000;
        settings.buckets = vec![moto.bucket("mail", "key"), moto.bucket("gone", "key")];
    });
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    for (bucket, key, status) in [
        ("other", "in/1", 503),
        ("MAIL", "in/1", 503),
        ("mail/in", "1", 503),
        ("gone", "in/1", 503),
        ("mail", "in/gone", 503),
        ("mail", "in/sealed", 503),
        ("mail", "../other/in/1", 503),
        ("mail", "/in/1", 503),
        ("mail", "in//1", 503),
        ("mail", "", 503),
        ("mail", "in/long", 413),
        ("mail", "in/empty", 400),
    ] {
        let heard = harness.send(&told(&harness, bucket, key)).await;
        assert_eq!(heard.status, status, "{bucket} {key}: {heard:?}");
    }
    assert!(harness.deliveries().is_empty());
    for _ in 0..2 {
        let heard = harness.send(&told(&harness, "mail", "in/1")).await;
        assert_eq!((heard.status, heard.mails()), (200, 1), "{heard:?}");
    }
    let (delivery, view) = harness.last();
    assert_eq!(delivery.recipient.address.to_string(), TO);
    assert_eq!(view.text.as_deref().map(str::trim), Some(WORDS));
    assert_eq!(
        wait(harness.store.mail_bytes(delivery.id.mail)).unwrap(),
        raw_mail()
    );
    assert_eq!(harness.effects(), 1);
    assert_eq!(harness.metric("in_flight_bytes"), 0);
    assert_eq!(
        harness.fetch.asked(),
        [CERTIFICATE_URL],
        "no URL but the certificate's"
    );
}

/// A server that sends this response to every client, and its URL.
fn saying(answer: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if let Some(answer) = &answer {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            } else {
                held.push(stream);
            }
        }
    });
    url
}

#[tokio::test]
async fn an_unusable_bucket_response_is_retried() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    moto.put("mail/in/1", raw_mail().into(), &[]).await;
    let mut bucket = moto.bucket("mail", "key");
    let away = format!("{}/mail/in/1", bucket.endpoint.as_ref().unwrap());
    let head =
        "Connection: close\r\nLast-Modified: Sat, 31 Jan 2026 22:59:59 GMT\r\nETag: \"x\"\r\n";
    for (what, answer) in [
        ("silent", None),
        (
            "redirect",
            Some(format!(
                "307 Elsewhere\r\nLocation: {away}\r\nContent-Length: 0\r\n"
            )),
        ),
        (
            "forbidden",
            Some("403 No\r\nContent-Length: 0\r\n".to_owned()),
        ),
        (
            "cut off",
            Some("200 OK\r\nContent-Length: 1000\r\n".to_owned()),
        ),
        ("no length", Some("200 OK\r\n".to_owned())),
        (
            "huge",
            Some("200 OK\r\nContent-Length: 18446744073709551615\r\n".to_owned()),
        ),
    ] {
        let answer = answer.map(|answer| format!("HTTP/1.1 {answer}{head}\r\nFrom: x@y.example"));
        bucket.endpoint = Some(saying(answer));
        let harness = Harness::with(adapters(), |settings| {
            settings.buckets = vec![bucket.clone()]
        });
        harness.fetch.put(CERTIFICATE_URL, kit::certificate());
        let heard = harness.send(&told(&harness, "mail", "in/1")).await;
        let wanted = if what == "huge" { [413, 503] } else { [503; 2] };
        assert!(wanted.contains(&heard.status), "{what}: {heard:?}");
        assert!(harness.deliveries().is_empty(), "{what}");
        assert_eq!(harness.metric("in_flight_bytes"), 0, "{what}");
    }
}

#[tokio::test]
async fn a_mail_is_read_only_with_memory_for_it() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    moto.put("mail/in/1", vec![b'x'; 20_000], &[]).await;
    let harness = Harness::with(adapters(), |settings| {
        settings.bytes_in_flight_max = 10_000;
        settings.buckets = vec![moto.bucket("mail", "key")];
    });
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    let heard = harness.send(&told(&harness, "mail", "in/1")).await;
    assert_eq!(heard.status, 503, "{heard:?}");
    let said = heard.body["error"]["message"].as_str().unwrap();
    assert_eq!(said, "too much mail at once");
}

#[tokio::test]
async fn other_actions_and_missing_buckets_are_retried() {
    let harness = Harness::new(adapters());
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    for action in [
        json!({"type": "Lambda"}),
        json!({"type": "S3", "bucketName": "mail", "objectKey": "in/1"}),
    ] {
        let heard = harness.send(&acting(&harness, action)).await;
        assert_eq!(heard.status, 503, "{heard:?}");
    }
    for action in [
        json!({"type": "S3", "bucketName": "mail"}),
        json!({"type": "S3", "bucketName": 7, "objectKey": "k"}),
        json!({"type": 7}),
    ] {
        let heard = harness.send(&acting(&harness, action)).await;
        assert_eq!(heard.status, 400, "{heard:?}");
    }
}
