//! DKIM: signatures of dkimpy verify, and broken ones do not.

use std::time::Duration;

use bytes::Bytes;
use postern::auth::{AuthInput, Identity, SIGNATURES_MAX, identity, results};
use postern::clock;
use postern::mail::verdict::{AuthResult, Verdict};
use serde_json::json;

use super::{
    address, as_domain, authenticator, input, keys, mail_by, python, settings, signed, verdict,
    with, zone_of,
};
use crate::nameserver::{NameServer, Zone};

const DOMAIN: &str = "example.com";
const ANN: &str = "ann@example.com";

fn zone() -> Zone {
    zone_of(DOMAIN).txt("ed._domainkey.example.com", &keys().ed25519.record)
}

fn identity_of_ann(verdict: &Verdict) -> Identity {
    identity(verdict, Some(&address(ANN)), true, true)
}

fn outcomes(verdict: &Verdict) -> Vec<AuthResult> {
    verdict.dkim.iter().map(|dkim| dkim.result).collect()
}

#[tokio::test]
async fn signatures_of_all_forms_hold() {
    for algorithm in ["rsa-sha256", "ed25519-sha256"] {
        for forms in [
            "relaxed/relaxed",
            "relaxed/simple",
            "simple/relaxed",
            "simple/simple",
        ] {
            let mut step = with(as_domain(DOMAIN), json!({ "forms": forms }));
            if algorithm == "ed25519-sha256" {
                let private = &keys().ed25519.private;
                step = with(
                    step,
                    json!({ "algorithm": algorithm, "selector": "ed", "private": private }),
                );
            }
            let mail = signed(&mail_by("Ann <ann@example.com>"), &[step]);
            let verdict = verdict(zone(), &mail).await;
            assert_eq!(
                outcomes(&verdict),
                [AuthResult::Pass],
                "{algorithm} {forms}: {verdict:?}"
            );
            assert_eq!(verdict.dmarc.result, AuthResult::Pass);
            assert_eq!(verdict.dmarc.aligned.as_deref(), Some(DOMAIN));
            assert_eq!(identity_of_ann(&verdict), Identity::Verified);
        }
    }
}

/// A mail from a mailbox or a file, whose sending host is unknown.
#[tokio::test]
async fn without_a_client_address_only_dkim_authenticates() {
    let server = NameServer::start(zone()).await;
    let mail = signed(&mail_by(ANN), &[as_domain(DOMAIN)]);
    let sender = address(ANN);
    let input = AuthInput {
        ip: None,
        mail_from: Some(&sender),
        ..input(&mail)
    };
    let verdict = authenticator(&server).check(input).await;
    assert_eq!(verdict.spf.result, AuthResult::None);
    assert_eq!(verdict.helo.result, AuthResult::None);
    assert_eq!(verdict.iprev.result, AuthResult::None);
    assert_eq!(identity_of_ann(&verdict), Identity::Verified);
}

#[tokio::test]
async fn bodies_of_all_shapes_hold() {
    let big = "0123456789 abcdef \t \r\n".repeat(20_000);
    for body in [
        "",
        "\r\n\r\n",
        " \t\r\n",
        "no line end",
        "a\r\n \t\r\n",
        "a\r\n\r\n \r\n\r\n",
        "a \r\n\t\tb\r\n",
        "\ta\r\n",
        "a  b\r\n \r\n\r\nc\r\n\r\n",
        &big,
    ] {
        let mail = mail_by(ANN);
        let (header, _) = mail.split_once("\r\n\r\n").unwrap();
        for forms in ["relaxed/relaxed", "simple/simple"] {
            let step = with(as_domain(DOMAIN), json!({ "forms": forms }));
            let mail = signed(&format!("{header}\r\n\r\n{body}"), &[step]);
            let verdict = verdict(zone(), &mail).await;
            let shown = &body[..body.len().min(20)];
            assert_eq!(
                outcomes(&verdict),
                [AuthResult::Pass],
                "{forms} {shown:?}: {:?}",
                verdict.dkim
            );
        }
    }
}

#[tokio::test]
async fn fields_of_all_shapes_hold() {
    for subject in [
        "",
        " ",
        "a",
        " a  b\t c \t",
        "\r\n a",
        " a\r\n\t b\r\n  \t c ",
        " a;b=c",
        " \u{e9}\u{1f600}",
    ] {
        let mail = mail_by(ANN).replace("Subject: A reply", &format!("SubJect:{subject}"));
        for forms in ["relaxed/simple", "simple/simple"] {
            let step = with(as_domain(DOMAIN), json!({ "forms": forms }));
            let mail = signed(&mail, &[step]);
            let verdict = verdict(zone(), &mail).await;
            assert_eq!(
                outcomes(&verdict),
                [AuthResult::Pass],
                "{forms} {subject:?}: {:?}",
                verdict.dkim
            );
        }
    }
}

