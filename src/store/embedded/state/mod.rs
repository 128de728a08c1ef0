//! Owns the result of all facts: the open mails, the ledger, and the pending changes of the index.
//!
//! Does not write to disk. The same records applied in the same order always give the same state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::index::{Index, IndexEntries, IndexError, IndexKey, IndexMeta, RawEntry};
use super::location::RecordLocation;
use super::lookup::Lookup;
use super::open_mail::{LedgerTotals, OpenDelivery, OpenMail, RecentMails, SegmentUsage};
use super::outbox_state::OutboxState;
use super::recent_mappings::RecentMappings;
use super::stored_job::StoredJob;
use crate::clock::Timestamp;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::partition::PartitionKey;
use crate::mail::token::ThreadKey;
use crate::store::fact::{DeliveryOutcome, Fact, Ledger, Mapping};
use crate::store::id::{DeliveryId, MailId};

#[cfg(test)]
mod counts;
mod outbox;
mod pending;
mod waiting;

use waiting::WaitingDeliveries;

/// The circumstances in which a fact is applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApplyContext {
    /// The fact's number when it was first written.
    pub(super) origin: u64,
    /// True if the record is not a copy, so that no totals count it yet.
    pub(super) counts: bool,
    /// True if a later fact may have been applied already.
    pub(super) replayed: bool,
    /// Location of the fact's record.
    pub(super) location: RecordLocation,
}

/// The partition of each delivery of a mail.
pub(super) fn partitions(envelope: &Envelope) -> Vec<PartitionKey> {
    let partition = |recipient| PartitionKey::of(envelope, recipient);
    envelope.recipients.iter().map(partition).collect()
}

/// The result of all facts.
#[derive(Debug)]
pub(super) struct StoreState {
    index: Index,
    open_mails: BTreeMap<MailId, OpenMail>,
    waiting: WaitingDeliveries,
    parked: BTreeSet<DeliveryId>,
    usage: BTreeMap<u64, SegmentUsage>,
    relocated: BTreeSet<MailId>,
    tombstones: BTreeMap<MailId, u64>,
    pub(super) totals: LedgerTotals,
    /// The time of the newest fact: the journal's own time.
    pub(super) newest_at: Timestamp,
    recent_mails: RecentMails,
    pub(super) recent_mappings: RecentMappings,
    /// The number of the last record applied.
    pub(super) seq: u64,
    /// The newest state segment with an applied fact.
    state_segment: u64,
    /// The number of the newest fact that was applied.
    state_seq: u64,
    pending: HashMap<IndexKey, Option<Vec<u8>>>,
    /// The approximate size of those entries in bytes, overwritten ones included.
    pending_bytes: usize,
    writing: Arc<HashMap<IndexKey, Option<Vec<u8>>>>,
    dirty_mails: BTreeSet<MailId>,
    /// False until a token is revoked for the first time, so that most stores need not read the disk.
    pub(super) has_revocations: bool,
    pub(super) outbox: OutboxState,
    limits: RetentionLimits,
}

/// The bounds of settled jobs that are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetentionLimits {
    pub(super) dedupe_window: Duration,
    /// The number of settled jobs that are kept.
    pub(super) sent_kept: u64,
}

impl Lookup for StoreState {
    fn get(&self, key: IndexKey) -> Result<Option<Vec<u8>>, IndexError> {
        match self.pending_entry(key) {
            Some(value) => Ok(value),
            None => self.index.get(key),
        }
    }

    fn entries_after(
        &self,
        tag: u8,
        after: IndexKey,
        count: usize,
    ) -> Result<IndexEntries, IndexError> {
        let pending = self.pending_after(tag, after);
        self.index.merged_after(tag, after, count, pending)
    }

    fn is_remembered(&self, job: &StoredJob) -> bool {
        let Some(settled) = job.settled else {
            return true;
        };
        let over_at = job.over_at.unwrap_or_default();
        settled > self.totals.jobs.settled_gone_to
            && self.newest_at.since(over_at) < self.limits.dedupe_window
    }

    fn newest_at(&self) -> Timestamp {
        self.newest_at
    }
}

