//! Forged, forwarded and honest mails, with ARC, and the identity that each gets.

use bytes::Bytes;
use postern::auth::{
    AuthInput, AuthPolicy, Authenticator, HoldReason, Identity, PolicyDecision, PolicyRefusal,
    Settings, Treatment, identity,
};
use postern::clock;
use postern::mail::address::Address;
use postern::mail::verdict::{AuthResult, FromProblem, Verdict, VerdictSource};
use postern::mail::view::HeaderView;

use super::{address, as_domain, authenticator, input, keys, mail_by, signed, zone_of};
use crate::nameserver::{NameServer, Zone};

/// The bank that forgers impersonate.
const BANK: &str = "a@bank.example";

/// The origin of a forged mail.
struct Forgery<'a> {
    helo: &'a str,
    mail_from: Option<&'a str>,
    fields: &'a str,
    /// The expected problem of the From field.
    problem: Option<FromProblem>,
}

const HELO: &str = "helo.evil.example";
const EVIL: Option<&str> = Some("x@evil.example");

const fn forgery<'a>(
    helo: &'a str,
    mail_from: Option<&'a str>,
    fields: &'a str,
    problem: Option<FromProblem>,
) -> Forgery<'a> {
    Forgery {
        helo,
        mail_from,
        fields,
        problem,
    }
}

/// The server cases of espoofer, and forgeries of From: peer, sender, fields, and the problem of From.
const FORGERIES: [Forgery<'static>; 24] = [
    forgery(
        HELO,
        Some("x@nowhere.bank.example"),
        "From: a@bank.example\r\n",
        None,
    ),
    forgery("bank.example", None, "From: a@bank.example\r\n", None),
    forgery(HELO, None, "From: a@bank.example\r\n", None),
    forgery(HELO, Some(BANK), "From: a@bank.example\r\n", None),
    forgery(HELO, EVIL, "From: a@bank.example\r\n", None),
    forgery(
        HELO,
        EVIL,
        "From: \"a@bank.example\" <x@evil.example>\r\n",
        None,
    ),
    forgery(
        HELO,
        EVIL,
        "From: a@bank.example <x@evil.example>\r\n",
        None,
    ),
    forgery(
        HELO,
        EVIL,
        "From: x@evil.example (a@bank.example)\r\n",
        None,
    ),
    forgery(
        HELO,
        EVIL,
        "From: \"a@bank.example,\"@evil.example\r\n",
        Some(FromProblem::Unreadable),
    ),
    forgery(
        HELO,
        EVIL,
        "From: =?utf-8?q?a=40bank.example?= <x@evil.example>\r\n",
        None,
    ),
    forgery(HELO, EVIL, "From:\r\n\ta@bank.example\r\n", None),
    forgery(
        HELO,
        EVIL,
        "Sender: a@bank.example\r\nFrom: x@evil.example\r\n",
        None,
    ),
    forgery(
        HELO,
        EVIL,
        "Reply-To: a@bank.example\r\nFrom: x@evil.example\r\n",
        None,
    ),
    forgery(
        HELO,
        EVIL,
        "From: a@bank.example\0@evil.example\r\n",
        Some(FromProblem::Unreadable),
    ),
    forgery(
        HELO,
        EVIL,
        "From: a@bank.example\r\nFrom: x@evil.example\r\n",
        Some(FromProblem::SeveralFields),
    ),
    forgery(
        HELO,
        EVIL,
        "From: x@evil.example\r\nFrom: a@bank.example\r\n",
        Some(FromProblem::SeveralFields),
    ),
    forgery(
        HELO,
        EVIL,
        "From : a@bank.example\r\nFrom: x@evil.example\r\n",
        Some(FromProblem::SeveralFields),
    ),
    forgery(
        HELO,
        EVIL,
        "From: a@bank.example, x@evil.example\r\n",
        Some(FromProblem::SeveralAddresses),
    ),
    forgery(
        HELO,
        EVIL,
        "From: x@evil.example, a@bank.example\r\n",
        Some(FromProblem::SeveralAddresses),
    ),
    forgery(
        HELO,
        EVIL,
        "From: A:a@bank.example;, x@evil.example\r\n",
        Some(FromProblem::SeveralAddresses),
    ),
    forgery(
        HELO,
        EVIL,
        "From: <@evil.example,@bank.example:a@bank.example>\r\n",
        Some(FromProblem::Unreadable),
    ),
    forgery(HELO, EVIL, "From: nobody\r\n", Some(FromProblem::NoAddress)),
    forgery(HELO, EVIL, "From: A:;\r\n", Some(FromProblem::NoAddress)),
    forgery(
        HELO,
        EVIL,
        "Sender: a@bank.example\r\n",
        Some(FromProblem::NoField),
    ),
];

