//! The embedded store's disk: failing writes, a process that stops at any point, a lock.

use proptest::prelude::*;

use super::outbox::ModelledOutbox;
use super::outbox::model::{OutboxAction, outbox_action};
use super::queue::ModelledStore;
use super::queue_model::{QueueAction, queue_action};
use super::{NOW, Subject, TestStore, envelope, mail, run, settings, settled};
use crate::mail::fingerprint::Fingerprint;
use crate::store::embedded::disk::DiskChange;
use crate::store::{DeliveryId, StoreError};

mod counts;
mod halves;
mod mending;
mod reads;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A test in which the disk stops at any change, in the middle of a write, of compaction, of the deletion of
/// segments.
macro_rules! stops_at_any_point {
    ($test:ident, $model:ident, $action:ident, $any_action:ident) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

            #[test]
            fn $test(
                rounds in proptest::collection::vec((proptest::collection::vec($any_action(), 1..40), 0u64..120), 1..6),
                segment_bytes in 300u64..4000,
            ) {
                let mut pair = $model::<TestStore>::new(segment_bytes);
                for (actions, stop) in &rounds {
                    pair.real.disk.faults.stop_after(*stop);
                    let failed = actions.iter().find(|action| {
                        !matches!(action, $action::Reopen | $action::LoseIndex) && !pair.act(action)
                    });
                    pair.real.reopen();
                    if let Some(action) = failed {
                        pair.settle_doubt(action);
                    }
                    pair.check();
                }
                pair.real.lose_index();
                pair.check();
            }
        }
    };
}

stops_at_any_point!(
    a_stop_at_any_point_loses_nothing,
    ModelledStore,
    QueueAction,
    queue_action
);
stops_at_any_point!(
    a_stop_at_any_point_loses_no_job,
    ModelledOutbox,
    OutboxAction,
    outbox_action
);

#[test]
fn a_failed_sync_is_final() {
    let mut pair = ModelledStore::<TestStore>::new(1 << 20);
    let accept = QueueAction::Accept {
        recipients: 1,
        bytes: 100,
    };
    assert!(pair.act(&accept));
    pair.real.disk.faults.fail_once(DiskChange::Sync, EIO);
    let answer = run(pair.real.store().accept(envelope(1), mail(1, 10)));
    assert_eq!(answer, Err(StoreError::Dead));
    // The disk would report success now, but it is no longer reliable.
    let answer = run(pair.real.store().accept(envelope(1), mail(9, 10)));
    assert_eq!(answer, Err(StoreError::Dead));
    assert_eq!(
        run(pair.real.store().record(Vec::new())),
        Err(StoreError::Dead)
    );
    run(pair.real.store().ended());
    pair.real.reopen();
    pair.settle_doubt(&QueueAction::Accept {
        recipients: 1,
        bytes: 10,
    });
}

#[test]
fn a_failed_index_ends_the_store() {
    let mut pair = ModelledStore::<TestStore>::new(1 << 20);
    assert!(pair.act(&QueueAction::Accept {
        recipients: 1,
        bytes: 100,
    }));
    pair.real.embedded.as_ref().unwrap().fail_index();
    // At once, although the writer has not noticed yet: no token may pass for lack of an answer.
    assert_eq!(pair.real.store().has_room(1), Err(StoreError::Dead));
    run(pair.real.store().ended());
    pair.real.reopen();
    pair.check();
}

#[test]
fn a_full_disk_passes() {
    for change in [DiskChange::Create, DiskChange::Write] {
        let mut pair = ModelledStore::<TestStore>::new(2000);
        let accept = QueueAction::Accept {
            recipients: 1,
            bytes: 1500,
        };
        assert!(pair.act(&accept));
        pair.real.disk.faults.fail_once(change, ENOSPC);
        let answer = run(pair.real.store().accept(envelope(1), mail(9, 1500)));
        assert_eq!(answer, Err(StoreError::Full), "{change:?}");
        pair.check();
        assert!(pair.act(&accept));
        pair.check();
        pair.real.reopen();
        pair.check();
    }
}

/// Waits for the index thread, which sends no signal.
fn until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

#[test]
fn a_disk_without_space_for_the_index_refuses_and_recovers() {
    let mut house = TestStore::begin(|folder| settings(folder, 1 << 20));
    let store = house.store().clone();
    let faults = &house.disk.faults;
    for round in 0..5 {
        let accept = || run(store.accept(envelope(1), mail(round, 300)));
        let settle = |mail, fingerprint| {
            let delivery = DeliveryId { mail, recipient: 0 };
            run(store.record(vec![settled(delivery, 0, fingerprint)]))
        };
        let ids = [accept().unwrap(), accept().unwrap(), accept().unwrap()];
        let embedded = house.embedded.as_ref().unwrap();
        until(|| embedded.index_flushed() >= ids[2].0);
        faults.set_full(true, false);
        assert_eq!(settle(ids[0], Some(round)), Ok(()));
        until(|| store.has_room(1) == Err(StoreError::Full));
        assert_eq!(accept(), Err(StoreError::Full));
        assert_eq!(settle(ids[1], None), Err(StoreError::Full));
        // The index lacks it, and it is answered from memory.
        let known = run(store.find_duplicate(Fingerprint([round; 16]), NOW)).unwrap();
        assert_eq!(known.map(|delivery| delivery.mail), Some(ids[0]));
        faults.set_full(false, true);
        until(|| store.has_room(1) == Ok(()));
        assert_eq!(accept(), Err(StoreError::Full));
        assert_eq!(settle(ids[1], None), Err(StoreError::Full));
        faults.set_full(false, false);
        assert_eq!(settle(ids[1], None), Ok(()));
        let known = run(store.find_duplicate(Fingerprint([round; 16]), NOW)).unwrap();
        assert_eq!(known.map(|delivery| delivery.mail), Some(ids[0]));
        let ledger = store.ledger();
        let rounds = u64::from(round) + 1;
        assert_eq!((ledger.waiting, ledger.delivered), (rounds, 2 * rounds));
    }
    let wanted = store.ledger();
    drop(store);
    house.reopen();
    assert_eq!(house.store().ledger(), wanted);
    house.lose_index();
    assert_eq!(house.store().ledger(), wanted);
}

#[test]
fn a_full_disk_passes_in_the_middle_of_a_large_mail() {
    let mut pair = ModelledStore::<TestStore>::new(1 << 20);
    assert!(pair.act(&QueueAction::Accept {
        recipients: 1,
        bytes: 10
    }));
    pair.real.disk.faults.fail_once(DiskChange::Write, ENOSPC);
    let answer = run(pair.real.store().accept(envelope(1), mail(9, 200_000)));
    assert_eq!(answer, Err(StoreError::Full));
    assert!(pair.act(&QueueAction::Accept {
        recipients: 2,
        bytes: 20
    }));
    pair.check();
    pair.real.reopen();
    pair.check();
    pair.real.lose_index();
    pair.check();
}
