//! Relays that are down for a while, defer mail, refuse it, are slow, or disconnect: the product's message
//! is sent once, or fails with the relay's reply.

use serde_json::Value;

use super::{Gateway, arrived, event, first, with_postfix};
use crate::postern::eventually;
use crate::postfix::free_port;
use crate::relay::server::{Act, Fake, Step};
use crate::sink::Sink;

const ANN: &str = "ann@sink.test";
const THREAD: &str = "3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b";

fn words(job: &Value) -> Vec<String> {
    let history = job["history"].as_array().unwrap().iter();
    history
        .map(|trial| trial["what"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn jobs_wait_for_a_relay_in_the_order_of_the_thread() {
    let sink = Sink::start();
    let (mut gateway, postfix, _folder) = with_postfix(&sink, "");
    postfix.rest();
    let mut jobs = vec![gateway.say(&first(THREAD, "m0", ANN))];
    for n in 1..5 {
        jobs.push(gateway.say(&event(THREAD, &format!("m{n}"), &format!("Part {n}."))));
    }
    eventually("it was tried", || {
        gateway.job(&jobs[0])["attempts"].as_u64() >= Some(2)
    });
    let job = gateway.job(&jobs[0]);
    assert!(job["history"].to_string().contains("refused"), "{job}");
    // Postern is killed as well; both come back.
    gateway.postern.kill();
    gateway.postern.start();
    assert_eq!(gateway.job(&jobs[4])["state"], "waiting");
    postfix.go_on();
    for job in &jobs {
        let job = gateway.becomes(job, "sent");
        assert!(
            job["history"]
                .to_string()
                .contains("250 2.0.0 Ok: queued as"),
            "{job}"
        );
    }
    // With Postfix down again nothing is sent twice.
    postfix.rest();
    postfix.go_on();
    arrived(&sink, 5);
    for job in &jobs {
        let told = gateway.told_of(job);
        assert_eq!(
            told.iter().filter(|name| *name == "sent").count(),
            1,
            "{told:?}"
        );
        assert_eq!(told[0], "queued");
        assert_eq!(told.last().unwrap(), "sent");
    }
    let events = gateway.events();
    let sent = events
        .iter()
        .filter(|(name, _)| name == "email.outbound.sent");
    let order: Vec<_> = sent
        .map(|(_, data)| data["jobId"].as_str().unwrap())
        .collect();
    assert_eq!(order, jobs);
}

#[test]
fn deferred_mail_is_sent_later_and_refused_mail_fails_with_the_reply() {
    let fake = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0 | 1) => Act::Say("451 4.7.1 greylisted, come again\r\n".to_owned()),
        (Step::End, 0) => Act::Say("451 4.3.0 no space now\r\n".to_owned()),
        (Step::Rcpt, 4) => Act::Say("550 5.7.1 we do not like you\r\n".to_owned()),
        (Step::End, 3) => Act::Say("554 5.6.0 nor this mail\r\n".to_owned()),
        _ => Act::Usual,
    });
    let gateway = Gateway::start(fake.port, "");
    let job = gateway.say(&first(THREAD, "m0", ANN));
    let sent = gateway.becomes(&job, "sent");
    assert_eq!(words(&sent), ["deferred", "deferred", "deferred", "sent"]);
    assert!(
        sent["history"]
            .to_string()
            .contains("451 4.7.1 greylisted, come again")
    );
    assert_eq!(
        gateway.told_of(&job),
        ["queued", "deferred", "deferred", "deferred", "sent"]
    );
    assert_eq!(fake.taken().len(), 1);
    for (n, reason) in ["550 5.7.1 we do not like you", "554 5.6.0 nor this mail"]
        .into_iter()
        .enumerate()
    {
        let job = gateway.say(&event(THREAD, &format!("m{}", n + 1), "More."));
        let failed = gateway.becomes(&job, "failed");
        assert!(failed.to_string().contains(reason), "{failed}");
        assert_eq!(failed["attempts"], 1);
        assert_eq!(gateway.told_of(&job), ["queued", "failed"]);
        let events = gateway.events();
        let told = events
            .iter()
            .find(|(name, data)| name.ends_with("failed") && data["jobId"] == job.as_str());
        let (_, data) = told.unwrap();
        assert!(data["reason"].as_str().unwrap().contains(reason), "{data}");
        assert_eq!(data["messageId"], format!("m{}", n + 1));
        // A person may retry it.
        let (status, _) = gateway.call(
            "POST",
            &format!("/gateway/jobs/{job}/retry"),
            None,
            &Value::Null,
        );
        assert_eq!(status, 200);
        gateway.becomes(&job, "sent");
    }
    assert_eq!(fake.taken().len(), 3);
    assert_eq!(gateway.postern.metric("postern_outbound_in_flight"), 0.0);
}

