//! What comes back about mail we sent: which job it marks, which address it blames, what is told of it.
use bytes::Bytes;
use postern::clock::{self, Timestamp};
use postern::mail::address::{Address, Domain};
use postern::mail::envelope::Target;
use postern::mail::outgoing::{JobId, loop_mark, message_id, return_path};
use postern::mail::token::KeyRing;
use postern::store::{
    Delivery, Enqueued, Event, EventId, EventKind, Fact, Job, JobOutcome, JobState, Store, Talk,
};

use crate::bench::{Bench, DAY, THREAD, envelope, mail, mailbox, token};
use crate::fake_api::{Fake, Play};

const TO: &str = "bob@far.example";

fn keys() -> KeyRing {
    KeyRing::new(vec![(1, vec![7; 32])], 365 * DAY).unwrap()
}

fn domain() -> Domain {
    Domain::parse("inbox.example.com").unwrap()
}

fn job_id(n: u8) -> JobId {
    JobId([n; 16])
}

fn id_of(n: u8) -> String {
    message_id(&keys(), &domain(), job_id(n))
}

/// A job that a relay took.
async fn sent(store: &Store, n: u8, to: &str) {
    begun(store, n, to).await;
    let outcome = JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    };
    ended(store, n, outcome).await;
}

async fn ended(store: &Store, n: u8, outcome: JobOutcome) {
    let (job, at) = (job_id(n), clock::now());
    let fact = Fact::Ended { job, outcome, at };
    store.record(vec![fact]).await.unwrap();
}

async fn begun(store: &Store, n: u8, to: &str) {
    let now = clock::now();
    let job = Job {
        id: job_id(n),
        route: "default".to_owned(),
        thread_id: Some(THREAD.to_owned()),
        product_message_id: Some(format!("product-{n}")),
        message_id: id_of(n),
        recipient: Address::parse(to).unwrap(),
        return_path: Some(return_path(&keys(), &domain(), job_id(n)).unwrap()),
        subject: "Your order".to_owned(),
        key: [n; 16],
        content: [n; 16],
        made_at: now,
        ends_at: now.plus(DAY),
    };
    let bytes = Bytes::from_static(b"Subject: Your order\r\n\r\nIt is on its way.\r\n");
    let taken = store.enqueue(job, bytes, Vec::new()).await.unwrap();
    assert_eq!(taken, Enqueued::New);
    let (job, at) = (job_id(n), clock::now());
    store.record(vec![Fact::Begun { job, at }]).await.unwrap();
}

/// A mail from nobody.
async fn came(bench: &Bench, target: Target, mail: &str) {
    from(bench, None, target, mail).await;
}

async fn from(bench: &Bench, sender: Option<&str>, target: Target, mail: &str) {
    let envelope = envelope(sender, vec![target], clock::now());
    let bytes = mail.replace('\n', "\r\n").replace("\r\r", "\r");
    bench.store.accept(envelope, bytes.into()).await.unwrap();
    bench.drained().await;
}

/// As Postfix writes it.
fn notice(to: &str, action: &str, status: &str, id: &str) -> String {
    format!(
        "Return-Path: <>
Received: by mail.far.example (Postfix)
\tid 4FzT3c1Y2zz9sW; Sat, 31 Jan 2026 23:59:59 +0000 (UTC)
Date: Sat, 31 Jan 2026 23:59:59 +0000 (UTC)
From: MAILER-DAEMON@mail.far.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: bounce@inbox.example.com
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"4FzT3c1Y2zz9sW.1769903999/mail.far.example\"
Message-Id: <4FzT3c206Tz9sX@mail.far.example>

This is a MIME-encapsulated message.

--4FzT3c1Y2zz9sW.1769903999/mail.far.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mail.far.example.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

                   The mail system

<{to}>: host mx.far.example[192.0.2.7] said: 550 {status} <{to}>:
    Recipient address rejected: User unknown (in reply to RCPT TO command)

--4FzT3c1Y2zz9sW.1769903999/mail.far.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.far.example
X-Postfix-Queue-ID: 4FzT3c1Y2zz9sW
Arrival-Date: Sat, 31 Jan 2026 23:59:58 +0000 (UTC)

Final-Recipient: rfc822; {to}
Original-Recipient: rfc822;{to}
Action: {action}
Status: {status}
Remote-MTA: dns; mx.far.example
Diagnostic-Code: smtp; 550 {status} <{to}>: Recipient address rejected: User unknown

--4FzT3c1Y2zz9sW.1769903999/mail.far.example
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

From: Shop <reply@inbox.example.com>
To: {to}
Subject: Your order
Message-ID: {id}

--4FzT3c1Y2zz9sW.1769903999/mail.far.example--
"
    )
}

