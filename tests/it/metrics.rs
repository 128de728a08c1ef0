//! The metrics that the documents name: each has a series from the start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;

use crate::postern::Postern;

/// The names of metrics in README and in the documents.
fn documented() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = fs::read_dir(root.join("docs")).unwrap();
    let documents = documents.map(|entry| entry.unwrap().path());
    let name = Regex::new("postern_[a-z_]+[a-z]").unwrap();
    let mut names = BTreeSet::new();
    for document in documents.chain([root.join("README.md")]) {
        let text = fs::read_to_string(document).unwrap();
        names.extend(name.find_iter(&text).map(|found| found.as_str().to_owned()));
    }
    names
}

#[test]
fn what_the_documents_tell_to_watch_is_there_from_the_start() {
    let more = "[webhook]\nsecret = \"a webhook secret made for tests, worth nothing\"\n\
                [webhook.sparkpost]\ntoken = \"a token made for tests, worth nothing\"\n\
                [imap]\nhost = \"127.0.0.1\"\nport = 1\nuser = \"u\"\npassword = \"nothing\"\n\
                [outbound]\nenabled = true\nfrom = \"a@product.test\"\nhost = \"127.0.0.1\"\nport = 1\n";
    let mut postern = Postern::new(None, more);
    let text = fs::read_to_string(postern.config()).unwrap();
    let open = "[server]\ninbound = [\"smtp\", \"lmtp\", \"webhook\", \"imap\"]\n";
    fs::write(postern.config(), text.replacen("[server]\n", open, 1)).unwrap();
    postern.start();
    let (status, metrics) = postern.fetch("/metrics");
    assert_eq!(status, 200, "{metrics}");
    let names = documented();
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        let series: Vec<_> = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(name.as_str()))
            .filter(|rest| rest.starts_with([' ', '{']))
            .collect();
        assert!(!series.is_empty(), "{name}: {metrics}");
        if name.ends_with("_total") && !name.contains("reconnects") {
            assert!(
                series.iter().all(|rest| rest.ends_with(" 0")),
                "{name}: {series:?}"
            );
        }
    }
    for line in [
        "postern_webhook_dropped_total{provider=\"generic\",reason=\"unknown\"} 0",
        "postern_webhook_dropped_total{provider=\"sparkpost\",reason=\"too_large\"} 0",
        "postern_webhook_set_aside_total{provider=\"sparkpost\"} 0",
        "postern_imap_left_total{reason=\"not_ours\"} 0",
        "postern_outbox_jobs{state=\"failed\"} 0",
        "postern_ledger_dropped{rule=\"duplicate\"} 0",
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    postern.stop();
}
