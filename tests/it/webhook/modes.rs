//! Valid requests: every provider in every mode, with and without its name in the path.

use postern::clock::Timestamp;
use postern::mail::envelope::{Door, RecipientTarget};
use serde_json::{Value, json};

use super::body::Body;
use super::kinds::{KITS, WORDS};
use super::kit::{self, CERTIFICATE_URL, adapters};
use super::{Harness, reply_address};

fn harness() -> Harness {
    let harness = Harness::new(adapters());
    harness.fetch.put(CERTIFICATE_URL, kit::certificate());
    harness
}

#[tokio::test]
async fn every_provider_brings_its_mail() {
    for kit in KITS {
        let what = format!("{}, {}", kit.name, kit.mode);
        let harness = harness();
        let to = reply_address();
        let mut post = kit.good(&to, harness.now);
        for named in [true, false] {
            if !named {
                post.provider = None;
            }
            let heard = harness.send(&post).await;
            assert_eq!(
                (heard.status, heard.mails()),
                (200, 1),
                "{what}, {named}: {heard:?}"
            );
        }
        let (delivery, view) = harness.last();
        assert_eq!(delivery.recipient.address.to_string(), to, "{what}");
        assert!(
            matches!(delivery.recipient.target, RecipientTarget::Thread(_)),
            "{what}"
        );
        let envelope = &delivery.envelope;
        let sender = envelope.sender.as_ref().map(ToString::to_string);
        assert_eq!(sender.as_deref(), Some("ann@example.com"), "{what}");
        assert_eq!(envelope.peer.door, Door::Webhook, "{what}");
        assert_eq!(
            envelope.told.as_ref().map(|told| told.by.as_str()),
            Some(kit.name),
            "{what}"
        );
        assert_eq!(view.text.as_deref().map(str::trim), Some(WORDS), "{what}");
        assert_eq!(view.header.subject.as_deref(), Some("Hello"), "{what}");
        assert_eq!(
            view.header.message_id.as_deref(),
            Some("1@example.com"),
            "{what}"
        );
        assert_eq!(view.header.from_fields, 1, "{what}");
        assert!(view.header.date.is_some(), "{what}");
        let files = usize::from(kit.mode.starts_with("parts") && kit.name != "brevo");
        assert_eq!(view.attachments.len(), files, "{what}");
        assert_eq!(harness.effects(), 1, "{what}");
        assert_eq!(harness.metric("panics_total"), 0);
    }
}

#[tokio::test]
async fn a_mail_that_comes_through_several_doors_is_one() {
    let harness = harness();
    let to = reply_address();
    let mut mails = 0;
    for kit in KITS {
        // Their parts have a file or an HTML body that the raw mail lacks; the text is the same.
        mails += harness.send(&kit.good(&to, harness.now)).await.mails();
        assert_eq!(harness.effects(), 1, "{}, {}", kit.name, kit.mode);
    }
    assert_eq!(mails, KITS.len());
}

#[tokio::test]
async fn a_providers_results_are_stored_as_the_providers() {
    let harness = harness();
    for (name, mode, told) in [
        (
            "sendgrid",
            "parts",
            "spf=pass dkim[example.com]=pass spam_score=0.1",
        ),
        ("ses", "base64", "spf=pass"),
        ("mailgun", "parts", "spf=pass"),
        ("postmark", "raw", "spf=pass"),
        ("mandrill", "raw", "spf=pass dkim=pass spam_score=1.5"),
        ("mailersend", "raw", "spf=pass dkim=pass"),
    ] {
        let kit = KITS
            .iter()
            .find(|kit| kit.name == name && kit.mode == mode)
            .unwrap();
        harness
            .send(&kit.good("general@in.example.com", harness.now))
            .await;
        let checks = harness.last().0.envelope.told.clone().unwrap().checks;
        let shown = checks.iter().map(|check| {
            let domain = check.domain.as_ref().map(|domain| format!("[{domain}]"));
            format!(
                "{}{}={}",
                check.name,
                domain.unwrap_or_default(),
                check.result
            )
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), told, "{name}");
    }
}

#[tokio::test]
async fn two_short_answers_without_ids_are_two_mails() {
    let harness = harness();
    let kit = &KITS[0];
    let body =
        || Body::Json(json!({"from": "a@b.example", "to": "general@in.example.com", "text": "ok"}));
    let later = Timestamp::from_millis(harness.now.as_millis() + 1);
    for at in [harness.now, later] {
        assert_eq!(harness.send(&kit.post(body(), at)).await.status, 200);
    }
    assert_eq!(harness.effects(), 2);
}