/// Random mails with everything that canonical forms must handle; the same ones each time.
#[tokio::test]
async fn random_mails_hold() {
    const WORDS: [&str; 10] = ["a", "bc", " ", "  ", "\t", ";", "=", ":", "\u{e9}", "b="];
    let mut state = 0x2545_f491_u64;
    let mut dice = move |sides: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % sides
    };
    let server = NameServer::start(zone()).await;
    let auth = authenticator(&server);
    for _ in 0..60 {
        let mut body = String::new();
        for _ in 0..dice(12) {
            for _ in 0..dice(6) {
                body.push_str(WORDS[dice(WORDS.len())]);
            }
            body.push_str("\r\n");
        }
        let mut subject = String::from("Subject:");
        for _ in 0..dice(12) {
            subject.push_str(WORDS[dice(WORDS.len())]);
            subject.push_str(["", "", "\r\n x", "\r\n\ty "][dice(4)]);
        }
        let mail = mail_by(ANN).replace("Subject: A reply", &subject);
        let (header, _) = mail.split_once("\r\n\r\n").unwrap();
        let forms = [
            "relaxed/relaxed",
            "relaxed/simple",
            "simple/relaxed",
            "simple/simple",
        ];
        let step = with(as_domain(DOMAIN), json!({ "forms": forms[dice(4)] }));
        let mail = signed(&format!("{header}\r\n\r\n{body}"), &[step]);
        let verdict = auth.check(input(&mail)).await;
        let text = String::from_utf8_lossy(&mail);
        assert_eq!(
            outcomes(&verdict),
            [AuthResult::Pass],
            "{text:?}: {:?}",
            verdict.dkim
        );
    }
}

#[tokio::test]
async fn of_several_signatures_each_counts_for_itself() {
    let ed25519 = json!({
        "algorithm": "ed25519-sha256", "selector": "ed", "private": keys().ed25519.private,
    });
    let steps = [
        as_domain("esp.example"),
        with(as_domain(DOMAIN), ed25519),
        as_domain(DOMAIN),
        as_domain("keyless.example"),
    ];
    let mail = signed(&mail_by(ANN), &steps);
    let zone = zone().txt("s1._domainkey.esp.example", &keys().rsa.record);
    let verdict = verdict(zone, &mail).await;
    let found: Vec<_> = verdict
        .dkim
        .iter()
        .map(|dkim| (dkim.domain.as_str(), dkim.selector.as_str(), dkim.result))
        .collect();
    assert_eq!(
        found,
        [
            (DOMAIN, "s1", AuthResult::Pass),
            (DOMAIN, "ed", AuthResult::Pass),
            ("keyless.example", "s1", AuthResult::Permerror),
            ("esp.example", "s1", AuthResult::Pass),
        ]
    );
    assert_eq!(identity_of_ann(&verdict), Identity::Verified);
}

/// The signer is a parent or subdomain of the author's domain: aligned unless the domain requires strict
/// alignment.
#[tokio::test]
async fn alignment_is_by_organization_unless_strict() {
    let key = &keys().rsa.record;
    for (author, signer, record, outcome) in [
        (
            "ann@example.com",
            "mail.example.com",
            "v=DMARC1; p=reject",
            AuthResult::Pass,
        ),
        (
            "ann@mail.example.com",
            "example.com",
            "v=DMARC1; p=reject",
            AuthResult::Pass,
        ),
        (
            "ann@example.com",
            "mail.example.com",
            "v=DMARC1; p=reject; adkim=s",
            AuthResult::Fail,
        ),
        (
            "ann@mail.example.com",
            "example.com",
            "v=DMARC1; p=reject; adkim=s",
            AuthResult::Fail,
        ),
        (
            "ann@example.com",
            "badexample.com",
            "v=DMARC1; p=reject",
            AuthResult::Fail,
        ),
        (
            "ann@example.com",
            "other.com",
            "v=DMARC1; p=reject",
            AuthResult::Fail,
        ),
        // The suffix of a registry is not an organization.
        (
            "ann@one.co.example",
            "two.co.example",
            "v=DMARC1; p=reject",
            AuthResult::Fail,
        ),
    ] {
        let zone = Zone::default()
            .txt("_dmarc.example.com", record)
            .txt("_dmarc.one.co.example", record)
            .txt("_dmarc.two.co.example", record)
            .txt("_dmarc.co.example", "v=DMARC1; p=none; psd=y")
            .txt(&format!("s1._domainkey.{signer}"), key);
        let mail = signed(&mail_by(author), &[as_domain(signer)]);
        let verdict = verdict(zone, &mail).await;
        assert_eq!(outcomes(&verdict), [AuthResult::Pass], "{author} {signer}");
        assert_eq!(verdict.dmarc.result, outcome, "{author} {signer} {record}");
    }
}

