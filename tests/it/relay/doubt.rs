//! A relay that does not reply to the end of a mail: the recipient gets a few copies at most.

use std::time::Duration;

use postern::clock;
use postern::store::{EventKind, Fact, JobState};

use super::server::{Act, Fake, Step};
use super::{Sending, job, relay, settings};
use crate::ask::wait;

const IN_DOUBT: &str = "in doubt, it may have arrived: ";

fn reason(sending: &Sending) -> String {
    match sending.record(1).state {
        JobState::Failed { reason } => reason,
        state => panic!("{state:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_never_answers_the_end_gets_three_copies_and_a_person_decides() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::End, 0..3) => Act::Close,
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let job = job(1, "ann@example.com");
    sending.enqueue(&job).await;
    sending.over().await;
    let told = reason(&sending);
    let words = format!("{IN_DOUBT}no reply to its end, 3 times: the answer to the mail: ");
    assert!(told.starts_with(&words), "{told}");
    assert_eq!(fake.heard().len(), 3);
    let events = sending.events();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let deferred = EventKind::OutboundDeferred;
    assert_eq!(kinds, [deferred, deferred, EventKind::OutboundFailed]);
    assert!(events.iter().all(|event| event.data["inDoubt"] == true));
    assert_eq!(events[2].data["reason"], told);
    let record = sending.record(1);
    assert_eq!((record.attempts, record.doubts), (3, 2));
    // The job is kept with its mail, and the doubts are reset when a person retries it.
    assert!(wait(sending.store.job_mail(job.id)).is_ok());
    let at = clock::now();
    let retried = Fact::Retried {
        job: job.id,
        at,
        ends_at: at.plus(Duration::from_secs(60)),
    };
    sending.store.record(vec![retried]).await.unwrap();
    sending.over().await;
    let record = sending.record(1);
    assert_eq!((record.state, record.doubts), (JobState::Sent, 0));
    let heard = fake.heard();
    assert!(heard.iter().all(|mail| mail.bytes == heard[0].bytes));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_is_not_forgotten_when_a_later_attempt_is_refused() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::End, 0) => Act::Reset,
        (Step::Rcpt, 1) => Act::Say("451 4.7.1 later\r\n".to_owned()),
        (Step::Rcpt, 2) => Act::Say("550 5.1.1 no such user\r\n".to_owned()),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    assert_eq!(
        reason(&sending),
        format!("{IN_DOUBT}550 5.1.1 no such user")
    );
    let events = sending.events();
    assert!(events.iter().all(|event| event.data["inDoubt"] == true));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_end_leaves_no_doubt() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0..5) => Act::Close,
        (Step::Rcpt, 5) => Act::Say("550 5.1.1 no such user\r\n".to_owned()),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    assert_eq!(reason(&sending), "550 5.1.1 no such user");
    let events = sending.events();
    assert_eq!(events.len(), 6);
    assert!(events.iter().all(|event| event.data["inDoubt"] == false));
    sending.stop().await;
}
