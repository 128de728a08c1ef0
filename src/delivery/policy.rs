//! Owns what a route wants done with its mail: the rules that sort it, and what becomes of each kind.
//!
//! Does not read settings and does none of it.

use std::sync::Arc;

use crate::mail::kind::MailKind;
use crate::mail::mailbox::{Rules, RulesError};

/// What a route wants done with its mail. Clones share the rules.
#[derive(Clone, Debug)]
pub struct RoutePolicy {
    /// They tell mailbox and priority.
    pub rules: Arc<Rules>,
    /// What becomes of each kind.
    pub kinds: KindActions,
}

impl RoutePolicy {
    /// The shipped rules, and what is done with each kind if nobody says otherwise.
    ///
    /// # Errors
    /// None in a release: a test reads the shipped rules.
    pub fn shipped() -> Result<Self, RulesError> {
        Ok(Self {
            rules: Arc::new(Rules::shipped()?),
            kinds: KindActions::default(),
        })
    }
}

/// What becomes of mail of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindAction {
    /// It becomes a message like any person's.
    Post,
    /// It becomes a message that names its kind.
    PostTyped,
    /// It is dropped, and the ledger counts it under its kind.
    Drop,
    /// It is parked: a person says what becomes of it.
    Hold,
}

impl KindAction {
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
pub struct KindActions([KindAction; KINDS.len()]);

/// Every kind there is, in the order of their declaration.
pub const KINDS: [MailKind; 9] = [
    MailKind::Person,
    MailKind::AutoReply,
    MailKind::Bounce,
    MailKind::DelayNotice,
    MailKind::FeedbackReport,
    MailKind::ReadReceipt,
    MailKind::List,
    MailKind::Calendar,
    MailKind::Loop,
];

impl KindActions {
    /// What becomes of mail of this kind.
    pub const fn action(&self, kind: MailKind) -> KindAction {
        self.0[kind as usize]
    }

    /// What becomes of mail of this kind, whatever it was before. `None`, and nothing is changed, if
    /// such mail must never be posted: a report on a mail of ours is no message, and our own mail
    /// come back would go round for ever.
    #[must_use = "a wish may be refused"]
    pub fn set(&mut self, kind: MailKind, action: KindAction) -> Option<()> {
        if !Self::is_allowed(kind, action) {
            return None;
        }
        self.0[kind as usize] = action;
        Some(())
    }

    /// May this become of mail of this kind?
    pub const fn is_allowed(kind: MailKind, action: KindAction) -> bool {
        let is_never_posted = matches!(
            kind,
            MailKind::Bounce | MailKind::DelayNotice | MailKind::Loop
        );
        !(is_never_posted && matches!(action, KindAction::Post | KindAction::PostTyped))
    }
}

impl Default for KindActions {
    /// What no person wrote is dropped. A list's mail and the answer to an invitation are posted under
    /// their kind: a person may be behind them, and losing words is worse than showing too many.
    fn default() -> Self {
        Self(KINDS.map(|kind| match kind {
            MailKind::Person => KindAction::Post,
            MailKind::List | MailKind::Calendar => KindAction::PostTyped,
            _ => KindAction::Drop,
        }))
    }
}

/// What becomes of one mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It becomes a message, under this kind.
    Post(MailKind),
    /// It is dropped by this rule, which the ledger counts.
    Drop(&'static str),
    /// It is parked by this rule.
    Hold(&'static str),
}

impl Disposition {
    /// Of a mail of this kind; `from_nobody` if its sender in the envelope is the null sender.
    pub const fn of(kinds: &KindActions, kind: MailKind, from_nobody: bool) -> Self {
        match kinds.action(kind) {
            KindAction::Hold => Self::Hold(kind.name()),
            KindAction::Drop => Self::Drop(kind.name()),
            // Nobody hears of a mail with the null sender's fate: whoever wrote it expects no answer
            // (RFC 5321 section 4.5.5).
            KindAction::Post | KindAction::PostTyped
                if from_nobody
                    && matches!(kind, MailKind::Person | MailKind::List | MailKind::Calendar) =>
            {
                Self::Drop("null_sender")
            }
            KindAction::Post => Self::Post(MailKind::Person),
            KindAction::PostTyped => Self::Post(kind),
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
        let mut kinds = KindActions::default();
        assert_eq!(kinds.set(MailKind::List, KindAction::Hold), Some(()));
        for kind in KINDS.into_iter().filter(|kind| *kind != MailKind::List) {
            assert_eq!(
                kinds.action(kind),
                KindActions::default().action(kind),
                "{kind}"
            );
        }
    }

    #[test]
    fn what_must_never_be_a_message_is_none_whatever_is_wished() {
        for kind in [MailKind::Bounce, MailKind::DelayNotice, MailKind::Loop] {
            for action in [KindAction::Post, KindAction::PostTyped] {
                let mut kinds = KindActions::default();
                assert_eq!(kinds.set(kind, action), None);
                for from_nobody in [true, false] {
                    let verdict = Disposition::of(&kinds, kind, from_nobody);
                    assert_eq!(verdict, Disposition::Drop(kind.name()));
                }
            }
        }
    }

    #[test]
    fn a_verdict_follows_the_wish() {
        let mut kinds = KindActions::default();
        for (action, verdict) in [
            (KindAction::Post, Disposition::Post(MailKind::Person)),
            (
                KindAction::PostTyped,
                Disposition::Post(MailKind::AutoReply),
            ),
            (KindAction::Drop, Disposition::Drop("auto_reply")),
            (KindAction::Hold, Disposition::Hold("auto_reply")),
        ] {
            assert_eq!(kinds.set(MailKind::AutoReply, action), Some(()));
            // An auto-reply has the null sender more often than not (RFC 3834 section 3.3).
            for from_nobody in [true, false] {
                assert_eq!(
                    Disposition::of(&kinds, MailKind::AutoReply, from_nobody),
                    verdict
                );
            }
        }
        let person = Disposition::of(&kinds, MailKind::Person, true);
        assert_eq!(person, Disposition::Drop("null_sender"));
    }
}
