//! The whole program: the response that a peer receives for the sender of a mail, and the identity that the
//! product receives.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::{as_domain, keys, mail_by, replaced, signed, zone_of};
use crate::nameserver::{Mood, NameServer, Zone};
use crate::postern::{Client, Postern, eventually};
use crate::product::Product;

const THREAD: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const ANN: &str = "ann@example.com";

/// A Postern that uses a name server of the test.
struct Harness {
    postern: Postern,
    product: Product,
    dns: NameServer,
}

impl Harness {
    /// `extra` is TOML after `[auth.dns]`, which names the server.
    async fn with(zone: Zone, policy: &str, auth: &str, extra: &str) -> Self {
        let dns = NameServer::start(zone).await;
        let product = Product::start();
        let toml = format!(
            "[route.policy]\n{policy}\n[auth]\n{auth}\n[auth.dns]\nservers = [\"{}\"]\n{extra}\n",
            dns.address
        );
        let mut postern = Postern::new(Some(&product.base_url()), &toml);
        postern.start();
        Self {
            postern,
            product,
            dns,
        }
    }

    async fn new(zone: Zone, policy: &str) -> Self {
        Self::with(zone, policy, "", "").await
    }

    /// A reply address for one participant.
    fn minted_for(&self, participant: &str) -> String {
        let words = ["token", "mint", "--thread", THREAD];
        let minted = self.run(&[&words[..], &["--participant", participant]].concat());
        minted.split_whitespace().last().unwrap().to_owned()
    }

    /// The output of a command that must succeed.
    fn run(&self, words: &[&str]) -> String {
        let Output { status, stdout, .. } = self.postern.command(words);
        assert!(status.success(), "{words:?}: {}", self.postern.log());
        String::from_utf8(stdout).unwrap()
    }

    fn smtp(&self) -> Client {
        Client::connect(self.postern.smtp, "EHLO peer.example").unwrap()
    }

    fn lmtp(&self) -> Client {
        Client::connect(self.postern.lmtp, "LHLO relay.example").unwrap()
    }

    /// The message after `before` others.
    fn message(&self, before: usize) -> Value {
        eventually("a message", || self.product.messages().len() > before);
        self.product.messages()[before].1.clone()
    }

    /// The single parked delivery: its id and the reason.
    fn parked(&self) -> (String, String) {
        let list = || self.run(&["queue", "list", "--state", "parked", "--json"]);
        eventually("a parked mail", || !list().is_empty());
        let parked: Value = serde_json::from_str(list().trim_end()).unwrap();
        let text = |name: &str| parked[name].as_str().unwrap().to_owned();
        (text("id"), text("reason"))
    }
}

fn text(mail: &[u8]) -> String {
    String::from_utf8(mail.to_vec()).unwrap()
}

fn by_ann() -> String {
    text(&signed(&mail_by(ANN), &[as_domain("example.com")]))
}

