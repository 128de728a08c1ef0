//! Owns the parsing of reports about a mail: failed recipients and reasons, complaints, read receipts.
//!
//! Reads delivery reports (RFC 3464), their non-standard replacements, complaints (RFC 5965) and receipts
//! (RFC 8098). Trusts nothing: anyone can write a report, so the caller decides by a signed address whether
//! it concerns a mail of ours.

mod fields;
mod notification;
mod prose;
mod reason;
mod returned;
mod scan;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub(super) use self::prose::{speaks_of_delay, words};
pub use self::reason::FailureReason;
pub use self::returned::{OriginalMail, ReplyAddress};
pub use self::status::EnhancedStatus;
use super::address::{Address, cut_between_addresses};
use super::outline::Outline;

/// The upper bound of recipients in a parsed report; further ones are left out.
pub const RECIPIENTS_MAX: usize = 100;
/// Bytes of a mail system's diagnostic text that are kept.
pub const DIAGNOSTIC_BYTES_MAX: usize = 1_024;
/// Bytes of a mail system's name that are kept.
pub const MTA_BYTES_MAX: usize = 255;

/// A report on a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The form in which the report was written.
    pub form: ReportForm,
    /// The reported recipients, at most [`RECIPIENTS_MAX`].
    pub recipients: Vec<ReportedRecipient>,
    /// The mail system that reports.
    pub reporting_mta: Option<String>,
    /// The mail that the report is about.
    pub original: OriginalMail,
    /// The fields of a complaint.
    pub feedback: Option<Feedback>,
    /// The disposition that a receipt reports: `displayed`, `deleted`, `denied`, …
    pub disposition: Option<String>,
}

impl Report {
    /// Reads a report in fields. The caller must check the sender of a report of form
    /// [`ReportForm::Prose`]: a forwarded report has the same fields.
    pub(super) fn read(mail: &Outline<'_>) -> Option<Self> {
        notification::read(mail)
            .or_else(|| fields::read_feedback(mail))
            .or_else(|| fields::read_disposition(mail))
            .or_else(|| fields::read_delivery(mail))
    }

    /// Reads a report in prose. The caller must know that the mail is a report: a mail that quotes a report
    /// has the same words.
    pub(super) fn read_words(mail: &Outline<'_>) -> Self {
        prose::read(mail)
    }

    /// The outcome over all recipients: one failure makes it failed.
    pub fn outcome(&self) -> ReportOutcome {
        let any = |outcome| {
            self.recipients
                .iter()
                .any(|r| r.action.outcome() == outcome)
        };
        if any(ReportOutcome::Failed) || self.recipients.is_empty() {
            ReportOutcome::Failed
        } else if any(ReportOutcome::Delayed) {
            ReportOutcome::Delayed
        } else {
            ReportOutcome::Delivered
        }
    }
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportForm {
    /// In the fields of RFC 3464, or in a provider's JSON.
    Delivery,
    /// In prose, for people.
    Prose,
    /// A complaint (RFC 5965).
    Feedback,
    /// A receipt (RFC 8098).
    Disposition,
}

/// The outcome of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOutcome {
    /// A recipient will not receive the mail.
    Failed,
    /// The mail still waits.
    Delayed,
    /// The mail arrived, or was relayed to a system that sends no reports.
    Delivered,
}

/// The outcome of the mail for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedRecipient {
    /// The address that was tried last.
    pub address: Address,
    /// The address to which the mail was sent, if it differs.
    pub original: Option<Address>,
    /// The action of the mail system.
    pub action: DsnAction,
    /// The status in the report, else the one that its words indicate.
    pub status: Option<EnhancedStatus>,
    /// True if the report gives no status and it was derived from the words.
    pub derived: bool,
    /// The reason, as far as the words indicate one.
    pub reason: FailureReason,
    /// The text of the system that refused the mail, at most [`DIAGNOSTIC_BYTES_MAX`] bytes.
    pub diagnostic: Option<String>,
    /// The system that refused the mail.
    pub remote_mta: Option<String>,
}

impl ReportedRecipient {
    /// The class of the failure, from the status. A permanent failure alone does not condemn the address:
    /// see [`FailureReason::blames_address`].
    pub fn hardness(&self) -> Hardness {
        match (self.action.outcome(), self.status) {
            (ReportOutcome::Failed, Some(status)) if status.class() == 4 => Hardness::Soft,
            (ReportOutcome::Failed, _) => Hardness::Hard,
            _ => Hardness::Soft,
        }
    }
}

/// The class of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hardness {
    /// Permanent.
    Hard,
    /// Transient.
    Soft,
}

/// The action of a mail system on a mail (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DsnAction {
    /// The system gave up.
    Failed,
    /// The system is still trying.
    Delayed,
    /// The system delivered the mail.
    Delivered,
    /// The system passed the mail to one that sends no reports.
    Relayed,
    /// The system forwarded the mail to several addresses.
    Expanded,
}

impl DsnAction {
    /// Reads the value of an `Action` field. Comments may follow the word.
    fn parse(text: &str) -> Option<Self> {
        let word = text.trim_start().to_ascii_lowercase();
        let begins = |stem: &str| word.starts_with(stem);
        Some(match () {
            () if begins("fail") => Self::Failed,
            () if begins("delay") => Self::Delayed,
            () if begins("deliver") => Self::Delivered,
            () if begins("relay") => Self::Relayed,
            () if begins("expand") => Self::Expanded,
            () => return None,
        })
    }

    /// The outcome of the mail that follows from the action.
    pub const fn outcome(self) -> ReportOutcome {
        match self {
            Self::Failed => ReportOutcome::Failed,
            Self::Delayed => ReportOutcome::Delayed,
            Self::Delivered | Self::Relayed | Self::Expanded => ReportOutcome::Delivered,
        }
    }
}

/// A complaint (RFC 5965 section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feedback {
    /// The type in lower case: `abuse`, `fraud`, `opt-out`, `not-spam`, `auth-failure`, …
    pub kind: String,
    /// The program that made the report.
    pub user_agent: Option<String>,
    /// The host from which the mail came.
    pub source_ip: Option<String>,
    /// The domain of the complaint.
    pub reported_domain: Option<String>,
}

/// `text` without control characters, with single spaces, cut to `bytes_max` but not within an address.
fn tidy(text: &str, bytes_max: usize) -> Option<String> {
    // Only a bounded part of the text is processed.
    let text = cut_between_addresses(text, bytes_max.saturating_mul(4));
    let mut tidy = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !tidy.is_empty() {
            tidy.push(' ');
        }
        tidy.push_str(word);
    }
    tidy.truncate(cut_between_addresses(&tidy, bytes_max).trim_end().len());
    (!tidy.is_empty()).then_some(tidy)
}

impl fmt::Display for DsnAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        })
    }
}
