//! Owns the vocabulary of the store: ids, facts, outcomes, mappings, the ledger.
//!
//! Does not store them.

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
use crate::mail::kind::MailKind;
use crate::mail::mailbox::Priority;
use crate::mail::subject::Subject;
use crate::mail::text::bare_message_id;
use crate::mail::thread::ThreadReason;

/// The stored data of one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The thread's id in the product.
    pub thread_id: String,
    /// The name of the thread's route.
    pub route: String,
    /// The address that began the thread or for which a token was issued.
    pub participant: Option<Address>,
    /// The normalised subject.
    pub subject: String,
    /// The subject as people read it, bounded as [`Subject::title`] is; `None` if only the normalised one
    /// is known.
    #[serde(default)]
    pub title: Option<String>,
    /// The mailbox of the thread's first mail.
    pub mailbox: Option<String>,
    /// The priority of the thread's first mail.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// The Message-ID of the thread's newest mail, in or out.
    pub last_message_id: Option<String>,
    /// The Message-IDs for References, without brackets: the first of the thread, then the newest, newest last.
    /// [`Mapping::add_reference`] bounds them.
    pub references: Vec<String>,
    /// The first octets of the SHA-256 of pictures in the thread's mails, newest last. The recorder bounds
    /// the list.
    #[serde(default)]
    pub images: Vec<[u8; 8]>,
    /// Time of the first record.
    pub made_at: Timestamp,
    /// Time of the last record.
    pub changed_at: Timestamp,
}

impl Mapping {
    /// Upper bound of the Message-IDs that are kept of a thread.
    pub const REFERENCES_MAX: usize = 32;

    /// A thread with only the participant known.
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

    /// Makes the mail `id`, without brackets, the newest of the thread. The first id stays, because mail
    /// programs identify the thread by it, and otherwise the newest are kept.
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

