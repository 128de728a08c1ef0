//! Folders that are torn, damaged, incomplete, in use, or of another version.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use postern::mail::token::ThreadKey;
use postern::store::{Fact, OpenError, Store};

use super::{
    NOW, delivered, envelope, ids, mail, mapping, open, runtime, segments, settings, settled,
};
use crate::ask::ask;

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let (path, offsets) = crashed(&whole);
    let name = path.file_name().unwrap();
    let bytes = fs::read(&path).unwrap();
    let (last, end) = (offsets[2], offsets[3]);
    for cut in (last..=end).step_by(7).chain([end - 1, end]) {
        for truncates in [true, false] {
            let folder = root.path().join("torn");
            let _ = fs::remove_dir_all(&folder);
            copy(&whole, &folder);
            let torn = folder.join("journal").join(name);
            let mut bytes = bytes.clone();
            if truncates {
                bytes.truncate(usize::try_from(cut).unwrap());
            } else {
                bytes[usize::try_from(cut).unwrap()..].fill(0);
            }
            fs::write(&torn, &bytes).unwrap();
            let expected = if cut == end { 3 } else { 2 };
            // Opened twice: the second start finds the repair of the first one complete.
            for _ in 0..2 {
                let store = open(&folder);
                assert_eq!(store.ledger().waiting, expected, "cut at {cut}");
                assert_eq!(ask(store.waiting(None, 9)).len() as u64, expected);
                runtime().block_on(store.close());
            }
        }
    }
}

#[test]
fn damage_before_the_tail_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let (path, offsets) = crashed(&whole);
    let bytes = fs::read(&path).unwrap();
    for at in (offsets[0]..offsets[2]).step_by(5) {
        let next = if at < offsets[1] {
            offsets[1]
        } else {
            offsets[2]
        };
        let rest = &bytes[usize::try_from(at).unwrap()..usize::try_from(next).unwrap()];
        if rest.iter().all(|b| *b == 0) {
            // Padding between frames has no effect.
            continue;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let opened = Store::open(settings(&whole), NOW);
        let Err(OpenError::Damaged {
            path: told, offset, ..
        }) = opened
        else {
            panic!("damage at {at} was not seen");
        };
        assert_eq!(told, path);
        let frame = if at < offsets[1] {
            offsets[0]
        } else {
            offsets[1]
        };
        assert_eq!(offset, frame);
        file.write_all_at(&byte, at).unwrap();
    }
    runtime().block_on(open(&whole).close());
}

#[test]
fn a_file_that_is_not_a_segment_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let (path, offsets) = crashed(&whole);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, b"").unwrap();
    assert!(matches!(
        Store::open(settings(&whole), NOW),
        Err(OpenError::Damaged { .. })
    ));
    let mut other = bytes.clone();
    other[30] ^= 1;
    fs::write(&path, &other).unwrap();
    assert!(matches!(
        Store::open(settings(&whole), NOW),
        Err(OpenError::Damaged { .. })
    ));
    // Garbage after the last frame is not a record.
    let mut longer = bytes[..usize::try_from(offsets[3].next_multiple_of(16)).unwrap()].to_vec();
    longer.extend((0..5000).map(|n| u8::try_from(n % 255).unwrap()));
    fs::write(&path, &longer).unwrap();
    fs::write(whole.join("journal/a stranger"), b"?").unwrap();
    let store = open(&whole);
    assert_eq!(store.ledger().waiting, 3);
    runtime().block_on(store.close());
}

#[test]
fn a_missing_state_segment_is_found_behind_later_mail() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    runtime().block_on(async {
        let store = open(&whole);
        store.record(vec![Fact::Mapped(mapping(1))]).await.unwrap();
        store.accept(envelope(), mail(100)).await.unwrap();
        store.close().await;
    });
    let path = segments(&whole, "state").pop().unwrap();
    fs::remove_file(&path).unwrap();
    let opened = Store::open(settings(&whole), NOW);
    assert!(matches!(opened, Err(OpenError::Missing { path: told }) if told == path));
}

#[test]
fn missing_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let (path, _) = crashed(&whole);
    runtime().block_on(open(&whole).close());
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    // No record follows it, so the journal seems to end before.
    let opened = Store::open(settings(&whole), NOW);
    let Err(OpenError::CutShort {
        last: 1, known: 4, ..
    }) = opened
    else {
        panic!("{opened:?}");
    };
    fs::write(&path, bytes).unwrap();
    runtime().block_on(async {
        let store = open(&whole);
        store.record(vec![Fact::Mapped(mapping(1))]).await.unwrap();
        store.close().await;
    });
    fs::remove_file(&path).unwrap();
    let opened = Store::open(settings(&whole), NOW);
    assert!(matches!(opened, Err(OpenError::Missing { path: told }) if told == path));
    for path in segments(&whole, "state") {
        fs::remove_file(path).unwrap();
    }
    let opened = Store::open(settings(&whole), NOW);
    assert!(matches!(opened, Err(OpenError::Missing { .. })));
}

