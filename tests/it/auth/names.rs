//! Slow, silent and malicious name servers: every check ends, and within its bounds.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use postern::auth::{
    AuthInput, AuthPolicy, Authenticator, DnsSettings, Identity, PolicyDecision, Settings,
};
use postern::mail::verdict::{AuthResult, Verdict};

use super::{address, as_domain, authenticator, input, mail_by, settings, signed, zone_of};
use crate::nameserver::{Mood, NameServer, Zone};

/// Short timeouts, so that a test does not wait; no assertion depends on their values.
fn hasty(server: SocketAddr) -> Settings {
    Settings {
        dns: DnsSettings {
            servers: vec![server],
            query_ms: 150,
            mail_ms: 400,
            ..DnsSettings::default()
        },
        ..Settings::default()
    }
}

/// A mail that causes every kind of query.
fn mail() -> Bytes {
    signed(&mail_by("ann@example.com"), &[as_domain("example.com")])
}

async fn check(auth: &Authenticator, mail: &Bytes) -> Verdict {
    let sender = address("bounce@example.com");
    let input = AuthInput {
        mail_from: Some(&sender),
        helo: "mail.example.com",
        ..input(mail)
    };
    auth.check(input).await
}

/// Every result about the mail is a temporary error, and it counts as unverified.
fn assert_is_undecided(verdict: &Verdict, name: &str) {
    assert_eq!(
        verdict.spf.result,
        AuthResult::Temperror,
        "{name}: {verdict:?}"
    );
    assert_eq!(verdict.helo.result, AuthResult::Temperror, "{name}");
    assert_eq!(verdict.dkim[0].result, AuthResult::Temperror, "{name}");
    assert_eq!(verdict.dmarc.result, AuthResult::Temperror, "{name}");
    assert_eq!(verdict.iprev.result, AuthResult::Temperror, "{name}");
    assert!(!verdict.is_aligned(), "{name}");
    let decision = AuthPolicy::default().decide(verdict, Identity::TokenHolder);
    assert_eq!(decision, PolicyDecision::Accept, "{name}");
}

const NAMES: [&str; 6] = [
    "example.com",
    "mail.example.com",
    "_dmarc.example.com",
    "_dmarc.com",
    "s1._domainkey.example.com",
    "1.2.0.192.in-addr.arpa",
];

#[tokio::test]
async fn a_name_server_that_fails_leaves_the_mail_undecided() {
    let mail = mail();
    for mood in [
        Mood::Silent,
        Mood::Slow(Duration::from_secs(60)),
        Mood::Code(1),
        Mood::Code(2),
        Mood::Code(5),
        Mood::Truncated,
        Mood::Stub,
    ] {
        let zone = NAMES
            .into_iter()
            .fold(zone_of("example.com"), |zone, name| zone.mood(name, mood));
        let server = NameServer::start(zone).await;
        let auth = Authenticator::new(hasty(server.address));
        assert_is_undecided(&check(&auth, &mail).await, &format!("{mood:?}"));
    }
}

#[tokio::test]
async fn without_a_name_server_the_start_goes_on() {
    let gone = NameServer::start(Zone::default()).await.address;
    let auth = Authenticator::new(hasty(gone));
    assert_is_undecided(&check(&auth, &mail()).await, "gone");
}

#[tokio::test]
async fn checks_beyond_the_budget_are_undecided_and_the_rest_counts() {
    let zone = zone_of("example.com")
        .mood("1.2.0.192.in-addr.arpa", Mood::Silent)
        .mood("example.com", Mood::Silent);
    let server = NameServer::start(zone).await;
    let verdict = check(&authenticator(&server), &mail()).await;
    assert_eq!(verdict.spf.result, AuthResult::Temperror);
    assert_eq!(verdict.iprev.result, AuthResult::Temperror);
    assert_eq!(verdict.dkim[0].result, AuthResult::Pass);
    assert_eq!(verdict.dmarc.result, AuthResult::Pass);
}

