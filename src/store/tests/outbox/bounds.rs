//! The retention bounds of the embedded store.

use super::super::run;
use super::rules::{ended, sent};
use super::*;
use crate::store::ask::wait;
use crate::store::{JobOutcome, Work};

fn open(settings: Settings) -> Store {
    Store::open(settings, NOW).unwrap()
}

#[test]
fn jobs_that_are_over_are_known_for_a_time_and_a_number_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let bounded = || Settings {
        sent_kept: 5,
        outbox_max: 1000,
        ..settings(folder.path(), 2000)
    };
    let mut store = open(bounded());
    for nth in 0..20 {
        let key = u8::try_from(nth).unwrap();
        run(store.enqueue(job(nth, key, None), letter(nth, 300), Vec::new())).unwrap();
        run(store.record(vec![ended(nth, sent(), NOW)])).unwrap();
    }
    for round in 0..3 {
        let known: Vec<usize> = (0..20)
            .filter(|n| ask(store.job(id(*n))).is_some())
            .collect();
        assert_eq!(known, [15, 16, 17, 18, 19], "round {round}");
        assert_eq!(ask(store.job_by_key([3; 16])), None);
        assert_eq!(store.outbox_ledger().sent, 20);
        run(store.close());
        if round == 1 {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        store = open(bounded());
    }
    // A forgotten key can be used again; so can an expired one.
    let again = run(store.enqueue(job(30, 3, None), letter(30, 10), Vec::new()));
    assert_eq!(again, Ok(EnqueueResult::New));
    let month = later(31 * 24 * 60 * 60);
    run(store.record(vec![ended(30, sent(), month)])).unwrap();
    assert_eq!(ask(store.job(id(19))), None);
    let again = run(store.enqueue(job(31, 19, None), letter(31, 10), Vec::new()));
    assert_eq!(again, Ok(EnqueueResult::New));
    assert_eq!(ask(store.job_by_key([19; 16])).unwrap().job.id, id(31));
}

#[test]
fn a_job_is_known_by_each_of_its_keys_and_forgotten_with_both() {
    let folder = tempfile::tempdir().unwrap();
    let bounded = || Settings {
        sent_kept: 5,
        outbox_max: 1000,
        ..settings(folder.path(), 2000)
    };
    let by_both = |nth, key, second_key| Job {
        second_key: Some([second_key; 16]),
        ..job(nth, key, None)
    };
    let mut store = open(bounded());
    let enqueue = |store: &Store, job: Job| run(store.enqueue(job, letter(0, 300), Vec::new()));
    assert_eq!(
        enqueue(&store, by_both(0, 100, 101)),
        Ok(EnqueueResult::New)
    );
    // The second of each pair reaches the writer, which must decide, before the first is applied.
    let pairs = (1..=20).map(|nth: u8| {
        let one = by_both(2 * usize::from(nth), 2 * nth, 200);
        store.enqueue(one, letter(0, 10), Vec::new())
    });
    let taken = run(futures_util::future::join_all(pairs));
    let new = taken
        .iter()
        .filter(|one| **one == Ok(EnqueueResult::New))
        .count();
    assert_eq!(new, 1, "{taken:?}");
    for round in 0..3 {
        for (key, also) in [(100, 102), (103, 100), (101, 104), (105, 101), (101, 100)] {
            let found = enqueue(&store, by_both(90, key, also));
            assert!(
                matches!(found, Ok(EnqueueResult::Exists { id: known, .. }) if known == id(0)),
                "round {round}: {found:?}"
            );
        }
        run(store.close());
        if round == 1 {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        store = open(bounded());
    }
    run(store.record(vec![ended(0, sent(), NOW)])).unwrap();
    for nth in 50..70 {
        let key = u8::try_from(nth).unwrap();
        assert_eq!(enqueue(&store, job(nth, key, None)), Ok(EnqueueResult::New));
        run(store.record(vec![ended(nth, sent(), NOW)])).unwrap();
    }
    for key in [100, 101] {
        assert_eq!(ask(store.job_by_key([key; 16])), None);
    }
    assert_eq!(
        enqueue(&store, by_both(91, 106, 101)),
        Ok(EnqueueResult::New)
    );
    assert_eq!(ask(store.job_by_key([101; 16])).unwrap().job.id, id(91));
}

#[test]
fn mails_of_jobs_that_were_sent_leave_the_disk_and_those_that_wait_stay() {
    let folder = tempfile::tempdir().unwrap();
    let large = || Settings {
        outbox_max: 1000,
        ..settings(folder.path(), 64 << 10)
    };
    let store = open(large());
    let waits = letter(0, 5000);
    run(store.enqueue(job(0, 0, None), waits.clone(), Vec::new())).unwrap();
    for nth in 1..200 {
        let key = u8::try_from(nth).unwrap();
        run(store.enqueue(job(nth, key, None), letter(nth, 20_000), Vec::new())).unwrap();
        run(store.record(vec![ended(nth, sent(), NOW)])).unwrap();
    }
    run(store.close());
    let store = open(large());
    let files = std::fs::read_dir(folder.path().join("journal")).unwrap();
    let bytes: u64 = files.map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 2 << 20, "{bytes} of the 4 MB that were written");
    assert_eq!(wait(store.job_mail(id(0))).unwrap(), waits);
    assert!(wait(store.job_mail(id(199))).is_err());
    assert_eq!(ask(store.job(id(199))).unwrap().state, JobState::Sent);
}

