//! Owns the kind of a mail: written by a person, or by a machine.
//!
//! Does not decide how a kind is treated. If a person's mail were taken for a machine's, its words would be
//! lost; so a rule applies only if the mail itself shows that no person wrote it, and a doubtful mail is a
//! person's.

mod absence;
mod automatic;
mod bounce;
mod receipt;
#[cfg(test)]
mod tests;
mod ticket;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::{Address, Domain};
use super::dsn::{Report, ReportForm, ReportOutcome};
use super::envelope::Envelope;
use super::outline::Outline;
use super::text::without_controls;
use super::view::View;

/// The field with the loop mark on outgoing mail. The value names the instance.
pub const LOOP_FIELD: &str = "X-Postern-Loop";
/// A mail with more `Received` fields is in a loop (RFC 5321 section 6.3).
pub const HOPS_MAX: usize = 50;

/// The kind of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailKind {
    /// A person wrote the mail. Mail that matches no rule is of this kind.
    Person,
    /// An automatic answer or notification: absence notes, ticket receipts, alarms (RFC 3834).
    AutoReply,
    /// A report on the delivery of a mail: a failure, or a success that its sender asked to have reported.
    /// [`Report::outcome`] distinguishes them.
    Bounce,
    /// A report that a mail is still waiting and not yet lost.
    DelayNotice,
    /// A complaint about a mail (RFC 5965), or an opt-out that a mail program sends.
    FeedbackReport,
    /// A report that a mail was, or was not, displayed (RFC 8098).
    ReadReceipt,
    /// The mail of a mailing list or a mass mailer.
    List,
    /// The answer to an invitation (RFC 6047).
    Calendar,
    /// A mail of ours that came back.
    Loop,
}

impl MailKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Person,
        Self::AutoReply,
        Self::Bounce,
        Self::DelayNotice,
        Self::FeedbackReport,
        Self::ReadReceipt,
        Self::List,
        Self::Calendar,
        Self::Loop,
    ];

    /// The name in logs, JSON and rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::AutoReply => "auto_reply",
            Self::Bounce => "bounce",
            Self::DelayNotice => "delay_notice",
            Self::FeedbackReport => "feedback_report",
            Self::ReadReceipt => "read_receipt",
            Self::List => "list",
            Self::Calendar => "calendar",
            Self::Loop => "loop",
        }
    }

    /// True if a person wrote the mail.
    pub const fn is_person(self) -> bool {
        matches!(self, Self::Person)
    }
}

impl fmt::Display for MailKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind, and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Classification {
    /// The kind.
    pub kind: MailKind,
    /// The name of the rule that decided, in snake case. It is stable, because operators search logs for
    /// it.
    pub rule: &'static str,
    /// The evidence: the names of fields, sometimes their values, never an address.
    pub evidence: Option<String>,
    /// False if the only evidence is a single sign. Such mail is not dropped.
    pub is_certain: bool,
}

impl Classification {
    fn new(kind: MailKind, rule: &'static str) -> Self {
        Self {
            kind,
            rule,
            evidence: None,
            is_certain: true,
        }
    }

    fn with_evidence(mut self, evidence: &str) -> Self {
        self.evidence = Some(without_controls(evidence, 80));
        self
    }
}

/// The envelope sender, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath<'a> {
    /// There is no envelope, as in a polled mailbox, or it gives no sender: the mail's `Return-Path`
    /// counts.
    Unknown,
    /// The null sender `<>`: no report may be sent (RFC 5321 section 4.5.5).
    Null,
    /// An address.
    Address(&'a Address),
}

impl<'a> From<&'a Envelope> for ReversePath<'a> {
    fn from(envelope: &'a Envelope) -> Self {
        match &envelope.sender {
            None if envelope.sender_untold => Self::Unknown,
            sender => sender.as_ref().into(),
        }
    }
}

impl<'a> From<Option<&'a Address>> for ReversePath<'a> {
    /// Converts an envelope sender; `None` is the null sender.
    fn from(sender: Option<&'a Address>) -> Self {
        sender.map_or(Self::Null, Self::Address)
    }
}

