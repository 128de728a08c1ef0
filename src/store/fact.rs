//! Owns the words the store is spoken to in: ids, facts, outcomes, mappings, the ledger.
//!
//! Does not keep them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::id::{DeliveryId, EventId};
use super::job::{ConversationKey, DsnSummary, Job, JobOutcome, LastMessage, Suppression};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::fingerprint::Fingerprint;
use crate::mail::job_id::JobId;
use crate::mail::mailbox::Priority;
use crate::mail::subject::Subject;
use crate::mail::text::bare_message_id;

/// What is remembered of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The thread's id in the product.
    pub thread_id: String,
    /// The name of the route it belongs to.
    pub route: String,
    /// Whose thread it is: the address that began it or that a token was minted for.
    pub participant: Option<Address>,
    /// Normalised.
    pub subject: String,
    /// The subject as people read it, bounded as [`Subject::title`] is; `None` where only the normalised
    /// one is known.
    #[serde(default)]
    pub title: Option<String>,
    /// The mailbox its first mail was for.
    pub mailbox: Option<String>,
    /// How urgent its first mail was.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// The Message-ID of its newest mail, in or out.
    pub last_message_id: Option<String>,
    /// The Message-IDs for References, without brackets: the first of the thread, then the newest, newest last.
    /// [`Mapping::add_reference`] bounds them.
    pub references: Vec<String>,
    /// The beginnings of the SHA-256 of pictures its mails showed, newest last. Whoever records it
    /// bounds it.
    #[serde(default)]
    pub images: Vec<[u8; 8]>,
    /// When it was first recorded.
    pub made_at: Timestamp,
    /// When it was last recorded.
    pub changed_at: Timestamp,
}

impl Mapping {
    /// Message-IDs of a thread that are remembered.
    pub const REFERENCES_MAX: usize = 32;

    /// A thread of which nothing is known yet but whose it is.
    pub fn new(
        route: &str,
        thread_id: &str,
        participant: Option<Address>,
        made_at: Timestamp,
    ) -> Self {
        Self {
            thread_id: thread_id.to_owned(),
            route: route.to_owned(),
            participant,
            subject: String::new(),
            title: None,
            mailbox: None,
            priority: None,
            last_message_id: None,
            references: Vec::new(),
            images: Vec::new(),
            made_at,
            changed_at: made_at,
        }
    }

    /// The mail `id`, without brackets, is now the newest of the thread. Of those before it the newest are
    /// kept, and the first, by which mail programs know the thread: that one stays where it is.
    pub fn add_reference(&mut self, id: &str) {
        let is_same = |known: &String| bare_message_id(known) == id;
        if self.references.first().is_some_and(is_same) {
            return;
        }
        self.references.retain(|known| !is_same(known));
        self.references.push(id.to_owned());
        let surplus = self.references.len().saturating_sub(Self::REFERENCES_MAX);
        self.references.drain(1..1 + surplus);
    }

    /// Takes `subject` for the thread's own, if it has none, and its title where that alone is missing.
    pub fn adopt_subject(&mut self, subject: &Subject) {
        if self.subject.is_empty() {
            self.subject.clone_from(&subject.normalised);
        }
        let is_own = !self.subject.is_empty() && self.subject == subject.normalised;
        if self.title.is_none() && is_own {
            self.title = Some(subject.title.clone());
        }
    }
}

