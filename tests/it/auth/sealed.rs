//! Mails from a list, sealed by dkimpy, and the sealers that are trusted.

use bytes::Bytes;
use postern::auth::{
    AuthPolicy, Authenticator, Identity, PolicyDecision, PolicyRefusal, Settings, identity,
};
use postern::clock;
use postern::mail::verdict::{AuthResult, Verdict};
use serde_json::{Value, json};

use super::{
    address, as_domain, input, keys, mail_by, python, replaced, settings, signed, with, zone_of,
};
use crate::nameserver::{NameServer, Zone};

/// A step that seals a mail as a list does.
fn sealed_by(domain: &str, results: &str) -> Value {
    let more = json!({
        "server": format!("mx.{domain}"),
        "results": results,
        "time": clock::now().as_secs(),
    });
    with(as_domain(domain), more)
}

/// Ann's mail as a list forwards it, with another subject, and dkimpy's result for the chain.
fn through_a_list(results: &str) -> Bytes {
    let mail = signed(&mail_by("ann@example.com"), &[as_domain("example.com")]);
    let changed = replaced(&mail, "Subject: A reply", "Subject: [list] A reply");
    let text = String::from_utf8(changed.to_vec()).unwrap();
    signed(&text, &[sealed_by("list.example", results)])
}

async fn check_with_sealers(server: &NameServer, sealers: &[&str], mail: &Bytes) -> Verdict {
    let settings = Settings {
        arc_sealers: sealers.iter().map(ToString::to_string).collect(),
        ..settings(server)
    };
    Authenticator::new(settings).check(input(mail)).await
}

fn lists() -> Zone {
    zone_of("example.com")
        .txt("s1._domainkey.list.example", &keys().rsa.record)
        .txt("s1._domainkey.other.example", &keys().rsa.record)
}

#[tokio::test]
async fn only_trusted_sealers_count() {
    let server = NameServer::start(lists()).await;
    let ann = address("ann@example.com");
    let pass = "dmarc=pass header.from=example.com; arc=none";
    let mail = through_a_list(pass);
    for (sealers, is_vouched_for) in [
        (&["list.example"][..], true),
        (&["LIST.example"][..], true),
        (&[][..], false),
        (&["other.example"][..], false),
        (&["example"][..], false),
    ] {
        let verdict = check_with_sealers(&server, sealers, &mail).await;
        assert_eq!(verdict.arc.result, AuthResult::Pass, "{:?}", verdict.arc);
        assert_eq!(verdict.arc.sealers, ["list.example"]);
        assert_eq!(verdict.dmarc.result, AuthResult::Fail);
        let identity = identity(&verdict, Some(&ann), true, true);
        let decision = AuthPolicy::default().decide(&verdict, identity);
        let expected = if is_vouched_for {
            (Identity::Verified, PolicyDecision::Accept)
        } else {
            (
                Identity::TokenHolder,
                PolicyDecision::Refuse(PolicyRefusal::DmarcReject),
            )
        };
        assert_eq!((identity, decision), expected, "{sealers:?}");
    }
}

#[tokio::test]
async fn a_seal_must_cover_this_author_in_a_valid_chain() {
    let server = NameServer::start(lists()).await;
    let sealers = ["list.example"];
    for results in [
        "dmarc=fail header.from=example.com; arc=none",
        "dmarc=pass header.from=other.example; arc=none",
        "dmarc=none header.from=example.com; arc=none",
        "spf=pass smtp.mailfrom=example.com; arc=none",
    ] {
        let verdict = check_with_sealers(&server, &sealers, &through_a_list(results)).await;
        assert_eq!(
            verdict.arc.result,
            AuthResult::Pass,
            "{results}: {:?}",
            verdict.arc
        );
        assert!(!verdict.is_aligned(), "{results}");
    }
    let mail = through_a_list("dmarc=pass header.from=example.com; arc=none");
    for (from, to) in [
        ("Some  words", "Other words"),
        ("Subject: [list]", "Subject: [tsil]"),
        ("dmarc=pass header", "dmarc=pass  x=y header"),
        ("cv=none", "cv=pass"),
        ("ARC-Seal: i=1", "ARC-Seal: i=2"),
        ("\r\nSubject:", "\r\nARC-Seal: i=1; x\r\nSubject:"),
    ] {
        let verdict = check_with_sealers(&server, &sealers, &replaced(&mail, from, to)).await;
        assert_eq!(verdict.arc.result, AuthResult::Fail, "{from}");
        assert!(verdict.arc.reason.is_some(), "{from}");
        assert!(!verdict.is_aligned(), "{from}");
    }
}

#[tokio::test]
async fn trust_ends_at_the_first_untrusted_sealer() {
    let server = NameServer::start(lists()).await;
    let first = through_a_list("dmarc=pass header.from=example.com; arc=none");
    let text = String::from_utf8(first.to_vec()).unwrap();
    let second = sealed_by(
        "other.example",
        "dmarc=fail header.from=example.com; arc=pass",
    );
    let mail = signed(&text, &[second]);
    let records = json!({
        "s1._domainkey.list.example": keys().rsa.record,
        "s1._domainkey.other.example": keys().rsa.record,
    });
    let encoded = data_encoding::BASE64.encode(&mail);
    let theirs = python(&json!({ "mail": encoded, "verify": records }));
    assert_eq!(theirs["arc"], "pass");
    for (sealers, is_vouched_for) in [
        (&["list.example", "other.example"][..], true),
        (&["list.example"][..], false),
        (&["other.example"][..], false),
    ] {
        let verdict = check_with_sealers(&server, sealers, &mail).await;
        assert_eq!(verdict.arc.result, AuthResult::Pass, "{:?}", verdict.arc);
        assert_eq!(verdict.arc.sealers, ["list.example", "other.example"]);
        assert_eq!(verdict.is_aligned(), is_vouched_for, "{sealers:?}");
    }
}
