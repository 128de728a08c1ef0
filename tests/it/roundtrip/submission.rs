//! A relay with authentication: a real Postfix that checks the password with a real Dovecot.

use data_encoding::BASE64;
use tempfile::TempDir;

use super::{Gateway, arrived, event, first, with_postfix_to};
use crate::dovecot::{Dovecot, PASSWORD, USER};
use crate::postern::eventually;
use crate::postfix::Postfix;
use crate::sink::Sink;

const ANN: &str = "ann@sink.test";
/// A wrong password.
const WRONG: &str = "quite another password of tests";

/// A Postfix that relays only after a login over TLS, and a Postern with these lines of `[outbound]` that
/// uses it.
fn with_submission(dovecot: &Dovecot, sink: &Sink, lines: &str) -> (Gateway, Postfix, TempDir) {
    let extra = format!(
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
         smtpd_tls_auth_only = yes\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        dovecot.sasl().display()
    );
    with_postfix_to(sink.transport(), &extra, lines)
}

fn login(password: &str) -> String {
    format!("user = '{USER}'\npassword = '{password}'\nauth = 'plain'\n")
}

/// Neither the password nor its wire form appears in any visible text.
#[track_caller]
fn shows_no_password(gateway: &Gateway, job: &str, password: &str) {
    let wire = format!("\0{USER}\0{password}");
    let secrets = [
        password.to_owned(),
        BASE64.encode(password.as_bytes()),
        BASE64.encode(wire.as_bytes()),
    ];
    let seen = [
        gateway.postern.log(),
        gateway.job(job).to_string(),
        format!("{:?}", gateway.events()),
        gateway.postern.fetch("/metrics").1,
        gateway.page("/admin/outbox"),
    ];
    for (text, secret) in seen
        .iter()
        .flat_map(|text| secrets.iter().map(move |s| (text, s)))
    {
        assert!(!text.contains(secret.as_str()), "{secret}: {text}");
    }
}

#[test]
fn the_right_password_permits_relaying() {
    let (sink, dovecot) = (Sink::start(), Dovecot::start(""));
    let (gateway, postfix, _folder) = with_submission(&dovecot, &sink, &login(PASSWORD));
    let job = gateway.say(&first("thread", "m0", ANN));
    let sent = gateway.becomes(&job, "sent");
    assert!(
        sent.to_string().contains("250 2.0.0 Ok: queued as"),
        "{sent}"
    );
    assert_eq!(arrived(&sink, 1).to, [ANN]);
    let log = postfix.log();
    let proof = format!("sasl_method=PLAIN, sasl_username={USER}");
    assert!(log.contains(&proof), "{log}");
    shows_no_password(&gateway, &job, PASSWORD);

    // A client without a password is refused.
    let (gateway, _postfix, _folder) = with_submission(&dovecot, &sink, "");
    let job = gateway.say(&first("thread", "m0", ANN));
    let failed = gateway.becomes(&job, "failed");
    assert!(failed.to_string().contains("554 5.7.1"), "{failed}");
    assert_eq!(sink.taken().len(), 1);
}

#[test]
fn with_a_wrong_password_mail_waits_for_the_correction() {
    let (sink, dovecot) = (Sink::start(), Dovecot::start(""));
    let (gateway, _postfix, _folder) = with_submission(&dovecot, &sink, &login(WRONG));
    let job = gateway.say(&first("thread", "m0", ANN));
    let next = gateway.say(&event("thread", "m1", "It is there."));
    eventually("it was tried", || {
        gateway.job(&job)["attempts"].as_u64() >= Some(2)
    });
    let waits = gateway.job(&job);
    assert_eq!(waits["state"], "waiting", "{waits}");
    assert!(
        waits["history"].to_string().contains("AUTH: 535 5.7.8"),
        "{waits}"
    );
    assert!(sink.taken().is_empty());
    shows_no_password(&gateway, &job, WRONG);

    dovecot.set_password(WRONG);
    for job in [&job, &next] {
        gateway.becomes(job, "sent");
    }
    arrived(&sink, 2);
    shows_no_password(&gateway, &job, WRONG);
}

#[test]
fn with_a_wrong_password_mail_fails_after_its_attempts() {
    let (sink, dovecot) = (Sink::start(), Dovecot::start(""));
    let lines = login(WRONG) + "attempts = 1\n";
    let (gateway, _postfix, _folder) = with_submission(&dovecot, &sink, &lines);
    let job = gateway.say(&first("thread", "m0", ANN));
    let failed = gateway.becomes(&job, "failed");
    assert!(failed.to_string().contains("AUTH: 535 5.7.8"), "{failed}");
    assert_eq!(gateway.told_of(&job), ["queued", "deferred", "failed"]);
    assert!(sink.taken().is_empty());
    shows_no_password(&gateway, &job, WRONG);
}