/// The context of a mail, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ClassifyContext<'a> {
    /// The envelope sender.
    pub sender: ReversePath<'a>,
    /// The value that our instance writes into [`LOOP_FIELD`].
    pub loop_mark: Option<&'a str>,
    /// Domains in which only Postern makes Message-IDs. A domain whose people send other mail must not be
    /// listed.
    pub message_id_domains: &'a [Domain],
    /// The ids (RFC 2919) of lists that forward people's mail to us, such as a group used as a shared
    /// mailbox: their mail counts as people's.
    pub own_lists: &'a [String],
}

impl ClassifyContext<'_> {
    /// A context without any knowledge.
    pub const UNKNOWN: ClassifyContext<'static> = ClassifyContext {
        sender: ReversePath::Unknown,
        loop_mark: None,
        message_id_domains: &[],
        own_lists: &[],
    };
}

/// Determines the kind of a mail, and parses the report if it is one.
pub fn classify(view: &View, context: &ClassifyContext<'_>) -> (Classification, Option<Report>) {
    let mail = &Outline::of(view);
    let traits = SenderTraits::of(mail, context);
    if let Some(finding) = loop_by_mark(mail, context) {
        return (finding, None);
    }
    if let Some(report) = Report::read(mail)
        && let Some(finding) = classify_report(mail, &report, &traits)
    {
        return (finding, Some(report));
    }
    if let Some((finding, report)) = bounce::find(mail, &traits) {
        return (finding, Some(report));
    }
    let finding = loop_by_trace(mail, context)
        .or_else(|| receipt::find(mail))
        .or_else(|| calendar(mail))
        .or_else(|| automatic::find(mail, &traits))
        .or_else(|| absence::find(mail))
        .or_else(|| ticket::find(mail))
        .or_else(|| weigh_signs(mail, &traits))
        .unwrap_or_else(|| Classification::new(MailKind::Person, "nothing_says_machine"));
    (finding, None)
}

/// Combines the signs that are no proof. Two signs decide. A single sign does not decide for an answer that
/// has words; any other mail with one is in doubt.
fn weigh_signs(mail: &Outline<'_>, traits: &SenderTraits) -> Option<Classification> {
    const WORDS_BYTES_MAX: usize = 4_096;
    let signs: Vec<Classification> = automatic::signs(mail, traits)
        .chain(absence::signs(mail))
        .collect();
    let first = signs.first()?;
    let names = signs.iter().filter_map(|sign| sign.evidence.as_deref());
    let evidence = names.collect::<Vec<_>>().join(", ");
    let is_answer = traits.is_for_us || mail.has("In-Reply-To") || mail.has("References");
    let has_words = !mail.opening(WORDS_BYTES_MAX).trim().is_empty();
    let found = if signs.len() == 1 && is_answer && has_words {
        Classification::new(MailKind::Person, "one_sign_only")
    } else {
        Classification {
            is_certain: signs.len() > 1,
            ..Classification::new(first.kind, first.rule)
        }
    };
    Some(found.with_evidence(&evidence))
}

/// Traits of the sender that several rules use.
struct SenderTraits {
    /// True if the envelope sender is `<>`, or there is no envelope and the `Return-Path` is `<>`.
    null_sender: bool,
    /// True if that path names the mail system.
    path_is_daemon: bool,
    /// The local part of the `From` address, lower-cased; empty if it has none.
    from_local: String,
    /// True if a list, if there is one, forwarded the mail to us: its header answers a mail of ours, or the
    /// list is our own.
    is_for_us: bool,
}

impl SenderTraits {
    fn of(mail: &Outline<'_>, context: &ClassifyContext<'_>) -> Self {
        let daemon = "mailer-daemon";
        let (null_sender, path_is_daemon) = match context.sender {
            ReversePath::Null => (true, false),
            ReversePath::Address(path) => (false, path.local().eq_ignore_ascii_case(daemon)),
            ReversePath::Unknown => {
                let path = mail.field("Return-Path").unwrap_or_default();
                (
                    is_null_path(path),
                    path.to_ascii_lowercase().contains(daemon),
                )
            }
        };
        let from_local = local_of(mail.field("From").unwrap_or_default());
        let named = mail.all("In-Reply-To").chain(mail.all("References"));
        Self {
            null_sender,
            path_is_daemon,
            from_local,
            is_for_us: is_own_list(mail, context.own_lists)
                || named
                    .flat_map(message_ids)
                    .any(|id| is_ours(id, context.message_id_domains)),
        }
    }
}

