//! The worker of the outbox: each job once, in order, retried or failed, with its events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock;
use postern::mail::job_id::JobId;
use postern::outbound::rate::SendRates;
use postern::outbound::worker::OutboundSettings;
use postern::retry::SendSchedule;
use postern::store::{EventKind, Fact, Job, JobOutcome, JobRecord, JobState, Suppression};

use super::server::{Act, Fake, Step};
use super::{Sending, address, job, mail, relay, settings};
use crate::ask::{ask, wait};

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

fn kinds(sending: &Sending) -> Vec<EventKind> {
    sending.events().iter().map(|event| event.kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_sent_once_with_its_event() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let job = job(1, "ann@example.com");
    sending.enqueue(&job).await;
    sending.over().await;
    let record = sending.record(1);
    assert_eq!((record.state, record.attempts), (JobState::Sent, 1));
    assert_eq!(record.history[0].reply, "250 2.0.0 queued");
    let event = &sending.events()[0];
    assert_eq!(event.kind, EventKind::OutboundSent);
    let data = serde_json::Value::from(event.data.clone());
    assert_eq!(data["jobId"], job.id.to_string());
    assert_eq!(data["messageId"], "message-1");
    assert_eq!(data["emailMessageId"], "1@mx.test");
    assert_eq!(data["recipient"], "ann@example.com");
    assert_eq!(data["reply"], "250 2.0.0 queued");
    assert_eq!(fake.heard().len(), 1);
    assert_eq!(fake.heard()[0].bytes, mail(&job));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_job_is_finally_sent_once() {
    // Greylisted at RCPT, deferred at the end, disconnected, and not greeted.
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0) => say("451 4.7.1 greylisted\r\n"),
        (Step::End, 0) => say("452 4.3.1 no room\r\n"),
        (Step::Mail, 2) => Act::Reset,
        (Step::Greeting, 1) => say("421 4.3.2 later\r\n"),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let record = sending.record(1);
    assert_eq!(record.state, JobState::Sent);
    assert!(record.attempts >= 4, "{record:#?}");
    assert_eq!(fake.taken().len(), 1);
    let said: Vec<_> = record
        .history
        .iter()
        .map(|trial| trial.reply.as_str())
        .collect();
    assert!(said[0].starts_with("451 4.7.1 greylisted"), "{said:?}");
    assert!(said[1].starts_with("452 4.3.1 no room"), "{said:?}");
    let deferred = sending.events();
    assert_eq!(deferred[0].kind, EventKind::OutboundDeferred);
    assert!(
        deferred[0].data["nextAttemptAt"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_path_that_a_relay_repeats_is_redacted() {
    let word = "n6lbt74lqzgqdnbnadhu7sle77lhdlqdrak7y7wdjgmupmayioia";
    let path = format!("bounce+{word}@inbox.test");
    let no = format!("550 5.1.8 <{path}>: Sender address rejected\r\n");
    let fake = Fake::start(move |step, _| match step {
        Step::Mail => say(&no),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let mut job = job(1, "ann@example.com");
    job.return_path = Some(address(&path));
    sending.enqueue(&job).await;
    sending.over().await;
    let reason = "550 5.1.8 <bounce+…@inbox.test>: Sender address rejected".to_owned();
    let record = sending.record(1);
    assert_eq!(record.state, JobState::Failed { reason });
    assert!(!format!("{:?}", record.history).contains(word));
    assert!(!format!("{:?}", sending.events()).contains(word));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_refusal_fails_with_the_relays_reply() {
    let fake = Fake::start(|step, _| match step {
        Step::Rcpt => say("550-5.1.1 no such\r\n550 5.1.1 user\r\n"),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let reason = "550 5.1.1 no such 5.1.1 user".to_owned();
    assert_eq!(sending.record(1).state, JobState::Failed { reason });
    assert_eq!(kinds(&sending), [EventKind::OutboundFailed]);
    assert_eq!(
        sending.events()[0].data["reason"],
        "550 5.1.1 no such 5.1.1 user"
    );
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_may_have_arrived_is_sent_again_with_the_same_message_id() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::End, 0) => Act::Reset,
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let heard = fake.heard();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].bytes, heard[1].bytes);
    assert!(heard[0].text().contains("Message-ID: <1@mx.test>\r\n"));
    let record = sending.record(1);
    assert!(
        record.history[0].reply.starts_with("it may have arrived: "),
        "{record:#?}"
    );
    assert_eq!(record.state, JobState::Sent);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_short_classic_tries_three_times_more() {
    let fake = Fake::start(|step, _| match step {
        Step::Rcpt => say("450 later\r\n"),
        _ => Act::Usual,
    });
    let classic = OutboundSettings {
        schedule: SendSchedule {
            retries_max: Some(3),
            ..settings().schedule
        },
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], classic);
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let record = sending.record(1);
    let reason = "no success in 4 attempts: 450 later".to_owned();
    assert_eq!(
        (record.state, record.attempts),
        (JobState::Failed { reason }, 4)
    );
    let deferred = EventKind::OutboundDeferred;
    assert_eq!(
        kinds(&sending),
        [deferred, deferred, deferred, EventKind::OutboundFailed]
    );
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_expires_even_if_no_relay_is_available() {
    let (_held, closed) = super::closed();
    let sending = Sending::start(vec![relay(closed)], settings());
    for n in 1..=5 {
        let mut job = job(n, "ann@example.com");
        job.ends_at = job.made_at.plus(Duration::from_millis(500));
        sending.enqueue(&job).await;
    }
    sending.over().await;
    for n in 1..=5 {
        let state = sending.record(n).state;
        let JobState::Failed { reason } = state else {
            panic!("{state:?}");
        };
        assert!(reason.starts_with("no success in "), "{reason}");
    }
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_comes_back_gets_everything_once() {
    let is_up = Arc::new(Mutex::new(false));
    let up = Arc::clone(&is_up);
    let fake = Fake::start(move |step, _| match step {
        Step::Greeting if !*up.lock().unwrap() => say("554 closed\r\n"),
        _ => Act::Usual,
    });
    let unhurried = OutboundSettings {
        schedule: SendSchedule {
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(4),
            retries_max: None,
        },
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], unhurried);
    for n in 1..=40 {
        sending
            .enqueue(&job(n, &format!("ann@host{n}.example")))
            .await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = fake.connections();
    assert!(tries < 10, "{tries} connections to a relay that wants none");
    *is_up.lock().unwrap() = true;
    sending.over().await;
    assert_eq!(sending.store.outbox_ledger().sent, 40);
    let mut names: Vec<_> = fake.taken().into_iter().map(|mail| mail.to).collect();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), fake.heard().len()), (40, 40));
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_to_one_recipient_of_a_thread_are_sent_in_order() {
    // The first is deferred twice, and no later mail of its thread to the same person overtakes it.
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0 | 1) => say("451 later\r\n"),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    for n in 1..=8 {
        let mut job = job(n, "ann@example.com");
        job.thread_id = Some("thread".to_owned());
        sending.enqueue(&job).await;
    }
    sending.over().await;
    let sent: Vec<_> = fake.taken().iter().map(|mail| mail.text()).collect();
    let wanted = |nth: usize| sent[nth].contains(&format!("Message-ID: <{}@", nth + 1));
    assert!((0..8).all(wanted), "{sent:?}");
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_recipient_does_not_hold_the_others_of_its_thread() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0) => say("451 later\r\n"),
        _ => Act::Usual,
    });
    let unhurried = OutboundSettings {
        schedule: SendSchedule {
            wait_first: Duration::from_secs(600),
            wait_max: Duration::from_secs(600),
            retries_max: None,
        },
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], unhurried);
    let in_thread = |n, to| Job {
        thread_id: Some("thread".to_owned()),
        ..job(n, to)
    };
    sending.enqueue(&in_thread(1, "grey@example.com")).await;
    let is_deferred = |record: JobRecord| !record.history.is_empty();
    sending
        .until("it is put off", |store| {
            ask(store.job(JobId([1; 16]))).is_some_and(is_deferred)
        })
        .await;
    sending.enqueue(&in_thread(2, "other@example.com")).await;
    sending
        .until("the other has its mail", |store| {
            store.outbox_ledger().sent == 1
        })
        .await;
    let to: Vec<_> = fake.taken().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, ["RCPT TO:<other@example.com>"]);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_in_all_and_to_one_domain() {
    let fake = Fake::start(|step, _| match step {
        Step::End => Act::Drip("250 ok\r\n".to_owned()),
        _ => Act::Usual,
    });
    let two = OutboundSettings {
        connections: 3,
        domain_connections: 2,
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], two);
    for n in 1..=6 {
        sending.enqueue(&job(n, "ann@one.example")).await;
    }
    sending.over().await;
    assert_eq!(fake.most_open(), 2);
    for n in 7..=12 {
        sending
            .enqueue(&job(n, &format!("ann@host{n}.example")))
            .await;
    }
    sending.over().await;
    assert_eq!(fake.most_open(), 3);
    assert_eq!(fake.taken().len(), 12);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limits_one_domain_and_not_another() {
    let fake = Fake::start(|_, _| Act::Usual);
    let slow = OutboundSettings {
        rates: SendRates {
            all: 1_000,
            domain: 1,
        },
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], slow);
    for n in 1..=4 {
        sending.enqueue(&job(n, "ann@slow.example")).await;
    }
    sending.enqueue(&job(5, "ann@other.example")).await;
    sending.over().await;
    let to: Vec<_> = fake.taken().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to.len(), 5);
    let other = to.iter().position(|to| to.contains("other")).unwrap();
    assert!(other < 4, "it did not wait behind the slow ones: {to:?}");
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_our_own_domains_nor_to_suppressed_addresses() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let now = clock::now();
    let suppression = |name: &str, bounces, until| {
        Fact::Suppressed(Suppression {
            address: format!("{name}@example.com"),
            reason: "550 no such user".to_owned(),
            job: None,
            bounces,
            at: now,
            until,
        })
    };
    let later = now.plus(Duration::from_secs(3_600));
    let facts = vec![
        suppression("twice", 2, later),
        suppression("once", 1, later),
        suppression("byhand", 0, later),
        suppression("over", 2, now),
    ];
    sending.store.record(facts).await.unwrap();
    let names = ["Twice", "once", "byhand", "over"];
    for (n, name) in (1..).zip(names) {
        sending
            .enqueue(&job(n, &format!("{name}@example.com")))
            .await;
    }
    sending.enqueue(&job(5, "reply+token@INBOX.test")).await;
    sending.over().await;
    let states: Vec<_> = (1..=5).map(|n| sending.record(n).state).collect();
    for (at, words) in [
        (0, "suppressed until "),
        (2, "suppressed until "),
        (4, "556 5.1.10 "),
    ] {
        let JobState::Failed { reason } = &states[at] else {
            panic!("{states:#?}");
        };
        assert!(reason.starts_with(words), "{reason}");
    }
    assert_eq!((&states[1], &states[3]), (&JobState::Sent, &JobState::Sent));
    assert_eq!(fake.heard().len(), 2);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_jobs_are_not_sent() {
    let capture = OutboundSettings {
        capture: true,
        ..settings()
    };
    let sending = Sending::start(Vec::new(), capture);
    for n in 1..=20 {
        sending.enqueue(&job(n, "ann@example.com")).await;
    }
    sending.over().await;
    assert_eq!(sending.store.outbox_ledger().captured, 20);
    assert_eq!(sending.record(7).state, JobState::Captured);
    assert!(wait(sending.store.job_mail(job(7, "x@y").id)).is_ok());
    assert!(sending.events().is_empty());
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_not_canonical_stays_here() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let job = job(1, "ann@example.com");
    let smuggled = "Subject: x\r\n\r\na\n.\r\nMAIL FROM:<eve@example.com>\r\n";
    let taken = sending.store.enqueue(job, smuggled.into(), Vec::new());
    taken.await.unwrap();
    sending.over().await;
    let reason = "internal: a bare CR or LF at octet 15".to_owned();
    assert_eq!(sending.record(1).state, JobState::Failed { reason });
    assert!(fake.heard().is_empty());
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_hold_mail_for_a_year() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], settings());
    // The due time of a clock that was a year ahead.
    let mut job = job(1, "ann@example.com");
    job.made_at = job.made_at.plus(Duration::from_secs(365 * 86_400));
    job.ends_at = job.made_at.plus(Duration::from_secs(86_400));
    sending.enqueue(&job).await;
    sending.over().await;
    assert_eq!(sending.record(1).state, JobState::Sent);
    sending.stop().await;
    // A job of a clock that was a year behind has one attempt before it expires.
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let mut job = super::job(2, "ann@example.com");
    job.made_at = clock::now().minus(Duration::from_secs(365 * 86_400));
    job.ends_at = job.made_at.plus(Duration::from_secs(86_400));
    sending.enqueue(&job).await;
    sending.over().await;
    assert_eq!(sending.record(2).state, JobState::Sent);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_running_attempt_end() {
    let fake = Fake::start(|step, _| match step {
        Step::End => Act::Drip("250 took its time\r\n".to_owned()),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending
        .until("it is under way", |_| fake.heard().len() == 1)
        .await;
    let store = sending.store.clone();
    sending.stop.send_replace(true);
    sending.task.await.unwrap();
    let state = ask(store.job(job(1, "x@y").id)).unwrap().state;
    assert_eq!(state, JobState::Sent);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cancels_a_mail_that_has_not_begun_to_end() {
    let fake = Fake::start(|step, _| match step {
        Step::Data => Act::Hang,
        _ => Act::Usual,
    });
    let hasty = OutboundSettings {
        grace: Duration::ZERO,
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], hasty);
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending
        .until("it is under way", |_| {
            fake.lines().iter().any(|line| line.starts_with("DATA"))
        })
        .await;
    let store = sending.store.clone();
    sending.stop.send_replace(true);
    sending.task.await.unwrap();
    let record = ask(store.job(job(1, "x@y").id)).unwrap();
    assert!(
        matches!(record.state, JobState::Waiting { .. }),
        "{record:?}"
    );
    assert_eq!((record.begun_at, record.doubts), (None, 0), "no doubt");
    store.close().await;
}

/// A person cancels a job while it waits for its next attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_not_sent() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0) => say("451 later\r\n"),
        _ => Act::Usual,
    });
    let slow = OutboundSettings {
        schedule: SendSchedule {
            wait_first: Duration::from_secs(3_600),
            wait_max: Duration::from_secs(3_600),
            retries_max: None,
        },
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], slow);
    sending.enqueue(&job(1, "ann@example.com")).await;
    let id = job(1, "x@y").id;
    let is_put_off = |store: &postern::store::Store| {
        let record = ask(store.job(id)).unwrap();
        record.begun_at.is_none() && record.attempts == 1
    };
    sending.until("it is put off", is_put_off).await;
    let called_back = Fact::Ended {
        job: id,
        outcome: JobOutcome::Cancelled,
        at: clock::now(),
    };
    sending.store.record(vec![called_back]).await.unwrap();
    assert_eq!(sending.record(1).state, JobState::Cancelled);
    sending.enqueue(&job(2, "ann@example.com")).await;
    sending.over().await;
    assert_eq!(fake.taken().len(), 1);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_retry_opens_a_new_connection() {
    let greeted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&greeted);
    // In Postfix too, a running process keeps its initial policy.
    let fake = Fake::start(move |step, _| match step {
        Step::Greeting => {
            count.fetch_add(1, Ordering::SeqCst);
            Act::Usual
        }
        Step::Rcpt if count.load(Ordering::SeqCst) == 1 => say("554 5.7.1 access denied\r\n"),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    let job = job(1, "ann@example.com");
    sending.enqueue(&job).await;
    sending.over().await;
    let reason = "554 5.7.1 access denied".to_owned();
    assert_eq!(sending.record(1).state, JobState::Failed { reason });
    let at = clock::now();
    let retried = Fact::Retried {
        job: job.id,
        at,
        ends_at: at.plus(Duration::from_secs(3600)),
    };
    sending.store.record(vec![retried]).await.unwrap();
    sending.over().await;
    assert_eq!(sending.record(1).state, JobState::Sent);
    assert_eq!(greeted.load(Ordering::SeqCst), 2);
    sending.stop().await;
}
