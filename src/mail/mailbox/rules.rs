//! Owns the sorting rules: parses, checks and applies them. The first rule that matches decides.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;
use thiserror::Error;

use super::words::PhraseIndex;
use super::{Mailbox, MailboxChoice, Priority, SortingFacts, TEXT_BYTES_MAX};
use crate::mail::address::Address;
use crate::mail::kind::MailKind;
use crate::mail::text::cut;

/// The number of rules in a file.
pub const RULES_MAX: usize = 500;
/// The number of values in a condition.
pub const VALUES_MAX: usize = 2_000;
/// The number of entries in a list of senders.
pub const LIST_MAX: usize = 50_000;
/// The size of a file in bytes.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Checked rules, ready to be applied.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<CompiledRule>,
    lists: BTreeMap<String, SenderPatterns>,
    phrases: PhraseIndex,
}

impl Rules {
    /// Parses rules from TOML: `[[rule]]` tables, and `[lists]` of senders.
    ///
    /// # Errors
    /// Names the rule, the condition and the invalid value, on one line.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(RulesError::TooLong);
        }
        let file: RulesFile = toml::from_str(text).map_err(|error| RulesError::Toml {
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            message: error.message().replace('\n', ", "),
        })?;
        Self::check(file)
    }

    /// The default rules.
    ///
    /// # Errors
    /// Never in a release: a test parses them.
    pub fn shipped() -> Result<Self, RulesError> {
        Self::parse(super::SHIPPED)
    }

    /// Sorts a mail. If no rule matches, or the matching rule leaves a part out, the thread's mailbox and
    /// priority apply; a mail without a thread goes to the mailbox of its address, else to `general`.
    pub fn choose(&self, facts: &SortingFacts<'_>) -> MailboxChoice {
        let seen = RuleInput {
            facts,
            phrases: &self.phrases,
            subject: OnceCell::new(),
            body: OnceCell::new(),
        };
        let rule = self.rules.iter().find(|rule| rule.fits(&seen, &self.lists));
        let of_rule = rule.map(|rule| (rule.mailbox, rule.priority));
        let of_thread = facts.thread.map(|thread| (thread.mailbox, thread.priority));
        let of_address = (facts.mailbox.unwrap_or_default(), Priority::default());
        let (mailbox, priority) = of_rule.unwrap_or_default();
        let (thread_mailbox, thread_priority) = of_thread.unwrap_or(of_address);
        MailboxChoice {
            mailbox: mailbox.unwrap_or(thread_mailbox),
            priority: priority.unwrap_or(thread_priority),
            rule: rule.map(|rule| rule.name.clone()),
        }
    }

    fn check(file: RulesFile) -> Result<Self, RulesError> {
        if file.rule.len() > RULES_MAX {
            return Err(RulesError::TooMany);
        }
        let mut lists = BTreeMap::new();
        for (name, entries) in file.lists {
            let wrong = |value: &str, why| RulesError::List {
                list: name.clone(),
                value: value.to_owned(),
                why,
            };
            if entries.len() > LIST_MAX {
                return Err(wrong("…", "more senders than a list may have"));
            }
            // A local part alone would put all people of that name on the list.
            if let Some(value) = entries.iter().find(|value| !value.contains('@')) {
                return Err(wrong(value, "neither an address nor @domain"));
            }
            let senders = SenderPatterns::of(&entries)
                .map_err(|value| wrong(value, "neither an address nor @domain"))?;
            lists.insert(name, senders);
        }
        let mut phrases = PhraseIndex::default();
        let mut names = BTreeSet::new();
        let mut rules = Vec::with_capacity(file.rule.len());
        for (index, rule) in file.rule.into_iter().enumerate() {
            if rule.name.trim().is_empty() {
                return Err(RulesError::Unnamed(index + 1));
            }
            if !names.insert(rule.name.clone()) {
                return Err(RulesError::Twice(rule.name));
            }
            rules.push(CompiledRule::of(rule, &lists, &mut phrases)?);
        }
        Ok(Self {
            rules,
            lists,
            phrases,
        })
    }
}

/// An error in the rules.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RulesError {
    /// The text is not TOML, or names an unknown key.
    #[error("line {line}: {message}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// The message of the TOML reader.
        message: String,
    },
    /// A value of a rule's condition.
    #[error("rule {rule:?}: when.{condition}: {value:?}: {why}")]
    Value {
        /// The rule's name.
        rule: String,
        /// The condition.
        condition: &'static str,
        /// The value.
        value: String,
        /// The form that is expected.
        why: &'static str,
    },
    /// A value of a list.
    #[error("lists.{list}: {value:?}: {why}")]
    List {
        /// The list's name.
        list: String,
        /// The value.
        value: String,
        /// The form that is expected.
        why: &'static str,
    },
    /// A rule has no name.
    #[error("rule {0}: no name")]
    Unnamed(usize),
    /// Two rules have one name.
    #[error("rule {0:?}: the name is taken by a rule above")]
    Twice(String),
    /// More than [`RULES_MAX`] rules.
    #[error("more than {RULES_MAX} rules")]
    TooMany,
    /// More than [`FILE_BYTES_MAX`] bytes.
    #[error("longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
}