/// As qmail writes it, which knows no fields.
fn old_notice(to: &str, id: &str) -> String {
    format!(
        "Date: 31 Jan 2026 23:59:59 -0000
From: MAILER-DAEMON@old.example
To: bounce@inbox.example.com
Subject: failure notice

Hi. This is the qmail-send program at old.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<{to}>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 <{to}>: no such user here
Giving up on 192.0.2.7.

--- Below this line is a copy of the message.

Return-Path: <x@inbox.example.com>
Received: (qmail 1 invoked by uid 0); 31 Jan 2026 23:59:58 -0000
From: Shop <reply@inbox.example.com>
To: {to}
Subject: Your order
Message-ID: {id}

It is on its way.
"
    )
}

fn told(store: &Store, kind: EventKind) -> Vec<Event> {
    let all = store.events_after(EventId::default(), 1_000);
    let all = all.into_iter().map(|(_, event)| (*event).clone());
    all.filter(|event| event.kind == kind).collect()
}

fn talk(thread: &str) -> Talk {
    Talk {
        route: "default".to_owned(),
        thread_id: thread.to_owned(),
        with: "ann@example.com".to_owned(),
    }
}

fn state(store: &Store, n: u8) -> JobState {
    store.job(job_id(n)).unwrap().state
}

fn is_bounced(store: &Store, n: u8) -> bool {
    matches!(state(store, n), JobState::Bounced { .. })
}

fn blamed(store: &Store, to: &str) -> Option<u32> {
    let now = clock::now();
    let address = Address::parse(to).unwrap();
    store.suppression(&address, now).map(|found| found.bounces)
}

async fn bench(fake: &Fake) -> Bench {
    Bench::start(fake).await
}

