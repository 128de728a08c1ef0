//! The documents of the Messages API, written, read and reopened.

use std::time::Duration;

use super::catalogue::KEY_WINDOW;
use super::*;
use serde_json::json;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

const ALL: PageLimit = PageLimit {
    items: 100,
    bytes: 1 << 20,
};

fn id(document: &Value) -> String {
    document["id"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_written_is_read_now_and_after_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let open = || EmbeddedMessages::open(folder.path().to_owned(), NOW).unwrap();
    let book = open();
    let thread = run(book.make_thread(None, json!({"mailbox": "fans"}), NOW)).unwrap();
    let name = id(&thread);
    assert_eq!(thread["createdAt"], "2027-01-15T08:00:00.000Z");
    let message = run(book.add_message(&name, None, json!({"body": "hello"}), NOW));
    let message = message.unwrap().unwrap();
    assert_eq!(message["threadId"], Value::from(name.as_str()));
    let patch = json!({"a": 1, "b": null});
    let patched = run(book.patch_thread(&name, patch, NOW)).unwrap().unwrap();
    assert_eq!(patched["metadata"], json!({"a": 1}));
    assert_eq!(
        run(book.add_message("none", None, json!({}), NOW)),
        Ok(None)
    );
    assert_eq!(run(book.patch_thread("none", json!({}), NOW)), Ok(None));
    let check = |book: &EmbeddedMessages| {
        assert_eq!(run(book.thread(&name)), Ok(Some(patched.clone())));
        assert_eq!(
            run(book.threads(None, ALL)).unwrap().items,
            std::slice::from_ref(&patched)
        );
        assert_eq!(
            run(book.messages(&name, None, ALL)).unwrap().unwrap().items,
            std::slice::from_ref(&message)
        );
        assert_eq!(run(book.messages("none", None, ALL)), Ok(None));
    };
    check(&book);
    run(book.close());
    check(&open());
}

#[test]
fn a_key_has_one_effect() {
    let folder = tempfile::tempdir().unwrap();
    let open = |now| EmbeddedMessages::open(folder.path().to_owned(), now).unwrap();
    let key = || Some("k".to_owned());
    let book = open(NOW);
    let thread = run(book.make_thread(key(), json!({"n": 1}), NOW)).unwrap();
    let again = run(book.make_thread(key(), json!({"n": 2}), NOW)).unwrap();
    assert_eq!(thread, again);
    // The same key on a message is another operation, and on another thread too.
    let other = run(book.make_thread(None, json!({}), NOW)).unwrap();
    let mut ids = Vec::new();
    for thread in [&thread, &other, &thread] {
        let added = run(book.add_message(&id(thread), key(), json!({}), NOW));
        ids.push(id(&added.unwrap().unwrap()));
    }
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    run(book.close());
    let book = open(NOW);
    assert_eq!(
        run(book.make_thread(key(), json!({}), NOW)).unwrap(),
        thread
    );
    run(book.close());
    let later = NOW.plus(KEY_WINDOW).plus(Duration::from_secs(1));
    let book = open(later);
    assert_ne!(
        run(book.make_thread(key(), json!({}), later)).unwrap(),
        thread
    );
}

#[test]
fn an_unreadable_result_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let open = || EmbeddedMessages::open(folder.path().to_owned(), NOW).unwrap();
    let book = open();
    let key = || Some("k".to_owned());
    let thread = run(book.make_thread(key(), json!({}), NOW)).unwrap();
    // Another process has no thread in memory.
    run(book.close());
    let book = open();
    let path = folder
        .path()
        .join("journal")
        .join(SegmentKind::State.file_name(1));
    let away = folder.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    let again = run(book.make_thread(key(), json!({}), NOW));
    assert_eq!(again, Err(StoreError::Full));
    let patched = run(book.patch_thread(&id(&thread), json!({}), NOW));
    assert_eq!(patched, Err(StoreError::Full));
    std::fs::rename(&away, &path).unwrap();
    let again = run(book.make_thread(key(), json!({}), NOW));
    assert_eq!(again, Ok(thread));
    assert_eq!(run(book.threads(None, ALL)).unwrap().items.len(), 1);
}

#[test]
fn operations_of_one_batch_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let book = EmbeddedMessages::open(folder.path().to_owned(), NOW).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let name = id(&run(book.make_thread(None, json!({}), NOW)).unwrap());
    let patches: Vec<_> = (0..50)
        .map(|n| {
            let (book, name) = (book.clone(), name.clone());
            let metadata = json!({ n.to_string(): n });
            runtime.spawn(async move { book.patch_thread(&name, metadata, NOW).await })
        })
        .collect();
    let makes: Vec<_> = (0..50)
        .map(|_| {
            let book = book.clone();
            let key = Some("one".to_owned());
            runtime.spawn(async move { book.make_thread(key, json!({}), NOW).await })
        })
        .collect();
    for patch in patches {
        runtime.block_on(patch).unwrap().unwrap();
    }
    let made: Vec<String> = makes
        .into_iter()
        .map(|make| id(&runtime.block_on(make).unwrap().unwrap()))
        .collect();
    assert!(made.iter().all(|id| *id == made[0]));
    let thread = run(book.thread(&name)).unwrap().unwrap();
    assert_eq!(thread["metadata"].as_object().unwrap().len(), 50);
    assert_eq!(run(book.threads(None, ALL)).unwrap().items.len(), 2);
}

