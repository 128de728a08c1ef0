//! Kills the real program, simulates power failures, breaks its disk and its index, and counts the
//! remaining mails.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use postern::clock;
use postern::store::{EventId, EventKind, Settings, Store};

use crate::ask::ask;
use crate::postern::{Client, DOMAIN, Postern, binary, eventually, signal};
use crate::postfix::Postfix;
use crate::product::Product;

/// A mail with the id `id`, as a person's mail program writes it.
pub(crate) fn mail(id: &str) -> String {
    format!(
        "From: Ann Smith <ann@peer.test>\r\nTo: us\r\nSubject: Re: your order\r\n\
         Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{id}>\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\nThis is mail {id}.\r\n"
    )
}

/// The same with a file.
fn mail_with_file(id: &str) -> String {
    let text = mail(id);
    let (head, body) = text.split_once("Content-Type: ").unwrap();
    format!(
        "{head}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=part\r\n\r\n\
         --part\r\nContent-Type: {body}\
         --part\r\nContent-Type: text/csv; name=a.csv\r\nContent-Disposition: attachment\r\n\r\n\
         a,{id}\r\n--part--\r\n"
    )
}

/// A reply address for each of `count` threads.
pub(crate) fn addresses(postern: &Postern, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| postern.mint(&format!("00000000-0000-4000-8000-{n:012x}")))
        .collect()
}

/// Senders that never give up a mail: each continues with its next only after a 250.
struct Senders {
    stop: Arc<AtomicBool>,
    kept: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Senders {
    fn start(port: u16, addresses: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kept = Arc::new(Mutex::new(BTreeSet::new()));
        let threads = (0..4)
            .map(|sender| {
                let (stop, kept) = (Arc::clone(&stop), Arc::clone(&kept));
                let addresses = addresses.to_vec();
                thread::spawn(move || send(sender, port, &addresses, &stop, &kept))
            })
            .collect();
        Self {
            stop,
            kept,
            threads,
        }
    }

    /// Lets each sender finish its last mail; returns the ids of all mails with a 250.
    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.kept.lock().unwrap().clone()
    }
}

fn send(
    sender: usize,
    port: u16,
    addresses: &[String],
    stop: &AtomicBool,
    kept: &Mutex<BTreeSet<String>>,
) {
    let mut number = 0_usize;
    let mut client = None;
    while !stop.load(Ordering::SeqCst) {
        let id = format!("{sender}.{number}@load.test");
        let to = &addresses[number % addresses.len()];
        let Some(open) = client.as_mut() else {
            client = Client::connect(port, "EHLO load.test");
            if client.is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            continue;
        };
        match Client::mail(open, "ann@peer.test", to, &mail_with_file(&id)) {
            Some(answer) if answer.starts_with("250") => {
                kept.lock().unwrap().insert(id);
                number += 1;
            }
            Some(answer) if answer.starts_with('4') => client = None,
            Some(answer) => panic!("{answer}"),
            // The session was aborted: the mail may be stored or not, so it is sent again.
            None => client = None,
        }
    }
}

/// Every message has exactly one event.
fn assert_each_has_one_event(postern: &Postern, product: &Product) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (told, is_whole) = runtime.unwrap().block_on(async {
        let store = Store::open(Settings::new(postern.data()), clock::now()).unwrap();
        let events = ask(store.events_after(EventId::default(), usize::MAX));
        // After very many mails the oldest events are kept no more.
        let is_whole = !ask(store.has_gap_after(EventId::default()));
        store.close().await;
        let mut told: HashMap<String, usize> = HashMap::new();
        for (_, event) in events {
            if event.kind == EventKind::MessageCreated {
                let id = event.data["emailMessageId"].as_str().unwrap();
                *told.entry(id.to_owned()).or_default() += 1;
            }
        }
        (told, is_whole)
    });
    let twice: Vec<_> = told.iter().filter(|&(_, &count)| count > 1).collect();
    assert!(twice.is_empty(), "told twice: {twice:?}");
    let effects = product.effects();
    let silent: Vec<_> = effects
        .keys()
        .filter(|&id| !told.contains_key(id))
        .collect();
    assert!(!is_whole || silent.is_empty(), "no event: {silent:?}");
}

