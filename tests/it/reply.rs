//! Reply extraction from mails: third-party fixtures (if present) and our own golden mails.

use std::fs;
use std::path::{Path, PathBuf};

use postern::mail::reply::{Reply, ReplyInput, extract};

use crate::needs::fixtures;

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn of_text(text: &str) -> Reply {
    extract(&ReplyInput {
        text: Some(text),
        ..ReplyInput::default()
    })
}

#[test]
fn shared_fixtures_are_cut_exactly() {
    let Some(folder) = fixtures("reply") else {
        return;
    };
    let mut failed = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(folder.join("emails")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        let mail = fs::read_to_string(&path).unwrap();
        let expected = fs::read_to_string(folder.join("trimmed").join(&name)).unwrap();
        let reply = of_text(&mail);
        count += 1;
        if folded(&reply.text) != folded(&expected) {
            failed.push(format!(
                "--- {name:?} ({:?})\n{}\n",
                reply.method, reply.text
            ));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {count} fail\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(count >= 32, "only {count} fixtures");
}

/// The parts of a golden mail, decoded by mail-parser.
fn of_mail(raw: &[u8], known: &[&str]) -> Reply {
    let mail = mail_parser::MessageParser::default().parse(raw).unwrap();
    // `text_body` and `html_body` also list the other kind's part: only real parts count.
    let is = |at: u32, html: bool| match &mail.parts[at as usize].body {
        mail_parser::PartType::Html(_) => html,
        mail_parser::PartType::Text(_) => !html,
        _ => false,
    };
    let text = mail.text_body.iter().find(|at| is(**at, false));
    let html = mail.html_body.iter().find(|at| is(**at, true));
    extract(&ReplyInput {
        text: text.and_then(|at| mail.parts[*at as usize].text_contents()),
        html: html.and_then(|at| mail.parts[*at as usize].text_contents()),
        subject: mail.subject().unwrap_or_default(),
        known,
        ..ReplyInput::default()
    })
}

/// Compares one golden mail with its `.reply.json`; returns the difference, if any.
fn complaint(reply: &Reply, expected: &serde_json::Value) -> Option<String> {
    let words = |key: &str| {
        let list = expected[key].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|v| v.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let html = reply.html.clone().unwrap_or_default();
    let missing = |place: &str, part: &str, key: &str| {
        let lost = words(key)
            .into_iter()
            .find(|word| !part.contains(word.as_str()));
        lost.map(|word| format!("{place} lacks {word:?}: {part:?}"))
    };
    let surplus = |place: &str, part: &str, key: &str| {
        let found = words(key)
            .into_iter()
            .find(|word| part.contains(word.as_str()));
        found.map(|word| format!("{place} holds {word:?}: {part:?}"))
    };
    if folded(&reply.text) != folded(expected["text"].as_str().unwrap()) {
        return Some(format!(
            "text is\n{}\n  instead of\n{}",
            reply.text,
            expected["text"].as_str().unwrap()
        ));
    }
    if let Some(method) = expected["method"].as_str()
        && method != reply.method.as_str()
    {
        return Some(format!("method is {:?} instead of {method}", reply.method));
    }
    missing("quoted", &reply.quoted, "quoted")
        .or_else(|| missing("signature", &reply.signature, "signature"))
        .or_else(|| missing("html", &html, "html_has"))
        .or_else(|| surplus("html", &html, "html_lacks"))
        .or_else(|| surplus("text", &reply.text, "text_lacks"))
}

#[test]
fn golden_mails() {
    // POSTERN_MAILS names another folder of mails with expectations.
    let folder = std::env::var_os("POSTERN_MAILS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails"),
        PathBuf::from,
    );
    let mut complaints = Vec::new();
    let mut count = 0;
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(stem) = name.strip_suffix(".reply.json") else {
            continue;
        };
        let expected: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let raw = fs::read(path.with_file_name(format!("{stem}.eml"))).unwrap();
        let known: Vec<String> =
            serde_json::from_value(expected["known"].clone()).unwrap_or_default();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let reply = of_mail(&raw, &known);
        count += 1;
        if let Some(words) = complaint(&reply, &expected) {
            complaints.push(format!(
                "--- {stem} ({:?}, {:?}): {words}",
                reply.method, reply.confidence
            ));
        }
    }
    assert!(
        complaints.is_empty(),
        "{} of {count} differ\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    assert!(
        std::env::var_os("POSTERN_MAILS").is_some() || count >= 750,
        "only {count} golden mails"
    );
}
