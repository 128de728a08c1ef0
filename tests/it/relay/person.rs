//! Retries and cancellations by a person of waiting jobs, while the worker sends them.

use std::collections::BTreeMap;
use std::time::Duration;

use postern::mail::job_id::JobId;
use postern::outbound::worker::OutboundSettings;
use postern::queue::QueueError;
use postern::retry::SendSchedule;
use postern::store::{JobState, JobStateKind};

use super::server::{Act, Fake, Step};
use super::{Sending, job, relay, settings};
use crate::ask::ask;

/// Longer than any test runs.
fn hours() -> OutboundSettings {
    OutboundSettings {
        schedule: SendSchedule {
            wait_first: Duration::from_secs(3_600),
            wait_max: Duration::from_secs(7_200),
            retries_max: None,
        },
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_of_a_job_ends_at_once() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0) => Act::Say("451 4.7.1 greylisted\r\n".to_owned()),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], hours());
    let queue = sending.queue();
    let mut all = Vec::new();
    for n in 1..=3 {
        let mut job = job(n, "ann@example.com");
        job.thread_id = Some("thread".to_owned());
        sending.enqueue(&job).await;
        all.push(job.id);
    }
    sending
        .until("the first is put off", |store| {
            let record = ask(store.job(all[0])).unwrap();
            record.history.len() == 1
        })
        .await;
    for behind in &all[1..] {
        assert_eq!(
            queue.find(*behind).await.unwrap().waits_behind,
            Some(all[0])
        );
        let refused = queue.retry(*behind).await;
        let why = format!("it waits behind job {}: retry or cancel that one", all[0]);
        assert!(matches!(refused, Err(QueueError::WrongState(told)) if told == why));
    }
    let retried = queue.retry(all[0]).await.unwrap();
    assert_eq!(retried.waits_behind, None);
    sending.over().await;
    let taken = fake.taken();
    let taken: Vec<_> = taken.iter().map(|mail| mail.text()).collect();
    assert_eq!(taken.len(), 3);
    for (n, text) in (1..).zip(&taken) {
        assert!(
            text.contains(&format!("Message-ID: <{n}@mx.test>")),
            "{text}"
        );
    }
    let record = sending.record(1);
    let words: Vec<_> = record.history.iter().map(|trial| &trial.what).collect();
    assert_eq!(words, ["deferred", "retried", "sent"]);
    let again = queue.retry(all[0]).await;
    assert!(
        matches!(again, Err(QueueError::WrongState(_))),
        "it is sent"
    );
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_either_cancelled_or_sent() {
    const JOBS: u8 = 120;
    let fake = Fake::start(|step, count| match step {
        Step::Rcpt if count % 3 == 0 => Act::Say("451 4.7.1 later\r\n".to_owned()),
        _ => Act::Usual,
    });
    let sending = Sending::start(vec![relay(fake.port)], settings());
    for n in 1..=JOBS {
        sending
            .enqueue(&job(n, &format!("ann@d{}.example", n % 9)))
            .await;
    }
    let mut people = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let queue = sending.queue();
        people.spawn(async move {
            loop {
                let waiting = queue
                    .list(Some(JobStateKind::Waiting), None, 200)
                    .await
                    .unwrap();
                let count = u32::try_from(waiting.len()).unwrap();
                if count == 0 {
                    return;
                }
                let number = getrandom::u32().unwrap();
                let id = waiting[(number / 8 % count) as usize].record.job.id;
                let result = match number % 8 {
                    0 => queue.cancel(id).await,
                    _ => queue.retry(id).await,
                };
                if let Err(QueueError::Store(error)) = result {
                    panic!("{error}");
                }
            }
        });
    }
    people.join_all().await;
    sending.over().await;
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for mail in fake.taken() {
        let text = mail.text();
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("Message-ID: "));
        *taken.entry(id.unwrap().to_owned()).or_default() += 1;
    }
    for n in 1..=JOBS {
        // The blocking call would use up the budget of the task.
        let record = sending.store.job(JobId([n; 16])).await.unwrap().unwrap();
        let times = taken.get(&record.job.message_id).copied().unwrap_or(0);
        match record.state {
            JobState::Sent => assert_eq!(times, 1, "{record:#?}"),
            JobState::Cancelled => assert_eq!(times, 0, "{record:#?}"),
            state => panic!("{state:?}"),
        }
    }
    sending.stop().await;
}