/// Every mail with a 250 has made one message, and no mail has made two.
pub(crate) fn assert_each_told_once(product: &Product, kept: &BTreeSet<String>) {
    let effects = product.effects();
    let lost: Vec<_> = kept
        .iter()
        .filter(|&id| !effects.contains_key(id))
        .collect();
    let twice: Vec<_> = effects.iter().filter(|&(_, &count)| count > 1).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        kept.len()
    );
    assert!(twice.is_empty(), "{} told twice: {twice:?}", twice.len());
}

pub(crate) fn assert_ledger_adds_up(postern: &Postern) {
    let parts = ["waiting", "delivered", "parked", "dropped"];
    let sum: f64 = parts
        .iter()
        .map(|part| postern.metric(&format!("postern_ledger_{part}")))
        .sum();
    assert_eq!(postern.metric("postern_ledger_received"), sum);
}

/// Starts and kills the program repeatedly, at different points of its work, and leaves it running. `change`
/// is done before each start.
pub(crate) fn kill_often(postern: &mut Postern, cycles: u64, change: impl Fn(&Postern, u64)) {
    for cycle in 0..cycles {
        change(postern, cycle);
        postern.start();
        thread::sleep(Duration::from_millis(50 + (cycle * 37) % 300));
        postern.kill();
    }
    postern.start();
}

/// Everything that an operator may change and that the calls of a mail could depend on: the rules for
/// mailbox and priority, and the address, lifetime and key of the links to attachments.
fn change_settings(postern: &Postern, template: &str, cycle: u64) {
    let mailbox = ["fans", "business", "dmca"][(cycle % 3) as usize];
    let rules = postern.scratch(&format!("rules-{}.toml", cycle % 3));
    let text = format!(
        "[[rule]]\nname = \"all-{mailbox}\"\nwhen = {{ kind = [\"person\"] }}\nmailbox = \"{mailbox}\"\n"
    );
    fs::write(&rules, text).unwrap();
    let keys = [
        "a key for links that is long enough",
        "another key for links, as long as it",
    ];
    let first = (cycle % 2) as usize;
    let route = format!("rules = \"{}\"\n[route.api]", rules.display());
    let links = format!(
        "[attachments]\nbase_url = \"http://door-{}.test\"\nlink_lifetime = \"{}d\"\n\
         secret = \"{}\"\nsecret_old = \"{}\"\n",
        cycle % 4,
        1 + cycle % 5,
        keys[first],
        keys[1 - first]
    );
    let text = template.replace("[route.api]", &route) + &links;
    fs::write(postern.config(), text).unwrap();
}

#[test]
fn kill_9_under_load_loses_nothing_and_posts_nothing_twice() {
    let cycles = std::env::var("POSTERN_CRASH_CYCLES").map_or(50, |text| text.parse().unwrap());
    let product = Product::start();
    product.lose_every(5);
    let lines = "[delivery]\nretry_wait_first = \"100ms\"\nretry_wait_max = \"1s\"\n";
    let mut postern = Postern::new(Some(&product.base_url()), lines).with_known_ports();
    // Mail to the mailbox begins threads.
    let mut targets = addresses(&postern, 20);
    targets.extend((0..10).map(|_| format!("general@{DOMAIN}")));
    let senders = Senders::start(postern.smtp, &targets);
    let template = fs::read_to_string(postern.config()).unwrap();
    kill_often(&mut postern, cycles, |postern, cycle| {
        change_settings(postern, &template, cycle);
    });
    let kept = senders.finish();
    postern.drained();
    assert!(
        kept.len() > cycles as usize,
        "only {} mails in {cycles} cycles",
        kept.len()
    );
    assert_each_told_once(&product, &kept);
    assert_ledger_adds_up(&postern);
    let (repeats, changed) = product.repeats();
    assert!(
        repeats > cycles as usize,
        "only {repeats} calls were repeated"
    );
    let first = changed.first();
    assert!(
        first.is_none(),
        "{} of {repeats} calls changed: {first:?}",
        changed.len()
    );
    println!(
        "{} mails through {cycles} kills, each told once; {repeats} calls repeated, each the same",
        kept.len()
    );
    postern.stop();
    assert_each_has_one_event(&postern, &product);
}

