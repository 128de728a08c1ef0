//! Measures the store.
//!
//! `store_speed accept FOLDER CALLERS COUNT BYTES` accepts COUNT mails from CALLERS tasks; `store_speed
//! settle FOLDER CALLERS COUNT BYTES` settles each too, with mapping and link; `store_speed map FOLDER
//! COUNT` records COUNT mappings with a link each; `store_speed enqueue FOLDER CALLERS COUNT BYTES`
//! enqueues COUNT jobs, and `send` ends each too; `store_speed open FOLDER COUNT` opens the store and looks
//! up the mappings that `map` recorded, in no order. Each prints its duration.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use postern::clock::Timestamp;
use postern::mail::address::Address;
use postern::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use postern::mail::fingerprint::Fingerprint;
use postern::mail::job_id::JobId;
use postern::mail::token::ThreadKey;
use postern::store::{
    DeliveryId, DeliveryOutcome, Fact, Job, JobOutcome, MailId, Mapping, Settings, Store, Work,
};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> usize {
        let text = arguments.get(at).expect("a number");
        text.parse().expect("a number")
    };
    let folder = PathBuf::from(arguments.get(1).expect("a folder"));
    let begun = Instant::now();
    let store = Store::open(Settings::new(folder.clone()), NOW).expect("the store opens");
    println!("opened in {:?}", begun.elapsed());
    let settles = arguments[0] == "settle";
    match arguments[0].as_str() {
        "accept" | "settle" => mails(&store, number(2), number(3), number(4), settles).await,
        "enqueue" | "send" => {
            let sends = arguments[0] == "send";
            jobs(&store, [number(2), number(3), number(4)], sends).await;
        }
        "map" => map(&store, number(2)).await,
        _ => ask(&store, number(2)).await,
    }
    println!("ledger {:?}, {:?}", store.ledger(), store.outbox_ledger());
    let begun = Instant::now();
    store.close().await;
    println!("closed in {:?}", begun.elapsed());
    for part in ["journal", "index"] {
        println!(
            "{part}: {} MiB on disk",
            disk_bytes(&folder.join(part)) >> 20
        );
    }
    println!("peak memory: {}", status("VmHWM"));
}

async fn mails(store: &Store, callers: usize, count: usize, bytes: usize, settles: bool) {
    let next = Arc::new(AtomicUsize::new(0));
    let mail = Bytes::from(vec![b'x'; bytes]);
    let (begun, cpu) = (Instant::now(), cpu_ticks());
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (store, next, mail) = (store.clone(), Arc::clone(&next), mail.clone());
        tasks.push(tokio::spawn(async move {
            let mut waits = Vec::new();
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= count {
                    return waits;
                }
                let begun = Instant::now();
                let id = store.accept(envelope(), mail.clone()).await;
                waits.push(begun.elapsed());
                let id = id.expect("the mail is accepted");
                if settles {
                    let facts = vec![Fact::Mapped(mapping(nth)), link(nth), settled(id, nth)];
                    store.record(facts).await.expect("the facts are recorded");
                }
            }
        }));
    }
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("no panic"));
    }
    report(count, begun, cpu);
    waits.sort_unstable();
    println!(
        "accept: median {:?}, 99 % {:?}, longest {:?}",
        waits[count / 2],
        waits[count * 99 / 100],
        waits[count - 1]
    );
}