#[test]
fn lists_come_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let book = EmbeddedMessages::open(folder.path().to_owned(), NOW).unwrap();
    let make = |_| id(&run(book.make_thread(None, json!({}), NOW)).unwrap());
    let threads: Vec<String> = (0..5).map(make).collect();
    let list = |after: Option<&str>, items, bytes| {
        let page = run(book.threads(after, PageLimit { items, bytes })).unwrap();
        let ids: Vec<String> = page.items.iter().map(id).collect();
        (ids, page.has_more)
    };
    let page = list(Some(&threads[1]), 2, 1 << 20);
    assert_eq!(page, (threads[2..4].to_vec(), true));
    assert_eq!(
        list(Some(&threads[2]), 2, 1 << 20),
        (threads[3..].to_vec(), false)
    );
    // A page ends with the document that exceeds its bytes.
    assert_eq!(list(None, 5, 0), (threads[..1].to_vec(), true));
    assert_eq!(list(Some(&threads[4]), 2, 1 << 20), (Vec::new(), false));
    assert_eq!(list(Some("none"), 2, 1 << 20), (Vec::new(), false));
    let add = |_| {
        let added = run(book.add_message(&threads[0], None, json!({}), NOW));
        id(&added.unwrap().unwrap())
    };
    let messages: Vec<String> = (0..5).map(add).collect();
    let page = run(book.messages(&threads[0], Some(&messages[2]), ALL));
    let page = page.unwrap().unwrap();
    assert_eq!(page.items.iter().map(id).collect::<Vec<_>>(), messages[3..]);
    assert!(!page.has_more);
}

#[test]
fn a_lost_or_old_index_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let open = || EmbeddedMessages::open(folder.path().to_owned(), NOW).unwrap();
    let index = folder.path().join("index");
    let old = folder.path().join("old");
    let key = || Some("k".to_owned());
    let book = open();
    let thread = run(book.make_thread(key(), json!({}), NOW)).unwrap();
    let name = id(&thread);
    run(book.clone().close());
    drop(book);
    copy_folder(&index, &old);
    let book = open();
    let add = |n: u64| run(book.add_message(&name, None, json!({ "n": n }), NOW));
    let messages: Vec<Value> = (0..9).map(|n| add(n).unwrap().unwrap()).collect();
    run(book.close());
    for round in ["as it is", "old", "lost", "damaged"] {
        match round {
            "old" => {
                std::fs::remove_dir_all(&index).unwrap();
                copy_folder(&old, &index);
            }
            "lost" => std::fs::remove_dir_all(&index).unwrap(),
            "damaged" => std::fs::write(index.join("conf"), b"nothing of use").unwrap(),
            _ => {}
        }
        let book = open();
        let page = run(book.messages(&name, None, ALL)).unwrap().unwrap();
        assert_eq!(page.items, messages, "{round}");
        let after = run(book.messages(&name, Some(&id(&messages[4])), ALL));
        assert_eq!(after.unwrap().unwrap().items, messages[5..], "{round}");
        let again = run(book.make_thread(key(), json!({}), NOW));
        assert_eq!(again, Ok(thread.clone()), "{round}");
        run(book.close());
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn message_entries_are_on_disk_and_old_keys_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let open = |now| EmbeddedMessages::open(folder.path().to_owned(), now).unwrap();
    let book = open(NOW);
    let fill = async |book: &EmbeddedMessages, now| {
        let threads = (0..40).map(|_| book.make_thread(None, json!({}), now));
        let threads = futures_util::future::join_all(threads).await;
        let threads: Vec<String> = threads.into_iter().map(|t| id(&t.unwrap())).collect();
        for round in 0..10 {
            let messages = (0..200).map(|n| {
                let key = Some(format!("key {round} {n}"));
                book.add_message(&threads[n % 40], key, json!({ "n": n }), now)
            });
            let messages = futures_util::future::join_all(messages).await;
            assert!(messages.iter().all(|m| matches!(m, Ok(Some(_)))));
        }
    };
    run(fill(&book, NOW));
    // Two entries for each thread, each message and each key, all of them on disk.
    let (documents, keys) = (2 * (40 + 2000), 2 * 2000);
    assert_eq!(book.documents.catalogue.len(), documents + keys);
    run(book.close());
    let later = NOW.plus(KEY_WINDOW).plus(Duration::from_secs(1));
    let book = open(later);
    run(fill(&book, later));
    // Each request is followed by one piece of upkeep at least.
    for _ in 0..40 {
        assert_eq!(run(book.patch_thread("none", json!({}), later)), Ok(None));
    }
    assert_eq!(book.documents.catalogue.len(), 2 * documents + keys);
}
