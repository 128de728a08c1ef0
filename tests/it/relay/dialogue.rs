//! One attempt with a relay that misbehaves at each step.

use std::sync::LazyLock;
use std::time::Duration;

use postern::outbound::relay::dot_stuffing::dot_stuffed;
use postern::outbound::relay::settings::{
    PasswordMechanism, Relay, RelayCredentials, RelayLogin, RelaySecurity, RelayTimeouts,
};
use postern::outbound::relay::{RelayMail, RelayPool, SendOutcome};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::server::{Act, Fake, Step, certificate};
use super::{address, relay, relay_with, relays, timeouts};

const MAIL: &[u8] = b"Subject: x\r\n\r\n.\r\n..\r\nend\r\n";

fn send(relays: &RelayPool, mail: &[u8]) -> SendOutcome {
    send_to(relays, mail, "ann@example.com")
}

fn send_to(relays: &RelayPool, mail: &[u8], to: &str) -> SendOutcome {
    let (from, to) = (address("bounce@inbox.test"), address(to));
    let letter = RelayMail {
        from: Some(&from),
        to: &to,
        wire: &dot_stuffed(&[mail]).unwrap(),
        bytes: mail.len(),
        is_eight_bit: !mail.is_ascii(),
    };
    let (_running, stopping) = watch::channel(false);
    block_on(relays.send(&letter, &|| None, &stopping)).0
}

/// Runs a future on this thread. The connections of a pool outlive it, so there is one runtime for all.
pub(super) fn block_on<T>(conversation: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(conversation)
}

/// One attempt with this relay.
pub(super) fn send_one(fake: &Fake) -> SendOutcome {
    send(&relays(vec![relay(fake.port)], timeouts()), MAIL)
}

/// Steps time out after a second.
fn hasty() -> RelayTimeouts {
    let second = Duration::from_secs(1);
    RelayTimeouts {
        greeting: second,
        command: second,
        end: second,
        ..timeouts()
    }
}

fn at(step: Step, act: Act) -> (Fake, SendOutcome) {
    let waits = matches!(act, Act::Hang | Act::Drip(_));
    let fake = Fake::start(move |now, _| if now == step { act.clone() } else { Act::Usual });
    let times = if waits { hasty() } else { timeouts() };
    let attempt = send(&relays(vec![relay(fake.port)], times), MAIL);
    (fake, attempt)
}

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

#[track_caller]
fn again(step: Step, act: Act, words: &str) -> Fake {
    let (fake, attempt) = at(step, act.clone());
    match &attempt {
        SendOutcome::TemporaryFailure { reply } if reply.contains(words) && reply.len() <= 1024 => {
            fake
        }
        _ => panic!("{step:?} {act:?}: {attempt:?}, wanted again with {words:?}"),
    }
}

#[track_caller]
fn unknown(act: Act, words: &str) {
    let (fake, attempt) = at(Step::End, act.clone());
    match &attempt {
        SendOutcome::Unknown { why } if why.contains(words) => {}
        _ => panic!("{act:?}: {attempt:?}, wanted unknown with {words:?}"),
    }
    assert_eq!(fake.heard().len(), 1);
}

#[test]
fn a_good_relay_receives_the_exact_bytes() {
    let fake = Fake::start(|_, _| Act::Usual);
    let ours = relays(vec![relay(fake.port)], timeouts());
    let queued = SendOutcome::Sent {
        reply: "250 2.0.0 queued".to_owned(),
    };
    for _ in 0..3 {
        assert_eq!(send(&ours, MAIL), queued);
    }
    let big = b"0123456789 \r\n.\r\n".repeat(40_000);
    assert_eq!(send(&ours, &big), queued);
    let heard = fake.taken();
    assert_eq!(heard[0].bytes, MAIL);
    assert_eq!(
        heard[0].from,
        format!("MAIL FROM:<bounce@inbox.test> SIZE={}", MAIL.len())
    );
    assert_eq!(heard[0].to, "RCPT TO:<ann@example.com>");
    assert_eq!(heard[3].bytes, big);
    assert_eq!(fake.connections(), 1, "the connection is used again");
    let rsets = fake.lines().iter().filter(|line| *line == "RSET").count();
    assert_eq!(rsets, 3);
    block_on(ours.close_idle(true));
}

#[test]
fn a_relay_without_a_greeting_is_retried() {
    for step in [Step::Greeting, Step::Ehlo] {
        again(step, Act::Hang, "timed out");
        again(step, Act::Drip("250-slow ".repeat(20)), "timed out");
        again(step, Act::Close, "closed");
        again(step, Act::Reset, "");
        for code in ["554 no", "421 later", "450 later", "354 what"] {
            again(step, say(&format!("{code}\r\n")), code);
        }
        again(step, say("2xx ok\r\n"), "not a reply");
        again(step, say("999 ok\r\n"), "not a reply");
        again(step, say("220-a\r\n550 b\r\n"), "two codes");
        again(step, Act::Flood("x"), "too long");
        again(step, Act::Flood("250-more\r\n"), "too long");
    }
    again(
        Step::Greeting,
        say("220 hi\r\n250 injected\r\n"),
        "nothing asked for",
    );
}

