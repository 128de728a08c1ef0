//! Owns bounces in prose: those from before RFC 3464, and newer ones that ignore it.
//!
//! Trusts the words only if the sender's address is a machine's: people quote and forward bounces.

use super::{Classification, MailKind, SenderTraits};
use crate::mail::dsn::{Report, ReportOutcome, ReportedRecipient, speaks_of_delay, words};
use crate::mail::outline::Outline;

/// Bytes of the text that are searched for the phrases of a bounce.
const OPENING_BYTES_MAX: usize = 4_096;

/// A bounce in no form that a report parser knows, and the report in its words.
pub(super) fn find(mail: &Outline<'_>, traits: &SenderTraits) -> Option<(Classification, Report)> {
    // Exim and related servers write this field, and no other program does.
    if mail.has("X-Failed-Recipients") {
        return Some(from_words(
            mail,
            "failed_recipients_field",
            "X-Failed-Recipients",
        ));
    }
    let machine = MachineCertainty::of(mail, traits)?;
    if mail.has("X-MS-Embedded-Report") || mail.has("X-Bounced-Address") {
        return Some(from_words(mail, "bounce_field", "From"));
    }
    let subject = has_bounce_subject(mail);
    let opening = has_bounce_opening(mail);
    match machine {
        MachineCertainty::Daemon => {
            let answer = |value: &str| value.starts_with("auto-replied");
            let is_answer = mail.field("Auto-Submitted").is_some_and(answer);
            (subject || opening || !is_answer)
                .then(|| from_words(mail, "mailer_daemon_sender", "From"))
        }
        MachineCertainty::Nobody => {
            (subject || opening).then(|| from_words(mail, "bounce_words", "Return-Path"))
        }
        // A person may use such an address: one sign is not enough.
        MachineCertainty::Role => {
            let found = (subject || opening).then(|| from_words(mail, "bounce_words", "Subject"));
            found
                .filter(|_| !is_forwarded(mail))
                .filter(|(_, report)| (subject && opening) || names_refusal(report))
        }
    }
}

fn from_words(mail: &Outline<'_>, rule: &'static str, seen: &str) -> (Classification, Report) {
    let report = Report::read_words(mail);
    (
        Classification::new(kind_of_failure(mail), rule).with_evidence(seen),
        report,
    )
}

/// True if the words name a recipient and a precise reason.
fn names_refusal(report: &Report) -> bool {
    let precise =
        |recipient: &ReportedRecipient| recipient.status.is_some_and(|status| !status.is_vague());
    report.recipients.iter().any(precise)
}

/// A delivery report that is not a `multipart/report`, or stands in the text.
pub(super) fn find_loose(
    mail: &Outline<'_>,
    report: &Report,
    traits: &SenderTraits,
) -> Option<Classification> {
    // A program that forwards a report attaches its parts, or marks the subject.
    let inline = mail
        .leaves()
        .iter()
        .any(|leaf| leaf.media.ends_with("delivery-status") && !leaf.content.is_attachment);
    if MachineCertainty::of(mail, traits).is_none()
        && !(inline && has_bounce_subject(mail) && !is_forwarded(mail))
    {
        return None;
    }
    let kind = match report.outcome() {
        ReportOutcome::Delayed => MailKind::DelayNotice,
        ReportOutcome::Failed | ReportOutcome::Delivered => MailKind::Bounce,
    };
    Some(Classification::new(kind, "delivery_status_loose"))
}

/// The certainty that no person uses the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MachineCertainty {
    /// The mail system itself.
    Daemon,
    /// An address that accepts no reports: `<>` in the envelope, or no sender.
    Nobody,
    /// A role address.
    Role,
}

impl MachineCertainty {
    fn of(mail: &Outline<'_>, traits: &SenderTraits) -> Option<Self> {
        let local = traits.from_local.as_str();
        let base = local.split('+').next().unwrap_or_default();
        if DAEMONS.contains(&base) || traits.path_is_daemon {
            return Some(Self::Daemon);
        }
        let exchange = local.starts_with("microsoftexchange");
        let unnamed = local.is_empty() && mail.field("From").is_some();
        if traits.null_sender || unnamed {
            return Some(Self::Nobody);
        }
        let list = SUFFIXES.iter().any(|suffix| base.ends_with(suffix));
        let from = mail.field("From").unwrap_or_default().to_lowercase();
        let named = NAMES.iter().any(|name| from.contains(name));
        (ROLES.contains(&base) || exchange || list || named).then_some(Self::Role)
    }
}

/// Local parts of the mail system itself.
#[rustfmt::skip]
const DAEMONS: &[&str] = &[
    "mailer-daemon", "mailerdaemon", "mailer_daemon", "mail-daemon", "maildaemon",
    "mail.delivery.system", "mail-delivery-system", "mail.delivery.subsystem",
    "mail-delivery-subsystem", "maildelivery",
];

/// Local parts that a person may use too.
#[rustfmt::skip]
const ROLES: &[&str] = &[
    "postmaster", "post_master", "post-master", "poostmaster", "postmast", "mailer", "mta",
    "mailadmin", "mail-admin", "bounce", "bounces", "no-reply", "noreply", "no_reply", "donotreply",
    "do-not-reply", "interscan", "system", "mailsystem", "mail", "administrator", "sysadmin",
    "system_admin", "sa", "staff", "complaints", "smtp", "root", "daemon", "delivery", "mmsc",
    "mms", "gateway", "feedback", "fbl", "abuse", "spam", "scomp", "antivirus", "symantec",
    "quarantine",
];