    /// Sets `subject` as the thread's own, if it has none, and its title if only that is missing.
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

/// A change of the store's state that a caller records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Sets the mapping of the thread, which is also found by sender and subject.
    Mapped(Mapping),
    /// The Message-ID belongs to the thread.
    Linked {
        /// The name of the thread's route.
        #[serde(default)]
        route: String,
        /// The Message-ID, with or without its angle brackets.
        message_id: String,
        /// The thread's id in the product.
        thread_id: String,
        /// True if Postern sent the mail. A Message-ID of a sent mail is never taken over by an incoming
        /// one, because anyone can write any header.
        sent_by_us: bool,
        /// The time of the mail. The link may be forgotten `Settings::link_window` later; if the time is
        /// unknown (zero), the link is kept.
        #[serde(default)]
        at: Timestamp,
    },
    /// A step of a delivery is finished and must not be repeated differently. Ignored for a settled
    /// delivery.
    Advanced {
        /// The delivery.
        delivery: DeliveryId,
        /// The finished step.
        step: DeliveryStep,
    },
    /// The delivery is settled or waits for a person. Ignored for a settled delivery.
    Settled {
        /// The delivery.
        delivery: DeliveryId,
        /// The end of the delivery.
        outcome: DeliveryOutcome,
        /// The fingerprint by which `MailQueue::find_duplicate` finds the delivery.
        fingerprint: Option<Fingerprint>,
        /// Time of the end.
        at: Timestamp,
    },
    /// A person sends a parked delivery back to waiting. Ignored for one that is not parked.
    Released {
        /// The delivery.
        delivery: DeliveryId,
        /// Time of the release.
        at: Timestamp,
    },
    /// The token is revoked.
    Revoked {
        /// The token's digest.
        token: [u8; 16],
        /// Time of the revocation.
        at: Timestamp,
    },
    /// The thread of a token that does not contain it: a token of a thread id that is not a UUID, or a
    /// lower-cased v1 token.
    #[serde(rename = "minted")]
    TokenIssued {
        /// The token's digest.
        token: [u8; 16],
        /// The thread's id in the product.
        thread_id: String,
        /// Time of issue, from which the token's age counts.
        at: Timestamp,
    },
    /// A job was accepted. Ignored if a job with the same id or key exists. The mail is the record's body.
    Enqueued(Box<Job>),
    /// An attempt to send a job begins. Ignored for a job that is not waiting.
    Begun {
        /// The job.
        job: JobId,
        /// Start of the attempt.
        at: Timestamp,
    },
    /// An attempt failed and another follows. Ignored for a job that is not waiting.
    Deferred {
        /// The job.
        job: JobId,
        /// End of the attempt.
        at: Timestamp,
        /// Earliest time of the next attempt.
        due_at: Timestamp,
        /// The relay of the attempt as `host:port`, if one was reached.
        relay: Option<String>,
        /// The relay's reply, or the cause.
        reply: String,
        /// True if the mail may have been sent all the same.
        #[serde(default)]
        in_doubt: bool,
    },
    /// A job is over, or waits for a person. Ignored for a job that is not waiting.
    Ended {
        /// The job.
        job: JobId,
        /// The end of the job.
        outcome: JobOutcome,
        /// Time of the end.
        at: Timestamp,
    },
    /// A person retries a failed or captured job, or ends the wait of a waiting one. Ignored for any other,
    /// and while an attempt is in progress.
    Retried {
        /// The job.
        job: JobId,
        /// Time of the retry.
        at: Timestamp,
        /// The new time at which the job is given up.
        ends_at: Timestamp,
    },
    /// A notice about a sent job arrived. Ignored for an unknown job.
    #[serde(rename = "came_back")]
    NoticeReceived {
        /// The job.
        job: JobId,
        /// The content of the notice.
        #[serde(rename = "returned")]
        notice: DsnSummary,
        /// Time of arrival.
        at: Timestamp,
    },
    /// The address is suppressed, or bounced again.
    Suppressed(Suppression),
    /// The address is no longer suppressed.
    Unsuppressed {
        /// The folded address.
        address: String,
        /// Time of the change.
        at: Timestamp,
    },
    /// The last message of one side of a conversation.
    #[serde(rename = "spoken")]
    MessageRecorded {
        /// The two sides; the empty key in old records.
        #[serde(default, rename = "talk")]
        conversation: ConversationKey,
        /// The message.
        #[serde(rename = "said")]
        message: LastMessage,
    },
    /// An event for the product, recorded together with the fact that caused it.
    Happened(Event),
    /// A subscriber has all events up to this one, except for those that are open.
    #[serde(rename = "heard")]
    CursorAdvanced {
        /// The subscriber's name.
        subscriber: String,
        /// The last event that the subscriber has.
        event: EventId,
        /// Earlier events that the subscriber does not have, in order; at most
        /// [`CURSOR_GAPS_MAX`](super::CURSOR_GAPS_MAX).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        open: Vec<EventId>,
        /// Time of the change.
        at: Timestamp,
    },
    /// A nonce was used with this content: one of a provider for one mail, or the id of a message that
    /// Postern posted.
    #[serde(rename = "spent")]
    NonceUsed {
        /// The nonce's digest.
        #[serde(rename = "word")]
        nonce: [u8; 16],
        /// The content's digest.
        content: [u8; 16],
        /// Time from which the nonce is refused for its age, so that it need not be kept.
        until: Timestamp,
    },
    /// A folder of an IMAP server was read up to a position.
    #[serde(rename = "polled")]
    MailboxPolled {
        /// The folder as `USER@HOST/FOLDER`.
        mailbox: String,
        /// The new position.
        position: ImapPosition,
    },
}

impl Fact {
    /// The job that the fact is about.
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

/// The position up to which a folder of an IMAP server was read (RFC 3501 section 2.3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImapPosition {
    /// The folder's UIDVALIDITY: with another one, its UIDs belong to other mails.
    pub uid_validity: u32,
    /// The last UID that was processed; 0 before the first.
    pub uid: u32,
    /// Mails below this UID were in the folder at the first poll, and may be old.
    pub old_below: u32,
    /// The earliest arrival of an old, already read mail that is still fetched.
    pub since: Timestamp,
}