#[test]
fn postfix_delivers_a_thousand_mails_during_kills_and_restarts() {
    const MAILS: usize = 1000;
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "").with_known_ports();
    let addresses = addresses(&postern, 20);
    postern.start();
    let postfix = Postfix::start(DOMAIN, postern.lmtp);
    let port = postfix.port();
    let next = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..10)
        .map(|_| {
            let (next, addresses) = (Arc::clone(&next), addresses.clone());
            thread::spawn(move || {
                let mut client = Client::connect(port, "EHLO load.test").unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= MAILS {
                        return;
                    }
                    let (id, to) = (format!("{number}@load.test"), &addresses[number % 20]);
                    let answer = client.mail("ann@peer.test", to, &mail(&id)).unwrap();
                    assert!(answer.starts_with("250"), "{answer}");
                }
            })
        })
        .collect();
    for restart in 0..10_u64 {
        thread::sleep(Duration::from_millis(100 + (restart * 173) % 500));
        if restart % 2 == 0 {
            postern.kill()
        } else {
            postern.stop()
        }
        thread::sleep(Duration::from_millis((restart * 91) % 400));
        postern.start();
    }
    for sender in senders {
        sender.join().unwrap();
    }
    eventually("Postfix' queue is empty", || postfix.queued() == 0);
    postern.drained();
    let all = (0..MAILS)
        .map(|number| format!("{number}@load.test"))
        .collect();
    assert_each_told_once(&product, &all);
    assert_ledger_adds_up(&postern);
    assert!(
        !postfix.log().contains("status=bounced"),
        "{}",
        postfix.log()
    );
    postern.stop();
}

#[test]
fn a_power_cut_at_any_acknowledgement_loses_nothing() {
    const MAILS: usize = 300;
    // No API responds, so that all accepted mail waits. Small segments are replaced often.
    let mut postern = Postern::new(
        Some("http://127.0.0.1:1/none"),
        "[store]\nsegment_bytes = \"1MiB\"\n",
    );
    let addresses = addresses(&postern, 5);
    let trace = postern.scratch("trace").display().to_string();
    let calls = "trace=openat,write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync,ftruncate,fallocate,\
                 rename,renameat,renameat2,unlink,unlinkat,close,mkdir,mkdirat";
    postern.start_under(&[
        "strace",
        "-f",
        "-xx",
        "-s",
        "100000000",
        "-e",
        calls,
        "-o",
        &trace,
    ]);
    let mut client = Client::connect(postern.smtp, "EHLO load.test").unwrap();
    for number in 0..MAILS {
        let text = mail(&format!("{number}@load.test")) + &"padding ".repeat(400) + "\r\n";
        let answer = client
            .mail("ann@peer.test", &addresses[number % 5], &text)
            .unwrap();
        assert!(answer.starts_with("250 2.0.0 "), "{answer}");
    }
    // The signal must go to Postern, not to strace.
    let child = Command::new("pgrep")
        .args(["-P", &postern.pid().to_string()])
        .output()
        .unwrap();
    signal(
        "KILL",
        String::from_utf8(child.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
    );
    postern.wait();
    let check = "set -o pipefail; POSTERN_DATA_DIR={} \"$0\" queue list --state waiting --json \
                 --config \"$1\" | wc -l";
    for names in ["lost", "kept"] {
        let out = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powercut.py"))
            .args([&trace, &postern.data().display().to_string()])
            .arg(postern.scratch("cut"))
            .args([names, "--"])
            .args(["bash", "-c", check])
            .arg(binary())
            .arg(postern.config())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        println!("unsynced names {names}: {said}");
        assert!(out.status.success(), "{out:?}");
        assert!(
            said.starts_with(&format!("acknowledged {MAILS}, cuts {MAILS}, worst loss 0")),
            "{said}"
        );
    }
}

#[test]
fn a_missing_or_damaged_index_is_rebuilt() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "");
    let addresses = addresses(&postern, 5);
    let mut kept = BTreeSet::new();
    for round in 0..3 {
        postern.start();
        let mut client = Client::connect(postern.smtp, "EHLO load.test").unwrap();
        for number in 0..40 {
            // Half of them are mails of the round before, sent again: they must not be posted again.
            let id = format!("{}@load.test", round * 20 + number);
            let answer = client
                .mail("ann@peer.test", &addresses[number % 5], &mail(&id))
                .unwrap();
            assert!(answer.starts_with("250"), "{answer}");
            kept.insert(id);
        }
        if round == 1 {
            postern.kill()
        } else {
            postern.stop()
        }
        break_index(&postern.data().join("index"), round);
    }
    postern.start();
    postern.drained();
    assert_each_told_once(&product, &kept);
    assert_ledger_adds_up(&postern);
    assert!(
        postern.log().contains("rebuilt from the journal"),
        "no loud line: {}",
        postern.log()
    );
}

