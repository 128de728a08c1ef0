//! Every provider in every mode: a valid body, and its response.

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::body::Body;
use super::kit::{
    Kit, basic, generic, mailersend, mailgun, mandrill, postal, sendgrid, sns, sparkpost, svix,
};

/// The text of every valid mail.
pub(super) const WORDS: &str = "Grüße aus der Ferne";

pub(super) fn raw_mail() -> String {
    format!(
        "From: Ann <ann@example.com>\r\nTo: Somebody <else@example.org>\r\nSubject: Hello\r\n\
         Message-ID: <1@example.com>\r\nDate: Sat, 31 Jan 2026 23:59:59 +0100\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n{WORDS}\r\n"
    )
}

const HEADER_BLOCK: &str = "From: Ann <ann@example.com>\nTo: else@example.org\nSubject: Hello\n\
    Message-ID: <1@example.com>\nDate: Sat, 31 Jan 2026 23:59:59 +0100\n\
    Content-Type: multipart/mixed; boundary=x\n";

fn header_pairs() -> Value {
    json!([
        ["Received", "from a by b"],
        ["X-Mailgun-Spf", "Pass"],
        ["From", "Ann <ann@example.com>"],
        ["To", "else@example.org"],
        ["Subject", "Hello"],
        ["Message-ID", "<1@example.com>"],
        ["Date", "Sat, 31 Jan 2026 23:59:59 +0100"],
    ])
}

fn header_map() -> Value {
    json!({
        "From": "Ann <ann@example.com>", "To": "else@example.org", "Subject": "Hello",
        "Message-ID": "<1@example.com>", "Date": "Sat, 31 Jan 2026 23:59:59 +0100",
        "Received": ["from a by b", "from b by c"],
    })
}

fn snsed(to: &str, encoding: &str, content: &str) -> Body {
    Body::Json(json!({
        "notificationType": "Received",
        "mail": {"source": "ann@example.com", "messageId": "ses-1",
            "timestamp": "2018-03-30T17:21:51.636Z", "destination": ["else@example.org"]},
        "receipt": {"recipients": [to], "spfVerdict": {"status": "PASS"},
            "action": {"type": "SNS", "encoding": encoding}},
        "content": content,
    }))
}

