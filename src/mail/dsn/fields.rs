//! Owns reports written in fields: delivery (RFC 3464), complaints (RFC 5965), receipts (RFC 8098).

use super::reason::{self, FailureReason};
use super::returned::field_line;
use super::status::{EnhancedStatus, find_status};
use super::{
    DIAGNOSTIC_BYTES_MAX, DsnAction, Feedback, MTA_BYTES_MAX, OriginalMail, RECIPIENTS_MAX, Report,
    ReportForm, ReportedRecipient, prose, scan, tidy,
};
use crate::mail::address::Address;
use crate::mail::outline::{Leaf, Outline};
use crate::mail::text::bare_message_id;

/// The number of lines of fields that are read.
const LINES_MAX: usize = 10_000;

const DELIVERY: &[&str] = &["message/delivery-status", "message/global-delivery-status"];
const DISPOSITION: &[&str] = &[
    "message/disposition-notification",
    "message/global-disposition-notification",
];

/// Reads a delivery report.
pub(super) fn read_delivery(mail: &Outline<'_>) -> Option<Report> {
    let mut groups = Vec::new();
    let mut found = false;
    for part in mail
        .leaves()
        .iter()
        .filter(|part| DELIVERY.contains(&part.media))
    {
        found = true;
        groups.extend(self::groups(&part.text));
    }
    if !found {
        // Some mail systems put the fields into the text, or break the multipart around them.
        let text = mail
            .leaves()
            .iter()
            .find(|part| has_delivery_fields(&part.text))?;
        groups.extend(self::groups(super::returned::split(&text.text).0));
        groups.retain(|group| group.value("Reporting-MTA").is_some() || group.is_recipient());
        if groups.is_empty() {
            groups.extend(self::groups(&text.text));
        }
    }
    let mut report = Report {
        // A program that forwards a report in a mail of its own also attaches the parts of the report.
        form: if mail.content().media_type == "multipart/report" {
            ReportForm::Delivery
        } else {
            ReportForm::Prose
        },
        recipients: Vec::new(),
        reporting_mta: groups
            .iter()
            .find_map(|g| g.value("Reporting-MTA"))
            .and_then(mta),
        original: OriginalMail::of(mail),
        feedback: None,
        disposition: None,
    };
    report.original.envelope_id = groups
        .iter()
        .find_map(|g| g.value("Original-Envelope-Id"))
        .and_then(|id| tidy(id, MTA_BYTES_MAX));
    for group in joined(groups) {
        if report.recipients.len() >= RECIPIENTS_MAX {
            break;
        }
        let recipient = recipient(&group, &report.original);
        let known = |one: &ReportedRecipient| {
            report
                .recipients
                .iter()
                .any(|r| r.address == one.address && r.status == one.status)
        };
        report
            .recipients
            .extend(recipient.filter(|one| !known(one)));
    }
    prose::complete(mail, &mut report);
    Some(report)
}

/// Fields that stand together, between blank lines.
#[derive(Clone, Debug, Default)]
struct FieldGroup {
    fields: Vec<(String, String)>,
}

