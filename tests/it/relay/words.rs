//! The text of a relay in logs and events: never a token or a return path, whichever step it refuses.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use postern::outbound::relay::settings::{PasswordMechanism, Relay, RelayCredentials, RelayLogin};
use postern::store::JobState;
use tracing_subscriber::fmt::MakeWriter;

use super::server::{Act, Fake, Step};
use super::{Sending, address, job, relay, settings};

const WORD: &str = "n6lbt74lqzgqdnbnadhu7sle77lhdlqdrak7y7wdjgmupmayioia";
const TOKEN: &str = "eaabeaq5mr2gkzjsgm3tinzygaztqnzzgi4tmnrrgq2tmobxha4tcmrtgq";

/// The log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Refuses with both secrets in the reply, in all the ways in which relays repeat them, and beyond the
/// bound of the kept text.
fn telling(code: u16) -> String {
    let long = "x ".repeat(480);
    format!(
        "{code}-5.1.8 <bounce+{WORD}@inbox.test> reply+{TOKEN}@INBOX.test\r\n\
         {code}-5.1.8 {WORD}, SRS0=bounce+{WORD}=inbox.test@relay.test {TOKEN}\r\n\
         {code} {long} <bounce+{WORD}@inbox.test>\r\n"
    )
}

#[tokio::test]
async fn secrets_that_a_relay_repeats_are_redacted() {
    let steps = [
        (Step::Greeting, 554),
        (Step::Greeting, 999),
        (Step::Ehlo, 502),
        (Step::Auth, 535),
        (Step::Auth, 999),
        (Step::Mail, 530),
        (Step::Mail, 550),
        (Step::Mail, 451),
        (Step::Rcpt, 421),
        (Step::Rcpt, 250),
        (Step::Data, 250),
        (Step::Data, 554),
        (Step::End, 250),
        (Step::End, 354),
        (Step::End, 999),
    ];
    let log = Log::default();
    let ours = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let logs = tracing::subscriber::set_default(ours);
    for (step, code) in steps {
        let words = format!("{step:?} {code}");
        let fake = Fake::start(move |now, count| match (now == step, count) {
            (true, 0) => Act::Say(telling(code)),
            _ => Act::Usual,
        });
        let login = RelayLogin {
            user: "us".to_owned(),
            credentials: RelayCredentials::Password {
                password: "hunter2".to_owned(),
                mechanisms: vec![PasswordMechanism::Plain],
            },
        };
        let list = vec![Relay {
            login: Some(login),
            ..relay(fake.port)
        }];
        let sending = Sending::start(list, settings());
        let mut job = job(1, "ann@example.com");
        job.return_path = Some(address(&format!("bounce+{WORD}@inbox.test")));
        sending.enqueue(&job).await;
        sending.over().await;
        let record = sending.record(1);
        assert!(
            matches!(record.state, JobState::Sent | JobState::Failed { .. }),
            "{words}"
        );
        let told = format!(
            "{:?} {:?} {:?}",
            record.state,
            record.history,
            sending.events()
        );
        for secret in [&WORD[..20], &TOKEN[..20]] {
            assert!(!told.contains(secret), "{words}: {told}");
        }
        sending.stop().await;
    }
    drop(logs);
    let log = log.text();
    // The attempt itself runs on a separate thread with another log: see `what_is_logged_of_a_relay`.
    assert!(log.contains("failed: it waits for a person"), "{log}");
    for secret in [&WORD[..20], &TOKEN[..20], "hunter2"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn what_is_logged_of_a_relay_has_no_secrets() {
    for (step, code) in [
        (Step::Greeting, 554),
        (Step::Greeting, 999),
        (Step::Ehlo, 502),
        (Step::Mail, 530),
    ] {
        let log = Log::default();
        let ours = tracing_subscriber::fmt().with_writer(log.clone()).finish();
        let fake = Fake::start(move |now, _| match now == step {
            true => Act::Say(telling(code)),
            false => Act::Usual,
        });
        let attempt = tracing::subscriber::with_default(ours, || super::dialogue::send_one(&fake));
        let log = log.text();
        assert!(log.contains("the relay cannot be used"), "{log}");
        let told = format!("{log} {attempt:?}");
        for secret in [&WORD[..20], &TOKEN[..20]] {
            assert!(!told.contains(secret), "{step:?} {code}: {told}");
        }
    }
}
