//! A real Postfix as the relay, with STARTTLS, and a server behind it that parses the mails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use postern::outbound::relay::settings::RelaySecurity;
use postern::store::JobState;

use super::server::{Act, Fake, Step, certificate};
use super::{Sending, job, mail, relay_with, settings};
use crate::postern::eventually;
use crate::postfix::Postfix;

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_through_a_real_postfix_with_starttls() {
    let sink = Fake::start(|step, count| match (step, count) {
        (Step::Rcpt, 0) => Act::Say("451 4.7.1 greylisted\r\n".to_owned()),
        _ => Act::Usual,
    });
    let (pem, key, _) = certificate("127.0.0.1");
    let folder = tempfile::TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = folder.path().display();
    fs::write(folder.path().join("cert.pem"), &pem).unwrap();
    fs::write(folder.path().join("key.pem"), key).unwrap();
    let postfix = Postfix::start_with(
        "sink.test",
        sink.port,
        &format!(
            "smtpd_tls_cert_file = {at}/cert.pem\nsmtpd_tls_key_file = {at}/key.pem\n\
             smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\n"
        ),
    );
    let tls = relay_with(postfix.port(), RelaySecurity::StartTls, Some(&pem));
    let sending = Sending::start(vec![tls], settings());
    for n in 1..=20 {
        sending.enqueue(&job(n, &format!("ann{n}@sink.test"))).await;
    }
    // Postfix does not know the domain and is no open relay.
    sending.enqueue(&job(21, "ann@nowhere.invalid")).await;
    sending.over().await;
    for n in 1..=20 {
        let record = sending.record(n);
        assert_eq!(record.state, JobState::Sent, "{}", postfix.log());
        assert!(
            record.history[0]
                .reply
                .starts_with("250 2.0.0 Ok: queued as ")
        );
    }
    let failed = sending.record(21);
    assert!(
        !matches!(failed.state, JobState::Waiting { .. }),
        "{failed:?}"
    );
    tokio::task::spawn_blocking(move || {
        eventually("everything is at the sink", || sink.taken().len() >= 20);
        let mut taken = sink.taken();
        taken.sort_by(|a, b| a.to.cmp(&b.to));
        taken.dedup_by(|a, b| a.to == b.to);
        assert_eq!(taken.len(), 20);
        for arrived in taken {
            let text = arrived.text();
            let n = (1..=20)
                .find(|n| arrived.to.starts_with(&format!("RCPT TO:<ann{n}@")))
                .unwrap();
            // The date is the job's own; the rest is the same for all.
            let ours = String::from_utf8(mail(&job(n, &format!("ann{n}@sink.test"))).to_vec());
            let body = ours.unwrap().split_once("Message-ID").unwrap().1.to_owned();
            assert!(text.ends_with(&body), "{text}");
            assert_eq!(
                arrived.from.split(' ').nth(1),
                Some("FROM:<bounce@inbox.test>")
            );
        }
        let log = postfix.log();
        assert!(log.contains("TLS connection established"), "{log}");
    })
    .await
    .unwrap();
    sending.stop().await;
}
