//! A disk below the real program that fails to read written bytes: once, or ever again.

use std::collections::BTreeSet;
use std::fs;

use super::mend::{Whole, all, change, find};
use super::segments;
use crate::product::Product;
use crate::relay::server::{Act, Fake};

fn delivered(product: &Product) -> BTreeSet<u64> {
    let number = |id: &String| {
        let number = id.strip_prefix('m').unwrap().split('@').next().unwrap();
        number.parse().unwrap()
    };
    product.effects().keys().map(number).collect()
}

#[test]
fn a_damaged_mail_is_parked_and_all_others_are_delivered() {
    let whole = Whole::new();
    let (product, relay) = (Product::start(), Fake::start(|_, _| Act::Usual));
    let mut postern = whole.postern(true, &product.base_url(), relay.port);
    let (id, nth) = whole.waiting[7];
    let (path, at) = find(
        &postern.data(),
        "mail",
        format!("<m{nth}@peer.test>").as_bytes(),
    );
    change(&path, at + 200, 1);
    postern.start();
    postern.drained();
    let mut wanted = all(&whole);
    wanted.remove(&nth);
    assert_eq!(delivered(&product), wanted);
    let parked = postern.command(&["queue", "show", &format!("{id}.0")]);
    let parked = String::from_utf8(parked.stdout).unwrap();
    assert!(
        parked.contains("its bytes cannot be read from the journal"),
        "{parked}"
    );
    let log = postern.log();
    let alarm = log
        .lines()
        .find(|line| line.contains("the mail cannot be read"));
    assert!(alarm.is_some_and(|line| line.contains("ERROR")), "{log}");
    postern.stop();
}

#[test]
fn every_mail_is_delivered_although_reads_fail_now_and_then() {
    let whole = Whole::new();
    for (call, error) in [("pread64", "EIO"), ("openat", "EMFILE")] {
        let (product, relay) = (Product::start(), Fake::start(|_, _| Act::Usual));
        let mut postern = whole.postern(true, &product.base_url(), relay.port);
        // Not the last one, which is read at the start.
        let path = segments(&postern.data(), "mail")[2].display().to_string();
        let trace = postern.scratch("trace").display().to_string();
        // Each thread counts its own calls; the first ones belong to the start.
        let calls = format!("trace={call}");
        let inject = format!("inject={call}:error={error}:when=2+2");
        postern.start_under(&[
            "strace", "-f", "-P", &path, "-e", &calls, "-e", &inject, "-o", &trace,
        ]);
        postern.drained();
        assert_eq!(delivered(&product), all(&whole), "{call}");
        let trace = fs::read_to_string(&trace).unwrap();
        assert!(trace.contains("(INJECTED)"), "{trace}");
        assert!(!postern.log().contains("parked"), "{}", postern.log());
        postern.kill();
    }
}
