//! Owns reports in prose: finds the failed recipients and the words about each.
//!
//! Does not know individual mail systems. All of them write the address at the start of a line or after a
//! label, and the reason beside it or below.

use super::reason::{self, FailureReason};
use super::returned;
use super::scan::{self, FoundAddress};
use super::{
    DIAGNOSTIC_BYTES_MAX, DsnAction, MTA_BYTES_MAX, OriginalMail, RECIPIENTS_MAX, Report,
    ReportForm, ReportedRecipient, tidy,
};
use crate::mail::address::Address;
use crate::mail::outline::{Outline, text_of_html};
use crate::mail::text::cut;

/// Bytes of a report's text that are read.
const WORDS_BYTES_MAX: usize = 32 * 1024;
/// The number of lines below an address that may be about it.
const LINES_ABOUT_MAX: usize = 14;
/// The number of lines that are read.
const LINES_MAX: usize = 600;

/// Reads a report from its words. The caller must know that the mail is a report: a mail that quotes a
/// report has the same words.
pub(super) fn read(mail: &Outline<'_>) -> Report {
    let mut report = Report {
        form: ReportForm::Prose,
        recipients: Vec::new(),
        reporting_mta: None,
        original: OriginalMail::of(mail),
        feedback: None,
        disposition: None,
    };
    complete(mail, &mut report);
    report
}

/// Completes a report from its words: the recipients if it has none, and the missing fields of each.
pub(super) fn complete(mail: &Outline<'_>, report: &mut Report) {
    let words = words(mail);
    if report.reporting_mta.is_none() {
        report.reporting_mta = reporter(&words);
    }
    let action = if speaks_of_delay(mail.subject(), &words) {
        DsnAction::Delayed
    } else {
        DsnAction::Failed
    };
    if report.recipients.is_empty() {
        let failed = mail.all("X-Failed-Recipients").flat_map(scan::addresses);
        let failed: Vec<Address> = failed.map(|found| found.address).collect();
        let named = named(mail, &words, &report.original, failed);
        // General words are assigned only if there is a single recipient.
        let general = if named.len() == 1 { words.as_str() } else { "" };
        let of = |one: NamedAddress| one.recipient(general, action);
        report.recipients = named.into_iter().map(of).collect();
        return;
    }
    for recipient in &mut report.recipients {
        if recipient.diagnostic.is_some()
            || recipient.action.outcome() == super::ReportOutcome::Delivered
        {
            continue;
        }
        let about = about(&words, &recipient.address);
        recipient.diagnostic = about
            .as_deref()
            .and_then(|text| tidy(text, DIAGNOSTIC_BYTES_MAX));
        let text = about.unwrap_or_default();
        if recipient.derived && recipient.status.is_none_or(|status| status.is_vague()) {
            recipient.status = reason::status(&text, recipient.action).or(recipient.status);
        }
        if recipient.reason == FailureReason::Unknown {
            recipient.reason = FailureReason::of(None, &text);
        }
    }
}

/// True if the words say that the mail still waits, and none say that it failed permanently.
pub(in crate::mail) fn speaks_of_delay(subject: &str, words: &str) -> bool {
    const WAITING: &[&str] = &[
        "this is a warning message only",
        "been delayed",
        "is delayed",
        "was delayed",
        "notification (delay)",
        "notification: delayed",
        "message delayed",
        "still being retried",
        "will be retried",
        "will keep trying",
        "will continue to be attempted",
        "do not need to resend",
        "not need to re-send",
        "temporary failure report",
        "delayed mail",
        "could not send message for past",
        "delivery delayed",
        "still trying to deliver",
        "not yet been delivered",
        "delivery incomplete",
        "will retry",
    ];
    const ENDED: &[&str] = &[
        "permanent",
        "giving up",
        "given up",
        "failed permanently",
        "will not be retried",
        "no further attempts",
        "delivered to one or more of its recipients. this is a permanent",
    ];
    let text = format!("{subject} {}", cut(words, 4_096)).to_lowercase();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |list: &[&str]| list.iter().any(|item| text.contains(item));
    has(WAITING) && !has(ENDED)
}

/// The human-readable text: the text parts, without the returned mail.
pub(in crate::mail) fn words(mail: &Outline<'_>) -> String {
    let mut words = String::new();
    for part in mail
        .leaves()
        .iter()
        .filter(|part| part.media == "text/plain" && !part.content.is_attachment)
    {
        let (text, returned) = returned::split(&part.text);
        append(&mut words, text);
        // Parts after a returned mail belong to that mail.
        if returned.is_some() {
            break;
        }
    }
    if words.trim().is_empty()
        && let Some(html) = mail.texts("text/html").next()
    {
        let text = text_of_html(html, WORDS_BYTES_MAX);
        append(&mut words, returned::split(&text).0);
    }
    words
}

