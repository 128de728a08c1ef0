//! The actions on a store in tests, its answers, and the expected answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::{NOW, mapping, settled};
use crate::mail::address::Address;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::ask::{ask, wait};
use crate::store::{
    DeliveryId, DeliveryOutcome, DeliveryStep, Fact, Ledger, MailId, Mapping, Store,
};

/// An action of a test on a store.
#[derive(Clone, Debug)]
pub(super) enum QueueAction {
    Accept {
        recipients: u16,
        bytes: usize,
    },
    Settle {
        nth: usize,
        end: u8,
        fingerprint: Option<u8>,
    },
    SettleAll,
    Release {
        nth: usize,
    },
    Advance {
        nth: usize,
        thread: u8,
    },
    Map {
        thread: u8,
        subject: u8,
    },
    Link {
        id: u8,
        thread: u8,
        ours: bool,
    },
    Mint {
        token: u8,
        thread: u8,
    },
    Revoke {
        token: u8,
    },
    Reopen,
    LoseIndex,
}

pub(super) fn queue_action() -> impl Strategy<Value = QueueAction> {
    prop_oneof![
        6 => (1u16..4, 0usize..700).prop_map(|(recipients, bytes)| QueueAction::Accept { recipients, bytes }),
        8 => (0usize..40, 0u8..4, proptest::option::of(0u8..9))
            .prop_map(|(nth, end, fingerprint)| QueueAction::Settle { nth, end, fingerprint }),
        1 => Just(QueueAction::SettleAll),
        2 => (0usize..40).prop_map(|nth| QueueAction::Release { nth }),
        2 => (0usize..40, 0u8..5).prop_map(|(nth, thread)| QueueAction::Advance { nth, thread }),
        4 => (0u8..5, 0u8..4).prop_map(|(thread, subject)| QueueAction::Map { thread, subject }),
        3 => (0u8..6, 0u8..5, any::<bool>()).prop_map(|(id, thread, ours)| QueueAction::Link { id, thread, ours }),
        1 => (0u8..4, 0u8..5).prop_map(|(token, thread)| QueueAction::Mint { token, thread }),
        1 => (0u8..4).prop_map(|token| QueueAction::Revoke { token }),
        2 => Just(QueueAction::Reopen),
        1 => Just(QueueAction::LoseIndex),
    ]
}

/// The answers of a store to all questions of a test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueueAnswers {
    pub(super) ledger: Ledger,
    /// Steps, reason for parking, checksum of the mail.
    pub(super) open: BTreeMap<DeliveryId, (Vec<DeliveryStep>, Option<String>, u32)>,
    pub(super) mappings: BTreeMap<String, Mapping>,
    pub(super) subjects: BTreeMap<u8, String>,
    pub(super) links: BTreeMap<u8, (String, bool)>,
    pub(super) minted: BTreeMap<u8, String>,
    pub(super) revoked: BTreeSet<u8>,
    pub(super) seen: BTreeMap<u8, DeliveryId>,
}

impl QueueAnswers {
    pub(super) fn of(store: &Store) -> Self {
        let lists = [
            ask(store.waiting(None, 10_000)),
            ask(store.parked(None, 10_000)),
        ];
        // All these mails are of one sender, to mailboxes of one route.
        let first = lists[0].first().map(|delivery| delivery.id);
        for delivery in lists.iter().flatten() {
            let ahead = first.filter(|id| *id != delivery.id && delivery.parked.is_none());
            assert_eq!(ask(store.delivery_ahead(delivery.id)), ahead);
        }
        let thread = |n: u8| ask(store.thread("us", ThreadKey::of(&format!("thread-{n}"))));
        let ann = Address::parse("ann@peer.example").unwrap();
        let subject =
            |n: u8| ask(store.thread_by_subject("us", &ann, &format!("subject {n}"), NOW));
        let link = |n: u8| ask(store.thread_by_message_id("us", &format!("<id-{n}@x>")));
        Self {
            ledger: store.ledger(),
            open: lists
                .into_iter()
                .flatten()
                .map(|d| {
                    assert_eq!(
                        d.recipient,
                        d.envelope.recipients[usize::from(d.id.recipient)]
                    );
                    let bytes = wait(store.mail_bytes(d.id.mail)).unwrap();
                    assert_eq!(d.bytes, bytes.len() as u64);
                    (d.id, (d.steps, d.parked, crc32fast::hash(&bytes)))
                })
                .collect(),
            mappings: (0..5)
                .filter_map(thread)
                .map(|m| (m.thread_id.clone(), m))
                .collect(),
            subjects: (0..4)
                .filter_map(|n| Some((n, subject(n)?.thread_id)))
                .collect(),
            links: (0..6)
                .filter_map(|n| link(n).map(|(m, ours)| (n, (m.thread_id, ours))))
                .collect(),
            minted: (0..4)
                .filter_map(|n| Some((n, ask(store.thread_by_token([n; 16]))?)))
                .collect(),
            revoked: (0..4).filter(|n| ask(store.is_revoked([*n; 16]))).collect(),
            seen: (0..9)
                .filter_map(|n| Some((n, ask(store.find_duplicate(Fingerprint([n; 16]), NOW))?)))
                .collect(),
        }
    }

    pub(super) fn assert_are(&self, other: &Self) {
        assert_eq!(self.ledger, other.ledger);
        assert_eq!(self.open, other.open);
        assert_eq!(self.mappings, other.mappings);
        assert_eq!(self.subjects, other.subjects);
        assert_eq!(self.links, other.links);
        assert_eq!(self, other);
    }

    pub(super) fn adds_up(&self) -> bool {
        let ledger = &self.ledger;
        let dropped: u64 = ledger.dropped.values().sum();
        ledger.received == ledger.waiting + ledger.delivered + ledger.parked + dropped
    }
}

