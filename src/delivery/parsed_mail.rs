//! Owns what one mail means for one recipient: the parts of `mail` put together, once an attempt.
//!
//! Does no I/O and asks nobody: it runs off the async threads.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::attachments::Files;
use super::policy::Disposition;
use super::route::DeliveryRoute;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::dsn::Report;
use crate::mail::envelope::RecipientTarget;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::kind::{ClassifyContext, MailKind, ReversePath, classify};
use crate::mail::reply;
use crate::mail::subject::Subject;
use crate::mail::thread::{ThreadReason, message_ids_to_look_up};
use crate::mail::view::{Flag, View};
use crate::objects::AttachmentLimits;
use crate::store::{Delivery, LastMessage};

/// What a mail says and is.
#[derive(Clone, Debug)]
pub struct ParsedMail {
    /// The same for every copy of the mail to this recipient.
    pub fingerprint: Fingerprint,
    /// What sort of mail it is.
    pub kind: MailKind,
    /// The rule that said so.
    pub kind_rule: &'static str,
    /// What becomes of it.
    pub disposition: Disposition,
    /// What it reports on another mail, if it does.
    pub report: Option<Report>,
    /// The one author in the header.
    pub author: Option<Address>,
    /// The author's address, else the envelope's sender, else what stands in `From`.
    pub sender_email: String,
    /// The author's display name.
    pub sender_name: Option<String>,
    /// The subject as a person reads it; empty if there is none.
    pub subject: String,
    /// The subject without what replies put before it.
    pub normalised_subject: String,
    /// Without angle brackets.
    pub message_id: Option<String>,
    /// The Message-IDs of In-Reply-To.
    pub in_reply_to: Vec<String>,
    /// The Message-IDs that may tell the thread, and why if we sent the mail they name.
    pub thread_references: Vec<(String, ThreadReason)>,
    /// The words the person wrote.
    pub body: String,
    /// The same as HTML made safe.
    pub body_html: Option<String>,
    /// What was quoted.
    pub quoted: Option<String>,
    /// What is attached.
    pub files: Files,
    /// The bounds that the mail exceeds: content beyond them is only in its attachments.
    pub flags: BTreeSet<Flag>,
    /// When we last said something to the author in his thread.
    pub last_sent_at: Option<Timestamp>,
}

impl ParsedMail {
    /// Reads a mail's bytes for one of its recipients.
    pub(super) fn parse(
        bytes: &Bytes,
        (delivery, route): (&Delivery, &DeliveryRoute),
        bounds: Option<&AttachmentLimits>,
    ) -> UncutMail {
        let view = View::parse(bytes);
        let sender = delivery.envelope.sender.as_ref();
        let path = ReversePath::from(&*delivery.envelope);
        let context = ClassifyContext {
            sender: path,
            loop_mark: route.loop_mark.as_deref(),
            message_id_domains: &route.message_id_domains,
            ..ClassifyContext::UNKNOWN
        };
        let (finding, report) = classify(&view, &context);
        let header = &view.header;
        let subject = header.subject.clone().unwrap_or_default();
        let author = header.author().cloned();
        let from = header.from.first();
        let sender_email = author
            .as_ref()
            .or(sender)
            .map(ToString::to_string)
            .or_else(|| from.map(|from| from.text.clone()))
            .unwrap_or_default();
        let mail = Self {
            fingerprint: Fingerprint::of(&delivery.recipient, &view),
            kind: finding.kind,
            kind_rule: finding.rule,
            disposition: Disposition::of(&route.policy.kinds, &finding, path == ReversePath::Null),
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
            report,
            body: String::new(),
            body_html: None,
            quoted: None,
            files: Files::of(&view, bounds),
            last_sent_at: None,
            flags: view.flags.clone(),
        };
        UncutMail {
            answers_nothing: answers_nothing(&view, delivery),
            mail,
            view,
        }
    }
}

/// A mail whose reply text is not cut out yet.
pub(super) struct UncutMail {
    mail: ParsedMail,
    view: View,
    answers_nothing: bool,
}

impl UncutMail {
    /// The mail without its text.
    pub(super) const fn head(&self) -> &ParsedMail {
        &self.mail
    }

    /// Cuts the words of the person out. `known` is what we said last in the mail's thread: what it
    /// quotes of that is recognised.
    pub(super) fn cut_reply(self, marker: &str, known: Option<LastMessage>) -> ParsedMail {
        let Self {
            mut mail,
            view,
            answers_nothing,
        } = self;
        mail.last_sent_at = known.as_ref().map(|message| message.at);
        let known: Vec<&str> = known.iter().map(|message| message.text.as_str()).collect();
        let reply = reply::extract(&reply::ReplyInput {
            text: view.text.as_deref(),
            html: view.html.as_deref(),
            subject: &mail.subject,
            known: &known,
            answers_nothing,
            marker,
        });
        if reply.truncated {
            mail.flags.insert(Flag::TextCut);
        }
        mail.body = reply.text;
        mail.body_html = reply.html;
        mail.quoted = Some(reply.quoted).filter(|quoted| !quoted.is_empty());
        mail
    }
}

/// True if nothing says that the mail answers another: no token, no field, no mark in the subject.
fn answers_nothing(view: &View, delivery: &Delivery) -> bool {
    let header = &view.header;
    let subject = header.subject.as_deref().unwrap_or_default();
    matches!(delivery.recipient.target, RecipientTarget::Mailbox(_))
        && header.in_reply_to.is_empty()
        && header.references.is_empty()
        && !Subject::of(subject).is_reply
}
