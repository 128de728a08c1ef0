//! Mails in parts, in batches or in malformed bodies: the handling of missing and broken parts.

use std::fs;

use serde_json::{Value, json};

use super::body::Body;
use super::kinds::{KITS, raw_mail};
use super::kit::{Kit, adapters};
use super::{Harness, reply_address};

fn kit(name: &str) -> &'static Kit {
    KITS.iter().find(|kit| kit.name == name).unwrap()
}

#[tokio::test]
async fn the_authors_name_comes_with_the_address() {
    let postmark = |more: Value| {
        let mut body = json!({"OriginalRecipient": "general@in.example.com", "TextBody": "x"});
        let members = body.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        ("postmark", body)
    };
    let brevo = |from: Value, headers: Value| {
        let item = json!({"Uuid": ["b-1"], "From": from, "Headers": headers,
            "Recipients": ["general@in.example.com"], "RawTextBody": "x"});
        ("brevo", json!({"items": [item]}))
    };
    let full = json!({"Email": "zoe@example.com", "Name": "Zoë Bär"});
    let zoe = Some("Zoë Bär");
    for ((name, body), expected) in [
        (
            postmark(json!({"From": "zoe@example.com", "FromName": "Zoë Bär"})),
            zoe,
        ),
        (
            postmark(json!({"From": "zoe@example.com", "FromFull": full})),
            zoe,
        ),
        (postmark(json!({"FromFull": full})), zoe),
        (
            postmark(json!({"From": "Zoë Bär <zoe@example.com>", "FromName": "Other"})),
            zoe,
        ),
        (
            postmark(json!({"From": "zoe@example.com", "FromName": "",
                "FromFull": {"Email": "zoe@example.com", "Name": ""}})),
            None,
        ),
        (
            brevo(
                json!({"Name": "Zoë Bär", "Address": "zoe@example.com"}),
                json!({}),
            ),
            zoe,
        ),
        (
            brevo(
                json!({"Name": null, "Address": "zoe@example.com"}),
                json!({}),
            ),
            None,
        ),
        (
            brevo(
                json!({"Name": "Other", "Address": "zoe@example.com"}),
                json!({"From": "Zoë Bär <zoe@example.com>"}),
            ),
            zoe,
        ),
    ] {
        let harness = Harness::new(adapters());
        let shown = body.to_string();
        let heard = harness
            .send(&kit(name).post(Body::Json(body), harness.now))
            .await;
        assert_eq!(heard.status, 200, "{shown}: {heard:?}");
        let from = &harness.last().1.header.from;
        assert_eq!(from.len(), 1, "{shown}");
        assert_eq!(from[0].name.as_deref(), expected, "{shown}");
        let address = from[0].address.as_ref().map(ToString::to_string);
        assert_eq!(address.as_deref(), Some("zoe@example.com"), "{shown}");
    }
}

#[tokio::test]
async fn a_blank_text_beside_html_is_none() {
    let html = "<p>Grüße</p>";
    let head = "From: Ann <ann@example.com>\r\nMessage-ID: <3@example.com>\r\n";
    for blank in ["", " \r\n\u{a0}\n"] {
        let harness = Harness::new(adapters());
        let to = reply_address();
        let raw = format!(
            "Delivered-To: {to}\r\n{head}Content-Type: text/html; charset=utf-8\r\n\r\n{html}\r\n"
        );
        let bare = Body::Raw(raw.into_bytes());
        // The same with a blank text, as some servers add one.
        let both = Body::Raw(
            format!(
                "Delivered-To: {to}\r\n{head}Content-Type: multipart/alternative; boundary=b\r\n\r\n\
                 --b\r\nContent-Type: text/plain\r\n\r\n\r\n--b\r\n\
                 Content-Type: text/html; charset=utf-8\r\n\r\n{html}\r\n--b--\r\n"
            )
            .into_bytes(),
        );
        let headers = json!([
            ["From", "Ann <ann@example.com>"],
            ["Message-ID", "<3@example.com>"]
        ]);
        let envelope = json!({"to": [to], "from": "ann@example.com"});
        let parts = [
            (
                "postmark",
                Body::Json(json!({"OriginalRecipient": to, "Headers": headers,
                    "TextBody": blank, "HtmlBody": html})),
            ),
            (
                "generic",
                Body::Json(json!({"envelope": envelope, "headers": headers,
                    "text": blank, "html": html})),
            ),
            (
                "mailgun",
                Body::urlencoded(&[
                    ("recipient", &to),
                    ("sender", "ann@example.com"),
                    ("message-headers", &headers.to_string()),
                    ("body-plain", blank),
                    ("body-html", html),
                ]),
            ),
            (
                "sendgrid",
                Body::multipart(&[
                    ("envelope", &envelope.to_string()),
                    ("headers", &head.replace('\r', "")),
                    ("text", blank),
                    ("html", html),
                ]),
            ),
        ];
        for (name, body) in parts {
            let heard = harness.send(&kit(name).post(body, harness.now)).await;
            assert_eq!(heard.status, 200, "{name}: {heard:?}");
            let view = harness.last().1;
            assert_eq!(view.text, None, "{name}");
            assert_eq!(view.html.as_deref().map(str::trim), Some(html), "{name}");
        }
        for body in [bare, both] {
            let heard = harness.send(&kit("relay").post(body, harness.now)).await;
            assert_eq!(heard.status, 200, "{heard:?}");
        }
        assert_eq!(harness.deliveries().len(), 6);
        assert_eq!(harness.effects(), 1);
    }
}

