//! Authentic but excessive requests, for every provider: refused as a whole, never stored in part.

use std::net::IpAddr;

use postern::ingress::webhook::{Headers, Settings, WebhookHead};
use serde_json::Value;
use tokio::task::JoinSet;

use super::body::Body;
use super::kinds::KITS;
use super::kit::{self, CERTIFICATE_URL, Kit, adapters};
use super::{Harness, Post, send};

const TO: &str = "general@in.example.com";
/// The statuses for a request that is refused permanently.
const NEVER: [u16; 3] = [400, 403, 406];

fn harness() -> Harness {
    let harness = Harness::with(adapters(), |settings| {
        settings.rate_per_source.per_second = u32::MAX;
        settings.rate_total.per_second = u32::MAX;
    });
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    harness
}

/// A post of these bytes in place of the kit's body, signed as the kit's provider would.
fn signed(kit: &Kit, bytes: Vec<u8>, harness: &Harness) -> Post {
    let media = (kit.body)(TO).media_type();
    let mut post = kit.post(Body::Raw(bytes), harness.now);
    if kit.name != "ses" {
        post.headers.retain(|(name, _)| name != "content-type");
        post.header("content-type", media);
    }
    post
}

fn is_json(kit: &Kit) -> bool {
    matches!((kit.body)(TO), Body::Json(_))
}

#[tokio::test]
async fn json_that_is_too_deep_too_much_or_not_text_is_refused() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    for kit in KITS.iter().filter(|kit| is_json(kit)) {
        let harness = harness();
        let good = String::from_utf8((kit.body)(TO).written()).unwrap();
        let with = |member: &str| match good.strip_prefix('{') {
            Some(rest) => format!("{{\"x\":{member},{rest}"),
            None => format!("[{member},{}", good.strip_prefix('[').unwrap()),
        };
        let mut bombs: Vec<(&str, Vec<u8>)> = vec![
            ("a deep list", deep("[", "]").into()),
            ("deep objects", deep("{\"a\":", "}").into()),
            ("a deep list that never ends", "[".repeat(10_000).into()),
            ("depth beside the mail", with(&deep("[", "]")).into()),
            (
                "values beside the mail",
                with(&format!("[{}0]", "0,".repeat(600_000))).into(),
            ),
            ("more behind the end", format!("{good}{{}}").into()),
            ("nothing", Vec::new()),
            ("NUL", vec![0; 1000]),
        ];
        if kit.name != "ses" {
            let mut not_text = with("\"?\"").into_bytes();
            let at = not_text.iter().position(|b| *b == b'?').unwrap();
            not_text[at] = 0xff;
            bombs.push(("not UTF-8", not_text));
        }
        for (what, bomb) in bombs {
            let heard = harness.send(&signed(kit, bomb, &harness)).await;
            let shown = format!("{}, {}, {what}: {heard:?}", kit.name, kit.mode);
            // A topic's own messages are not JSON, and are accepted.
            let is_word = kit.name == "ses" && heard.status == 200 && heard.mails() == 0;
            assert!(NEVER.contains(&heard.status) || is_word, "{shown}");
        }
        assert!(
            harness.deliveries().is_empty(),
            "{}, {}",
            kit.name,
            kit.mode
        );
    }
}

/// Programs would use different ones of two equal members.
#[tokio::test]
async fn a_repeated_member_or_field_is_refused() {
    for kit in KITS.iter().filter(|kit| kit.name != "relay") {
        let harness = harness();
        let twice: Vec<Body> = match (kit.body)(TO) {
            Body::Json(value) => doubled(&value)
                .into_iter()
                .map(|text| Body::Raw(text.into_bytes()))
                .collect(),
            Body::Multipart(fields) => doubled_fields(&fields)
                .into_iter()
                .map(Body::Multipart)
                .collect(),
            Body::Urlencoded(fields) => doubled_fields(&fields)
                .into_iter()
                .map(Body::Urlencoded)
                .collect(),
            Body::Raw(_) => Vec::new(),
        };
        assert!(!twice.is_empty(), "{}, {}", kit.name, kit.mode);
        for body in twice {
            let shown = format!("{}, {}: {body:?}", kit.name, kit.mode);
            let post = match body {
                Body::Raw(bytes) => signed(kit, bytes, &harness),
                form => kit.post(form, harness.now),
            };
            let heard = harness.send(&post).await;
            // If the signature covers the fields in order, a repeated field invalidates it.
            let fits = NEVER.contains(&heard.status) || heard.status == kit.unproven;
            assert!(fits, "{shown}: {heard:?}");
        }
        assert!(
            harness.deliveries().is_empty(),
            "{}, {}",
            kit.name,
            kit.mode
        );
    }
}

/// The JSON with each member that contains the recipient, at any depth, repeated with another recipient.
fn doubled(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let around = |inner: &str| -> String {
                    let written = members.iter().map(|(other, value)| {
                        let value = if other == name {
                            inner.to_owned()
                        } else {
                            value.to_string()
                        };
                        format!("{}:{value}", Value::from(other.as_str()))
                    });
                    format!("{{{}}}", written.collect::<Vec<_>>().join(","))
                };
                all.extend(doubled(inner).iter().map(|inner| around(inner)));
                let text = inner.to_string();
                if text.contains(TO) {
                    let other = text.replace(TO, "business@in.example.com");
                    all.push(around(&format!(
                        "{text},{}:{other}",
                        Value::from(name.as_str())
                    )));
                }
            }
        }
        Value::Array(items) => {
            for at in 0..items.len() {
                for inner in doubled(&items[at]) {
                    let written = items.iter().enumerate();
                    let written = written.map(|(other, item)| match other == at {
                        true => inner.clone(),
                        false => item.to_string(),
                    });
                    all.push(format!("[{}]", written.collect::<Vec<_>>().join(",")));
                }
            }
        }
        _ => {}
    }
    all
}

