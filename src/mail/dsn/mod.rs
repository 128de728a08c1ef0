//! Owns what a report on a mail says: who did not get it and why, who complained, who read it.
//!
//! Reads delivery reports (RFC 3464), what mail systems write instead of them, complaints (RFC 5965)
//! and receipts (RFC 8098). Believes nothing: anyone can write a report, so the caller decides by a
//! signed address whether it concerns a mail of ours.

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

/// A report names at most this many recipients here; what follows is left out.
pub const RECIPIENTS_MAX: usize = 100;
/// Bytes of a mail system's words that are kept.
pub const DIAGNOSTIC_BYTES_MAX: usize = 1_024;
/// Bytes of a mail system's name that are kept.
pub const MTA_BYTES_MAX: usize = 255;

/// A report on a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The form in which the report was written.
    pub form: ReportForm,
    /// The recipients it speaks of, at most [`RECIPIENTS_MAX`].
    pub recipients: Vec<ReportedRecipient>,
    /// The mail system that reports.
    pub reporting_mta: Option<String>,
    /// The mail reported on.
    pub original: OriginalMail,
    /// The fields of a complaint.
    pub feedback: Option<Feedback>,
    /// The disposition that a receipt reports: `displayed`, `deleted`, `denied`, …
    pub disposition: Option<String>,
}

impl Report {
    /// Reads a report that is written in fields. A report of [`ReportForm::Prose`] must be weighed
    /// by its sender: a forwarded report has the same fields.
    pub(super) fn read(mail: &Outline<'_>) -> Option<Self> {
        notification::read(mail)
            .or_else(|| fields::read_feedback(mail))
            .or_else(|| fields::read_disposition(mail))
            .or_else(|| fields::read_delivery(mail))
    }

    /// Reads a report that is written in words. The mail must be known to be a report: whoever
    /// quotes one writes the same words.
    pub(super) fn read_words(mail: &Outline<'_>) -> Self {
        prose::read(mail)
    }

    /// The outcome of the mail over all recipients: one failure makes it failed.
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
    /// In the fields of RFC 3464, or a provider's JSON.
    Delivery,
    /// In words, for people.
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
    /// A recipient will not get the mail.
    Failed,
    /// The mail still waits.
    Delayed,
    /// The mail arrived, or went on to a place that reports nothing.
    Delivered,
}

/// The outcome of the mail for one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedRecipient {
    /// The address that was tried last.
    pub address: Address,
    /// The address the mail was sent to, where it is another.
    pub original: Option<Address>,
    /// The action of the mail system.
    pub action: DsnAction,
    /// The status the report gives, else the one its words mean.
    pub status: Option<EnhancedStatus>,
    /// The report gives no status; it was derived from the words.
    pub derived: bool,
    /// The reason, as far as the words tell.
    pub reason: FailureReason,
    /// The words of the mail system that refused, at most [`DIAGNOSTIC_BYTES_MAX`] bytes.
    pub diagnostic: Option<String>,
    /// The mail system that refused.
    pub remote_mta: Option<String>,
}

impl ReportedRecipient {
    /// The class of the failure, by its status. A permanent failure does not yet make the address a
    /// bad one: see [`FailureReason::blames_address`].
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
    /// The system goes on trying.
    Delayed,
    /// The system delivered the mail.
    Delivered,
    /// The system passed the mail to one that sends no reports.
    Relayed,
    /// The system sent the mail on to several addresses.
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
    /// `abuse`, `fraud`, `opt-out`, `not-spam`, `auth-failure`, …, lower-cased.
    pub kind: String,
    /// The program that made the report.
    pub user_agent: Option<String>,
    /// The host the mail came from.
    pub source_ip: Option<String>,
    /// The domain complained about.
    pub reported_domain: Option<String>,
}

/// `text` without control characters, its white space made single, cut to `bytes_max` within no address.
fn tidy(text: &str, bytes_max: usize) -> Option<String> {
    // What is cut off is not worth walking through.
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
