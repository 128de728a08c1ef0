//! Owns what the facts add up to: the mails not settled, the ledger, and the changes on their way to the index.
//!
//! Does not write to any disk. The same records applied in the same order always give the same state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fact::{DeliveryId, Fact, Ledger, MailId, Mapping, Outcome, Position};
use super::held::{Held, Live, Open, Recent, Totals};
use super::index::{Index, IndexError, Key, Meta};
use super::outbox::Outbox;
use super::place::Place;
use crate::clock::Timestamp;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::lane::LaneKey;
use crate::mail::token::ThreadKey;

mod indexing;
mod sending;

/// How a fact is to be applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The number it had when it was first written.
    pub(super) origin: u64,
    /// It was written here for the first time, and no totals count it yet.
    pub(super) counts: bool,
    /// A later fact may have been applied already.
    pub(super) replayed: bool,
    /// Where its record stands.
    pub(super) place: Place,
}

/// The line each delivery of a mail stands in.
pub(super) fn lanes(envelope: &Envelope) -> Vec<LaneKey> {
    let lane = |recipient| LaneKey::of(envelope, recipient);
    envelope.recipients.iter().map(lane).collect()
}

/// What the facts add up to.
#[derive(Debug)]
pub(super) struct State {
    index: Index,
    held: BTreeMap<MailId, Held>,
    waiting: BTreeSet<DeliveryId>,
    parked: BTreeSet<DeliveryId>,
    waiting_bytes: u64,
    live: BTreeMap<u64, Live>,
    carried: BTreeSet<MailId>,
    ghosts: BTreeMap<MailId, u64>,
    pub(super) totals: Totals,
    /// The moment the newest fact speaks of: the journal's own idea of now.
    pub(super) newest_at: Timestamp,
    recent: Recent,
    /// The number of the last record applied.
    pub(super) seq: u64,
    fresh: HashMap<Key, Option<Vec<u8>>>,
    /// About how many bytes those are: what is written over is counted too.
    fresh_bytes: usize,
    leaving: Arc<HashMap<Key, Option<Vec<u8>>>>,
    dirty: BTreeSet<MailId>,
    pub(super) outbox: Outbox,
    limits: Limits,
}

/// How long settled jobs are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) dedupe_window: Duration,
    /// How many of them.
    pub(super) sent_kept: u64,
}

impl State {
    /// The state as the index has it.
    pub(super) fn load(index: Index, meta: Meta, limits: Limits) -> Result<Self, IndexError> {
        let mut state = Self {
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            parked: BTreeSet::new(),
            waiting_bytes: 0,
            live: BTreeMap::new(),
            carried: BTreeSet::new(),
            ghosts: index.ghosts()?.into_iter().collect(),
            totals: meta.totals,
            newest_at: Timestamp::default(),
            recent: Recent::default(),
            seq: meta.seq,
            fresh: HashMap::new(),
            fresh_bytes: 0,
            leaving: Arc::default(),
            dirty: BTreeSet::new(),
            outbox: Outbox::default(),
            limits,
            index,
        };
        for (mail, mut held) in state.index.held()? {
            held.indexed = true;
            state.hold(mail, held);
        }
        state.load_outbox()?;
        Ok(state)
    }

    // Changes.

    /// A mail was accepted. Nothing happens if it is held already, but that its newest place counts.
    pub(super) fn accept(&mut self, mail: MailId, place: Place, lanes: &[LaneKey], counts: bool) {
        if counts {
            self.totals.received += lanes.len() as u64;
        }
        if self.held.contains_key(&mail) {
            return self.moved(mail, place);
        }
        let open = |(recipient, lane): (u16, &LaneKey)| Open {
            recipient,
            seq: 0,
            parked: None,
            steps: Vec::new(),
            lane: Some(*lane),
        };
        let held = Held {
            place,
            open: (0..).zip(lanes).map(open).collect(),
            carried: false,
            indexed: false,
        };
        self.hold(mail, held);
        self.dirty.insert(mail);
    }

    /// The mail's bytes stand in another segment too, from now on read there.
    pub(super) fn moved(&mut self, mail: MailId, place: Place) {
        let Some(held) = self.held.get_mut(&mail) else {
            return;
        };
        if held.place.segment < place.segment {
            let old = std::mem::replace(&mut held.place, place);
            self.live_less(old);
            self.live_more(place);
            self.mark_carried(mail);
        }
    }

