//! Owns the JSON of the calls to the Messages API, field by field.
//!
//! Does not decide its content and does not send it.

use serde::Serialize;
use serde_json::{Value, json};

use super::parsed_mail::ParsedMail;
use super::sorting::MailboxAssignment;
use crate::auth::Identity;
use crate::clock::Timestamp;
use crate::mail::kind::MailKind;
use crate::mail::verdict::{Verdict, VerdictSource};

/// The value of `sourceType`.
const SOURCE_TYPE: &str = "email";

/// The facts about a mail besides its text.
#[derive(Clone, Copy, Debug)]
pub struct MessageFacts<'a> {
    /// The mailbox and the priority, and the rule that decided.
    pub sorted: &'a MailboxAssignment,
    /// The kind under which the mail is posted.
    pub kind: MailKind,
    /// The results of the sender checks.
    pub verdict: &'a Verdict,
    /// The identity of the author.
    pub identity: Identity,
    /// The reason why the mail belongs to its thread.
    pub reason: &'a str,
    /// Time of receipt.
    pub received_at: Timestamp,
}

/// The body of `POST {base}/threads`.
pub fn thread_body(mail: &ParsedMail, found: &MessageFacts<'_>) -> Value {
    json!({
        "sourceType": SOURCE_TYPE,
        "identityEmail": mail.sender_email,
        "mailbox": found.sorted.mailbox,
        "priority": found.sorted.priority,
        "metadata": {
            "emailFrom": mail.sender_email,
            "emailFromName": mail.sender_name,
            "emailSubject": mail.subject,
            "lastEmailMessageId": mail.message_id,
            "lastEmailReceivedAt": found.received_at.to_rfc3339(),
            "lastEmailMailbox": found.sorted.mailbox,
            "lastEmailPriority": found.sorted.priority,
            "lastEmailRule": found.sorted.rule,
        },
    })
}

/// The body of `POST {base}/threads/{id}/messages`.
pub fn message_body(mail: &ParsedMail, found: &MessageFacts<'_>) -> Value {
    let mut body = json!({
        "sourceType": SOURCE_TYPE,
        "senderEmail": mail.sender_email,
        "senderName": mail.sender_name,
        "body": mail.body,
        "bodyHtml": mail.body_html,
        "quotedText": mail.quoted,
        "subject": mail.subject,
        "emailMessageId": mail.message_id,
        "inReplyTo": mail.in_reply_to.first(),
        "receivedAt": found.received_at.to_rfc3339(),
        "kind": found.kind,
        "attachments": mail.files.listed,
        "authentication": {
            "spf": found.verdict.spf.result,
            "dkim": found.verdict.dkim_result(),
            "dmarc": found.verdict.dmarc.result,
            "arc": found.verdict.arc.result,
            "identity": found.identity,
            "source": verdict_source(&found.verdict.source),
        },
        "match": { "reason": found.reason },
    });
    // Only on the few mails that exceed a bound.
    if !mail.flags.is_empty() {
        let flags = mail.flags.iter().map(|flag| flag.name());
        body["flags"] = flags.collect();
    }
    body
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
        "lastEmailMailbox": found.sorted.mailbox,
        "lastEmailPriority": found.sorted.priority,
        "lastEmailRule": found.sorted.rule,
    });
    // A null would make the product forget the id of the mail before.
    if let Some(id) = &mail.message_id {
        metadata["lastEmailMessageId"] = json!(id);
    }
    json!({ "metadata": metadata })
}