fn told(message: &Value) -> [&str; 3] {
    let authentication = &message["authentication"];
    ["identity", "dkim", "dmarc"].map(|name| authentication[name].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_posted_with_its_identity() {
    let zone = zone_of("example.com")
        .txt("_dmarc.lax.example", "v=DMARC1; p=none")
        .txt("s1._domainkey.lax.example", &keys().rsa.record);
    let harness = Harness::new(zone, "").await;
    let mut client = harness.smtp();
    let mut send = |from: &str, to: &str, mail: &str| {
        let answer = client.mail(from, to, mail).unwrap();
        assert!(answer.starts_with("250 "), "{answer}");
    };
    // The participant, authenticated by the domain.
    send(ANN, &harness.minted_for(ANN), &by_ann());
    let message = harness.message(0);
    assert_eq!(told(&message), ["verified", "pass", "pass"], "{message}");
    assert_eq!(message["senderEmail"], ANN);
    // Another person with the token.
    let bob = signed(&mail_by("bob@lax.example"), &[as_domain("lax.example")]);
    send("bob@lax.example", &harness.minted_for(ANN), &text(&bob));
    let message = harness.message(1);
    assert_eq!(told(&message), ["token-holder", "pass", "pass"]);
    assert_eq!(message["senderEmail"], "bob@lax.example");
    // The participant's name without authentication.
    let cat = "cat@lax.example";
    send("x@evil.example", &harness.minted_for(cat), &mail_by(cat));
    let message = harness.message(2);
    assert_eq!(told(&message), ["token-holder", "none", "fail"]);
    assert!(
        harness
            .dns
            .asked()
            .contains(&"_dmarc.lax.example".to_owned())
    );
    let checked = harness
        .postern
        .metric("postern_ingress_authentication_total");
    assert!((checked - 15.0).abs() < f64::EPSILON, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_token_is_the_first_authors_that_a_domain_vouches_for() {
    let zone = zone_of("example.com")
        .txt("_dmarc.lax.example", "v=DMARC1; p=none")
        .txt("s1._domainkey.lax.example", &keys().rsa.record);
    let harness = Harness::new(zone, "").await;
    let to = harness.postern.mint(THREAD);
    let mut client = harness.smtp();
    let cat = "cat@lax.example";
    let by = |author: &str, domain: &str, word: &str| {
        let mail = mail_by(author).replace("Some", word);
        text(&signed(&mail, &[as_domain(domain)]))
    };
    for (before, (from, mail, identity)) in [
        (cat, mail_by(cat), "token-holder"),
        (ANN, by(ANN, "example.com", "One"), "token-holder"),
        (ANN, by(ANN, "example.com", "Two"), "verified"),
        (cat, by(cat, "lax.example", "Three"), "token-holder"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = client.mail(from, &to, &mail).unwrap();
        assert!(answer.starts_with("250 "), "{answer}");
        assert_eq!(told(&harness.message(before))[0], identity, "{before}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgers_and_broken_authors_are_refused_at_the_door() {
    let harness = Harness::new(zone_of("example.com"), "").await;
    let mut client = harness.smtp();
    let to = harness.minted_for(ANN);
    let two = format!("From: x@evil.example\r\n{}", mail_by(ANN));
    let several = mail_by("ann@example.com, x@evil.example");
    let none = mail_by(ANN).replace("From:", "X-From:");
    let empty = mail_by("");
    for mail in [&two, &several, &none, &empty] {
        let answer = client.mail("x@evil.example", &to, mail).unwrap();
        assert_eq!(answer, "550 5.7.1 the From field must name one author");
    }
    let answer = client.mail("x@evil.example", &to, &mail_by(ANN)).unwrap();
    assert!(answer.starts_with("550 5.7.26 "), "{answer}");
    // The session continues normally.
    let answer = client.mail(ANN, &to, &by_ann()).unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    harness.message(0);
    assert_eq!(harness.product.messages().len(), 1);
    // The delivery is settled a moment after the product has the message.
    eventually("an empty queue", || {
        harness.run(&["queue", "list"]).is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_dns_delays_mail_only_briefly() {
    let zone = zone_of("example.com")
        .mood("_dmarc.example.com", Mood::Silent)
        .mood("s1._domainkey.example.com", Mood::Silent)
        .mood("example.com", Mood::Silent);
    let dns = "query_timeout = \"200ms\"\nmail_timeout = \"500ms\"";
    let harness = Harness::with(zone, "", "", dns).await;
    let to = harness.minted_for(ANN);
    let answer = harness.smtp().mail(ANN, &to, &by_ann()).unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    let message = harness.message(0);
    assert_eq!(told(&message), ["token-holder", "temperror", "temperror"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_mail_is_posted_after_its_release() {
    let zone = zone_of("example.com").txt("_dmarc.strict.example", "v=DMARC1; p=quarantine");
    let harness = Harness::new(zone, "token_holder = \"hold\"\nbad_from = \"hold\"").await;
    let mut client = harness.smtp();
    let bound = harness.minted_for("bob@example.com");
    let two = format!("From: x@evil.example\r\n{}", mail_by(ANN));
    let mails = [
        (by_ann(), "the author is token-holder"),
        (two, "several From fields"),
        (
            mail_by("dan@strict.example"),
            "DMARC fails and the domain asks for quarantine",
        ),
    ];
    for (before, (mail, why)) in mails.iter().enumerate() {
        let answer = client.mail("x@evil.example", &bound, mail).unwrap();
        assert!(answer.starts_with("250 "), "{answer}");
        let (id, reason) = harness.parked();
        assert_eq!(&reason, why);
        assert_eq!(harness.product.messages().len(), before);
        harness.run(&["queue", "retry", &id]);
        assert_eq!(
            harness.message(before)["authentication"]["identity"],
            "token-holder"
        );
    }
    eventually("an empty queue", || {
        harness.run(&["queue", "list"]).is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_refuse_all_but_the_participant() {
    let policy = "token_holder = \"refuse\"\nunverified = \"refuse\"";
    let harness = Harness::new(zone_of("example.com"), policy).await;
    let mut client = harness.smtp();
    let refusal = "550 5.7.1 the author of this mail could not be verified";
    let bound = harness.minted_for("bob@example.com");
    assert_eq!(client.mail(ANN, &bound, &by_ann()).unwrap(), refusal);
    let nobody = mail_by("x@evil.example");
    let box_of_ours = "general@inbox.test";
    let answer = client.mail("x@evil.example", box_of_ours, &nobody).unwrap();
    assert_eq!(answer, refusal);
    // The person who begins a thread is its participant.
    let answer = client.mail(ANN, box_of_ours, &by_ann()).unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(told(&harness.message(0))[0], "verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn lmtp_trusts_only_the_configured_server() {
    let auth = "relay_authserv_ids = [\"mx.us.example\"]";
    let harness = Harness::with(zone_of("example.com"), "", auth, "").await;
    let mut client = harness.lmtp();
    let to = harness.minted_for(ANN);
    let results = |id: &str, what: &str| {
        let field = format!("Authentication-Results: {id}; dmarc={what} header.from=example.com");
        format!("{field}\r\n{}", mail_by(ANN).replace("Some", id))
    };
    for (before, (mail, identity, dmarc)) in [
        (results("mx.us.example", "pass"), "verified", "pass"),
        (results("mx.evil.example", "pass"), "token-holder", "none"),
        (mail_by(ANN), "token-holder", "none"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = client.mail(ANN, &to, &mail).unwrap();
        assert!(answer.starts_with("250 "), "{answer}");
        let message = harness.message(before);
        assert_eq!(told(&message), [identity, "none", dmarc], "{mail}");
    }
    // The mail has passed the border: a bounce would go to the forged sender.
    let two = format!("From: x@evil.example\r\n{}", mail_by(ANN));
    let answer = client.mail(ANN, &to, &two).unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(harness.parked().1, "several From fields");
    assert!(harness.dns.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_names_the_client() {
    let zone = Zone::default()
        .txt("_dmarc.example.com", "v=DMARC1; p=reject")
        .txt("example.com", "v=spf1 ip4:192.0.2.1 -all");
    let relays = "[networks]\nrelays = [\"127.0.0.1\"]";
    let harness = Harness::with(zone, "", "", relays).await;
    let to = harness.minted_for(ANN);
    let mail = |n: usize| mail_by(ANN).replace("Some", &format!("Some {n}"));
    let taken = |answer: Option<String>| {
        let answer = answer.unwrap();
        assert!(answer.starts_with("250 "), "{answer}");
    };
    let mut lmtp = harness.lmtp();
    taken(lmtp.say("XFORWARD NAME=mx.example.com ADDR=192.0.2.1 HELO=mx.example.com"));
    taken(lmtp.mail(ANN, &to, &mail(0)));
    assert_eq!(told(&harness.message(0)), ["verified", "none", "pass"]);
    // XFORWARD was valid for that mail only: nothing is known about the client of this one.
    taken(lmtp.mail(ANN, &to, &mail(1)));
    assert_eq!(told(&harness.message(1)), ["token-holder", "none", "none"]);

    let mut smtp = harness.smtp();
    let again = smtp.say("XCLIENT ADDR=192.0.2.1").unwrap();
    assert!(again.starts_with("220 "), "{again}");
    taken(smtp.say("EHLO mx.example.com"));
    taken(smtp.mail(ANN, &to, &mail(2)));
    let message = harness.message(2);
    assert_eq!(told(&message), ["verified", "none", "pass"]);
    assert_eq!(message["authentication"]["spf"], "pass");
    smtp.say("XCLIENT ADDR=IPv6:2001:db8::1").unwrap();
    taken(smtp.say("EHLO mx.example.com"));
    let answer = smtp.mail(ANN, &to, &mail(3)).unwrap();
    assert!(answer.starts_with("550 5.7.26 "), "{answer}");

    // The same, but no peer is left to receive a response.
    taken(lmtp.say("XFORWARD ADDR=192.0.2.99 HELO=x"));
    taken(lmtp.mail(ANN, &to, &mail(4)));
    let why = "DMARC fails and the domain asks to reject";
    assert_eq!(harness.parked().1, why);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_mail_has_only_our_own_results() {
    let harness = Harness::new(zone_of("example.com"), "token_holder = \"hold\"").await;
    let forged = "Authentication-Results: MX.test; dmarc=pass header.from=bank.example\r\n";
    let theirs = "Authentication-Results: mx.other.example; spf=pass\r\n";
    let mail = by_ann();
    let to = harness.minted_for("bob@example.com");
    let answer = harness
        .smtp()
        .mail(ANN, &to, &format!("{forged}{theirs}{mail}"))
        .unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
    let (id, _) = harness.parked();
    let raw = harness.run(&["queue", "show", "--raw", &id]);
    let (ours, rest) = raw.split_once(theirs).unwrap();
    let ours = ours.replace("\r\n\t ", " ");
    assert!(ours.starts_with("Authentication-Results: mx.test;\r\n\t"));
    assert!(
        ours.contains("dmarc=pass header.from=example.com"),
        "{ours}"
    );
    assert!(ours.contains("\r\nReceived: from peer.example ([127.0.0.1])\r\n\tby mx.test"));
    assert!(!ours.contains("bank.example") && !raw.contains(&to));
    assert_eq!(rest, mail);
    let shown: Value = serde_json::from_str(&harness.run(&["queue", "show", &id])).unwrap();
    assert_eq!(shown["verdict"]["dmarc"]["aligned"], "example.com");
    // Without the server the command uses the store itself.
    let mut harness = harness;
    harness.postern.stop();
    assert_eq!(harness.run(&["queue", "show", "--raw", &id]), raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_the_verdict_and_its_reasons() {
    let zone = zone_of("example.com").txt("mx.example.com", "v=spf1 ip4:192.0.2.1 -all");
    let harness = Harness::new(zone, "").await;
    let to = harness.minted_for(ANN);
    let file = harness.postern.scratch("mail.eml");
    let dns = harness.dns.address.to_string();
    let explain = |mail: &[u8], more: &[&str]| {
        fs::write(&file, mail).unwrap();
        let words = ["mail", "explain", file.to_str().unwrap(), "--rcpt", &to];
        let envelope = ["--from", ANN, "--dns", &dns, "--ip", "192.0.2.1"];
        harness.run(&[&words[..], &envelope, &["--helo", "mx.example.com"], more].concat())
    };
    let mail = signed(&mail_by(ANN), &[as_domain("example.com")]);
    let said: Value = serde_json::from_str(&explain(&mail, &["--json"])).unwrap();
    let found = &said["authentication"];
    assert_eq!(found["identity"], "verified", "{found}");
    assert_eq!(found["decision"], "accept");
    assert_eq!(found["spf"], "fail");
    assert_eq!(found["verdict"]["helo"]["result"], "pass");
    assert_eq!(found["verdict"]["dkim"][0]["selector"], "s1");
    let changed = replaced(&mail, "And more", "And less");
    let words = explain(&changed, &[]);
    for line in [
        "spf:      fail example.com",
        "spf helo: pass mx.example.com",
        "dkim:     fail d=example.com s=s1: ",
        "dmarc:    fail example.com (p=reject, aligned: nothing)",
        "identity: token-holder",
        "decision: refuse: DMARC fails and the domain asks to reject",
    ] {
        assert!(words.contains(&format!("\n{line}")), "{line} in\n{words}");
    }
    let output = harness
        .postern
        .command(&["mail", "explain", "x", "--ip", "192.0.2.1"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
