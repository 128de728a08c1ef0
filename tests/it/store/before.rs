//! A data folder of the previous version, after a kill: it opens, and its waiting mail and jobs are
//! delivered and sent.
//!
//! The folder holds two delivered mails, a parked one and a waiting one, a sent job, a deferred one and a
//! failed one, a suppression, and a minted token. Its segments are cut after their last record; the rest
//! would be zeros.

use std::fs;
use std::path::Path;

use crate::postern::Postern;
use crate::product::Product;
use crate::relay::server::{Act, Fake};
use crate::wait::eventually;

const THREAD: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

fn copy(from: &Path, to: &Path) {
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

fn opens(with_index: bool) {
    let product = Product::start();
    let relay = Fake::start(|_, _| Act::Usual);
    let lines = format!(
        "[outbound]\nenabled = true\nfrom = 'reply@inbox.test'\nhost = '127.0.0.1'\nport = {}\n",
        relay.port
    );
    let mut postern = Postern::new(Some(&product.base_url()), &lines);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/store/before");
    copy(&folder, &postern.data());
    if !with_index {
        fs::remove_dir_all(postern.data().join("index")).unwrap();
    }
    postern.start();
    eventually("the mail that waited is delivered", || {
        postern.metric("postern_ledger_delivered") == 3.0
    });
    eventually("the job that was put off is sent", || {
        !relay.taken().is_empty()
    });
    let [posted] = &product.messages()[..] else {
        panic!("one message: {:?}", product.messages());
    };
    assert_eq!(posted.1["body"], "this one comes LATER");
    for (name, value) in [
        ("postern_ledger_received", 4.0),
        ("postern_ledger_waiting", 0.0),
        ("postern_ledger_parked", 1.0),
        ("postern_outbox_taken", 3.0),
    ] {
        assert_eq!(postern.metric(name), value, "{name}");
    }
    let sent = relay.taken();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(
        sent[0].text().contains("words for later@slow.test"),
        "{sent:?}"
    );
    let parked = postern.command(&["queue", "list", "--json"]);
    let parked = String::from_utf8(parked.stdout).unwrap();
    assert!(parked.contains("message: 422: no"), "{parked}");
    // The thread of the sent job is known: a new token for it finds its participant.
    let token = postern.mint(THREAD);
    assert!(token.ends_with("@inbox.test"), "{token}");
    postern.stop();
}

#[test]
fn a_folder_of_the_version_before_opens_and_delivers() {
    opens(true);
}

#[test]
fn its_index_is_made_again_from_its_journal() {
    opens(false);
}
