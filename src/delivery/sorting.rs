//! Owns the sorting of one mail: its mailbox in the product, its priority, and the rule that
//! decided.
//!
//! Has no rules of its own: [`crate::mail::mailbox`] applies them.
//!
//! The rules have priority, because the recipient's address is one of their inputs: a legal claim that was
//! sent to `business@` is still a legal claim. The mailbox of the address counts if no rule names one, and
//! always if the rules do not know it. A thread stays in its first mailbox; the result for a later mail is
//! part of the thread's metadata.

use crate::mail::mailbox::{KnownThread, Mailbox, Priority, Rules, SortingFacts};
use crate::store::Mapping;

/// The mailbox and the priority of a mail, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxAssignment {
    /// The name of the mailbox.
    pub mailbox: String,
    /// The priority of the mail.
    pub priority: Priority,
    /// The name of the rule that decided, if one did.
    pub rule: Option<String>,
}

/// The known history of the thread of a mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadHistory {
    mailbox: Option<String>,
    priority: Option<Priority>,
    messages: u32,
}

impl ThreadHistory {
    /// The stored part of the history: a thread that the product began may have none.
    pub fn of(mapping: Option<&Mapping>) -> Self {
        let Some(mapping) = mapping else {
            return Self::default();
        };
        Self {
            mailbox: mapping.mailbox.clone(),
            priority: mapping.priority,
            // The stored Message-IDs, which are the newest ones, are counted instead of the messages.
            messages: u32::try_from(mapping.references.len()).unwrap_or(u32::MAX),
        }
    }

    fn thread(&self) -> KnownThread {
        let mailbox = self.mailbox.as_deref().and_then(Mailbox::of_name);
        KnownThread {
            mailbox: mailbox.unwrap_or_default(),
            priority: self.priority.unwrap_or(Priority::Standard),
            messages: self.messages,
        }
    }
}

/// Sorts a mail. `facts` describe the mail; `named` is the mailbox of its address, `past` the thread that
/// it continues.
pub fn assign(
    rules: &Rules,
    facts: &SortingFacts<'_>,
    named: Option<&str>,
    past: Option<&ThreadHistory>,
) -> MailboxAssignment {
    let choice = rules.choose(&SortingFacts {
        mailbox: named.and_then(Mailbox::of_name),
        thread: past.map(ThreadHistory::thread),
        ..*facts
    });
    let place = match past {
        Some(past) => past.mailbox.as_deref(),
        None => named,
    };
    let of_its_own = place.filter(|name| Mailbox::of_name(name).is_none());
    MailboxAssignment {
        mailbox: of_its_own
            .unwrap_or_else(|| choice.mailbox.name())
            .to_owned(),
        priority: choice.priority,
        rule: choice.rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::Address;
    use crate::mail::kind::MailKind;

    fn sorted(
        to: &str,
        subject: &str,
        named: Option<&str>,
        past: Option<&ThreadHistory>,
    ) -> MailboxAssignment {
        let recipient = Address::parse(to).unwrap();
        let facts = SortingFacts {
            recipient: Some(&recipient),
            sender: None,
            verified: false,
            kind: MailKind::Person,
            subject,
            body: "",
            mailbox: None,
            thread: None,
        };
        assign(&Rules::shipped().unwrap(), &facts, named, past)
    }

    #[test]
    fn rules_decide_before_the_address() {
        for (to, subject, named, mailbox, rule) in [
            (
                "general@a.example",
                "I love it",
                "general",
                "general",
                "general-address",
            ),
            ("anything@a.example", "I love it", "general", "fans", "fans"),
            (
                "business@a.example",
                "Hi",
                "business",
                "business",
                "business-address",
            ),
            (
                "business@a.example",
                "DMCA takedown",
                "business",
                "dmca",
                "dmca-subject",
            ),
            ("tickets@a.example", "Hi", "tickets", "tickets", "fans"),
            (
                "tickets@a.example",
                "DMCA takedown",
                "tickets",
                "tickets",
                "dmca-subject",
            ),
        ] {
            let sorted = sorted(to, subject, Some(named), None);
            let found = (sorted.mailbox.as_str(), sorted.rule.as_deref());
            assert_eq!(found, (mailbox, Some(rule)), "{to} {subject}");
        }
    }

    #[test]
    fn a_thread_stays_in_its_mailbox() {
        let mut past = ThreadHistory {
            mailbox: Some("tickets".to_owned()),
            priority: Some(Priority::Vip),
            messages: 3,
        };
        let to = "reply+x@a.example";
        let found = sorted(to, "Re: hi", None, Some(&past));
        assert_eq!(
            (found.mailbox.as_str(), found.priority),
            ("tickets", Priority::Vip)
        );
        assert_eq!(found.rule.as_deref(), Some("known-thread"));
        past.mailbox = Some("business".to_owned());
        assert_eq!(sorted(to, "Re: hi", None, Some(&past)).mailbox, "business");
        let unknown = sorted(to, "Re: hi", None, Some(&ThreadHistory::default()));
        assert_eq!(
            (unknown.mailbox.as_str(), unknown.priority),
            ("general", Priority::Standard)
        );
    }
}
