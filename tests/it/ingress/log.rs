use std::io::{Result, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::{DOMAIN, Harness, alone, reply_address};

const MAIL: &str = "Subject: hello\r\n\r\nHello.\r\n.\r\n";

#[test]
fn the_log_has_the_outcomes_and_no_tokens() {
    alone("true", "ingress::log::with_a_log_of_its_own");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the_log_has_the_outcomes_and_no_tokens: a process has one log"]
async fn with_a_log_of_its_own() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(LogFile(Arc::clone(&log)))
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    let token = reply_address()
        .local()
        .trim_start_matches("reply+")
        .to_owned();
    let forged = format!("{}aa", &token[..token.len() - 2]);
    client.says("MAIL FROM:<ann@sender.example>", "250 ").await;
    for form in ["reply+", "reply-", ""] {
        client
            .says(&format!("RCPT TO:<{form}{forged}@{DOMAIN}>"), "550 ")
            .await;
        client
            .says(&format!("RCPT TO:<{form}{token}@{DOMAIN}>"), "250 ")
            .await;
    }
    client.says("DATA", "354 ").await;
    client.sends(MAIL).await;
    client.hears("250 ").await;
    client.says("QUIT", "221 ").await;
    drop(client);
    harness.end().await;
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches(" received ").count(), 1, "{log}");
    assert_eq!(log.matches(" refused ").count(), 3, "{log}");
    for told in [
        "sender.example",
        "reply+…@in.example.com",
        "token_forged",
        "127.0.0.1",
    ] {
        assert!(log.contains(told), "{told} in {log}");
    }
    for secret in [
        &token,
        &forged,
        &token[..12].to_owned(),
        &"ann@".to_owned(),
        &"Hello.".to_owned(),
    ] {
        assert!(!log.contains(secret.as_str()), "{secret} in {log}");
    }
}

#[derive(Clone)]
struct LogFile(Arc<Mutex<Vec<u8>>>);

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
