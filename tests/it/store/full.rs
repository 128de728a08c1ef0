//! A small disk that becomes full while mail is delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fake_api::{Fake, Play};
use crate::needs::skipped;
use crate::postern::{Client, Postern};
use crate::wait::eventually;

/// A file system in memory, unmounted when this is dropped.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if the test may not mount one.
    pub(super) fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        let mounted = mount.output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }

    /// Uses all the space that is left.
    pub(super) fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    pub(super) fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Sends mail by one session after another, because a session ends after too many refused mails.
struct Sender<'p> {
    postern: &'p Postern,
    client: Client,
    sent: usize,
    /// The Message-IDs of the mails that were accepted.
    accepted: BTreeSet<String>,
}

impl<'p> Sender<'p> {
    fn new(postern: &'p Postern) -> Self {
        Self {
            postern,
            client: Self::connect(postern),
            sent: 0,
            accepted: BTreeSet::new(),
        }
    }

    fn connect(postern: &Postern) -> Client {
        Client::connect(postern.smtp, "EHLO load.test").unwrap()
    }

    /// Sends the next mail; true if it was accepted, false if there is no space for it.
    fn send(&mut self, to: &str) -> bool {
        self.sent += 1;
        let id = format!("{}@load.test", self.sent);
        let head = format!("From: ann@peer.test\r\nMessage-ID: <{id}>\r\n");
        let text = format!("{head}Subject: mail {id}\r\n\r\nWords of mail {id}.\r\n");
        let answer = self.client.mail("ann@peer.test", to, &text).unwrap();
        if answer.starts_with("250") {
            return self.accepted.insert(id);
        }
        assert!(answer.starts_with("452"), "{answer}");
        self.client = Self::connect(self.postern);
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_full_during_deliveries_loses_nothing() {
    fill_during_deliveries(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_a_full_disk_loses_nothing() {
    fill_during_deliveries(true).await;
}

async fn fill_during_deliveries(stops_while_full: bool) {
    const MAILS: usize = 400;
    // Slow enough that mail waits when the disk is full.
    let fake = Fake::start(|_, _| Play::Late(Duration::from_millis(20))).await;
    let mut postern = Postern::new(
        Some(&fake.base()),
        "[store]\nsegment_bytes = \"1MiB\"\nfree_bytes_min = \"0B\"\n\
         [delivery]\nretry_wait_first = \"100ms\"\nretry_wait_max = \"1s\"\n",
    );
    let Some(disk) = SmallDisk::mount(&postern.data(), "64m") else {
        return skipped("no file system can be mounted");
    };
    let address = postern.mint("0f0e0d0c-0b0a-4908-8706-050403020100");
    let general = format!("general@{}", crate::postern::DOMAIN);
    postern.start();
    let mut sender = Sender::new(&postern);
    for nth in 0..MAILS {
        if nth == MAILS / 2 {
            disk.fill();
        }
        // Every other mail begins a new thread.
        sender.send(if nth % 2 == 0 { &address } else { &general });
    }
    eventually("the index has no space", || {
        sender.send(&general);
        postern.log().contains("no space for the index")
    });
    assert!(!sender.send(&general));
    assert_eq!(postern.fetch("/healthz").0, 200);
    let (sent, mut accepted) = (sender.sent, sender.accepted);
    if stops_while_full {
        postern.stop();
        disk.empty();
        postern.start();
    } else {
        disk.empty();
    }
    let mut sender = Sender::new(&postern);
    sender.sent = sent;
    eventually("mail is accepted again", || sender.send(&general));
    accepted.append(&mut sender.accepted);
    postern.drained();
    let mut delivered: BTreeMap<String, usize> = BTreeMap::new();
    for seen in fake.done().iter().filter(|seen| seen.call() == "message") {
        let id = seen.body["emailMessageId"].as_str().unwrap();
        let id = id.trim_matches(['<', '>']).to_owned();
        *delivered.entry(id).or_default() += 1;
    }
    let wanted: BTreeMap<String, usize> = accepted.into_iter().map(|id| (id, 1)).collect();
    assert_eq!(delivered, wanted);
    postern.stop();
}
