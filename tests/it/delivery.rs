//! The worker between a real store and a fake Messages API: one effect for each mail, in order, for every
//! failure and interruption.
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock;
use postern::mail::address::Address;
use postern::mail::envelope::RecipientTarget;
use postern::mail::token::ThreadKey;
use postern::store::{Fact, Store};

use crate::ask::ask;
use crate::bench::{
    Bench, KEY, Log, OTHER, THREAD, envelope, mail, mailbox, put, settings_in, token,
};
use crate::fake_api::{Fake, Play, Seen};

fn words(done: &[Seen]) -> Vec<&str> {
    let messages = done.iter().filter(|seen| seen.call() == "message");
    messages
        .map(|seen| seen.body["body"].as_str().unwrap().trim())
        .collect()
}

#[tokio::test]
async fn a_reply_with_a_token_lands_in_its_thread() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(1, "It came today.")).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 0], "{:?}", bench.reasons());
    let done = fake.done();
    assert_eq!(fake.effects(), [0, 1, 1]);
    assert_eq!(
        done[0].path,
        format!("/api/v1/messages/threads/{THREAD}/messages")
    );
    assert_eq!(
        done[0].body["body"].as_str().unwrap().trim(),
        "It came today."
    );
    assert_eq!(done[0].body["senderEmail"], "ann@example.com");
    assert_eq!(done[0].body["authentication"]["identity"], "token-holder");
    assert_eq!(done[1].path, format!("/api/v1/messages/threads/{THREAD}"));
    assert_eq!(
        done[1].body["metadata"]["lastEmailMessageId"],
        "m1@mail.example.com"
    );
    let print = done[0].key.strip_suffix("-message").unwrap();
    assert_eq!(done[1].key, format!("{print}-metadata"));
    let mapping = ask(bench.store.thread("default", ThreadKey::of(THREAD))).unwrap();
    assert_eq!(mapping.thread_id, THREAD);
    assert_eq!(
        mapping.last_message_id.as_deref(),
        Some("m1@mail.example.com")
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_first_mail_begins_a_thread() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    bench.put(mailbox(), &mail(1, "Where is it?")).await;
    bench.drained().await;
    assert_eq!(fake.effects(), [1, 1, 1], "{:?}", bench.reasons());
    let done = fake.done();
    assert_eq!(done[0].body["identityEmail"], "ann@example.com");
    assert_eq!(done[0].body["mailbox"], "general");
    assert_eq!(done[0].body["priority"], "standard");
    assert_eq!(done[0].body["metadata"]["lastEmailRule"], "support-words");
    assert_eq!(done[1].path, "/api/v1/messages/threads/thread-1/messages");
    assert_eq!(done[1].body["authentication"]["identity"], "unverified");
    let (mapping, ours) = ask(bench
        .store
        .thread_by_message_id("default", "m1@mail.example.com"))
    .unwrap();
    assert_eq!((mapping.thread_id.as_str(), ours), ("thread-1", false));
    bench.stop().await;
}

#[tokio::test]
async fn two_tokens_of_one_envelope_are_two_effects() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    let mut envelope = envelope(
        Some("ann@example.com"),
        vec![token(THREAD), token(OTHER)],
        clock::now(),
    );
    envelope.recipients[1].address = Address::parse("reply+other@inbox.example.com").unwrap();
    bench
        .store
        .accept(envelope, mail(1, "To both.").into_bytes().into())
        .await
        .unwrap();
    bench.drained().await;
    assert_eq!(bench.fates(), [2, 0, 0], "{:?}", bench.reasons());
    let paths: HashSet<String> = fake.done().iter().map(|seen| seen.path.clone()).collect();
    for thread in [THREAD, OTHER] {
        assert!(paths.contains(&format!("/api/v1/messages/threads/{thread}/messages")));
    }
    bench.stop().await;
}

#[tokio::test]
async fn two_tokens_of_one_thread_are_one_effect() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    let RecipientTarget::Thread(mut newer) = token(THREAD) else {
        panic!("no token");
    };
    newer.digest = [9; 16];
    let mut envelope = envelope(
        Some("ann@example.com"),
        vec![token(THREAD), RecipientTarget::Thread(newer)],
        clock::now(),
    );
    envelope.recipients[1].address = Address::parse("reply+newer@inbox.example.com").unwrap();
    bench
        .store
        .accept(envelope, mail(1, "To all.").into_bytes().into())
        .await
        .unwrap();
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 1], "{:?}", bench.reasons());
    assert_eq!(fake.effects(), [0, 1, 1]);
    bench.stop().await;
}

