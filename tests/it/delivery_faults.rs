//! The worker with failures: of the API in every way, of the key, the clock and the process.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use postern::clock;
use postern::mail::envelope::RecipientTarget;
use postern::mail::token::ThreadKey;
use serde_json::Value;

use crate::bench::{Bench, DAY, THREAD, envelope, mail, mailbox, token};
use crate::fake_api::{Fake, Play};
use crate::postern::{Client, Postern};
use crate::wait::eventually;

#[tokio::test]
async fn each_failure_is_retried_or_parked_with_one_effect() {
    let passing = [
        Play::Drop,
        Play::CommitThenDrop,
        Play::Late(Duration::from_secs(5)),
        Play::Stall,
        Play::Raw(b"nonsense\r\n\r\n".to_vec()),
        Play::Endless(1 << 30),
        Play::Say(200, "", "{}".to_owned()),
        Play::Say(204, "", String::new()),
        Play::Say(408, "", String::new()),
        Play::Say(425, "", String::new()),
        Play::Say(429, "retry-after: -1\r\n", String::new()),
        Play::Say(500, "", String::new()),
        Play::Say(503, "retry-after: 1\r\n", String::new()),
    ];
    for (number, play) in passing.into_iter().enumerate() {
        let mut left = 2;
        let fake = Fake::start(move |seen, _| {
            if seen.call() == "metadata" || left == 0 {
                return Play::Good;
            }
            left -= 1;
            play.clone()
        })
        .await;
        let bench = Bench::start(&fake).await;
        bench.put(mailbox(), &mail(1, "Once.")).await;
        bench.drained().await;
        assert_eq!(
            bench.fates(),
            [1, 0, 0],
            "case {number}: {:?}",
            bench.reasons()
        );
        let keys: HashSet<String> = fake.seen().iter().map(|seen| seen.key.clone()).collect();
        assert_eq!(
            keys.len(),
            3,
            "case {number}: the same key with every attempt"
        );
        bench.stop().await;
    }
    for status in [301, 400, 404, 409, 410, 413, 422] {
        let body = r#"{"success":false,"error":{"message":"not like this"}}"#;
        let fake = Fake::start(move |_, _| Play::Say(status, "", body.to_owned())).await;
        let bench = Bench::start(&fake).await;
        bench.put(token(THREAD), &mail(1, "Never.")).await;
        bench.drained().await;
        assert_eq!(bench.fates(), [0, 1, 0], "{status}");
        assert_eq!(fake.seen().len(), 1, "{status}");
        let reason = bench.reasons().remove(0);
        assert!(
            reason.contains(&format!("{status}: not like this")),
            "{reason}"
        );
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_jumped_harms_nothing() {
    let mut failures = 2;
    let fake = Fake::start(move |_, _| {
        if failures == 0 {
            return Play::Good;
        }
        failures -= 1;
        Play::Say(503, "", String::new())
    })
    .await;
    let bench = Bench::start(&fake).await;
    let tomorrow = envelope(
        Some("ann@example.com"),
        vec![token(THREAD)],
        clock::now().plus(365 * DAY),
    );
    bench
        .store
        .accept(tomorrow, mail(1, "early").into_bytes().into())
        .await
        .unwrap();
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 0]);
    bench.stop().await;
}

