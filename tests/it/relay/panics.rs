//! A panic in the middle of an attempt: the job waits for a person, and the others continue.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern::outbound::relay::settings::{RelayPoolSettings, RelayTimeouts};
use postern::store::{EventKind, JobState};
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::server::{Act, Fake};
use super::{Sending, job, relay, settings, terms, timeouts};
use crate::ask::wait;

const REASON: &str = "in doubt, it may have arrived: the attempt panicked";

fn assert_parked(sending: &Sending, n: u8) {
    let record = sending.record(n);
    let reason = REASON.to_owned();
    assert_eq!(record.state, JobState::Failed { reason });
    assert_eq!((record.attempts, record.begun_at), (1, None));
    assert!(wait(sending.store.job_mail(record.job.id)).is_ok());
    let id = record.job.id.to_string();
    let events = sending.events();
    let told: Vec<_> = events.iter().filter(|e| e.data["jobId"] == id).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].kind, EventKind::OutboundFailed);
    assert_eq!(told[0].data["reason"], REASON);
    assert_eq!(told[0].data["inDoubt"], true);
}

/// An attempt may take longer than the clock can represent, at which the sending thread panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_it_is_sent_parks_the_job() {
    let fake = Fake::start(|_, _| Act::Usual);
    let endless = RelayTimeouts {
        attempt: Duration::MAX,
        ..timeouts()
    };
    let (folder, list) = (TempDir::new().unwrap(), vec![relay(fake.port)]);
    let terms: RelayPoolSettings = terms(endless);
    let sending = Sending::start_with(folder, list, terms, settings(), Vec::new());
    for n in 1..=9 {
        sending.enqueue(&job(n, "ann@example.com")).await;
    }
    sending.over().await;
    for n in 1..=9 {
        assert_parked(&sending, n);
    }
    assert_eq!(fake.connections(), 0);
    sending.stop().await;
}

/// A log that panics once, at the first sent mail.
struct Broken(AtomicBool);

struct Message(bool);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == "sent";
    }
}

impl Subscriber for Broken {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(false);
        event.record(&mut message);
        let panics = message.0 && !self.0.swap(true, Ordering::SeqCst);
        assert!(!panics, "the log is broken");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// All tasks run on this thread, which has this log.
#[tokio::test]
async fn a_panic_after_it_was_sent_parks_the_job_and_no_other() {
    let log = tracing::subscriber::set_default(Broken(AtomicBool::new(false)));
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    assert_parked(&sending, 1);
    sending.enqueue(&job(2, "ann@example.com")).await;
    sending.over().await;
    assert_eq!(sending.record(2).state, JobState::Sent);
    assert_eq!(fake.taken().len(), 2);
    sending.stop().await;
    drop(log);
}