#[tokio::test]
async fn a_notice_to_a_return_path_marks_the_job_and_blames_the_address() {
    for old in [false, true] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let bench = bench(&fake).await;
        sent(&bench.store, 1, TO).await;
        let text = match old {
            false => notice(TO, "failed", "5.1.1", "<other@far.example>"),
            true => old_notice(TO, "<other@far.example>"),
        };
        came(&bench, Target::Return(job_id(1)), &text).await;
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
async fn a_notice_by_message_id_marks_the_job_and_blames_nobody() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    for n in 1..=4 {
        sent(&bench.store, n, TO).await;
    }
    // To a reply token, to a mailbox, old and new, and from a postmaster who gives his name.
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
    // A stranger who saw the Message-ID does not know whom it was for.
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
async fn a_flood_of_notices_about_one_job_counts_once() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, TO).await;
    sent(&bench.store, 2, "Bob@FAR.example").await;
    let text = |n| notice(TO, "failed", "5.1.1", &id_of(n)).replace('\n', "\r\n");
    for n in 0..100 {
        // Half of them by another way, in another lane.
        let target = if n % 2 == 0 {
            Target::Return(job_id(1))
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
    came(&bench, Target::Return(job_id(2)), &text(2)).await;
    assert_eq!(blamed(&bench.store, TO), Some(before + 1), "another job");
    let history = bench.store.job(job_id(1)).unwrap().history;
    assert_eq!(history.iter().filter(|t| t.what == "bounced").count(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn only_what_the_address_is_to_blame_for_blames_it() {
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
        came(&bench, Target::Return(job_id(n)), &text).await;
        assert!(is_bounced(&bench.store, n), "{status}");
        assert_eq!(blamed(&bench.store, TO), None, "{status}");
    }
    let events = told(&bench.store, EventKind::OutboundBounced);
    assert!(events.iter().all(|event| event.data["hard"] == false));
    assert_eq!(events.len(), 3);
    bench.stop().await;
}

#[tokio::test]
async fn a_person_may_not_be_overruled_on_the_list() {
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
    came(&bench, Target::Return(job_id(1)), &text).await;
    assert!(is_bounced(&bench.store, 1));
    let address = Address::parse(TO).unwrap();
    assert_eq!(bench.store.suppression(&address, now), Some(by_hand));
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
        came(&bench, Target::Return(job_id(1)), &delay).await;
    }
    let arrived = notice(TO, "delivered", "2.0.0", &id_of(1)).replace("550", "250");
    came(&bench, Target::Return(job_id(1)), &arrived).await;
    let record = bench.store.job(job_id(1)).unwrap();
    assert_eq!(record.state, JobState::Sent);
    let delays = record.history.iter().filter(|t| t.what == "delayed");
    assert_eq!(delays.count(), 8);
    assert!(told(&bench.store, EventKind::OutboundBounced).is_empty());
    assert_eq!(blamed(&bench.store, TO), None);
    assert_eq!(bench.store.ledger().dropped["delay_notice"], 20);
    let last = notice(TO, "failed", "5.1.1", &id_of(1));
    came(&bench, Target::Return(job_id(1)), &last).await;
    assert!(is_bounced(&bench.store, 1), "it was given up after all");
    bench.stop().await;
}

#[tokio::test]
async fn a_notice_quicker_than_our_own_note_waits_for_it() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    begun(&bench.store, 1, TO).await;
    let text = notice(TO, "failed", "5.1.1", &id_of(1)).replace('\n', "\r\n");
    let envelope = envelope(None, vec![Target::Return(job_id(1))], clock::now());
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
async fn what_no_job_is_known_for_is_dropped_and_changes_nothing() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    begun(&bench.store, 1, TO).await;
    ended(&bench.store, 1, JobOutcome::Captured).await;
    for n in [1, 9] {
        let text = notice(TO, "failed", "5.1.1", &id_of(n));
        came(&bench, Target::Return(job_id(n)), &text).await;
    }
    assert_eq!(bench.store.ledger().dropped["bounce"], 2);
    assert_eq!(state(&bench.store, 1), JobState::Captured);
    assert!(told(&bench.store, EventKind::OutboundBounced).is_empty());
    assert_eq!(blamed(&bench.store, TO), None);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_no_notice_is_never_posted_from_a_return_path() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    sent(&bench.store, 1, "ann@example.com").await;
    let here = || Target::Return(job_id(1));
    let away = mail(1, "I am away.")
        .replace("Subject:", "Auto-Submitted: auto-replied\r\nSubject:")
        .replace("Where is", "Out of office: where is");
    from(&bench, None, here(), &away).await;
    from(&bench, Some("ann@example.com"), here(), &away).await;
    // Nobody's mail in no form that is known.
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
    let waiting = bench.store.parked(None, 1);
    assert_eq!(parked[0].data["mailId"], waiting[0].id.to_string());
    assert_eq!(
        parked[0].data["reason"],
        "a person wrote to a bounce address"
    );
    // Once a person has looked at it, it is an answer like any: our Message-ID tells the thread.
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
    let step = postern::store::Step::Approved;
    let facts = vec![
        Fact::Advanced { delivery, step },
        Fact::Released { delivery, at },
    ];
    bench.store.record(facts).await.unwrap();
}

#[tokio::test]
async fn our_own_mail_come_back_is_a_loop() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    let own = mail(1, "Round.").replace("<m1@mail.example.com>", &id_of(1));
    from(&bench, Some("ann@example.com"), token(THREAD), &own).await;
    assert_eq!(bench.store.ledger().dropped["loop"], 1);
    assert!(fake.seen().is_empty());
    let mark = loop_mark(&keys(), &domain());
    assert!(mark.len() >= 16 && !mark.contains("inbox"), "{mark}");
    bench.stop().await;
}