/// What the store remembers because it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The thread's mapping is now this. It is found by its sender and subject too.
    Mapped(Mapping),
    /// This Message-ID belongs to this thread.
    Linked {
        /// The route whose thread it is.
        #[serde(default)]
        route: String,
        /// With or without its angle brackets.
        message_id: String,
        /// The thread's id in the product.
        thread_id: String,
        /// We sent it; else it came in. A Message-ID we sent is never taken over by one that came
        /// in, for anyone can write what he likes in a header.
        sent_by_us: bool,
    },
    /// A step of a delivery is done and must not be done again in another way. Ignored for a
    /// delivery that is settled.
    Advanced {
        /// The delivery.
        delivery: DeliveryId,
        /// What is done.
        step: DeliveryStep,
    },
    /// The delivery is over or waits for a person. Ignored for a delivery that is over already.
    Settled {
        /// The delivery.
        delivery: DeliveryId,
        /// How it ended.
        outcome: DeliveryOutcome,
        /// What `Store::seen` shall find it by.
        fingerprint: Option<Fingerprint>,
        /// When.
        at: Timestamp,
    },
    /// A person sends a parked delivery back to waiting. Ignored for one that is not parked.
    Released {
        /// The delivery.
        delivery: DeliveryId,
        /// When.
        at: Timestamp,
    },
    /// This token is void.
    Revoked {
        /// The token's digest.
        token: [u8; 16],
        /// When.
        at: Timestamp,
    },
    /// The thread a token stands for, where the token's own bytes do not tell it: by the digest of
    /// a token whose thread id is no UUID, or of a lower-cased v1 token.
    #[serde(rename = "minted")]
    TokenIssued {
        /// The token's digest.
        token: [u8; 16],
        /// The thread's id in the product.
        thread_id: String,
        /// When the token was minted, by which it grows old.
        at: Timestamp,
    },
    /// A job was taken. Ignored if one has its id or its key already. The mail is the record's body.
    Enqueued(Box<Job>),
    /// An attempt to send a job begins. Ignored for a job that does not wait.
    Begun {
        /// The job.
        job: JobId,
        /// When.
        at: Timestamp,
    },
    /// An attempt failed and there will be another. Ignored for a job that does not wait.
    Deferred {
        /// The job.
        job: JobId,
        /// When.
        at: Timestamp,
        /// When the next attempt is due.
        due_at: Timestamp,
        /// As `host:port`, if one was spoken to.
        relay: Option<String>,
        /// What it said, or why.
        reply: String,
        /// It may have been sent all the same.
        #[serde(default)]
        in_doubt: bool,
    },
    /// A job is over, or waits for a person. Ignored for a job that does not wait.
    Ended {
        /// The job.
        job: JobId,
        /// How.
        outcome: JobOutcome,
        /// When.
        at: Timestamp,
    },
    /// A person has a failed or captured job tried again. Ignored for any other.
    Retried {
        /// The job.
        job: JobId,
        /// When.
        at: Timestamp,
        /// When it is given up now.
        ends_at: Timestamp,
    },
    /// A notice about a job that was sent came back. Ignored for a job that is not known any more.
    #[serde(rename = "came_back")]
    NoticeReceived {
        /// The job.
        job: JobId,
        /// What it says.
        #[serde(rename = "returned")]
        notice: DsnSummary,
        /// When.
        at: Timestamp,
    },
    /// Nothing is sent to this address, or more came back from it.
    Suppressed(Suppression),
    /// Mail is sent to this address again.
    Unsuppressed {
        /// Folded.
        address: String,
        /// When.
        at: Timestamp,
    },
    /// What was said last in a talk, on one side.
    #[serde(rename = "spoken")]
    MessageRecorded {
        /// Between whom; that of nobody, if the fact does not tell.
        #[serde(default, rename = "talk")]
        conversation: ConversationKey,
        /// The words.
        #[serde(rename = "said")]
        message: LastMessage,
    },
    /// Something happened that the product is told of. Record it with the fact that made it so.
    Happened(Event),
    /// A subscriber has all events up to this one, but for those that are open.
    #[serde(rename = "heard")]
    CursorAdvanced {
        /// The subscriber's name.
        subscriber: String,
        /// The last event it has.
        event: EventId,
        /// Those before that it does not have, in order; [`OPEN_KEPT_MAX`](super::CURSOR_GAPS_MAX) at most.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        open: Vec<EventId>,
        /// When.
        at: Timestamp,
    },
    /// A word that is good once came with this content: a provider's, for one mail, or a message's that
    /// we posted ourselves.
    #[serde(rename = "spent")]
    NonceUsed {
        /// The word's digest.
        #[serde(rename = "word")]
        nonce: [u8; 16],
        /// The content's digest.
        content: [u8; 16],
        /// From when on nobody takes the word any more, so that it can be forgotten.
        until: Timestamp,
    },
    /// How far a folder of an IMAP server has been looked through.
    #[serde(rename = "polled")]
    MailboxPolled {
        /// Whose folder, and where: `USER@HOST/FOLDER`.
        mailbox: String,
        /// How far.
        position: ImapPosition,
    },
}