/// The bank rejects failing mail; the forger's own domain is valid and allows its host to send.
fn bank_and_forger() -> Zone {
    zone_of("bank.example")
        .txt("evil.example", "v=spf1 ip4:192.0.2.1 -all")
        .txt("helo.evil.example", "v=spf1 ip4:192.0.2.1 -all")
        .txt("_dmarc.evil.example", "v=DMARC1; p=reject")
        .txt("s1._domainkey.evil.example", &keys().rsa.record)
}

async fn check_forgery(server: &NameServer, forgery: &Forgery<'_>) -> (Verdict, Bytes) {
    let mail = format!(
        "{}Date: {}\r\n\r\nx\r\n",
        forgery.fields,
        clock::now().to_rfc5322()
    );
    // The forger signs it too.
    let mail = if forgery.problem.is_none() {
        signed(&mail, &[as_domain("evil.example")])
    } else {
        mail.into()
    };
    let sender = forgery.mail_from.map(address);
    let input = AuthInput {
        helo: forgery.helo,
        mail_from: sender.as_ref(),
        ..input(&mail)
    };
    (authenticator(server).check(input).await, mail)
}

#[tokio::test]
async fn no_forgery_counts_as_the_bank() {
    let server = NameServer::start(bank_and_forger()).await;
    for forgery in &FORGERIES {
        let Forgery {
            fields, problem, ..
        } = *forgery;
        let (verdict, mail) = check_forgery(&server, forgery).await;
        assert_eq!(verdict.from_problem, problem, "{fields}");
        let header = HeaderView::parse(&mail);
        let author = header.author();
        // The author is not the bank; and a forger who writes under their own name is not taken for it.
        let is_bank = author.is_some_and(|author| author.folded() == BANK);
        let identity = identity(&verdict, author, is_bank, true);
        assert_eq!(identity, Identity::TokenHolder, "{fields}: {author:?}");
        assert!(!verdict.is_aligned() || !is_bank, "{fields}");
        let decision = AuthPolicy::default().decide(&verdict, identity);
        if let Some(problem) = problem {
            assert_eq!(
                decision,
                PolicyDecision::Refuse(PolicyRefusal::BadFrom(problem)),
                "{fields}"
            );
        } else if is_bank {
            assert_eq!(
                decision,
                PolicyDecision::Refuse(PolicyRefusal::DmarcReject),
                "{fields}"
            );
        }
    }
}

#[tokio::test]
async fn a_reply_is_verified_only_if_it_is_authenticated() {
    let zone = zone_of("example.com")
        .txt("_dmarc.other.example", "v=DMARC1; p=reject")
        .txt("s1._domainkey.other.example", &keys().rsa.record)
        .txt("s1._domainkey.plain.example", &keys().rsa.record);
    let server = NameServer::start(zone).await;
    let auth = authenticator(&server);
    for (author, signer, participant, expected, dmarc) in [
        (
            "ann@example.com",
            "example.com",
            "ann@example.com",
            Identity::Verified,
            AuthResult::Pass,
        ),
        (
            "Ann@Example.com",
            "example.com",
            "ann@example.com",
            Identity::Verified,
            AuthResult::Pass,
        ),
        (
            "bob@other.example",
            "other.example",
            "ann@example.com",
            Identity::TokenHolder,
            AuthResult::Pass,
        ),
        (
            "ann@example.com",
            "other.example",
            "ann@example.com",
            Identity::TokenHolder,
            AuthResult::Fail,
        ),
        // A domain without a DMARC record authenticates nobody.
        (
            "eve@plain.example",
            "plain.example",
            "eve@plain.example",
            Identity::TokenHolder,
            AuthResult::None,
        ),
    ] {
        let mail = signed(&mail_by(author), &[as_domain(signer)]);
        let verdict = auth.check(input(&mail)).await;
        assert_eq!(verdict.dmarc.result, dmarc, "{author} {signer}");
        let header = HeaderView::parse(&mail);
        let author = header.author();
        let is_participant = author.map(Address::folded).as_deref() == Some(participant);
        let found = identity(&verdict, author, is_participant, true);
        assert_eq!(found, expected, "{author:?} {signer}");
        let policy = AuthPolicy {
            token_holder: Treatment::Hold,
            ..AuthPolicy::default()
        };
        let decision = policy.decide(&verdict, found);
        match (expected, dmarc) {
            (Identity::Verified, _) => assert_eq!(decision, PolicyDecision::Accept),
            (_, AuthResult::Fail) => {
                assert_eq!(decision, PolicyDecision::Refuse(PolicyRefusal::DmarcReject))
            }
            _ => assert_eq!(decision, PolicyDecision::Hold(HoldReason::Identity(found))),
        }
    }
}

