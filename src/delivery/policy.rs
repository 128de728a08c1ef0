//! Owns what a route wants done with its mail: the rules that sort it, and what becomes of each kind.
//!
//! Does not read settings and does none of it.

use std::sync::Arc;

use crate::mail::kind::Kind;
use crate::mail::mailbox::{Rules, RulesError};

/// What a route wants done with its mail. Clones share the rules.
#[derive(Clone, Debug)]
pub struct Policy {
    /// They tell mailbox and priority.
    pub rules: Arc<Rules>,
    /// What becomes of each kind.
    pub kinds: Kinds,
}

impl Policy {
    /// The shipped rules, and what is done with each kind if nobody says otherwise.
    ///
    /// # Errors
    /// None in a release: a test reads the shipped rules.
    pub fn shipped() -> Result<Self, RulesError> {
        Ok(Self {
            rules: Arc::new(Rules::shipped()?),
            kinds: Kinds::default(),
        })
    }
}

/// What becomes of mail of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It becomes a message like any person's.
    Post,
    /// It becomes a message that names its kind.
    PostTyped,
    /// It is dropped, and the ledger counts it under its kind.
    Drop,
    /// It is parked: a person says what becomes of it.
    Hold,
}

impl Action {
    /// The name in settings and in `mail explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::PostTyped => "post_typed",
            Self::Drop => "drop",
            Self::Hold => "hold",
        }
    }
}

/// What becomes of each kind of mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds([Action; KINDS.len()]);

/// Every kind there is, in the order of their declaration.
pub const KINDS: [Kind; 9] = [
    Kind::Person,
    Kind::AutoReply,
    Kind::Bounce,
    Kind::DelayNotice,
    Kind::FeedbackReport,
    Kind::ReadReceipt,
    Kind::List,
    Kind::Calendar,
    Kind::Loop,
];

impl Kinds {
    /// What becomes of mail of this kind.
    pub const fn of(&self, kind: Kind) -> Action {
        self.0[kind as usize]
    }

    /// What becomes of mail of this kind, whatever it was before. `None`, and nothing is changed, if
    /// such mail must never be posted: a report on a mail of ours is no message, and our own mail
    /// come back would go round for ever.
    #[must_use = "a wish may be refused"]
    pub fn set(&mut self, kind: Kind, action: Action) -> Option<()> {
        if !Self::may(kind, action) {
            return None;
        }
        self.0[kind as usize] = action;
        Some(())
    }

    /// May this become of mail of this kind?
    pub const fn may(kind: Kind, action: Action) -> bool {
        let is_never_posted = matches!(kind, Kind::Bounce | Kind::DelayNotice | Kind::Loop);
        !(is_never_posted && matches!(action, Action::Post | Action::PostTyped))
    }
}

impl Default for Kinds {
    /// What no person wrote is dropped. A list's mail and the answer to an invitation are posted under
    /// their kind: a person may be behind them, and losing words is worse than showing too many.
    fn default() -> Self {
        Self(KINDS.map(|kind| match kind {
            Kind::Person => Action::Post,
            Kind::List | Kind::Calendar => Action::PostTyped,
            _ => Action::Drop,
        }))
    }
}

/// What becomes of one mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It becomes a message, under this kind.
    Post(Kind),
    /// It is dropped by this rule, which the ledger counts.
    Drop(&'static str),
    /// It is parked by this rule.
    Hold(&'static str),
}

impl Ruling {
    /// Of a mail of this kind; `from_nobody` if its sender in the envelope is the null sender.
    pub const fn of(kinds: &Kinds, kind: Kind, from_nobody: bool) -> Self {
        match kinds.of(kind) {
            Action::Hold => Self::Hold(kind.name()),
            Action::Drop => Self::Drop(kind.name()),
            // Nobody hears of a mail with the null sender's fate: whoever wrote it expects no answer
            // (RFC 5321 section 4.5.5).
            Action::Post | Action::PostTyped
                if from_nobody && matches!(kind, Kind::Person | Kind::List | Kind::Calendar) =>
            {
                Self::Drop("null_sender")
            }
            Action::Post => Self::Post(Kind::Person),
            Action::PostTyped => Self::Post(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_place() {
        for (at, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{kind}");
        }
        let mut kinds = Kinds::default();
        assert_eq!(kinds.set(Kind::List, Action::Hold), Some(()));
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::List) {
            assert_eq!(kinds.of(kind), Kinds::default().of(kind), "{kind}");
        }
    }

    #[test]
    fn what_must_never_be_a_message_is_none_whatever_is_wished() {
        for kind in [Kind::Bounce, Kind::DelayNotice, Kind::Loop] {
            for action in [Action::Post, Action::PostTyped] {
                let mut kinds = Kinds::default();
                assert_eq!(kinds.set(kind, action), None);
                for from_nobody in [true, false] {
                    let verdict = Ruling::of(&kinds, kind, from_nobody);
                    assert_eq!(verdict, Ruling::Drop(kind.name()));
                }
            }
        }
    }

    #[test]
    fn a_verdict_follows_the_wish() {
        let mut kinds = Kinds::default();
        for (action, verdict) in [
            (Action::Post, Ruling::Post(Kind::Person)),
            (Action::PostTyped, Ruling::Post(Kind::AutoReply)),
            (Action::Drop, Ruling::Drop("auto_reply")),
            (Action::Hold, Ruling::Hold("auto_reply")),
        ] {
            assert_eq!(kinds.set(Kind::AutoReply, action), Some(()));
            // An auto-reply has the null sender more often than not (RFC 3834 section 3.3).
            for from_nobody in [true, false] {
                assert_eq!(Ruling::of(&kinds, Kind::AutoReply, from_nobody), verdict);
            }
        }
        let person = Ruling::of(&kinds, Kind::Person, true);
        assert_eq!(person, Ruling::Drop("null_sender"));
    }
}