impl ImapPosition {
    /// The position's form in the index.
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

/// A finished step of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStep {
    /// The product created this thread for the delivery.
    ThreadMade {
        /// The thread's id in the product.
        thread_id: String,
    },
    /// The product accepted the message.
    MessagePosted {
        /// The thread's id in the product.
        thread_id: String,
        /// The message's id in the product.
        message_id: String,
    },
    /// A person released the parked delivery, which approves the mail.
    Approved,
    /// The content of the post, decided once before the first call to the product.
    Planned(Box<PlannedPost>),
}

/// The content of the post. It holds everything that the calls to the product contain besides the mail and
/// its envelope, so that a repeated call is identical, whatever has changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPost {
    /// The product's id of the thread; `None` if the thread is to be created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<String>,
    /// The reason why the mail belongs to its thread.
    pub reason: ThreadReason,
    /// The kind under which the mail is posted.
    pub kind: MailKind,
    /// The identity of the author, as the Messages API names it.
    pub identity: String,
    /// The mailbox.
    pub mailbox: String,
    /// The priority.
    pub priority: Priority,
    /// The rule that decided on mailbox and priority, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// True if the author becomes the participant of a thread without one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub introduces_author: bool,
    /// Digests of the pictures that earlier mails of the thread have shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_images: Vec<[u8; 8]>,
    /// Our last message to the author, which the mail may quote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<QuotedMessage>,
    /// The terms that the links to the files of the mail share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<PlannedLinks>,
    /// The files that are not stored; `None` in old records and without a place for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_files: Option<Vec<SkippedFile>>,
    /// The line above which people reply; `None` in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_marker: Option<String>,
}

/// A file of a mail that is not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFile {
    /// Its index among the files of the mail.
    pub file: u16,
    /// The reason, as the Messages API names it.
    pub reason: String,
}

/// The terms that the links to the files of one mail share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLinks {
    /// The URL at the beginning of each link.
    pub base_url: String,
    /// The time at which the links expire, in Unix seconds.
    pub expires: u64,
    /// The name of the key that signs the links. It discloses nothing about the key.
    pub key: [u8; 4],
}

/// A message of ours that a mail may quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotedMessage {
    /// Time of the message.
    pub at: Timestamp,
    /// The beginning of its text; at most [`QuotedMessage::TEXT_BYTES_MAX`].
    pub text: String,
}

impl QuotedMessage {
    /// Upper bound of the text in bytes: a step is held in memory while its delivery waits.
    pub const TEXT_BYTES_MAX: usize = 8 * 1024;
}

impl From<LastMessage> for QuotedMessage {
    fn from(message: LastMessage) -> Self {
        let mut text = message.text;
        text.truncate(text.floor_char_boundary(Self::TEXT_BYTES_MAX));
        let at = message.at;
        Self { at, text }
    }
}

/// The end of a delivery, or its parking for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The product accepted the mail.
    Delivered {
        /// The thread's id in the product.
        thread_id: String,
        /// The message's id in the product.
        message_id: String,
    },
    /// The delivery waits for a person.
    Parked {
        /// The reason, for the person.
        reason: String,
    },
    /// A rule prevents posting the mail.
    Dropped {
        /// The rule's name, from a small fixed set, because the ledger has a counter for each.
        rule: String,
    },
}

/// A delivery that waits or is parked, as the worker and the queue commands see it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The delivery's id.
    pub id: DeliveryId,
    /// The mail's envelope, shared by the mail's deliveries.
    pub envelope: Arc<Envelope>,
    /// The delivery's recipient.
    pub recipient: Recipient,
    /// The finished steps, one of a kind, oldest first.
    pub steps: Vec<DeliveryStep>,
    /// The reason why the delivery is parked; `None` if it is not.
    pub parked: Option<String>,
    /// Size of the mail in bytes.
    pub bytes: u64,
}

/// The numbers of deliveries (one mail for one recipient) by state.
///
/// `received` is always the sum of all the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Accepted deliveries.
    pub received: u64,
    /// Deliveries that are not settled.
    pub waiting: u64,
    /// Deliveries that the product accepted.
    pub delivered: u64,
    /// The number of deliveries that are parked for a person.
    pub parked: u64,
    /// Dropped deliveries, by rule.
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
