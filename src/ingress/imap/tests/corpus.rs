//! The fuzzer's corpus, and mutations of it: any data of a server is parsed without a panic, and equally
//! for any split.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::feed::feed;
use super::response::{ImapResponse, Untagged};

/// The number of mutations of the corpus in one run, the same in each run.
const MUTATIONS: u32 = 3_000;
/// Words with a meaning for the parser.
const WORDS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "\0",
    " ",
    "(",
    ")",
    "[",
    "]",
    "\"",
    "\\",
    "{0}\r\n",
    "{3}\r\nabc",
    "{9}\r\n",
    "* ",
    "+ \r\n",
    "* 1 FETCH (",
    "UID 1",
    "BODY[] ",
    "RFC822.SIZE 9",
    "FLAGS (\\Seen)",
    "INTERNALDATE \"",
    "* BYE ",
    "* 3 EXISTS\r\n",
    "p1 OK ",
    "p4 OK\r\n",
    "p5 NO ",
    "[UIDVALIDITY 4]",
    "[CAPABILITY IDLE]",
    "4294967296",
    "18446744073709551616",
    "NIL",
    "é",
];

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/imap");
    let files = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let all: Vec<_> = corpus().iter().map(|octets| feed(octets)).collect();
    assert!(all.len() >= 20, "only {}", all.len());
    let responses: usize = all.iter().map(|heard| heard.responses.len()).sum();
    assert!(responses >= 60, "only {responses} responses");
    let has_body = |response: &ImapResponse| matches!(response, ImapResponse::Untagged(Untagged::Fetch(mail)) if mail.body.is_some());
    let fetched = all.iter().flat_map(|heard| &heard.responses);
    assert!(fetched.filter(|response| has_body(response)).count() >= 8);
    // Whole sessions are covered too.
    let ended = all
        .iter()
        .filter(|heard| heard.steps.contains(&"idle".to_owned()));
    assert!(ended.count() >= 3);
}

/// A change to a server's data: octets from some position are replaced.
fn change() -> impl Strategy<Value = (Index, usize, Vec<u8>)> {
    let word = prop::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec());
    let junk = prop::collection::vec(any::<u8>(), 0..4);
    (
        any::<Index>(),
        0..6_usize,
        prop_oneof![3 => word, 1 => junk],
    )
}

#[test]
fn mutations_of_the_corpus_do_not_panic() {
    let all = corpus();
    let changes = prop::collection::vec(change(), 1..6);
    let strategy = (any::<Index>(), any::<u8>(), changes, any::<bool>());
    let config = Config {
        cases: MUTATIONS,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let went = runner.run(&strategy, |(which, pieces, changes, is_cut)| {
        let mut octets = all[which.index(all.len())].clone();
        octets[0] = pieces;
        for (at, gone, put) in changes {
            let at = at.index(octets.len()).max(1);
            let end = (at + gone).min(octets.len());
            octets.splice(at.min(end)..end, put);
            if is_cut {
                octets.truncate(at.max(1) * 2);
            }
        }
        feed(&octets);
        Ok(())
    });
    went.unwrap();
}
