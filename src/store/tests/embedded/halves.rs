//! An index whose writing was interrupted.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::super::outbox::{id, job, later, letter, settings, suppression};
use super::super::{NOW, envelope, mail, run, settled};
use crate::store::ask::ask;
use crate::store::embedded::index::{Index, IndexKey};
use crate::store::embedded::pending_writes::sorted;
use crate::store::{DeliveryId, EnqueueResult, Fact, JobOutcome, Store};

fn open(folder: &Path) -> Store {
    Store::open(settings(folder, 1 << 20), NOW).unwrap()
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(path, to).unwrap()),
        }
    }
}

fn entries(folder: &Path) -> HashMap<IndexKey, Vec<u8>> {
    Index::open(&folder.join("index")).unwrap().entries()
}

/// All answers about the actions of the test.
fn answers(store: &Store) -> String {
    let jobs: Vec<_> = (0..5).map(|nth| ask(store.job(id(nth)))).collect();
    let keys: Vec<_> = (0..5).map(|key| ask(store.job_by_key([key; 16]))).collect();
    format!(
        "{jobs:?} {keys:?} {:?} {:?} {:?} {:?}",
        store.outbox_ledger(),
        store.ledger(),
        ask(store.waiting(None, 10)),
        ask(store.suppressions(None, 10)),
    )
}

/// The actions before the index is complete, and those after.
fn begin(store: &Store) {
    run(async {
        for nth in 0..4 {
            let key = u8::try_from(nth).unwrap();
            let job = store.enqueue(job(nth, key, Some(key)), letter(nth, 10), Vec::new());
            assert_eq!(job.await, Ok(EnqueueResult::New));
        }
        for seed in 0..2 {
            store.accept(envelope(2), mail(seed, 10)).await.unwrap();
        }
        let suppressed = Fact::Suppressed(suppression(1));
        store.record(vec![suppressed]).await.unwrap();
    });
}

fn go_on(store: &Store) {
    let over = |nth, outcome| Fact::Ended {
        job: id(nth),
        outcome,
        at: later(50),
    };
    let sent = JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    };
    let failed = JobOutcome::Failed {
        relay: None,
        reason: "too old".to_owned(),
    };
    let waiting: Vec<DeliveryId> = ask(store.waiting(None, 10)).iter().map(|d| d.id).collect();
    run(async {
        let facts = vec![
            over(0, sent),
            over(1, JobOutcome::Cancelled),
            over(2, failed),
            Fact::Unsuppressed {
                address: suppression(1).address,
                at: later(50),
            },
            settled(waiting[0], 0, Some(1)),
            settled(waiting[1], 1, None),
            settled(waiting[2], 2, Some(2)),
        ];
        store.record(facts).await.unwrap();
        let new = store.enqueue(job(4, 4, None), letter(4, 10), Vec::new());
        assert_eq!(new.await, Ok(EnqueueResult::New));
    });
}

#[test]
fn an_index_left_at_any_entry_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after, left] = ["before", "after", "left"].map(|name| folder.path().join(name));
    let store = open(&before);
    begin(&store);
    run(store.close());
    copy(&before, &after);
    let store = open(&after);
    go_on(&store);
    let wanted = answers(&store);
    run(store.close());

    let (old, new) = (entries(&before), entries(&after));
    let mut changes: HashMap<IndexKey, Option<Vec<u8>>> = HashMap::new();
    for (key, value) in &new {
        if old.get(key) != Some(value) {
            changes.insert(*key, Some(value.clone()));
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        changes.insert(*key, None);
    }
    assert!(changes.len() > 10, "only {} changes", changes.len());
    for written in 0..=changes.len() {
        copy(&after, &left);
        fs::remove_dir_all(left.join("index")).unwrap();
        copy(&before.join("index"), &left.join("index"));
        let index = Index::open(&left.join("index")).unwrap();
        index.apply(sorted(&changes).take(written), None).unwrap();
        index.flush().unwrap();
        drop(index);
        let store = open(&left);
        assert_eq!(answers(&store), wanted, "{written} of {}", changes.len());
        run(store.close());
        let store = open(&left);
        assert_eq!(answers(&store), wanted, "{written}, and again");
        run(store.close());
        fs::remove_dir_all(&left).unwrap();
    }
}
