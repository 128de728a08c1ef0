//! Requests that are not authentic, and authentic ones with malformed content.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use data_encoding::BASE64;
use postern::clock::Timestamp;
use postern::ingress::webhook::{
    Adapter, BasicAccount, Headers, Mailjet, Resend, StandardSigning, WebhookHead,
};
use proptest::prelude::*;
use serde_json::json;
use tokio::task::JoinSet;

use super::body::Body;
use super::feed::feed;
use super::kinds::KITS;
use super::kit::{self, CERTIFICATE_URL, Kit, adapters};
use super::{Harness, Post, send};
use crate::ask::wait;

const TO: &str = "general@in.example.com";

fn harness() -> Harness {
    let harness = Harness::new(adapters());
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    harness
}

fn kit(name: &str) -> &'static Kit {
    KITS.iter().find(|kit| kit.name == name).unwrap()
}

/// The header fields that authenticate a request, or distinguish it from others.
fn vouching(post: &Post) -> Vec<String> {
    let names = post
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase());
    names
        .filter(|name| {
            ![
                "content-type",
                "x-envelope-to",
                "x-envelope-from",
                "x-postal-signature-kid",
                "x-messagesystems-batch-id",
            ]
            .contains(&name.as_str())
        })
        .collect()
}

#[tokio::test]
async fn requests_without_the_secret_are_refused() {
    for kit in KITS {
        let what = format!("{}, {}", kit.name, kit.mode);
        let harness = harness();
        let refused = async |post: &Post, how: &str| {
            let heard = harness.send(post).await;
            let status = heard.status;
            assert_eq!(status, kit.unproven, "{what}, {how}: {heard:?}");
            assert!(heard.body["error"]["code"].is_string(), "{what}, {how}");
            let retry = heard.headers.iter().any(|(name, _)| *name == "retry-after");
            assert_eq!(retry, status == 503, "{what}, {how}");
        };
        let good = kit.good(TO, harness.now);
        refused(
            &kit.post_with((kit.body)(TO), harness.now, false),
            "wrong secret",
        )
        .await;
        for name in vouching(&good) {
            let is_it = |(known, _): &(String, Vec<u8>)| known.eq_ignore_ascii_case(&name);
            let mut missing = good.clone();
            missing.headers.retain(|field| !is_it(field));
            if !name.starts_with("x-amz-sns") {
                refused(&missing, &format!("no {name}")).await;
            }
            let mut twice = good.clone();
            let field = good
                .headers
                .iter()
                .find(|field| is_it(field))
                .unwrap()
                .clone();
            twice.headers.push(field);
            refused(&twice, &format!("{name} twice")).await;
            for value in ["", "x", "é", "Basic", "Basic !", "NaN", "-1", "+1", "1e3"] {
                let mut odd = good.clone();
                for (known, old) in &mut odd.headers {
                    if known.eq_ignore_ascii_case(&name) {
                        *old = value.as_bytes().to_vec();
                    }
                }
                refused(&odd, &format!("{name}: {value}")).await;
            }
        }
        if let Some(secs) = kit.too_old {
            for millis in [secs as i64 * 1000, -(secs as i64) * 1000] {
                let at = harness.now.as_millis().saturating_add_signed(millis);
                let at = Timestamp::from_millis(at);
                refused(&kit.post((kit.body)(TO), at), &format!("{millis} ms away")).await;
            }
        }
        assert!(harness.deliveries().is_empty(), "{what}");
        assert_eq!(
            harness.send(&good).await.status,
            200,
            "{what}: the harness itself is sound"
        );
    }
}

#[tokio::test]
async fn a_changed_body_has_no_signature() {
    for kit in KITS {
        // A name and password authenticate any content; Mailgun's case has a separate test.
        let good = kit.good(TO, house_now());
        let fixed = ["authorization", "x-messagesystems-webhook-token"];
        let is_fixed = good
            .headers
            .iter()
            .any(|(name, _)| fixed.contains(&name.to_ascii_lowercase().as_str()));
        if is_fixed || kit.name == "mailgun" {
            continue;
        }
        let harness = harness();
        let mut post = kit.good(TO, harness.now);
        let mut changed = post.body.to_vec();
        let at = changed
            .windows(3)
            .position(|w| w == b"ann" || w == b"%61")
            .unwrap_or(30);
        changed[at + 1] ^= 1;
        post.body = changed.into();
        let heard = harness.send(&post).await;
        assert_eq!(
            heard.status, kit.unproven,
            "{}, {}: {heard:?}",
            kit.name, kit.mode
        );
    }
}

