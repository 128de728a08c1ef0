//! An attempt that was interrupted by the end of the worker: the next start sends it again, and logs that.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use postern::outbound::metrics::Metrics;
use postern::outbound::relay::RelayPool;
use postern::outbound::worker::{OutboundSettings, OutboundWorker};
use postern::store::JobState;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::server::{Act, Fake, Step};
use super::{Sending, job, relay, settings, terms, timeouts};
use crate::ask::ask;
use crate::wait::eventually_or;

#[test]
fn interrupted_jobs_are_sent_again_and_logged() {
    let out = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "relay::restart::with_a_log_of_its_own",
        ])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{out:?}");
    let words = "was being sent when the program ended: it will be sent again, perhaps for the second time \
                 job=01010101-0101-0101-0101-010101010101 message_id=<1@mx.test>";
    assert_eq!(log.matches(words).count(), 1, "{log}");
    assert!(log.contains("attempts aborted"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by interrupted_jobs_are_sent_again_and_logged: a process has one log"]
async fn with_a_log_of_its_own() {
    let log = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    log.init();
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::End, 0) => Act::Drip("250 it took its time\r\n".to_owned()),
        _ => Act::Usual,
    });
    let hasty = OutboundSettings {
        grace: Duration::ZERO,
        ..settings()
    };
    let sending = Sending::start(vec![relay(fake.port)], hasty);
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending
        .until("it is under way", |_| fake.heard().len() == 1)
        .await;
    sending.stop.send_replace(true);
    sending.task.await.unwrap();
    let store = sending.store;
    let record = ask(store.job(job(1, "x@y").id)).unwrap();
    assert!(
        record.begun_at.is_some(),
        "nobody knows what became of it: {record:?}"
    );
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let relays = vec![relay(fake.port)];
    let relays = RelayPool::new(relays, terms(timeouts()), Arc::clone(&metrics));
    let worker = OutboundWorker::new(
        store.clone(),
        relays,
        Vec::new().into(),
        settings(),
        metrics,
    );
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(async move { worker.run(stopped).await.unwrap() });
    let is_over = async || store.outbox_ledger().waiting == 0;
    eventually_or("the job is over", is_over, || store.outbox_ledger()).await;
    let record = ask(store.job(job(1, "x@y").id)).unwrap();
    assert_eq!((record.state, record.attempts), (JobState::Sent, 2));
    let heard = fake.heard();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].bytes, heard[1].bytes, "under the same Message-ID");
    stop.send_replace(true);
    task.await.unwrap();
    store.close().await;
}
