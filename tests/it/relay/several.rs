//! Several relays of which one refuses: which one is used next, which refusals are final, and which relay
//! is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern::outbound::relay::settings::RelayPoolSettings;
use postern::retry::SendSchedule;
use postern::store::{EventKind, JobState};
use tempfile::TempDir;

use super::server::{Act, Fake, Step};
use super::{Sending, job, relay, settings, terms, timeouts};

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

/// A relay that always sends this reply at this step.
fn refusing(step: Step, words: &'static str) -> Fake {
    Fake::start(move |now, _| match now == step {
        true => say(words),
        false => Act::Usual,
    })
}

fn good() -> Fake {
    Fake::start(|_, _| Act::Usual)
}

/// The number of times that a relay received a command.
fn count(fake: &Fake, command: &str) -> usize {
    let lines = fake.lines();
    lines
        .iter()
        .filter(|line| line.starts_with(command))
        .count()
}

/// A worker for which a failed relay is left alone for the whole test.
fn patient(relays: &[&Fake]) -> Sending {
    let wait = Duration::from_secs(300);
    let patience = SendSchedule {
        wait_first: wait,
        wait_max: wait,
        retries_max: None,
    };
    let terms = RelayPoolSettings {
        schedule: patience,
        ..terms(timeouts())
    };
    let list = relays.iter().map(|fake| relay(fake.port)).collect();
    Sending::start_with(TempDir::new().unwrap(), list, terms, settings(), Vec::new())
}