fn house_now() -> Timestamp {
    postern::clock::now()
}

#[tokio::test]
async fn the_bound_on_age_is_exact_and_seconds_are_named() {
    let harness = harness();
    let kit = kit("generic");
    for (millis, status) in [
        (-300_000, 200),
        (-300_001, 401),
        (300_000, 200),
        (300_001, 401),
    ] {
        let at = Timestamp::from_millis(harness.now.as_millis().saturating_add_signed(millis));
        let heard = harness.send(&kit.good(TO, at)).await;
        assert_eq!(heard.status, status, "{millis}: {heard:?}");
    }
    let seconds = Timestamp::from_millis(harness.now.as_secs());
    let heard = harness.send(&kit.good(TO, seconds)).await;
    assert_eq!(heard.status, 401);
    let said = heard.body["error"]["message"].as_str().unwrap();
    assert!(said.contains("seconds"), "{said}");
}

/// The same request with another text in its mail: Mailgun's signature does not cover it.
fn with_other_words(post: &Post, words: &str) -> Post {
    let text = String::from_utf8(post.body.to_vec()).unwrap();
    let escaped: String = words.bytes().map(|b| format!("%{b:02X}")).collect();
    let other = text.replace("%48%65%6C%6C%6F", &escaped);
    assert_ne!(text, other);
    Post {
        body: other.into(),
        ..post.clone()
    }
}

#[tokio::test]
async fn mailguns_token_is_valid_for_one_mail_even_after_a_restart() {
    let mut harness = harness();
    let kit = kit("mailgun");
    let first = kit.good(TO, harness.now);
    for restarts in 0..3 {
        for _ in 0..2 {
            assert_eq!(
                harness.send(&first).await.status,
                200,
                "{restarts}: a retry"
            );
        }
        let other = with_other_words(&first, "Other");
        let heard = harness.send(&other).await;
        assert_eq!(heard.status, 406, "{restarts}: the token of another mail");
        assert_eq!(harness.effects(), 1);
        harness = harness.restarted().await;
    }
    let fresh = kit.good(TO, harness.now);
    assert_eq!(harness.send(&fresh).await.status, 200, "another token");
}

#[tokio::test]
async fn one_of_concurrent_mails_with_one_token_is_accepted() {
    let harness = harness();
    let first = kit("mailgun").good(TO, harness.now);
    let mut all = JoinSet::new();
    for n in 0..50 {
        let post = with_other_words(&first, &format!("Other {}", n % 10));
        let (doors, now) = (harness.doors.clone(), harness.now);
        all.spawn(async move { send(&doors, &post, now).await.status });
    }
    let mut heard = all.join_all().await;
    heard.sort_unstable();
    let wanted = [[200; 5].as_slice(), &[406; 45]].concat();
    assert_eq!(heard, wanted);
    assert_eq!(harness.effects(), 1);
}

#[tokio::test]
async fn nothing_is_fetched_for_a_foreign_topic_or_certificate() {
    let harness = harness();
    let kit = kit("ses");
    let good = kit.good(TO, harness.now);
    let text = String::from_utf8(good.body.to_vec()).unwrap();
    let long = format!(
        "https://sns.us-east-1.amazonaws.com/{}.pem",
        "a".repeat(1_900_000)
    );
    for (from, to) in [
        (
            CERTIFICATE_URL,
            "https://sns.us-west-2.amazonaws.com/test.pem",
        ),
        (
            CERTIFICATE_URL,
            "https://sns.s3-us-west-2.amazonaws.com/test.pem",
        ),
        (CERTIFICATE_URL, long.as_str()),
        (
            "arn:aws:sns:us-east-1:111111111111:inbound\"",
            "arn:aws:sns:us-east-1:2:inbound\"",
        ),
        (CERTIFICATE_URL, "https://evil.example/a.pem"),
        (CERTIFICATE_URL, "http://sns.us-east-1.amazonaws.com/a.pem"),
        (CERTIFICATE_URL, "https://sns.us-east-1.amazonaws.com/a.txt"),
        (
            CERTIFICATE_URL,
            "https://sns.us-east-1.amazonaws.com/?a=b.pem",
        ),
        (CERTIFICATE_URL, "https://169.254.169.254/a.pem"),
    ] {
        let body = text.replace(from, to);
        assert_ne!(body, text);
        let heard = harness
            .send(&Post {
                body: body.into(),
                ..good.clone()
            })
            .await;
        assert_eq!(heard.status, 503, "{to}: {heard:?}");
    }
    assert!(harness.fetch.asked().is_empty());
    let gone = text.replace(
        CERTIFICATE_URL,
        "https://sns.us-east-1.amazonaws.com/gone.pem",
    );
    for _ in 0..30 {
        let heard = harness
            .send(&Post {
                body: gone.clone().into(),
                ..good.clone()
            })
            .await;
        assert_eq!(heard.status, 503, "not there: {heard:?}");
    }
    assert_eq!(harness.fetch.asked().len(), 1, "a failure is remembered");
}