impl StoreState {
    /// The state from the index.
    pub(super) fn load(
        index: Index,
        meta: IndexMeta,
        limits: RetentionLimits,
    ) -> Result<Self, IndexError> {
        let mut state = Self {
            open_mails: BTreeMap::new(),
            waiting: WaitingDeliveries::default(),
            parked: BTreeSet::new(),
            usage: BTreeMap::new(),
            relocated: BTreeSet::new(),
            tombstones: index.tombstones()?.into_iter().collect(),
            totals: meta.totals,
            newest_at: Timestamp::default(),
            recent_mails: RecentMails::default(),
            recent_mappings: RecentMappings::default(),
            seq: meta.seq,
            state_segment: meta.state_segment,
            state_seq: meta.state_seq,
            pending: HashMap::new(),
            pending_bytes: 0,
            writing: Arc::default(),
            dirty_mails: BTreeSet::new(),
            has_revocations: index.has_revocations()?,
            outbox: OutboxState::default(),
            limits,
            index,
        };
        for (mail, mut held) in state.index.open_mails()? {
            held.indexed = true;
            state.add_open_mail(mail, held);
        }
        state.load_outbox()?;
        Ok(state)
    }

    /// The index, for reading without the state's lock.
    pub(super) fn index(&self) -> Index {
        self.index.clone()
    }

    /// Adds an accepted mail. For a known one only the newest location is recorded.
    pub(super) fn accept(
        &mut self,
        mail: MailId,
        location: RecordLocation,
        partitions: &[PartitionKey],
        counts: bool,
    ) {
        if counts {
            self.totals.received += partitions.len() as u64;
        }
        if self.open_mails.contains_key(&mail) {
            return self.relocate(mail, location);
        }
        let open = |(recipient, partition): (u16, &PartitionKey)| OpenDelivery {
            recipient,
            seq: 0,
            parked: None,
            steps: Vec::new(),
            partition: Some(*partition),
        };
        let held = OpenMail {
            location,
            open: (0..).zip(partitions).map(open).collect(),
            relocated: false,
            indexed: false,
        };
        self.add_open_mail(mail, held);
        self.dirty_mails.insert(mail);
    }

    /// Records another location of the mail's bytes, from which they are now read.
    pub(super) fn relocate(&mut self, mail: MailId, location: RecordLocation) {
        let Some(held) = self.open_mails.get_mut(&mail) else {
            return;
        };
        if held.location.segment < location.segment {
            let old = std::mem::replace(&mut held.location, location);
            self.remove_usage(old);
            self.add_usage(location);
            self.mark_relocated(mail);
        }
    }

    /// Marks a mail as relocated when a replay finds the copy.
    pub(super) fn mark_relocated(&mut self, mail: MailId) {
        if let Some(held) = self.open_mails.get_mut(&mail) {
            held.relocated = true;
            self.relocated.insert(mail);
            self.dirty_mails.insert(mail);
        }
    }

    pub(super) fn keep_recent(&mut self, mail: MailId, envelope: Arc<Envelope>, bytes: Bytes) {
        self.recent_mails.insert(mail, envelope, bytes);
    }