async fn jobs(store: &Store, [callers, count, bytes]: [usize; 3], sends: bool) {
    let next = Arc::new(AtomicUsize::new(0));
    let mail = Bytes::from(vec![b'x'; bytes]);
    let (begun, cpu) = (Instant::now(), cpu_ticks());
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (store, next, mail) = (store.clone(), Arc::clone(&next), mail.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= count {
                    return;
                }
                let job = job(nth);
                let id = job.id;
                let taken = store.enqueue(job, mail.clone(), Vec::new()).await;
                taken.expect("the job is taken");
                if sends {
                    let outcome = JobOutcome::Sent {
                        relay: "relay.example:25".to_owned(),
                        reply: "250 2.0.0 Ok".to_owned(),
                    };
                    let (job, at) = (id, NOW);
                    let begun = store.record(vec![Fact::Begun { job, at }]).await;
                    begun.expect("the fact is recorded");
                    let ended = store.record(vec![Fact::Ended { job, outcome, at }]).await;
                    ended.expect("the fact is recorded");
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    report(count, begun, cpu);
    let begun = Instant::now();
    let claim = store.claim(Work::Jobs).await.expect("the store answers");
    let due = store.due_jobs(&claim, NOW, 100).await;
    let due = due.expect("the store answers").len();
    let listed = store.jobs(None, None, 100).await;
    let listed = listed.expect("the store answers").len();
    println!("{due} due and {listed} listed in {:?}", begun.elapsed());
}

fn job(n: usize) -> Job {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    Job {
        id: JobId(id),
        route: "default".to_owned(),
        thread_id: Some(format!("thread-{n}")),
        product_message_id: Some(format!("message-{n}")),
        message_id: format!("<id-{n}@inbox.example>"),
        recipient: Address::parse("ann@peer.example").expect("an address"),
        return_path: None,
        subject: format!("a subject about {n}"),
        key: id,
        second_key: None,
        content: id,
        made_at: NOW,
        ends_at: NOW,
    }
}

async fn map(store: &Store, count: usize) {
    const ONCE: usize = 50;
    let (begun, cpu) = (Instant::now(), cpu_ticks());
    for first in (0..count).step_by(ONCE) {
        let facts = (first..first + ONCE).flat_map(|n| [Fact::Mapped(mapping(n)), link(n)]);
        store
            .record(facts.collect())
            .await
            .expect("the facts are recorded");
    }
    report(count, begun, cpu);
}

async fn ask(store: &Store, count: usize) {
    const QUESTIONS: usize = 100_000;
    let begun = Instant::now();
    let mut found = 0;
    for n in 0..QUESTIONS {
        let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count.max(1);
        let key = ThreadKey::of(&format!("thread-{n}"));
        let thread = store.thread("default", key).await;
        found += usize::from(thread.expect("the store answers").is_some());
    }
    println!(
        "{found} of {QUESTIONS} threads found in {:?}",
        begun.elapsed()
    );
    println!("memory: {}", status("VmRSS"));
}

fn report(count: usize, begun: Instant, cpu: u64) {
    let seconds = begun.elapsed().as_secs_f64();
    let ticks = cpu_ticks() - cpu;
    println!(
        "{count} in {seconds:.2} s: {} a second, {} µs CPU each",
        (count as f64 / seconds).round(),
        ticks * 10_000 / count as u64
    );
}

/// CPU time of this process in hundredths of a second (proc_pid_stat(5), fields 14 and 15).
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = stat.rsplit(')').next().expect("a name in brackets");
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}

fn status(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|l| l.starts_with(name));
    line.unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .collect()
}

fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).expect("a folder");
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let meta = entry.metadata().expect("an entry");
        if meta.is_dir() {
            disk_bytes(&entry.path())
        } else {
            meta.blocks() * 512
        }
    };
    entries.map(size).sum()
}

fn envelope() -> Envelope {
    Envelope {
        sender: Address::parse("ann@peer.example").ok(),
        sender_untold: false,
        recipients: vec![Recipient {
            address: Address::parse("business@inbox.example").expect("an address"),
            route: "default".to_owned(),
            target: RecipientTarget::Mailbox("business".to_owned()),
        }],
        peer: Peer {
            door: Door::Smtp,
            ip: Some([192, 0, 2, 1].into()),
            helo: "peer.example".to_owned(),
            tls: None,
        },
        received_at: NOW,
        smtputf8: false,
        told: None,
        verdict: None,
    }
}

fn mapping(n: usize) -> Mapping {
    Mapping {
        thread_id: format!("thread-{n}"),
        route: "default".to_owned(),
        participant: Address::parse(&format!("person{n}@peer.example")).ok(),
        subject: format!("a subject about {n}"),
        title: None,
        mailbox: Some("business".to_owned()),
        priority: None,
        last_message_id: Some(format!("id-{n}@peer.example")),
        references: vec![format!("id-{n}@peer.example")],
        images: Vec::new(),
        made_at: NOW,
        changed_at: NOW,
    }
}

fn link(n: usize) -> Fact {
    Fact::Linked {
        route: "default".to_owned(),
        message_id: format!("id-{n}@peer.example"),
        thread_id: format!("thread-{n}"),
        sent_by_us: false,
        at: NOW,
    }
}

fn settled(mail: MailId, n: usize) -> Fact {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    Fact::Settled {
        delivery: DeliveryId { mail, recipient: 0 },
        outcome: DeliveryOutcome::Delivered {
            thread_id: format!("thread-{n}"),
            message_id: format!("message-{n}"),
        },
        fingerprint: Some(Fingerprint(bytes)),
        at: NOW,
    }
}
