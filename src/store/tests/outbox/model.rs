//! The actions on an outbox in tests, its answers, and the expected answers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{CAPTURED_KEPT, FAILED_KEPT, WAITING_MAX, happened, id, later, letter, suppression};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::job_id::JobId;
use crate::store::ask::{ask, wait};
use crate::store::tests::NOW;
use crate::store::{
    ConversationKey, Domains, DsnSummary, Event, EventId, Fact, JobOutcome, JobState, LastMessage,
    OutboxLedger, Store, Work,
};

/// An action on an outbox.
#[derive(Clone, Debug)]
pub(in crate::store::tests) enum OutboxAction {
    Enqueue {
        key: u8,
        thread: Option<u8>,
        bytes: usize,
    },
    Begin(usize),
    Defer(usize, u8),
    End(usize, u8),
    Retry(usize),
    ComeBack(usize, bool),
    Cancel(usize),
    Suppress(u8),
    Unsuppress(u8),
    Speak(u8, bool),
    Hear(u8, u8),
    Noise(usize),
    Reopen,
    LoseIndex,
}

pub(in crate::store::tests) fn outbox_action() -> impl Strategy<Value = OutboxAction> {
    let nth = 0usize..12;
    prop_oneof![
        8 => (0u8..30, proptest::option::of(0u8..3), 0usize..900)
            .prop_map(|(key, thread, bytes)| OutboxAction::Enqueue { key, thread, bytes }),
        4 => nth.clone().prop_map(OutboxAction::Begin),
        3 => (nth.clone(), 0u8..20).prop_map(|(nth, wait)| OutboxAction::Defer(nth, wait)),
        6 => (nth.clone(), 0u8..4).prop_map(|(nth, how)| OutboxAction::End(nth, how)),
        2 => nth.clone().prop_map(OutboxAction::Retry),
        2 => (nth.clone(), any::<bool>()).prop_map(|(nth, failed)| OutboxAction::ComeBack(nth, failed)),
        2 => nth.prop_map(OutboxAction::Cancel),
        1 => (0u8..4).prop_map(OutboxAction::Suppress),
        1 => (0u8..4).prop_map(OutboxAction::Unsuppress),
        2 => (0u8..3, any::<bool>()).prop_map(|(thread, by_us)| OutboxAction::Speak(thread, by_us)),
        1 => (0u8..2, 0u8..5).prop_map(|(who, back)| OutboxAction::Hear(who, back)),
        2 => (0usize..2000).prop_map(OutboxAction::Noise),
        2 => Just(OutboxAction::Reopen),
        1 => Just(OutboxAction::LoseIndex),
    ]
}

/// The known data of one job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KnownJob {
    pub(super) state: JobState,
    pub(super) begun: bool,
    pub(super) attempts: u32,
    pub(super) doubts: u32,
    pub(super) history: Vec<String>,
    pub(super) mail: Option<u32>,
    pub(super) ends_at: Timestamp,
}

/// The answers of an outbox to all questions of a test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store::tests) struct OutboxAnswers {
    pub(super) ledger: OutboxLedger,
    pub(super) jobs: BTreeMap<JobId, KnownJob>,
    pub(super) listed: Vec<JobId>,
    pub(super) keys: BTreeMap<u8, JobId>,
    pub(super) due: Vec<JobId>,
    pub(super) next_due: Option<Timestamp>,
    /// The job for which each job waits.
    pub(super) ahead: BTreeMap<JobId, JobId>,
    pub(super) suppressed: BTreeSet<u8>,
    pub(super) said: BTreeMap<(u8, bool), String>,
    pub(super) events: Vec<u64>,
    /// The last event of each subscriber, and the earlier ones that it lacks.
    pub(super) heard: BTreeMap<u8, (u64, Vec<u64>)>,
}

const SOON: u64 = 600;

