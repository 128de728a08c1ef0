//! Tests of a mend that is stopped in the middle.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::outbox::{id, job, letter, settings};
use super::super::{NOW, envelope, mail, mapping, run, settled};
use super::halves::copy;
use crate::mail::token::ThreadKey;
use crate::store::ask::ask;
use crate::store::embedded::disk::Disk;
use crate::store::embedded::mend::mend_on;
use crate::store::{DeliveryId, Fact, OpenError, Store};

const SEGMENT_BYTES: u64 = 2000;

/// Fills a folder with jobs and with mails in every state, over several segments of both kinds.
fn fill(folder: &Path) {
    let store = Store::open(settings(folder, SEGMENT_BYTES), NOW).unwrap();
    for seed in 0..12 {
        let mail = run(store.accept(envelope(1), mail(seed, 300))).unwrap();
        let delivery = DeliveryId { mail, recipient: 0 };
        let mut facts = vec![Fact::Mapped(mapping(seed, seed))];
        if seed % 3 < 2 {
            facts.push(settled(delivery, seed % 3, Some(seed)));
        }
        run(store.record(facts)).unwrap();
        if seed < 3 {
            let nth = usize::from(seed);
            let job = job(nth, seed, Some(seed));
            run(store.enqueue(job, letter(nth, 10), Vec::new())).unwrap();
        }
    }
    run(store.close());
}

fn segments(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("journal")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(kind) && name.ends_with(".segment")
    });
    paths.sort();
    paths
}

/// Changes a body and a front, and removes a segment.
fn damage(folder: &Path) {
    for (path, at, count) in [
        (&segments(folder, "mail")[0], 1300, 1),
        (&segments(folder, "state")[2], 64, 48),
    ] {
        let mut bytes = fs::read(path).unwrap();
        bytes[at..at + count]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x42);
        fs::write(path, bytes).unwrap();
    }
    fs::remove_file(&segments(folder, "state")[1]).unwrap();
}

fn answers(folder: &Path) -> String {
    let store = Store::open(settings(folder, SEGMENT_BYTES), NOW).unwrap();
    let threads = |n: u8| ask(store.thread("us", ThreadKey::of(&format!("thread-{n}"))));
    let threads: Vec<bool> = (0..12).map(|n| threads(n).is_some()).collect();
    let jobs: Vec<_> = (0..3)
        .map(|nth| ask(store.job(id(nth))).map(|job| job.state))
        .collect();
    let ids = |list: Vec<crate::store::Delivery>| {
        let ids: Vec<String> = list.iter().map(|found| found.id.to_string()).collect();
        ids.join(" ")
    };
    let answers = format!(
        "{threads:?} {jobs:?} {:?} {:?} {} | {}",
        store.ledger(),
        store.outbox_ledger(),
        ids(ask(store.waiting(None, 20))),
        ids(ask(store.parked(None, 20))),
    );
    run(store.close());
    answers
}

fn stopped_anywhere(with_index: bool) {
    let root = tempfile::tempdir().unwrap();
    let [whole, wanted, left] = ["whole", "wanted", "left"].map(|name| root.path().join(name));
    fill(&whole);
    damage(&whole);
    if !with_index {
        fs::remove_dir_all(whole.join("index")).unwrap();
    }
    copy(&whole, &wanted);
    let mend = |folder: &Path, disk: &Disk| mend_on(&settings(folder, SEGMENT_BYTES), NOW, disk);
    let report = mend(&wanted, &Disk::default()).unwrap().unwrap();
    let answer = answers(&wanted);
    let mut stops = 0;
    loop {
        copy(&whole, &left);
        let disk = Disk::default();
        disk.faults.stop_after(stops);
        let stopped = mend(&left, &disk);
        let is_done = stopped.is_ok();
        if !is_done && left.join("mending").exists() {
            let opened = Store::open(settings(&left, SEGMENT_BYTES), NOW);
            assert!(matches!(opened, Err(OpenError::Mending { .. })), "{stops}");
        }
        let again = mend(&left, &Disk::default()).unwrap();
        if let Some(again) = again {
            assert_eq!(again.parked, report.parked, "{stops}");
            assert_eq!(again.lost_mails, report.lost_mails, "{stops}");
            assert_eq!(again.lost_jobs, report.lost_jobs, "{stops}");
            assert_eq!(again.lost_deliveries, report.lost_deliveries, "{stops}");
        }
        assert_eq!(answers(&left), answer, "stopped after {stops} changes");
        fs::remove_dir_all(left.join("index")).unwrap();
        assert_eq!(answers(&left), answer, "{stops}, and the index made again");
        fs::remove_dir_all(&left).unwrap();
        if is_done {
            break;
        }
        stops += 1;
    }
    assert!(stops > 30, "only {stops} changes");
}

#[test]
fn a_mend_that_is_stopped_anywhere_ends_in_the_same_state() {
    stopped_anywhere(true);
}

#[test]
fn a_mend_without_an_index_that_is_stopped_anywhere_ends_in_the_same_state() {
    stopped_anywhere(false);
}
