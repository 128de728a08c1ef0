//! Tests of damaged folders and of the commands that a person gives: after a mend the server runs, posts and
//! sends everything intact once, and repeats nothing; the command names the losses.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use postern::mail::job_id::JobId;
use postern::store::{EnqueueResult, Job, JobOutcome};

use super::damage::copy;
use super::*;
use crate::postern::Postern;
use crate::product::Product;
use crate::relay::server::{Act, Fake};
use crate::wait::eventually;

const MAILS: u64 = 60;

/// The folder that the tests damage: mails that are posted, parked and waiting, and jobs that are sent and
/// waiting, over several segments of both kinds.
pub(super) struct Whole {
    root: tempfile::TempDir,
    /// The waiting mails: for each number in the folder, the number in this test.
    pub(super) waiting: Vec<(u64, u64)>,
}

impl Whole {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (live, clean) = (root.path().join("live"), root.path().join("clean"));
        let mut waiting = Vec::new();
        runtime().block_on(async {
            let store = open(&live);
            for nth in 0..MAILS {
                let id = store.accept(addressed(), letter(nth)).await.unwrap();
                let mut facts: Vec<Fact> = (0..3)
                    .map(|part| Fact::Mapped(mapping(u32::try_from(nth * 3 + part).unwrap())))
                    .collect();
                match nth % 3 {
                    0 => facts.push(settled(id, delivered())),
                    1 => facts.push(settled(id, parked())),
                    _ => waiting.push((id.0, nth)),
                }
                store.record(facts).await.unwrap();
                if nth % 10 == 0 {
                    enqueue(&store, nth).await;
                }
            }
            copy(&live, &root.path().join("killed"));
            store.close().await;
        });
        // The copy of the index is unusable, because the program was writing it.
        fs::remove_dir_all(root.path().join("killed/index")).unwrap();
        copy(&live, &clean);
        Self { root, waiting }
    }

    /// A Postern with a copy of the folder: with its index after a clean stop, or without one after a kill.
    pub(super) fn postern(&self, with_index: bool, base_url: &str, relay: u16) -> Postern {
        let lines = format!(
            "[outbound]\nenabled = true\nfrom = 'reply@inbox.test'\nhost = '127.0.0.1'\nport = {relay}\n"
        );
        let postern = Postern::new(Some(base_url), &lines);
        let name = if with_index { "clean" } else { "killed" };
        copy(&self.root.path().join(name), &postern.data());
        postern
    }
}

fn addressed() -> Envelope {
    let mut envelope = envelope();
    envelope.sender = Address::parse("ann@peer.test").ok();
    envelope.recipients[0].address = Address::parse("box@inbox.test").unwrap();
    "test".clone_into(&mut envelope.recipients[0].route);
    envelope
}

fn letter(nth: u64) -> Bytes {
    let line = format!("{:70}\r\n", format!("line of mail {nth}"));
    format!(
        "From: Ann <ann{nth}@peer.test>\r\nTo: box@inbox.test\r\nSubject: hello {nth}\r\n\
         Message-ID: <m{nth}@peer.test>\r\n\r\n{}",
        line.repeat(40)
    )
    .into_bytes()
    .into()
}

fn parked() -> DeliveryOutcome {
    DeliveryOutcome::Parked {
        reason: "a reason".to_owned(),
    }
}

async fn enqueue(store: &Store, nth: u64) {
    let id = JobId([u8::try_from(nth).unwrap() + 1; 16]);
    let job = Job {
        id,
        route: "test".to_owned(),
        thread_id: Some(format!("thread-{nth}")),
        product_message_id: None,
        message_id: format!("<j{nth}@inbox.test>"),
        recipient: Address::parse(&format!("bob{nth}@peer.test")).unwrap(),
        return_path: None,
        subject: "an answer".to_owned(),
        key: id.0,
        second_key: None,
        content: [7; 16],
        made_at: NOW,
        ends_at: NOW.plus(crate::bench::DAY),
    };
    let mail = format!("Message-ID: <j{nth}@inbox.test>\r\n\r\nwords of job {nth}\r\n");
    let enqueued = store.enqueue(job, mail.into_bytes().into(), Vec::new());
    assert_eq!(enqueued.await, Ok(EnqueueResult::New));
    if nth.is_multiple_of(20) {
        let sent = Fact::Ended {
            job: id,
            outcome: JobOutcome::Sent {
                relay: "relay.test:25".to_owned(),
                reply: "250 ok".to_owned(),
            },
            at: NOW,
        };
        store.record(vec![sent]).await.unwrap();
    }
}

