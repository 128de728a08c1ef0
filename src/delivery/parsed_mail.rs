//! Owns the interpretation of one mail for one recipient, by the modules of `mail`.
//!
//! Does no I/O. A large mail takes long, so this runs off the async threads.

use std::collections::BTreeSet;

use super::attachments::{FileChoice, Files};
use super::policy::Disposition;
use super::route::DeliveryRoute;
use crate::mail::address::Address;
use crate::mail::calendar::CalendarEvent;
use crate::mail::dsn::Report;
use crate::mail::envelope::{Envelope, Recipient, RecipientTarget};
use crate::mail::fingerprint::Fingerprint;
use crate::mail::kind::{ClassifyContext, MailKind, ReversePath, classify};
use crate::mail::reply::{self, Reply};
use crate::mail::subject::Subject;
use crate::mail::thread::{ThreadReason, message_ids_to_look_up};
use crate::mail::view::{Flag, Omission, View};
use crate::store::QuotedMessage;

/// The circumstances under which a mail is parsed.
#[derive(Clone, Copy)]
pub struct MailContext<'a> {
    /// The envelope of the mail.
    pub envelope: &'a Envelope,
    /// The recipient.
    pub recipient: &'a Recipient,
    /// The route of the recipient.
    pub route: &'a DeliveryRoute,
    /// The choice of the files to store.
    pub files: FileChoice<'a>,
}

/// A parsed mail.
#[derive(Clone, Debug)]
pub struct ParsedMail {
    /// The fingerprint, the same for every copy of the mail to this recipient.
    pub fingerprint: Fingerprint,
    /// The kind of mail.
    pub kind: MailKind,
    /// The rule that decided on the kind.
    pub kind_rule: &'static str,
    /// The evidence for the kind.
    pub kind_evidence: Option<String>,
    /// The decision of the route on mail of this kind.
    pub disposition: Disposition,
    /// The report on another mail, if the mail is one.
    pub report: Option<Report>,
    /// The single author in the header.
    pub author: Option<Address>,
    /// The author's address; without a single author the envelope sender, or else the text of `From`.
    pub sender_email: String,
    /// The author's display name.
    pub sender_name: Option<String>,
    /// The subject as a person reads it; empty if there is none.
    pub subject: String,
    /// The subject without reply prefixes.
    pub normalised_subject: String,
    /// The Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// The Message-IDs of In-Reply-To.
    pub in_reply_to: Vec<String>,
    /// The Message-IDs that may identify the thread, each with the reason if it is one of ours.
    pub thread_references: Vec<(String, ThreadReason)>,
    /// The files of the mail.
    pub files: Files,
    /// The bounds that the mail exceeds: content beyond them is only in its attachments.
    pub flags: BTreeSet<Flag>,
    /// The event of the mail's calendar part.
    pub calendar: Option<CalendarEvent>,
    /// The things of the mail, other than files and the signature, that the message lacks or has in another
    /// form.
    pub omissions: Vec<Omission>,
    /// True if no sign shows that the mail answers another.
    pub answers_nothing: bool,
    /// The message of ours that the reply was compared with.
    pub quoted_message: Option<QuotedMessage>,
    /// The words that the author wrote; empty until [`ParsedMail::extract_reply`].
    pub reply: Reply,
}

impl ParsedMail {
    /// Parses a mail, without its reply.
    pub fn parse(view: &View, context: &MailContext<'_>) -> Self {
        let route = context.route;
        let path = ReversePath::from(context.envelope);
        let classify_context = ClassifyContext {
            sender: path,
            loop_mark: route.loop_mark.as_deref(),
            message_id_domains: &route.message_id_domains,
            ..ClassifyContext::UNKNOWN
        };
        let (classification, report) = classify(view, &classify_context);
        let kind = classification.kind;
        let header = &view.header;
        let subject = header.subject.clone().unwrap_or_default();
        let author = header.author().cloned();
        let from = header.from.first();
        let sender_email = author
            .as_ref()
            .or(context.envelope.sender.as_ref())
            .map(ToString::to_string)
            .or_else(|| from.map(|from| from.text.clone()))
            .unwrap_or_default();
        let disposition = Disposition::of(
            &route.policy.kinds,
            &classification,
            path == ReversePath::Null,
        );
        Self {
            fingerprint: Fingerprint::of(context.recipient, view),
            kind,
            kind_rule: classification.rule,
            kind_evidence: classification.evidence,
            disposition,
            report,
            sender_email,
            sender_name: from.and_then(|from| from.name.clone()),
            author,
            normalised_subject: Subject::of(&subject).normalised,
            subject,
            message_id: header.message_id.clone(),
            in_reply_to: header.in_reply_to.clone(),
            thread_references: message_ids_to_look_up(header)
                .into_iter()
                .map(|(id, reason)| (id.to_owned(), reason))
                .collect(),
            files: Files::of(view, context.files),
            flags: view.flags.clone(),
            calendar: view.calendar.clone(),
            omissions: view.omissions.clone(),
            answers_nothing: answers_nothing(view, context.recipient),
            quoted_message: None,
            reply: Reply::default(),
        }
    }

    /// Extracts the words that the author wrote. Quotes of `quoted_message` are recognised without marks;
    /// `marker` is the line above which people reply.
    pub fn extract_reply(&mut self, view: &View, marker: &str) {
        let known: Vec<&str> = self
            .quoted_message
            .iter()
            .map(|quoted| quoted.text.as_str())
            .collect();
        self.reply = reply::extract(&reply::ReplyInput {
            text: view.text.as_deref(),
            html: view.html.as_deref(),
            subject: &self.subject,
            known: &known,
            answers_nothing: self.answers_nothing,
            marker,
        });
        if self.reply.truncated {
            self.flags.insert(Flag::TextCut);
        }
    }

    /// The quoted text, if there is any.
    pub fn quoted_text(&self) -> Option<&str> {
        Some(self.reply.quoted.as_str()).filter(|quoted| !quoted.is_empty())
    }
}

/// True if no sign shows that the mail answers another: no token, no field, no reply prefix.
fn answers_nothing(view: &View, recipient: &Recipient) -> bool {
    let header = &view.header;
    let subject = header.subject.as_deref().unwrap_or_default();
    matches!(recipient.target, RecipientTarget::Mailbox(_))
        && header.in_reply_to.is_empty()
        && header.references.is_empty()
        && !Subject::of(subject).is_reply
}