#[tokio::test]
async fn aligned_spf_authenticates_too() {
    let zone = Zone::default()
        .txt("example.com", "v=spf1 ip4:192.0.2.1 -all")
        .txt("_dmarc.example.com", "v=DMARC1; p=quarantine")
        .ptr("192.0.2.1", "mail.example.com")
        .a("mail.example.com", "192.0.2.1");
    let server = NameServer::start(zone).await;
    let mail = Bytes::from(mail_by("ann@example.com"));
    let sender = address("bounce@example.com");
    let verdict = authenticator(&server)
        .check(AuthInput {
            mail_from: Some(&sender),
            helo: "mail.example.com",
            ..input(&mail)
        })
        .await;
    assert_eq!(verdict.spf.result, AuthResult::Pass);
    assert_eq!(verdict.helo.result, AuthResult::None);
    assert_eq!(verdict.dmarc.result, AuthResult::Pass);
    assert_eq!(verdict.iprev.result, AuthResult::Pass);
    assert_eq!(verdict.iprev.name.as_deref(), Some("mail.example.com"));
    // The same from another host.
    let verdict = authenticator(&server)
        .check(AuthInput {
            mail_from: Some(&sender),
            ip: Some([203, 0, 113, 1].into()),
            ..input(&mail)
        })
        .await;
    assert_eq!(verdict.spf.result, AuthResult::Fail);
    assert_eq!(verdict.iprev.result, AuthResult::Permerror);
    assert_eq!(
        AuthPolicy::default().decide(&verdict, Identity::TokenHolder),
        PolicyDecision::Hold(HoldReason::DmarcQuarantine)
    );
}

#[tokio::test]
async fn subdomains_have_their_own_policy() {
    let record = "v=DMARC1; p=none; sp=quarantine; np=reject";
    let zone = Zone::default()
        .txt("_dmarc.example.com", record)
        .a("there.example.com", "192.0.2.9")
        .txt("_dmarc.own.example.com", "v=DMARC1; p=reject; t=y")
        .txt("_dmarc.twice.example", "v=DMARC1; p=reject")
        .txt("_dmarc.twice.example", "v=DMARC1; p=none");
    let server = NameServer::start(zone).await;
    for (domain, result, policy) in [
        ("example.com", AuthResult::Fail, "none"),
        ("there.example.com", AuthResult::Fail, "quarantine"),
        ("nowhere.example.com", AuthResult::Fail, "reject"),
        ("own.example.com", AuthResult::Fail, "quarantine"),
        ("twice.example", AuthResult::None, "none"),
        (
            "a.b.c.d.e.f.g.h.i.j.example.com",
            AuthResult::Fail,
            "reject",
        ),
    ] {
        let mail = Bytes::from(mail_by(&format!("ann@{domain}")));
        let dmarc = authenticator(&server).check(input(&mail)).await.dmarc;
        assert_eq!(dmarc.result, result, "{domain}");
        assert_eq!(dmarc.policy.as_str(), policy, "{domain}");
    }
}

/// Only the results of a trusted server that checked the mail count.
#[tokio::test]
async fn a_trusted_relays_results_count() {
    let auth = Authenticator::new(Settings {
        relay_authserv_ids: vec!["border.us.example".to_owned()],
        ..Settings::default()
    });
    let ours = "Authentication-Results: border.us.example; dmarc=pass header.from=example.com\r\n";
    let theirs =
        "Authentication-Results: border.us.example; dmarc=pass header.from=evil.example\r\n";
    let strange = "Authentication-Results: mx.evil.example; dmarc=pass header.from=example.com\r\n";
    let hop = "Received: from a by border.us.example; Sun, 1 Feb 2026 00:00:00 +0000\r\n";
    let from = "From: ann@example.com\r\n";
    let ann = address("ann@example.com");
    for (fields, expected) in [
        ([ours, hop, from].concat(), Identity::Verified),
        ([hop, ours, from].concat(), Identity::TokenHolder),
        ([theirs, hop, from].concat(), Identity::TokenHolder),
        ([strange, hop, from].concat(), Identity::TokenHolder),
        ([hop, from].concat(), Identity::TokenHolder),
        ([ours, hop, from, from].concat(), Identity::TokenHolder),
    ] {
        let verdict = auth.relay_verdict(format!("{fields}\r\nx\r\n").as_bytes());
        assert_eq!(
            identity(&verdict, Some(&ann), true, true),
            expected,
            "{fields}"
        );
        assert_ne!(verdict.source, VerdictSource::Postern);
        // A refusal would go to the forged sender.
        let decision = AuthPolicy::default().decide(&verdict, expected);
        assert!(!matches!(decision, PolicyDecision::Refuse(_)), "{fields}");
    }
}

#[test]
fn a_verdict_is_a_plain_value() {
    let auth = Authenticator::new(Settings::default());
    let verdict = auth.relay_verdict(b"From: ann@example.com\r\n\r\n");
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["dmarc"]["result"], "none");
    assert_eq!(json["dmarc"]["domain"], "example.com");
    assert_eq!(serde_json::from_value::<Verdict>(json).unwrap(), verdict);
    assert_eq!(
        postern::auth::author(b"From: Ann <ann@example.com>\r\n\r\n"),
        Ok(address("ann@example.com"))
    );
    assert_eq!(
        postern::auth::author(b"To: ann@example.com\r\n\r\n"),
        Err(FromProblem::NoField)
    );
}