#[tokio::test]
async fn a_bad_key_pauses_the_route_and_the_mail_waits() {
    let fake = Fake::start(|_, _| Play::Say(401, "", "who are you".to_owned())).await;
    let bench = Bench::start(&fake).await;
    for n in 0..40 {
        bench
            .put(token(&format!("thread {n}")), &mail(n, "hi"))
            .await;
    }
    bench
        .until("paused", |_| bench.metrics.paused_routes() == ["default"])
        .await;
    let before = fake.seen().len();
    assert!(
        before <= 17,
        "the first ones were under way together, then one probe: {before}"
    );
    assert_eq!(bench.fates(), [0, 0, 0]);
    assert_eq!(bench.store.ledger().waiting, 40);
    fake.replan(|_, _| Play::Good);
    bench.drained().await;
    assert_eq!(bench.fates(), [40, 0, 0]);
    assert!(bench.metrics.paused_routes().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn a_thread_that_is_refused_is_parked_and_does_not_alarm_the_route() {
    let fake = Fake::start(|seen, _| {
        if seen.path.contains(THREAD) {
            let body = r#"{"message":"thread is closed","error":"Forbidden"}"#;
            return Play::Say(403, "", body.to_owned());
        }
        Play::Good
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench.put(token("before"), &mail(0, "fine")).await;
    bench.drained().await;
    bench.put(token(THREAD), &mail(1, "refused")).await;
    bench
        .until("parked", |store| store.ledger().parked == 1)
        .await;
    assert_eq!(bench.reasons(), ["message: 403: thread is closed"]);
    assert!(bench.metrics.paused_routes().is_empty());
    for n in 2..6 {
        bench
            .put(token(&format!("thread {n}")), &mail(n, "fine"))
            .await;
    }
    bench.drained().await;
    assert_eq!(bench.fates(), [5, 1, 0]);
    bench.stop().await;
}

#[tokio::test]
async fn a_403_to_all_pauses_the_route_and_the_mail_waits() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    bench.put(token("before"), &mail(0, "fine")).await;
    bench.drained().await;
    fake.replan(|_, _| Play::Say(403, "", "no such permission".to_owned()));
    for n in 1..9 {
        bench
            .put(token(&format!("thread {n}")), &mail(n, "hi"))
            .await;
    }
    bench
        .until("paused", |_| bench.metrics.paused_routes() == ["default"])
        .await;
    assert_eq!(bench.store.ledger().waiting, 8);
    fake.replan(|_, _| Play::Good);
    bench.drained().await;
    assert_eq!(bench.fates(), [9, 0, 0]);
    bench.stop().await;
}

#[tokio::test]
async fn a_token_of_another_store_is_parked_and_never_posted() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    let RecipientTarget::Thread(mut claims) = token(THREAD) else {
        panic!("not a token");
    };
    // The key of an id that is not a UUID is a hash.
    claims.thread = ThreadKey::of("77");
    bench
        .put(RecipientTarget::Thread(claims), &mail(1, "hi"))
        .await;
    bench.drained().await;
    assert_eq!(bench.fates(), [0, 1, 0]);
    let reason = bench.reasons().remove(0);
    assert!(reason.contains("issued by another store"), "{reason}");
    assert!(fake.seen().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn a_posted_mail_is_never_parked_for_its_metadata() {
    for status in [403, 404, 422] {
        let fake = Fake::start(move |seen, _| match seen.call() {
            "metadata" => Play::Say(status, "", "no".to_owned()),
            _ => Play::Good,
        })
        .await;
        let bench = Bench::start(&fake).await;
        bench.put(mailbox(), &mail(1, "Once.")).await;
        bench.drained().await;
        assert_eq!(bench.fates(), [1, 0, 0], "{status}: {:?}", bench.reasons());
        bench.stop().await;
    }
    // A mail that is older than the retry limit.
    let fake = Fake::start(|seen, _| match seen.call() {
        "metadata" => Play::Say(503, "", "down".to_owned()),
        _ => Play::Good,
    })
    .await;
    let bench = Bench::start(&fake).await;
    let received_at = clock::now().minus(6 * DAY);
    let old = envelope(Some("ann@example.com"), vec![token(THREAD)], received_at);
    let bytes = mail(1, "old").into_bytes().into();
    bench.store.accept(old, bytes).await.unwrap();
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 0], "{:?}", bench.reasons());
    bench.stop().await;
}

/// Each call is interrupted in every way, and the history of its thread changes before it is repeated.
#[tokio::test]
async fn repeated_calls_are_identical_after_kills() {
    for call in ["thread", "message", "metadata"] {
        for held in [Play::HoldThenCommit, Play::CommitThenHold] {
            let (mut used, first) = (false, held.clone());
            let fake = Fake::start(move |seen, _| {
                if seen.call() == call && !std::mem::replace(&mut used, true) {
                    return first.clone();
                }
                Play::Good
            })
            .await;
            let bench = Bench::start(&fake).await;
            // The rules sort it by its subject; in a known thread they would not.
            let claim = mail(1, "Stop it.").replace("Where is my order?", "DMCA takedown");
            bench.put(mailbox(), &claim).await;
            fake.until(call, |seen| seen.iter().any(|seen| seen.call() == call))
                .await;
            let folder = bench.kill().await;
            fake.open();
            let bench = Bench::start_in(folder, &fake, |_| {}).await;
            bench.drained().await;
            assert_eq!(bench.fates(), [1, 0, 0], "{call}: {:?}", bench.reasons());
            let mut bodies: HashMap<String, Value> = HashMap::new();
            for seen in fake.seen() {
                let body = seen.body.clone();
                let known = bodies.entry(seen.key.clone()).or_insert(body);
                assert_eq!(*known, seen.body, "{call}: {}", seen.key);
            }
            assert!(fake.seen().len() > bodies.len(), "{call} was repeated");
            bench.stop().await;
        }
    }
}

#[tokio::test]
async fn a_failing_api_receives_single_probes_until_it_recovers() {
    let fake = Fake::start(|_, _| Play::Drop).await;
    let bench = Bench::start(&fake).await;
    for n in 0..200 {
        bench
            .put(token(&format!("thread {n}")), &mail(n, "hi"))
            .await;
    }
    fake.until("closed", |seen| seen.len() >= 32).await;
    // Running calls end when the circuit opens; then probes come one by one. Without the circuit breaker
    // 200 partitions would all call concurrently, thousands of times.
    fake.most_under_way();
    loop {
        let before = fake.seen().len();
        assert!(before < 1_000, "the calls never become single");
        fake.until("probes", |seen| seen.len() >= before + 2).await;
        if fake.most_under_way() == 1 {
            break;
        }
    }
    let before = fake.seen().len();
    fake.until("more probes", |seen| seen.len() >= before + 3)
        .await;
    // The product may see the next probe before it has forgotten the last one.
    assert!(fake.most_under_way() <= 2);
    fake.replan(|_, _| Play::Good);
    bench.drained().await;
    assert_eq!(bench.fates(), [200, 0, 0]);
    assert_eq!(fake.effects(), [0, 200, 200]);
    bench.stop().await;
}

#[tokio::test]
async fn an_old_mail_is_parked_after_one_more_attempt() {
    let fake = Fake::start(|_, _| Play::Say(503, "", "down".to_owned())).await;
    let bench = Bench::start(&fake).await;
    let old = envelope(
        Some("ann@example.com"),
        vec![token(THREAD)],
        clock::now().minus(6 * DAY),
    );
    bench
        .store
        .accept(old, mail(1, "old").into_bytes().into())
        .await
        .unwrap();
    bench.drained().await;
    assert_eq!(fake.seen().len(), 1);
    let reason = bench.reasons().remove(0);
    assert_eq!(
        reason,
        "no success in 1 attempts and 6 days: message: 503: down"
    );
    bench.stop().await;
}

#[tokio::test]
async fn an_interruption_between_any_steps_has_one_effect() {
    for call in ["thread", "message", "metadata"] {
        for held in [Play::HoldThenCommit, Play::CommitThenHold] {
            let mut used = false;
            let first = held.clone();
            let fake = Fake::start(move |seen, _| {
                if seen.call() == call && !std::mem::replace(&mut used, seen.call() == call) {
                    return first.clone();
                }
                Play::Good
            })
            .await;
            let bench = Bench::start(&fake).await;
            bench.put(mailbox(), &mail(1, "Once.")).await;
            fake.until(call, |seen| seen.iter().any(|seen| seen.call() == call))
                .await;
            let folder = bench.kill().await;
            fake.open();
            let bench = Bench::start_in(folder, &fake, |_| {}).await;
            bench.drained().await;
            assert_eq!(bench.fates(), [1, 0, 0], "{call}: {:?}", bench.reasons());
            assert_eq!(fake.effects(), [1, 1, 1], "{call}");
            let messages = fake.done();
            let path = &messages
                .iter()
                .find(|seen| seen.call() == "message")
                .unwrap()
                .path;
            assert_eq!(path, "/api/v1/messages/threads/thread-1/messages");
            bench.stop().await;
        }
    }
}

#[tokio::test]
async fn a_stop_lets_running_attempts_end() {
    let fake = Fake::start(|_, _| Play::Late(Duration::from_millis(300))).await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(1, "Once.")).await;
    fake.until("under way", |seen| !seen.is_empty()).await;
    let store = bench.store.clone();
    bench.stop.send_replace(true);
    bench.worked.await.unwrap().unwrap();
    assert_eq!(store.ledger().delivered, 1);
}

#[tokio::test]
async fn unfinished_attempts_continue_at_the_next_start() {
    let mut held = false;
    let fake = Fake::start(move |_, _| {
        if std::mem::replace(&mut held, true) {
            return Play::Good;
        }
        Play::CommitThenHold
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(folder, &fake, |settings| settings.grace = Duration::ZERO).await;
    bench.put(token(THREAD), &mail(1, "Once.")).await;
    fake.until("under way", |seen| !seen.is_empty()).await;
    let folder = bench.stop().await;
    let bench = Bench::start_in(folder, &fake, |_| {}).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 0]);
    assert_eq!(fake.effects(), [0, 1, 1]);
    bench.stop().await;
}

#[tokio::test]
async fn one_thread_that_always_fails_does_not_close_the_route() {
    let fake = Fake::start(|seen, _| {
        if seen.path.contains(THREAD) {
            return Play::Say(500, "", "its own trouble".to_owned());
        }
        Play::Good
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(1, "stuck")).await;
    // With an open circuit they would come minutes apart.
    fake.until("more failures than close a route", |seen| seen.len() > 45)
        .await;
    bench.put(token("another"), &mail(2, "fine")).await;
    bench
        .until("the other one", |store| store.ledger().delivered == 1)
        .await;
    bench.stop().await;
}

/// A mail with two lines that may be a reply marker, and with three files of different sizes.
fn mail_with_markers_and_files() -> String {
    let words = "Mine.\r\n--- first marker ---\r\nBelow.\r\n--- second marker ---\r\nLast.\r\n";
    let file = |name: &str, bytes: usize| {
        format!(
            "--part\r\nContent-Type: text/csv\r\n\
             Content-Disposition: attachment; filename={name}\r\n\r\n{}\r\n",
            "x".repeat(bytes)
        )
    };
    format!(
        "From: ann@peer.test\r\nMessage-ID: <changed@peer.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=part\r\n\r\n--part\r\n\r\n{words}\
         {}{}{}--part--\r\n",
        file("small.csv", 10),
        file("middle.csv", 90),
        file("large.csv", 200)
    )
}

/// The reason of each file of a message that is not stored.
fn skipped(message: &Value) -> Vec<Value> {
    let files = message["attachments"].as_array().unwrap().iter();
    files.map(|file| file["skipped"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_the_same_after_the_limits_and_the_marker_changed() {
    let fake = Fake::start(|seen, _| match seen.call() {
        "message" => Play::Say(503, "", "busy".to_owned()),
        _ => Play::Good,
    })
    .await;
    let mut postern = Postern::new(Some(&fake.base()), "[attachments]\nbytes_max = \"100B\"\n");
    let mail = mail_with_markers_and_files();
    let config = postern.config();
    let configure = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
    };
    configure(
        "name = \"test\"\n",
        "name = \"test\"\nreply_marker = \"--- first marker ---\"\n",
    );
    postern.start();
    let to = postern.mint("00000000-0000-4000-8000-000000000001");
    let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
    assert!(
        client
            .mail("ann@peer.test", &to, &mail)
            .unwrap()
            .starts_with("250")
    );
    let messages = || {
        let seen = fake.seen().into_iter();
        seen.filter(|seen| seen.call() == "message")
            .collect::<Vec<_>>()
    };
    eventually("the first attempt", || !messages().is_empty());
    postern.stop();
    let count = messages().len();
    let first = messages().remove(0);
    assert_eq!(
        skipped(&first.body),
        [Value::Null, Value::Null, "too_large".into()]
    );
    assert_eq!(first.body["body"], "Mine.");
    for (from, to) in [
        (
            "bytes_max = \"100B\"\n",
            "bytes_max = \"50B\"\ncount_max = 1\nblocked_names = [\"csv\"]\n",
        ),
        ("--- first marker ---", "--- second marker ---"),
    ] {
        configure(from, to);
    }
    fake.replan(|_, _| Play::Good);
    postern.start();
    postern.drained();
    let repeated = messages().split_off(count);
    assert!(!repeated.is_empty());
    for seen in repeated {
        assert_eq!((&seen.key, &seen.body), (&first.key, &first.body));
    }
    postern.stop();
}