/// The result for a damaged folder.
struct Mended {
    /// The output of `postern store mend`.
    said: String,
    /// The mails that were posted, by their numbers in this test.
    told: BTreeSet<u64>,
    /// The jobs that were sent, by their numbers in this test.
    sent: BTreeSet<u64>,
}

impl Mended {
    fn names(&self, what: &str) -> BTreeSet<String> {
        let prefix = format!("{what}: ");
        let lines = self.said.lines();
        lines
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }

    fn count(&self, what: &str) -> u64 {
        let counts = self.names(what);
        counts.first().unwrap().parse().unwrap()
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

/// Damages a copy of the folder, mends it with the program, and lets the program serve it.
fn mended(whole: &Whole, with_index: bool, damage: impl Fn(&Path)) -> Mended {
    let (product, relay) = (Product::start(), Fake::start(|_, _| Act::Usual));
    let mut postern = whole.postern(with_index, &product.base_url(), relay.port);
    damage(&postern.data());
    let checked = postern.command(&["store", "check"]);
    if checked.status.code() != Some(0) {
        assert_eq!(checked.status.code(), Some(65), "{}", text(&checked));
        assert!(text(&checked).contains("postern store mend"));
    }
    let refused = postern.command(&["store", "mend"]);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    let done = postern.command(&["store", "mend", "--yes"]);
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    let checked = postern.command(&["store", "check"]);
    assert!(checked.status.success(), "{said}\n{}", text(&checked));
    let again = postern.command(&["store", "mend", "--yes"]);
    assert!(
        text(&again).contains("nothing is damaged"),
        "{}",
        text(&again)
    );

    postern.start();
    postern.drained();
    eventually("all jobs are settled", || {
        let (_, metrics) = postern.fetch("/metrics");
        metrics.contains("postern_outbox_jobs{state=\"waiting\"} 0")
    });
    let told: BTreeSet<u64> = product.effects().iter().map(once).collect();
    let sent: Vec<u64> = relay
        .taken()
        .iter()
        .map(|mail| number_of(&mail.text()))
        .collect();
    let settled: f64 = ["waiting", "delivered", "parked", "dropped"]
        .map(|state| postern.metric(&format!("postern_ledger_{state}")))
        .iter()
        .sum();
    assert!((postern.metric("postern_ledger_received") - settled).abs() < 0.5);
    postern.stop();
    // The journal alone must now contain the knowledge of the index.
    fs::remove_dir_all(postern.data().join("index")).unwrap();
    postern.start();
    postern.drained();
    assert_eq!(product.effects().len(), told.len(), "{said}");
    assert_eq!(relay.taken().len(), sent.len(), "{said}");
    postern.stop();

    let mended = Mended {
        said,
        told,
        sent: sent.iter().copied().collect(),
    };
    assert_eq!(mended.sent.len(), sent.len(), "no job is sent twice");
    nothing_is_told_again_or_forgotten(whole, &mended);
    mended
}

fn once((id, count): (&String, &usize)) -> u64 {
    assert_eq!(*count, 1, "{id}");
    let number = id.strip_prefix('m').unwrap().split('@').next().unwrap();
    number.parse().unwrap()
}

fn number_of(text: &str) -> u64 {
    let words = text.split_once("words of job ").unwrap().1;
    words.split_whitespace().next().unwrap().parse().unwrap()
}

fn nothing_is_told_again_or_forgotten(whole: &Whole, mended: &Mended) {
    let waited: BTreeSet<u64> = whole.waiting.iter().map(|(_, nth)| *nth).collect();
    assert!(
        mended.told.is_subset(&waited),
        "told again: {:?}",
        mended.told
    );
    assert!(
        mended.sent.iter().all(|nth| nth % 20 == 10),
        "sent again: {:?}",
        mended.sent
    );
    let (lost, parked) = (mended.names("lost mail"), mended.names("parked"));
    for (id, nth) in &whole.waiting {
        let named = lost.contains(&id.to_string()) || parked.contains(&format!("{id}.0"));
        let is_told = mended.told.contains(nth);
        let at_most = mended.count("mail records lost, at most");
        assert!(
            is_told || named || at_most > 0,
            "mail {id} is forgotten:\n{}",
            mended.said
        );
    }
}

pub(super) fn all(whole: &Whole) -> BTreeSet<u64> {
    whole.waiting.iter().map(|(_, nth)| *nth).collect()
}

/// Finds the segment and the offset of these bytes.
pub(super) fn find(folder: &Path, kind: &str, wanted: &[u8]) -> (PathBuf, usize) {
    let found = segments(folder, kind).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|b| b == wanted)?;
        Some((path, at))
    });
    found.expect("the bytes are in a segment")
}

