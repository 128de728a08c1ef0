//! Owns the JSON of the calls to the Messages API, field by field.
//!
//! Does not decide its content and does not send it.

use serde_json::{Value, json};

use super::omitted::{omitted, warnings};
use super::parsed_mail::ParsedMail;
use crate::clock::Timestamp;
use crate::mail::reply::Confidence;
use crate::mail::verdict::{Verdict, VerdictSource};
use crate::store::PlannedPost;

/// The value of `sourceType`.
const SOURCE_TYPE: &str = "email";

/// The facts about a mail besides its text. They stay the same in every attempt, so that repeated calls
/// have equal bodies.
#[derive(Clone, Copy, Debug)]
pub struct MessageFacts<'a> {
    /// The decisions on the mail.
    pub post: &'a PlannedPost,
    /// The results of the sender checks.
    pub verdict: &'a Verdict,
    /// Time of receipt.
    pub received_at: Timestamp,
}

/// The body of `POST {base}/threads`.
pub fn thread_body(mail: &ParsedMail, found: &MessageFacts<'_>) -> Value {
    json!({
        "sourceType": SOURCE_TYPE,
        "identityEmail": mail.sender_email,
        "mailbox": found.post.mailbox,
        "priority": found.post.priority,
        "metadata": {
            "emailFrom": mail.sender_email,
            "emailFromName": mail.sender_name,
            "emailSubject": mail.subject,
            "lastEmailMessageId": mail.message_id,
            "lastEmailReceivedAt": found.received_at.to_rfc3339(),
            "lastEmailMailbox": found.post.mailbox,
            "lastEmailPriority": found.post.priority,
            "lastEmailRule": found.post.rule,
        },
    })
}

/// The body of `POST {base}/threads/{id}/messages`.
pub fn message_body(mail: &ParsedMail, found: &MessageFacts<'_>) -> Value {
    let mut body = json!({
        "sourceType": SOURCE_TYPE,
        "senderEmail": mail.sender_email,
        "senderName": mail.sender_name,
        "body": mail.reply.text,
        "bodyHtml": mail.reply.html,
        "quotedText": mail.quoted_text(),
        "subject": mail.subject,
        "emailMessageId": mail.message_id,
        "inReplyTo": mail.in_reply_to.first(),
        "receivedAt": found.received_at.to_rfc3339(),
        "kind": found.post.kind,
        "attachments": mail.files.listed,
        "authentication": {
            "spf": found.verdict.spf.result,
            "dkim": found.verdict.dkim_result(),
            "dmarc": found.verdict.dmarc.result,
            "arc": found.verdict.arc.result,
            "identity": found.post.identity,
            "source": verdict_source(&found.verdict.source),
        },
        "match": { "reason": found.post.reason },
    });
    add_account(mail, &mut body);
    // Present only on mails that exceed a bound.
    if !mail.flags.is_empty() {
        let flags = mail.flags.iter().map(|flag| flag.name());
        body["flags"] = flags.collect();
    }
    body
}

/// Adds the fields that only some messages have: the event, the omitted things, and the warnings.
fn add_account(mail: &ParsedMail, body: &mut Value) {
    if let Some(event) = &mail.calendar {
        body["calendar"] = json!(event);
    }
    let omitted = omitted(mail);
    if !omitted.is_empty() {
        body["omitted"] = json!(omitted);
    }
    if mail.reply.confidence != Confidence::High {
        body["confidence"] = json!(mail.reply.confidence);
    }
    let warnings = warnings(mail);
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
}

/// The source of the sender checks' results.
fn verdict_source(source: &VerdictSource) -> String {
    match source {
        VerdictSource::Nobody => "nobody".to_owned(),
        VerdictSource::Postern => "postern".to_owned(),
        VerdictSource::Relay(id) => format!("relay:{id}"),
        VerdictSource::Provider(name) => format!("provider:{name}"),
    }
}

