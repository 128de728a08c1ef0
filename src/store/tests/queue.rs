//! The mail queue and the threads against a model of them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::queue_model::{QueueAction, QueueAnswers, QueueModel, queue_action};
use super::{Subject, envelope, for_every_store, mail, run, settings};
use crate::store::MailId;

/// A store with a model of it.
pub(super) struct ModelledStore<S> {
    pub(super) real: S,
    model: QueueModel,
}

impl<S: Subject> ModelledStore<S> {
    pub(super) fn new(segment_bytes: u64) -> Self {
        Self {
            real: S::begin(|folder| settings(folder, segment_bytes)),
            model: QueueModel::default(),
        }
    }

    pub(super) fn check(&self) {
        let answers = QueueAnswers::of(self.real.store());
        assert!(answers.adds_up(), "{:?}", answers.ledger);
        answers.assert_are(&self.model.answers);
    }

    /// False if the store returned an error; a reopen shows if the action was done.
    pub(super) fn act(&mut self, action: &QueueAction) -> bool {
        match action {
            QueueAction::Accept { recipients, bytes } => {
                let bytes = mail(self.model.mails, *bytes);
                match run(self
                    .real
                    .store()
                    .accept(envelope(*recipients), bytes.clone()))
                {
                    Ok(id) => self.model.accepted(id, *recipients, &bytes),
                    Err(_) => return false,
                }
            }
            QueueAction::Reopen => self.real.reopen(),
            QueueAction::LoseIndex => self.real.lose_index(),
            _ => {
                let facts = self.model.facts(action);
                if run(self.real.store().record(facts.clone())).is_err() {
                    return false;
                }
                self.model.told(action, &facts);
            }
        }
        true
    }

    /// After a failed action and a reopen: it was done completely or not at all.
    pub(super) fn settle_doubt(&mut self, action: &QueueAction) {
        let answers = QueueAnswers::of(self.real.store());
        assert!(answers.adds_up(), "{:?}", answers.ledger);
        if answers == self.model.answers {
            return;
        }
        match action {
            QueueAction::Accept { recipients, bytes } => {
                let known: BTreeSet<MailId> =
                    self.model.answers.open.keys().map(|d| d.mail).collect();
                let new = answers
                    .open
                    .keys()
                    .find(|d| !known.contains(&d.mail))
                    .unwrap()
                    .mail;
                let bytes = mail(self.model.mails, *bytes);
                self.model.accepted(new, *recipients, &bytes);
            }
            _ => {
                let facts = self.model.facts(action);
                self.model.told(action, &facts);
            }
        }
        answers.assert_are(&self.model.answers);
    }
}

/// Few cases, because each opens a store several times.
pub(super) fn runner(max_shrink_iters: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: 40,
        max_shrink_iters,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

/// Any sequence of actions, closings, reopenings and rebuilds, with segments so small that they are deleted
/// all the time.
fn answers_equal_the_model<S: Subject>() {
    let actions = proptest::collection::vec(queue_action(), 1..120);
    let tried = runner(200).run(&(actions, 300u64..6000), |(actions, segment_bytes)| {
        let mut pair = ModelledStore::<S>::new(segment_bytes);
        for action in &actions {
            prop_assert!(pair.act(action));
        }
        pair.check();
        pair.real.reopen();
        pair.check();
        pair.real.lose_index();
        pair.check();
        Ok(())
    });
    tried.unwrap();
}

for_every_store!(answers_equal_the_model);