    /// Applies one fact.
    pub(super) fn apply(&mut self, fact: Fact, stamp: ApplyContext) -> Result<(), IndexError> {
        self.state_segment = self.state_segment.max(stamp.location.segment);
        self.state_seq = self.state_seq.max(stamp.origin);
        match fact {
            Fact::Mapped(mapping) => self.apply_mapping(mapping, stamp),
            Fact::Linked {
                route,
                message_id,
                thread_id,
                sent_by_us,
                at: _,
            } => {
                let key = IndexKey::message_id(&route, &message_id, sent_by_us);
                self.put_entry(key, stamp, &ThreadKey::of(&thread_id).0)
            }
            Fact::Advanced { delivery, step } => {
                if let Some(open) = self.open_delivery_mut(delivery) {
                    let kind = std::mem::discriminant(&step);
                    open.steps.retain(|s| std::mem::discriminant(s) != kind);
                    open.steps.push(step);
                    self.dirty_mails.insert(delivery.mail);
                }
                Ok(())
            }
            Fact::Settled {
                delivery,
                outcome,
                fingerprint,
                at,
            } => {
                self.advance_clock(at, stamp);
                self.settle(delivery, outcome, stamp);
                let Some(Fingerprint(name)) = fingerprint else {
                    return Ok(());
                };
                let mut payload = at.as_millis().to_le_bytes().to_vec();
                payload.extend_from_slice(&delivery.mail.0.to_le_bytes());
                payload.extend_from_slice(&delivery.recipient.to_le_bytes());
                self.put_entry(IndexKey::fingerprint(name), stamp, &payload)
            }
            Fact::Released { delivery, at } => {
                self.advance_clock(at, stamp);
                self.park(delivery, None, stamp);
                Ok(())
            }
            Fact::Revoked { token, at } => {
                self.has_revocations = true;
                let payload = at.as_millis().to_le_bytes();
                self.put_entry(IndexKey::revoked(token), stamp, &payload)
            }
            Fact::TokenIssued {
                token,
                thread_id,
                at,
            } => {
                let mut payload = at.as_millis().to_le_bytes().to_vec();
                payload.extend_from_slice(thread_id.as_bytes());
                self.put_entry(IndexKey::issued_token(token), stamp, &payload)
            }
            Fact::MailboxPolled { mailbox, position } => {
                self.put_entry(IndexKey::imap_position(&mailbox), stamp, &position.encode())
            }
            Fact::NonceUsed { nonce, content, .. } => {
                self.put_entry(IndexKey::nonce(nonce), stamp, &content)
            }
            outgoing => self.apply_outbox_fact(outgoing, stamp),
        }
    }

    /// Applies an entry of another index, unless a newer fact has set it.
    pub(super) fn apply_entry(&mut self, entry: &RawEntry) -> Result<(), IndexError> {
        let Some((key, value)) = IndexKey::parse_entry(entry) else {
            return Err(IndexError::damaged("an entry of the journal"));
        };
        let seq = value
            .first_chunk()
            .map_or(0, |seq| u64::from_le_bytes(*seq));
        if self.entry(key)?.is_none_or(|(known, _)| known <= seq) {
            self.set_entry(key, Some(value));
        }
        Ok(())
    }

    /// Forgets an entry.
    pub(super) fn remove_entry(&mut self, key: IndexKey) {
        self.set_entry(key, None);
    }

    /// Removes a mail segment and the copies in it.
    pub(super) fn segment_removed(&mut self, number: u64) {
        self.usage.remove(&number);
        let gone: Vec<MailId> = self
            .tombstones
            .iter()
            .filter(|(_, segment)| **segment == number)
            .map(|(mail, _)| *mail)
            .collect();
        for mail in gone {
            self.tombstones.remove(&mail);
            self.remove_entry(IndexKey::tombstone(mail));
        }
    }

    /// An entry that is not written to the index yet; `None` if the index is current.
    pub(super) fn pending_entry(&self, key: IndexKey) -> Option<Option<Vec<u8>>> {
        let found = self.pending.get(&key).or_else(|| self.writing.get(&key));
        found.cloned()
    }

    /// The entries of one kind after `after` that are not written to the index yet.
    pub(super) fn pending_after(&self, tag: u8, after: IndexKey) -> IndexEntries {
        let (_, last) = IndexKey::bounds(tag);
        let mut entries = IndexEntries::new();
        for newer in [&*self.writing, &self.pending] {
            let here = newer
                .iter()
                .filter(|(key, _)| after < **key && **key <= last);
            entries.extend(here.map(|(key, value)| (*key, value.clone())));
        }
        entries
    }

    /// The key of the entry that finds a mapping by its sender and subject.
    pub(super) fn subject_key(mapping: &Mapping) -> Option<IndexKey> {
        let sender = mapping.participant.as_ref()?.folded();
        Some(IndexKey::subject(&mapping.route, &sender, &mapping.subject))
    }

    /// The first waiting delivery in the range from `from`.
    pub(super) fn next_waiting(&self, from: Bound<DeliveryId>) -> Option<DeliveryId> {
        let ids = self.waiting.ids();
        ids.range((from, Bound::Unbounded)).next().copied()
    }

    /// The first parked delivery in the range from `from`.
    pub(super) fn next_parked(&self, from: Bound<DeliveryId>) -> Option<DeliveryId> {
        self.parked.range((from, Bound::Unbounded)).next().copied()
    }