/// The body of `PATCH {base}/threads/{id}`.
pub fn patch_body(mail: &ParsedMail, found: &MessageFacts<'_>) -> Value {
    let mut metadata = json!({
        "lastEmailReceivedAt": found.received_at.to_rfc3339(),
        "lastEmailMailbox": found.post.mailbox,
        "lastEmailPriority": found.post.priority,
        "lastEmailRule": found.post.rule,
    });
    // A null would make the product forget the id of the mail before.
    if let Some(id) = &mail.message_id {
        metadata["lastEmailMessageId"] = json!(id);
    }
    json!({ "metadata": metadata })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::auth::Identity;
    use crate::delivery::attachments::{Files, MessageAttachment};
    use crate::delivery::policy::Disposition;
    use crate::mail::calendar::CalendarEvent;
    use crate::mail::fingerprint::Fingerprint;
    use crate::mail::kind::MailKind;
    use crate::mail::mailbox::Priority;
    use crate::mail::reply::Reply;
    use crate::mail::thread::ThreadReason;
    use crate::mail::verdict::{AuthResult, DkimVerdict};
    use crate::mail::view::{Flag, Omission, OmissionReason};

    fn mail() -> ParsedMail {
        ParsedMail {
            sender_email: "ann@example.com".into(),
            sender_name: Some("Ann \"A\" Other".into()),
            subject: "Re: Where is my order?".into(),
            message_id: Some("a2@mail.example.com".into()),
            in_reply_to: vec!["p1@inbox.example.com".into(), "p0@inbox.example.com".into()],
            reply: Reply {
                text: "It came today.\nThank you!".into(),
                html: Some("<p>It came today.</p>".into()),
                quoted: "> Has it arrived?".into(),
                ..Reply::default()
            },
            files: Files {
                known_images: Vec::new(),
                to_store: Vec::new(),
                listed: vec![MessageAttachment {
                    id: None,
                    filename: Some("photo.jpg".into()),
                    content_type: "image/jpeg".into(),
                    size: 4,
                    sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
                        .into(),
                    inline: true,
                    content_id: Some("c1@mail".into()),
                    url: None,
                    detected_type: None,
                    skipped: None,
                }],
            },
            ..bare()
        }
    }

    fn bare() -> ParsedMail {
        ParsedMail {
            fingerprint: Fingerprint([0; 16]),
            kind: MailKind::Person,
            kind_rule: "nothing_says_machine",
            kind_evidence: None,
            disposition: Disposition::Post(MailKind::Person),
            report: None,
            author: None,
            sender_email: "ann@example.com".into(),
            sender_name: None,
            subject: String::new(),
            normalised_subject: String::new(),
            message_id: None,
            in_reply_to: Vec::new(),
            thread_references: Vec::new(),
            files: Files::default(),
            flags: BTreeSet::new(),
            calendar: None,
            omissions: Vec::new(),
            answers_nothing: false,
            quoted_message: None,
            reply: Reply::default(),
        }
    }

    fn planned(identity: Identity) -> PlannedPost {
        PlannedPost {
            thread_id: None,
            reason: ThreadReason::Token,
            kind: MailKind::Person,
            identity: identity.as_str().to_owned(),
            mailbox: "fans".to_owned(),
            priority: Priority::Standard,
            rule: Some("fans".to_owned()),
            introduces_author: false,
            known_images: Vec::new(),
            quoted: None,
            links: None,
            skipped_files: None,
            reply_marker: None,
        }
    }

    fn facts<'a>(post: &'a PlannedPost, verdict: &'a Verdict) -> MessageFacts<'a> {
        MessageFacts {
            post,
            verdict,
            received_at: Timestamp::from_millis(1_769_903_999_042),
        }
    }

    /// An expected text is compared as JSON, so that its layout does not matter but its fields do.
    fn golden(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn thread_bodies_have_the_expected_json() {
        let wanted = r#"{
            "sourceType": "email",
            "identityEmail": "ann@example.com",
            "mailbox": "fans",
            "priority": "standard",
            "metadata": {
                "emailFrom": "ann@example.com",
                "emailFromName": "Ann \"A\" Other",
                "emailSubject": "Re: Where is my order?",
                "lastEmailMessageId": "a2@mail.example.com",
                "lastEmailReceivedAt": "2026-01-31T23:59:59.042Z",
                "lastEmailMailbox": "fans",
                "lastEmailPriority": "standard",
                "lastEmailRule": "fans"
            }
        }"#;
        let (post, verdict) = (planned(Identity::TokenHolder), Verdict::default());
        assert_eq!(
            thread_body(&mail(), &facts(&post, &verdict)),
            golden(wanted)
        );
    }

    #[test]
    fn message_bodies_have_the_expected_json() {
        let wanted = r#"{
            "sourceType": "email",
            "senderEmail": "ann@example.com",
            "senderName": "Ann \"A\" Other",
            "body": "It came today.\nThank you!",
            "bodyHtml": "<p>It came today.</p>",
            "quotedText": "> Has it arrived?",
            "subject": "Re: Where is my order?",
            "emailMessageId": "a2@mail.example.com",
            "inReplyTo": "p1@inbox.example.com",
            "receivedAt": "2026-01-31T23:59:59.042Z",
            "kind": "person",
            "attachments": [{
                "id": null,
                "filename": "photo.jpg",
                "contentType": "image/jpeg",
                "size": 4,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "inline": true,
                "contentId": "c1@mail",
                "url": null
            }],
            "authentication": {
                "spf": "softfail", "dkim": "pass", "dmarc": "pass", "arc": "none",
                "identity": "token-holder", "source": "nobody"
            },
            "match": { "reason": "token" }
        }"#;
        let mut verdict = Verdict::default();
        verdict.spf.result = AuthResult::Softfail;
        verdict.dmarc.result = AuthResult::Pass;
        for result in [AuthResult::Fail, AuthResult::Pass] {
            verdict.dkim.push(DkimVerdict {
                result,
                ..DkimVerdict::default()
            });
        }
        assert_eq!(
            message_body(&mail(), &facts(&planned(Identity::TokenHolder), &verdict)),
            golden(wanted)
        );
    }

    #[test]
    fn a_mail_beyond_a_bound_has_flags() {
        let (post, verdict) = (planned(Identity::TokenHolder), Verdict::default());
        let cut = ParsedMail {
            flags: BTreeSet::from([Flag::TextCut, Flag::TooManyParts]),
            ..mail()
        };
        let body = message_body(&cut, &facts(&post, &verdict));
        assert_eq!(body["flags"], golden(r#"["text_cut", "too_many_parts"]"#));
    }

    #[test]
    fn a_message_says_what_was_left_out_and_why() {
        let (post, verdict) = (planned(Identity::TokenHolder), Verdict::default());
        let mut told = mail();
        told.reply.signature = "Ann Other\nHead of Parcels".into();
        told.reply.confidence = Confidence::Low;
        told.files.listed[0].skipped = Some("too_large");
        told.files.known_images = vec!["logo.png".into()];
        told.flags = BTreeSet::from([Flag::TextCut]);
        told.omissions = vec![Omission {
            what: "smime.p7m".into(),
            why: OmissionReason::Encrypted,
        }];
        told.calendar = Some(CalendarEvent {
            method: Some("reply".into()),
            uid: Some("7@a".into()),
            summary: Some("Visit".into()),
            start: Some("2026-11-20T10:00:00".into()),
            time_zone: Some("Europe/Berlin".into()),
            status: Some("accepted".into()),
            ..CalendarEvent::default()
        });
        let body = message_body(&told, &facts(&post, &verdict));
        assert_eq!(
            body["omitted"],
            golden(
                r#"[
                {"what": "smime.p7m", "why": "encrypted"},
                {"what": "photo.jpg", "why": "too_large"},
                {"what": "logo.png", "why": "known_image"},
                {"what": "signature", "why": "signature"}
            ]"#
            )
        );
        assert_eq!(body["confidence"], "low");
        assert_eq!(
            body["warnings"],
            golden(r#"["text_cut", "encrypted", "answers_may_hide"]"#)
        );
        assert_eq!(
            body["calendar"],
            golden(
                r#"{
                "method": "reply", "uid": "7@a", "summary": "Visit",
                "start": "2026-11-20T10:00:00", "end": null, "timeZone": "Europe/Berlin",
                "status": "accepted"
            }"#
            )
        );
        let whole = message_body(&mail(), &facts(&post, &verdict));
        for field in ["omitted", "confidence", "warnings", "calendar"] {
            assert!(whole.get(field).is_none(), "{field}");
        }
    }

    #[test]
    fn a_minimal_mail_has_every_field() {
        let (post, verdict) = (planned(Identity::Unverified), Verdict::default());
        let unverified = facts(&post, &verdict);
        let wanted = r#"{
            "sourceType": "email",
            "senderEmail": "ann@example.com",
            "senderName": null,
            "body": "",
            "bodyHtml": null,
            "quotedText": null,
            "subject": "",
            "emailMessageId": null,
            "inReplyTo": null,
            "receivedAt": "2026-01-31T23:59:59.042Z",
            "kind": "person",
            "attachments": [],
            "authentication": {
                "spf": "none", "dkim": "none", "dmarc": "none", "arc": "none",
                "identity": "unverified", "source": "nobody"
            },
            "match": { "reason": "token" }
        }"#;
        assert_eq!(message_body(&bare(), &unverified), golden(wanted));
    }

    #[test]
    fn patch_bodies_have_the_expected_json() {
        let wanted = r#"{
            "metadata": {
                "lastEmailMessageId": "a2@mail.example.com",
                "lastEmailReceivedAt": "2026-01-31T23:59:59.042Z",
                "lastEmailMailbox": "fans",
                "lastEmailPriority": "standard",
                "lastEmailRule": "fans"
            }
        }"#;
        let (post, verdict) = (planned(Identity::TokenHolder), Verdict::default());
        assert_eq!(patch_body(&mail(), &facts(&post, &verdict)), golden(wanted));
    }

    #[test]
    fn a_mail_without_an_id_keeps_the_last_known_one() {
        let (post, verdict) = (planned(Identity::TokenHolder), Verdict::default());
        let mut nameless = mail();
        nameless.message_id = None;
        let patched = patch_body(&nameless, &facts(&post, &verdict));
        let metadata = patched["metadata"].as_object().unwrap();
        assert!(!metadata.contains_key("lastEmailMessageId"));
        assert!(metadata.contains_key("lastEmailReceivedAt"));
    }
}