#[tokio::test]
async fn a_mail_sends_no_more_queries_than_it_may() {
    let many = (0..10).fold("v=spf1".to_owned(), |text, n| {
        format!("{text} mx:m{n}.example")
    });
    let mut zone = Zone::default().txt("example.com", format!("{many} -all"));
    for n in 0..10 {
        for host in 0..10 {
            let exchange = format!("h{host}.m{n}.example");
            zone.add_mx(&format!("m{n}.example"), 1, &exchange);
            zone.add_address(&exchange, [198, 51, 100, 1].into());
        }
    }
    let server = NameServer::start(zone).await;
    let mut settings = settings(&server);
    settings.dns.queries_max = 30;
    settings.dns.mail_ms = 60_000;
    let mail = Bytes::from(mail_by("ann@example.com"));
    let verdict = check(&Authenticator::new(settings), &mail).await;
    assert_eq!(verdict.spf.result, AuthResult::Temperror);
    assert!(server.asked().len() <= 30, "{}", server.asked().len());
}

#[tokio::test]
async fn chains_and_loops_of_names_end() {
    let mut zone = Zone::default()
        .cname("loop.example", "pool.example")
        .cname("pool.example", "loop.example")
        .cname("self.example", "self.example")
        .txt("c99.chain.example", "v=spf1 +ip4:192.0.2.1 -all")
        .cname("short.example", "c99.chain.example");
    for n in 0..99 {
        zone.add_cname(
            &format!("c{n}.chain.example"),
            &format!("c{}.chain.example", n + 1),
        );
    }
    let server = NameServer::start(zone).await;
    for (domain, expected) in [
        ("loop.example", None),
        ("self.example", None),
        ("c0.chain.example", None),
        ("short.example", Some(AuthResult::Pass)),
    ] {
        let auth = authenticator(&server);
        let spf = auth
            .check_spf([192, 0, 2, 1].into(), "x.example", &format!("a@{domain}"))
            .await;
        match expected {
            Some(outcome) => assert_eq!(spf.result, outcome, "{domain}"),
            None => assert_ne!(spf.result, AuthResult::Pass, "{domain}"),
        }
    }
    assert!(server.asked().len() < 200, "{}", server.asked().len());
}

#[tokio::test]
async fn large_answers_come_by_tcp() {
    let networks: String = (0..2_000)
        .map(|n| format!("ip4:198.51.{}.{} ", n / 250, n % 250))
        .collect();
    let zone = Zone::default()
        .txt(
            "big.example",
            format!("v=spf1 {networks}ip4:192.0.2.1 -all"),
        )
        .txt("other.example", "x".repeat(60_000))
        .txt("other.example", "v=spf1 ip4:192.0.2.1 -all");
    let server = NameServer::start(zone).await;
    let auth = authenticator(&server);
    for domain in ["big.example", "other.example"] {
        let spf = auth
            .check_spf([192, 0, 2, 1].into(), "x.example", &format!("a@{domain}"))
            .await;
        assert_eq!(spf.result, AuthResult::Pass, "{domain}: {:?}", spf.reason);
    }
}

#[tokio::test]
async fn answers_and_failures_are_kept() {
    let zone = zone_of("example.com").mood("mail.example.com", Mood::Code(2));
    let server = NameServer::start(zone).await;
    let (auth, mail) = (authenticator(&server), mail());
    let first = check(&auth, &mail).await;
    let asked = server.asked();
    for _ in 0..20 {
        assert_eq!(check(&auth, &mail).await, first);
    }
    assert_eq!(server.asked(), asked, "the cache was asked past");
}

#[tokio::test]
async fn expired_answers_are_queried_again() {
    let server = NameServer::start(zone_of("example.com")).await;
    let mut settings = settings(&server);
    settings.dns.ttl_max_secs = 0;
    settings.dns.negative_ttl_max_secs = 0;
    settings.dns.failure_ttl_secs = 0;
    let (auth, mail) = (Authenticator::new(settings), mail());
    let first = check(&auth, &mail).await;
    let asked = server.asked().len();
    assert_eq!(check(&auth, &mail).await, first);
    assert_eq!(server.asked().len(), 2 * asked);
}