fn break_index(index: &Path, round: usize) {
    assert!(index.is_dir(), "no index at {}", index.display());
    if round == 0 {
        return fs::remove_dir_all(index).unwrap();
    }
    for entry in fs::read_dir(index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = fs::metadata(&path).unwrap().len() as usize;
            fs::write(&path, vec![0xA5; length.min(1 << 20)]).unwrap();
        }
    }
}

#[test]
fn a_failed_fsync_is_never_answered_250() {
    let mut postern = Postern::new(Some("http://127.0.0.1:1/none"), "");
    let address = addresses(&postern, 1).remove(0);
    let trace = postern.scratch("trace").display().to_string();
    // Syncs succeed during the start; the data sync of the first mail and all after it fail once.
    postern.start();
    let tracer = Command::new("strace")
        .args([
            "-f",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO:when=1",
        ])
        .args(["-o", &trace, "-p", &postern.pid().to_string()])
        .spawn();
    let mut tracer = tracer.unwrap();
    eventually("strace is attached", || {
        let status = fs::read_to_string(format!("/proc/{}/status", postern.pid())).unwrap();
        !status.contains("TracerPid:\t0\n")
    });
    let mut client = Client::connect(postern.smtp, "EHLO load.test").unwrap();
    let answer = client
        .mail("ann@peer.test", &address, &mail("1@load.test"))
        .unwrap();
    assert!(answer.starts_with("451"), "{answer}");
    // The second sync would succeed, but the data of the first one is lost: no 250 may follow.
    for _ in 0..3 {
        let answer = Client::connect(postern.smtp, "EHLO load.test")
            .and_then(|mut client| client.mail("ann@peer.test", &address, &mail("2@load.test")));
        assert!(
            !answer
                .as_ref()
                .is_some_and(|answer| answer.starts_with("250")),
            "{answer:?}"
        );
    }
    let _ = tracer.kill();
    tracer.wait().unwrap();
}

#[test]
fn no_address_stops_the_next_start() {
    // The lower-cased domain is longer than a label may be.
    let domain = format!("{}.test", "Ⱥ".repeat(31));
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "");
    postern.start();
    let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
    // As the envelope's sender it may be refused; in the header it is parsed in any case.
    let _ = client.say(&format!("MAIL FROM:<a@{domain}> SMTPUTF8"));
    client.say("RSET").unwrap();
    let text = format!("From: a@{domain}\r\nMessage-ID: <1@x.test>\r\n\r\nHello.\r\n");
    let answer = client.mail("ann@peer.test", "postmaster", &text);
    assert!(
        answer.as_ref().is_some_and(|a| a.starts_with("250")),
        "{answer:?}"
    );
    eventually("the message is told", || product.messages().len() == 1);
    postern.kill();
    postern.start();
    postern.stop();
}