impl OutboxAnswers {
    pub(super) fn of(store: &Store, jobs: usize) -> Self {
        let known = |nth: usize| {
            let record = ask(store.job(id(nth)))?;
            let mail = wait(store.job_mail(id(nth))).ok();
            let known = KnownJob {
                state: record.state,
                begun: record.begun_at.is_some(),
                attempts: record.attempts,
                doubts: record.doubts,
                history: record.history.into_iter().map(|t| t.what).collect(),
                mail: mail.map(|mail| crc32fast::hash(&mail)),
                ends_at: record.job.ends_at,
            };
            Some((id(nth), known))
        };
        let said = |n: u8, by_us| {
            let said = ask(store.last_message(&talk(n), by_us))?;
            assert_eq!(said.by_us, by_us);
            Some(((n, by_us), said.text))
        };
        let events = ask(store.events_after(EventId::default(), 100_000));
        assert!(events.is_sorted_by(|a, b| a.0 < b.0));
        let newest = events.last().map(|(id, _)| *id).unwrap_or_default();
        assert_eq!(*store.newest_event().borrow(), newest);
        let serial = |event: &Event| event.data["serial"].as_u64().unwrap();
        let heard = |n: u8| {
            let heard = ask(store.cursor(&format!("sub-{n}")))?;
            let last = events.iter().rfind(|(id, _)| *id <= heard.last)?;
            let open = events.iter().filter(|(id, _)| heard.gaps.contains(id));
            let open = open.map(|(_, event)| serial(event)).collect();
            Some((n, (serial(&last.1), open)))
        };
        let suppressed = |n: &u8| {
            let address = Address::parse(&suppression(*n).address).unwrap();
            ask(store.suppression(&address, NOW)).is_some()
        };
        let listed = ask(store.suppressions(None, 100));
        let claim = ask(store.claim(Work::Jobs));
        let answers = Self {
            ledger: store.outbox_ledger(),
            jobs: (0..jobs).filter_map(known).collect(),
            listed: pages(store),
            keys: (0..30)
                .filter_map(|n| Some((n, ask(store.job_by_key([n; 16]))?.job.id)))
                .collect(),
            due: ask(store.due_jobs(&claim, later(SOON), 100))
                .into_iter()
                .map(|record| record.job.id)
                .collect(),
            next_due: ask(store.next_due(&claim, &Domains::new())),
            ahead: (0..jobs)
                .filter_map(|nth| Some((id(nth), ask(store.job_ahead(id(nth)))?)))
                .collect(),
            suppressed: (0..4).filter(suppressed).collect(),
            said: (0..3)
                .flat_map(|n| [said(n, true), said(n, false)])
                .flatten()
                .collect(),
            heard: (0..2).filter_map(heard).collect(),
            events: events.iter().map(|(_, event)| serial(event)).collect(),
        };
        assert_eq!(listed.len(), answers.suppressed.len());
        assert!(answers.ledger.adds_up(), "{:?}", answers.ledger);
        answers
    }
}

/// All jobs, page by page.
fn pages(store: &Store) -> Vec<JobId> {
    let mut all: Vec<JobId> = Vec::new();
    loop {
        let page = ask(store.jobs(None, all.last().copied(), 3));
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|record| record.job.id));
    }
}

/// The expected answers of an outbox.
#[derive(Clone, Debug, Default)]
pub(super) struct OutboxModel {
    pub(super) jobs: Vec<ModelledJob>,
    pub(super) serial: u64,
    /// Counts the facts that change a job's order or end it.
    pub(super) turn: u64,
    pub(super) answers: OutboxAnswers,
    pub(super) event_ids: BTreeMap<u64, EventId>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelledJob {
    pub(super) key: u8,
    pub(super) thread: Option<u8>,
    pub(super) known: KnownJob,
    pub(super) order: u64,
    pub(super) over: u64,
}

impl OutboxModel {
    pub(super) fn pick(&self, nth: usize) -> usize {
        nth % self.jobs.len().max(1)
    }

