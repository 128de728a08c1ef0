//! Notices about mail that we sent, and events about mail: the notices, jobs and questions for both.

mod events;
mod notices;

use bytes::Bytes;
use postern::clock;
use postern::mail::address::{Address, Domain};
use postern::mail::envelope::RecipientTarget;
use postern::mail::job_id::{JobId, message_id, return_path};
use postern::mail::token::KeyRing;
use postern::store::{
    ConversationKey, EnqueueResult, Event, EventId, EventKind, Fact, Job, JobOutcome, JobState,
    Store,
};

use crate::ask::ask;
use crate::bench::{Bench, DAY, THREAD, envelope};
use crate::fake_api::Fake;

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

/// A job that a relay accepted.
async fn sent(store: &Store, n: u8, to: &str) {
    begun(store, n, to).await;
    let outcome = JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    };
    ended(store, n, outcome).await;
}

/// The mail of the job `n` also goes to another person.
async fn copied(store: &Store, id: JobId, n: u8, to: &str) {
    begun_as(store, id, n, to).await;
    let outcome = JobOutcome::Sent {
        relay: "relay.example:25".to_owned(),
        reply: "250 ok".to_owned(),
    };
    let (job, at) = (id, clock::now());
    let fact = Fact::Ended { job, outcome, at };
    store.record(vec![fact]).await.unwrap();
}

async fn ended(store: &Store, n: u8, outcome: JobOutcome) {
    let (job, at) = (job_id(n), clock::now());
    let fact = Fact::Ended { job, outcome, at };
    store.record(vec![fact]).await.unwrap();
}

async fn begun(store: &Store, n: u8, to: &str) {
    begun_as(store, job_id(n), n, to).await;
}

/// A job of this name for a further copy of the mail of the job `n`.
async fn begun_as(store: &Store, id: JobId, n: u8, to: &str) {
    let now = clock::now();
    let key = id.0;
    let job = Job {
        id,
        route: "default".to_owned(),
        thread_id: Some(THREAD.to_owned()),
        product_message_id: Some(format!("product-{n}")),
        message_id: id_of(n),
        recipient: Address::parse(to).unwrap(),
        return_path: Some(return_path(&keys(), &domain(), id).unwrap()),
        subject: "Your order".to_owned(),
        key,
        second_key: None,
        content: [n; 16],
        made_at: now,
        ends_at: now.plus(DAY),
    };
    let bytes = Bytes::from_static(b"Subject: Your order\r\n\r\nIt is on its way.\r\n");
    let taken = store.enqueue(job, bytes, Vec::new()).await.unwrap();
    assert_eq!(taken, EnqueueResult::New);
    let (job, at) = (id, clock::now());
    store.record(vec![Fact::Begun { job, at }]).await.unwrap();
}

/// Accepts a mail with the null sender.
async fn came(bench: &Bench, target: RecipientTarget, mail: &str) {
    from(bench, None, target, mail).await;
}

async fn from(bench: &Bench, sender: Option<&str>, target: RecipientTarget, mail: &str) {
    let envelope = envelope(sender, vec![target], clock::now());
    let bytes = mail.replace('\n', "\r\n").replace("\r\r", "\r");
    bench.store.accept(envelope, bytes.into()).await.unwrap();
    bench.drained().await;
}

/// A notice in the form of Postfix.
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

/// A notice in the form of qmail, without fields.
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
    let all = ask(store.events_after(EventId::default(), 1_000));
    let all = all.into_iter().map(|(_, event)| (*event).clone());
    all.filter(|event| event.kind == kind).collect()
}

fn talk(thread: &str) -> ConversationKey {
    ConversationKey {
        route: "default".to_owned(),
        thread_id: thread.to_owned(),
        with: "ann@example.com".to_owned(),
    }
}

fn state(store: &Store, n: u8) -> JobState {
    ask(store.job(job_id(n))).unwrap().state
}

fn is_bounced(store: &Store, n: u8) -> bool {
    matches!(state(store, n), JobState::Bounced { .. })
}

fn blamed(store: &Store, to: &str) -> Option<u32> {
    let now = clock::now();
    let address = Address::parse(to).unwrap();
    ask(store.suppression(&address, now)).map(|found| found.bounces)
}

async fn bench(fake: &Fake) -> Bench {
    Bench::start(fake).await
}
