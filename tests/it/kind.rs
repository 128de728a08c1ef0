//! Kinds and reports of mails in files: our own with expected results, and bounces that others have
//! collected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use postern::mail::address::Domain;
use postern::mail::dsn::Report;
use postern::mail::kind::{Classification, ClassifyContext, MailKind, classify};
use postern::mail::view::View;
use serde_json::{Value, json};

use crate::needs::fixtures;

const MARK: &str = "this-instance";

fn classified(bytes: &[u8]) -> (Classification, Option<Report>) {
    let domains = [Domain::parse("inbox.example.com").unwrap()];
    let context = ClassifyContext {
        loop_mark: Some(MARK),
        message_id_domains: &domains,
        ..ClassifyContext::UNKNOWN
    };
    classify(&View::parse(&Bytes::copy_from_slice(bytes)), &context)
}

fn mails(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut mails = BTreeMap::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "eml") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            mails.insert(name, std::fs::read(&path).unwrap());
        }
    }
    mails
}

/// The values of a field that stand anywhere in a mail, lower-cased.
fn values(bytes: &[u8], name: &str) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let mark = format!("{name}:");
    text.lines()
        .filter_map(|line| line.strip_prefix(&mark))
        .map(|value| value.trim().to_owned())
        .collect()
}

/// The status fields of a report, without the text after the code.
fn statuses(bytes: &[u8]) -> BTreeSet<String> {
    let code = |value: String| {
        value
            .split([' ', '('])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    values(bytes, "status").into_iter().map(code).collect()
}

#[test]
fn third_party_bounces_are_recognised() {
    let Some(folder) = fixtures("dsn") else {
        return;
    };
    let mut counts = BTreeMap::from([
        ("mails", 0),
        ("recognised", 0),
        ("recipient", 0),
        ("status", 0),
        ("original id", 0),
    ]);
    let mut count = |what| *counts.entry(what).or_default() += 1;
    let mut wrong = Vec::new();
    for (name, bytes) in mails(&folder) {
        count("mails");
        let (finding, report) = classified(&bytes);
        let complaint = name.starts_with("arf-");
        let delayed = values(&bytes, "action").contains("delayed")
            || values(&bytes, "subject")
                .iter()
                .any(|s| s.contains("(delay)"));
        let wanted = match (complaint, delayed) {
            (true, _) => MailKind::FeedbackReport,
            (_, true) => MailKind::DelayNotice,
            _ => MailKind::Bounce,
        };
        let Some(report) = report.filter(|_| finding.kind == wanted) else {
            wrong.push(format!("{name}: {} by {}", finding.kind, finding.rule));
            continue;
        };
        count("recognised");
        if report.original.message_id.is_some() {
            count("original id");
        }
        if report.recipients.is_empty() {
            wrong.push(format!("{name}: no recipient"));
        } else {
            count("recipient");
        }
        let finals = values(&bytes, "final-recipient");
        let stated = statuses(&bytes);
        for recipient in &report.recipients {
            let address = recipient.address.to_string().to_ascii_lowercase();
            if !finals.is_empty() && !finals.iter().any(|value| value.ends_with(&address)) {
                wrong.push(format!("{name}: {address} is no Final-Recipient"));
            }
            let status = recipient
                .status
                .map(|status| status.to_string())
                .unwrap_or_default();
            if !complaint && (status.is_empty() || !stated.is_empty() && !stated.contains(&status))
            {
                wrong.push(format!("{name}: status {status:?}, stated {stated:?}"));
            }
        }
        if complaint || report.recipients.iter().all(|r| r.status.is_some()) {
            count("status");
        }
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The result for a mail, in the form of `expected.json`.
fn told(finding: &Classification, report: Option<&Report>, key: &str) -> Value {
    match key {
        "kind" => return json!(finding.kind),
        "rule" => return json!(finding.rule),
        _ => {}
    }
    let Some(report) = report else {
        return Value::Null;
    };
    let first = report.recipients.first();
    match key {
        "recipients" => report
            .recipients
            .iter()
            .map(|r| json!({"address": r.address, "status": r.status, "action": r.action}))
            .collect(),
        "message_id" => json!(report.original.message_id),
        "envelope_id" => json!(report.original.envelope_id),
        "reply_address" => json!(report.original.reply_addresses.first().map(|a| a.expose())),
        "reason" => json!(first.map(|r| r.reason)),
        "remote_mta" => json!(first.and_then(|r| r.remote_mta.as_ref())),
        "reporting_mta" => json!(report.reporting_mta),
        "outcome" => json!(report.outcome()),
        "feedback" => json!(report.feedback.as_ref().map(|f| &f.kind)),
        "disposition" => json!(report.disposition),
        other => panic!("expected.json: {other}: nobody knows this word"),
    }
}

#[test]
fn golden_mails_have_the_expected_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails/kind");
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&expected).unwrap();
    let mails = mails(&folder);
    assert!(
        mails.keys().eq(expected.keys()),
        "a mail without expectation, or the other way round"
    );
    let mut wrong = Vec::new();
    for (name, wanted) in &expected {
        let (finding, report) = classified(&mails[name]);
        for (key, value) in wanted {
            let found = told(&finding, report.as_ref(), key);
            if found != *value {
                wrong.push(format!(
                    "{name}: {key}: wanted {value}, found {found} ({})",
                    finding.rule
                ));
            }
        }
        if finding.kind.is_person() && report.is_some() {
            wrong.push(format!("{name}: a person's mail is no report"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every mail cut short at many places, and with changed bytes: never a panic.
#[test]
fn broken_mails_do_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails/kind");
    for (name, bytes) in mails(&folder)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("ooo-"))
    {
        for at in (0..bytes.len()).step_by(97) {
            let cut = classified(&bytes[..at]);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let wrong = classified(&flipped);
            for (finding, report) in [cut, wrong] {
                let recipients = report.map_or(0, |report| report.recipients.len());
                assert!(
                    recipients <= postern::mail::dsn::RECIPIENTS_MAX,
                    "{name}: {}",
                    finding.rule
                );
            }
        }
    }
}
