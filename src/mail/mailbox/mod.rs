//! Owns which mailbox of the product a mail belongs in and how urgent it is, by rules that are data.
//!
//! Does not read mail: what the rules ask about is given. Trusts a sender's address only where the
//! caller says it was verified.

mod rules;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::rules::{
    FILE_BYTES_MAX, LIST_MAX, RULES_MAX, RuleConditions, Rules, RulesError, SortingRule, VALUES_MAX,
};
use super::address::Address;
use super::kind::MailKind;

/// The rules that are shipped.
pub const SHIPPED: &str = include_str!("../../../config/rules.toml");
/// Bytes of a text that are searched for words.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A mailbox of the product.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mailbox {
    /// Claims of rights, and what comes from lawyers.
    Dmca,
    /// Offers, bookings, press, partners.
    Business,
    /// People who like what is done.
    Fans,
    /// All else.
    #[default]
    General,
}

impl Mailbox {
    /// The mailbox of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Dmca, Self::Business, Self::Fans, Self::General];
        all.into_iter().find(|mailbox| mailbox.name() == name)
    }

    /// The name in rules, in logs and in the Messages API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dmca => "dmca",
            Self::Business => "business",
            Self::Fans => "fans",
            Self::General => "general",
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The urgency of a mail.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A person on the list of those who never wait.
    Vip,
    /// Before the others.
    Priority,
    /// In its turn.
    Standard,
    /// Last, after all others.
    #[default]
    General,
}

impl Priority {
    /// The name in rules, in logs and in the Messages API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Priority => "priority",
            Self::Standard => "standard",
            Self::General => "general",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The facts by which a mail is sorted.
#[derive(Clone, Copy, Debug)]
pub struct SortingFacts<'a> {
    /// The recipient, by the envelope.
    pub recipient: Option<&'a Address>,
    /// The author, by `From`.
    pub sender: Option<&'a Address>,
    /// The sender's domain vouches for the mail, or it came with the sender's own token.
    pub verified: bool,
    /// The kind of the mail.
    pub kind: MailKind,
    /// The subject, decoded.
    pub subject: &'a str,
    /// The words that are new in it: no quotes.
    pub body: &'a str,
    /// The mailbox its recipient's address stands for, if it is one of ours: where the mail lies if
    /// neither a rule nor its conversation says otherwise.
    pub mailbox: Option<Mailbox>,
    /// The conversation it belongs to, if there is one already.
    pub thread: Option<KnownThread>,
}

/// The state of a known conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownThread {
    /// The mailbox it lies in.
    pub mailbox: Mailbox,
    /// The priority of the conversation.
    pub priority: Priority,
    /// The number of messages in the conversation.
    pub messages: u32,
}

/// The mailbox and priority of a mail, and the rule that chose them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MailboxChoice {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The priority.
    pub priority: Priority,
    /// The name of the rule that decided; `None` if none did.
    pub rule: Option<String>,
}