#[tokio::test]
async fn each_thing_that_happens_to_a_mail_is_told_once() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    bench.put(mailbox(), &mail(1, "Where is it?")).await;
    bench.drained().await;
    bench.put(mailbox(), &mail(1, "Where is it?")).await;
    bench.drained().await;
    let events = bench.store.events_after(EventId::default(), 100);
    let names: Vec<&str> = events.iter().map(|(_, e)| e.kind.name()).collect();
    assert_eq!(
        names,
        [
            "email.thread.created",
            "email.message.created",
            "email.processed",
            "email.processed"
        ]
    );
    let data: Vec<_> = events.iter().map(|(_, e)| &e.data).collect();
    assert_eq!(data[0]["threadId"], "thread-1");
    assert_eq!(data[0]["mailbox"], "general");
    assert_eq!(data[0]["priority"], "standard");
    assert_eq!(data[0]["from"], "ann@example.com");
    assert_eq!(data[1]["threadId"], "thread-1");
    assert_eq!(data[1]["messageId"], data[2]["messageId"]);
    assert_eq!(data[1]["emailMessageId"], "m1@mail.example.com");
    assert_eq!(data[1]["kind"], "person");
    assert_eq!(data[2]["match"]["reason"], "none");
    assert_eq!(data[2]["mailbox"], "general");
    assert_eq!(data[3]["dropped"], "duplicate");
    let ours = events.iter().map(|(_, e)| e.thread_id.as_deref());
    let thread = Some("thread-1");
    assert_eq!(ours.collect::<Vec<_>>(), [thread, thread, thread, None]);
    // Nobody vouches for it: anyone may have written it, so it is never sent to her as hers.
    assert_eq!(bench.store.said(&talk("thread-1"), false), None);
    bench.stop().await;
}

#[tokio::test]
async fn a_call_made_again_tells_once() {
    // The product's answer is lost each first time: the call is made again with the same key.
    let fake = Fake::start(|_, nth| match nth % 2 {
        0 => Play::CommitThenDrop,
        _ => Play::Good,
    })
    .await;
    let bench = bench(&fake).await;
    bench.put(mailbox(), &mail(1, "Once.")).await;
    bench.drained().await;
    assert_eq!(fake.effects(), [1, 1, 1]);
    for kind in [
        EventKind::ThreadCreated,
        EventKind::MessageCreated,
        EventKind::Processed,
    ] {
        assert_eq!(told(&bench.store, kind).len(), 1, "{}", kind.name());
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_we_said_is_known_again_in_any_language() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    let ours = "The parcel left our house on Monday at nine.\n\
        It will be with you by Thursday evening.\nDo you want it left with a neighbour?";
    let said = postern::store::Said {
        by_us: true,
        name: None,
        at: Timestamp::default(),
        text: ours.to_owned(),
    };
    let talk = talk(THREAD);
    let fact = Fact::Spoken {
        talk: talk.clone(),
        said,
    };
    bench.store.record(vec![fact]).await.unwrap();
    // An attribution no program writes, and no marks before the lines.
    let answer = format!("Yes please.\n\nYa wrotish gelo Shop da Monday ::\n\n{ours}\n");
    let answer = answer.replace('\n', "\r\n");
    bench.put(token(THREAD), &mail(1, &answer)).await;
    bench.drained().await;
    let body = fake.done()[0].body.clone();
    let text = body["body"].as_str().unwrap();
    assert!(text.starts_with("Yes please."), "{text}");
    assert!(!text.contains("neighbour"), "{text}");
    assert!(body["quotedText"].as_str().unwrap().contains("neighbour"));
    let theirs = bench.store.said(&talk, false).unwrap();
    assert_eq!(theirs.text, text);
    assert_eq!(theirs.name.as_deref(), Some("Ann Other"));
    assert_eq!(bench.store.said(&talk, true).unwrap().text, ours);
    let elsewhere = Talk {
        route: "another".to_owned(),
        ..talk
    };
    assert_eq!(bench.store.said(&elsewhere, true), None);
    bench.stop().await;
}
