//! Owns the decision to which conversation a mail belongs, and the reason for it.
//!
//! Does not look anything up: the caller queries the store and passes the results.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::view::HeaderView;
use crate::clock::Timestamp;

/// The number of Message-IDs of one mail that are looked up.
const LOOKUPS_MAX: usize = 50;

/// A thread to which something in the mail points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadCandidate {
    /// The product's id of the thread.
    pub thread_id: String,
    /// The participant of the thread; `None` if not known.
    pub participant: Option<Address>,
    /// Time of the thread's last change.
    pub changed_at: Timestamp,
    /// The reason why the mail may belong to the thread.
    pub reason: ThreadReason,
}

/// The reason why a mail belongs to a thread. Earlier variants outrank later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadReason {
    /// The token of the recipient's address.
    Token,
    /// `In-Reply-To` names a mail we sent.
    InReplyTo,
    /// `References` names a mail we sent.
    References,
    /// `In-Reply-To` or `References` names a mail that came in before.
    StoredMessageId,
    /// The same sender wrote under the same subject.
    Subject,
    /// Headers or subject point only to threads of other participants, or of unknown ones.
    OtherParticipant,
    /// No thread is indicated.
    None,
}

impl ThreadReason {
    /// The name of the reason in messages, metrics and the log, for example `in_reply_to`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::InReplyTo => "in_reply_to",
            Self::References => "references",
            Self::StoredMessageId => "stored_message_id",
            Self::Subject => "subject",
            Self::OtherParticipant => "other_participant",
            Self::None => "none",
        }
    }
}

/// The facts of a mail that the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct ThreadFacts<'a> {
    /// The single address of the single `From` field; without it only a token finds a thread.
    pub author: Option<&'a Address>,
    /// True if the author's domain vouches for the mail.
    pub is_authenticated: bool,
    /// The normalised subject. An empty one identifies nothing.
    pub subject: &'a str,
    /// Time at which the mail was received.
    pub now: Timestamp,
    /// The time after a thread's last change in which its subject still finds it.
    pub subject_window: Duration,
}

/// The thread to which a mail belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadDecision {
    /// An existing thread.
    Existing {
        /// The product's id of the thread.
        thread_id: String,
        /// The reason for the thread.
        reason: ThreadReason,
    },
    /// A new thread.
    New {
        /// [`ThreadReason::None`], or [`ThreadReason::OtherParticipant`].
        reason: ThreadReason,
    },
    /// One of several threads with an equal claim: a person decides.
    Conflict {
        /// The reason that several threads share.
        reason: ThreadReason,
    },
}

/// Decides to which thread a mail belongs.
///
/// The strongest reason decides: token, then a Message-ID of a mail we sent (`In-Reply-To` before
/// `References`), then a Message-ID of a mail that came in, then sender and subject. A token always counts,
/// regardless of the author; every other reason leads only to a thread of the author, so that knowledge of a
/// Message-ID opens no other person's conversation. If two threads have the same reason, the result is a
/// conflict, not a guess.
pub fn decide(facts: &ThreadFacts<'_>, candidates: &[ThreadCandidate]) -> ThreadDecision {
    let Some(best) = candidates
        .iter()
        .filter(|candidate| facts.admit(candidate))
        .min_by_key(|candidate| candidate.reason)
    else {
        let is_of_another = candidates.iter().any(|candidate| !facts.owns(candidate));
        return ThreadDecision::New {
            reason: if is_of_another {
                ThreadReason::OtherParticipant
            } else {
                ThreadReason::None
            },
        };
    };
    let reason = best.reason;
    let disagrees = |other: &ThreadCandidate| {
        other.reason == reason && other.thread_id != best.thread_id && facts.admit(other)
    };
    if candidates.iter().any(disagrees) {
        return ThreadDecision::Conflict { reason };
    }
    ThreadDecision::Existing {
        thread_id: best.thread_id.clone(),
        reason,
    }
}

