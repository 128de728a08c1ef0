//! The signs of machines, measured both ways on every mail whose right kind is known: people's mails that
//! would be dropped, and machines' mails that would be posted as people's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use postern::delivery::policy::{Disposition, KindActions};
use postern::mail::address::Domain;
use postern::mail::kind::{Classification, ClassifyContext, MailKind, ReversePath, classify};
use postern::mail::view::View;
use serde_json::Value;

use crate::needs::fixtures;

/// Signs that prove nothing alone: a header line each.
const WEAK: [&str; 6] = [
    "Precedence: bulk",
    "Precedence: junk",
    "X-Auto-Response-Suppress: All",
    "X-Auto-Response-Suppress: OOF, AutoReply",
    "X-Auto-Response-Suppress: DR, RN, NRN",
    "Return-Path: <>",
];

/// Proof of a machine: a header line each.
const PROOF: [&str; 7] = [
    "Auto-Submitted: auto-replied",
    "Auto-Submitted: auto-generated (cron)",
    "X-Autoreply: yes",
    "X-Vacation: on",
    "X-MDAutoresponder: 1",
    "Precedence: auto_reply",
    "Content-Class: urn:content-classes:OofTemplate.Plain",
];

/// Lines that negate a sign, or resemble one.
const NO_SIGN: [&str; 4] = [
    "Auto-Submitted: no",
    "X-Autoreply: no",
    "X-Auto-Response-Suppress: None",
    "Precedence: normal",
];

/// A mail and its right kind.
struct Known {
    name: String,
    bytes: Vec<u8>,
    /// True if a person wrote it.
    is_persons: bool,
    has_null_sender: bool,
}

fn decided(bytes: &[u8], has_null_sender: bool) -> (Classification, Disposition) {
    let domains = [Domain::parse("inbox.example.com").unwrap()];
    let context = ClassifyContext {
        sender: if has_null_sender {
            ReversePath::Null
        } else {
            ReversePath::Unknown
        },
        loop_mark: Some("this-instance"),
        message_id_domains: &domains,
        ..ClassifyContext::UNKNOWN
    };
    let (found, _) = classify(&View::parse(&Bytes::copy_from_slice(bytes)), &context);
    let disposition = Disposition::of(&KindActions::default(), &found, has_null_sender);
    (found, disposition)
}

fn mails(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "eml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect()
}

/// The right kind by an entry of `expected.json`; `None` if it may be either.
fn is_persons(expected: &Value) -> Option<bool> {
    if expected.get("rcpt").is_some() {
        return Some(false);
    }
    match &expected["kind"] {
        Value::Null => Some(true),
        Value::String(kind) => match kind.as_str() {
            "person" | "calendar" | "list" => Some(true),
            _ => Some(false),
        },
        _ => None,
    }
}

/// Every mail of a kind that is known. Mail of lists and answers to invitations count as people's: they are
/// posted.
fn all_known() -> Vec<Known> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails");
    let mut known = Vec::new();
    let mut add = |folder: &Path, label: &str, right: &dyn Fn(&str) -> Option<(bool, bool)>| {
        for (name, bytes) in mails(folder) {
            if let Some((is_persons, has_null_sender)) = right(&name) {
                known.push(Known {
                    name: format!("{label}/{name}"),
                    bytes,
                    is_persons,
                    has_null_sender,
                });
            }
        }
    };
    let expected = |folder: &Path| -> BTreeMap<String, Value> {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        match serde_json::from_str(&text).unwrap() {
            Value::Array(cases) => cases
                .into_iter()
                .map(|case| {
                    let mut wanted = case["expect"].clone();
                    wanted["env"] = case["env"].clone();
                    (case["name"].as_str().unwrap().to_owned(), wanted)
                })
                .collect(),
            Value::Object(cases) => cases.into_iter().collect(),
            other => panic!("{other}"),
        }
    };
    add(&tests, "mails", &|_| Some((true, false)));
    add(&tests.join("between"), "between", &|_| Some((true, false)));
    for folder in ["kind", "understood"] {
        let folder = tests.join(folder);
        let wanted = expected(&folder);
        add(
            &folder,
            folder.file_name().unwrap().to_str().unwrap(),
            &|name| {
                is_persons(&wanted[name])
                    .map(|persons| (persons, wanted[name].get("rcpt").is_some()))
            },
        );
    }
    if let Some(folder) = fixtures("cases") {
        let wanted = expected(&folder);
        add(&folder, "cases", &|name| {
            let null = wanted[name]["env"]["from"] == "<>" || wanted[name].get("rcpt").is_some();
            is_persons(&wanted[name]).map(|persons| (persons, null))
        });
    }
    if let Some(folder) = fixtures("dsn") {
        add(&folder, "dsn", &|_| Some((false, false)));
    }
    if let Some(folder) = fixtures("mime") {
        let machines = [
            "multi_address_bounce2",
            "raw_email_trailing_dot",
            "report_422",
        ];
        add(&folder, "mime", &|name| {
            Some((!machines.contains(&name), false))
        });
    }
    known
}

