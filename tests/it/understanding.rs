//! The interpretation of a mail in delivery: its mailbox and priority, and the outcome of each kind.

use std::sync::Arc;
use std::time::Duration;

use postern::clock;
use postern::delivery::policy::{KindAction, RoutePolicy};
use postern::mail::kind::MailKind;
use postern::mail::mailbox::Rules;
use postern::objects::ObjectId;
use postern::store::{ConversationKey, DeliveryId, DeliveryStep, Fact, LastMessage};
use serde_json::Value;

use crate::ask::ask;
use crate::bench::{Bench, MARKER, OTHER, THREAD, envelope, mail, mailbox, objects_in, token};
use crate::fake_api::{Fake, Play};

fn marked(number: usize, field: &str) -> String {
    mail(number, "Words.").replace("Subject:", &format!("{field}\r\nSubject:"))
}

const AWAY: &str = "Auto-Submitted: auto-replied";
const LIST: &str = "List-Id: <talk.example.com>\r\nPrecedence: list";

async fn bench(fake: &Fake, policy: RoutePolicy) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    Bench::start_with(folder, fake.base(), policy, |_| {}).await
}

/// Releases a parked mail, as a person does.
async fn release(bench: &Bench, delivery: DeliveryId) {
    let step = DeliveryStep::Approved;
    let at = clock::now();
    let facts = vec![
        Fact::Advanced { delivery, step },
        Fact::Released { delivery, at },
    ];
    bench.store.record(facts).await.unwrap();
}

#[tokio::test]
async fn a_rule_sorts_a_new_thread_and_is_named() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let rules = "[[rule]]\nname = 'ann'\nwhen = { sender = ['ann@example.com'] }\n\
                 mailbox = 'business'\npriority = 'vip'\n";
    let policy = RoutePolicy {
        rules: Arc::new(Rules::parse(rules).unwrap()),
        ..RoutePolicy::shipped().unwrap()
    };
    let bench = bench(&fake, policy).await;
    bench.put(mailbox(), &mail(1, "Hello.")).await;
    bench.drained().await;
    let done = fake.done();
    assert_eq!(done[0].body["mailbox"], "business");
    assert_eq!(done[0].body["priority"], "vip");
    assert_eq!(done[0].body["metadata"]["lastEmailRule"], "ann");
    assert_eq!(done[2].body["metadata"]["lastEmailRule"], "ann");
    let (mapping, _) = ask(bench
        .store
        .thread_by_message_id("default", "m1@mail.example.com"))
    .unwrap();
    assert_eq!(mapping.mailbox.as_deref(), Some("business"));
    assert_eq!(mapping.priority.unwrap().name(), "vip");
    bench.stop().await;
}

#[tokio::test]
async fn each_kind_is_handled_as_the_route_configures() {
    for (action, fates, kind) in [
        (KindAction::Post, [1, 0, 0], Some("person")),
        (KindAction::PostTyped, [1, 0, 0], Some("auto_reply")),
        (KindAction::Drop, [0, 0, 1], None),
        (KindAction::Hold, [0, 1, 0], None),
    ] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let mut policy = RoutePolicy::shipped().unwrap();
        policy.kinds.set(MailKind::AutoReply, action).unwrap();
        let bench = bench(&fake, policy).await;
        bench.put(token(THREAD), &marked(1, AWAY)).await;
        bench.drained().await;
        assert_eq!(bench.fates(), fates, "{action:?}");
        let told = fake.done().first().map(|seen| seen.body["kind"].clone());
        assert_eq!(told, kind.map(Value::from), "{action:?}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn held_mail_is_posted_on_release_except_bounces() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let mut policy = RoutePolicy::shipped().unwrap();
    policy
        .kinds
        .set(MailKind::AutoReply, KindAction::Hold)
        .unwrap();
    policy.kinds.set(MailKind::Loop, KindAction::Hold).unwrap();
    let bench = bench(&fake, policy).await;
    bench.put(token(THREAD), &marked(1, AWAY)).await;
    let circle = marked(2, "X-Postern-Loop: this-instance");
    bench.put(token(THREAD), &circle).await;
    bench.drained().await;
    let mut reasons = bench.reasons();
    reasons.sort();
    assert_eq!(reasons, ["held by rule: auto_reply", "held by rule: loop"]);
    let mut counted = String::new();
    prometheus_client::encoding::text::encode(&mut counted, &bench.registry).unwrap();
    let held = "postern_delivery_holds_total{route=\"default\",reason=\"auto_reply\"} 1";
    assert!(counted.contains(held), "{counted}");
    for delivery in ask(bench.store.parked(None, 9)) {
        release(&bench, delivery.id).await;
    }
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 1, 0]);
    assert_eq!(bench.reasons(), ["held by rule: loop"]);
    assert_eq!(fake.done()[0].body["kind"], "auto_reply");
    bench.stop().await;
}