    pub(super) const fn open_mails(&self) -> &BTreeMap<MailId, OpenMail> {
        &self.open_mails
    }

    pub(super) fn open_mail(&self, mail: MailId) -> Option<&OpenMail> {
        self.open_mails.get(&mail)
    }

    pub(super) fn open_delivery(&self, delivery: DeliveryId) -> Option<&OpenDelivery> {
        let open = &self.open_mails.get(&delivery.mail)?.open;
        open.iter().find(|o| o.recipient == delivery.recipient)
    }

    /// The number of the fact that last parked or released a delivery.
    pub(super) fn status_seq(&self, delivery: DeliveryId) -> Option<u64> {
        self.open_delivery(delivery).map(|o| o.seq)
    }

    pub(super) const fn waiting(&self) -> &BTreeSet<DeliveryId> {
        self.waiting.ids()
    }

    pub(super) const fn parked(&self) -> &BTreeSet<DeliveryId> {
        &self.parked
    }

    /// The first delivery in the partition of a waiting delivery, if that is another one.
    pub(super) fn delivery_ahead(&self, id: DeliveryId) -> Option<DeliveryId> {
        let open = self.open_delivery(id).filter(|o| o.parked.is_none())?;
        let first = self.waiting.first_of(open.partition?)?;
        (first != id).then_some(first)
    }

    pub(super) const fn waiting_bytes(&self) -> u64 {
        self.waiting.bytes()
    }

    /// The mail segments with open mails.
    pub(super) const fn usage(&self) -> &BTreeMap<u64, SegmentUsage> {
        &self.usage
    }

    /// The open mails in a segment, at most `count`. `own` are the numbers of the records first written
    /// there.
    pub(super) fn open_mails_in(
        &self,
        segment: u64,
        own: RangeInclusive<u64>,
        count: usize,
    ) -> Vec<(MailId, RecordLocation)> {
        let own = self
            .open_mails
            .range(MailId(*own.start())..=MailId(*own.end()));
        let carried = self
            .relocated
            .iter()
            .filter_map(|m| self.open_mails.get_key_value(m));
        let here = |(mail, held): (&MailId, &OpenMail)| {
            (held.location.segment == segment).then_some((*mail, held.location))
        };
        let mut found: Vec<_> = own.chain(carried).filter_map(here).take(count).collect();
        found.dedup();
        found
    }

    pub(super) fn has_tombstone(&self, mail: MailId) -> bool {
        self.tombstones.contains_key(&mail)
    }

    pub(super) fn recent_mail(&self, mail: MailId) -> Option<&(Arc<Envelope>, Bytes)> {
        self.recent_mails.mails.get(&mail)
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger {
            received: self.totals.received,
            waiting: self.waiting.ids().len() as u64,
            delivered: self.totals.delivered,
            parked: self.parked.len() as u64,
            dropped: self.totals.dropped.clone(),
        }
    }

    fn apply_mapping(&mut self, mapping: Mapping, stamp: ApplyContext) -> Result<(), IndexError> {
        let key = ThreadKey::of(&mapping.thread_id);
        if let Some(subject) = Self::subject_key(&mapping) {
            self.put_entry(subject, stamp, &key.0)?;
        }
        let thread = IndexKey::thread(&mapping.route, key);
        self.put_entry(thread, stamp, &stamp.location.encode_head())?;
        // A replayed mapping may be outdated already.
        if !stamp.replayed {
            let (seq, bytes) = (stamp.origin, stamp.location.head_bytes as usize);
            self.recent_mappings.insert(thread, mapping, seq, bytes);
        }
        Ok(())
    }

    fn put_entry(
        &mut self,
        key: IndexKey,
        stamp: ApplyContext,
        payload: &[u8],
    ) -> Result<(), IndexError> {
        if stamp.replayed && self.entry(key)?.is_some_and(|(seq, _)| seq > stamp.origin) {
            return Ok(());
        }
        self.insert_entry(key, stamp.origin, payload);
        Ok(())
    }

    /// Writes an entry for the fact `seq`.
    fn insert_entry(&mut self, key: IndexKey, seq: u64, payload: &[u8]) {
        let mut value = Vec::with_capacity(8 + payload.len());
        value.extend_from_slice(&seq.to_le_bytes());
        value.extend_from_slice(payload);
        self.set_entry(key, Some(value));
    }