    /// The copy found at a replay: the mail was carried, wherever its first place was.
    pub(super) fn mark_carried(&mut self, mail: MailId) {
        if let Some(held) = self.held.get_mut(&mail) {
            held.carried = true;
            self.carried.insert(mail);
            self.dirty.insert(mail);
        }
    }

    pub(super) fn keep_recent(&mut self, mail: MailId, envelope: Arc<Envelope>, bytes: Bytes) {
        self.recent.keep(mail, envelope, bytes);
    }

    /// Applies one fact.
    pub(super) fn apply(&mut self, fact: Fact, stamp: Stamp) -> Result<(), IndexError> {
        match fact {
            Fact::Mapped(mapping) => self.map(&mapping, stamp),
            Fact::Linked {
                route,
                message_id,
                thread_id,
                sent_by_us,
            } => {
                let key = Key::message_id(&route, &message_id, sent_by_us);
                self.put(key, stamp, &ThreadKey::of(&thread_id).0)
            }
            Fact::Advanced { delivery, step } => {
                if let Some(open) = self.open_mut(delivery) {
                    let kind = std::mem::discriminant(&step);
                    open.steps.retain(|s| std::mem::discriminant(s) != kind);
                    open.steps.push(step);
                    self.dirty.insert(delivery.mail);
                }
                Ok(())
            }
            Fact::Settled {
                delivery,
                outcome,
                fingerprint,
                at,
            } => {
                self.passed(at, stamp);
                self.settle(delivery, outcome, stamp);
                let Some(Fingerprint(name)) = fingerprint else {
                    return Ok(());
                };
                let mut payload = at.as_millis().to_le_bytes().to_vec();
                payload.extend_from_slice(&delivery.mail.0.to_le_bytes());
                payload.extend_from_slice(&delivery.recipient.to_le_bytes());
                self.put(Key::fingerprint(name), stamp, &payload)
            }
            Fact::Released { delivery, at } => {
                self.passed(at, stamp);
                self.park(delivery, None, stamp);
                Ok(())
            }
            Fact::Revoked { token, at } => {
                self.put(Key::revoked(token), stamp, &at.as_millis().to_le_bytes())
            }
            Fact::Minted {
                token,
                thread_id,
                at,
            } => {
                let mut payload = at.as_millis().to_le_bytes().to_vec();
                payload.extend_from_slice(thread_id.as_bytes());
                self.put(Key::minted(token), stamp, &payload)
            }
            Fact::Polled { mailbox, position } => {
                self.put(Key::polled(&mailbox), stamp, &position.encode())
            }
            Fact::Spent { word, content, .. } => self.put(Key::spent(word), stamp, &content),
            outgoing => self.send(outgoing, stamp),
        }
    }

    /// Forgets an entry.
    pub(super) fn forget(&mut self, key: Key) {
        self.keep(key, None);
    }

    /// A mail segment is given up: so are the copies in it.
    pub(super) fn segment_gone(&mut self, number: u64) {
        self.live.remove(&number);
        let gone: Vec<MailId> = self
            .ghosts
            .iter()
            .filter(|(_, segment)| **segment == number)
            .map(|(mail, _)| *mail)
            .collect();
        for mail in gone {
            self.ghosts.remove(&mail);
            self.forget(Key::ghost(mail));
        }
    }

    // Questions.

    pub(super) fn look(&self, key: Key) -> Result<Option<Vec<u8>>, IndexError> {
        if let Some(value) = self.fresh.get(&key).or_else(|| self.leaving.get(&key)) {
            return Ok(value.clone());
        }
        self.index.look(key)
    }

    /// The payload of an entry, with the number of the fact that wrote it.
    pub(super) fn entry(&self, key: Key) -> Result<Option<(u64, Vec<u8>)>, IndexError> {
        Ok(self.look(key)?.and_then(|mut value| {
            let payload = value.split_off(value.len().min(8));
            Some((u64::from_le_bytes(value.try_into().ok()?), payload))
        }))
    }

    /// Where the record of a thread's mapping stands.
    pub(super) fn mapping(&self, route: &str, key: ThreadKey) -> Result<Option<Place>, IndexError> {
        let entry = self.entry(Key::thread(route, key))?;
        Ok(entry.and_then(|(_, payload)| Place::decode_head(&payload)))
    }

    /// Where a mapping is found by its sender and subject.
    pub(super) fn subject_key(mapping: &Mapping) -> Option<Key> {
        let sender = mapping.participant.as_ref()?.folded();
        Some(Key::subject(&mapping.route, &sender, &mapping.subject))
    }