#[tokio::test]
async fn a_blank_text_alone_is_all_there_is() {
    let harness = Harness::new(adapters());
    let body = json!({"to": "general@in.example.com", "from": "ann@example.com", "text": ""});
    let heard = harness
        .send(&kit("generic").post(Body::Json(body), harness.now))
        .await;
    assert_eq!(heard.status, 200, "{heard:?}");
    assert_eq!(harness.last().1.text.as_deref().map(str::trim), Some(""));
}

#[tokio::test]
async fn valid_mails_of_a_batch_are_accepted_and_the_rest_is_set_aside() {
    let to = reply_address();
    let raw = |id: &str| raw_mail().replace("<1@example.com>", id);
    let mandrill = |events: Value| Body::urlencoded(&[("mandrill_events", &events.to_string())]);
    let sound = |id: &str| {
        json!({"event": "inbound", "msg": {"raw_msg": raw(id), "email": to,
            "from_email": "ann@example.com"}})
    };
    let relayed = |id: &str| {
        json!({"msys": {"relay_message": {"rcpt_to": to, "msg_from": "ann@example.com",
            "content": {"email_rfc822": raw(id), "email_rfc822_is_base64": false}}}})
    };
    let broken = json!({"event": "inbound", "msg": {"raw_msg": 7, "email": to}});
    let empty = json!({"msys": {"relay_message": {"rcpt_to": to}}});
    for (name, all, whole) in [
        (
            "mandrill",
            mandrill(json!([
                sound("<a@x.example>"),
                broken,
                sound("<b@x.example>"),
                5
            ])),
            mandrill(json!([sound("<a@x.example>"), sound("<b@x.example>")])),
        ),
        (
            "sparkpost",
            Body::Json(json!([
                relayed("<a@x.example>"),
                empty,
                relayed("<b@x.example>"),
                5
            ])),
            Body::Json(json!([relayed("<a@x.example>"), relayed("<b@x.example>")])),
        ),
    ] {
        let harness = Harness::new(adapters());
        for _ in 0..2 {
            let heard = harness
                .send(&kit(name).post(all.clone(), harness.now))
                .await;
            assert_eq!((heard.status, heard.mails()), (200, 2), "{name}: {heard:?}");
            assert_eq!(harness.effects(), 2, "{name}");
            let mut kept: Vec<String> = fs::read_dir(harness.folder.path().join("set-aside"))
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
                .collect();
            kept.sort();
            assert_eq!(kept.len(), 2, "{name}: {kept:?}");
            assert_eq!(kept[0], "5", "{name}");
            assert!(kept[1].contains(&to), "{name}: {kept:?}");
        }
        let line = format!("set_aside_total{{provider=\"{name}\"}}");
        assert_eq!(harness.metric(&line), 4, "{name}");
        let heard = harness.send(&kit(name).post(whole, harness.now)).await;
        assert_eq!((heard.status, heard.mails()), (200, 2), "{name}: {heard:?}");
        assert_eq!(harness.effects(), 2, "{name}");
    }
    let harness = Harness::new(adapters());
    let none = mandrill(json!([broken, broken]));
    let heard = harness.send(&kit("mandrill").post(none, harness.now)).await;
    assert_eq!(heard.status, 400, "{heard:?}");
    assert!(harness.deliveries().is_empty());
}

#[tokio::test]
async fn valid_items_of_brevo_are_accepted() {
    let harness = Harness::new(adapters());
    let Body::Json(mut body) = (kit("brevo").body)("general@in.example.com") else {
        panic!("Brevo sends JSON");
    };
    body["items"].as_array_mut().unwrap().push(json!(5));
    let heard = harness
        .send(&kit("brevo").post(Body::Json(body), harness.now))
        .await;
    assert_eq!((heard.status, heard.mails()), (200, 1), "{heard:?}");
    assert_eq!(harness.metric("set_aside_total{provider=\"brevo\"}"), 1);
}

#[tokio::test]
async fn requests_of_another_form_are_refused() {
    let harness = Harness::new(adapters());
    let news = json!({"signature": {"timestamp": "1", "token": "t", "signature": "s"},
        "event-data": {"event": "opened"}});
    for (name, media, body, status, word) in [
        (
            "mailgun",
            "application/json",
            news.to_string(),
            406,
            "malformed",
        ),
        (
            "mailgun",
            "application/json",
            "{}".to_owned(),
            415,
            "media_type",
        ),
        ("mailgun", "text/plain", news.to_string(), 415, "media_type"),
        ("mailgun", "", String::new(), 415, "media_type"),
        ("relay", "text/plain", raw_mail(), 415, "media_type"),
        ("relay", "", raw_mail(), 415, "media_type"),
    ] {
        let mut post = kit(name).good("general@in.example.com", harness.now);
        post.headers.retain(|(name, _)| name != "content-type");
        if !media.is_empty() {
            post.header("content-type", media);
        }
        post.body = body.into();
        let heard = harness.send(&post).await;
        assert_eq!(heard.status, status, "{name}, {media}: {heard:?}");
        assert_eq!(heard.body["error"]["code"], word, "{name}, {media}");
    }
    assert!(harness.deliveries().is_empty());
    assert_eq!(
        harness.metric("requests_total{provider=\"mailgun\",outcome=\"malformed\"}"),
        1
    );
}