/// The Message-IDs to look up for a mail, each once, with the reason that applies if we sent the mail it
/// names: first those of `In-Reply-To`, then those of `References`, newest first.
pub fn message_ids_to_look_up(header: &HeaderView) -> Vec<(&str, ThreadReason)> {
    let in_reply_to = header
        .in_reply_to
        .iter()
        .map(|id| (id, ThreadReason::InReplyTo));
    let references = header.references.iter().rev();
    let mut found: Vec<(&str, ThreadReason)> = Vec::new();
    for (id, reason) in in_reply_to.chain(references.map(|id| (id, ThreadReason::References))) {
        if found.len() < LOOKUPS_MAX && !found.iter().any(|(seen, _)| seen == id) {
            found.push((id, reason));
        }
    }
    found
}

impl ThreadFacts<'_> {
    fn admit(&self, candidate: &ThreadCandidate) -> bool {
        match candidate.reason {
            ThreadReason::Token => true,
            ThreadReason::InReplyTo | ThreadReason::References | ThreadReason::StoredMessageId => {
                self.owns(candidate)
            }
            ThreadReason::Subject => {
                self.is_authenticated
                    && !self.subject.is_empty()
                    && self.now.since(candidate.changed_at) <= self.subject_window
                    && self.owns(candidate)
            }
            ThreadReason::OtherParticipant | ThreadReason::None => false,
        }
    }

    fn owns(&self, candidate: &ThreadCandidate) -> bool {
        match (self.author, &candidate.participant) {
            (Some(author), Some(participant)) => author.folded() == participant.folded(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const WINDOW: Duration = Duration::from_secs(1_000);

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn candidate(reason: ThreadReason, thread_id: &str, participant: &str) -> ThreadCandidate {
        ThreadCandidate {
            thread_id: thread_id.to_owned(),
            participant: Address::parse(participant).ok(),
            changed_at: NOW.minus(WINDOW),
            reason,
        }
    }

    fn ann(reason: ThreadReason, thread_id: &str) -> ThreadCandidate {
        candidate(reason, thread_id, "ann@example.com")
    }

    fn decided(candidates: &[ThreadCandidate]) -> ThreadDecision {
        let author = address("Ann@Example.com");
        decide(&facts(&author), candidates)
    }

    fn facts(author: &Address) -> ThreadFacts<'_> {
        ThreadFacts {
            author: Some(author),
            is_authenticated: true,
            subject: "roof",
            now: NOW,
            subject_window: WINDOW,
        }
    }

    fn existing(thread_id: &str, reason: ThreadReason) -> ThreadDecision {
        let thread_id = thread_id.to_owned();
        ThreadDecision::Existing { thread_id, reason }
    }

    const NONE: ThreadDecision = ThreadDecision::New {
        reason: ThreadReason::None,
    };
    const OTHER: ThreadDecision = ThreadDecision::New {
        reason: ThreadReason::OtherParticipant,
    };

    #[test]
    fn the_best_reason_decides_in_any_order() {
        use ThreadReason::{InReplyTo, References, StoredMessageId, Subject, Token};
        let ranked = [Token, InReplyTo, References, StoredMessageId, Subject];
        let mut candidates: Vec<_> = ranked
            .iter()
            .map(|reason| ann(*reason, reason.as_str()))
            .collect();
        for reason in ranked {
            let expected = existing(reason.as_str(), reason);
            assert_eq!(decided(&candidates), expected);
            candidates.reverse();
            assert_eq!(decided(&candidates), expected);
            candidates.retain(|candidate| candidate.reason != reason);
        }
        assert_eq!(decided(&[]), NONE);
    }

    #[test]
    fn only_a_token_crosses_to_another_participant() {
        for other in ["bob@example.com", "ann@example.org", "nobody"] {
            let token = candidate(ThreadReason::Token, "t", other);
            assert_eq!(decided(&[token]), existing("t", ThreadReason::Token));
            for reason in [
                ThreadReason::InReplyTo,
                ThreadReason::References,
                ThreadReason::StoredMessageId,
                ThreadReason::Subject,
            ] {
                let theirs = candidate(reason, "t", other);
                assert_eq!(decided(std::slice::from_ref(&theirs)), OTHER);
                let own = ann(ThreadReason::Subject, "own");
                assert_eq!(
                    decided(&[theirs, own]),
                    existing("own", ThreadReason::Subject)
                );
            }
        }
    }

    #[test]
    fn without_one_author_only_a_token_counts() {
        let author = address("ann@example.com");
        let facts = ThreadFacts {
            author: None,
            ..facts(&author)
        };
        let header = ann(ThreadReason::InReplyTo, "t");
        assert_eq!(decide(&facts, std::slice::from_ref(&header)), OTHER);
        let both = [header, ann(ThreadReason::Token, "u")];
        assert_eq!(decide(&facts, &both), existing("u", ThreadReason::Token));
    }

    #[test]
    fn equal_claims_are_a_conflict() {
        for reason in [
            ThreadReason::Token,
            ThreadReason::InReplyTo,
            ThreadReason::References,
            ThreadReason::StoredMessageId,
        ] {
            let two = [ann(reason, "a"), ann(reason, "b")];
            assert_eq!(decided(&two), ThreadDecision::Conflict { reason });
            let same = [ann(reason, "a"), ann(reason, "a")];
            assert_eq!(decided(&same), existing("a", reason));
            let one_is_theirs = [ann(reason, "a"), candidate(reason, "b", "bob@example.com")];
            if reason != ThreadReason::Token {
                assert_eq!(decided(&one_is_theirs), existing("a", reason));
            }
        }
        let ranked = [
            ann(ThreadReason::InReplyTo, "a"),
            ann(ThreadReason::References, "b"),
        ];
        assert_eq!(decided(&ranked), existing("a", ThreadReason::InReplyTo));
    }

    #[test]
    fn a_subject_counts_only_in_time_and_from_the_sender() {
        let author = address("ann@example.com");
        let good = facts(&author);
        let at = |changed_at| ThreadCandidate {
            changed_at,
            ..ann(ThreadReason::Subject, "t")
        };
        let found = existing("t", ThreadReason::Subject);
        let last = NOW.minus(WINDOW);
        let later = last.minus(Duration::from_millis(1));
        assert_eq!(decide(&good, &[at(last)]), found);
        assert_eq!(decide(&good, &[at(later)]), NONE);
        let unknown = ThreadFacts {
            is_authenticated: false,
            ..good
        };
        assert_eq!(decide(&unknown, &[at(last)]), NONE);
        let wordless = ThreadFacts {
            subject: "",
            ..good
        };
        assert_eq!(decide(&wordless, &[at(last)]), NONE);
    }

    #[test]
    fn message_ids_are_looked_up_newest_first_and_once() {
        let many: Vec<String> = (0..90).map(|n| format!("<{n}@x>")).collect();
        let mail = format!(
            "In-Reply-To: <88@x> <own@x>\nReferences: {}\n\n",
            many.join(" ")
        );
        let header = HeaderView::parse(mail.as_bytes());
        let found = message_ids_to_look_up(&header);
        assert_eq!(
            found[..4],
            [
                ("88@x", ThreadReason::InReplyTo),
                ("own@x", ThreadReason::InReplyTo),
                ("89@x", ThreadReason::References),
                ("87@x", ThreadReason::References),
            ]
        );
        assert_eq!(found.len(), LOOKUPS_MAX);
    }

    #[test]
    fn names_are_those_of_the_json() {
        for reason in [
            ThreadReason::Token,
            ThreadReason::InReplyTo,
            ThreadReason::StoredMessageId,
        ] {
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.as_str()));
        }
    }
}