fn append(words: &mut String, text: &str) {
    let room = WORDS_BYTES_MAX.saturating_sub(words.len());
    words.push_str(cut(text, room));
    words.push('\n');
}

/// An address in the words.
struct NamedAddress {
    address: Address,
    /// The words about the address; empty if none are beside it.
    about: String,
}

impl NamedAddress {
    fn recipient(self, words: &str, action: DsnAction) -> ReportedRecipient {
        // Words that are not beside the address may be before it, or at the end.
        let own = FailureReason::of(None, &self.about);
        let status = reason::status(&self.about, action).filter(|status| !status.is_vague());
        let whole = || reason::status(words, action);
        let (status, reason) = match (status, own) {
            (Some(status), reason) => (Some(status), reason),
            (None, _) => (whole(), FailureReason::of(None, words)),
        };
        let text = if self.about.trim().is_empty() {
            words
        } else {
            self.about.as_str()
        };
        ReportedRecipient {
            address: self.address,
            original: None,
            action,
            status,
            derived: true,
            reason,
            diagnostic: tidy(text, DIAGNOSTIC_BYTES_MAX),
            remote_mta: remote(&self.about).or_else(|| remote(words)),
        }
    }
}

/// The certainty that an address in the words is a failed recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sureness {
    /// The address is the sender's, or a contact.
    Other,
    /// The address stands within a sentence.
    Mentioned,
    /// The address follows a label.
    Labelled,
    /// The address begins a line, or follows `RCPT TO`.
    Head,
}

fn named(
    mail: &Outline<'_>,
    words: &str,
    original: &OriginalMail,
    failed: Vec<Address>,
) -> Vec<NamedAddress> {
    let lines: Vec<&str> = words.lines().take(LINES_MAX).collect();
    let senders: Vec<Address> = mail
        .all("To")
        .chain(
            original
                .reply_addresses
                .iter()
                .map(|address| address.expose()),
        )
        .flat_map(scan::addresses)
        .map(|found| found.address)
        .collect();
    let mut seen: Vec<(Sureness, usize, FoundAddress)> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for found in scan::addresses(line) {
            let mut sureness = sureness(line, &lines[index.saturating_sub(2)..index], &found);
            let meant =
                original.recipients.contains(&found.address) || failed.contains(&found.address);
            if !meant && (senders.contains(&found.address) || is_role(&found.address)) {
                sureness = Sureness::Other;
            }
            seen.push((sureness, index, found));
        }
    }
    let best = seen
        .iter()
        .map(|(sureness, ..)| *sureness)
        .max()
        .unwrap_or(Sureness::Other);
    let chosen: Vec<Address> = if !failed.is_empty() {
        failed
    } else if best > Sureness::Mentioned
        || (best == Sureness::Mentioned && original.recipients.is_empty())
    {
        let of_best = seen.iter().filter(|(sureness, ..)| *sureness == best);
        of_best.map(|(_, _, found)| found.address.clone()).collect()
    } else if original.recipients.is_empty() {
        // The author may have written to their own address.
        seen.iter()
            .map(|(_, _, found)| found.address.clone())
            .take(1)
            .collect()
    } else {
        original.recipients.iter().take(1).cloned().collect()
    };
    let mut named: Vec<NamedAddress> = Vec::new();
    for address in chosen {
        if named.len() < RECIPIENTS_MAX
            && !named
                .iter()
                .any(|one| one.address.folded() == address.folded())
        {
            let about = about_in(&lines, &seen, &address);
            named.push(NamedAddress { address, about });
        }
    }
    named
}

fn about(words: &str, address: &Address) -> Option<String> {
    let lines: Vec<&str> = words.lines().take(LINES_MAX).collect();
    let mut seen = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let found = scan::addresses(line).into_iter();
        seen.extend(found.map(|found| (sureness(line, &[], &found), index, found)));
    }
    let text = about_in(&lines, &seen, address);
    (!text.trim().is_empty()).then_some(text)
}

/// The words after and below an address, up to the next address that begins a line.
fn about_in(lines: &[&str], seen: &[(Sureness, usize, FoundAddress)], address: &Address) -> String {
    let is_it = |found: &FoundAddress| found.address.folded() == address.folded();
    let mut here = seen.iter().filter(|(_, _, found)| is_it(found));
    // The first of equal matches wins.
    let best = here.clone().map(|(sureness, ..)| *sureness).max();
    let Some((_, index, found)) = here.find(|(sureness, ..)| Some(*sureness) == best) else {
        return String::new();
    };
    let next = seen
        .iter()
        .find(|(sureness, line, other)| {
            *sureness == Sureness::Head && line > index && !is_it(other)
        })
        .map_or(usize::MAX, |(_, line, _)| *line);
    let line = lines[*index];
    // A mail system that writes the code first puts it before the address (`550 <a@b>... User unknown`).
    let mut about = if reason::status(&line[..found.start], DsnAction::Failed)
        .is_some_and(|s| !s.is_vague())
        || super::status::find_code(&line[..found.start]).is_some()
    {
        line.to_owned()
    } else {
        let behind = |c: char| matches!(c, '>' | ')' | ']' | '"' | '\'' | ':' | ',' | '.' | ' ');
        line[found.end..].trim_start_matches(behind).to_owned()
    };
    let end = next.min(index + 1 + LINES_ABOUT_MAX).min(lines.len());
    for below in &lines[index + 1..end] {
        about.push('\n');
        about.push_str(below);
    }
    about
}