    pub(super) fn facts(&self, action: &OutboxAction) -> Vec<Fact> {
        let at = NOW;
        let job = |nth: &usize| id(self.pick(*nth));
        let mut facts = match *action {
            OutboxAction::Begin(ref nth) => vec![Fact::Begun { job: job(nth), at }],
            OutboxAction::Defer(ref nth, wait) => vec![Fact::Deferred {
                job: job(nth),
                at,
                due_at: later(u64::from(wait) * 60),
                relay: None,
                reply: "450 later".to_owned(),
                in_doubt: wait % 2 == 1,
            }],
            OutboxAction::End(ref nth, how) => vec![Fact::Ended {
                job: job(nth),
                outcome: outcome(how),
                at,
            }],
            OutboxAction::Retry(ref nth) => vec![Fact::Retried {
                job: job(nth),
                at,
                ends_at: later(2_000_000),
            }],
            OutboxAction::ComeBack(ref nth, failed) => vec![Fact::NoticeReceived {
                job: job(nth),
                notice: DsnSummary {
                    failed,
                    hard: true,
                    status: None,
                    reason: "no such box".to_owned(),
                    remote_mta: None,
                },
                at,
            }],
            OutboxAction::Suppress(n) => vec![Fact::Suppressed(suppression(n))],
            OutboxAction::Unsuppress(n) => vec![Fact::Unsuppressed {
                address: suppression(n).address,
                at,
            }],
            OutboxAction::Speak(thread, by_us) => vec![Fact::MessageRecorded {
                conversation: talk(thread),
                message: LastMessage {
                    by_us,
                    name: None,
                    at,
                    text: format!("words {}", self.serial),
                },
            }],
            OutboxAction::Hear(who, back) => {
                let heard = |(event, open): (u64, Vec<u64>)| Fact::CursorAdvanced {
                    subscriber: format!("sub-{who}"),
                    event: self.event_ids[&event],
                    open: open.iter().map(|event| self.event_ids[event]).collect(),
                    at,
                };
                return self.position(back).map(heard).into_iter().collect();
            }
            OutboxAction::Noise(bytes) => vec![Fact::Linked {
                route: "us".to_owned(),
                message_id: "x".repeat(bytes),
                thread_id: "thread-noise".to_owned(),
                sent_by_us: true,
                at: NOW,
            }],
            _ => Vec::new(),
        };
        facts.push(happened(self.serial));
        facts
    }

    /// Applies the action; one without effect changes nothing.
    pub(super) fn told(&mut self, action: &OutboxAction) {
        self.turn += 1;
        let means = match *action {
            OutboxAction::Enqueue { key, thread, bytes } => self.enqueue(key, thread, bytes),
            OutboxAction::Begin(nth) => self.waiting(nth, |known| {
                known.begun = true;
                known.attempts += 1;
            }),
            OutboxAction::Defer(nth, wait) => self.waiting(nth, |known| {
                let due_at = later(u64::from(wait) * 60);
                known.state = JobState::Waiting { due_at };
                known.begun = false;
                known.doubts += u32::from(wait % 2);
                known.history.push("deferred".to_owned());
            }),
            OutboxAction::End(nth, how) => self.end(nth, how),
            OutboxAction::Cancel(nth) => {
                let nth = self.pick(nth);
                let begun = self.jobs.get(nth).is_none_or(|job| job.known.begun);
                if !begun {
                    self.end(nth, 3);
                }
                // The action has no event.
                false
            }
            OutboxAction::Retry(nth) => self.retry(nth),
            OutboxAction::ComeBack(nth, failed) => self.come_back(nth, failed),
            _ => true,
        };
        if means {
            self.heard_or_said(action);
        }
        self.serial += 1;
        self.count();
    }

    /// The event `back` steps ago, and sometimes open events before it.
    fn position(&self, back: u8) -> Option<(u64, Vec<u64>)> {
        let events = &self.answers.events;
        let nth = events.len().checked_sub(1 + usize::from(back))?;
        let count = usize::try_from(self.serial % 3).unwrap();
        Some((events[nth], events[nth.saturating_sub(count)..nth].to_vec()))
    }