/// Machines' mails that are posted as people's, because nothing in them proves a machine.
const POSTED_MACHINES: [&str; 0] = [];

/// People's mails that carry a sign of their own, so one more makes two: a name, and the line that may drop
/// it. The text of a bounce with the null sender is a bounce, and the subject "Urlaub" above the text of an
/// absent person is an absence note if it answers a mail.
const SIGNED_PEOPLE: [(&str, &str); 8] = [
    ("kind/person-asks-about-bounce", "Return-Path: <>"),
    ("kind/person-attaches-bounce", "Return-Path: <>"),
    ("kind/person-delivery-problem", "Return-Path: <>"),
    ("kind/person-delivery-status-word", "Return-Path: <>"),
    ("kind/person-forwards-bounce", "Return-Path: <>"),
    ("kind/person-forwards-parts", "Return-Path: <>"),
    ("kind/person-mail-local", "Return-Path: <>"),
    ("kind/person-holiday", ""),
];

#[test]
fn no_person_is_dropped_and_few_machines_are_posted() {
    let (mut people, mut machines, mut held) = (0, 0, 0);
    let mut dropped = Vec::new();
    let mut posted = BTreeSet::new();
    for mail in all_known() {
        let (found, disposition) = decided(&mail.bytes, mail.has_null_sender);
        if mail.is_persons {
            people += 1;
            held += usize::from(matches!(disposition, Disposition::Hold(_)));
            if matches!(disposition, Disposition::Drop(_)) {
                dropped.push(format!("{}: {} by {}", mail.name, found.kind, found.rule));
            }
        } else {
            machines += 1;
            if disposition == Disposition::Post(MailKind::Person) {
                posted.insert(mail.name);
            }
        }
    }
    println!("people: {people}, dropped {}, held {held}", dropped.len());
    println!("machines: {machines}, posted {}", posted.len());
    assert!(dropped.is_empty(), "people dropped: {dropped:#?}");
    assert!(people >= 900 && machines >= 100, "{people} {machines}");
    let excepted: BTreeSet<String> = POSTED_MACHINES.map(str::to_owned).into();
    let more: Vec<&String> = posted.difference(&excepted).collect();
    assert!(more.is_empty(), "machines posted as people: {more:#?}");
}

/// The mail with one more header line on top.
fn with(line: &str, mail: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\n", mail].concat()
}

/// The mail as an answer, which all signs must weigh against.
fn as_answer(mail: &[u8]) -> Vec<u8> {
    with("In-Reply-To: <n-1@inbox.example.net>", mail)
}

#[test]
fn each_sign_has_its_weight_on_every_persons_mail() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let is_bare = |mail: &Known| {
        let (found, _) = decided(&mail.bytes, mail.has_null_sender);
        mail.is_persons && !mail.has_null_sender && found.rule == "nothing_says_machine"
    };
    for mail in all_known().iter().filter(|mail| is_bare(mail)) {
        count += 1;
        let mut check = |line: &str, bytes: &[u8], holds: &dyn Fn(Disposition) -> bool| {
            let (found, disposition) = decided(&with(line, bytes), false);
            let is_signed = SIGNED_PEOPLE
                .iter()
                .any(|(name, sign)| *name == mail.name && line.starts_with(sign));
            if !holds(disposition) && !is_signed {
                wrong.push(format!(
                    "{} with {line}: {disposition:?} by {}",
                    mail.name, found.rule
                ));
            }
        };
        let answer = as_answer(&mail.bytes);
        for line in WEAK {
            // In doubt, a mail is posted or held.
            check(line, &answer, &|it| !matches!(it, Disposition::Drop(_)));
            check(line, &mail.bytes, &|it| !matches!(it, Disposition::Drop(_)));
        }
        for line in NO_SIGN {
            check(line, &answer, &|it| {
                it == Disposition::Post(MailKind::Person)
            });
        }
        for line in PROOF {
            check(line, &answer, &|it| matches!(it, Disposition::Drop(_)));
        }
        let two = with(WEAK[2], &answer);
        check(WEAK[0], &two, &|it| matches!(it, Disposition::Drop(_)));
    }
    println!("{count} people's mails");
    assert!(count >= 800, "{count}");
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
