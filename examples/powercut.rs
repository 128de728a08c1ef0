//! A writer and a checker for a power-cut simulator.
//!
//! `powercut write FOLDER COUNT` does COUNT rounds (accept a mail, map a thread, settle an older mail,
//! enqueue a job, send an older one) and prints `ACK n` when a whole round is durable. `powercut check
//! FOLDER` opens the folder after a cut and prints the number of complete rounds.

#![expect(
    clippy::print_stdout,
    reason = "its output is what the simulator reads"
)]
#![expect(clippy::expect_used, reason = "a failure ends the check")]

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use bytes::Bytes;
use postern::clock::Timestamp;
use postern::mail::address::Address;
use postern::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use postern::mail::fingerprint::Fingerprint;
use postern::mail::job_id::JobId;
use postern::mail::token::ThreadKey;
use postern::store::{
    DeliveryId, DeliveryOutcome, EnqueueResult, Event, EventId, EventKind, Fact, Job, JobOutcome,
    JobState, MailId, Mapping, Settings, Store,
};

/// The number of rounds between the arrival of a mail and its settlement.
const LAG: usize = 10;
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let deed = arguments.next().expect("write or check");
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    // Small segments, so that they are sealed, evacuated, compacted and reused all the time.
    let settings = Settings {
        segment_bytes: 16 << 10,
        free_bytes_min: 0,
        ..Settings::new(folder)
    };
    let store = Store::open(settings, NOW).expect("the store opens");
    match deed.as_str() {
        "write" => {
            let count = arguments.next().and_then(|n| n.parse().ok());
            write(&store, count.expect("a count")).await;
        }
        _ => println!("{}", check(&store).await),
    }
}

async fn write(store: &Store, count: usize) {
    let mut mails: Vec<MailId> = Vec::new();
    for round in 0..count {
        let accepted = store.accept(envelope(round), mail(round)).await;
        mails.push(accepted.expect("the mail is accepted"));
        let mut facts = vec![Fact::Mapped(mapping(round))];
        if let Some(old) = round.checked_sub(LAG) {
            facts.push(settled(mails[old], old));
        }
        if let Some(old) = round.checked_sub(LAG) {
            facts.push(Fact::Ended {
                job: job(old).id,
                outcome: JobOutcome::Captured,
                at: NOW,
            });
            facts.push(event(old));
        }
        store.record(facts).await.expect("the facts are recorded");
        let taken = store.enqueue(job(round), mail(round), Vec::new()).await;
        assert_eq!(taken.expect("the job is taken"), EnqueueResult::New);
        println!("ACK {}", round + 1);
        std::io::stdout().flush().expect("stdout is open");
    }
}

/// The number of complete rounds.
async fn check(store: &Store) -> usize {
    let ledger = store.ledger();
    assert_eq!(
        ledger.received,
        ledger.waiting + ledger.delivered,
        "the ledger adds up"
    );
    let waiting = store.waiting(None, usize::MAX).await;
    for delivery in waiting.expect("the store answers") {
        let round = delivery.envelope.peer.helo.parse();
        let bytes = store
            .mail_bytes(delivery.id.mail)
            .await
            .expect("the mail is there");
        assert_eq!(
            bytes,
            mail(round.expect("a round")),
            "the mail is what was sent"
        );
    }
    let jobs = store.outbox_ledger();
    assert_eq!(
        jobs.taken,
        jobs.waiting + jobs.captured,
        "the outbox adds up"
    );
    let events = store.events_after(EventId::default(), usize::MAX).await;
    let events = events.expect("the store answers");
    assert_eq!(
        events.len() as u64,
        jobs.captured,
        "each end was told, and no other"
    );
    let accepted = usize::try_from(ledger.received).expect("few rounds");
    for round in 0..accepted {
        let thread = store
            .thread("default", ThreadKey::of(&format!("thread-{round}")))
            .await;
        let ended = match round.checked_sub(LAG) {
            Some(old) => {
                let found = store.find_duplicate(fingerprint(old), NOW).await;
                found.expect("the store answers").is_some()
            }
            None => true,
        };
        let thread = thread.expect("the store answers");
        if thread != Some(mapping(round)) || !ended || !is_taken(store, round).await {
            return round;
        }
    }
    accepted
}

/// True if the job of a round exists, under its key and with its mail.
async fn is_taken(store: &Store, round: usize) -> bool {
    let wanted = job(round);
    let found = store.job_by_key(wanted.key).await;
    let Some(found) = found.expect("the store answers") else {
        return false;
    };
    assert_eq!(found.job, wanted, "the job is what was taken");
    if !matches!(found.state, JobState::Waiting { .. } | JobState::Captured) {
        return false;
    }
    let sent = store.job_mail(wanted.id).await;
    let sent = sent.expect("the job's mail is there");
    assert_eq!(sent, mail(round), "the job's mail is what was composed");
    true
}

fn job(round: usize) -> Job {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(round as u64).to_be_bytes());
    Job {
        id: JobId(id),
        route: "default".to_owned(),
        thread_id: Some(format!("thread-{round}")),
        product_message_id: None,
        message_id: format!("<{round}@inbox.example>"),
        recipient: Address::parse("ann@peer.example").expect("an address"),
        return_path: None,
        subject: format!("subject {round}"),
        key: id,
        second_key: None,
        content: id,
        made_at: NOW,
        ends_at: NOW,
    }
}

fn event(round: usize) -> Fact {
    let mut data = serde_json::Map::new();
    data.insert("round".to_owned(), round.into());
    Fact::Happened(Event {
        kind: EventKind::OutboundSent,
        at: NOW,
        thread_id: None,
        data,
    })
}

fn envelope(round: usize) -> Envelope {
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
            ip: Some(IpAddr::from([192, 0, 2, 1])),
            helo: round.to_string(),
            tls: None,
        },
        received_at: NOW,
        smtputf8: false,
        told: None,
        verdict: None,
    }
}

/// Mails of many sizes, some larger than a segment.
fn mail(round: usize) -> Bytes {
    let size = if round.is_multiple_of(17) {
        100_000
    } else {
        500 * (round % 13)
    };
    let byte = u8::try_from(round % 251).expect("below 251");
    vec![byte; size].into()
}

fn mapping(round: usize) -> Mapping {
    Mapping {
        thread_id: format!("thread-{round}"),
        route: "default".to_owned(),
        participant: None,
        subject: format!("subject {round}"),
        title: None,
        mailbox: None,
        priority: None,
        last_message_id: None,
        references: Vec::new(),
        images: Vec::new(),
        made_at: NOW,
        changed_at: NOW,
    }
}

fn settled(mail: MailId, round: usize) -> Fact {
    Fact::Settled {
        delivery: DeliveryId { mail, recipient: 0 },
        outcome: DeliveryOutcome::Delivered {
            thread_id: format!("thread-{round}"),
            message_id: format!("message-{round}"),
        },
        fingerprint: Some(fingerprint(round)),
        at: NOW,
    }
}

fn fingerprint(round: usize) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(round as u64).to_le_bytes());
    Fingerprint(bytes)
}
