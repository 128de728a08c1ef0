//! A robot that answers every mail, without header fields that identify it.

use serde_json::json;

use super::{Gateway, event, field, first, letter, read};
use crate::postern::eventually;
use crate::relay::server::{Act, Fake};

const ROBOT: &str = "robot@sink.test";
const ROUNDS: usize = 15;

/// The numbers of posted messages and of held mails, if each of our mails is answered at once with the text
/// from `answer`.
fn talk(answer: impl Fn(usize) -> String) -> (usize, usize) {
    let relay = Fake::start(|_, _| Act::Usual);
    let gateway = Gateway::start(relay.port, "");
    for round in 0..ROUNDS {
        let message = format!("m{round}");
        let mut said = event("thread", &message, &format!("Our words, round {round}."));
        if round == 0 {
            said = first("thread", &message, ROBOT);
        }
        let job = gateway.say(&said);
        gateway.becomes(&job, "sent");
        let ours = relay.taken().pop().unwrap();
        let seen = read(&ours.bytes, json!({}));
        let to = field(&seen, "Reply-To").to_owned();
        let id = format!("r{round}@sink.test");
        gateway.swaks(ROBOT, &to, &letter(ROBOT, &to, &id, &answer(round)));
        gateway.postern.drained();
    }
    let parked = gateway.postern.metric("postern_ledger_parked");
    let told = gateway.product.messages().len();
    eventually("all is counted", || {
        gateway.postern.metric("postern_ledger_received") == ROUNDS as f64
    });
    assert_eq!(parked as usize + told, ROUNDS, "{}", gateway.postern.log());
    let held = gateway.postern.log().matches("loop_breaker").count();
    assert!(held >= parked as usize, "{}", gateway.postern.log());
    (told, parked as usize)
}

#[test]
fn a_robot_that_counts_or_says_little_is_held_after_five_rounds() {
    let counts = talk(|round| format!("Your ticket is #{}, we will answer soon.", 1001 + round));
    assert_eq!(counts, (5, 10));
    assert_eq!(talk(|_| "Got it, thanks!".to_owned()), (5, 10));
}