pub(super) const KITS: [Kit; 25] = [
    Kit {
        name: "generic",
        mode: "parts",
        sign: generic,
        unproven: 401,
        unroutable: 422,
        too_old: Some(301),
        body: |to| {
            Body::Json(json!({
                "from": "Ann <ann@example.com>", "to": [to], "subject": "Hello", "text": WORDS,
                "html": format!("<p>{WORDS}</p>"), "headers": {"Message-ID": "<1@example.com>",
                "Date": "Sat, 31 Jan 2026 23:59:59 +0100"},
                "attachments": [{"filename": "a.txt", "contentType": "text/plain", "content": "aGk="}],
            }))
        },
    },
    Kit {
        name: "generic",
        mode: "raw",
        sign: generic,
        unproven: 401,
        unroutable: 422,
        too_old: Some(301),
        body: |to| {
            Body::Json(json!({
                "envelope": {"to": [to], "from": "ann@example.com"},
                "raw": BASE64.encode(raw_mail().as_bytes()),
            }))
        },
    },
    Kit {
        name: "standard",
        mode: "raw",
        sign: svix,
        unproven: 401,
        unroutable: 200,
        too_old: Some(301),
        body: |to| {
            Body::Json(json!({
                "to": to, "from": "ann@example.com", "raw": BASE64.encode(raw_mail().as_bytes()),
            }))
        },
    },
    Kit {
        name: "sendgrid",
        mode: "raw",
        sign: sendgrid,
        unproven: 503,
        unroutable: 200,
        too_old: Some(74 * 3600),
        body: sendgrid_raw,
    },
    Kit {
        name: "sendgrid",
        mode: "raw, account",
        sign: basic,
        unproven: 503,
        unroutable: 200,
        too_old: None,
        body: sendgrid_raw,
    },
    Kit {
        name: "sendgrid",
        mode: "parts",
        sign: sendgrid,
        unproven: 503,
        unroutable: 200,
        too_old: Some(74 * 3600),
        body: |to| {
            Body::multipart(&[
                ("attachment1", "hi"),
                ("text", WORDS),
                ("headers", HEADER_BLOCK),
                (
                    "envelope",
                    &json!({"to": [to], "from": "ann@example.com"}).to_string(),
                ),
                ("to", "else@example.org"),
                ("from", "Ann <ann@example.com>"),
                ("subject", "Hello"),
                ("charsets", r#"{"text":"utf-8","to":"UTF-8"}"#),
                ("attachments", "1"),
                (
                    "attachment-info",
                    r#"{"attachment1":{"name":"a.txt","type":"text/plain"}}"#,
                ),
                ("SPF", "pass"),
                ("dkim", "{@example.com : pass}"),
                ("spam_score", "0.1"),
            ])
        },
    },
    Kit {
        name: "mailgun",
        mode: "raw, form",
        sign: mailgun,
        unproven: 401,
        unroutable: 406,
        too_old: Some(10 * 3600),
        body: |to| {
            Body::urlencoded(&[
                ("recipient", to),
                ("sender", "ann@example.com"),
                ("body-mime", &raw_mail()),
                ("subject", "Hello"),
                ("from", "Ann <ann@example.com>"),
            ])
        },
    },
    Kit {
        name: "mailgun",
        mode: "raw, multipart",
        sign: mailgun,
        unproven: 401,
        unroutable: 406,
        too_old: Some(10 * 3600),
        body: |to| {
            Body::multipart(&[
                ("recipient", to),
                ("sender", "ann@example.com"),
                ("body-mime", &raw_mail()),
            ])
        },
    },
    Kit {
        name: "mailgun",
        mode: "parts",
        sign: mailgun,
        unproven: 401,
        unroutable: 406,
        too_old: Some(10 * 3600),
        body: |to| {
            Body::multipart(&[
                ("recipient", to),
                ("sender", "ann@example.com"),
                ("From", "Ann <ann@example.com>"),
                ("message-headers", &header_pairs().to_string()),
                ("body-plain", WORDS),
                ("body-html", "<p>x</p>"),
                ("attachment-count", "1"),
                ("attachment-1", "hi"),
                (
                    "content-id-map",
                    r#"{"<c1>":"attachment-1","":"attachment-1"}"#,
                ),
            ])
        },
    },
    Kit {
        name: "postmark",
        mode: "raw",
        sign: basic,
        unproven: 401,
        unroutable: 403,
        too_old: None,
        body: |to| {
            Body::Json(json!({
                "MessageID": "22c74902-a0c1-4511-804f-341342852c90", "OriginalRecipient": to,
                "Headers": [{"Name": "Return-Path", "Value": "<ann@example.com>"},
                    {"Name": "Received-SPF", "Value": "Pass (sender)"}],
                "RawEmail": raw_mail(),
            }))
        },
    },
    Kit {
        name: "postmark",
        mode: "parts",
        sign: basic,
        unproven: 401,
        unroutable: 403,
        too_old: None,
        body: |to| {
            Body::Json(json!({
                "From": "ann@example.com", "To": "else@example.org", "Subject": "Hello",
                "OriginalRecipient": to, "MessageID": "22c74902-a0c1-4511-804f-341342852c90",
                "MessageStream": "inbound", "Date": "Sat, 31 Jan 2026 23:59:59 +0100",
                "TextBody": WORDS, "HtmlBody": "<p>x</p>", "Tag": "",
                "Headers": [{"Name": "Message-ID", "Value": "<1@example.com>"}],
                "Attachments": [{"Name": "a.txt", "Content": "aGk=", "ContentType": "text/plain",
                    "ContentLength": 2}],
            }))
        },
    },
    Kit {
        name: "ses",
        mode: "base64",
        sign: sns,
        unproven: 503,
        unroutable: 400,
        too_old: Some(10 * 3600),
        body: |to| snsed(to, "BASE64", &BASE64.encode(raw_mail().as_bytes())),
    },
    Kit {
        name: "ses",
        mode: "utf8",
        sign: sns,
        unproven: 503,
        unroutable: 400,
        too_old: Some(10 * 3600),
        body: |to| snsed(to, "UTF8", &raw_mail()),
    },
    Kit {
        name: "postal",
        mode: "raw",
        sign: postal,
        unproven: 503,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::Json(json!({
                "id": 1, "rcpt_to": to, "mail_from": "ann@example.com", "base64": true,
                "message": BASE64.encode(raw_mail().as_bytes()).split_at(60).0.to_owned() + "\n"
                    + BASE64.encode(raw_mail().as_bytes()).split_at(60).1, "size": 25,
            }))
        },
    },
    Kit {
        name: "postal",
        mode: "raw, form",
        sign: postal,
        unproven: 503,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::urlencoded(&[
                ("id", "1"),
                ("rcpt_to", to),
                ("mail_from", "ann@example.com"),
                ("base64", "true"),
                ("message", &BASE64.encode(raw_mail().as_bytes())),
            ])
        },
    },
    Kit {
        name: "postal",
        mode: "parts",
        sign: postal,
        unproven: 503,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::Json(json!({
                "id": 1, "rcpt_to": to, "mail_from": "ann@example.com", "from": "Ann <ann@example.com>",
                "subject": "Hello", "message_id": "1@example.com", "plain_body": WORDS,
                "html_body": null, "date": "Sat, 31 Jan 2026 23:59:59 +0100",
                "attachments": [{"filename": "a", "content_type": "text/plain", "size": 2,
                    "data": "aGk="}],
            }))
        },
    },
    Kit {
        name: "mandrill",
        mode: "raw",
        sign: mandrill,
        unproven: 401,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::urlencoded(&[(
                "mandrill_events",
                &json!([
            {"event": "inbound", "ts": 1, "msg": {"raw_msg": raw_mail(), "email": to,
            "from_email": "ann@example.com", "spf": {"result": "pass"}, "dkim": {"valid": true},
            "spam_report": {"score": 1.5}}}])
                .to_string(),
            )])
        },
    },
    Kit {
        name: "sparkpost",
        mode: "raw",
        sign: sparkpost,
        unproven: 401,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::Json(json!([{"msys": {"relay_message": {
            "rcpt_to": to, "msg_from": "ann@example.com", "content": {
            "email_rfc822": raw_mail(), "email_rfc822_is_base64": false}}}}]))
        },
    },
    Kit {
        name: "sparkpost",
        mode: "base64",
        sign: sparkpost,
        unproven: 401,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::Json(json!([{"msys": {"relay_message": {
            "rcpt_to": to, "msg_from": "ann@example.com", "content": {
            "email_rfc822": BASE64.encode(raw_mail().as_bytes()),
            "email_rfc822_is_base64": true}}}}]))
        },
    },
    Kit {
        name: "mailersend",
        mode: "raw",
        sign: mailersend,
        unproven: 401,
        unroutable: 422,
        too_old: None,
        body: |to| {
            Body::Json(json!({"type": "inbound.message", "data": {
            "id": "ms-1", "recipients": {"rcptTo": [{"email": to}], "to": {}},
            "sender": {"email": "ann@example.com"}, "raw": raw_mail(),
            "spf_check": {"code": "+"}, "dkim_check": true}}))
        },
    },
    Kit {
        name: "brevo",
        mode: "parts",
        sign: basic,
        unproven: 401,
        unroutable: 200,
        too_old: None,
        body: brevo,
    },
    Kit {
        name: "brevo",
        mode: "parts, bearer",
        unproven: 401,
        unroutable: 200,
        too_old: None,
        sign: |_, post, _, right| {
            let token = if right { "bearer-token" } else { "other-token" };
            post.header("Authorization", format!("Bearer {token}"));
        },
        body: brevo,
    },
    Kit {
        name: "mailjet",
        mode: "parts",
        sign: basic,
        unproven: 401,
        unroutable: 200,
        too_old: None,
        body: |to| {
            Body::Json(json!({
                "Sender": "ann@example.com", "Recipient": to, "Date": "20260131T225959",
                "From": "Ann <ann@example.com>", "Subject": "Hello", "Headers": header_map(),
                "Parts": [{"Headers": {"Content-Type": "text/plain"}, "ContentRef": "Text-part"},
                    {"Headers": {"Content-Type": ["text/plain; name=a.txt"],
                    "Content-Disposition": "attachment; filename=\"a.txt\""},
                    "ContentRef": "Attachment1"}],
                "Text-part": WORDS, "Attachment1": "aGk=", "SpamAssassinScore": "0.1",
            }))
        },
    },
    Kit {
        name: "relay",
        mode: "raw",
        sign: basic,
        unproven: 401,
        unroutable: 422,
        too_old: None,
        body: |to| Body::Raw(format!("Delivered-To: {to}\r\n{}", raw_mail()).into_bytes()),
    },
    Kit {
        name: "relay",
        mode: "raw, envelope",
        unproven: 401,
        unroutable: 422,
        too_old: None,
        sign: |body, post, now, right| {
            let mut raw = body.written();
            let line = raw
                .iter()
                .position(|b| *b == b'\n')
                .map_or(raw.len(), |at| at + 1);
            let to: Vec<u8> = raw.drain(..line).collect();
            post.body = raw.into();
            post.header("X-Envelope-To", to.trim_ascii().to_vec());
            post.header("X-Envelope-From", "<ann@example.com>");
            basic(body, post, now, right);
        },
        body: |to| Body::Raw(format!("{to}\r\n{}", raw_mail()).into_bytes()),
    },
];

fn sendgrid_raw(to: &str) -> Body {
    Body::multipart(&[
        ("email", &raw_mail()),
        ("to", "else@example.org"),
        ("from", "Ann <ann@example.com>"),
        (
            "envelope",
            &json!({"to": [to], "from": "ann@example.com"}).to_string(),
        ),
        ("SPF", "pass"),
        ("dkim", "none"),
        ("charsets", r#"{"to":"UTF-8"}"#),
    ])
}

fn brevo(to: &str) -> Body {
    Body::Json(json!({"items": [{
        "Uuid": ["b-1"], "MessageId": "<1@example.com>", "Subject": "Hello",
        "From": {"Name": "Ann", "Address": "ann@example.com"},
        "To": [{"Name": null, "Address": "else@example.org"}],
        "Recipients": [to], "SentAtDate": "Sat, 31 Jan 2026 23:59:59 +0100",
        "Headers": header_map(), "RawTextBody": WORDS, "RawHtmlBody": null, "SpamScore": 0.1,
        "Attachments": [],
    }]}))
}