#[tokio::test]
async fn the_aligned_ones_of_many_signatures_are_tried() {
    let genuine = signed(&mail_by(ANN), &[as_domain(DOMAIN)]);
    let hash = "aGk=".repeat(10);
    let forged: String = (0..900)
        .map(|n| {
            format!(
                "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=d{n}.example; s=s1; \
                 h=From; bh={hash}; b={hash}\r\n"
            )
        })
        .collect();
    let mail: Bytes = [forged.as_bytes(), &genuine].concat().into();
    let server = NameServer::start(zone()).await;
    let verdict = authenticator(&server).check(input(&mail)).await;
    assert_eq!(verdict.dkim.len(), SIGNATURES_MAX);
    assert_eq!(verdict.dkim[0].domain, DOMAIN);
    assert_eq!(verdict.dkim[0].result, AuthResult::Pass);
    assert_eq!(identity_of_ann(&verdict), Identity::Verified);
    let asked = server.asked();
    let keys_asked = asked.iter().filter(|name| name.contains("_domainkey"));
    assert!(keys_asked.count() <= SIGNATURES_MAX, "{asked:?}");
}

/// The number exceeds the bound of a header.
#[tokio::test]
async fn ten_thousand_signatures_are_as_none() {
    let forged = "DKIM-Signature: v=1; d=example.com\r\n".repeat(10_000);
    let mail: Bytes = format!("{forged}{}", mail_by(ANN)).into();
    let server = NameServer::start(zone()).await;
    let verdict = authenticator(&server).check(input(&mail)).await;
    assert!(verdict.dkim.len() <= SIGNATURES_MAX);
    assert!(
        outcomes(&verdict)
            .iter()
            .all(|outcome| *outcome == AuthResult::Permerror)
    );
    assert_ne!(identity_of_ann(&verdict), Identity::Verified);
    assert!(server.asked().len() < 20, "{:?}", server.asked());
}

/// Each name in `h=` needs a search of the whole header.
#[tokio::test]
async fn a_signature_that_names_very_many_fields_is_refused() {
    let names: Vec<String> = (0..1_000).map(|n| format!("x-{n}")).collect();
    let names = [vec!["from".to_owned()], names].concat();
    let mail = signed(
        &mail_by(ANN),
        &[with(as_domain(DOMAIN), json!({ "names": names }))],
    );
    assert_eq!(
        outcomes(&verdict(zone(), &mail).await),
        [AuthResult::Permerror]
    );
}

#[tokio::test]
async fn a_replayed_old_mail_does_not_verify() {
    let day = 24 * 3_600;
    for (days, outcome) in [
        (30, AuthResult::Policy),
        (11, AuthResult::Policy),
        (9, AuthResult::Pass),
    ] {
        let time = clock::now()
            .minus(Duration::from_secs(days * day))
            .as_secs();
        let mail = signed(
            &mail_by(ANN),
            &[with(as_domain(DOMAIN), json!({ "time": time }))],
        );
        let verdict = verdict(zone(), &mail).await;
        assert_eq!(outcomes(&verdict), [outcome], "{days} days");
        assert_eq!(
            identity_of_ann(&verdict) == Identity::Verified,
            outcome == AuthResult::Pass
        );
    }
}

/// A forwarded mail verifies elsewhere, with our fields on top.
#[tokio::test]
async fn dkimpy_verifies_forwarded_mail() {
    let mail = signed(&mail_by(ANN), &[as_domain(DOMAIN)]);
    let forged = "Authentication-Results: mx.us.example; dmarc=pass header.from=bank.example\r\n";
    let mail: Bytes = [forged.as_bytes(), &mail].concat().into();
    let server = NameServer::start(zone()).await;
    let auth = postern::auth::Authenticator::new(settings(&server));
    let verdict = auth.check(input(&mail)).await;
    let field = auth.results_field(&verdict);
    let handed_on = results::with_fields_on_top(&mail, field, "mx.us.example").concat();
    let text = String::from_utf8(handed_on.clone()).unwrap();
    assert!(!text.contains("bank.example"), "{text}");
    assert!(
        text.contains("dmarc=pass\r\n\t header.from=example.com"),
        "{text}"
    );
    let records = json!({ "s1._domainkey.example.com": keys().rsa.record });
    for bytes in [mail.to_vec(), handed_on] {
        let mail = data_encoding::BASE64.encode(&bytes);
        let found = python(&json!({ "mail": mail, "verify": records }));
        assert_eq!(found["dkim"], true);
    }
}
