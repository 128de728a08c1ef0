use bytes::Bytes;
use proptest::prelude::*;

use super::status::{find_code, find_status};
use super::*;
use crate::mail::view::View;

fn words(text: &str) -> Report {
    let view = View::parse(&Bytes::from(format!("To: us@inbox.example\r\n\r\n{text}")));
    Report::read_words(&Outline::of(&view))
}

fn fields(fields: &str) -> Report {
    let mail = format!(
        "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n{fields}\r\n--b--\r\n"
    );
    let view = View::parse(&Bytes::from(mail));
    Report::read(&Outline::of(&view)).unwrap()
}

fn status(text: &str) -> Option<String> {
    find_status(text).map(|status| status.to_string())
}

#[test]
fn status_codes_are_distinguished_from_other_numbers() {
    for (text, wanted) in [
        ("550 5.1.1 no", Some("5.1.1")),
        ("550-5.7.26 no", Some("5.7.26")),
        ("(#5.1.2)", Some("5.1.2")),
        ("'5.2.2 <a@b>", Some("5.2.2")),
        ("it said 4.7.650.", Some("4.7.650")),
        ("[5.4.4] and so on", Some("5.4.4")),
        ("ERROR_CODE :5.1.1 <", Some("5.1.1")),
        ("5.0.0 then 5.2.1", Some("5.2.1")),
        ("5.0.0 alone", Some("5.0.0")),
        ("host 5.4.3.2 is down", None),
        ("host 192.5.1.1 is down", None),
        ("version 8.14.4.5.1", None),
        ("v5.1.1", None),
        ("5.1.1rc2", None),
        ("mx-5.1.1.example.com", None),
        ("2.0.0 ok", None),
        ("5.1.1234", None),
        ("6.1.1", None),
        ("", None),
    ] {
        assert_eq!(status(text).as_deref(), wanted, "{text}");
    }
}

#[test]
fn reply_codes_are_distinguished_from_other_numbers() {
    for (text, wanted) in [
        ("550 no", Some(550)),
        ("said: 421-later", Some(421)),
        ("said:554", Some(554)),
        ("552;full", Some(552)),
        ("192.0.2.550 no", None),
        ("port 5500", None),
        ("500000 mails", None),
        ("a550", None),
        ("466 things", None),
    ] {
        assert_eq!(find_code(text), wanted, "{text}");
    }
}

#[test]
fn words_have_a_status_and_a_reason() {
    for (text, status, reason) in [
        ("550 user unknown", "5.1.1", FailureReason::UserUnknown),
        ("450 mailbox full", "4.2.2", FailureReason::MailboxFull),
        ("Over quota", "5.2.2", FailureReason::MailboxFull),
        (
            "Host or domain name not found",
            "5.1.2",
            FailureReason::HostUnknown,
        ),
        (
            "This account has been disabled",
            "5.2.1",
            FailureReason::MailboxDisabled,
        ),
        (
            "552 message exceeds maximum size",
            "5.3.4",
            FailureReason::TooBig,
        ),
        (
            "554 Relay access denied",
            "5.7.1",
            FailureReason::RelayDenied,
        ),
        ("too many hops", "5.4.6", FailureReason::Loop),
        (
            "connect to x: Connection refused",
            "5.4.1",
            FailureReason::Network,
        ),
        (
            "451 greylisted, try later",
            "4.7.0",
            FailureReason::RateLimited,
        ),
        (
            "554 5.7.1 message looks like spam",
            "5.7.1",
            FailureReason::Content,
        ),
        ("550 5.7.1 SPF check failed", "5.7.1", FailureReason::Policy),
        (
            "550 5.1.1 something in Klingon",
            "5.1.1",
            FailureReason::UserUnknown,
        ),
        (
            "553 Domain of sender address does not resolve",
            "5.1.8",
            FailureReason::SenderRejected,
        ),
        ("554 delivery time expired", "5.4.7", FailureReason::Expired),
        ("554 what", "5.0.0", FailureReason::Unknown),
    ] {
        let found = reason::status(text, DsnAction::Failed).map(|s| s.to_string());
        assert_eq!(found.as_deref(), Some(status), "{text}");
        assert_eq!(FailureReason::of(None, text), reason, "{text}");
    }
    let delayed = reason::status("550 user unknown", DsnAction::Delayed).unwrap();
    assert_eq!(delayed.class(), 4);
}

#[test]
fn hardness_is_the_class_and_blame_is_the_reason() {
    let report = fields(
        "Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.2.2\nDiagnostic-Code: smtp; 552 mailbox full",
    );
    let full = &report.recipients[0];
    assert_eq!(full.hardness(), Hardness::Hard);
    assert!(!full.reason.blames_address());
    let report = fields("Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 4.4.1");
    assert_eq!(report.recipients[0].hardness(), Hardness::Soft);
    let report = fields("Final-Recipient: rfc822; a@b.example\nAction: delayed\nStatus: 5.1.1");
    assert_eq!(report.recipients[0].hardness(), Hardness::Soft);
}