fn line_at(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    rule: Vec<SortingRule>,
}

/// A rule, as written in the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SortingRule {
    /// The unique name of the rule, for logs.
    pub name: String,
    /// The conditions; a rule without any always matches.
    #[serde(default)]
    pub when: RuleConditions,
    /// The mailbox; if left out, the thread's.
    pub mailbox: Option<Mailbox>,
    /// The priority; if left out, the thread's.
    pub priority: Option<Priority>,
}

/// The conditions of a rule. All given conditions must hold; a condition with several values holds if one
/// of them does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConditions {
    /// The recipient: `local` (with or without `+detail`), `local@domain` or `@domain`.
    pub recipient: Vec<String>,
    /// The sender: `local`, `local@domain` or `@domain`.
    pub sender: Vec<String>,
    /// The sender's domain; its subdomains match too.
    pub sender_domain: Vec<String>,
    /// Names of `[lists]` that contain the sender.
    pub sender_list: Vec<String>,
    /// True if the sender must be verified, false if the sender must not be.
    pub verified: Option<bool>,
    /// Words or phrases in the subject.
    pub subject_words: Vec<String>,
    /// Words or phrases in the body.
    pub body_words: Vec<String>,
    /// Words or phrases in either.
    pub words: Vec<String>,
    /// Kinds of mail.
    pub kind: Vec<MailKind>,
    /// True if the mail must belong to a known thread, false if it must not.
    pub known_thread: Option<bool>,
    /// The mailbox of that thread.
    pub thread_mailbox: Vec<Mailbox>,
    /// The minimum number of messages in the thread.
    pub thread_messages_min: Option<u32>,
}

/// A mail, and the phrases found in it. A text is searched only when a rule depends on it.
struct RuleInput<'a> {
    facts: &'a SortingFacts<'a>,
    phrases: &'a PhraseIndex,
    subject: OnceCell<BTreeSet<usize>>,
    body: OnceCell<BTreeSet<usize>>,
}

impl RuleInput<'_> {
    fn in_subject(&self, wanted: &BTreeSet<usize>) -> bool {
        let find = || self.phrases.find(cut(self.facts.subject, TEXT_BYTES_MAX));
        !self.subject.get_or_init(find).is_disjoint(wanted)
    }

    fn in_body(&self, wanted: &BTreeSet<usize>) -> bool {
        let find = || self.phrases.find(cut(self.facts.body, TEXT_BYTES_MAX));
        !self.body.get_or_init(find).is_disjoint(wanted)
    }
}

#[derive(Clone, Debug)]
struct CompiledRule {
    name: String,
    mailbox: Option<Mailbox>,
    priority: Option<Priority>,
    recipient: SenderPatterns,
    sender: SenderPatterns,
    sender_domain: Vec<String>,
    sender_list: Vec<String>,
    subject_words: BTreeSet<usize>,
    body_words: BTreeSet<usize>,
    words: BTreeSet<usize>,
    when: RuleConditions,
}

impl CompiledRule {
    fn of(
        rule: SortingRule,
        lists: &BTreeMap<String, SenderPatterns>,
        phrases: &mut PhraseIndex,
    ) -> Result<Self, RulesError> {
        let SortingRule {
            name,
            when,
            mailbox,
            priority,
        } = rule;
        let wrong = |condition, value: &str, why| RulesError::Value {
            rule: name.clone(),
            condition,
            value: value.to_owned(),
            why,
        };
        within_bounds(&name, &when, lists)?;
        let senders = |condition, values: &[String]| {
            SenderPatterns::of(values)
                .map_err(|value| wrong(condition, value, "neither local, local@domain nor @domain"))
        };
        let mut numbers = |condition, values: &[String]| {
            let number = |value: &String| {
                let number = phrases.add(value);
                number.ok_or_else(|| wrong(condition, value, "not a phrase of 1 to 16 words"))
            };
            values
                .iter()
                .map(number)
                .collect::<Result<BTreeSet<usize>, _>>()
        };
        let domain = |value: &String| {
            let bare = value.trim_start_matches(['@', '.']);
            let domain = crate::mail::address::Domain::parse(bare);
            domain
                .map(|d| d.ascii())
                .map_err(|_| wrong("sender_domain", value, "not a domain"))
        };
        Ok(Self {
            recipient: senders("recipient", &when.recipient)?,
            sender: senders("sender", &when.sender)?,
            sender_domain: when
                .sender_domain
                .iter()
                .map(domain)
                .collect::<Result<_, _>>()?,
            sender_list: when.sender_list.clone(),
            subject_words: numbers("subject_words", &when.subject_words)?,
            body_words: numbers("body_words", &when.body_words)?,
            words: numbers("words", &when.words)?,
            name: name.clone(),
            mailbox,
            priority,
            when,
        })
    }

