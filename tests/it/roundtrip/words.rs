//! The author of words: a person may repeat our text as their own, or write none.

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{Gateway, arrived, event, letter, read, with_postfix};
use crate::postern::DOMAIN;
use crate::sink::{Kept, Sink};

const ANN: &str = "ann@sink.test";
const STYLES: [&str; 4] = ["plain", "gmail", "outlook", "german"];

/// Ann answers a mail in the way of a mail program; returns the `count`th message of the product.
fn answered(gateway: &Gateway, heard: &Kept, style: &str, words: &str, count: usize) -> Value {
    let id = format!("<a{count}@sink.test>");
    let seen = read(
        &heard.bytes,
        json!({ "style": style, "words": words, "from": ANN, "id": id }),
    );
    let answer = BASE64.decode(seen["answer"].as_str().unwrap().as_bytes());
    gateway.swaks(ANN, seen["to"].as_str().unwrap(), &answer.unwrap());
    gateway.told(count).1
}

/// A conversation that Ann begins with the `count`th message; returns its thread. She answers at once, as
/// no person does repeatedly, so each has few answers.
fn begun(gateway: &Gateway, count: usize) -> String {
    let general = format!("general@{DOMAIN}");
    let id = format!("b{count}@sink.test");
    let start = letter(ANN, &general, &id, "I wait for it.");
    gateway.swaks(ANN, &general, &start);
    gateway.told(count).0
}

#[test]
fn an_answer_may_repeat_our_text() {
    let sink = Sink::start();
    let (gateway, _postfix, _folder) = with_postfix(&sink, "");
    let short = "It left us today.";
    let long = "It left us today.\n\nDo you want it left with a neighbour on Monday?";
    let answers = [
        (short, short),
        (short, "It left us today.\n\nSo I read, and it is not here."),
        (short, "You write:\n\nIt left us today.\n\nIt did not."),
        (long, long),
        (
            long,
            "Do you want it left with a neighbour on Monday?\n\nYes, I do.",
        ),
        (
            long,
            "You ask me this.\n\nDo you want it left with a neighbour on Monday?",
        ),
    ];
    let (mut sent, mut told) = (0, 0);
    for (ours, words) in answers {
        told += 1;
        let thread = begun(&gateway, told);
        for style in STYLES {
            (sent, told) = (sent + 1, told + 1);
            gateway.say(&event(&thread, &format!("m{sent}"), ours));
            let heard = arrived(&sink, sent);
            let message = answered(&gateway, &heard, style, words, told);
            assert_eq!(message["body"], words, "{style}: {message}");
        }
    }
}

#[test]
fn an_answer_with_only_quotes_keeps_its_text() {
    let sink = Sink::start();
    let (gateway, _postfix, _folder) = with_postfix(&sink, "");
    let (mut sent, mut told) = (0, 0);
    // The signature of a mail program is not a person's text.
    for words in ["", "-- \nAnn"] {
        told += 1;
        let thread = begun(&gateway, told);
        for style in STYLES {
            (sent, told) = (sent + 1, told + 1);
            gateway.say(&event(&thread, &format!("m{sent}"), "It left us today."));
            let heard = arrived(&sink, sent);
            let message = answered(&gateway, &heard, style, words, told);
            let body = message["body"].as_str().unwrap();
            assert!(body.contains("It left us today."), "{style}: {message}");
        }
    }
}
