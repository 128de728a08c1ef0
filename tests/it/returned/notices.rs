//! Notices: the job that each one marks, the address that it condemns, and mails that are not notices.

use postern::clock;
use postern::mail::address::Address;
use postern::mail::envelope::RecipientTarget;
use postern::mail::job_id::{copy_of, return_path};
use postern::store::{Delivery, EventKind, Fact, JobOutcome, JobState};

use super::{
    TO, begun, bench, blamed, came, copied, domain, ended, from, id_of, is_bounced, job_id, keys,
    notice, old_notice, sent, state, told,
};
use crate::ask::ask;
use crate::bench::{Bench, DAY, THREAD, envelope, mail, mailbox, token};
use crate::fake_api::{Fake, Play};

#[tokio::test]
async fn a_notice_to_a_return_path_marks_job_and_address() {
    for old in [false, true] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let bench = bench(&fake).await;
        sent(&bench.store, 1, TO).await;
        let text = match old {
            false => notice(TO, "failed", "5.1.1", "<other@far.example>"),
            true => old_notice(TO, "<other@far.example>"),
        };
        came(&bench, RecipientTarget::Return(job_id(1)), &text).await;
        assert_eq!(bench.fates(), [0, 0, 1], "{:?}", bench.reasons());
        assert_eq!(bench.store.ledger().dropped["bounce"], 1);
        assert!(fake.seen().is_empty());
        assert!(is_bounced(&bench.store, 1));
        assert_eq!(blamed(&bench.store, TO), Some(1));
        let events = told(&bench.store, EventKind::OutboundBounced);
        assert_eq!(events.len(), 1);
        let data = &events[0].data;
        assert_eq!(events[0].thread_id.as_deref(), Some(THREAD));
        assert_eq!(data["jobId"], job_id(1).to_string());
        assert_eq!(data["messageId"], "product-1");
        assert_eq!(data["threadId"], THREAD);
        assert_eq!(
            data["emailMessageId"],
            id_of(1).trim_matches(['<', '>']).to_owned()
        );
        assert_eq!(data["recipient"], TO);
        assert_eq!(data["status"], "5.1.1");
        assert_eq!(data["hard"], true);
        let reason = data["reason"].as_str().unwrap();
        assert!(reason.to_lowercase().contains("user"), "{reason}");
        let mta = if old { None } else { Some("mx.far.example") };
        if let Some(mta) = mta {
            assert_eq!(data["remoteMta"], mta);
        }
        let processed = told(&bench.store, EventKind::Processed);
        assert_eq!(processed.len(), 1);
        assert_eq!(processed[0].data["dropped"], "bounce");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_notice_by_message_id_marks_only_the_job() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    for n in 1..=4 {
        sent(&bench.store, n, TO).await;
    }
    // To a reply token, to a mailbox, old and new, and from a postmaster with a display name.
    let fields = |n| notice(TO, "failed", "5.1.1", &id_of(n));
    came(&bench, token(THREAD), &fields(1)).await;
    came(&bench, mailbox(), &old_notice(TO, &id_of(2))).await;
    from(
        &bench,
        Some("postmaster@far.example"),
        mailbox(),
        &fields(3),
    )
    .await;
    for n in 1..=3 {
        assert!(is_bounced(&bench.store, n), "{n}");
    }
    assert_eq!(told(&bench.store, EventKind::OutboundBounced).len(), 3);
    // A stranger who saw the Message-ID does not know its recipient.
    let strange = notice("eve@far.example", "failed", "5.1.1", &id_of(4));
    came(&bench, token(THREAD), &strange).await;
    let forged = id_of(4).replacen('<', "<a", 1).replacen("a@", "@", 1);
    came(
        &bench,
        token(THREAD),
        &notice(TO, "failed", "5.1.1", &forged),
    )
    .await;
    assert_eq!(state(&bench.store, 4), JobState::Sent);
    assert_eq!(blamed(&bench.store, TO), None);
    assert_eq!(bench.fates(), [0, 0, 5], "{:?}", bench.reasons());
    assert!(fake.seen().is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn a_notice_marks_the_job_of_the_named_recipient() {
    const EVE: &str = "eve@far.example";
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    let is_sent = |id| ask(bench.store.job(id)).unwrap().state == JobState::Sent;
    let eve = Address::parse(EVE).unwrap();
    let by_name = copy_of(&keys(), job_id(1), &eve);
    sent(&bench.store, 1, TO).await;
    copied(&bench.store, by_name, 1, EVE).await;
    // The id of a later copy cannot be derived, but its return path works.
    let by_path = job_id(9);
    sent(&bench.store, 2, TO).await;
    copied(&bench.store, by_path, 2, EVE).await;

    for n in 1..=2 {
        let strange = notice("joe@far.example", "failed", "5.1.1", &id_of(n));
        came(&bench, mailbox(), &strange).await;
    }
    came(
        &bench,
        mailbox(),
        &notice(EVE, "failed", "5.1.1", &id_of(2)),
    )
    .await;
    for id in [job_id(1), by_name, job_id(2), by_path] {
        assert!(is_sent(id), "{id}");
    }
    came(
        &bench,
        mailbox(),
        &notice(EVE, "failed", "5.1.1", &id_of(1)),
    )
    .await;
    assert!(is_sent(job_id(1)) && !is_sent(by_name));
    let path = return_path(&keys(), &domain(), by_path).unwrap();
    let returned = old_notice(EVE, &id_of(2)).replace("x@inbox.example.com", &path.to_string());
    came(&bench, mailbox(), &returned).await;
    assert!(is_sent(job_id(2)) && !is_sent(by_path));
    came(&bench, mailbox(), &notice(TO, "failed", "5.1.1", &id_of(1))).await;
    assert!(is_bounced(&bench.store, 1));
    assert_eq!(
        (blamed(&bench.store, TO), blamed(&bench.store, EVE)),
        (None, None)
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_flood_of_notices_about_one_job_counts_once() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, TO).await;
    sent(&bench.store, 2, "Bob@FAR.example").await;
    let text = |n| notice(TO, "failed", "5.1.1", &id_of(n)).replace('\n', "\r\n");
    for n in 0..100 {
        // Half of them arrive at another address, in another partition.
        let target = if n % 2 == 0 {
            RecipientTarget::Return(job_id(1))
        } else {
            mailbox()
        };
        let envelope = envelope(None, vec![target], clock::now());
        let stored = bench.store.accept(envelope, text(1).into()).await;
        stored.unwrap();
    }
    bench.drained().await;
    assert_eq!(bench.fates(), [0, 0, 100], "{:?}", bench.reasons());
    assert_eq!(told(&bench.store, EventKind::OutboundBounced).len(), 1);
    assert!(blamed(&bench.store, TO).is_none_or(|bounces| bounces == 1));
    let before = blamed(&bench.store, TO).unwrap_or_default();
    came(&bench, RecipientTarget::Return(job_id(2)), &text(2)).await;
    assert_eq!(blamed(&bench.store, TO), Some(before + 1), "another job");
    let history = ask(bench.store.job(job_id(1))).unwrap().history;
    assert_eq!(history.iter().filter(|t| t.what == "bounced").count(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn only_address_failures_suppress_the_address() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    for (n, action, status, words) in [
        (1, "failed", "5.7.1", "message refused as spam"),
        (2, "failed", "5.2.2", "mailbox is full"),
        (3, "failed", "4.4.7", "delivery time expired"),
    ] {
        sent(&bench.store, n, TO).await;
        let text = notice(TO, action, status, &id_of(n));
        let text = text.replace("Recipient address rejected: User unknown", words);
        came(&bench, RecipientTarget::Return(job_id(n)), &text).await;
        assert!(is_bounced(&bench.store, n), "{status}");
        assert_eq!(blamed(&bench.store, TO), None, "{status}");
    }
    let events = told(&bench.store, EventKind::OutboundBounced);
    assert!(events.iter().all(|event| event.data["hard"] == false));
    assert_eq!(events.len(), 3);
    bench.stop().await;
}

#[tokio::test]
async fn bounces_do_not_change_a_persons_suppression() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, TO).await;
    let now = clock::now();
    let by_hand = postern::store::Suppression {
        address: TO.to_owned(),
        reason: "asked us to stop".to_owned(),
        job: None,
        bounces: 0,
        at: now,
        until: now.plus(DAY),
    };
    let fact = Fact::Suppressed(by_hand.clone());
    bench.store.record(vec![fact]).await.unwrap();
    let text = notice(TO, "failed", "5.1.1", &id_of(1));
    came(&bench, RecipientTarget::Return(job_id(1)), &text).await;
    assert!(is_bounced(&bench.store, 1));
    let address = Address::parse(TO).unwrap();
    assert_eq!(ask(bench.store.suppression(&address, now)), Some(by_hand));
    bench.stop().await;
}

#[tokio::test]
async fn a_delay_is_noted_and_a_receipt_is_not() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, TO).await;
    let delay = notice(TO, "delayed", "4.4.1", &id_of(1))
        .replace(
            "Undelivered Mail Returned to Sender",
            "Delayed Mail (still being retried)",
        )
        .replace("550 4.4.1", "451 4.4.1")
        .replace(
            "Recipient address rejected: User unknown",
            "try again later",
        );
    for _ in 0..20 {
        came(&bench, RecipientTarget::Return(job_id(1)), &delay).await;
    }
    let arrived = notice(TO, "delivered", "2.0.0", &id_of(1)).replace("550", "250");
    came(&bench, RecipientTarget::Return(job_id(1)), &arrived).await;
    let record = ask(bench.store.job(job_id(1))).unwrap();
    assert_eq!(record.state, JobState::Sent);
    let delays = record.history.iter().filter(|t| t.what == "delayed");
    assert_eq!(delays.count(), 8);
    assert!(told(&bench.store, EventKind::OutboundBounced).is_empty());
    assert_eq!(blamed(&bench.store, TO), None);
    assert_eq!(bench.store.ledger().dropped["delay_notice"], 20);
    let last = notice(TO, "failed", "5.1.1", &id_of(1));
    came(&bench, RecipientTarget::Return(job_id(1)), &last).await;
    assert!(is_bounced(&bench.store, 1), "it was given up after all");
    bench.stop().await;
}