#[test]
fn fields_may_have_any_order_and_form() {
    let mixed = fields(
        "Reporting-MTA: dns; mx.example (8.14)\nAction: failed\nStatus: 5.1.1 (unknown)\n\
         Final-Recipient: RFC822;<a@b.example>\nDiagnostic-Code: X-Unix; code 67\n  user\n\tunknown\n\
         Final-Recipient: c@d.example\nAction: delayed\nStatus: 4.0.0",
    );
    assert_eq!(mixed.reporting_mta.as_deref(), Some("mx.example"));
    assert_eq!(mixed.recipients.len(), 2);
    let first = &mixed.recipients[0];
    assert_eq!(first.address.to_string(), "a@b.example");
    assert_eq!(first.diagnostic.as_deref(), Some("code 67 user unknown"));
    assert_eq!(mixed.recipients[1].action, DsnAction::Delayed);
    assert_eq!(mixed.outcome(), ReportOutcome::Failed);
    let stray = fields(
        "Diagnostic-Code: smtp; 550 5.1.1 no\nStatus: 5.1.1\nAction: failed\n\nFinal-Recipient: rfc822; a@b.example",
    );
    assert_eq!(
        stray.recipients[0].status,
        Some(EnhancedStatus::new(5, 1, 1))
    );
    assert!(!stray.recipients[0].derived);
}

#[test]
fn a_sent_address_is_kept_beside_the_last() {
    let report = fields(
        "Final-Recipient: rfc822; last@b.example\nOriginal-Recipient: rfc822; sent@a.example\nAction: failed",
    );
    let one = &report.recipients[0];
    assert_eq!(one.address.to_string(), "last@b.example");
    assert_eq!(one.original.as_ref().unwrap().to_string(), "sent@a.example");
    assert_eq!(one.status, Some(EnhancedStatus::new(5, 0, 0)));
    assert!(one.derived);
}

#[test]
fn recipients_are_bounded() {
    let many: String = (0..1_000)
        .map(|n| {
            format!("Final-Recipient: rfc822; u{n}@b.example\nAction: failed\nStatus: 5.1.1\n\n")
        })
        .collect();
    assert_eq!(fields(&many).recipients.len(), RECIPIENTS_MAX);
    let many: String = (0..1_000)
        .map(|n| format!("<u{n}@b.example>: 550 no\n"))
        .collect();
    assert_eq!(words(&many).recipients.len(), RECIPIENTS_MAX);
    let long = format!("<a@b.example>: 550 {}", "no ".repeat(10_000));
    let diagnostic = words(&long).recipients[0].diagnostic.clone().unwrap();
    assert!(diagnostic.len() <= DIAGNOSTIC_BYTES_MAX);
}

#[test]
fn the_sender_is_not_among_those_who_failed() {
    let report = words(
        "A message sent by\n\n  <us@inbox.example>\n\ncould not be delivered:\n\n  a@b.example\n    550 no such user\n",
    );
    let addresses: Vec<String> = report
        .recipients
        .iter()
        .map(|r| r.address.to_string())
        .collect();
    assert_eq!(addresses, ["a@b.example"]);
    let report = words(
        "Sorry.\n\na@b.example: 550 no\n\nIf you need help, write to postmaster@b.example or see https://b.example/?u=c@d.example\n",
    );
    assert_eq!(report.recipients.len(), 1);
}

#[test]
fn tokens_are_never_printed() {
    let report = words(
        "<a@b.example>: 550 no\n\n--- copy\n\nReceived: by x\nReply-To: reply+SECRET@inbox.example\nFrom: x@y.example\nMessage-ID: <1@y.example>\n\nhi",
    );
    let original = &report.original;
    assert_eq!(
        original.reply_addresses[0].expose(),
        "reply+SECRET@inbox.example"
    );
    assert_eq!(original.message_id.as_deref(), Some("1@y.example"));
    assert!(!format!("{report:?}").contains("SECRET"));
    assert!(!serde_json::to_string(&report).unwrap().contains("SECRET"));
}

#[test]
fn a_long_diagnostic_does_not_end_within_an_address() {
    let address = "<bounce+word@inbox.example>";
    for pad in DIAGNOSTIC_BYTES_MAX - 50..DIAGNOSTIC_BYTES_MAX {
        for between in ["x".repeat(pad), " ".repeat(pad * 4)] {
            let report = fields(&format!(
                "Reporting-MTA: dns; mx.example\r\n\r\nFinal-Recipient: rfc822; ann@far.example\r\n\
                 Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 {between} {address} no\r\n"
            ));
            let told = report.recipients[0].diagnostic.as_deref().unwrap();
            assert_eq!(told.contains("word"), told.contains(address), "{told}");
        }
    }
}

#[test]
fn a_long_text_without_words_is_walked_once() {
    // Each text would take minutes if any scan were quadratic.
    for text in [
        "@".repeat(200_000),
        "a@".repeat(100_000),
        "\n".repeat(200_000),
        "<a@b.c>\n".repeat(25_000),
        "From: a\n".repeat(25_000),
        "5.".repeat(100_000),
    ] {
        let _ = words(&text);
        let _ = fields(&text);
    }
}

proptest! {
    #[test]
    fn any_words_are_read(text in "(?s).{0,600}") {
        prop_assert!(words(&text).recipients.len() <= RECIPIENTS_MAX);
    }

    #[test]
    fn phrases_of_mail_systems_are_read(parts in proptest::collection::vec(prop_oneof![
        Just("<a@b.example>".to_owned()), Just("550 ".into()), Just("5.1.1".into()), Just("\n".into()), Just(" ".into()),
        Just("--- copy of the message".into()), Just("Received: x".into()), Just("Final-Recipient: rfc822;".into()),
        Just("@".into()), Just("<".into()), Just(">".into()), Just("\"".into()), Just("ü".into()), "\\PC{0,3}",
    ], 0..80)) {
        let text = parts.concat();
        let _ = words(&text);
        let _ = fields(&text);
    }

    #[test]
    fn any_code_is_read(text in "[245.0-9 \\-#a-zé@]{0,40}") {
        let _ = (find_status(&text), find_code(&text));
    }
}
