//! The commands about many mails at once.

use crate::crash::mail;
use crate::fake_api::{Fake, Play};
use crate::postern::{Client, Postern, eventually};

fn send(postern: &Postern, to: &str, numbers: std::ops::Range<usize>) {
    let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
    for n in numbers {
        let answer = client.mail("ann@peer.test", to, &mail(&format!("{n}@peer.test")));
        assert!(answer.unwrap().starts_with("250"));
    }
}

/// The exit code, the output and the errors of `queue`.
fn queue(postern: &Postern, arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = postern.command(&[&["queue"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[track_caller]
fn done(postern: &Postern, arguments: &[&str]) -> String {
    let (code, out, error) = queue(postern, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{error}");
    out
}

fn count(postern: &Postern, name: &str) -> u64 {
    postern.metric(&format!("postern_ledger_{name}")) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_parked_mails_are_retried_by_one_command() {
    const MAILS: usize = 230;
    let refusal = || Play::Say(422, "", "no such priority".to_owned());
    let fake = Fake::start(move |_, _| refusal()).await;
    let mut postern = Postern::new(Some(&fake.base()), "");
    postern.start();
    let to = postern.mint("00000000-0000-4000-8000-000000000001");
    send(&postern, &to, 0..MAILS);
    postern.drained();
    assert_eq!(count(&postern, "parked"), 230);
    let (code, out, error) = queue(&postern, &["retry", "--all", "--state", "parked"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(64), "230 deliveries are selected\n")
    );
    assert!(error.contains("nothing was changed"), "{error}");
    for unlike in [
        ["--route", "other"].as_slice(),
        &["--reason", "no such words"],
        &["--state", "waiting"],
    ] {
        let out = done(&postern, &[&["drop", "--all", "--yes"], unlike].concat());
        assert_eq!(out, "0 deliveries are selected\n", "{unlike:?}");
        assert_eq!(done(&postern, &[&["list"], unlike].concat()), "");
    }
    for wrong in [
        ["retry"].as_slice(),
        &["retry", "1.0", "--all"],
        &["drop", "1.0", "--yes"],
        &["drop", "--route", "test"],
        &["park", "1.0", "--route", "test"],
        &["park", "--all", "--state", "parked"],
    ] {
        assert_eq!(queue(&postern, wrong).0, Some(64), "{wrong:?}");
    }
    assert_eq!(count(&postern, "parked"), 230);

    fake.replan(|_, _| Play::Good);
    let selection = ["--route", "test", "--reason", "422"];
    let listed = done(
        &postern,
        &[&["list", "--limit", "7"], &selection[..]].concat(),
    );
    assert_eq!(listed.lines().count(), 7);
    let out = done(
        &postern,
        &[&["retry", "--all", "--yes"], &selection[..]].concat(),
    );
    assert_eq!(out, "230 deliveries are selected\n230 waiting\n");
    postern.drained();
    assert_eq!(count(&postern, "delivered"), 230);
    let messages = fake
        .done()
        .into_iter()
        .filter(|seen| seen.call() == "message");
    assert_eq!(messages.count(), MAILS);
    postern.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiting_mails_are_changed_under_the_rules_for_one() {
    let fake = Fake::start(|seen, _| match seen.path.contains("000000000001") {
        true => Play::HoldThenCommit,
        false => Play::Say(503, "retry-after: 3600\r\n", String::new()),
    })
    .await;
    let mut postern = Postern::new(Some(&fake.base()), "");
    postern.start();
    let to = |n: u8| format!("00000000-0000-4000-8000-00000000000{n}");
    send(&postern, &postern.mint(&to(1)), 0..1);
    eventually("the first is being delivered", || !fake.seen().is_empty());
    for n in 2..4u8 {
        let first = usize::from(n) * 10;
        send(&postern, &postern.mint(&to(n)), first..first + 3);
    }
    eventually("one mail of each other thread was tried", || {
        done(&postern, &["list", "--reason", "503"]).lines().count() == 2
    });
    // The mails behind others are left, and the one in progress.
    let out = done(&postern, &["drop", "--all", "--reason", "503", "--yes"]);
    assert_eq!(out, "2 deliveries are selected\n2 dropped\n");
    eventually("the next ones were tried", || {
        done(&postern, &["list", "--reason", "503"]).lines().count() == 2
    });
    let out = done(
        &postern,
        &[
            "park", "--all", "--route", "test", "--reason", "odd", "--yes",
        ],
    );
    let said = "5 deliveries are selected\n4 parked\n1 left: they are being delivered now\n";
    assert_eq!(out, said);
    fake.open();
    postern.drained();
    assert_eq!(
        ["delivered", "parked", "dropped"].map(|name| count(&postern, name)),
        [1, 4, 2]
    );
    postern.stop();

    // Without a server.
    let odd = ["--reason", "a person parked it: odd"];
    assert_eq!(
        done(&postern, &[&["list"], &odd[..]].concat())
            .lines()
            .count(),
        4
    );
    let out = done(&postern, &[&["retry", "--all", "--yes"], &odd[..]].concat());
    assert_eq!(out, "4 deliveries are selected\n4 waiting\n");
    let out = done(&postern, &["retry", "--all", "--state", "waiting", "--yes"]);
    let said = "4 deliveries are selected\n2 waiting\n\
                2 left: they wait behind others, or their state has changed\n";
    assert_eq!(out, said);
    let out = done(&postern, &["drop", "--all", "--yes"]);
    assert_eq!(out, "4 deliveries are selected\n4 dropped\n");
}
