//! Requests and signatures of third parties, read from the shared folder and not copied here.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use postern::clock::Timestamp;
use postern::ingress::webhook::{
    Adapter, Authentic, AuthenticationError, BasicAccount, Decoded, Generic, Headers, IncomingMail,
    Mailgun, Postmark, Recipients, SendGrid, Ses, WebhookRequest,
};
use postern::mail::view::View;
use postern::secret::Secret;
use postern::tls::PublicKey;
use serde_json::Value;

use super::kit::{self, CERTIFICATE_URL};
use crate::needs::fixtures;

/// The request NAME.body with the header fields of META.meta.json, and one more.
fn request(folder: &Path, name: &str, meta: &str, more: (&str, &str)) -> WebhookRequest {
    let body = fs::read(folder.join(format!("{name}.body"))).unwrap();
    let meta = fs::read(folder.join(format!("{meta}.meta.json"))).unwrap();
    let meta: Value = serde_json::from_slice(&meta).unwrap();
    let headers = meta["headers"].as_object().unwrap().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
    let headers = Headers::new(headers.chain([(more.0, more.1.as_bytes())]));
    WebhookRequest::new(headers, body.into(), None)
}

fn only(adapter: &dyn Adapter, authentic: Authentic<'_>) -> IncomingMail {
    match adapter.decode(authentic).unwrap() {
        Decoded::Mails(mails) => mails.into_iter().next().unwrap(),
        other => panic!("no mail: {other:?}"),
    }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

#[test]
fn our_own_scheme_has_the_vector_of_its_description() {
    let body = br#"{"envelope":{"to":["reply+TOKEN@in.example.com"],"from":"a@example.org"},"raw":"RnJvbTogYQ0KDQpow6k="}"#;
    let told = |timestamp: &str, mac: &str, now| {
        let headers = Headers::new([
            ("x-webhook-timestamp", timestamp.as_bytes()),
            ("x-webhook-signature", mac.as_bytes()),
        ]);
        let request = WebhookRequest::new(headers, Bytes::from_static(body), None);
        let door = Generic::new(vec![Secret::new("test-secret-0123456789abcdef")]);
        let authentic = door.authenticate(&request, now, None)?;
        Ok::<_, AuthenticationError>(only(&door, authentic))
    };
    let mac = "1790b4690e8cc3b21536408a074755c933b8af0411441d09cd4c444036946c7c";
    let mail = told("1700000000000", mac, at(1_700_000_000)).unwrap();
    assert_eq!(mail.bytes.as_ref(), "From: a\r\n\r\nhé".as_bytes());
    let to = vec!["reply+TOKEN@in.example.com".to_owned()];
    assert_eq!(mail.recipients, Recipients::Envelope(to));
    let seconds = "6c1c17085a5d878c5b4eb262d99f2b5620946a745bbd8709a4cdffef4eb30a4b";
    let refused = told("1700000000", seconds, at(1_700_000_000));
    assert_eq!(refused.unwrap_err(), AuthenticationError::Seconds);
}

#[test]
fn sendgrids_signature_covers_every_byte() {
    let Some(folder) = fixtures("webhooks") else {
        return;
    };
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    let signature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
    let body = fs::read(folder.join("vectors/sendgrid_event_payload.json")).unwrap();
    let door = SendGrid::new(vec![PublicKey::parse(key).unwrap()], Vec::new());
    let told = |body: &[u8], timestamp: &str| {
        let headers = Headers::new([
            (
                "x-twilio-email-event-webhook-timestamp",
                timestamp.as_bytes(),
            ),
            (
                "x-twilio-email-event-webhook-signature",
                signature.as_bytes(),
            ),
        ]);
        let request = WebhookRequest::new(headers, Bytes::copy_from_slice(body), None);
        door.authenticate(&request, at(1_600_112_502), None)
            .map(drop)
    };
    assert_eq!(told(&body, "1600112502"), Ok(()));
    assert_eq!(
        told(body.trim_ascii_end(), "1600112502"),
        Err(AuthenticationError::NoMatch)
    );
    assert_eq!(told(&body, "1600112503"), Err(AuthenticationError::NoMatch));
}

#[test]
fn a_signed_mail_of_sendgrids_is_read() {
    let Some(folder) = fixtures("webhooks") else {
        return;
    };
    let key = fs::read_to_string(folder.join("sendgrid/test_p256.pub.b64")).unwrap();
    let door = SendGrid::new(vec![PublicKey::parse(&key).unwrap()], Vec::new());
    let signed = "sendgrid/inbound_mime.signed";
    let request = request(&folder, "sendgrid/inbound_mime", signed, ("x-none", ""));
    let authentic = door
        .authenticate(&request, at(1_700_000_000), None)
        .unwrap();
    let mail = only(&door, authentic);
    let view = View::parse(&mail.bytes);
    assert_eq!(view.header.subject.as_deref(), Some("Raw MIME test"));
    assert_eq!(view.text.as_deref().map(str::trim), Some("It's a body…"));
    assert!(
        matches!(mail.recipients, Recipients::Envelope(ref to) if to.len() == 1),
        "{mail:?}"
    );
}

#[test]
fn mails_in_parts_are_put_together() {
    let Some(folder) = fixtures("webhooks") else {
        return;
    };
    let account = format!("Basic {}", BASE64.encode(b"u:p"));
    let accounts = || vec![BasicAccount::new("u", "p")];
    let basic = ("authorization", account.as_str());
    let sendgrid = SendGrid::new(Vec::new(), accounts());
    let postmark = Postmark::new(accounts(), Vec::new());
    let mut mailgun = Mailgun::new(vec![Secret::new("TEST_WEBHOOK_SIGNING_KEY")]);
    mailgun.age_max = Duration::from_secs(1);
    let doors: [(&str, &dyn Adapter); 6] = [
        ("sendgrid/inbound_basics", &sendgrid),
        ("postmark/inbound_basics", &postmark),
        ("postmark/inbound_with_raw_email", &postmark),
        ("mailgun/inbound_basics", &mailgun),
        ("mailgun/inbound_mime", &mailgun),
        ("sendgrid/inbound_mime", &sendgrid),
    ];
    for (name, door) in doors {
        let request = request(&folder, name, name, basic);
        let authentic = door.authenticate(&request, at(1_461_261_330), None);
        let mail = only(
            door,
            authentic.unwrap_or_else(|error| panic!("{name}: {error}")),
        );
        let view = View::parse(&mail.bytes);
        let is_mime = name.ends_with("mime");
        let subject = if is_mime {
            "Raw MIME test"
        } else {
            "Test subject"
        };
        assert_eq!(view.header.subject.as_deref(), Some(subject), "{name}");
        let text = view.text.as_deref().map(str::trim);
        let words = if is_mime {
            "It's a body…"
        } else {
            "Test body plain"
        };
        assert_eq!(text, Some(words), "{name}");
        assert!(view.header.message_id.is_some(), "{name}");
        assert_eq!(view.header.from_fields, 1, "{name}");
        let to = mail.recipients.addresses();
        assert_eq!(to, ["test@inbound.example.com"], "{name}");
        let sender = mail.sender.as_deref();
        let from = ["envelope-from@example.org", "from+test@example.org"];
        assert!(
            sender.is_some_and(|s| from.contains(&s)),
            "{name}: {sender:?}"
        );
    }
}

#[test]
fn amazons_notifications_verify_while_the_certificate_is_valid() {
    let Some(folder) = fixtures("webhooks") else {
        return;
    };
    let pem = fs::read(folder.join("vectors/sns_cert.pem")).unwrap();
    let told = fs::read(folder.join("vectors/sns_notifications.json")).unwrap();
    let told: Vec<Value> = serde_json::from_slice(&told).unwrap();
    let topics = told
        .iter()
        .map(|t| t["TopicArn"].as_str().unwrap().to_owned())
        .collect();
    let door = Ses::new(topics, Vec::new());
    let strict = Ses {
        needs_sha256: true,
        ..door.clone()
    };
    let request = |told: &Value| {
        let headers = Headers::new([("x-amz-sns-message-type", b"Notification".as_slice())]);
        WebhookRequest::new(headers, told.to_string().into(), None)
    };
    // 2022-07-29, and a month later.
    let (then, later) = (at(1_659_049_200), at(1_661_700_000));
    for notification in &told {
        let good = request(notification);
        let authentic = door.authenticate(&good, then, Some(&pem)).unwrap();
        assert!(matches!(door.decode(authentic), Ok(Decoded::Ignored(_))));
        assert!(
            door.authenticate(&good, later, Some(&pem)).is_err(),
            "expired or old"
        );
        assert_eq!(
            door.authenticate(&good, then, None).map(drop),
            Err(AuthenticationError::NoCertificate)
        );
        let is_v1 = notification["SignatureVersion"] == "1";
        assert_eq!(strict.authenticate(&good, then, Some(&pem)).is_err(), is_v1);
        let mut changed = notification.clone();
        changed["Message"] = "Hello world!".into();
        let changed = request(&changed);
        let believed = door.authenticate(&changed, then, Some(&pem)).map(drop);
        assert_eq!(believed, Err(AuthenticationError::NoMatch));
    }
    assert_eq!(told.len(), 4);
}

#[test]
fn a_mail_of_ses_is_read() {
    let Some(folder) = fixtures("webhooks") else {
        return;
    };
    let body = fs::read(folder.join("amazon_ses/inbound_sns_base64.body")).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    // Its own signature is not there: ours covers the same message.
    let now = at(1_700_000_000);
    let signed = kit::notification(body["Message"].as_str().unwrap(), now, true);
    assert_eq!(signed["SigningCertURL"], CERTIFICATE_URL);
    let headers = Headers::new([("x-amz-sns-message-type", b"Notification".as_slice())]);
    let request = WebhookRequest::new(headers, signed.to_string().into(), None);
    let topic = signed["TopicArn"].as_str().unwrap().to_owned();
    let door = Ses::new(vec![topic], Vec::new());
    let pem = kit::certificate();
    let authentic = door
        .authenticate(&request, now, Some(pem.as_bytes()))
        .unwrap();
    let mail = only(&door, authentic);
    assert_eq!(mail.sender.as_deref(), Some("envelope-from@example.org"));
    assert_eq!(mail.recipients.addresses(), ["inbound@example.com"]);
    let view = View::parse(&mail.bytes);
    assert_eq!(view.header.subject.as_deref(), Some("Test inbound message"));
    assert_eq!(mail.results.checks[0].result, "fail");
}