fn is_own_list(mail: &Outline<'_>, own: &[String]) -> bool {
    let ids = mail.all("List-Id");
    let id = |value: &str| {
        let inner = value.rsplit_once('<').map_or(value, |(_, id)| id);
        inner.trim_end_matches('>').trim().to_lowercase()
    };
    ids.map(id)
        .any(|id| own.iter().any(|own| own.to_lowercase() == id))
}

fn is_null_path(value: &str) -> bool {
    value
        .chars()
        .filter(|c| !c.is_whitespace())
        .eq("<>".chars())
}

/// The local part of the address in a `From` field, lower-cased. Old mailers write a local part alone.
fn local_of(value: &str) -> String {
    let address = match (value.rfind('<'), value.rfind('>')) {
        (Some(open), Some(close)) if open < close => &value[open + 1..close],
        _ => value.split('(').next().unwrap_or_default(),
    };
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
    local.trim().to_lowercase()
}

/// The Message-IDs in a field, without their brackets (RFC 5322 section 3.6.4).
fn message_ids(value: &str) -> impl Iterator<Item = &str> {
    let ids = value.split('<').skip(1);
    ids.filter_map(|rest| rest.split_once('>').map(|(id, _)| id.trim()))
}

fn is_ours(id: &str, domains: &[Domain]) -> bool {
    id.rsplit_once('@')
        .and_then(|(_, domain)| Domain::parse(domain).ok())
        .is_some_and(|domain| domains.contains(&domain))
}

fn loop_by_mark(mail: &Outline<'_>, context: &ClassifyContext<'_>) -> Option<Classification> {
    let mark = context.loop_mark?;
    mail.all(LOOP_FIELD)
        .any(|value| value == mark)
        .then(|| Classification::new(MailKind::Loop, "loop_mark").with_evidence(LOOP_FIELD))
}

/// Runs after the report rules: the Message-ID of a report may be in our domain if the reporting server
/// shares our name, and such a report is still a report.
fn loop_by_trace(mail: &Outline<'_>, context: &ClassifyContext<'_>) -> Option<Classification> {
    if mail.all("Received").count() > HOPS_MAX {
        return Some(
            Classification::new(MailKind::Loop, "too_many_hops").with_evidence("Received"),
        );
    }
    message_ids(mail.field("Message-ID")?)
        .any(|id| is_ours(id, context.message_id_domains))
        .then(|| Classification::new(MailKind::Loop, "own_message_id").with_evidence("Message-ID"))
}

fn classify_report(
    mail: &Outline<'_>,
    report: &Report,
    traits: &SenderTraits,
) -> Option<Classification> {
    if report.form == ReportForm::Prose {
        return bounce::find_loose(mail, report, traits);
    }
    let (kind, rule) = match (report.form, report.outcome()) {
        (ReportForm::Feedback, _) => (MailKind::FeedbackReport, "feedback_report"),
        (ReportForm::Disposition, _) => (MailKind::ReadReceipt, "disposition_notification"),
        (_, ReportOutcome::Delayed) => (MailKind::DelayNotice, "delivery_status_delayed"),
        _ => (MailKind::Bounce, "delivery_status"),
    };
    Some(Classification::new(kind, rule).with_evidence(&mail.content().media_type))
}

/// An answer to an invitation. An invitation itself is a person's mail, because it asks for an answer.
fn calendar(mail: &Outline<'_>) -> Option<Classification> {
    let answer =
        |method: &str| matches!(method, "reply" | "counter" | "refresh" | "declinecounter");
    mail.leaves()
        .iter()
        .filter(|part| !part.content.is_attachment && part.media == "text/calendar")
        .find_map(|part| {
            let method = part
                .content
                .parameter("method")
                .map(str::to_ascii_lowercase);
            let method = method.or_else(|| method_of(&part.text))?;
            answer(&method).then(|| {
                Classification::new(MailKind::Calendar, "calendar_answer").with_evidence(&method)
            })
        })
}

/// The `METHOD` property of an iCalendar object (RFC 5545 section 3.7.2). It stands before the first
/// component, so few lines are read.
fn method_of(text: &str) -> Option<String> {
    text.lines().take(20).find_map(|line| {
        line.trim()
            .to_ascii_lowercase()
            .strip_prefix("method:")
            .map(str::to_owned)
    })
}