    fn set_entry(&mut self, key: IndexKey, value: Option<Vec<u8>>) {
        self.pending_bytes += value.as_ref().map_or(0, Vec::len);
        self.pending.insert(key, value);
    }

    fn settle(&mut self, delivery: DeliveryId, outcome: DeliveryOutcome, stamp: ApplyContext) {
        match outcome {
            DeliveryOutcome::Parked { reason } => return self.park(delivery, Some(reason), stamp),
            DeliveryOutcome::Delivered { .. } => {
                if stamp.counts {
                    self.totals.delivered += 1;
                }
            }
            DeliveryOutcome::Dropped { rule } => {
                if stamp.counts {
                    *self.totals.dropped.entry(rule).or_default() += 1;
                }
            }
        }
        let partition = self.open_delivery(delivery).and_then(|o| o.partition);
        let Some(held) = self.open_mails.get_mut(&delivery.mail) else {
            return;
        };
        held.open.retain(|o| o.recipient != delivery.recipient);
        let (over, bytes) = (held.open.is_empty(), held.location.body_bytes);
        self.waiting.remove(delivery, partition, bytes);
        self.parked.remove(&delivery);
        self.dirty_mails.insert(delivery.mail);
        if over {
            self.remove_open_mail(delivery.mail);
        }
    }

    fn park(&mut self, delivery: DeliveryId, reason: Option<String>, stamp: ApplyContext) {
        let Some(open) = self
            .open_delivery_mut(delivery)
            .filter(|o| o.seq <= stamp.origin)
        else {
            return;
        };
        open.seq = stamp.origin;
        open.parked = reason.map(String::into_boxed_str);
        let (parked, partition) = (open.parked.is_some(), open.partition);
        let held = self.open_mails.get(&delivery.mail);
        let bytes = held.map_or(0, |held| held.location.body_bytes);
        if parked {
            self.waiting.remove(delivery, partition, bytes);
            self.parked.insert(delivery);
        } else {
            self.parked.remove(&delivery);
            self.waiting.insert(delivery, partition, bytes);
        }
        self.dirty_mails.insert(delivery.mail);
    }

    fn open_delivery_mut(&mut self, delivery: DeliveryId) -> Option<&mut OpenDelivery> {
        let open = &mut self.open_mails.get_mut(&delivery.mail)?.open;
        open.iter_mut().find(|o| o.recipient == delivery.recipient)
    }

    fn add_open_mail(&mut self, mail: MailId, held: OpenMail) {
        for open in &held.open {
            let delivery = DeliveryId {
                mail,
                recipient: open.recipient,
            };
            if open.parked.is_some() {
                self.parked.insert(delivery);
            } else {
                let bytes = held.location.body_bytes;
                self.waiting.insert(delivery, open.partition, bytes);
            }
        }
        self.add_usage(held.location);
        if held.relocated {
            self.relocated.insert(mail);
        }
        self.open_mails.insert(mail, held);
    }

    fn remove_open_mail(&mut self, mail: MailId) {
        let Some(held) = self.open_mails.remove(&mail) else {
            return;
        };
        self.recent_mails.remove(mail);
        self.remove_usage(held.location);
        if !held.indexed {
            // The mail came and was settled between two writes to the index, which needs neither.
            self.dirty_mails.remove(&mail);
        }
        if self.relocated.remove(&mail) {
            let segment = held.location.segment;
            self.tombstones.insert(mail, segment);
            self.set_entry(
                IndexKey::tombstone(mail),
                Some(segment.to_le_bytes().to_vec()),
            );
        }
    }

    fn add_usage(&mut self, location: RecordLocation) {
        let live = self.usage.entry(location.segment).or_default();
        live.mails += 1;
        live.bytes += u64::from(location.body_bytes);
    }

    fn remove_usage(&mut self, location: RecordLocation) {
        if let Some(live) = self.usage.get_mut(&location.segment) {
            live.mails -= 1;
            live.bytes -= u64::from(location.body_bytes);
            if live.mails == 0 {
                self.usage.remove(&location.segment);
            }
        }
    }
}