    fn fits(&self, seen: &RuleInput<'_>, lists: &BTreeMap<String, SenderPatterns>) -> bool {
        let facts = seen.facts;
        let listed = |sender: &Address| {
            let mut wanted = self.sender_list.iter().filter_map(|name| lists.get(name));
            wanted.any(|senders| senders.has(sender))
        };
        let below = |sender: &Address| {
            let domain = sender.domain().ascii();
            self.sender_domain.iter().any(|wanted| {
                domain == *wanted
                    || domain
                        .strip_suffix(wanted.as_str())
                        .is_some_and(|rest| rest.ends_with('.'))
            })
        };
        let known = facts.thread.is_some();
        self.when
            .verified
            .is_none_or(|wanted| wanted == facts.verified)
            && self.when.known_thread.is_none_or(|wanted| wanted == known)
            && (self.when.kind.is_empty() || self.when.kind.contains(&facts.kind))
            && (self.recipient.is_empty()
                || facts.recipient.is_some_and(|one| self.recipient.has(one)))
            && (self.sender.is_empty() || facts.sender.is_some_and(|one| self.sender.has(one)))
            && (self.sender_domain.is_empty() || facts.sender.is_some_and(below))
            && (self.sender_list.is_empty() || facts.sender.is_some_and(listed))
            && self.fits_thread(facts)
            && (self.subject_words.is_empty() || seen.in_subject(&self.subject_words))
            && (self.body_words.is_empty() || seen.in_body(&self.body_words))
            && (self.words.is_empty() || seen.in_subject(&self.words) || seen.in_body(&self.words))
    }

    fn fits_thread(&self, facts: &SortingFacts<'_>) -> bool {
        let when = &self.when;
        let of_mailbox =
            |mailbox: &[Mailbox]| facts.thread.is_some_and(|t| mailbox.contains(&t.mailbox));
        let of_length = |min| facts.thread.is_some_and(|thread| thread.messages >= min);
        (when.thread_mailbox.is_empty() || of_mailbox(&when.thread_mailbox))
            && when.thread_messages_min.is_none_or(of_length)
    }
}

/// Checks the numbers of values, without parsing them.
fn within_bounds(
    rule: &str,
    when: &RuleConditions,
    lists: &BTreeMap<String, SenderPatterns>,
) -> Result<(), RulesError> {
    let wrong = |condition, value: &str, why| RulesError::Value {
        rule: rule.to_owned(),
        condition,
        value: value.to_owned(),
        why,
    };
    let texts = [
        ("recipient", &when.recipient),
        ("sender", &when.sender),
        ("sender_domain", &when.sender_domain),
        ("sender_list", &when.sender_list),
        ("subject_words", &when.subject_words),
        ("body_words", &when.body_words),
        ("words", &when.words),
    ];
    for (condition, values) in texts {
        if values.len() > VALUES_MAX {
            return Err(wrong(
                condition,
                "…",
                "more values than a condition may have",
            ));
        }
    }
    if let Some(unknown) = when
        .sender_list
        .iter()
        .find(|list| !lists.contains_key(*list))
    {
        return Err(wrong("sender_list", unknown, "no such list under [lists]"));
    }
    Ok(())
}

/// Address patterns, folded.
#[derive(Clone, Debug, Default)]
struct SenderPatterns {
    /// Whole addresses, local parts, and domains with a leading `@`; no two of these can be confused.
    patterns: HashSet<String>,
}

impl SenderPatterns {
    /// Parses the patterns; the error is the first invalid value.
    fn of(values: &[String]) -> Result<Self, &str> {
        let mut patterns = HashSet::with_capacity(values.len());
        for value in values {
            patterns.insert(Self::pattern(value).ok_or(value.as_str())?);
        }
        Ok(Self { patterns })
    }

    fn pattern(value: &str) -> Option<String> {
        let value = value.trim();
        if let Some(domain) = value.strip_prefix('@') {
            let domain = crate::mail::address::Domain::parse(domain).ok()?;
            return Some(format!("@{}", domain.ascii()));
        }
        if value.contains('@') {
            return Address::parse(value).ok().map(|address| address.folded());
        }
        let address = Address::parse(&format!("{value}@a")).ok()?;
        Some(address.local().to_lowercase())
    }

    fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    fn has(&self, address: &Address) -> bool {
        let local = address.local().to_lowercase();
        let bare = local.split('+').next().unwrap_or_default();
        let domain = address.domain().ascii();
        self.patterns.contains(&address.folded())
            || self.patterns.contains(&format!("{bare}@{domain}"))
            || self.patterns.contains(&format!("@{domain}"))
            || self.patterns.contains(&local)
            || self.patterns.contains(bare)
    }
}
