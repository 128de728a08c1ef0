//! The public test suites for RFC 7208 (openspf) and for ARC validation (ValiMail), from `tests/suites`,
//! with their licences beside them.

use std::net::IpAddr;
use std::path::PathBuf;

use postern::auth::Authenticator;
use postern::clock::{self, Timestamp};
use postern::mail::verdict::AuthResult;
use serde_json::Value;

use super::{authenticator, input, python};
use crate::nameserver::{Mood, NameServer, Zone};

/// A file of `tests/suites` as JSON.
fn suite(name: &str) -> Vec<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/suites");
    let answer = python(&serde_json::json!({ "yaml": folder.join(name) }));
    answer.as_array().unwrap().clone()
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// The zone of one section of the SPF suite. Its SPF records are the TXT records of RFC 7208.
fn spf_zone(data: &Value) -> Zone {
    let mut zone = Zone::default();
    for (name, entries) in data.as_object().unwrap() {
        let entries = entries.as_array().unwrap();
        zone.add_empty(name);
        let has_txt = entries.iter().any(|entry| entry.get("TXT").is_some());
        for entry in entries {
            let Some(entry) = entry.as_object() else {
                assert_eq!(entry, "TIMEOUT");
                zone.set_mood(name, Mood::FailOnOthers);
                continue;
            };
            let (kind, value) = entry.iter().next().unwrap();
            let text = || value.as_str().unwrap();
            match kind.as_str() {
                "SPF" if has_txt => {}
                "SPF" | "TXT" if value == "NONE" => {}
                "SPF" | "TXT" if value == "TIMEOUT" => zone.set_mood(name, Mood::FailOnOthers),
                "SPF" | "TXT" => zone.add_txt(name, texts(value).concat().as_bytes()),
                "A" | "AAAA" => zone.add_address(name, text().parse().unwrap()),
                "MX" => {
                    let exchange = value[1].as_str().unwrap();
                    let preference = value[0].as_u64().unwrap();
                    zone.add_mx(name, preference.try_into().unwrap(), exchange);
                }
                "PTR" => zone.add_ptr(name, text()),
                "CNAME" => zone.add_cname(name, text()),
                other => panic!("{name}: unknown kind {other}"),
            }
        }
    }
    zone
}

#[tokio::test]
async fn the_suite_of_rfc_7208_holds() {
    let sections = suite("rfc7208-tests.yml");
    let (mut count, mut failures) = (0, Vec::new());
    for section in &sections {
        let server = NameServer::start(spf_zone(&section["zonedata"])).await;
        for (name, case) in section["tests"].as_object().unwrap() {
            count += 1;
            let auth = authenticator(&server);
            let ip: IpAddr = case["host"].as_str().unwrap().parse().unwrap();
            let said = |key: &str| case[key].as_str().unwrap_or_default();
            let found = auth.check_spf(ip, said("helo"), said("mailfrom")).await;
            let allowed = texts(&case["result"]);
            if !allowed.contains(&found.result.to_string()) {
                failures.push(format!(
                    "{name} ({}): {} instead of {allowed:?}: {:?}",
                    case["spec"], found.result, found.reason
                ));
            }
        }
    }
    println!("RFC 7208: {} of {count} cases", count - failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(count >= 200, "only {count} cases were found");
}

/// A mail of the suite with CRLF line ends.
fn mail_of(text: &str) -> Vec<u8> {
    text.replace("\r\n", "\n")
        .replace('\n', "\r\n")
        .into_bytes()
}

/// Cases that the suite passes although `h=` breaks the grammar of RFC 6376 section 3.5: it names no field
/// at all, or an empty one. They are refused here.
const REFUSED: [&str; 2] = ["ams_fields_h_empty", "ams_fields_h_mis_hdr"];

#[tokio::test]
async fn the_suite_for_arc_validation_holds() {
    let sections = suite("arc-draft-validation-tests.yml");
    let (mut count, mut failures) = (0, Vec::new());
    for section in &sections {
        let mut zone = Zone::default();
        for (name, text) in section["txt-records"].as_object().unwrap() {
            zone.add_txt(name, text.as_str().unwrap().as_bytes());
        }
        let server = NameServer::start(zone).await;
        for (name, case) in section["tests"].as_object().unwrap() {
            count += 1;
            let mail = mail_of(case["message"].as_str().unwrap());
            let found = arc_of(&authenticator(&server), mail, clock::now()).await;
            let expected = match case["cv"].as_str().unwrap_or_default().trim() {
                _ if REFUSED.contains(&name.as_str()) => AuthResult::Fail,
                "Pass" => AuthResult::Pass,
                // The suite belongs to a draft that did not define a seal with cv=fail; RFC 8617 section
                // 5.2 step 2 defines it as fail.
                "Fail" | "" => AuthResult::Fail,
                "None" => AuthResult::None,
                other => panic!("{name}: unknown cv {other}"),
            };
            if found.0 != expected {
                failures.push(format!(
                    "{name}: {} instead of {expected}: {:?}: {}",
                    found.0, found.1, case["description"]
                ));
            }
        }
    }
    println!(
        "ARC validation: {} of {count} cases, {} of them refused where the suite lets them pass",
        count - failures.len(),
        REFUSED.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(count >= 160, "only {count} cases were found");
}

async fn arc_of(
    auth: &Authenticator,
    mail: Vec<u8>,
    now: Timestamp,
) -> (AuthResult, Option<String>) {
    let bytes = mail.into();
    let mut input = input(&bytes);
    input.received_at = now;
    let arc = auth.check(input).await.arc;
    (arc.result, arc.reason)
}