    fn heard_or_said(&mut self, action: &OutboxAction) {
        match *action {
            OutboxAction::Suppress(n) => {
                self.answers.suppressed.insert(n);
            }
            OutboxAction::Unsuppress(n) => {
                self.answers.suppressed.remove(&n);
            }
            OutboxAction::Speak(thread, by_us) => {
                let words = format!("words {}", self.serial);
                self.answers.said.insert((thread, by_us), words);
            }
            OutboxAction::Hear(who, back) => {
                if let Some((event, open)) = self.position(back) {
                    let heard = self.answers.heard.entry(who).or_default();
                    if event > heard.0 || event == heard.0 && open.len() < heard.1.len() {
                        *heard = (event, open);
                    }
                }
                return;
            }
            _ => {}
        }
        self.answers.events.push(self.serial);
    }

    fn enqueue(&mut self, key: u8, thread: Option<u8>, bytes: usize) -> bool {
        if self.answers.keys.contains_key(&key) || self.answers.ledger.waiting >= WAITING_MAX {
            return false;
        }
        let nth = self.jobs.len();
        self.answers.ledger.taken += 1;
        self.jobs.push(ModelledJob {
            key,
            thread,
            known: KnownJob {
                state: JobState::Waiting {
                    due_at: later(nth as u64),
                },
                begun: false,
                attempts: 0,
                doubts: 0,
                history: Vec::new(),
                mail: Some(crc32fast::hash(&letter(nth, bytes))),
                ends_at: later(1_000_000),
            },
            order: self.turn,
            over: 0,
        });
        true
    }

    fn waiting(&mut self, nth: usize, change: impl FnOnce(&mut KnownJob)) -> bool {
        let nth = self.pick(nth);
        let Some(job) = self.jobs.get_mut(nth) else {
            return false;
        };
        let waits = matches!(job.known.state, JobState::Waiting { .. });
        if waits {
            change(&mut job.known);
        }
        waits
    }

    fn end(&mut self, nth: usize, how: u8) -> bool {
        let (nth, turn) = (self.pick(nth), self.turn);
        let (state, what) = match how {
            0 => (JobState::Sent, "sent"),
            1 => (JobState::Captured, "captured"),
            2 => {
                let reason = "no for good".to_owned();
                (JobState::Failed { reason }, "failed")
            }
            _ => (JobState::Cancelled, "cancelled"),
        };
        let over = matches!(state, JobState::Sent | JobState::Cancelled);
        let ended = self.waiting(nth, |known| {
            known.state = state;
            known.begun = false;
            known.history.push(what.to_owned());
            known.mail = known.mail.filter(|_| !over);
        });
        if ended {
            self.jobs[nth].over = turn;
        }
        for (captured, most) in [(true, CAPTURED_KEPT), (false, FAILED_KEPT)] {
            self.let_go(captured, most);
        }
        ended
    }

    /// All ended at the same time, so the lowest ids above the bound are dropped.
    fn let_go(&mut self, captured: bool, most: usize) {
        let kept = |job: &&mut ModelledJob| {
            let shelved = match job.known.state {
                JobState::Captured => captured,
                JobState::Failed { .. } => !captured,
                _ => false,
            };
            shelved && job.known.mail.is_some()
        };
        let shelved: Vec<&mut ModelledJob> = self.jobs.iter_mut().filter(kept).collect();
        let too_many = shelved.len().saturating_sub(most);
        for job in shelved.into_iter().take(too_many) {
            job.known.mail = None;
        }
    }