#[test]
fn the_reply_to_the_envelope_decides() {
    for step in [Step::Mail, Step::Rcpt, Step::Data] {
        again(
            step,
            say("450 4.7.1 greylisted\r\n"),
            "450 4.7.1 greylisted",
        );
        again(
            step,
            say("421 4.3.2 going down\r\n"),
            "421 4.3.2 going down",
        );
        let (_, never) = at(step, say("550 5.1.1 no such user\r\n"));
        let told = SendOutcome::PermanentFailure {
            code: Some(550),
            reply: "550 5.1.1 no such user".to_owned(),
        };
        assert_eq!(never, told, "{step:?}");
        again(step, say("999 what\r\n"), "not a reply");
        again(step, say("250-a\r\n550 b\r\n"), "two codes");
        again(step, Act::Hang, "timed out");
        again(step, Act::Drip("250-slow ".repeat(20)), "timed out");
        again(step, Act::Close, "closed");
        again(step, Act::Reset, "");
        again(step, Act::Flood("2"), "too long");
    }
    again(Step::Mail, say("530 5.7.0 log in first\r\n"), "530");
    again(Step::Mail, say("354 go on\r\n"), "354");
    // An early reply must not be taken for the reply to a later command.
    let fake = again(
        Step::Rcpt,
        say("250 ok\r\n354 go\r\n250 queued\r\n"),
        "nothing asked for",
    );
    assert!(fake.heard().is_empty());
    let fake = again(
        Step::Data,
        say("354 go\r\n250 queued\r\n"),
        "nothing asked for",
    );
    assert!(fake.heard().is_empty());
    let fake = again(Step::Data, say("250 go on\r\n"), "250");
    assert!(fake.heard().is_empty(), "no mail without 354");
}

#[test]
fn only_a_2xx_to_the_end_is_sent() {
    let (_, never) = at(Step::End, say("554 5.7.1 spam\r\n"));
    assert!(
        matches!(
            never,
            SendOutcome::PermanentFailure {
                code: Some(554),
                ..
            }
        ),
        "{never:?}"
    );
    again(Step::End, say("451 4.3.0 later\r\n"), "451 4.3.0 later");
    again(Step::End, say("421 4.3.2 going down\r\n"), "421");
    unknown(say("354 go on\r\n"), "354");
    unknown(say("999 ok\r\n"), "not a reply");
    unknown(say("2xx ok\r\n"), "not a reply");
    unknown(say("250-ok\r\n550 no\r\n"), "two codes");
    unknown(Act::Hang, "timed out");
    unknown(Act::Drip("250-slow ".repeat(20)), "timed out");
    unknown(Act::Close, "closed");
    unknown(Act::Reset, "");
    unknown(Act::Flood("2"), "too long");
    unknown(Act::Flood("250-<html>\r\n"), "too long");
}

#[test]
fn a_relays_text_is_cut_and_escaped() {
    let page = "550-<script>alert(1)</script> \u{7}\u{1b}[31m \u{e9}\r\n".repeat(200);
    let (_, attempt) = at(Step::Rcpt, say(&format!("{page}550 end\r\n")));
    let SendOutcome::PermanentFailure { code, reply } = attempt else {
        panic!("{attempt:?}");
    };
    assert_eq!(code, Some(550));
    assert!(reply.len() <= 1024 && !reply.chars().any(char::is_control));
    assert!(reply.starts_with("550 <script>alert(1)</script> \\u{7}\\u{1b}[31m é"));
}

#[test]
fn a_doubtful_connection_is_not_used_again() {
    for (step, act) in [
        (Step::Rcpt, say("421 4.3.2 going down\r\n")),
        (Step::End, say("250 ok\r\n250 injected\r\n")),
        (Step::Rset, say("500 what\r\n")),
        (Step::Rset, Act::Close),
        (Step::Rset, say("250 ok\r\n250 more\r\n")),
    ] {
        let words = format!("{step:?} {act:?}");
        let fake = Fake::start(move |now, count| match (now == step, count) {
            (true, 0) => act.clone(),
            _ => Act::Usual,
        });
        let ours = relays(vec![relay(fake.port)], timeouts());
        let first = send(&ours, MAIL);
        assert!(
            !matches!(first, SendOutcome::PermanentFailure { .. }),
            "{words}: {first:?}"
        );
        let then = send(&ours, MAIL);
        assert!(
            matches!(then, SendOutcome::Sent { .. }),
            "{words}: {then:?}"
        );
        assert_eq!(fake.connections(), 2, "{words}");
    }
}

