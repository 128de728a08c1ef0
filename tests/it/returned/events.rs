//! Events about incoming mail, each sent once; repeated mail; and our own mail that comes back.

use postern::clock::Timestamp;
use postern::mail::job_id::loop_mark;
use postern::store::{ConversationKey, EventId, EventKind, Fact};

use super::{bench, domain, from, id_of, keys, talk, told};
use crate::ask::ask;
use crate::bench::{THREAD, mail, mailbox, token};
use crate::fake_api::{Fake, Play};

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
async fn each_event_of_a_mail_is_sent_once() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    bench.put(mailbox(), &mail(1, "Where is it?")).await;
    bench.drained().await;
    bench.put(mailbox(), &mail(1, "Where is it?")).await;
    bench.drained().await;
    let events = ask(bench.store.events_after(EventId::default(), 100));
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
    // The author is not authenticated: anyone may have written it, so it is never quoted to her as hers.
    assert_eq!(
        ask(bench.store.last_message(&talk("thread-1"), false)),
        None
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_repeated_call_has_one_event() {
    // The product's response is lost each first time: the call is repeated with the same key.
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
async fn our_own_text_is_recognised_in_any_language() {
    let fake = Fake::start(|_, _| Play::Good).await;
    let bench = bench(&fake).await;
    let ours = "The parcel left our house on Monday at nine.\n\
        It will be with you by Thursday evening.\nDo you want it left with a neighbour?";
    let said = postern::store::LastMessage {
        by_us: true,
        name: None,
        at: Timestamp::default(),
        text: ours.to_owned(),
    };
    let talk = talk(THREAD);
    let fact = Fact::MessageRecorded {
        conversation: talk.clone(),
        message: said,
    };
    bench.store.record(vec![fact]).await.unwrap();
    // An attribution that no program writes, without quote marks.
    let answer = format!("Yes please.\n\nYa wrotish gelo Shop da Monday ::\n\n{ours}\n");
    let answer = answer.replace('\n', "\r\n");
    bench.put(token(THREAD), &mail(1, &answer)).await;
    bench.drained().await;
    let body = fake.done()[0].body.clone();
    let text = body["body"].as_str().unwrap();
    assert!(text.starts_with("Yes please."), "{text}");
    assert!(!text.contains("neighbour"), "{text}");
    assert!(body["quotedText"].as_str().unwrap().contains("neighbour"));
    let theirs = ask(bench.store.last_message(&talk, false)).unwrap();
    assert_eq!(theirs.text, text);
    assert_eq!(theirs.name.as_deref(), Some("Ann Other"));
    assert_eq!(
        ask(bench.store.last_message(&talk, true)).unwrap().text,
        ours
    );
    let elsewhere = ConversationKey {
        route: "another".to_owned(),
        ..talk
    };
    assert_eq!(ask(bench.store.last_message(&elsewhere, true)), None);
    bench.stop().await;
}