#[tokio::test]
async fn a_wrong_type_anywhere_is_refused_without_panic() {
    for kit in KITS {
        let harness = Harness::with(adapters(), |settings| {
            settings.rate_per_source.per_second = u32::MAX;
            settings.rate_total.per_second = u32::MAX;
        });
        harness.fetch.put(CERTIFICATE_URL, kit::certificate());
        let mut seen = 0;
        for body in (kit.body)(TO).wrong() {
            let shown = format!("{}, {}: {body:?}", kit.name, kit.mode);
            let post = kit.post(body, harness.now);
            let heard = harness.send(&post).await;
            seen += 1;
            let right = match heard.status {
                200 => heard.body["success"] == true,
                400 | 401 | 403 | 406 | 422 | 503 => heard.body["error"]["message"].is_string(),
                _ => false,
            };
            assert!(right, "{shown}: {heard:?}");
        }
        assert!(
            seen > 20 || kit.name == "relay",
            "{}: only {seen}",
            kit.name
        );
        assert_eq!(harness.metric("panics_total"), 0);
        // Every accepted mail can be read.
        assert!(harness.effects() > 0 || kit.name == "relay", "{}", kit.name);
    }
}

#[tokio::test]
async fn a_truncated_request_is_refused() {
    for kit in KITS.iter().filter(|kit| kit.name != "relay") {
        let harness = harness();
        let whole = (kit.body)(TO);
        let bytes = whole.written();
        let step = bytes.len() / 40 + 1;
        for end in (0..bytes.len().saturating_sub(4)).step_by(step) {
            // Signed as it is, so that only its form is wrong.
            let mut post = kit.post(Body::Raw(bytes[..end].to_vec()), harness.now);
            // Half a list of pairs is a list of pairs, and the other two sign something else.
            let is_pairs = matches!(whole, Body::Urlencoded(_));
            if is_pairs || matches!(kit.name, "ses" | "mailgun") {
                break;
            }
            post.headers.retain(|(name, _)| name != "content-type");
            post.header("content-type", whole.media_type());
            let heard = harness.send(&post).await;
            assert!(heard.status != 200, "{} at {end}: {heard:?}", kit.name);
        }
        for end in [0, 1, bytes.len() / 2, bytes.len() - 5] {
            let mut post = kit.good(TO, harness.now);
            post.body = post.body.slice(..end.min(post.body.len() - 1));
            let heard = harness.send(&post).await;
            assert!(heard.mails() == 0, "{} at {end}: {heard:?}", kit.name);
        }
        assert!(harness.deliveries().is_empty(), "{}", kit.name);
    }
}

#[tokio::test]
async fn too_large_encoded_or_unknown_requests_are_refused() {
    let harness = Harness::with(adapters(), |settings| settings.mail_bytes_max = 100_000);
    for name in harness.doors.provider_names() {
        let large = Post {
            provider: Some(name),
            headers: vec![("content-length".to_owned(), b"1000000000000".to_vec())],
            body: Bytes::new(),
        };
        assert_eq!(harness.send(&large).await.status, 413, "{name}");
        for encoding in ["gzip", "deflate, gzip", "br"] {
            let encoded = Post {
                provider: Some(name),
                headers: vec![("Content-Encoding".to_owned(), encoding.as_bytes().to_vec())],
                body: Bytes::new(),
            };
            assert_eq!(harness.send(&encoded).await.status, 415, "{name}");
        }
    }
    let mut post = kit("generic").good(TO, harness.now);
    post.provider = Some("nobody");
    assert_eq!(harness.send(&post).await.status, 404);
    let few = Harness::new(adapters().into_iter().take(1).collect());
    post.provider = Some("sendgrid");
    post.headers.clear();
    assert_eq!(few.send(&post).await.status, 503, "not set up yet");
    let words = "x".repeat(200_000);
    let large = Body::Json(json!({"from": "a@b.example", "to": TO, "text": words}));
    let heard = harness.send(&kit("generic").post(large, harness.now)).await;
    assert_eq!(heard.status, 413, "{heard:?}");
    // An unmarked request belongs to our own scheme, and lacks its signature.
    let bare = Post {
        provider: None,
        headers: Vec::new(),
        body: Bytes::from_static(b"{}"),
    };
    assert_eq!(harness.send(&bare).await.status, 401);
}