pub(super) fn change(path: &Path, at: usize, count: usize) {
    let mut bytes = fs::read(path).unwrap();
    for byte in &mut bytes[at..at + count] {
        *byte ^= 0x10;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_byte_of_a_mail_costs_that_mail_alone() {
    let whole = Whole::new();
    let (id, nth) = whole.waiting[7];
    for with_index in [true, false] {
        let mended = mended(&whole, with_index, |data| {
            let (path, at) = find(data, "mail", format!("<m{nth}@peer.test>").as_bytes());
            change(&path, at + 200, 1);
        });
        let mut left = all(&whole);
        left.remove(&nth);
        assert_eq!(mended.told, left);
        assert_eq!(mended.names("lost mail"), BTreeSet::from([id.to_string()]));
        assert_eq!(mended.count("mail records lost, at most"), 1);
        assert_eq!(mended.count("fact records lost, at most"), 0);
        assert_eq!(mended.sent, BTreeSet::from([10, 30, 50]));
        let file = mended.names("set aside").pop_first().unwrap();
        assert!(file.ends_with(".eml"), "{file}");
        assert!(
            mended
                .said
                .contains(&format!("mail {id} from <ann@peer.test> to mailbox box"))
        );
    }
}

#[test]
fn a_wrong_bit_in_a_front_costs_nothing() {
    let whole = Whole::new();
    for with_index in [true, false] {
        let mended = mended(&whole, with_index, |data| {
            let (path, at) = find(data, "state", b"\"thread-90\"");
            change(&path, at + 3, 1);
            let (path, at) = find(data, "mail", b"<m30@peer.test>");
            let front = fs::read(&path).unwrap()[..at]
                .windows(4)
                .rposition(|b| b == b"PsBa")
                .unwrap();
            change(&path, front + 60, 1);
        });
        assert_eq!(mended.told, all(&whole));
        assert_eq!(mended.count("mail records lost, at most"), 0);
        assert_eq!(mended.count("fact records lost, at most"), 0);
    }
}

#[test]
fn lost_facts_repeat_nothing() {
    let whole = Whole::new();
    let damage = |data: &Path| {
        // This damages the front of a frame, so that none of its records is known.
        let (path, at) = find(data, "state", b"\"thread-90\"");
        let bytes = fs::read(&path).unwrap();
        let front = bytes[..at].windows(4).rposition(|b| b == b"PsBa").unwrap();
        change(&path, front, 48);
    };
    // The index has seen all facts, so nothing is in doubt.
    let known = mended(&whole, true, damage);
    assert_eq!(known.told, all(&whole));
    assert_eq!(
        known.count("deliveries parked, for they may have been delivered"),
        0
    );
    assert_eq!(known.count("mappings of threads lost"), 3);
    assert_eq!(known.count("deliveries settled by what the index knew"), 1);
    // Without an index the lost facts are unknown, so the earlier mails are parked.
    let unknown = mended(&whole, false, damage);
    assert_eq!(unknown.count("fact records lost, at most"), 4);
    let later: BTreeSet<u64> = all(&whole).into_iter().filter(|nth| *nth > 30).collect();
    assert_eq!(unknown.told, later);
    // Mail 30 was posted, and the fact about it is lost.
    let parked = unknown.names("parked");
    assert_eq!(parked.len(), whole.waiting.len() - later.len() + 1);
}

#[test]
fn a_missing_mail_segment_is_named() {
    let whole = Whole::new();
    for nth in [0, 2] {
        for with_index in [true, false] {
            let mended = mended(&whole, with_index, |data| {
                fs::remove_file(&segments(data, "mail")[nth]).unwrap();
            });
            assert!(mended.told.len() < whole.waiting.len());
            assert!(mended.told.len() * 2 > whole.waiting.len());
            if with_index {
                // The parked mails are lost too.
                let lost = mended.names("lost mail");
                let unsettled = mended.count("deliveries lost that waited or were parked");
                assert_eq!(lost.len() as u64, unsettled);
            }
        }
    }
}

#[test]
fn a_missing_state_segment_repeats_nothing() {
    let whole = Whole::new();
    let newest = segments(&whole.root.path().join("clean"), "state").len() - 1;
    assert!(newest >= 3, "only {newest} state segments");
    for nth in [0, 1, newest] {
        for with_index in [true, false] {
            let mended = mended(&whole, with_index, |data| {
                fs::remove_file(&segments(data, "state")[nth]).unwrap();
            });
            if with_index {
                assert_eq!(mended.told, all(&whole));
                assert_eq!(mended.sent.len() + mended.names("lost job").len(), 3);
            }
        }
    }
}

#[test]
fn a_cut_segment_repeats_nothing() {
    let whole = Whole::new();
    for kind in ["mail", "state"] {
        let last = segments(&whole.root.path().join("clean"), kind).len() - 1;
        for nth in [0, last] {
            for with_index in [true, false] {
                let mended = mended(&whole, with_index, |data| {
                    let path = &segments(data, kind)[nth];
                    let bytes = fs::read(path).unwrap();
                    let used = bytes.iter().rposition(|b| *b != 0).unwrap();
                    fs::write(path, &bytes[..used / 2]).unwrap();
                });
                if with_index && kind == "state" {
                    assert_eq!(mended.told, all(&whole));
                }
            }
        }
    }
}

#[test]
fn an_unreadable_segment_is_moved_away() {
    let whole = Whole::new();
    for kind in ["mail", "state"] {
        for with_index in [true, false] {
            let mended = mended(&whole, with_index, |data| {
                fs::write(&segments(data, kind)[1], vec![0xA5; 9000]).unwrap();
            });
            assert_eq!(mended.names("set aside").len(), 1);
        }
    }
    // The frames are enough to rebuild a damaged header.
    let mended = mended(&whole, false, |data| {
        change(&segments(data, "state")[1], 0, 64);
    });
    assert_eq!(mended.told, all(&whole));
    assert_eq!(mended.count("fact records lost, at most"), 0);
}

#[test]
fn an_index_needs_no_mending() {
    let whole = Whole::new();
    let (product, relay) = (Product::start(), Fake::start(|_, _| Act::Usual));
    let mut postern = whole.postern(true, &product.base_url(), relay.port);
    let index = postern.data().join("index");
    fs::write(index.join("db"), b"garbage").unwrap();
    let checked = postern.command(&["store", "check"]);
    assert!(checked.status.success(), "{}", text(&checked));
    let mended = postern.command(&["store", "mend", "--yes"]);
    assert!(
        text(&mended).contains("nothing is damaged"),
        "{}",
        text(&mended)
    );
    fs::remove_dir_all(&index).unwrap();
    let checked = postern.command(&["store", "check"]);
    assert!(checked.status.success(), "{}", text(&checked));
    postern.start();
    postern.drained();
    assert_eq!(product.effects().len(), whole.waiting.len());
    let checked = postern.command(&["store", "check"]);
    assert_eq!(
        checked.status.code(),
        Some(69),
        "the server runs: {}",
        text(&checked)
    );
    postern.stop();
}

#[test]
fn a_refused_start_names_the_command() {
    let whole = Whole::new();
    let (product, relay) = (Product::start(), Fake::start(|_, _| Act::Usual));
    let damages: [fn(&Path); 4] = [
        |data| {
            let (path, at) = find(data, "state", b"\"thread-90\"");
            change(&path, at, 12);
        },
        |data| fs::remove_file(&segments(data, "state")[0]).unwrap(),
        |data| fs::remove_file(segments(data, "state").pop().unwrap()).unwrap(),
        |data| fs::remove_file(&segments(data, "mail")[1]).unwrap(),
    ];
    for (nth, damage) in damages.iter().enumerate() {
        for with_index in [true, false] {
            let postern = whole.postern(with_index, &product.base_url(), relay.port);
            damage(&postern.data());
            if !with_index {
                let doctor = postern.command(&["doctor"]);
                let doctor = text(&doctor);
                assert!(
                    doctor.contains("fail  journal: 1 damages"),
                    "{nth}: {doctor}"
                );
            }
            if with_index && nth == 0 {
                // The index has seen this record, so only a rebuild reads it again.
                continue;
            }
            let served = postern.command(&["serve"]);
            let said = text(&served);
            assert_eq!(served.status.code(), Some(65), "{nth}: {said}");
            let last = said.lines().last().unwrap();
            assert!(last.contains("`postern store mend`"), "{nth}: {said}");
        }
    }
    assert!(product.messages().is_empty());
}

#[test]
fn set_aside_bytes_are_readable_by_the_owner_alone() {
    let whole = Whole::new();
    let product = Product::start();
    let postern = whole.postern(false, &product.base_url(), 1);
    let (path, at) = find(&postern.data(), "mail", b"<m5@peer.test>");
    change(&path, at, 1);
    let mended = postern.command(&["store", "mend", "--yes"]);
    assert!(mended.status.success(), "{}", text(&mended));
    let aside = postern.data().join("set-aside/journal");
    let files: Vec<_> = fs::read_dir(&aside)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    assert_eq!(
        fs::metadata(&aside).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept = fs::read(file).unwrap();
    let mut wanted = letter(5).to_vec();
    let at = wanted
        .windows(14)
        .position(|b| b == b"<m5@peer.test>")
        .unwrap();
    wanted[at] ^= 0x10;
    assert_eq!(kept, wanted);
}