fn sureness(line: &str, above: &[&str], found: &FoundAddress) -> Sureness {
    let before = line[..found.start].to_lowercase();
    let word = before
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or_default();
    if word.contains("://") || word.contains("message-id:") {
        return Sureness::Other;
    }
    let label = before
        .trim_end_matches(['<', '(', '[', '"', '\'', ' ', '\t', '=', '`'])
        .trim_start();
    let label = label.trim_start_matches([
        '>', '*', '-', '.', '<', '[', '(', '"', '\'', ' ', '\t', '•', '·',
    ]);
    if label.is_empty()
        || super::status::find_code(label).is_some_and(|_| label.trim_end().len() <= 9)
    {
        return if above
            .iter()
            .any(|line| is_sender_label(&line.to_lowercase()))
        {
            Sureness::Other
        } else {
            Sureness::Head
        };
    }
    if HEADS.iter().any(|head| label.ends_with(head)) {
        return Sureness::Head;
    }
    if is_sender_label(label) {
        return Sureness::Other;
    }
    let bare = label.trim_end_matches([':', ' ']);
    let announced =
        label.ends_with(':') || label.ends_with(';') || LABELS.iter().any(|l| bare.ends_with(l));
    if announced {
        Sureness::Labelled
    } else {
        Sureness::Mentioned
    }
}

/// Phrases after which the mail system lists the failed recipients.
#[rustfmt::skip]
const HEADS: &[&str] = &[
    "rcpt to:", "rcpt to :", "recipient address:", "recipient:", "recipients:",
    "final-recipient: rfc822;", "original-recipient: rfc822;", "addressed to:",
    "rejected recipient",
];

/// Labels that precede an address.
#[rustfmt::skip]
const LABELS: &[&str] = &[
    "delivered to", "deliver to", "message to", "mail to", "e-mail to", "email to",
    "undeliverable to", "delivery to", "sent to", "mail for", "message for", "recipient",
    "to recipient", "user", "mailbox", "address", "to", "for", "account",
];

/// True if the words before an address say that it is the sender's or a contact.
fn is_sender_label(label: &str) -> bool {
    const WORDS: &[&str] = &[
        "mail from",
        "from:",
        "from ",
        "sender",
        "message sent by",
        "on behalf",
        "contact",
        "question",
        "help",
        "assistance",
        "e-mail us",
        "write to",
        "reply-to",
        "return-path",
        "please",
        "generated by",
        "received by",
        "your address",
        "errors-to",
        "envelope-from",
        "in-reply-to",
        "references",
        "message id",
        "message-id",
    ];
    label.trim_end() == "from" || WORDS.iter().any(|word| label.contains(word))
}

fn is_role(address: &Address) -> bool {
    const LOCALS: &[&str] = &[
        "postmaster",
        "mailer-daemon",
        "abuse",
        "hostmaster",
        "helpdesk",
        "support",
        "admin",
        "webmaster",
    ];
    let local = address.local().to_ascii_lowercase();
    LOCALS.contains(&local.as_str())
}

/// The reporting host, if the words name it.
fn reporter(words: &str) -> Option<String> {
    const WORDS: &[&str] = &[
        "mail system at host ",
        "qmail-send program at ",
        "james mail server at ",
        "generating server: ",
        "mail agent v0.13 at ",
        "mail server at ",
        "smtp relay on ",
        "program at ",
        "reporting-mta: dns;",
    ];
    host_behind(words, WORDS)
}

/// The refusing host, if the words name it.
fn remote(words: &str) -> Option<String> {
    const WORDS: &[&str] = &[
        "while talking to ",
        "receiving server: ",
        "remote server ",
        "remote system: dns;",
        ": host ",
        "host ",
        "server at ",
        "smtp server <",
        "server ",
    ];
    host_behind(words, WORDS)
}

fn host_behind(words: &str, marks: &[&str]) -> Option<String> {
    let lower = cut(words, 8_192).to_ascii_lowercase();
    marks.iter().find_map(|mark| {
        let rest = lower[lower.find(mark)? + mark.len()..].trim_start();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
        let host = rest[..end.unwrap_or(rest.len())].trim_end_matches(['.', '-']);
        (host.contains('.') && host.len() <= MTA_BYTES_MAX).then(|| host.to_owned())
    })
}
