//! Owns the choice of the product's mailbox and of the priority of a mail, by configurable rules.
//!
//! Does not read mail: the caller supplies the facts. Trusts a sender's address only if the caller says
//! that it was verified.

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

/// The default rules.
pub const SHIPPED: &str = include_str!("../../../config/rules.toml");
/// Bytes of a text that are searched for words.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A mailbox of the product.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mailbox {
    /// Copyright claims, and mail from lawyers.
    Dmca,
    /// Offers, bookings, press, partners.
    Business,
    /// Mail from fans.
    Fans,
    /// All other mail.
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

/// The priority of a mail.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A sender on the list of important people.
    Vip,
    /// Before the others.
    Priority,
    /// The normal priority.
    Standard,
    /// After all others.
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
    /// The recipient, from the envelope.
    pub recipient: Option<&'a Address>,
    /// The author, from `From`.
    pub sender: Option<&'a Address>,
    /// True if the sender's domain vouches for the mail, or it came with the sender's own token.
    pub verified: bool,
    /// The kind of the mail.
    pub kind: MailKind,
    /// The subject, decoded.
    pub subject: &'a str,
    /// The new words of the mail, without quotes.
    pub body: &'a str,
    /// The mailbox of the recipient's address, if it is one of ours: the default when neither a rule nor
    /// the thread decides.
    pub mailbox: Option<Mailbox>,
    /// The thread of the mail, if it exists already.
    pub thread: Option<KnownThread>,
}

/// The state of a known thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownThread {
    /// The mailbox of the thread.
    pub mailbox: Mailbox,
    /// The priority of the thread.
    pub priority: Priority,
    /// The number of messages in the thread.
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