#[tokio::test]
async fn a_notice_before_the_sent_fact_waits_for_it() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    begun(&bench.store, 1, TO).await;
    let text = notice(TO, "failed", "5.1.1", &id_of(1)).replace('\n', "\r\n");
    let envelope = envelope(None, vec![RecipientTarget::Return(job_id(1))], clock::now());
    bench.store.accept(envelope, text.into()).await.unwrap();
    let deferred = "postern_delivery_fates_total{route=\"default\",fate=\"deferred\"}";
    let counted = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &bench.registry).unwrap();
        text.contains(deferred)
    };
    bench.until("a first attempt", |_| counted()).await;
    assert_eq!(bench.store.ledger().waiting, 1);
    let outcome = JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    };
    ended(&bench.store, 1, outcome).await;
    bench.drained().await;
    assert!(is_bounced(&bench.store, 1));
    bench.stop().await;
}

#[tokio::test]
async fn a_notice_without_a_known_job_is_dropped() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    begun(&bench.store, 1, TO).await;
    ended(&bench.store, 1, JobOutcome::Captured).await;
    for n in [1, 9] {
        let text = notice(TO, "failed", "5.1.1", &id_of(n));
        came(&bench, RecipientTarget::Return(job_id(n)), &text).await;
    }
    assert_eq!(bench.store.ledger().dropped["bounce"], 2);
    assert_eq!(state(&bench.store, 1), JobState::Captured);
    assert!(told(&bench.store, EventKind::OutboundBounced).is_empty());
    assert_eq!(blamed(&bench.store, TO), None);
    bench.stop().await;
}

