//! The README's lines for Postfix, with a real Postfix: an unknown address is refused in the dialogue, so
//! that no bounce goes to a forged sender.

use std::fs;

use crate::crash::mail;
use crate::postern::{Client, DOMAIN, Postern, eventually};
use crate::postfix::Postfix;
use crate::product::Product;
use crate::sink::Sink;

/// The forged sender.
const BYSTANDER: &str = "bystander@sink.test";

/// The README's lines for `main.cf`, for the domain of the tests and this port of LMTP.
fn recipe(lmtp: u16) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(path).unwrap();
    let (_, rest) = readme.split_once("# main.cf\n").unwrap();
    let (lines, _) = rest.split_once("```").unwrap();
    let lines = lines.replace("inbox.example.com", DOMAIN);
    let named = lines.replace("127.0.0.1:2424", &format!("127.0.0.1:{lmtp}"));
    assert_ne!(lines, named, "the README names no port of LMTP");
    named
}

/// The response of Postfix to a mail, after it has verified the address.
fn verified(postfix: &Postfix, id: &str, to: &str) -> String {
    let mut answer = String::new();
    eventually("the address is verified", || {
        let mut client = Client::connect(postfix.port(), "EHLO far.test").unwrap();
        answer = client.mail(BYSTANDER, to, &mail(id)).unwrap();
        // The probe is still running.
        !answer.starts_with("450 4.1.1")
    });
    answer
}

#[test]
fn behind_the_readmes_postfix_a_forged_address_causes_no_bounce() {
    let (product, sink) = (Product::start(), Sink::start());
    let mut postern = Postern::new(Some(&product.base_url()), "").with_known_ports();
    postern.start();
    // The tests connect from loopback, but must be treated like external clients.
    let extra = format!(
        "mynetworks = 192.0.2.0/24\ntransport_maps = inline:{{sink.test={}}}\n",
        sink.transport()
    );
    let postfix = Postfix::start_for(&recipe(postern.lmtp), &extra);
    let good = postern.mint("5f0c7a52-9d1e-4a64-8a3f-2f6f5f4d0c11");
    let answer = verified(&postfix, "1@peer.test", &good);
    assert!(answer.starts_with("250 "), "{answer}");
    eventually("it is told", || product.messages().len() == 1);

    let (name, domain) = good.split_once('@').unwrap();
    let forged = match name.strip_suffix('a') {
        Some(start) => format!("{start}b@{domain}"),
        None => format!("{}a@{domain}", &name[..name.len() - 1]),
    };
    for to in [
        forged,
        format!("reply+e@{DOMAIN}"),
        format!("nobody@{DOMAIN}"),
    ] {
        let answer = verified(&postfix, "2@peer.test", &to);
        assert!(answer.starts_with("550 5.1.1"), "{to}: {answer}");
    }

    // An address that cannot be verified now is deferred, not refused.
    postern.stop();
    let late = postern.mint("00000000-0000-4000-8000-000000000001");
    let mut client = Client::connect(postfix.port(), "EHLO far.test").unwrap();
    let answer = client.mail(BYSTANDER, &late, &mail("3@peer.test")).unwrap();
    assert!(answer.starts_with("450 "), "{answer}");
    postern.start();
    // Postfix probes the same address again only after a quarter of an hour.
    let next = postern.mint("00000000-0000-4000-8000-000000000002");
    let answer = verified(&postfix, "4@peer.test", &next);
    assert!(answer.starts_with("250 "), "{answer}");
    eventually("it is told", || product.messages().len() == 2);

    eventually("Postfix' queue is empty", || postfix.queued() == 0);
    let log = postfix.log();
    assert!(!log.contains("status=bounced"), "{log}");
    assert!(sink.taken().is_empty(), "{:?}", sink.taken());
    assert_eq!(postern.metric("postern_ledger_received"), 2.0);
    postern.stop();
}