/// The expected answers of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueModel {
    pub(super) answers: QueueAnswers,
    pub(super) by_subject: BTreeMap<u8, u8>,
    pub(super) links: BTreeMap<u8, (u8, bool)>,
    pub(super) mails: u8,
}

impl QueueModel {
    /// The facts that an action records now.
    pub(super) fn facts(&self, action: &QueueAction) -> Vec<Fact> {
        let ids: Vec<DeliveryId> = self.answers.open.keys().copied().collect();
        let pick = |nth: usize| (!ids.is_empty()).then(|| ids[nth % ids.len()]);
        match *action {
            QueueAction::Settle {
                nth,
                end,
                fingerprint,
            } => pick(nth)
                .map(|d| settled(d, end, fingerprint))
                .into_iter()
                .collect(),
            QueueAction::SettleAll => ids.iter().map(|d| settled(*d, 0, None)).collect(),
            QueueAction::Release { nth } => pick(nth)
                .map(|delivery| Fact::Released { delivery, at: NOW })
                .into_iter()
                .collect(),
            QueueAction::Advance { nth, thread } => pick(nth)
                .map(|delivery| Fact::Advanced {
                    delivery,
                    step: DeliveryStep::ThreadMade {
                        thread_id: format!("thread-{thread}"),
                    },
                })
                .into_iter()
                .collect(),
            QueueAction::Map { thread, subject } => vec![Fact::Mapped(mapping(thread, subject))],
            // A link to an unmapped thread would not be visible.
            QueueAction::Link { id, thread, ours } => {
                let thread_id = format!("thread-{thread}");
                let link = Fact::Linked {
                    route: "us".to_owned(),
                    message_id: format!("id-{id}@x"),
                    thread_id: thread_id.clone(),
                    sent_by_us: ours,
                    at: NOW,
                };
                self.answers
                    .mappings
                    .get(&thread_id)
                    .map(|_| link)
                    .into_iter()
                    .collect()
            }
            QueueAction::Mint { token, thread } => vec![Fact::TokenIssued {
                token: [token; 16],
                thread_id: format!("thread-{thread}"),
                at: NOW,
            }],
            QueueAction::Revoke { token } => vec![Fact::Revoked {
                token: [token; 16],
                at: NOW,
            }],
            QueueAction::Accept { .. } | QueueAction::Reopen | QueueAction::LoseIndex => Vec::new(),
        }
    }

    pub(super) fn accepted(&mut self, id: MailId, recipients: u16, bytes: &Bytes) {
        self.mails = self.mails.wrapping_add(1);
        for recipient in 0..recipients {
            let delivery = DeliveryId {
                mail: id,
                recipient,
            };
            self.answers
                .open
                .insert(delivery, (Vec::new(), None, crc32fast::hash(bytes)));
        }
        self.answers.ledger.received += u64::from(recipients);
        self.count();
    }

    pub(super) fn told(&mut self, action: &QueueAction, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Settled {
                    delivery,
                    outcome,
                    fingerprint,
                    ..
                } => {
                    if let Some(Fingerprint(f)) = fingerprint {
                        self.answers.seen.insert(f[0], *delivery);
                    }
                    match outcome {
                        DeliveryOutcome::Parked { reason } => {
                            self.answers.open.get_mut(delivery).unwrap().1 = Some(reason.clone());
                            continue;
                        }
                        DeliveryOutcome::Delivered { .. } => self.answers.ledger.delivered += 1,
                        DeliveryOutcome::Dropped { rule } => {
                            *self.answers.ledger.dropped.entry(rule.clone()).or_default() += 1;
                        }
                    }
                    self.answers.open.remove(delivery);
                }
                Fact::Released { delivery, .. } => {
                    self.answers.open.get_mut(delivery).unwrap().1 = None;
                }
                Fact::Advanced { delivery, step } => {
                    self.answers.open.get_mut(delivery).unwrap().0 = vec![step.clone()];
                }
                Fact::Mapped(mapping) => {
                    self.answers
                        .mappings
                        .insert(mapping.thread_id.clone(), mapping.clone());
                }
                // The model's actions record no other facts.
                _ => {}
            }
        }
        match *action {
            QueueAction::Map { thread, subject } => {
                self.by_subject.insert(subject, thread);
            }
            QueueAction::Link { id, thread, ours }
                if !facts.is_empty() && (ours || !self.links.get(&id).is_some_and(|l| l.1)) =>
            {
                self.links.insert(id, (thread, ours));
            }
            QueueAction::Mint { token, thread } => {
                self.answers
                    .minted
                    .insert(token, format!("thread-{thread}"));
            }
            QueueAction::Revoke { token } => {
                self.answers.revoked.insert(token);
            }
            _ => {}
        }
        self.count();
    }

    pub(super) fn count(&mut self) {
        let parked = self.answers.open.values().filter(|o| o.1.is_some()).count() as u64;
        self.answers.ledger.parked = parked;
        self.answers.ledger.waiting = self.answers.open.len() as u64 - parked;
        let mappings = &self.answers.mappings;
        let known = |thread: &u8| mappings.get(&format!("thread-{thread}"));
        self.answers.subjects = self
            .by_subject
            .iter()
            .filter(|(s, t)| known(t).is_some_and(|m| m.subject == format!("subject {s}")))
            .map(|(s, t)| (*s, format!("thread-{t}")))
            .collect();
        self.answers.links = self
            .links
            .iter()
            .filter(|(_, (t, _))| known(t).is_some())
            .map(|(id, (t, ours))| (*id, (format!("thread-{t}"), *ours)))
            .collect();
    }
}