    fn retry(&mut self, nth: usize) -> bool {
        let (nth, turn) = (self.pick(nth), self.turn);
        let Some(job) = self.jobs.get_mut(nth) else {
            return false;
        };
        let shelved = matches!(
            job.known.state,
            JobState::Failed { .. } | JobState::Captured
        );
        let waits = matches!(job.known.state, JobState::Waiting { .. });
        let may = match waits {
            true => !job.known.begun,
            false => shelved && job.known.mail.is_some(),
        };
        if may {
            // A waiting job keeps its position in its order.
            if !waits {
                job.order = turn;
            }
            job.known.state = JobState::Waiting { due_at: NOW };
            job.known.ends_at = later(2_000_000);
            job.known.doubts = 0;
            job.known.history.push("retried".to_owned());
        }
        may
    }

    fn come_back(&mut self, nth: usize, failed: bool) -> bool {
        let nth = self.pick(nth);
        let Some(job) = self.jobs.get_mut(nth) else {
            return false;
        };
        if failed && matches!(job.known.state, JobState::Bounced { .. }) {
            return false;
        }
        if failed && job.known.state == JobState::Sent {
            let reason = "no such box".to_owned();
            job.known.state = JobState::Bounced { reason };
        }
        let what = if failed { "bounced" } else { "delayed" };
        if job.known.history.len() == 32 {
            job.known.history.remove(8);
        }
        job.known.history.push(what.to_owned());
        true
    }

    pub(super) fn count(&mut self) {
        let mut ledger = OutboxLedger {
            taken: self.answers.ledger.taken,
            ..OutboxLedger::default()
        };
        let mut lines: BTreeMap<(Option<u8>, usize), (u64, Timestamp, usize)> = BTreeMap::new();
        for (nth, job) in self.jobs.iter().enumerate() {
            match job.known.state {
                JobState::Waiting { due_at } => {
                    ledger.waiting += 1;
                    let line = (job.thread, job.thread.map_or(nth + 1, |_| 0));
                    let first = lines.entry(line).or_insert((job.order, due_at, nth));
                    *first = (*first).min((job.order, due_at, nth));
                }
                JobState::Sent | JobState::Bounced { .. } => ledger.sent += 1,
                JobState::Captured => ledger.captured += 1,
                JobState::Failed { .. } => ledger.failed += 1,
                JobState::Cancelled => ledger.cancelled += 1,
            }
        }
        let mut due: Vec<_> = lines.values().map(|(_, at, nth)| (*at, id(*nth))).collect();
        due.sort_unstable();
        let jobs = &self.jobs;
        let waiting = jobs.iter().enumerate().filter(|(_, job)| {
            job.thread.is_some() && matches!(job.known.state, JobState::Waiting { .. })
        });
        let ahead = waiting.map(|(nth, job)| (id(nth), id(lines[&(job.thread, 0)].2)));
        self.answers.ahead = ahead.filter(|(own, first)| own != first).collect();
        self.answers.ledger = ledger;
        self.answers.next_due = due.first().map(|(at, _)| *at);
        due.retain(|(at, _)| *at <= later(SOON));
        self.answers.due = due.into_iter().map(|(_, id)| id).collect();
        self.answers.jobs = (0..)
            .map(id)
            .zip(jobs.iter().map(|j| j.known.clone()))
            .collect();
        self.answers.listed = (0..jobs.len()).rev().map(id).collect();
        self.answers.keys = jobs
            .iter()
            .enumerate()
            .map(|(n, j)| (j.key, id(n)))
            .collect();
    }
}

fn talk(thread: u8) -> ConversationKey {
    ConversationKey {
        route: "support".to_owned(),
        thread_id: format!("thread-{thread}"),
        with: "ann@example.com".to_owned(),
    }
}

fn outcome(how: u8) -> JobOutcome {
    match how {
        0 => JobOutcome::Sent {
            relay: "relay.example:25".to_owned(),
            reply: "250 ok".to_owned(),
        },
        1 => JobOutcome::Captured,
        2 => JobOutcome::Failed {
            relay: None,
            reason: "no for good".to_owned(),
        },
        _ => JobOutcome::Cancelled,
    }
}