#[tokio::test]
async fn other_mail_to_a_return_path_is_never_posted() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, "ann@example.com").await;
    let here = || RecipientTarget::Return(job_id(1));
    let away = mail(1, "I am away.")
        .replace("Subject:", "Auto-Submitted: auto-replied\r\nSubject:")
        .replace("Where is", "Out of office: where is");
    from(&bench, None, here(), &away).await;
    from(&bench, Some("ann@example.com"), here(), &away).await;
    // A mail with the null sender in no known form.
    from(&bench, None, here(), &mail(2, "Something.")).await;
    assert_eq!(bench.store.ledger().dropped["bounce_address"], 3);
    let words = mail(3, "Thank you!").replace(
        "Subject:",
        &format!("In-Reply-To: {}\r\nSubject:", id_of(1)),
    );
    from(&bench, Some("ann@example.com"), here(), &words).await;
    assert_eq!(bench.reasons(), ["a person wrote to a bounce address"]);
    assert!(fake.seen().is_empty());
    assert_eq!(state(&bench.store, 1), JobState::Sent);
    let parked = told(&bench.store, EventKind::Parked);
    assert_eq!(parked.len(), 1);
    let waiting = ask(bench.store.parked(None, 1));
    assert_eq!(parked[0].data["mailId"], waiting[0].id.to_string());
    assert_eq!(
        parked[0].data["reason"],
        "a person wrote to a bounce address"
    );
    // After a person has released it, it is an answer like any: our Message-ID leads to the thread.
    release(&bench, &waiting[0]).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 3], "{:?}", bench.reasons());
    assert_eq!(
        fake.done()[0].path,
        format!("/api/v1/messages/threads/{THREAD}/messages")
    );
    bench.stop().await;
}

async fn release(bench: &Bench, parked: &Delivery) {
    let (delivery, at) = (parked.id, clock::now());
    let step = postern::store::DeliveryStep::Approved;
    let facts = vec![
        Fact::Advanced { delivery, step },
        Fact::Released { delivery, at },
    ];
    bench.store.record(facts).await.unwrap();
}