#[tokio::test]
async fn machines_are_stopped_after_five_and_people_are_not() {
    for (field, dropped, parked) in [(AWAY, 2, 0), (LIST, 0, 2), ("X-Any: thing", 0, 0)] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let mut policy = RoutePolicy::shipped().unwrap();
        policy
            .kinds
            .set(MailKind::AutoReply, KindAction::PostTyped)
            .unwrap();
        let bench = bench(&fake, policy).await;
        for number in 0..7 {
            bench.put(token(THREAD), &marked(number, field)).await;
        }
        bench.drained().await;
        let posted = 7 - dropped - parked;
        assert_eq!(bench.fates(), [posted, parked, dropped], "{field}");
        let broken = bench.store.ledger().dropped.get("loop_breaker").copied();
        assert_eq!(broken.unwrap_or_default(), dropped, "{field}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn repeated_answers_are_held_and_others_are_not() {
    const AWAY: &str = "I am on the beach and read no mail.";
    const HOUR: u64 = 60 * 60;
    // True if we send a message before each of hers, the delay in seconds, and her text: the numbers of
    // posted and held mails.
    for (answered, before, words, posted, parked) in [
        (true, HOUR, AWAY, 5, 2),
        (false, HOUR, AWAY, 7, 0),
        (true, HOUR, "Thank you!", 7, 0),
        (true, HOUR, "My question, which is not short, is ?", 7, 0),
        // A counter does not make the text different, and no person answers at once repeatedly.
        (true, HOUR, "Your ticket, which is quite new, is #", 5, 2),
        (true, 0, "Thank you!", 5, 2),
    ] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
        for number in 0..7 {
            if answered || number == 0 {
                let talk = ConversationKey {
                    route: "default".to_owned(),
                    thread_id: THREAD.to_owned(),
                    with: "ann@example.com".to_owned(),
                };
                let said = LastMessage {
                    by_us: true,
                    name: None,
                    at: clock::now()
                        .minus(Duration::from_secs(before))
                        .plus(Duration::from_secs(number as u64)),
                    text: format!("Answer {number}."),
                };
                bench
                    .store
                    .record(vec![Fact::MessageRecorded {
                        conversation: talk,
                        message: said,
                    }])
                    .await
                    .unwrap();
            }
            let letter = ["a", "b", "c", "d", "e", "f", "g"][number];
            let words = words.replace('#', &number.to_string()).replace('?', letter);
            bench.put(token(THREAD), &mail(number, &words)).await;
            bench.drained().await;
        }
        assert_eq!(bench.fates(), [posted, parked, 0], "{:?}", bench.reasons());
        let reasons = bench.reasons();
        assert!(
            reasons
                .iter()
                .all(|why| why == "held by rule: loop_breaker"),
            "{reasons:?}"
        );
        bench.stop().await;
    }
}

#[tokio::test]
async fn an_unknown_sender_is_a_persons_and_a_null_sender_is_held() {
    for (untold, fates) in [(true, [1, 0, 0]), (false, [0, 1, 0])] {
        let fake = Fake::start(|_, _| Play::Good).await;
        let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
        let mut envelope = envelope(None, vec![token(THREAD)], clock::now());
        envelope.sender_untold = untold;
        let mail = mail(1, "Where is it?").into_bytes().into();
        bench.store.accept(envelope, mail).await.unwrap();
        bench.drained().await;
        assert_eq!(bench.fates(), fates, "{:?}", bench.reasons());
        bench.stop().await;
    }
}

/// A mail with these parts after its text: header lines and bytes.
fn with_parts(parts: &[(&str, &str)]) -> String {
    let mut text = mail(1, "").replace(
        "Subject:",
        "MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b\r\nSubject:",
    );
    text.push_str("--b\r\nContent-Type: text/html\r\n\r\n<p>See <img src=\"cid:logo@x\"></p>\r\n");
    for (head, bytes) in parts {
        text.push_str(&format!("--b\r\n{head}\r\n\r\n{bytes}\r\n"));
    }
    text + "--b--\r\n"
}

#[tokio::test]
async fn files_are_stored_before_the_message_that_lists_them() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
    let large = "x".repeat(2000);
    let whole = with_parts(&[
        (
            "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=\"a b.txt\"",
            "words",
        ),
        (
            "Content-Type: image/png\r\nContent-ID: <logo@x>\r\nContent-Disposition: inline",
            "GIF89a",
        ),
        (
            "Content-Type: image/gif\r\nContent-ID: <unnamed@x>\r\nContent-Disposition: inline",
            "GIF89a",
        ),
        (
            "Content-Type: text/csv\r\nContent-Disposition: attachment; filename=l.csv",
            &large,
        ),
        (
            "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=l.txt.exe",
            "MZ",
        ),
    ]);
    bench.put(token(THREAD), &whole).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [1, 0, 0], "{:?}", bench.reasons());
    let told = fake.done()[0].body["attachments"].clone();
    let told = told.as_array().unwrap();
    let of = |name: &str| told.iter().map(|one| one[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("inline"), [false, true, false, false, false]);
    let types = of("detectedType");
    assert_eq!(types[1..3], [Value::from("image/gif"), Value::Null]);
    let skipped = of("skipped");
    assert_eq!(skipped[..3], [Value::Null, Value::Null, Value::Null]);
    assert_eq!(
        skipped[3..],
        [Value::from("too_large"), Value::from("blocked_name")]
    );
    assert_eq!(of("id")[3..], [Value::Null, Value::Null]);
    assert_kept(&told[0]);
    let folder = bench.stop().await;
    let objects = objects_in(folder.path());
    let id = ObjectId::of(b"words");
    assert_eq!(objects.size(id).await.unwrap(), Some(5));
    let large = ObjectId::of(large.as_bytes());
    assert_eq!(objects.size(large).await.unwrap(), None);
}