#[tokio::test]
async fn the_same_mail_twice_is_one_effect() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    for _ in 0..3 {
        bench.put(token(THREAD), &mail(1, "Once.")).await;
    }
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 2]);
    assert_eq!(bench.store.ledger().dropped["duplicate"], 2);
    assert_eq!(fake.effects(), [0, 1, 1]);
    bench.stop().await;
}

#[tokio::test]
async fn no_machine_is_posted() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start(&fake).await;
    let away =
        mail(1, "I am away.").replace("Subject:", "Auto-Submitted: auto-replied\r\nSubject:");
    bench.put(token(THREAD), &away).await;
    let circle = mail(2, "Round.").replace("Subject:", "X-Postern-Loop: this-instance\r\nSubject:");
    bench.put(token(THREAD), &circle).await;
    let nobody = envelope(None, vec![token(THREAD)], clock::now());
    bench
        .store
        .accept(nobody, mail(3, "Bounced.").into_bytes().into())
        .await
        .unwrap();
    bench.drained().await;
    // A null sender alone does not prove a machine: a person decides.
    assert_eq!(bench.fates(), [0, 1, 2], "{:?}", bench.store.ledger());
    assert!(fake.seen().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn order_is_kept_in_a_thread_while_another_goes_on() {
    let failing = Arc::new(Mutex::new(true));
    let switch = Arc::clone(&failing);
    let fake = Fake::start(move |seen, _| {
        if *switch.lock().unwrap() && seen.path.contains(THREAD) {
            return Play::Say(503, "", String::new());
        }
        Play::Good
    })
    .await;
    let bench = Bench::start(&fake).await;
    for n in 0..10 {
        bench.put(token(THREAD), &mail(n, &format!("a{n}"))).await;
        bench
            .put(token(OTHER), &mail(100 + n, &format!("b{n}")))
            .await;
    }
    bench
        .until("the other thread done", |store| {
            store.ledger().delivered == 10
        })
        .await;
    assert!(
        words(&fake.done())
            .iter()
            .all(|words| words.starts_with('b'))
    );
    *failing.lock().unwrap() = false;
    bench.drained().await;
    let done = fake.done();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for words in words(&done) {
        if words.starts_with('a') {
            a.push(words)
        } else {
            b.push(words)
        }
    }
    assert_eq!(
        a,
        ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"]
    );
    assert_eq!(
        b,
        ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"]
    );
    bench.stop().await;
}

#[tokio::test]
async fn concurrent_deliveries_are_bounded() {
    let fake = Fake::start(|_, _| Play::HoldThenCommit).await;
    let bench = Bench::start_in(tempfile::tempdir().unwrap(), &fake, |settings| {
        settings.concurrency = 5;
    })
    .await;
    for n in 0..20 {
        bench
            .put(token(&format!("thread {n}")), &mail(n, "hi"))
            .await;
    }
    fake.until("as many as may", |seen| seen.len() == 5).await;
    fake.open();
    bench.drained().await;
    assert_eq!(bench.fates(), [20, 0, 0]);
    assert_eq!(fake.most_under_way(), 5);
    bench.stop().await;
}

#[tokio::test]
async fn counters_are_exported() {
    let fake = Fake::start(|seen, number| match (seen.call(), number) {
        ("message", 0) => Play::Say(503, "", String::new()),
        _ => Play::Good,
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(1, "hi")).await;
    bench.drained().await;
    let told = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &bench.registry).unwrap();
        text
    };
    // The counters change a moment after the disk.
    bench
        .until("counted", |_| {
            told().contains("postern_delivery_seconds_count 1")
        })
        .await;
    let text = told();
    for line in [
        "postern_delivery_fates_total{route=\"default\",fate=\"delivered\"} 1",
        "postern_delivery_fates_total{route=\"default\",fate=\"deferred\"} 1",
        "postern_delivery_calls_total{route=\"default\",call=\"message\",answer=\"passing\"} 1",
        "postern_delivery_calls_total{route=\"default\",call=\"message\",answer=\"done\"} 1",
        "postern_delivery_attempts_total{route=\"default\"} 2",
        "postern_delivery_identity_total{route=\"default\",identity=\"token-holder\"} 1",
        "postern_delivery_paused{route=\"default\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_parked_mail_frees_its_thread_and_comes_back_when_released() {
    let fake = Fake::start(|seen, _| {
        if seen.body["body"]
            .as_str()
            .unwrap_or_default()
            .contains("bad")
        {
            return Play::Say(422, "", "no".to_owned());
        }
        Play::Good
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(1, "bad")).await;
    bench.put(token(THREAD), &mail(2, "good")).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 1, 0]);
    fake.replan(|_, _| Play::Good);
    let delivery = ask(bench.store.parked(None, 1)).remove(0).id;
    let released = Fact::Released {
        delivery,
        at: clock::now(),
    };
    bench.store.record(vec![released]).await.unwrap();
    bench
        .until("delivered after all", |store| store.ledger().delivered == 2)
        .await;
    assert_eq!(words(&fake.done()), ["good", "bad"]);
    bench.stop().await;
}