/// Suffixes of the addresses of list software.
#[rustfmt::skip]
const SUFFIXES: &[&str] = &[
    "-admin", "-owner", "-bounces", "-request",
];

/// Display names of mail systems.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "mail delivery s", "mail deliver system", "mailer-daemon", "mailer daemon", "postmaster",
    "courier mail server", "interscan", "mail system", "mail administrator", "system administrator",
    "mcafee", "symantec", "mail router", "mail gateway",
];

/// True if the subject marks an answer or a forward.
fn is_forwarded(mail: &Outline<'_>) -> bool {
    const MARKS: &[&str] = &[
        "re", "fw", "fwd", "aw", "wg", "tr", "sv", "vs", "rv", "res", "enc", "i", "rif", "antw",
    ];
    let subject = mail.subject().to_lowercase();
    let first = subject.split_once(':').map(|(first, _)| first.trim());
    first.is_some_and(|first| MARKS.contains(&first))
}

fn has_bounce_subject(mail: &Outline<'_>) -> bool {
    let subject = mail.subject().to_lowercase();
    SUBJECTS.iter().any(|words| subject.contains(words))
}

fn has_bounce_opening(mail: &Outline<'_>) -> bool {
    let opening = mail.opening(OPENING_BYTES_MAX).to_lowercase();
    let opening = opening.split_whitespace().collect::<Vec<_>>().join(" ");
    OPENINGS.iter().any(|words| opening.contains(words))
}

fn kind_of_failure(mail: &Outline<'_>) -> MailKind {
    if speaks_of_delay(mail.subject(), &words(mail)) {
        MailKind::DelayNotice
    } else {
        MailKind::Bounce
    }
}

/// Subjects of bounces, lower-cased.
#[rustfmt::skip]
const SUBJECTS: &[&str] = &[
    "undeliver", "non-deliver", "nondeliver", "not delivered", "not be delivered",
    "unable to deliver", "delivery fail", "failed deliver", "delivery has failed",
    "delivery status", "delivery notification", "delivery report", "delivery error",
    "delivery problem", "delivery unsuccessful", "deliver failed", "failure notice",
    "failure notification", "mail failure", "mail failed", "message failed", "returned mail",
    "returned to sender", "return to sender", "returning message", "mail system error",
    "mail error", "mail delivery", "message delivery", "message status", "message undeliver",
    "error sending", "could not send", "couldn't send", "couldn't be delivered",
    "could not deliver", "user unknown", "unknown user", "warning: could not", "warning: message",
    "delayed mail", "message delayed", "delivery delayed", "postmaster notify", "you sent blocked",
    "bounce", "sorry, your message", "not member article", "ignored article", "rejected mail",
    "mail rejected", "message rejected", "nicht zugestellt", "unzustellbar",
    "zustellung fehlgeschlagen", "non remis", "non distribu", "échec de la remise",
    "échec de remise", "no se puede entregar", "no entregado", "no entregable", "mensaje devuelto",
    "não entregue", "não é possível entregar", "falha na entrega", "mancato recapito",
    "non recapitabile", "impossibile recapitare", "onbestelbaar", "niet bezorgd",
    "kan inte levereras", "ikke leveres", "toimittamaton", "niedostarczal", "niedostarczon",
    "не доставлен", "недоставлен", "ошибка доставки", "teslim edilemedi", "配信不能", "送信できません",
    "配信エラー", "エラーメール", "退信", "配信できません", "配信に失敗", "送信に失敗", "届けられません", "配達不能", "there was an error sending", "投递失败", "無法傳遞", "无法送达", "전송 실패", "반송",
];

/// The first words of bounces, lower-cased, with single spaces.
#[rustfmt::skip]
const OPENINGS: &[&str] = &[
    "this is the qmail-send program", "i wasn't able to deliver your message",
    "this message was created automatically by mail delivery software",
    "could not be delivered to one or more", "this is the mail system at host",
    "unable to deliver your message", "unable to deliver message", "unable to deliver mail",
    "was not delivered to", "wasn't delivered to", "did not reach the following recipient",
    "delivery to the following recipient", "delivery has failed to these recipients",
    "following addresses had permanent", "following addresses had delivery",
    "following addresses had transient", "following address(es) failed",
    "following addresses failed", "following recipients cannot be delivered",
    "transcript of session follows", "could not be delivered", "couldn't be delivered",
    "cannot be delivered", "can't be delivered", "was undeliverable", "delivery failed",
    "automatically generated delivery status notification",
    "an error occurred while trying to deliver", "there was an error delivering your mail",
    "an error has occurred while attempting to deliver", "failed to deliver", "undeliverable to", "delivery attempts", "exceeds allowed size",
    "we had trouble delivering", "user(s) account is", "failure reasons",
    "this is the mailer-daemon", "this is a delivery failure notification", "undelivered message",
    "undeliverable message", "has been blocked", "was blocked by our", "mailbox is full",
    "message rejected", "message could not be sent",
    "may not exist, or you may not have permission to post", "original mail as follows",
    "you are not member", "delivered to one or more of its recipients",
];