fn hasty(relays: &[&Fake]) -> Sending {
    let list = relays.iter().map(|fake| relay(fake.port)).collect();
    Sending::start(list, settings())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_moves_to_the_next_relay() {
    for (step, words) in [
        (Step::Mail, "451 4.3.0 queue full\r\n"),
        (Step::Mail, "550 5.7.1 not allowed to send\r\n"),
        (Step::Rcpt, "451 4.7.1 greylisted\r\n"),
        (Step::Data, "451 4.3.0 no\r\n"),
        (Step::End, "452 4.3.1 no room\r\n"),
        (Step::End, "421 4.3.2 going down\r\n"),
    ] {
        let (bad, good) = (refusing(step, words), good());
        let sending = hasty(&[&bad, &good]);
        sending.enqueue(&job(1, "ann@example.com")).await;
        sending.over().await;
        let record = sending.record(1);
        assert_eq!(record.state, JobState::Sent, "{step:?} {words}");
        assert_eq!((record.attempts, record.doubts), (1, 0), "{step:?} {words}");
        let label = relay(good.port).label();
        assert_eq!(record.history[0].relay, Some(label), "{step:?} {words}");
        assert_eq!(count(&bad, "MAIL"), 1, "{step:?} {words}");
        assert_eq!((bad.taken().len(), good.taken().len()), (0, 1));
        sending.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_refusal_of_recipient_or_mail_is_final() {
    for (step, words) in [
        (Step::Rcpt, "550 5.1.1 no such user\r\n"),
        (Step::Data, "554 5.7.1 no\r\n"),
        (Step::End, "554 5.7.1 spam\r\n"),
    ] {
        let (bad, good) = (refusing(step, words), good());
        let sending = hasty(&[&bad, &good]);
        sending.enqueue(&job(1, "ann@example.com")).await;
        sending.over().await;
        let reason = words.trim_end().to_owned();
        assert_eq!(sending.record(1).state, JobState::Failed { reason });
        assert_eq!(good.connections(), 0, "{step:?}");
        sending.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_waits_while_a_relay_may_take_it_yet() {
    // The second refuses temporarily once, or does not greet.
    for (step, words) in [
        (Step::Mail, "451 4.3.0 queue full\r\n"),
        (Step::Rcpt, "451 4.7.1 greylisted\r\n"),
        (Step::Greeting, "554 not you\r\n"),
    ] {
        let first = refusing(Step::Mail, "550 5.7.1 not allowed to send\r\n");
        let second = Fake::start(move |now, count| match (now == step, count) {
            (true, 0) => say(words),
            _ => Act::Usual,
        });
        let sending = hasty(&[&first, &second]);
        sending.enqueue(&job(1, "ann@example.com")).await;
        sending.over().await;
        let record = sending.record(1);
        assert_eq!(record.state, JobState::Sent, "{step:?}: {record:#?}");
        // All tried relays are named, each with its reply.
        let (what, reply) = (&record.history[0].what, &record.history[0].reply);
        assert_eq!(what, "deferred", "{step:?}");
        let (one, other) = (relay(first.port).label(), relay(second.port).label());
        let begins = format!("{one}: 550 5.7.1 not allowed to send; {other}: ");
        assert!(reply.starts_with(&begins), "{reply}");
        assert!(reply.ends_with(words.trim_end()), "{reply}");
        sending.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_every_relay_refuses_fails_the_job() {
    let first = refusing(Step::Mail, "550 5.7.1 not allowed to send\r\n");
    let second = refusing(Step::Mail, "553 5.1.8 nor here\r\n");
    let sending = hasty(&[&first, &second]);
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let (one, other) = (relay(first.port).label(), relay(second.port).label());
    let reason = format!("{one}: 550 5.7.1 not allowed to send; {other}: 553 5.1.8 nor here");
    let record = sending.record(1);
    assert_eq!(record.state, JobState::Failed { reason });
    assert_eq!(record.attempts, 1);
    let kinds: Vec<_> = sending.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::OutboundFailed]);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_at_the_next_relay_is_a_doubt() {
    let first = refusing(Step::End, "451 4.3.0 write error\r\n");
    let second = Fake::start(|step, count| match (step, count) {
        (Step::End, 0) => Act::Close,
        _ => Act::Usual,
    });
    let third = good();
    let sending = hasty(&[&first, &second, &third]);
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let record = sending.record(1);
    assert_eq!(record.state, JobState::Sent);
    assert_eq!((record.attempts, record.doubts), (2, 1));
    assert_eq!(third.connections(), 0);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_refuses_consecutive_mails_is_left_alone() {
    for (step, words) in [
        (Step::Mail, "451 4.3.0 queue full\r\n"),
        (Step::Mail, "550 5.7.1 not allowed to send\r\n"),
        (Step::Data, "451 4.3.0 no\r\n"),
        (Step::End, "451 4.3.0 write error\r\n"),
    ] {
        let (bad, good) = (refusing(step, words), good());
        let sending = patient(&[&bad, &good]);
        for n in 1..=8 {
            let is_up = sending.is_up(&relay(bad.port));
            assert_eq!(is_up, n <= 5, "{step:?} {words} {n}");
            sending.enqueue(&job(n, "ann@example.com")).await;
            sending.over().await;
            assert_eq!(sending.record(n).state, JobState::Sent);
        }
        assert_eq!(count(&bad, "MAIL"), 5, "{step:?} {words}");
        assert_eq!(good.taken().len(), 8, "{step:?} {words}");
        assert!(sending.is_up(&relay(good.port)));
        sending.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_recipients_and_accepted_mails_between_keep_a_relay_in_use() {
    let greylisting = refusing(Step::Rcpt, "451 4.7.1 greylisted\r\n");
    // Four of five in a row.
    let moody = Fake::start(|step, count| match (step, count % 5) {
        (Step::Mail, 0..4) => say("451 4.3.0 queue full\r\n"),
        _ => Act::Usual,
    });
    for bad in [greylisting, moody] {
        let good = good();
        let sending = patient(&[&bad, &good]);
        for n in 1..=12 {
            sending.enqueue(&job(n, "ann@example.com")).await;
            sending.over().await;
            assert_eq!(sending.record(n).state, JobState::Sent);
            assert!(sending.is_up(&relay(bad.port)), "{n}");
        }
        assert_eq!(count(&bad, "MAIL"), 12);
        sending.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_left_alone_is_tested_and_used_again() {
    let is_well = Arc::new(AtomicBool::new(false));
    let heals = Arc::clone(&is_well);
    let bad = Fake::start(move |step, _| match step {
        Step::Mail if !heals.load(Ordering::Relaxed) => say("451 4.3.0 queue full\r\n"),
        _ => Act::Usual,
    });
    let good = good();
    let sending = hasty(&[&bad, &good]);
    let mut n = 0;
    // One more refusal, by the test of the relay, keeps it out of use.
    while count(&bad, "MAIL") < 6 {
        n += 1;
        sending.enqueue(&job(n, "ann@example.com")).await;
        sending.over().await;
        assert_eq!(sending.record(n).state, JobState::Sent);
        assert!(n < 250, "never asked again");
        if n > 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(!sending.is_up(&relay(bad.port)));
    is_well.store(true, Ordering::Relaxed);
    while bad.taken().is_empty() {
        n += 1;
        sending.enqueue(&job(n, "ann@example.com")).await;
        sending.over().await;
        assert!(n < 250, "never asked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sending.is_up(&relay(bad.port)));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_available_relay_stays_in_use() {
    let bad = refusing(Step::Mail, "451 4.3.0 queue full\r\n");
    let (_held, closed) = super::closed();
    let list = vec![relay(closed), relay(bad.port)];
    let quick = SendSchedule {
        retries_max: Some(8),
        wait_max: Duration::from_millis(50),
        ..settings().schedule
    };
    let settings = super::OutboundSettings {
        schedule: quick,
        ..settings()
    };
    let terms = RelayPoolSettings {
        schedule: SendSchedule {
            retries_max: None,
            wait_first: Duration::from_secs(300),
            wait_max: Duration::from_secs(300),
        },
        ..terms(timeouts())
    };
    let folder = TempDir::new().unwrap();
    let sending = Sending::start_with(folder, list, terms, settings, Vec::new());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    assert_eq!(count(&bad, "MAIL"), 9);
    assert!(sending.is_up(&relay(bad.port)));
    assert!(!sending.is_up(&relay(closed)));
    sending.stop().await;
}