#[tokio::test]
async fn a_released_mail_is_found_in_a_stream_of_new_ones() {
    let fake = Fake::start(|_, number| match number {
        0 => Play::Say(422, "", "no".to_owned()),
        _ => Play::Good,
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench.put(token(THREAD), &mail(0, "released")).await;
    bench
        .until("parked", |store| store.ledger().parked == 1)
        .await;
    let store = bench.store.clone();
    let stream = tokio::spawn(async move {
        for n in 1.. {
            put(&store, token(&format!("thread {n}")), &mail(n, "new")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // The scan of waiting mail has passed by now, and only new mail is due.
    bench
        .until("a stream", |store| store.ledger().delivered >= 50)
        .await;
    let delivery = ask(bench.store.parked(None, 1)).remove(0).id;
    let released = Fact::Released {
        delivery,
        at: clock::now(),
    };
    bench.store.record(vec![released]).await.unwrap();
    fake.until("the released one", |seen| {
        seen.iter()
            .filter(|seen| seen.body["body"] == "released")
            .count()
            == 2
    })
    .await;
    stream.abort();
    bench.drained().await;
    bench.stop().await;
}

#[tokio::test]
async fn one_endless_thread_does_not_starve_the_others() {
    let fake = Fake::start(|seen, _| {
        if seen.path.contains(THREAD) {
            return Play::Say(503, "", String::new());
        }
        Play::Good
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..5_000 {
        let store = store.clone();
        puts.spawn(async move { put(&store, token(THREAD), &mail(n, "stuck")).await });
    }
    puts.join_all().await;
    put(&store, token(OTHER), &mail(9_999, "free")).await;
    store.close().await;
    let bench = Bench::start_in(folder, &fake, |_| {}).await;
    bench
        .until("the other one", |store| store.ledger().delivered == 1)
        .await;
    assert_eq!(words(&fake.done()), ["free"]);
    bench.stop().await;
}

#[tokio::test]
async fn more_than_the_queue_bound_is_delivered() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = Bench::start_in(tempfile::tempdir().unwrap(), &fake, |settings| {
        settings.queued_max = 10;
        settings.concurrency = 4;
    })
    .await;
    for n in 0..300 {
        bench
            .put(
                token(&format!("thread {}", n % 37)),
                &mail(n, &format!("{n}")),
            )
            .await;
    }
    bench.drained().await;
    assert_eq!(bench.fates(), [300, 0, 0]);
    assert_eq!(fake.effects(), [0, 300, 300]);
    bench.stop().await;
}

#[tokio::test]
async fn neither_key_nor_token_nor_words_are_logged() {
    // The log of the whole process is used, because a subscriber of one thread misses lines when others
    // start beside it. So the secrets of all concurrent tests are searched too.
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let fake = Fake::start(|_, number| match number {
        0 => Play::Say(503, "", format!("busy, {KEY}")),
        1 => Play::Say(401, "", format!("bad key {KEY}")),
        _ => Play::Good,
    })
    .await;
    let bench = Bench::start(&fake).await;
    bench
        .put(token("logged-thread"), &mail(1, "words-do-not-log"))
        .await;
    bench.drained().await;
    fake.replan(|_, _| Play::Say(422, "", format!("no, {KEY}")));
    bench
        .put(token("logged-thread"), &mail(2, "words-do-not-log"))
        .await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 1, 0]);
    let reasons = bench.reasons();
    bench.stop().await;
    let log = log.text();
    let RecipientTarget::Thread(claims) = token("logged-thread") else {
        panic!("not a token");
    };
    let thread = claims.thread.as_uuid_text();
    let delivered = log
        .lines()
        .find(|line| line.contains(&thread))
        .unwrap_or_default();
    for word in [
        "delivered",
        "delivery=",
        "kind=\"person\"",
        "matched=\"token\"",
        "message_id=",
    ] {
        assert!(delivered.contains(word), "{word} in {delivered}");
    }
    for line in [
        " deferred ",
        " parked ",
        "the route is paused",
        "works again",
    ] {
        assert!(log.contains(line), "{line}");
    }
    for secret in [KEY, "secret-token-do-not-log", "words-do-not-log"] {
        assert!(!log.contains(secret), "{secret}");
        assert!(!reasons.concat().contains(secret), "{reasons:?}");
    }
}
