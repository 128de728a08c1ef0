//! The folder of the embedded Messages API: a full disk, and damage.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use reqwest::Client;
use serde_json::{Value, json};

use super::full::SmallDisk;
use crate::needs::skipped;
use crate::postern::Postern;
use crate::product::KEY;
use crate::wait::eventually_or;

/// A product that begins threads at the embedded API.
struct Product {
    client: Client,
    url: String,
    /// The id of each thread that was made, by its idempotency key.
    made: BTreeMap<usize, String>,
}

impl Product {
    fn new(postern: &Postern) -> Self {
        Self {
            client: Client::builder().no_proxy().build().unwrap(),
            url: format!("http://127.0.0.1:{}/api/v1/messages/threads", postern.http),
            made: BTreeMap::new(),
        }
    }

    /// Makes a thread. One that was made before must be the same. False if the API has no space.
    async fn make(&mut self, key: usize) -> bool {
        let thread = json!({
            "sourceType": "email", "identityEmail": "ann@peer.test", "mailbox": "general",
            "priority": "standard", "metadata": { "emailSubject": "x".repeat(500) },
        });
        let request = self.client.post(&self.url).bearer_auth(KEY);
        let request = request.header("Idempotency-Key", key.to_string());
        let request = request.header("Content-Type", "application/json");
        let answer = request.body(thread.to_string()).send().await.unwrap();
        if answer.status() == 503 {
            return false;
        }
        assert!(answer.status().is_success(), "{answer:?}");
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let id = answer["data"]["id"].as_str().unwrap().to_owned();
        assert_eq!(*self.made.entry(key).or_insert_with(|| id.clone()), id);
        true
    }

    /// Repeats every call, which must have no effect.
    async fn repeat(&mut self) {
        for key in self.made.clone().into_keys() {
            assert!(self.make(key).await, "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_for_the_embedded_messages_loses_none() {
    const CALLS_MAX: usize = 5000;
    let extra = "[store]\nsegment_bytes = \"1MiB\"\nfree_bytes_min = \"0B\"\n";
    let mut postern = Postern::new(None, extra);
    let Some(disk) = SmallDisk::mount(&postern.data(), "64m") else {
        return skipped("no file system can be mounted");
    };
    postern.start();
    let mut product = Product::new(&postern);
    assert!(product.make(0).await);
    disk.fill();
    let mut next = 1;
    while product.make(next).await {
        next += 1;
        assert!(next < CALLS_MAX, "the disk is not full for the index");
    }
    let log = postern.log();
    assert!(log.contains("messages: no space for the index"), "{log}");
    assert!(!product.make(next).await);
    assert_eq!(postern.fetch("/healthz").0, 200);
    disk.empty();
    let again = async || product.make(next).await;
    eventually_or("a thread is made again", again, || postern.log()).await;
    product.repeat().await;
    assert_eq!(product.made.len(), next + 1);
    postern.stop();
    postern.start();
    product.url = Product::new(&postern).url;
    product.repeat().await;
    postern.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_the_embedded_messages_leaves_a_way_to_a_running_server() {
    let mut postern = Postern::new(None, "");
    postern.start();
    let mut product = Product::new(&postern);
    for key in 0..20 {
        assert!(product.make(key).await);
    }
    postern.stop();
    let folder = postern.data().join("messages");
    let index = folder.join("index");
    let overwritten = |bytes: &[u8]| {
        for entry in fs::read_dir(&index).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::write(path, bytes).unwrap();
            }
        }
    };
    for damage in ["garbage", "cut", "removed", "found while it was used"] {
        match damage {
            "garbage" => overwritten(&[0xa5; 4096]),
            "cut" => overwritten(b""),
            "removed" => fs::remove_dir_all(&index).unwrap(),
            _ => fs::write(folder.join("index.damaged"), "").unwrap(),
        }
        postern.start();
        product.repeat().await;
        postern.stop();
        assert!(!folder.join("index.damaged").exists());
    }

    // The journal is the truth, so its damage needs a person.
    let segment = folder.join("journal/state-0000000001.segment");
    let intact = fs::read(&segment).unwrap();
    for damage in ["garbage", "cut", "removed"] {
        match damage {
            "garbage" => fs::write(&segment, vec![0xa5; intact.len()]).unwrap(),
            "cut" => fs::write(&segment, &intact[..200]).unwrap(),
            _ => fs::remove_file(&segment).unwrap(),
        }
        let out = postern.command(&["serve"]);
        assert_eq!(out.status.code(), Some(65), "{damage}: {out:?}");
        let line = String::from_utf8(out.stderr).unwrap();
        let command = line
            .split('`')
            .nth(1)
            .unwrap_or_else(|| panic!("{damage}: {line}"));
        let done = Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(done.success(), "{command}");
        postern.start();
        let mut empty = Product::new(&postern);
        assert!(empty.make(1).await);
        postern.stop();
        // The next kind of damage begins with the folder as it was.
        let aside = folder.with_file_name("messages-aside");
        fs::remove_dir_all(&folder).unwrap();
        fs::rename(aside, &folder).unwrap();
        fs::write(&segment, &intact).unwrap();
    }
    postern.start();
    product.repeat().await;
    postern.stop();
}