    /// The thread of a route that a Message-ID belongs to, and whether we sent it.
    pub(super) fn link(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(ThreadKey, bool)>, IndexError> {
        for sent_by_us in [true, false] {
            let entry = self.entry(Key::message_id(route, message_id, sent_by_us))?;
            if let Some(key) = entry.and_then(|(_, key)| key.try_into().ok()) {
                return Ok(Some((ThreadKey(key), sent_by_us)));
            }
        }
        Ok(None)
    }

    /// When a mail with this fingerprint was settled, and as which delivery.
    pub(super) fn fingerprint(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<(Timestamp, DeliveryId)>, IndexError> {
        let entry = self.entry(Key::fingerprint(fingerprint.0))?;
        Ok(entry.and_then(|(_, payload)| {
            let at = u64::from_le_bytes(*payload.first_chunk()?);
            let mail = u64::from_le_bytes(*payload.get(8..)?.first_chunk()?);
            let recipient = u16::from_le_bytes(*payload.get(16..)?.first_chunk()?);
            let delivery = DeliveryId {
                mail: MailId(mail),
                recipient,
            };
            Some((Timestamp::from_millis(at), delivery))
        }))
    }

    /// The thread a token was minted for, and when.
    pub(super) fn minted(
        &self,
        token: [u8; 16],
    ) -> Result<Option<(String, Timestamp)>, IndexError> {
        let entry = self.entry(Key::minted(token))?;
        Ok(entry.and_then(|(_, mut payload)| {
            let thread_id = payload.split_off(payload.len().min(8));
            let at = u64::from_le_bytes(payload.try_into().ok()?);
            let thread_id = String::from_utf8(thread_id).ok()?;
            Some((thread_id, Timestamp::from_millis(at)))
        }))
    }

    pub(super) fn polled(&self, mailbox: &str) -> Result<Option<Position>, IndexError> {
        let entry = self.entry(Key::polled(mailbox))?;
        Ok(entry.and_then(|(_, payload)| Position::decode(&payload)))
    }

    pub(super) fn held(&self, mail: MailId) -> Option<&Held> {
        self.held.get(&mail)
    }

    pub(super) fn open(&self, delivery: DeliveryId) -> Option<&Open> {
        let open = &self.held.get(&delivery.mail)?.open;
        open.iter().find(|o| o.recipient == delivery.recipient)
    }

    /// The number of the fact that last parked or released a delivery.
    pub(super) fn status_seq(&self, delivery: DeliveryId) -> Option<u64> {
        self.open(delivery).map(|o| o.seq)
    }

    pub(super) const fn waiting(&self) -> &BTreeSet<DeliveryId> {
        &self.waiting
    }

    pub(super) const fn parked(&self) -> &BTreeSet<DeliveryId> {
        &self.parked
    }

    pub(super) const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// The mail segments that hold mails not settled.
    pub(super) const fn live(&self) -> &BTreeMap<u64, Live> {
        &self.live
    }

    /// The mails not settled that stand in a segment, at most `count`. `own` are the numbers of the
    /// records written there for the first time.
    pub(super) fn held_in(
        &self,
        segment: u64,
        own: RangeInclusive<u64>,
        count: usize,
    ) -> Vec<(MailId, Place)> {
        let own = self.held.range(MailId(*own.start())..=MailId(*own.end()));
        let carried = self
            .carried
            .iter()
            .filter_map(|m| self.held.get_key_value(m));
        let here = |(mail, held): (&MailId, &Held)| {
            (held.place.segment == segment).then_some((*mail, held.place))
        };
        let mut found: Vec<_> = own.chain(carried).filter_map(here).take(count).collect();
        found.dedup();
        found
    }

    pub(super) fn is_ghost(&self, mail: MailId) -> bool {
        self.ghosts.contains_key(&mail)
    }

    pub(super) fn recent(&self, mail: MailId) -> Option<&(Arc<Envelope>, Bytes)> {
        self.recent.mails.get(&mail)
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger {
            received: self.totals.received,
            waiting: self.waiting.len() as u64,
            delivered: self.totals.delivered,
            parked: self.parked.len() as u64,
            dropped: self.totals.dropped.clone(),
        }
    }

    // Inside.

    fn map(&mut self, mapping: &Mapping, stamp: Stamp) -> Result<(), IndexError> {
        let key = ThreadKey::of(&mapping.thread_id);
        if let Some(subject) = Self::subject_key(mapping) {
            self.put(subject, stamp, &key.0)?;
        }
        self.put(
            Key::thread(&mapping.route, key),
            stamp,
            &stamp.place.encode_head(),
        )
    }

    fn put(&mut self, key: Key, stamp: Stamp, payload: &[u8]) -> Result<(), IndexError> {
        if stamp.replayed && self.entry(key)?.is_some_and(|(seq, _)| seq > stamp.origin) {
            return Ok(());
        }
        self.insert(key, stamp.origin, payload);
        Ok(())
    }

    /// Writes an entry as the fact `seq` has it.
    fn insert(&mut self, key: Key, seq: u64, payload: &[u8]) {
        let mut value = Vec::with_capacity(8 + payload.len());
        value.extend_from_slice(&seq.to_le_bytes());
        value.extend_from_slice(payload);
        self.keep(key, Some(value));
    }

    fn keep(&mut self, key: Key, value: Option<Vec<u8>>) {
        self.fresh_bytes += value.as_ref().map_or(0, Vec::len);
        self.fresh.insert(key, value);
    }

    fn settle(&mut self, delivery: DeliveryId, outcome: Outcome, stamp: Stamp) {
        match outcome {
            Outcome::Parked { reason } => return self.park(delivery, Some(reason), stamp),
            Outcome::Delivered { .. } => {
                if stamp.counts {
                    self.totals.delivered += 1;
                }
            }
            Outcome::Dropped { rule } => {
                if stamp.counts {
                    *self.totals.dropped.entry(rule).or_default() += 1;
                }
            }
        }
        let Some(held) = self.held.get_mut(&delivery.mail) else {
            return;
        };
        held.open.retain(|o| o.recipient != delivery.recipient);
        let (over, bytes) = (held.open.is_empty(), u64::from(held.place.body_bytes));
        if self.waiting.remove(&delivery) {
            self.waiting_bytes -= bytes;
        }
        self.parked.remove(&delivery);
        self.dirty.insert(delivery.mail);
        if over {
            self.let_go(delivery.mail);
        }
    }

    fn park(&mut self, delivery: DeliveryId, reason: Option<String>, stamp: Stamp) {
        let Some(open) = self.open_mut(delivery).filter(|o| o.seq <= stamp.origin) else {
            return;
        };
        open.seq = stamp.origin;
        open.parked = reason.map(String::into_boxed_str);
        let parked = open.parked.is_some();
        let bytes = self
            .held
            .get(&delivery.mail)
            .map_or(0, |h| u64::from(h.place.body_bytes));
        if parked {
            if self.waiting.remove(&delivery) {
                self.waiting_bytes -= bytes;
            }
            self.parked.insert(delivery);
        } else {
            self.parked.remove(&delivery);
            if self.waiting.insert(delivery) {
                self.waiting_bytes += bytes;
            }
        }
        self.dirty.insert(delivery.mail);
    }

    fn open_mut(&mut self, delivery: DeliveryId) -> Option<&mut Open> {
        let open = &mut self.held.get_mut(&delivery.mail)?.open;
        open.iter_mut().find(|o| o.recipient == delivery.recipient)
    }

    fn hold(&mut self, mail: MailId, held: Held) {
        for open in &held.open {
            let delivery = DeliveryId {
                mail,
                recipient: open.recipient,
            };
            if open.parked.is_some() {
                self.parked.insert(delivery);
            } else {
                self.waiting.insert(delivery);
                self.waiting_bytes += u64::from(held.place.body_bytes);
            }
        }
        self.live_more(held.place);
        if held.carried {
            self.carried.insert(mail);
        }
        self.held.insert(mail, held);
    }

    fn let_go(&mut self, mail: MailId) {
        let Some(held) = self.held.remove(&mail) else {
            return;
        };
        self.recent.drop_mail(mail);
        self.live_less(held.place);
        if !held.indexed {
            // It came and went between two writings to the index, which need not hear of it.
            self.dirty.remove(&mail);
        }
        if self.carried.remove(&mail) {
            let segment = held.place.segment;
            self.ghosts.insert(mail, segment);
            self.keep(Key::ghost(mail), Some(segment.to_le_bytes().to_vec()));
        }
    }

    fn live_more(&mut self, place: Place) {
        let live = self.live.entry(place.segment).or_default();
        live.mails += 1;
        live.bytes += u64::from(place.body_bytes);
    }

    fn live_less(&mut self, place: Place) {
        if let Some(live) = self.live.get_mut(&place.segment) {
            live.mails -= 1;
            live.bytes -= u64::from(place.body_bytes);
            if live.mails == 0 {
                self.live.remove(&place.segment);
            }
        }
    }
}