impl Fact {
    /// The job it is about.
    pub(super) fn job(&self) -> Option<JobId> {
        match self {
            Self::Enqueued(job) => Some(job.id),
            Self::Begun { job, .. }
            | Self::Deferred { job, .. }
            | Self::Ended { job, .. }
            | Self::Retried { job, .. }
            | Self::NoticeReceived { job, .. } => Some(*job),
            _ => None,
        }
    }
}

/// How far a folder of an IMAP server has been looked through (RFC 3501 section 2.3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImapPosition {
    /// The folder's UIDVALIDITY: with another, its UIDs mean other mails.
    pub uid_validity: u32,
    /// The last UID that was looked at; 0 before the first.
    pub uid: u32,
    /// What has a lower UID was there when the folder was met, and may be an old mail.
    pub old_below: u32,
    /// An old mail that somebody has read is taken only if it arrived after this moment.
    pub since: Timestamp,
}

impl ImapPosition {
    /// Its form in the index.
    pub(super) fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.uid_validity.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.old_below.to_le_bytes());
        bytes[12..].copy_from_slice(&self.since.as_millis().to_le_bytes());
        bytes
    }

    /// Reads what [`ImapPosition::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            uid_validity: number(0)?,
            uid: number(4)?,
            old_below: number(8)?,
            since: Timestamp::from_millis(u64::from_le_bytes(*bytes.get(12..)?.first_chunk()?)),
        })
    }
}

/// What of a delivery is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStep {
    /// The product made this thread for it.
    ThreadMade {
        /// The thread's id in the product.
        thread_id: String,
    },
    /// The product has the message.
    MessagePosted {
        /// The thread's id in the product.
        thread_id: String,
        /// The message's id in the product.
        message_id: String,
    },
    /// A person sent it back from where it was parked: what only waited for that word goes on.
    Approved,
}

/// How a delivery ended, or that it waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The product has it.
    Delivered {
        /// The thread's id in the product.
        thread_id: String,
        /// The message's id in the product.
        message_id: String,
    },
    /// It waits for a person.
    Parked {
        /// Why, for the person.
        reason: String,
    },
    /// A rule says that it is not to be posted.
    Dropped {
        /// The rule's name: one of a few, for each has a number of its own in the ledger.
        rule: String,
    },
}

/// A delivery that waits or is parked, as the worker and the queue commands see it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its name.
    pub id: DeliveryId,
    /// The mail's envelope, shared by the mail's deliveries.
    pub envelope: Arc<Envelope>,
    /// The recipient it is for.
    pub recipient: Recipient,
    /// What of it is done, one of a kind, oldest first.
    pub steps: Vec<DeliveryStep>,
    /// Why it is parked, if it is.
    pub parked: Option<String>,
    /// Bytes of the mail.
    pub bytes: u64,
}

/// Where every delivery (one mail for one recipient) that was ever accepted is now.
///
/// `received` is always the sum of all the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Accepted.
    pub received: u64,
    /// Not settled yet.
    pub waiting: u64,
    /// In the product.
    pub delivered: u64,
    /// With a person.
    pub parked: u64,
    /// Dropped, by rule.
    pub dropped: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_keep_their_form_on_disk() {
        let delivery = "7.0".parse().unwrap();
        let fact = Fact::Advanced {
            delivery,
            step: DeliveryStep::ThreadMade {
                thread_id: "t".to_owned(),
            },
        };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(
            text,
            r#"{"advanced":{"delivery":{"mail":7,"recipient":0},"step":{"thread_made":{"thread_id":"t"}}}}"#
        );
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
        let fact = Fact::MailboxPolled {
            mailbox: "u@h/INBOX".to_owned(),
            position: ImapPosition {
                uid_validity: 7,
                uid: 3,
                old_below: 9,
                since: Timestamp::from_millis(5),
            },
        };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(
            text,
            r#"{"polled":{"mailbox":"u@h/INBOX","position":{"uid_validity":7,"uid":3,"old_below":9,"since":5}}}"#
        );
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
    }
}