/// A relay with this act once at a step; returns the number of accepted mails, and the job.
fn with_one_fault(step: Step, act: Act) -> (usize, Value, String) {
    let fake = Fake::start(move |now, count| match now == step && count == 0 {
        true => act.clone(),
        false => Act::Usual,
    });
    let gateway = Gateway::start(
        fake.port,
        "command_timeout = '1s'\ngreeting_timeout = '1s'\nend_timeout = '2s'\n",
    );
    let job = gateway.say(&first(THREAD, "m0", ANN));
    let sent = gateway.becomes(&job, "sent");
    let told = gateway.told_of(&job);
    assert_eq!(told, ["queued", "deferred", "sent"], "{step:?}");
    let heard = fake.heard();
    assert!(
        heard.iter().all(|mail| mail.bytes == heard[0].bytes),
        "another mail each time"
    );
    let log = gateway.postern.log();
    (heard.len(), sent, log)
}

#[test]
fn a_relay_that_disconnects_or_hangs_gets_the_mail_once() {
    for step in [
        Step::Greeting,
        Step::Ehlo,
        Step::Mail,
        Step::Rcpt,
        Step::Data,
    ] {
        for act in [Act::Close, Act::Reset, Act::Hang] {
            let words = format!("{step:?} {act:?}");
            let (times, job, log) = with_one_fault(step, act);
            assert_eq!(times, 1, "{words}: {job}");
            assert!(!log.contains("may arrive twice"), "{words}");
        }
    }
    // The result is unknown: the mail is sent again under the same Message-ID, and the log reports that.
    for act in [Act::Close, Act::Reset, Act::Hang] {
        let words = format!("end {act:?}");
        let (times, job, log) = with_one_fault(Step::End, act);
        assert_eq!(times, 2, "{words}: {job}");
        assert!(
            log.contains("no reply to the end of the mail, so it may arrive twice"),
            "{words}"
        );
        assert!(log.contains(job["id"].as_str().unwrap()), "{words}");
        assert!(
            job["history"].to_string().contains("it may have arrived"),
            "{job}"
        );
    }
}

#[test]
fn a_slow_relay_gets_the_mail_once_and_an_unreachable_one_fails() {
    let fake = Fake::start(|step, _| match step {
        Step::Greeting => Act::Drip("220 slow but sure\r\n".to_owned()),
        Step::End => Act::Drip("250 2.0.0 queued at last\r\n".to_owned()),
        _ => Act::Usual,
    });
    let gateway = Gateway::start(fake.port, "");
    let job = gateway.say(&first(THREAD, "m0", ANN));
    let sent = gateway.becomes(&job, "sent");
    assert!(
        sent["history"].to_string().contains("queued at last"),
        "{sent}"
    );
    assert_eq!(
        (fake.heard().len(), sent["attempts"].as_u64()),
        (1, Some(1))
    );
    drop(gateway);

    let gateway = Gateway::start(free_port(), "attempts = 3\n");
    let job = gateway.say(&first(THREAD, "m0", ANN));
    let failed = gateway.becomes(&job, "failed");
    assert_eq!(
        words(&failed),
        ["deferred", "deferred", "deferred", "failed"],
        "{failed}"
    );
    assert!(failed.to_string().contains("refused"), "{failed}");
    assert_eq!(gateway.told_of(&job).last().unwrap(), "failed");
}
