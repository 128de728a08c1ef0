//! Kills the program at any time while jobs are accepted and sent, and counts the mails at the relay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use postern::clock;
use postern::store::{EventId, EventKind, Settings, Store};
use serde_json::Value;

use super::{Gateway, call, event, first};
use crate::postern::Postern;
use crate::relay::server::{Act, Fake, Step};
use crate::wait::drains;

const PRODUCTS: usize = 3;

/// Requests with a 202: the product's message, and its job.
type Taken = BTreeMap<String, String>;

/// A product that requests one mail after the other. It never gives up a request, because one without a
/// response may be in the outbox all the same, and would be an uncounted job.
fn ask(product: usize, port: u16, stop: &AtomicBool, taken: &Mutex<Taken>) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let message = format!("m{product}.{number}");
        let thread = format!("thread-{product}-{}", number % 7);
        let told = match number < 7 {
            true => first(
                &thread,
                &message,
                &format!("ann{product}.{number}@sink.test"),
            ),
            false => event(&thread, &message, "It left us today."),
        };
        let job = loop {
            let (status, answer) = call(port, "POST", "/gateway/events", Some(&message), &told);
            match status {
                202 => break answer["jobId"].as_str().unwrap().to_owned(),
                // The server is down, or stopping.
                0 | 503 => thread::sleep(Duration::from_millis(20)),
                _ => panic!("{status} {answer}"),
            }
        };
        taken.lock().unwrap().insert(message, job);
        number += 1;
    }
}

fn message_id(mail: &[u8]) -> String {
    let text = String::from_utf8_lossy(mail);
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Message-ID: "));
    line.unwrap().trim().to_owned()
}

/// The number of sent events of each job, in the journal.
fn sent_events(postern: &Postern) -> HashMap<String, usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let store = Store::open(Settings::new(postern.data()), clock::now()).unwrap();
        let events = store
            .events_after(EventId::default(), usize::MAX)
            .await
            .unwrap();
        store.close().await;
        let mut told = HashMap::new();
        for (_, event) in events {
            if event.kind == EventKind::OutboundSent {
                let job = event.data["jobId"].as_str().unwrap();
                *told.entry(job.to_owned()).or_default() += 1;
            }
        }
        told
    })
}

/// The jobs that the log reports as possibly sent twice.
fn doubted(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter(|line| {
        line.contains("perhaps for the second time") || line.contains("so it may arrive twice")
    });
    let jobs = lines.filter_map(|line| line.split_once("job=")?.1.split(' ').next());
    jobs.map(str::to_owned).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one run, counted in many ways")]
fn kill_9_loses_no_job_and_repeats_only_logged_ones() {
    let cycles: u64 =
        std::env::var("POSTERN_CRASH_CYCLES").map_or(10, |text| text.parse().unwrap());
    let fake = Fake::start(|step, count| match step {
        // The reply is slow, so that some kills come before it.
        Step::End if count % 5 == 0 => Act::Drip("250 2.0.0 slow\r\n".to_owned()),
        Step::End if count % 17 == 3 => Act::Close,
        Step::Rcpt if count % 11 == 4 => Act::Say("451 4.7.1 greylisted\r\n".to_owned()),
        Step::Mail if count % 23 == 6 => Act::Reset,
        _ => Act::Usual,
    });
    let mut gateway = Gateway::new(fake.port, "").with_known_ports();
    let (stop, taken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(Taken::new())),
    );
    let port = gateway.postern.http;
    let products: Vec<_> = (0..PRODUCTS)
        .map(|product| {
            let (stop, taken) = (Arc::clone(&stop), Arc::clone(&taken));
            thread::spawn(move || ask(product, port, &stop, &taken))
        })
        .collect();
    for _ in 0..cycles {
        gateway.postern.start();
        thread::sleep(Duration::from_millis(20 + getrandom::u64().unwrap() % 600));
        gateway.postern.kill();
    }
    gateway.postern.start();
    stop.store(true, Ordering::SeqCst);
    for product in products {
        product.join().unwrap();
    }
    let taken = taken.lock().unwrap().clone();
    drains("all jobs are over", || outbox(&gateway.postern, "waiting"));
    let (all, sent) = (
        gateway.postern.metric("postern_outbox_taken"),
        outbox(&gateway.postern, "sent"),
    );
    assert_eq!(
        all,
        gateway.postern.metric("postern_outbox_jobs"),
        "the ledger adds up"
    );
    assert_eq!((all, sent), (taken.len() as f64, taken.len() as f64));

    let mut ids: HashMap<String, String> = HashMap::new();
    let mut forgotten = Vec::new();
    for (message, job) in &taken {
        let (status, answer) =
            gateway.call("GET", &format!("/gateway/jobs/{job}"), None, &Value::Null);
        match answer["data"]["emailMessageId"].as_str() {
            Some(id) => drop(ids.insert(id.to_owned(), job.clone())),
            None => forgotten.push((message, job, status)),
        }
    }
    assert!(
        forgotten.is_empty(),
        "{} of {} jobs are not known any more: {forgotten:?}",
        forgotten.len(),
        taken.len()
    );
    gateway.postern.stop();
    let (log, heard) = (gateway.postern.log(), fake.heard());
    let doubted = doubted(&log);
    let mut mails: HashMap<&str, Vec<_>> = HashMap::new();
    for mail in &heard {
        let job = ids.get(&message_id(&mail.bytes));
        let job = job.unwrap_or_else(|| panic!("nobody asked for this: {}", mail.text()));
        mails.entry(job).or_default().push(mail);
    }
    let (mut doubles, told) = (0, sent_events(&gateway.postern));
    for job in taken.values() {
        let mails = mails.get(job.as_str()).map_or(&[][..], Vec::as_slice);
        assert!(mails.iter().any(|mail| mail.taken), "{job} is lost");
        assert!(
            mails.iter().all(|mail| mail.bytes == mails[0].bytes),
            "{job} has two mails"
        );
        if mails.len() > 1 {
            doubles += 1;
            assert!(
                doubted.contains(job),
                "{job} was sent twice, and the log does not say so"
            );
        }
        assert_eq!(told.get(job), Some(&1), "{job}: events that it was sent");
    }
    assert_eq!(told.len(), taken.len());
    println!(
        "{} jobs through {cycles} kills: none lost, {doubles} sent twice, {} named for it",
        taken.len(),
        doubted.len()
    );
    assert!(taken.len() as u64 > cycles, "only {} jobs", taken.len());
}

fn outbox(postern: &Postern, state: &str) -> f64 {
    let (_, text) = postern.fetch("/metrics");
    let name = format!("postern_outbox_jobs{{state=\"{state}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}: {text}"))
        .parse()
        .unwrap()
}
