//! Relays that are down or disconnect: when they are retried, and when another one is used.

use std::time::{Duration, Instant};

use postern::outbound::relay::dot_stuffing::dot_stuffed;
use postern::outbound::relay::{RelayMail, SendOutcome};
use postern::store::JobState;
use tokio::sync::watch;

use super::dialogue::block_on;
use super::server::{Act, Fake, Step};
use super::{Sending, address, closed, job, relay, relays, settings, timeouts};

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

fn label(fake: &Fake) -> Option<String> {
    Some(relay(fake.port).label())
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_relays_are_retried_with_the_mails() {
    for count in [1, 2] {
        let fakes: Vec<_> = (0..count)
            .map(|_| {
                Fake::start(|step, count| match (step, count) {
                    (Step::Greeting, 0..8) => say("421 4.3.2 not yet\r\n"),
                    _ => Act::Usual,
                })
            })
            .collect();
        let list = fakes.iter().map(|fake| relay(fake.port)).collect();
        let sending = Sending::start(list, settings());
        sending.enqueue(&job(1, "ann@example.com")).await;
        // Doubled from a second, eight waits are more than four minutes.
        sending.over().await;
        let record = sending.record(1);
        assert_eq!(record.state, JobState::Sent);
        let greeted = fakes[0].connections();
        assert_eq!(greeted, 9);
        if count == 1 {
            assert_eq!(record.attempts, 9, "its own time decides: {record:#?}");
        }
        sending.stop().await;
    }
}

#[test]
fn the_only_relay_is_left_alone_no_longer_than_the_mail_waits() {
    let (_held, closed) = closed();
    let (from, to) = (address("bounce@inbox.test"), address("ann@example.com"));
    let letter = RelayMail {
        from: Some(&from),
        to: &to,
        wire: &dot_stuffed(&[b"x\r\n"]).unwrap(),
        bytes: 3,
        is_eight_bit: false,
    };
    let wait = Duration::from_secs(3);
    for (count, is_only) in [(1, true), (2, false)] {
        let ours = relays(vec![relay(closed); count], timeouts());
        let before = Instant::now();
        let (_running, stopping) = watch::channel(false);
        let (attempt, _) = block_on(ours.send(&letter, &|| Some(wait), &stopping));
        assert!(
            matches!(attempt, SendOutcome::TemporaryFailure { .. }),
            "{attempt:?}"
        );
        let after = Instant::now();
        let aside = ours.available_at(before).unwrap();
        assert!(aside >= before + wait);
        assert_eq!(aside <= after + wait, is_only);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relay_is_tried_at_once_before_the_transfer() {
    for step in [Step::Mail, Step::Rcpt, Step::Data] {
        for act in [
            Act::Close,
            Act::Reset,
            say("421 4.3.2 going down\r\n"),
            say("what\r\n"),
        ] {
            let words = format!("{step:?} {act:?}");
            let breaks = Fake::start(move |now, count| match (now == step, count) {
                (true, 0) => act.clone(),
                _ => Act::Usual,
            });
            let good = Fake::start(|_, _| Act::Usual);
            let list = vec![relay(breaks.port), relay(good.port)];
            let sending = Sending::start(list, settings());
            sending.enqueue(&job(1, "ann@example.com")).await;
            sending.over().await;
            let record = sending.record(1);
            assert_eq!(record.state, JobState::Sent, "{words}");
            assert_eq!((record.attempts, record.history.len()), (1, 1), "{words}");
            assert_eq!(record.history[0].relay, label(&good), "{words}");
            assert_eq!(
                (breaks.heard().len(), good.heard().len()),
                (0, 1),
                "{words}"
            );
            // A failure with one mail is no reason to leave it alone.
            sending.enqueue(&job(2, "bob@example.com")).await;
            sending.over().await;
            assert_eq!(
                sending.record(2).history[0].relay,
                label(&breaks),
                "{words}"
            );
            sending.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_relay_is_tried_after_the_transfer() {
    let breaks = Fake::start(|step, count| match (step, count) {
        (Step::End, 0) => Act::Close,
        _ => Act::Usual,
    });
    let good = Fake::start(|_, _| Act::Usual);
    let list = vec![relay(breaks.port), relay(good.port)];
    let sending = Sending::start(list, settings());
    sending.enqueue(&job(1, "ann@example.com")).await;
    sending.over().await;
    let record = sending.record(1);
    let what: Vec<_> = record.history.iter().map(|t| t.what.as_str()).collect();
    assert_eq!(what, ["deferred", "sent"]);
    assert!(good.heard().is_empty());
    assert_eq!(breaks.heard().len(), 2);
    sending.stop().await;
}