fn assert_kept(told: &Value) {
    let id = ObjectId::of(b"words");
    let fields: Vec<_> = told
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        fields,
        [
            "contentId",
            "contentType",
            "filename",
            "id",
            "inline",
            "sha256",
            "size",
            "url"
        ]
    );
    assert_eq!(told["id"], id.to_string());
    let url = told["url"].as_str().unwrap();
    let head = format!("http://postern.example/gateway/attachments/{id}?expires=");
    assert!(url.starts_with(&head), "{url}");
}

#[tokio::test]
async fn without_space_for_its_files_a_mail_waits() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
    let files = bench.folder.path().join("attachments");
    let aside = bench.folder.path().join("aside");
    std::fs::rename(&files, &aside).unwrap();
    std::fs::write(&files, "in the way").unwrap();
    let file = "Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt";
    bench
        .put(token(THREAD), &with_parts(&[(file, "words")]))
        .await;
    bench
        .until("it is tried twice", |_| bench.attempts() >= 2)
        .await;
    assert_eq!(bench.store.ledger().waiting, 1);
    assert!(fake.seen().is_empty());
    std::fs::remove_file(&files).unwrap();
    std::fs::rename(&aside, &files).unwrap();
    bench.drained().await;
    assert_eq!(fake.effects(), [0, 1, 1]);
    bench.stop().await;
}

/// A mail of HTML with a picture in its text or in its signature, and a part for it.
fn pictured(number: usize, words: &str, signature: &str) -> String {
    let page = format!("<div>{words}</div><div class=\"gmail_signature\">Ann{signature}</div>");
    let head = mail(number, "").replace(
        "Subject:",
        "MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b\r\nSubject:",
    );
    format!(
        "{head}--b\r\nContent-Type: text/html\r\n\r\n{page}\r\n--b\r\nContent-Type: image/gif\r\n\
         Content-ID: <logo@x>\r\nContent-Disposition: inline; filename=logo.gif\r\n\r\n\
         GIF89a of a logo\r\n--b--\r\n"
    )
}

#[tokio::test]
async fn a_logo_is_listed_once_in_a_thread() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
    let logo = "<img src=\"cid:logo@x\">";
    let mut number = 0;
    let shown = format!("Look here: {logo}");
    for (thread, words, signature, wanted) in [
        (THREAD, "First.", logo, 1),
        (THREAD, "Second.", logo, 0),
        (THREAD, "Third.", logo, 0),
        // A picture in the reply itself is shown, however often it came.
        (THREAD, shown.as_str(), "", 1),
        (OTHER, "Elsewhere.", logo, 1),
    ] {
        number += 1;
        let text = pictured(number, words, signature);
        bench.put(token(thread), &text).await;
        bench.drained().await;
        let posted: Vec<_> = fake
            .done()
            .into_iter()
            .filter(|call| call.body["body"].is_string())
            .collect();
        assert_eq!(posted.len(), number, "{words}");
        let told = posted[number - 1].body["attachments"]
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(told.len(), wanted, "{words}: {told:?}");
        for one in told {
            assert_eq!(one["id"], ObjectId::of(b"GIF89a of a logo").to_string());
            assert!(one["url"].is_string(), "{words}");
        }
    }
    bench.stop().await;
}

#[tokio::test]
async fn nothing_below_the_marker_of_a_route_is_reply() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake, RoutePolicy::shipped().unwrap()).await;
    let text = format!("Thank you!\r\n\r\n-- {MARKER} --\r\n\r\nYour parcel has been sent.\r\n");
    let text = mail(1, &text).replace(
        "Subject:",
        "Content-Type: text/plain; charset=utf-8\r\nSubject:",
    );
    bench.put(token(THREAD), &text).await;
    bench.drained().await;
    let message = &fake.done()[0].body;
    assert_eq!(message["body"], "Thank you!");
    let quoted = message["quotedText"].as_str().unwrap();
    assert!(
        quoted.contains(MARKER) && quoted.contains("Your parcel"),
        "{quoted}"
    );
    bench.stop().await;
}