#[test]
fn the_next_relay_is_tried_only_before_the_transfer() {
    let (_held, closed) = super::closed();
    let rude = Fake::start(|_, _| say("554 not you\r\n"));
    let good = Fake::start(|_, _| Act::Usual);
    let list = vec![relay(closed), relay(rude.port), relay(good.port)];
    let ours = relays(list, timeouts());
    assert!(matches!(send(&ours, MAIL), SendOutcome::Sent { .. }));
    assert!(ours.available_at(std::time::Instant::now()).is_none());
    let lost = Fake::start(|step, _| match step {
        Step::End => Act::Close,
        _ => Act::Usual,
    });
    let ours = relays(vec![relay(lost.port), relay(good.port)], timeouts());
    assert!(matches!(send(&ours, MAIL), SendOutcome::Unknown { .. }));
    assert_eq!(
        good.heard().len(),
        1,
        "what may have arrived goes nowhere else at once"
    );
    let ours = relays(vec![relay(closed)], timeouts());
    assert!(matches!(
        send(&ours, MAIL),
        SendOutcome::TemporaryFailure { .. }
    ));
    assert!(ours.available_at(std::time::Instant::now()).is_some());
}

#[test]
fn replies_before_tls_do_not_count_after_it() {
    let (pem, _, config) = certificate("127.0.0.1");
    let starttls = |port, pem: &str| {
        relays(
            vec![relay_with(port, RelaySecurity::StartTls, Some(pem))],
            timeouts(),
        )
    };
    let fake = Fake::start_with(|_, _| Act::Usual, Some(config.clone()));
    assert!(matches!(
        send(&starttls(fake.port, &pem), MAIL),
        SendOutcome::Sent { .. }
    ));
    let hellos = fake
        .lines()
        .iter()
        .filter(|line| line.starts_with("EHLO"))
        .count();
    assert_eq!(hellos, 2);
    let injected = |step, _| match step {
        Step::StartTls => say("220 go on\r\n250-injected\r\n250 AUTH PLAIN\r\n"),
        _ => Act::Usual,
    };
    let fake = Fake::start_with(injected, Some(config.clone()));
    let attempt = send(&starttls(fake.port, &pem), MAIL);
    assert!(
        matches!(&attempt, SendOutcome::TemporaryFailure { reply } if reply.contains("nothing asked for"))
    );
    assert!(fake.heard().is_empty());
    for refusal in ["454 no TLS now\r\n", "250 ok\r\n", "502 what\r\n"] {
        let refuses = move |step, _| match step {
            Step::StartTls => say(refusal),
            _ => Act::Usual,
        };
        let fake = Fake::start_with(refuses, Some(config.clone()));
        let attempt = send(&starttls(fake.port, &pem), MAIL);
        assert!(
            matches!(attempt, SendOutcome::TemporaryFailure { .. }),
            "{attempt:?}"
        );
        assert!(fake.heard().is_empty(), "nothing goes in the open instead");
    }
}

#[test]
fn a_wrong_or_unknown_certificate_is_refused() {
    let (other, _, as_other) = certificate("other.test");
    let (_, _, unknown) = certificate("127.0.0.1");
    for (config, pem) in [(as_other, Some(other.as_str())), (unknown, None)] {
        let fake = Fake::start_with(|_, _| Act::Usual, Some(config));
        let list = vec![relay_with(fake.port, RelaySecurity::StartTls, pem)];
        let attempt = send(&relays(list, timeouts()), MAIL);
        let told =
            matches!(&attempt, SendOutcome::TemporaryFailure { reply } if reply.contains("TLS"));
        assert!(told, "{attempt:?}");
        assert!(!fake.lines().iter().any(|line| line.starts_with("MAIL")));
    }
}

#[test]
fn tls_may_begin_with_the_first_octet() {
    let (pem, _, config) = certificate("127.0.0.1");
    let fake = Fake::start_implicit(config);
    let implicit = |pem| {
        relays(
            vec![relay_with(fake.port, RelaySecurity::Implicit, pem)],
            timeouts(),
        )
    };
    assert!(matches!(
        send(&implicit(Some(&pem)), MAIL),
        SendOutcome::Sent { .. }
    ));
    assert_eq!(fake.taken()[0].bytes, MAIL);
    assert!(!fake.lines().contains(&"STARTTLS".to_owned()));
    let attempt = send(&implicit(None), MAIL);
    assert!(
        matches!(&attempt, SendOutcome::TemporaryFailure { reply } if reply.contains("TLS")),
        "{attempt:?}"
    );
    let plain = Fake::start(|_, _| Act::Usual);
    let list = vec![relay_with(plain.port, RelaySecurity::Implicit, Some(&pem))];
    let attempt = send(&relays(list, timeouts()), MAIL);
    assert!(
        matches!(attempt, SendOutcome::TemporaryFailure { .. }),
        "{attempt:?}"
    );
    assert!(plain.lines().iter().all(|line| !line.starts_with("EHLO")));
}

