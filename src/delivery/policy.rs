//! Owns a route's policy for its mail: the rules for sorting, and the action for each kind.
//!
//! Does not read settings and does not execute actions.

use std::sync::Arc;

use crate::mail::kind::{Classification, MailKind};
use crate::mail::mailbox::{Rules, RulesError};

/// The policy of a route for its mail. Clones share the rules.
#[derive(Clone, Debug)]
pub struct RoutePolicy {
    /// The rules for mailbox and priority.
    pub rules: Arc<Rules>,
    /// The action for each kind of mail.
    pub kinds: KindActions,
}

impl RoutePolicy {
    /// The built-in rules, and the default action for each kind.
    ///
    /// # Errors
    /// Never in a release: a test parses the built-in rules.
    pub fn shipped() -> Result<Self, RulesError> {
        Ok(Self {
            rules: Arc::new(Rules::shipped()?),
            kinds: KindActions::default(),
        })
    }
}

/// The action for mail of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindAction {
    /// The mail becomes a message like any person's.
    Post,
    /// The mail becomes a message with its kind in it.
    PostTyped,
    /// The mail is dropped, and the ledger counts it under its kind.
    Drop,
    /// The mail is parked for a person to decide.
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

/// The action for each kind of mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindActions([KindAction; MailKind::ALL.len()]);

impl KindActions {
    /// The action for mail of this kind.
    pub const fn action(&self, kind: MailKind) -> KindAction {
        self.0[kind as usize]
    }

    /// Sets the action for mail of this kind. `None`, without a change, if such mail must never be posted:
    /// a report on a mail of ours is not a message, and our own mail that returned would loop.
    #[must_use = "a wish may be refused"]
    pub fn set(&mut self, kind: MailKind, action: KindAction) -> Option<()> {
        if !Self::is_allowed(kind, action) {
            return None;
        }
        self.0[kind as usize] = action;
        Some(())
    }

    /// True if the action is allowed for mail of this kind.
    pub const fn is_allowed(kind: MailKind, action: KindAction) -> bool {
        let is_never_posted = matches!(
            kind,
            MailKind::Bounce | MailKind::DelayNotice | MailKind::Loop
        );
        !(is_never_posted && matches!(action, KindAction::Post | KindAction::PostTyped))
    }
}

impl Default for KindActions {
    /// Mail that no person wrote is dropped. Mail of lists and answers to invitations are posted
    /// under their kind, because a person may have written them.
    fn default() -> Self {
        Self(MailKind::ALL.map(|kind| match kind {
            MailKind::Person => KindAction::Post,
            MailKind::List | MailKind::Calendar => KindAction::PostTyped,
            _ => KindAction::Drop,
        }))
    }
}

/// The decision on one mail by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The mail becomes a message of this kind.
    Post(MailKind),
    /// The mail is dropped by this rule, which the ledger counts.
    Drop(&'static str),
    /// The mail is parked by this rule.
    Hold(&'static str),
}

impl Disposition {
    /// The decision on a mail by its kind; `from_nobody` is true for the null sender. Mail whose kind is in
    /// doubt is held if it would otherwise be dropped.
    pub const fn of(kinds: &KindActions, found: &Classification, from_nobody: bool) -> Self {
        let kind = found.kind;
        match kinds.action(kind) {
            KindAction::Hold => Self::Hold(kind.name()),
            KindAction::Drop if !found.is_certain => Self::Hold(kind.name()),
            KindAction::Drop => Self::Drop(kind.name()),
            // A mail with the null sender expects no answer (RFC 5321 section 4.5.5), but some hops write it
            // on people's mail.
            KindAction::Post | KindAction::PostTyped
                if from_nobody
                    && matches!(kind, MailKind::Person | MailKind::List | MailKind::Calendar) =>
            {
                Self::Hold("null_sender")
            }
            KindAction::Post => Self::Post(MailKind::Person),
            KindAction::PostTyped => Self::Post(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: MailKind) -> Classification {
        Classification {
            kind,
            rule: "test",
            evidence: None,
            is_certain: true,
        }
    }

    #[test]
    fn each_kind_has_its_own_slot() {
        for (at, kind) in MailKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{kind}");
        }
        let mut kinds = KindActions::default();
        assert_eq!(kinds.set(MailKind::List, KindAction::Hold), Some(()));
        for kind in MailKind::ALL
            .into_iter()
            .filter(|kind| *kind != MailKind::List)
        {
            assert_eq!(
                kinds.action(kind),
                KindActions::default().action(kind),
                "{kind}"
            );
        }
    }

    #[test]
    fn reports_and_loops_are_never_posted() {
        for kind in [MailKind::Bounce, MailKind::DelayNotice, MailKind::Loop] {
            for action in [KindAction::Post, KindAction::PostTyped] {
                let mut kinds = KindActions::default();
                assert_eq!(kinds.set(kind, action), None);
                for from_nobody in [true, false] {
                    let verdict = Disposition::of(&kinds, &found(kind), from_nobody);
                    assert_eq!(verdict, Disposition::Drop(kind.name()));
                }
            }
        }
    }

    #[test]
    fn a_disposition_follows_the_action() {
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
                    Disposition::of(&kinds, &found(MailKind::AutoReply), from_nobody),
                    verdict
                );
            }
        }
        let person = Disposition::of(&kinds, &found(MailKind::Person), true);
        assert_eq!(person, Disposition::Hold("null_sender"));
        let doubtful = Classification {
            is_certain: false,
            ..found(MailKind::AutoReply)
        };
        let held = Disposition::of(&KindActions::default(), &doubtful, false);
        assert_eq!(held, Disposition::Hold("auto_reply"));
    }
}