#[tokio::test]
async fn concurrent_mails_share_a_query() {
    let slow = Mood::Slow(Duration::from_millis(100));
    let zone = NAMES
        .into_iter()
        .fold(zone_of("example.com"), |zone, name| zone.mood(name, slow));
    let server = NameServer::start(zone).await;
    let (auth, mail) = (std::sync::Arc::new(authenticator(&server)), mail());
    let checks: Vec<_> = (0..50)
        .map(|_| {
            let (auth, mail) = (auth.clone(), mail.clone());
            tokio::spawn(async move { check(&auth, &mail).await })
        })
        .collect();
    for check in checks {
        assert_eq!(check.await.unwrap().dmarc.result, AuthResult::Pass);
    }
    // On a slow machine a query may be repeated as if its packet were lost, but not fifty times.
    let count = server.asked().len();
    assert!(count <= 2 * NAMES.len(), "{count} questions");
}

/// SPF limits beyond the suite's cases.
#[tokio::test]
async fn spf_keeps_its_limits() {
    let includes = |count: usize| {
        (0..count).fold("v=spf1".to_owned(), |text, n| {
            format!("{text} include:i{n}.example")
        })
    };
    let mut zone = Zone::default()
        .txt(
            "ten.example",
            format!("{} ip4:192.0.2.1 -all", includes(10)),
        )
        .txt(
            "eleven.example",
            format!("{} ip4:192.0.2.1 -all", includes(11)),
        )
        .txt(
            "void2.example",
            "v=spf1 a:n1.example a:n2.example ip4:192.0.2.1 -all",
        )
        .txt(
            "void3.example",
            "v=spf1 a:n1.example a:n2.example a:n3.example ip4:192.0.2.1 -all",
        )
        .txt("redirect.example", "v=spf1 redirect=redirect.example")
        .txt("include.example", "v=spf1 include:include.example -all")
        .txt("mx.example", "v=spf1 mx -all")
        .txt("ptr.example", "v=spf1 ptr -all")
        .ptr("192.0.2.1", "mail.ptr.example")
        .a("mail.ptr.example", "192.0.2.1")
        .txt("local.example", "v=spf1 exists:%{l}.x.example -all")
        .txt(
            "huge.example",
            format!("v=spf1 {}-all", "a ".repeat(30_000)),
        );
    for n in 0..11 {
        zone.add_txt(&format!("i{n}.example"), b"v=spf1 ?all");
        zone.add_mx("mx.example", 1, &format!("h{n}.mx.example"));
        zone.add_address(&format!("h{n}.mx.example"), [192, 0, 2, 1].into());
    }
    let server = NameServer::start(zone).await;
    let auth = authenticator(&server);
    for (sender, expected) in [
        ("a@ten.example", AuthResult::Pass),
        ("a@eleven.example", AuthResult::Permerror),
        ("a@void2.example", AuthResult::Pass),
        ("a@void3.example", AuthResult::Permerror),
        ("a@redirect.example", AuthResult::Permerror),
        ("a@include.example", AuthResult::Permerror),
        ("a@mx.example", AuthResult::Permerror),
        ("a@ptr.example", AuthResult::Pass),
        ("a@huge.example", AuthResult::Permerror),
        ("a b\0%{d}..é/$(id)@local.example", AuthResult::Fail),
        (
            &format!("{}@local.example", "a.".repeat(500)),
            AuthResult::Fail,
        ),
    ] {
        let spf = auth
            .check_spf([192, 0, 2, 1].into(), "x.example", sender)
            .await;
        assert_eq!(spf.result, expected, "{sender}: {:?}", spf.reason);
    }
}

/// `+all` passes every host, so it proves nothing.
#[tokio::test]
async fn a_domain_that_passes_every_host_authenticates_no_one() {
    for record in [
        "v=spf1 +all",
        "v=spf1 ip4:0.0.0.0/0",
        "v=spf1 include:all.example -all",
    ] {
        let zone = Zone::default()
            .txt("example.com", record)
            .txt("all.example", "v=spf1 +all")
            .txt("_dmarc.example.com", "v=DMARC1; p=reject");
        let server = NameServer::start(zone).await;
        let mail = Bytes::from(mail_by("ann@example.com"));
        let verdict = check(&authenticator(&server), &mail).await;
        assert_eq!(verdict.spf.result, AuthResult::Pass, "{record}");
        assert!(!verdict.is_aligned(), "{record}");
    }
}
