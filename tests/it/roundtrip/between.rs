//! Answers that people write between the lines of our text, which is known because we sent it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{Gateway, field, first, letter, read};
use crate::needs::fixtures;
use crate::relay::server::{Act, Fake};

const ANN: &str = "ann@sink.test";

/// The text that we send, and the message that the answer must become.
#[derive(Deserialize)]
struct Expected {
    known: String,
    text: String,
}

/// A Postern, the relay that takes its mails, and the number of conversations so far.
struct Talks {
    relay: Fake,
    gateway: Gateway,
    count: usize,
}

impl Talks {
    fn start() -> Self {
        let relay = Fake::start(|_, _| Act::Usual);
        let gateway = Gateway::start(relay.port, "");
        Self {
            relay,
            gateway,
            count: 0,
        }
    }

    /// Sends `known` to a person in a new thread; returns our mail as Python reads it.
    fn said(&mut self, known: &str) -> serde_json::Value {
        self.count += 1;
        let mut event = first(
            &format!("thread-of-test-{}", self.count),
            &format!("m{}", self.count),
            ANN,
        );
        event["messageText"] = json!(known);
        let job = self.gateway.say(&event);
        self.gateway.becomes(&job, "sent");
        read(&self.relay.taken().pop().unwrap().bytes, json!({}))
    }

    /// Delivers the person's answer to our mail; returns the text of the product's message.
    fn answered(&self, ours: &serde_json::Value, mail: &str) -> String {
        let to = field(ours, "Reply-To");
        let lines: Vec<&str> = mail.lines().collect();
        let mail = lines.join("\r\n") + "\r\n";
        self.gateway.swaks(ANN, to, mail.as_bytes());
        let message = self.gateway.told(self.count).1;
        assert_eq!(message["kind"], "person", "{message}");
        message["body"].as_str().unwrap().to_owned()
    }
}

fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim().to_owned()
}

#[test]
fn answers_between_our_lines_are_posted_as_the_persons() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails/between");
    let expected = fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&expected).unwrap();
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        expected.len() + 1,
        "a mail without expectation, or the other way round"
    );
    let mut talks = Talks::start();
    let mut wrong = Vec::new();
    for (name, wanted) in &expected {
        let mail = fs::read_to_string(folder.join(format!("{name}.eml"))).unwrap();
        let ours = talks.said(&wanted.known);
        let id = field(&ours, "Message-ID").trim_matches(['<', '>']);
        let mail = mail
            .replace("{ours}", id)
            .replace("{to}", field(&ours, "Reply-To"));
        let text = talks.answered(&ours, &mail);
        if trimmed(&text) != trimmed(&wanted.text) {
            wrong.push(format!(
                "--- {name}:\n{text}\n=== instead of\n{}",
                wanted.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The mail that really left, in the way of three mail programs that do not mark the lines of the old mail.
#[test]
fn answers_between_the_lines_of_the_mail_that_left_are_found() {
    let talk = [
        (
            "Hallo Uwe,\n\nwelche Farbe?\n\nwelche Adresse?\n\nDer Laden",
            "Meine Antworten stehen unten.\n\n________________________________\nVon: Sam via Product \
             <support@product.test>\nGesendet: Montag, 16. November 2026 10:11\nAn: Ann\nBetreff: Your order\n\n",
        ),
        (
            "Ciao Ugo,\n\ncolore?\n\nindirizzo?\n\nIl negozio",
            "Vedi sotto.\n\nDa: Sam via Product <support@product.test>\nInviato: lunedì 16 novembre 2026 10:11\n\
             A: Ann\nOggetto: Your order\n\n",
        ),
        (
            "Anna,\n\nКакой цвет?\n\nКакой адрес?\n\nМагазин",
            "Ответила ниже.\n\n-------- Исходное сообщение --------\nОт: Sam via Product <support@product.test>\n\
             Дата: 16.11.2026 10:11 (GMT+03:00)\nКому: Ann\nТема: Your order\n\n",
        ),
    ];
    let answers = ["Zzz blau 44", "Qqq 5, 10115"];
    let mut talks = Talks::start();
    for (known, head) in talk {
        let ours = talks.said(known);
        let questions: Vec<&str> = known.lines().filter(|line| line.ends_with('?')).collect();
        let mut quoted = String::new();
        for line in field_text(&ours).lines() {
            quoted.push_str(line);
            quoted.push('\n');
            if let Some(at) = questions.iter().position(|asked| *asked == line.trim()) {
                quoted.push_str(&format!("\n{}\n", answers[at]));
            }
        }
        let to = field(&ours, "Reply-To");
        let id = format!("left-{}@sink.test", talks.count);
        let mail = letter(ANN, to, &id, &format!("{head}{quoted}"));
        let text = talks.answered(&ours, &String::from_utf8(mail).unwrap());
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for answer in answers {
            assert!(lines.contains(&answer), "{answer:?} is not in {text}");
        }
        for asked in questions {
            assert!(!lines.contains(&asked), "{asked:?} is the person's: {text}");
        }
    }
}

fn field_text(ours: &serde_json::Value) -> &str {
    ours["text"].as_str().unwrap()
}

#[test]
fn answers_between_our_lines_in_mails_of_others() {
    let Some(folder) = fixtures("cases") else {
        return;
    };
    let cases = fs::read_to_string(folder.join("expected.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
    let mut talks = Talks::start();
    for case in &cases {
        let Some(known) = case["known"].as_str() else {
            continue;
        };
        let name = case["name"].as_str().unwrap();
        let mail = fs::read_to_string(folder.join(format!("{name}.eml"))).unwrap();
        let ours = talks.said(known);
        let text = talks.answered(&ours, &mail);
        let body = mail.split("Content-Type: text/html").next().unwrap();
        let body = body.replace("=C3=9F", "ß").replace("=\r\n", "");
        let above = body.rfind("Hello Ann").unwrap();
        let known: Vec<&str> = known.lines().collect();
        let answers: Vec<&str> = body[above..]
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("--") && !known.contains(line))
            .collect();
        assert!(answers.len() >= 2, "{name}: {answers:?}");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for answer in answers {
            assert!(lines.contains(&answer), "{name}: {answer:?} in {text}");
        }
        for asked in known.iter().filter(|line| line.ends_with('?')) {
            assert!(!lines.contains(asked), "{name}: {asked:?} in {text}");
        }
    }
    assert!(talks.count >= 2);
}