#[tokio::test]
async fn many_recipients_are_bounded() {
    let harness = harness();
    let many: Vec<String> = (0..20_000)
        .map(|n| format!("x{n}@in.example.com"))
        .collect();
    let envelope = json!({"to": many, "from": "a@b.example"});
    let body = Body::Json(json!({"envelope": envelope, "text": "x"}));
    let heard = harness.send(&kit("generic").post(body, harness.now)).await;
    assert_eq!(heard.status, 422, "{heard:?}");
    let line = "dropped_total{provider=\"generic\",reason=\"unknown\"}";
    assert_eq!(harness.metric(line), 4000);
    let names = harness.doors.provider_names().collect::<Vec<_>>();
    let known = postern::ingress::webhook::NAMES;
    assert!(names.len() == known.len() && names.iter().all(|name| known.contains(name)));
}

#[tokio::test]
async fn excessive_requests_are_asked_to_retry() {
    let harness = Harness::with(adapters(), |settings| {
        settings.rate_per_source.per_second = 1;
        settings.rate_per_source.burst = 3;
    });
    let post = kit("generic").good(TO, harness.now);
    let mut heard = Vec::new();
    for _ in 0..5 {
        heard.push(harness.send(&post).await.status);
    }
    assert_eq!(heard, [200, 200, 200, 503, 503]);
    let harness = Harness::with(adapters(), |settings| settings.bytes_in_flight_max = 100);
    let heard = harness.send(&post).await;
    assert_eq!(heard.status, 503);
    assert!(heard.headers.contains(&("retry-after", "30".to_owned())));
    assert_eq!(harness.metric("in_flight_bytes"), 0);
}

/// Unauthenticated callers hold all the memory they may have; a caller with a secret in the head is still
/// admitted.
#[tokio::test]
async fn unauthenticated_callers_leave_memory_for_others() {
    const MIB: usize = 1 << 20;
    let doors = vec![
        Arc::new(Resend::new(StandardSigning::default())) as Arc<dyn Adapter>,
        Arc::new(Mailjet::new(vec![BasicAccount::new("user", "pass:word")])),
    ];
    let harness = Harness::with(doors, |settings| {
        settings.mail_bytes_max = MIB;
        settings.bytes_in_flight_max = 320 * MIB;
    });
    let admit = |provider, headers: Headers, last| {
        let peer = Some(IpAddr::from([192, 0, 2, last]));
        let head = WebhookHead {
            provider: Some(provider),
            headers,
            peer,
        };
        harness.doors.admit(head).unwrap()
    };
    let stranger = |last| admit("mailjet", Headers::default(), last);
    // One network may hold one body of the maximum length.
    let mut first = stranger(1);
    assert!(first.reserve(50 * MIB).is_ok());
    let mut second = stranger(1);
    assert_eq!(second.reserve(11 * MIB).unwrap_err().status, 503);
    assert!(second.reserve(10 * MIB).is_ok());
    // Many networks hold all memory except the shares for small bodies and for authenticated callers.
    let mut held = vec![first, second];
    for last in 2..200 {
        let mut more = stranger(last);
        while more.reserve(MIB).is_ok() {}
        held.push(more);
    }
    assert_eq!(stranger(201).reserve(MIB).unwrap_err().status, 503);
    assert!(stranger(202).reserve(100 * 1024).is_ok(), "a small one");
    let basic = format!("Basic {}", BASE64.encode(b"user:pass:word"));
    let proven = Headers::new([("authorization", basic.as_bytes())]);
    let mut product = admit("mailjet", proven, 1);
    assert!(product.reserve(50 * MIB).is_ok(), "with the secret");
}