fn doubled_fields(fields: &[(String, Vec<u8>)]) -> Vec<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for (name, value) in fields {
        let text = String::from_utf8_lossy(value);
        if text.contains(TO) {
            let other = text.replace(TO, "business@in.example.com");
            all.push([fields, &[(name.clone(), other.into_bytes())]].concat());
        }
        for inner in serde_json::from_str(&text).iter().flat_map(doubled) {
            let same = |field: &(String, Vec<u8>)| match field.0 == *name {
                true => (name.clone(), inner.clone().into_bytes()),
                false => field.clone(),
            };
            all.push(fields.iter().map(same).collect());
        }
    }
    all
}

#[tokio::test]
async fn forms_that_are_bombs_are_refused() {
    let deep = "[".repeat(10_000).into_bytes();
    for kit in KITS
        .iter()
        .filter(|kit| !is_json(kit) && kit.name != "relay")
    {
        let harness = harness();
        let (fields, is_multipart) = match (kit.body)(TO) {
            Body::Multipart(fields) => (fields, true),
            Body::Urlencoded(fields) => (fields, false),
            other => panic!("{}: {other:?}", kit.name),
        };
        let form = |fields| match is_multipart {
            true => Body::Multipart(fields),
            false => Body::Urlencoded(fields),
        };
        let refused = async |post: &Post, what: &str| {
            let heard = harness.send(post).await;
            let fits = NEVER.contains(&heard.status) || [kit.unproven, 415].contains(&heard.status);
            assert!(fits, "{}, {}, {what}: {heard:?}", kit.name, kit.mode);
        };
        let mut many = fields.clone();
        many.extend((0..100_000).map(|n| (format!("f{n}"), b"x".to_vec())));
        refused(&kit.post(form(many), harness.now), "100,000 fields").await;
        for at in 0..fields.len() {
            let is_json = serde_json::from_slice::<Value>(&fields[at].1)
                .is_ok_and(|value| value.is_object() || value.is_array());
            let is_read = !matches!(fields[at].0.as_str(), "charsets" | "attachment-info");
            if is_json && is_read {
                let mut changed = fields.clone();
                changed[at].1 = deep.clone();
                let post = kit.post(form(changed), harness.now);
                refused(&post, &fields[at].0).await;
            }
        }
        if is_multipart {
            for media in [
                "multipart/form-data",
                "multipart/form-data; boundary=",
                "text/plain",
            ] {
                let mut post = kit.good(TO, harness.now);
                for (name, value) in &mut post.headers {
                    if name == "content-type" {
                        *value = media.into();
                    }
                }
                refused(&post, media).await;
            }
        }
        assert!(
            harness.deliveries().is_empty(),
            "{}, {}",
            kit.name,
            kit.mode
        );
    }
}

#[tokio::test]
async fn a_body_is_not_buffered_beyond_its_bound() {
    const PIECE: usize = 1 << 20;
    let harness = harness();
    for adapter in adapters() {
        let head = WebhookHead {
            provider: Some(adapter.name()),
            headers: Headers::default(),
            peer: Some(IpAddr::from([192, 0, 2, 1])),
        };
        let mut entry = harness.doors.admit(head).unwrap();
        let mut taken = 0;
        let refused = loop {
            match entry.reserve(PIECE) {
                Ok(()) => taken += PIECE,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.status, 413, "{}", adapter.name());
        assert_eq!(
            taken,
            adapter.info().body_bytes_max(Settings::MAIL_BYTES_MAX) / PIECE * PIECE,
            "{}",
            adapter.name()
        );
        assert_eq!(
            harness.metric("in_flight_bytes"),
            i64::try_from(taken).unwrap()
        );
        drop(entry);
        assert_eq!(harness.metric("in_flight_bytes"), 0);
    }
}

#[tokio::test]
async fn a_hundred_replays_at_once_are_one_effect_at_every_door() {
    for kit in KITS {
        let harness = harness();
        let post = kit.good(TO, harness.now);
        let mut all = JoinSet::new();
        for _ in 0..100 {
            let (doors, post, now) = (harness.doors.clone(), post.clone(), harness.now);
            all.spawn(async move { send(&doors, &post, now).await.status });
        }
        let heard = all.join_all().await;
        assert_eq!(heard, [200; 100], "{}, {}", kit.name, kit.mode);
        assert_eq!(harness.effects(), 1, "{}, {}", kit.name, kit.mode);
        assert_eq!(harness.metric("in_flight_bytes"), 0);
    }
}

/// The signature covers the original octets, not their meaning.
#[tokio::test]
async fn reencoded_json_has_no_valid_signature() {
    for name in ["generic", "standard", "mailersend", "postal"] {
        let kit = KITS.iter().find(|kit| kit.name == name).unwrap();
        let harness = harness();
        let mut post = kit.good(TO, harness.now);
        let value: Value = serde_json::from_slice(&post.body).unwrap();
        post.body = serde_json::to_string_pretty(&value).unwrap().into();
        let heard = harness.send(&post).await;
        assert_eq!(heard.status, kit.unproven, "{name}: {heard:?}");
    }
}