#[test]
fn another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(open(folder.path()).close());
    fs::write(folder.path().join("version"), "2\n").unwrap();
    let opened = Store::open(settings(folder.path()), NOW);
    let Err(OpenError::Version { version, .. }) = opened else {
        panic!("opened");
    };
    assert_eq!(version, "2");
}

#[test]
fn one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let second = Store::open(settings(folder.path()), NOW);
    assert!(matches!(second, Err(OpenError::Locked { path }) if path == folder.path()));
    runtime().block_on(store.close());
    // Another process, which a lock within this one would not exclude.
    let held = Command::new("flock")
        .arg("--no-fork")
        .arg(folder.path().join("lock"))
        .args(["sh", "-c", "echo held; exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut held = held.unwrap();
    let mut line = [0; 5];
    std::io::Read::read_exact(held.stdout.as_mut().unwrap(), &mut line).unwrap();
    let second = Store::open(settings(folder.path()), NOW);
    held.kill().unwrap();
    held.wait().unwrap();
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    runtime().block_on(open(folder.path()).close());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let opened = Store::open(settings(&file.join("store")), NOW);
    let Err(error) = opened else {
        panic!("opened");
    };
    assert!(error.to_string().contains("file/store"), "{error}");
    // A folder of the kernel, in which not even root may create one.
    let opened = Store::open(settings(Path::new("/proc/self/store")), NOW);
    assert!(matches!(opened, Err(OpenError::Io { .. })));
}

#[test]
fn only_the_owner_can_read_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("store");
    runtime().block_on(open(&folder).close());
    for path in [folder.clone(), folder.join("journal")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    for path in segments(&folder, "") {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn an_index_lost_or_damaged_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    let runtime = runtime();
    runtime.block_on(async {
        let store = open(&whole);
        for n in 0..50 {
            let id = store.accept(envelope(), mail(500)).await.unwrap();
            let mut facts = vec![Fact::Mapped(mapping(n))];
            if n % 3 != 0 {
                facts.push(settled(id, delivered()));
            }
            store.record(facts).await.unwrap();
        }
        store.close().await;
    });
    let answers = |store: &Store| {
        let threads: Vec<_> = (0..50)
            .map(|n| ask(store.thread("us", ThreadKey::of(&format!("thread-{n}")))))
            .collect();
        assert!(threads.iter().all(Option::is_some));
        (store.ledger(), ids(&ask(store.waiting(None, 100))), threads)
    };
    let store = open(&whole);
    let expected = answers(&store);
    runtime.block_on(store.close());
    let damages: [fn(&Path); 5] = [
        |index| fs::remove_dir_all(index).unwrap(),
        |index| fs::write(index.join("db"), b"garbage").unwrap(),
        |index| fs::write(index.join("conf"), b"garbage").unwrap(),
        |index| {
            let bytes = fs::read(index.join("db")).unwrap();
            fs::write(index.join("db"), &bytes[..bytes.len() / 2]).unwrap();
        },
        |index| {
            let mut bytes = fs::read(index.join("db")).unwrap();
            for at in (0..bytes.len()).step_by(97) {
                bytes[at] ^= 0xA5;
            }
            fs::write(index.join("db"), &bytes).unwrap();
        },
    ];
    for damage in damages {
        let folder = root.path().join("damaged");
        let _ = fs::remove_dir_all(&folder);
        copy(&whole, &folder);
        damage(&folder.join("index"));
        let store = open(&folder);
        assert_eq!(answers(&store), expected);
        runtime.block_on(store.close());
    }
}

/// A folder whose newest mail segment holds three mails and no seal, as after a crash, and the offsets at
/// which its frames begin and the last one ends.
fn crashed(folder: &Path) -> (PathBuf, Vec<u64>) {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let runtime = runtime();
    runtime.block_on(async {
        let store = open(&live);
        for bytes in [100, 200, 300] {
            store.accept(envelope(), mail(bytes)).await.unwrap();
        }
        copy(&live, folder);
        store.close().await;
    });
    // An index without the mails: its folder was copied while it was written.
    fs::remove_dir_all(folder.join("index")).unwrap();
    let path = segments(folder, "mail").pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let begins = |at: &usize| bytes[*at..].starts_with(b"PsBa");
    let mut offsets: Vec<u64> = (0..bytes.len() - 4)
        .filter(begins)
        .map(|at| at as u64)
        .collect();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap() as u64 + 1;
    offsets.push(used);
    (path, offsets)
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