#[tokio::test]
async fn a_mail_without_recipient_has_the_providers_status_and_a_log_line() {
    for kit in KITS {
        let harness = harness();
        let what = format!("{}, {}", kit.name, kit.mode);
        let forged = format!("reply+{}@in.example.com", "a".repeat(58));
        for (to, reason) in [
            ("nobody@in.example.com", "unknown"),
            ("ann@elsewhere.example", "foreign"),
            (forged.as_str(), "forged"),
        ] {
            let heard = harness.send(&kit.good(to, harness.now)).await;
            assert_eq!(
                (heard.status, heard.mails()),
                (kit.unroutable, 0),
                "{what}: {heard:?}"
            );
            let line = format!(
                "dropped_total{{provider=\"{}\",reason=\"{reason}\"}}",
                kit.name
            );
            assert!(harness.metric(&line) >= 1, "{what}: {line}");
        }
        assert!(harness.deliveries().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_foreign_recipient_does_not_affect_the_others() {
    let harness = harness();
    let kit = KITS.iter().find(|kit| kit.name == "sendgrid").unwrap();
    let Body::Multipart(mut fields) = (kit.body)("x") else {
        panic!("SendGrid sends a form");
    };
    let envelope = json!({"to": ["general@in.example.com", "x@y.example", "<General@IN.example.com>",
        "not an address", reply_address()], "from": ""});
    for (name, value) in &mut fields {
        if name == "envelope" {
            *value = envelope.to_string().into_bytes();
        }
    }
    let heard = harness
        .send(&kit.post(Body::Multipart(fields), harness.now))
        .await;
    assert_eq!(heard.body["data"]["dropped"], 2, "{heard:?}");
    let kept = harness.deliveries();
    assert_eq!(kept.len(), 2, "spelled in two ways it is one, as in SMTP");
    assert!(kept[0].envelope.sender.is_none());
}

/// Removes the reverse-path, wherever a provider writes it.
fn without_sender(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in [
                "from_email",
                "mail_from",
                "msg_from",
                "sender",
                "Sender",
                "source",
            ] {
                members.remove(name);
            }
            if let Some(Value::Object(envelope)) = members.get_mut("envelope") {
                envelope.remove("from");
            }
            members.values_mut().for_each(without_sender);
        }
        Value::Array(items) => items.iter_mut().for_each(without_sender),
        _ => {}
    }
}

/// A mail that counts as the null sender's is dropped as a machine's.
#[tokio::test]
async fn an_unknown_sender_is_not_the_null_sender() {
    let harness = harness();
    let mut without = 0;
    for kit in KITS {
        let what = format!("{}, {}", kit.name, kit.mode);
        let strip = |fields: Vec<(String, Vec<u8>)>| -> Vec<_> {
            let bare =
                fields
                    .into_iter()
                    .map(|(name, value)| match serde_json::from_slice(&value) {
                        Ok(mut json @ (Value::Object(_) | Value::Array(_))) => {
                            without_sender(&mut json);
                            (name, json.to_string().into_bytes())
                        }
                        _ => (name, value),
                    });
            bare.filter(|(name, _)| name != "sender").collect()
        };
        let body = match (kit.body)("general@in.example.com") {
            Body::Json(mut json) => {
                without_sender(&mut json);
                Body::Json(json)
            }
            Body::Multipart(fields) => Body::Multipart(strip(fields)),
            Body::Urlencoded(fields) => Body::Urlencoded(strip(fields)),
            raw @ Body::Raw(_) => raw,
        };
        let before = harness.deliveries().len();
        let heard = harness.send(&kit.post(body, harness.now)).await;
        if harness.deliveries().len() == before {
            continue;
        }
        let envelope = harness.last().0.envelope;
        assert!(
            envelope.sender.is_some() || envelope.sender_untold,
            "{what}: {heard:?}"
        );
        without += u32::from(envelope.sender_untold);
    }
    assert!(without >= 5, "only {without} of them do not tell it");
}

#[tokio::test]
async fn other_events_of_a_provider_are_acknowledged() {
    let harness = harness();
    for (name, body) in [
        ("postmark", json!({"RecordType": "Bounce"})),
        ("sparkpost", json!([{"msys": {}}])),
        ("sparkpost", json!([])),
        ("mailersend", json!({"type": "activity.sent"})),
        (
            "resend",
            json!({"type": "email.sent", "data": {"email_id": "x"}}),
        ),
        (
            "ses",
            json!({"notificationType": "AmazonSnsSubscriptionSucceeded"}),
        ),
        ("brevo", json!({"items": []})),
    ] {
        let like = if name == "resend" { "standard" } else { name };
        let kit = KITS.iter().find(|kit| kit.name == like).unwrap();
        let mut post = kit.post(Body::Json(body), harness.now);
        post.provider = Some(name);
        let heard = harness.send(&post).await;
        assert_eq!((heard.status, heard.mails()), (200, 0), "{name}: {heard:?}");
    }
    let kit = KITS.iter().find(|kit| kit.name == "mandrill").unwrap();
    let mut ping = kit.post(Body::urlencoded(&[("mandrill_events", "[]")]), harness.now);
    ping.headers.retain(|(name, _)| name == "content-type");
    assert_eq!(
        harness.send(&ping).await.status,
        200,
        "before the key exists"
    );
    assert!(harness.deliveries().is_empty());
}

#[tokio::test]
async fn only_our_topic_is_subscribed() {
    let harness = harness();
    let kit = KITS.iter().find(|kit| kit.name == "ses").unwrap();
    let url = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=t";
    let post = |url: &str| {
        let mut post = kit.good("x", harness.now);
        post.body = kit::subscription(url, harness.now).to_string().into();
        for (name, value) in &mut post.headers {
            if name == "x-amz-sns-message-type" {
                *value = b"SubscriptionConfirmation".to_vec();
            }
        }
        post
    };
    assert_eq!(
        harness.send(&post(url)).await.status,
        503,
        "Amazon did not answer"
    );
    harness.fetch.put(url, "<ok/>");
    assert_eq!(harness.send(&post(url)).await.status, 200);
    let heard = harness
        .send(&post("https://169.254.169.254/latest/meta-data"))
        .await;
    assert_eq!(heard.status, 400);
    assert_eq!(harness.fetch.asked(), [CERTIFICATE_URL, url, url]);
}

/// A mail that one provider sends raw and another in parts, and true if it is recognised.
#[tokio::test]
async fn a_mail_in_parts_and_raw_through_two_providers_is_one_if_its_text_is() {
    let head = "From: Ann <ann@example.com>\r\nMessage-ID: <2@example.com>\r\nSubject: Hello\r\n\
        Date: Sat, 31 Jan 2026 23:59:59 +0100\r\nMIME-Version: 1.0\r\n";
    let latin = "Content-Type: text/plain; charset=iso-8859-1\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe aus =\r\nder Ferne\r\n";
    let html = "Content-Type: text/html; charset=utf-8\r\n\r\n<p>Grüße</p>\r\n";
    let both = "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n--b\r\n\
        Content-Type: text/html; charset=utf-8\r\n\r\n<p>Grüße</p>\r\n--b--\r\n";
    for (what, body, text, as_html, effects) in [
        (
            "latin and folded",
            latin,
            Some("Grüße aus der Ferne\n"),
            None,
            1,
        ),
        ("both", both, Some("Grüße"), Some("<p>Grüße</p>"), 1),
        ("HTML alone", html, None, Some("<p>Grüße</p>"), 1),
        // Content that a provider makes up cannot be matched: such a mail is posted twice, never lost.
        (
            "a text of the provider's own",
            html,
            Some("* Grüße *"),
            Some("<p>Grüße</p>"),
            2,
        ),
    ] {
        let harness = harness();
        let to = reply_address();
        let relay = KITS.iter().find(|kit| kit.name == "relay").unwrap();
        let raw = format!("Delivered-To: {to}\r\n{head}{body}");
        let post = relay.post(Body::Raw(raw.into_bytes()), harness.now);
        assert_eq!(harness.send(&post).await.status, 200, "{what}");
        let postmark = KITS.iter().find(|kit| kit.name == "postmark").unwrap();
        let parts = Body::Json(json!({
            "OriginalRecipient": to, "From": "ann@example.com", "Subject": "Hello",
            "Date": "Sat, 31 Jan 2026 23:59:59 +0100", "TextBody": text, "HtmlBody": as_html,
            "MessageID": "22c74902-a0c1-4511-804f-341342852c90",
            "Headers": [{"Name": "Message-ID", "Value": "<2@example.com>"}],
        }));
        let heard = harness.send(&postmark.post(parts, harness.now)).await;
        assert_eq!(heard.status, 200, "{what}: {heard:?}");
        assert_eq!(harness.effects(), effects, "{what}");
    }
}