/// The description of an attachment. One that is not stored has neither an id nor a URL; size and
/// hash identify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageAttachment {
    /// The id under which the bytes are stored.
    pub id: Option<String>,
    /// The file name without a path.
    pub filename: Option<String>,
    /// The media type that the sender gave.
    pub content_type: String,
    /// The size in bytes, without transfer encoding.
    pub size: usize,
    /// The SHA-256 of the bytes, in lower-case hex.
    pub sha256: String,
    /// True if the file is shown within the text.
    pub inline: bool,
    /// The Content-ID, which `cid:` in the HTML refers to.
    pub content_id: Option<String>,
    /// The URL of the bytes.
    pub url: Option<String>,
    /// The media type of the first bytes, where it differs from the sender's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected_type: Option<&'static str>,
    /// The reason why the file is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::delivery::attachments::Files;
    use crate::delivery::policy::Disposition;
    use crate::mail::fingerprint::Fingerprint;
    use crate::mail::mailbox::Priority;
    use crate::mail::verdict::{AuthResult, DkimVerdict};
    use crate::mail::view::Flag;

    fn mail() -> ParsedMail {
        ParsedMail {
            sender_email: "ann@example.com".into(),
            sender_name: Some("Ann \"A\" Other".into()),
            subject: "Re: Where is my order?".into(),
            message_id: Some("a2@mail.example.com".into()),
            in_reply_to: vec!["p1@inbox.example.com".into(), "p0@inbox.example.com".into()],
            body: "It came today.\nThank you!".into(),
            body_html: Some("<p>It came today.</p>".into()),
            quoted: Some("> Has it arrived?".into()),
            files: Files {
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
            body: String::new(),
            body_html: None,
            quoted: None,
            files: Files::default(),
            last_sent_at: None,
            flags: BTreeSet::new(),
        }
    }

    fn sorted() -> MailboxAssignment {
        MailboxAssignment {
            mailbox: "fans".to_owned(),
            priority: Priority::Standard,
            rule: Some("fans".to_owned()),
        }
    }

    fn found<'a>(sorted: &'a MailboxAssignment, verdict: &'a Verdict) -> MessageFacts<'a> {
        MessageFacts {
            sorted,
            kind: MailKind::Person,
            verdict,
            identity: Identity::TokenHolder,
            reason: "token",
            received_at: Timestamp::from_millis(1_769_903_999_042),
        }
    }

    /// A golden text is compared as JSON, so that its layout is free and its fields are not.
    fn golden(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_thread_is_this() {
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
        let (sorted, verdict) = (sorted(), Verdict::default());
        assert_eq!(
            thread_body(&mail(), &found(&sorted, &verdict)),
            golden(wanted)
        );
    }

    #[test]
    fn a_message_is_this() {
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
            message_body(&mail(), &found(&sorted(), &verdict)),
            golden(wanted)
        );
    }

    #[test]
    fn a_mail_beyond_a_bound_says_so() {
        let (sorted, verdict) = (sorted(), Verdict::default());
        let cut = ParsedMail {
            flags: BTreeSet::from([Flag::TextCut, Flag::TooManyParts]),
            ..mail()
        };
        let body = message_body(&cut, &found(&sorted, &verdict));
        assert_eq!(body["flags"], golden(r#"["text_cut", "too_many_parts"]"#));
    }

    #[test]
    fn a_bare_mail_has_every_field_still() {
        let (sorted, verdict) = (sorted(), Verdict::default());
        let unverified = MessageFacts {
            identity: Identity::Unverified,
            ..found(&sorted, &verdict)
        };
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
    fn a_patch_is_this() {
        let wanted = r#"{
            "metadata": {
                "lastEmailMessageId": "a2@mail.example.com",
                "lastEmailReceivedAt": "2026-01-31T23:59:59.042Z",
                "lastEmailMailbox": "fans",
                "lastEmailPriority": "standard",
                "lastEmailRule": "fans"
            }
        }"#;
        let (sorted, verdict) = (sorted(), Verdict::default());
        assert_eq!(
            patch_body(&mail(), &found(&sorted, &verdict)),
            golden(wanted)
        );
    }

    #[test]
    fn a_mail_without_an_id_leaves_the_last_one_known() {
        let (sorted, verdict) = (sorted(), Verdict::default());
        let mut nameless = mail();
        nameless.message_id = None;
        let patched = patch_body(&nameless, &found(&sorted, &verdict));
        let metadata = patched["metadata"].as_object().unwrap();
        assert!(!metadata.contains_key("lastEmailMessageId"));
        assert!(metadata.contains_key("lastEmailReceivedAt"));
    }
}
