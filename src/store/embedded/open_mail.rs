//! Owns the data in memory about each open mail, and the counters of settled ones.
//!
//! Does not decide when they change; `state` does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::location::RecordLocation;
use crate::mail::envelope::Envelope;
use crate::mail::partition::PartitionKey;
use crate::store::fact::DeliveryStep;
use crate::store::id::MailId;

/// Counters that cannot be derived from the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct LedgerTotals {
    pub(in crate::store) received: u64,
    pub(in crate::store) delivered: u64,
    pub(in crate::store) dropped: BTreeMap<String, u64>,
    /// Segments with records up to this number may be removed: an older index is useless.
    pub(in crate::store) gone_to: u64,
    /// The number of the oldest state segment that was not removed; 0 in folders of older versions.
    #[serde(default)]
    pub(in crate::store) state_from: u64,
    /// Live bytes in the state segments at the last compaction.
    pub(in crate::store) compact_bytes: u64,
    #[serde(default)]
    pub(in crate::store) jobs: JobTotals,
    /// The newest event that was deleted, or 0. Folders of older versions do not have it.
    #[serde(default)]
    pub(in crate::store) events_gone_to: u64,
}

/// Counters of the outbox that cannot be derived from the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct JobTotals {
    pub(in crate::store) taken: u64,
    pub(in crate::store) sent: u64,
    pub(in crate::store) cancelled: u64,
    /// Captured jobs whose mail was deleted.
    pub(in crate::store) captured_gone: u64,
    /// Failed jobs whose mail was deleted.
    pub(in crate::store) failed_gone: u64,
    /// Jobs settled by facts up to this number are forgotten, because there were too many after them.
    pub(in crate::store) settled_gone_to: u64,
    /// Some facts that settled a job, with the count of settled jobs at that time, oldest first.
    pub(in crate::store) milestones: VecDeque<(u64, u64)>,
}

impl LedgerTotals {
    /// The number of settled deliveries.
    pub(super) fn settled_count(&self) -> u64 {
        self.delivered + self.dropped.values().sum::<u64>()
    }
}

/// A mail that is not settled for all its recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenMail {
    #[serde(rename = "location")]
    pub(super) location: RecordLocation,
    pub(super) open: Vec<OpenDelivery>,
    /// True if the mail was relocated, so that another copy exists or existed.
    #[serde(rename = "carried")]
    pub(super) relocated: bool,
    /// True if the index on disk has the mail.
    #[serde(skip)]
    pub(super) indexed: bool,
}

/// A delivery that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenDelivery {
    pub(super) recipient: u16,
    /// The number of the fact that last parked or released the delivery, or 0.
    pub(super) seq: u64,
    pub(super) parked: Option<Box<str>>,
    pub(super) steps: Vec<DeliveryStep>,
    /// The partition; `None` in an old entry without one.
    #[serde(default, rename = "partition")]
    pub(super) partition: Option<PartitionKey>,
}

/// The open mails of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentUsage {
    pub(super) mails: u64,
    pub(super) bytes: u64,
}

/// The most recently accepted mails, so that a worker that keeps up reads nothing from disk.
#[derive(Debug, Default)]
pub(super) struct RecentMails {
    pub(super) mails: BTreeMap<MailId, (Arc<Envelope>, Bytes)>,
    bytes: usize,
}

impl RecentMails {
    pub(super) fn insert(&mut self, mail: MailId, envelope: Arc<Envelope>, bytes: Bytes) {
        const BYTES_MAX: usize = 32 << 20;
        const MAILS_MAX: usize = 8192;
        self.bytes += bytes.len();
        self.mails.insert(mail, (envelope, bytes));
        while self.bytes > BYTES_MAX || self.mails.len() > MAILS_MAX {
            let Some((_, (_, bytes))) = self.mails.pop_first() else {
                break;
            };
            self.bytes -= bytes.len();
        }
    }

    pub(super) fn remove(&mut self, mail: MailId) {
        if let Some((_, bytes)) = self.mails.remove(&mail) {
            self.bytes -= bytes.len();
        }
    }
}
