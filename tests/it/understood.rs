//! Tests that Postern understands whole mails, by `mail explain`: each mail of a program in one of many
//! languages has its expected result.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::postern::Postern;

/// The differences between the expected result of one mail and the output of `mail explain`.
fn complaints(wanted: &Value, told: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let text = told["reply"]["text"].as_str().unwrap_or_default();
    let html = told["reply"]["html"].as_str().unwrap_or_default();
    let quoted = told["reply"]["quoted"].as_str().unwrap_or_default();
    let files = told["attachments"].as_array().unwrap();
    for (key, value) in wanted.as_object().unwrap() {
        let words = || {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap())
        };
        let all_in = |place: &str| words().all(|word| place.contains(word));
        let none_in = |place: &str| words().all(|word| !place.contains(word));
        let holds = match key.as_str() {
            "text" => text.trim() == value.as_str().unwrap(),
            "has" => all_in(text),
            "lacks" => none_in(text),
            "quoted" => all_in(quoted),
            "htmlHas" => all_in(html),
            "htmlLacks" => none_in(html),
            "atts" => {
                let mut names: Vec<&str> = files
                    .iter()
                    .map(|file| file["filename"].as_str().unwrap_or("-"))
                    .collect();
                names.sort_unstable();
                let mut wanted: Vec<&str> = words().collect();
                wanted.sort_unstable();
                names == wanted
            }
            "sizes" => files
                .iter()
                .map(|file| file["size"].clone())
                .eq(value.as_array().unwrap().clone()),
            "omitted" => value.as_array().unwrap().iter().all(|pair| {
                told["omitted"].as_array().is_some_and(|told| {
                    told.iter()
                        .any(|one| one["what"] == pair[0] && one["why"] == pair[1])
                })
            }),
            "calendar" => value
                .as_object()
                .unwrap()
                .iter()
                .all(|(name, value)| told["calendar"][name] == *value),
            "rcpt" => told["dsn"]["recipients"][0]["address"] == *value,
            "status" => told["dsn"]["recipients"][0]["status"] == *value,
            _ => told[key] == *value,
        };
        if !holds {
            wrong.push(format!("{key}: wanted {value}"));
        }
    }
    wrong
}

#[test]
fn mails_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mails/understood");
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_str(&expected).unwrap();
    let mails = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(
        mails,
        expected.len() + 1,
        "a mail without expectation, or the other way round"
    );
    let postern = Postern::new(None, "");
    let mut wrong = Vec::new();
    for (name, wanted) in &expected {
        let mail = folder.join(format!("{name}.eml"));
        let mut arguments = vec!["mail", "explain", mail.to_str().unwrap(), "--json"];
        if wanted.get("rcpt").is_some() {
            arguments.extend(["--from", "<>"]);
        }
        let out = postern.command(&arguments);
        let told = String::from_utf8_lossy(&out.stdout);
        let Ok(told) = serde_json::from_str(&told) else {
            wrong.push(format!("{name}: {out:?}"));
            continue;
        };
        let complaints = complaints(wanted, &told);
        if !complaints.is_empty() {
            wrong.push(format!("{name}: {}\n{:#}", complaints.join("; "), told));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