#[tokio::test]
async fn our_own_scheme_is_accepted_at_any_providers_path() {
    let generic = adapters().into_iter().take(1).collect();
    let harness = Harness::new(generic);
    let mut post = kit("generic").good(TO, harness.now);
    post.provider = Some("sendgrid");
    assert_eq!(harness.send(&post).await.status, 200);
    for (name, value) in &mut post.headers {
        if name == "X-Webhook-Signature" {
            *value = [b"sha256=".as_slice(), value].concat();
        }
    }
    post.provider = Some("generic");
    assert_eq!(harness.send(&post).await.status, 200, "with its prefix");
    let wrong = kit("generic").post_with((kit("generic").body)(TO), harness.now, false);
    let wrong = Post {
        provider: Some("sendgrid"),
        ..wrong
    };
    assert_eq!(harness.send(&wrong).await.status, 401);
}

#[tokio::test]
async fn a_full_or_closed_store_makes_the_provider_retry() {
    let harness = harness();
    harness.store.clone().close().await;
    for kit in KITS {
        let heard = harness.send(&kit.good(TO, harness.now)).await;
        assert_eq!(heard.status, 503, "{}: {heard:?}", kit.name);
    }
}

#[tokio::test]
async fn hostile_header_fields_stay_data() {
    let harness = harness();
    let kit = kit("generic");
    let long = "x".repeat(100_000);
    let body = json!({
        "from": "Ann\r\nBcc: all@example.com <ann@example.com>", "to": TO,
        "subject": "a\r\n\r\nbody\u{0}\u{202e}", "text": "words\u{0}",
        "headers": {"__proto__": "x", "constructor": "y", "": "z", ":": "z", "é": "z",
            "X-A\r\nX-B": "z", "X-Long": long, "Content-Type": "text/html", "x".repeat(10_000): "z",
            "Message-ID": "<../../etc/x\r\nX-C: y>", "Subject ": "z"},
        "attachments": [
            {"filename": "../../a", "content": ""}, {"filename": "a\r\nX-D: y", "content": "aGk="},
            {"filename": "\u{202e}gpj.exe", "contentType": "text/x\r\nX-E: y", "content": "aGk="},
            {"filename": "a.eml", "contentType": "message/rfc822", "content": "aGk="},
            {"filename": "C:\\x", "contentId": "<a\r\nX-F: y>", "content": "aGk="}],
    });
    let heard = harness.send(&kit.post(Body::Json(body), harness.now)).await;
    assert_eq!(heard.status, 200, "{heard:?}");
    let (delivery, view) = harness.last();
    let bytes = wait(harness.store.mail_bytes(delivery.id.mail)).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    for injected in [
        "\r\nX-B", "\nX-C", "\nX-D", "\nX-E", "\nX-F", "\nBcc:", "\0",
    ] {
        assert!(!text.contains(injected), "{injected}: {text:.2000}");
    }
    assert_eq!(view.attachments.len(), 5);
    assert_eq!(view.text.as_deref().map(str::trim), Some("words"));
}

/// The octets with which the fuzzer sends the valid body of one kit.
fn seed(kit: usize) -> Vec<u8> {
    let choice = u8::try_from(kit).unwrap();
    [vec![choice, 0], (KITS[kit].body)(TO).written()].concat()
}

/// Handmade bodies for cases that the valid ones do not cover, and the valid ones.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/webhook");
    let mut all: Vec<Vec<u8>> = (0..KITS.len()).map(seed).collect();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    all.extend(files.iter().map(|path| fs::read(path).unwrap()));
    all
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let all = corpus();
    assert!(all.len() > KITS.len() + 20, "only {}", all.len());
    let decoded = all.iter().filter(|octets| feed(octets)).count();
    // Replaced octets invalidate the signature of signed fields; of the other posts the valid bodies are
    // decoded.
    assert!(decoded >= KITS.len() - 4, "only {decoded} of {}", all.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_octets_never_panic(
        at in any::<prop::sample::Index>(),
        place in any::<u8>(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        junk in prop::collection::vec(any::<u8>(), 0..400),
        how in 0..4_u8,
    ) {
        static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(corpus);
        let mut octets = CORPUS[at.index(CORPUS.len())].clone();
        for (index, octet) in cuts {
            let at = index.index(octets.len());
            octets[at] = octet;
        }
        match how {
            0 => octets.truncate(at.index(octets.len())),
            1 => octets.extend_from_slice(&junk),
            2 => octets = [&[octets[0], place], junk.as_slice()].concat(),
            _ => {}
        }
        feed(&octets);
    }
}
