//! Broken signatures of every kind: none authenticates the author.

use std::time::Duration;

use bytes::Bytes;
use postern::auth::{Identity, identity};
use postern::clock;
use postern::mail::verdict::{AuthResult, DkimVerdict};
use serde_json::{Value, json};

use super::{address, as_domain, keys, mail_by, replaced, signed, verdict, with, zone_of};
use crate::nameserver::Zone;

const DOMAIN: &str = "example.com";
const ANN: &str = "ann@example.com";

/// A mail that must not count as Ann's, and the result of its signature.
struct Broken {
    name: &'static str,
    zone: Zone,
    mail: Bytes,
    outcome: AuthResult,
}

fn zone() -> Zone {
    zone_of(DOMAIN)
}

fn broken(name: &'static str, mail: Bytes, outcome: AuthResult) -> Broken {
    Broken {
        name,
        zone: zone(),
        mail,
        outcome,
    }
}

/// Errors of the signer, and signatures that are not sufficient.
fn broken_by_the_signer() -> Vec<Broken> {
    let now = clock::now();
    let ago = |secs| now.minus(Duration::from_secs(secs)).as_secs();
    let past = json!({ "time": ago(7_200), "tags": { "x": ago(60).to_string() } });
    let cases: [(&str, Value, AuthResult); 7] = [
        ("l=", json!({ "length": true }), AuthResult::Policy),
        ("l=0", json!({ "tags": { "l": "0" } }), AuthResult::Policy),
        ("x= past", past, AuthResult::Policy),
        (
            "t= future",
            json!({ "time": now.as_secs() + 90_000 }),
            AuthResult::Policy,
        ),
        (
            "h= without From",
            json!({ "names": ["to", "date"] }),
            AuthResult::Permerror,
        ),
        (
            "rsa-sha1",
            json!({ "algorithm": "rsa-sha1" }),
            AuthResult::Policy,
        ),
        (
            "a tag twice",
            json!({ "tags": { "d": "evil.example" } }),
            AuthResult::Permerror,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, more, outcome)| {
            let step = with(as_domain(DOMAIN), more);
            broken(name, signed(&mail_by(ANN), &[step]), outcome)
        })
        .collect()
}

/// Changes of the mail on its way.
fn broken_on_the_way() -> Vec<Broken> {
    let part = with(as_domain(DOMAIN), json!({ "length": true }));
    let part = signed(&mail_by(ANN), &[part]);
    let html = "And more.\r\n\r\n<h1>Pay here instead</h1>\r\n";
    let html = replaced(&part, "And more.\r\n", html);
    let whole = signed(&mail_by(ANN), &[as_domain(DOMAIN)]);
    let mut cases = vec![broken("l= and appended HTML", html, AuthResult::Policy)];
    for (name, from, to, outcome) in [
        (
            "i=",
            "i=@example.com",
            "i=@evil.example",
            AuthResult::Permerror,
        ),
        ("the body", "Some  words", "Other words", AuthResult::Fail),
        (
            "a field",
            "Subject: A reply",
            "Subject: Pay",
            AuthResult::Fail,
        ),
        ("the author", "From: ann@", "From: bob@", AuthResult::Fail),
        ("the value", " b=", " b=AAAA", AuthResult::Fail),
        (
            "a line that is no field",
            "Subject:",
            "junk\r\nSubject:",
            AuthResult::Permerror,
        ),
    ] {
        cases.push(broken(name, replaced(&whole, from, to), outcome));
    }
    cases
}

fn broken_by_the_key() -> Vec<Broken> {
    let good = as_domain(DOMAIN);
    let record = keys().rsa.record.as_str();
    // Another number in the middle of the modulus gives another key.
    let other = record.replacen(&record[150..154], "AAAA", 1);
    let keyless = || {
        Zone::default()
            .txt("_dmarc.example.com", "v=DMARC1; p=reject")
            .txt("example.com", "v=spf1 -all")
    };
    let name = "s1._domainkey.example.com";
    let whole = signed(&mail_by(ANN), std::slice::from_ref(&good));
    let make = |title, records: &[&str], outcome| Broken {
        name: title,
        zone: records
            .iter()
            .fold(keyless(), |zone, record| zone.txt(name, record)),
        mail: whole.clone(),
        outcome,
    };
    let flagged = |flag: &str| record.replace("v=DKIM1;", &format!("v=DKIM1; {flag};"));
    let weak = json!({ "private": keys().weak.private });
    let below = json!({ "identity": "ann@sub.example.com" });
    vec![
        make("t=y", &[&flagged("t=y")], AuthResult::Policy),
        make(
            "another service",
            &[&flagged("s=tlsrpt")],
            AuthResult::Permerror,
        ),
        make("another hash", &[&flagged("h=sha1")], AuthResult::Permerror),
        make("revoked", &["v=DKIM1; p="], AuthResult::Permerror),
        make("no key", &[], AuthResult::Permerror),
        make(
            "two keys",
            &[record, &keys().ed25519.record],
            AuthResult::Permerror,
        ),
        make(
            "the same key twice",
            &[record, record],
            AuthResult::Permerror,
        ),
        make(
            "does not match a=",
            &[&keys().ed25519.record],
            AuthResult::Permerror,
        ),
        make("another key", &[&other], AuthResult::Fail),
        Broken {
            name: "512 bits",
            zone: keyless().txt(name, &keys().weak.record),
            mail: signed(&mail_by(ANN), &[with(good.clone(), weak)]),
            outcome: AuthResult::Policy,
        },
        Broken {
            name: "t=s and a subdomain's agent",
            zone: keyless().txt(name, flagged("t=s")),
            mail: signed(&mail_by(ANN), &[with(good, below)]),
            outcome: AuthResult::Permerror,
        },
    ]
}

#[tokio::test]
async fn broken_signatures_do_not_verify() {
    let by_the_mail = broken_by_the_signer()
        .into_iter()
        .chain(broken_on_the_way());
    for case in by_the_mail.chain(broken_by_the_key()) {
        let name = case.name;
        let verdict = verdict(case.zone, &case.mail).await;
        let [DkimVerdict { result, reason, .. }] = verdict.dkim.as_slice() else {
            panic!("{name}: {:?}", verdict.dkim);
        };
        assert_eq!(*result, case.outcome, "{name}: {reason:?}");
        assert!(reason.is_some(), "{name}");
        assert_eq!(verdict.dmarc.result, AuthResult::Fail, "{name}");
        assert_ne!(
            identity(&verdict, Some(&address(ANN)), true, true),
            Identity::Verified,
            "{name}"
        );
    }
}
