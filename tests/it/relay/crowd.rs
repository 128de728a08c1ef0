//! Many jobs of one domain must not delay the others.

use postern::clock;
use postern::mail::job_id::JobId;
use postern::outbound::rate::SendRates;
use postern::outbound::worker::OutboundSettings;
use postern::store::{EnqueueResult, Job, JobState};
use tokio::task::JoinSet;

use super::server::{Act, Fake};
use super::{Sending, job, mail, relay, settings};
use crate::ask::ask;

/// The nth of many.
fn one_of_many(n: u32, recipient: &str) -> Job {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    Job {
        id: JobId(id),
        key: id,
        content: id,
        made_at: clock::now(),
        ..job(0, recipient)
    }
}

async fn enqueue_all(sending: &Sending, jobs: Vec<Job>) {
    let mut taken = JoinSet::new();
    for job in jobs {
        let store = sending.store.clone();
        taken.spawn(async move {
            let mail = mail(&job);
            store.enqueue(job, mail, Vec::new()).await
        });
    }
    while let Some(taken) = taken.join_next().await {
        assert_eq!(taken.unwrap(), Ok(EnqueueResult::New));
    }
}

fn paced(all: u32, domain: u32) -> OutboundSettings {
    OutboundSettings {
        rates: SendRates { all, domain },
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_jobs_of_a_slow_domain_hide_no_other() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], paced(1_000, 1));
    let slow = (0..6_000).map(|n| one_of_many(n, "ann@slow.example"));
    enqueue_all(&sending, slow.collect()).await;
    let other = one_of_many(9_999, "bob@other.example");
    let id = other.id;
    enqueue_all(&sending, vec![other]).await;
    sending
        .until("the other is sent", |store| {
            ask(store.job(id)).unwrap().state == JobState::Sent
        })
        .await;
    let left = sending.store.outbox_ledger().waiting;
    assert!(left > 5_800, "it waited behind {} others", 6_000 - left);
    sending.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_of_all_is_shared_by_the_domains() {
    let fake = Fake::start(|_, _| Act::Usual);
    let sending = Sending::start(vec![relay(fake.port)], paced(10, 10));
    let many = (0..60).map(|n| one_of_many(n, "ann@big.example"));
    enqueue_all(&sending, many.collect()).await;
    let few = (0..3).map(|n| one_of_many(100 + n, &format!("bob@small{n}.example")));
    enqueue_all(&sending, few.collect()).await;
    sending.over().await;
    let to: Vec<_> = fake.taken().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to.len(), 63);
    let last = to.iter().rposition(|to| to.contains("small")).unwrap();
    assert!(last < 50, "they waited behind the many: {to:?}");
    sending.stop().await;
}