fn as_user(port: u16, proof: RelayCredentials) -> Relay {
    Relay {
        login: Some(RelayLogin {
            user: "us".to_owned(),
            credentials: proof,
        }),
        ..relay(port)
    }
}

#[test]
fn logins_have_three_mechanisms() {
    let password = |mechanism| RelayCredentials::Password {
        password: "hunter2".to_owned(),
        mechanisms: vec![mechanism],
    };
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    for (proof, lines) in [
        (
            password(PasswordMechanism::Plain),
            vec!["AUTH PLAIN AHVzAGh1bnRlcjI="],
        ),
        (
            password(PasswordMechanism::Login),
            vec!["AUTH LOGIN", "dXM=", "aHVudGVyMg=="],
        ),
        (
            RelayCredentials::Token(file.clone()),
            vec!["AUTH XOAUTH2 dXNlcj11cwFhdXRoPUJlYXJlciBmaXJzdAEB"],
        ),
    ] {
        let fake = Fake::start(|_, _| Act::Usual);
        let ours = relays(vec![as_user(fake.port, proof)], timeouts());
        assert!(matches!(send(&ours, MAIL), SendOutcome::Sent { .. }));
        let said: Vec<_> = fake.lines().into_iter().skip(1).take(lines.len()).collect();
        assert_eq!(said, lines);
    }
    // A token is read again for each connection.
    std::fs::write(&file, "second\n").unwrap();
    let fake = Fake::start(|_, _| Act::Usual);
    let ours = relays(
        vec![as_user(fake.port, RelayCredentials::Token(file))],
        timeouts(),
    );
    assert!(matches!(send(&ours, MAIL), SendOutcome::Sent { .. }));
    let line = "AUTH XOAUTH2 dXNlcj11cwFhdXRoPUJlYXJlciBzZWNvbmQBAQ==";
    assert_eq!(fake.lines()[1], line);
}

#[test]
fn a_refused_login_concerns_the_relay_and_prints_no_password() {
    let proof = RelayCredentials::Password {
        password: "hunter2".to_owned(),
        mechanisms: vec![PasswordMechanism::Plain],
    };
    for (echo, told) in [
        (
            "535 5.7.8 bad: AUTH PLAIN AHVzAGh1bnRlcjI=\r\n",
            "AUTH: 535 5.7.8",
        ),
        ("AUTH PLAIN AHVzAGh1bnRlcjI=\r\n", "AUTH: not a reply"),
    ] {
        let fake = Fake::start(move |step, _| match step {
            Step::Auth => say(echo),
            _ => Act::Usual,
        });
        let ours = relays(vec![as_user(fake.port, proof.clone())], timeouts());
        let attempt = send(&ours, MAIL);
        let SendOutcome::TemporaryFailure { reply } = attempt else {
            panic!("{attempt:?}");
        };
        assert!(reply.ends_with(told), "{reply}");
        assert!(ours.available_at(std::time::Instant::now()).is_some());
    }
}

#[test]
fn a_mail_is_not_sent_to_a_relay_that_cannot_carry_it() {
    let fake = Fake::start(|step, _| match step {
        Step::Ehlo => say("250-old\r\n250 SIZE 100\r\n"),
        _ => Act::Usual,
    });
    let ours = relays(vec![relay(fake.port)], timeouts());
    let eight_bit = "Subject: x\r\n\r\ncaf\u{e9}\r\n".as_bytes();
    for (mail, to, words) in [
        (
            b"x\r\n".repeat(40).as_slice(),
            "ann@example.com",
            "the relay takes 100",
        ),
        (eight_bit, "ann@example.com", "above 127"),
        (MAIL, "caf\u{e9}@example.com", "SMTPUTF8"),
    ] {
        let attempt = send_to(&ours, mail, to);
        let told = matches!(&attempt, SendOutcome::PermanentFailure { code: None, reply } if reply.contains(words));
        assert!(told, "{attempt:?}");
    }
    // A domain has an ASCII form.
    assert!(matches!(
        send_to(&ours, MAIL, "ann@b\u{fc}cher.example"),
        SendOutcome::Sent { .. }
    ));
    assert_eq!(fake.taken()[0].to, "RCPT TO:<ann@xn--bcher-kva.example>");
}