#[test]
fn a_job_deferred_by_a_wrong_clock_is_due_after_its_correction() {
    const YEAR: u64 = 365 * 24 * 60 * 60;
    let folder = tempfile::tempdir().unwrap();
    let store = open(settings(folder.path(), 1 << 20));
    let due = |seconds| {
        let claim = ask(store.claim(Work::Jobs));
        let jobs = ask(store.due_jobs(&claim, later(seconds), 10));
        jobs.into_iter().map(|r| r.job.id).collect::<Vec<_>>()
    };
    for nth in 0..2 {
        let key = u8::try_from(nth).unwrap();
        run(store.enqueue(job(nth, key, None), letter(nth, 10), Vec::new())).unwrap();
    }
    let defer = |nth, at, wait| Fact::Deferred {
        job: id(nth),
        at: later(at),
        due_at: later(at + wait),
        relay: None,
        reply: "450 later".to_owned(),
        in_doubt: false,
    };
    run(store.record(vec![defer(0, YEAR, 300), defer(1, 0, 300)])).unwrap();
    assert_eq!(due(0), [id(0)]);
    assert_eq!(due(300), [id(1), id(0)]);
    assert_eq!(due(YEAR), [id(1)]);
    assert_eq!(store.outbox_ledger().waiting, 2);
}

#[test]
fn failed_jobs_go_after_their_time_and_keep_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(settings(folder.path(), 1 << 20));
    let failed = JobOutcome::Failed {
        relay: None,
        reason: "no for good".to_owned(),
    };
    for nth in 0..2 {
        let key = u8::try_from(nth).unwrap();
        run(store.enqueue(job(nth, key, None), letter(nth, 10), Vec::new())).unwrap();
    }
    let month = later(30 * 24 * 60 * 60);
    let soon = later(29 * 24 * 60 * 60);
    run(store.record(vec![ended(0, failed.clone(), NOW)])).unwrap();
    run(store.record(vec![ended(1, failed, soon)])).unwrap();
    assert!(wait(store.job_mail(id(0))).is_ok());
    run(store.enqueue(
        Job {
            made_at: month,
            ..job(2, 2, None)
        },
        letter(2, 1),
        Vec::new(),
    ))
    .unwrap();
    for _ in 0..2 {
        run(store.record(Vec::new())).unwrap();
    }
    assert!(wait(store.job_mail(id(0))).is_err());
    assert!(wait(store.job_mail(id(1))).is_ok());
    assert_eq!(store.outbox_ledger().failed, 2);
    assert!(store.outbox_ledger().adds_up());
}

#[test]
fn a_clock_that_was_a_year_ahead_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(settings(folder.path(), 1 << 20));
    let mut early = job(0, 7, None);
    early.made_at = later(365 * 24 * 60 * 60);
    run(store.enqueue(early, letter(0, 10), Vec::new())).unwrap();
    run(store.record(vec![ended(0, sent(), NOW)])).unwrap();
    for round in 0..3 {
        assert!(ask(store.job(id(0))).is_some(), "round {round}");
        let again = run(store.enqueue(job(1, 7, None), letter(1, 10), Vec::new()));
        let known = matches!(again, Ok(EnqueueResult::Exists { .. }));
        assert!(known, "round {round}: {again:?}");
        run(store.close());
        if round == 1 {
            std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        store = open(settings(folder.path(), 1 << 20));
    }
}