impl FieldGroup {
    fn value(&self, name: &str) -> Option<&str> {
        let field = self
            .fields
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        field
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn is_recipient(&self) -> bool {
        const NAMES: &[&str] = &[
            "Final-Recipient",
            "Original-Recipient",
            "X-Actual-Recipient",
            "Final-Log-Id-Recipient",
        ];
        NAMES.iter().any(|name| self.value(name).is_some())
    }

    fn describes_recipient(&self) -> bool {
        ["Action", "Status", "Diagnostic-Code"]
            .iter()
            .any(|name| self.value(name).is_some())
    }
}

fn groups(text: &str) -> Vec<FieldGroup> {
    let mut groups: Vec<FieldGroup> = vec![FieldGroup::default()];
    for line in text.lines().take(LINES_MAX) {
        let more = groups.len() <= RECIPIENTS_MAX * 2;
        let Some(group) = groups.last_mut() else {
            break;
        };
        if line.trim().is_empty() {
            if !group.fields.is_empty() && more {
                groups.push(FieldGroup::default());
            }
            continue;
        }
        let folded = line.starts_with([' ', '\t']);
        match field_line(line.trim_start()) {
            Some((name, value)) if !folded || is_report_field(name) => {
                // Two recipients may follow each other without a blank line.
                let again =
                    name.eq_ignore_ascii_case("Final-Recipient") && group.value(name).is_some();
                let field = (name.to_owned(), value.to_owned());
                if again && more {
                    groups.push(FieldGroup {
                        fields: vec![field],
                    });
                } else {
                    group.fields.push(field);
                }
            }
            _ => {
                if let Some((_, value)) = group.fields.last_mut()
                    && value.len() < DIAGNOSTIC_BYTES_MAX * 4
                {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            }
        }
    }
    groups
}

fn is_report_field(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "Final-Recipient",
        "Original-Recipient",
        "Action",
        "Status",
        "Diagnostic-Code",
        "Remote-MTA",
        "Reporting-MTA",
        "Last-Attempt-Date",
        "Arrival-Date",
        "Will-Retry-Until",
    ];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The groups that name a recipient, each merged with the fields that a stray blank line separated from it.
fn joined(groups: Vec<FieldGroup>) -> Vec<FieldGroup> {
    let mut joined: Vec<FieldGroup> = Vec::new();
    let mut stray: Vec<(String, String)> = Vec::new();
    for mut group in groups {
        if group.is_recipient() {
            group.fields.append(&mut stray);
            joined.push(group);
        } else if group.describes_recipient() {
            match joined.last_mut() {
                Some(last) if !last.describes_recipient() => last.fields.append(&mut group.fields),
                Some(_) => {}
                None => stray = group.fields,
            }
        }
    }
    joined
}

fn recipient(group: &FieldGroup, original: &OriginalMail) -> Option<ReportedRecipient> {
    let address_in = |name: &str| group.value(name).and_then(typed_address);
    let final_recipient = address_in("Final-Recipient");
    let sent_to = address_in("Original-Recipient");
    let address = final_recipient
        .or_else(|| sent_to.clone())
        .or_else(|| address_in("X-Actual-Recipient"))
        .or_else(|| original.recipients.first().cloned())?;
    let diagnostic = group.value("Diagnostic-Code").map(untyped);
    let diagnostic = diagnostic.and_then(|text| tidy(text, DIAGNOSTIC_BYTES_MAX));
    let words = diagnostic.as_deref().unwrap_or_default();
    let given = group.value("Status").and_then(status_of);
    let action = group
        .value("Action")
        .and_then(DsnAction::parse)
        .unwrap_or_else(|| action_of(given));
    let status = given.or_else(|| reason::status(words, action));
    Some(ReportedRecipient {
        original: sent_to.filter(|sent_to| *sent_to != address),
        address,
        action,
        status,
        derived: given.is_none(),
        reason: FailureReason::of(
            given,
            &format!("{words} {}", group.value("Status").unwrap_or_default()),
        ),
        diagnostic,
        remote_mta: group.value("Remote-MTA").and_then(mta),
    })
}

/// A value without its type, such as `smtp; 550 no` (RFC 3464 section 2.3.6).
fn untyped(value: &str) -> &str {
    let is_type = |kind: &str| {
        kind.len() <= 20 && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match value.split_once(';') {
        Some((kind, text)) if is_type(kind.trim()) => text,
        _ => value,
    }
}

fn status_of(value: &str) -> Option<EnhancedStatus> {
    EnhancedStatus::parse(value).or_else(|| find_status(value))
}

fn action_of(status: Option<EnhancedStatus>) -> DsnAction {
    match status.map(EnhancedStatus::class) {
        Some(2) => DsnAction::Delivered,
        _ => DsnAction::Failed,
    }
}

/// The address in `rfc822; a@b` (RFC 3464 section 2.3.2); the type is often left out. `xtext` is decoded,
/// because some systems leave it in `Original-Recipient` (RFC 3461 section 4).
fn typed_address(value: &str) -> Option<Address> {
    let (kind, rest) = value.split_once(';').unwrap_or(("", value));
    let rest = if kind.contains('@') { value } else { rest };
    let rest = rest.trim().trim_matches(['<', '>']);
    let rest = rest.strip_prefix("mailto:").unwrap_or(rest);
    Address::parse(rest).ok().or_else(|| scan::first(rest))
}

/// The host name in `dns; mx.example.com` (RFC 3464 section 2.2.2), without the type and any text after the
/// name.
fn mta(value: &str) -> Option<String> {
    let name = value.split_once(';').map_or(value, |(_, name)| name);
    let name = name.trim();
    let end = name.find([' ', '(']).unwrap_or(name.len());
    tidy(name[..end].trim_end_matches('.'), MTA_BYTES_MAX)
}

fn has_delivery_fields(text: &str) -> bool {
    let mut recipient = false;
    let mut action = false;
    for line in text.lines().take(LINES_MAX) {
        if let Some((name, _)) = field_line(line.trim()) {
            recipient |= name.eq_ignore_ascii_case("Final-Recipient");
            action |= name.eq_ignore_ascii_case("Action") || name.eq_ignore_ascii_case("Status");
        }
    }
    recipient && action
}

/// Reads a complaint: the fields of RFC 5965, Microsoft's mail without them, or an opt-out.
pub(super) fn read_feedback(mail: &Outline<'_>) -> Option<Report> {
    let is_report = mail.content().media_type == "multipart/report";
    // A program that forwards a report attaches its parts.
    let is_part = |leaf: &&Leaf<'_>| {
        leaf.media == "message/feedback-report" && (is_report || !leaf.content.is_attachment)
    };
    let fields = mail
        .leaves()
        .iter()
        .find(is_part)
        .map(|leaf| leaf.text.as_str());
    let stated = is_report && mail.content().parameter("report-type") == Some("feedback-report");
    let kind = if mail.has("X-Apple-Unsubscribe") {
        "opt-out"
    } else if fields.is_some() || stated || is_junk_report(mail) {
        "abuse"
    } else {
        return None;
    };
    let mut original = OriginalMail::of(mail);
    let all = groups(fields.unwrap_or_default());
    let values = |name: &'static str| {
        let fields = all.iter().flat_map(|group| group.fields.iter());
        fields
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    let first = |name| values(name).find_map(|value| tidy(value, MTA_BYTES_MAX));
    let mut addresses: Vec<Address> = ["Original-Rcpt-To", "Removal-Recipient"]
        .into_iter()
        .flat_map(&values)
        .filter_map(typed_address)
        .take(RECIPIENTS_MAX)
        .collect();
    if kind == "opt-out" {
        addresses.extend(mail.field("From").and_then(scan::first));
    } else if addresses.is_empty() {
        addresses.clone_from(&original.recipients);
    }
    if original.message_id.is_none() {
        original.message_id = first("Message-ID").map(|id| bare_message_id(&id).to_owned());
    }
    let complainant = |address| ReportedRecipient {
        address,
        original: None,
        action: DsnAction::Delivered,
        status: None,
        derived: true,
        reason: FailureReason::Complaint,
        diagnostic: None,
        remote_mta: None,
    };
    Some(Report {
        form: ReportForm::Feedback,
        recipients: addresses.into_iter().map(complainant).collect(),
        reporting_mta: first("Reporting-MTA").as_deref().and_then(mta),
        original,
        feedback: Some(Feedback {
            kind: first("Feedback-Type")
                .map_or_else(|| kind.to_owned(), |k| k.to_ascii_lowercase()),
            user_agent: first("User-Agent"),
            source_ip: first("Source-IP"),
            reported_domain: first("Reported-Domain"),
        }),
        disposition: None,
    })
}

/// True for a report of Microsoft's programme, which sends the reported mail unchanged, under a subject of
/// its own.
fn is_junk_report(mail: &Outline<'_>) -> bool {
    let from = mail.field("From").unwrap_or_default().to_ascii_lowercase();
    let reporter = from.contains("staff@hotmail.com") || from.contains("email-abuse.amazonses.com");
    let subject = mail.subject().to_ascii_lowercase();
    reporter
        && (subject.starts_with("complaint about message from") || subject.contains("abuse report"))
}

/// Reads a receipt.
pub(super) fn read_disposition(mail: &Outline<'_>) -> Option<Report> {
    if mail.content().media_type != "multipart/report" {
        return None;
    }
    let stated = mail.content().parameter("report-type") == Some("disposition-notification");
    let part = mail
        .leaves()
        .iter()
        .find(|part| DISPOSITION.contains(&part.media));
    if part.is_none() && !stated {
        return None;
    }
    let all = groups(part.map_or("", |part| part.text.as_ref()));
    let value = |name: &str| all.iter().find_map(|group| group.value(name));
    let mut original = OriginalMail::of(mail);
    if let Some(id) = value("Original-Message-ID") {
        original.message_id = tidy(bare_message_id(id), 998);
    }
    let disposition = value("Disposition").and_then(|text| {
        let word = text.rsplit(';').next().unwrap_or_default();
        tidy(
            &word
                .split('/')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase(),
            40,
        )
    });
    let address = value("Final-Recipient")
        .or_else(|| value("Original-Recipient"))
        .and_then(typed_address);
    let reader = |address| ReportedRecipient {
        address,
        original: None,
        action: DsnAction::Delivered,
        status: None,
        derived: true,
        reason: FailureReason::Unknown,
        diagnostic: None,
        remote_mta: None,
    };
    Some(Report {
        form: ReportForm::Disposition,
        recipients: address.into_iter().map(reader).collect(),
        reporting_mta: value("Reporting-UA").and_then(|ua| tidy(ua, MTA_BYTES_MAX)),
        original,
        feedback: None,
        disposition,
    })
}
