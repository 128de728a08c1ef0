use std::time::Duration;

use postern::ingress::smtp::{
    BindError, Listen, ListenAddress, Metrics, Settings, SmtpParts, SmtpServer,
};
use postern::smtp::session::Protocol;
use tokio::net::TcpStream;

use super::{DOMAIN, Harness};
use crate::ask::ask;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_mails_finish_and_none_begin() {
    let mut harness = Harness::new().await;
    let mut idle = harness.hello().await;
    let mut between = harness.hello().await;
    between.says("MAIL FROM:<ann@example.org>", "250 ").await;
    let mut sending = harness.hello().await;
    sending.says("MAIL FROM:<ann@example.org>", "250 ").await;
    sending
        .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
        .await;
    sending.says("DATA", "354 ").await;
    sending.sends("Subject: last\r\n\r\n").await;
    harness.begin_stop();
    for client in [&mut idle, &mut between] {
        client.hears("421 4.3.2 ").await;
        client.hears_the_end().await;
    }
    let address = harness.tcp(0);
    harness
        .until("the door closes", |harness| !harness.unix().exists())
        .await;
    assert!(TcpStream::connect(address).await.is_err());
    sending
        .sends(format!(
            "words\r\n.\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<fans@{DOMAIN}>\r\n"
        ))
        .await;
    sending.hears("250 ").await;
    sending.hears("421 4.3.2 ").await;
    sending.hears_the_end().await;
    assert_eq!(harness.mail(0), b"Subject: last\r\n\r\nwords\r\n");
    assert_eq!(harness.deliveries().len(), 1);
    drop((idle, between, sending));
    harness.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let mut harness =
        Harness::with(|settings| settings.drain_max = Duration::from_millis(50)).await;
    let mut sending = harness.hello().await;
    sending.says("MAIL FROM:<ann@example.org>", "250 ").await;
    sending
        .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
        .await;
    sending.says("DATA", "354 ").await;
    let store = harness.store.clone();
    harness.begin_stop();
    harness.stopped().await;
    assert!(sending.tries_to_hear().await.is_err());
    assert_eq!(ask(store.waiting(None, 1)).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let mut harness = Harness::new().await;
    let bind = |harness: &Harness, address: ListenAddress| {
        let mut settings = Settings::new(super::HOST.to_owned());
        settings.listen = vec![Listen {
            address,
            protocol: Protocol::Lmtp,
        }];
        let parts = SmtpParts {
            store: harness.store.clone(),
            routes: std::sync::Arc::new(super::routes()),
            auth: None,
            certificates: None,
            metrics: Metrics::default(),
        };
        SmtpServer::bind(settings, parts)
    };
    let live = ListenAddress::Unix(harness.unix());
    assert!(matches!(bind(&harness, live), Err(BindError::InUse(_))));

    let path = harness.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = ListenAddress::Unix(path.clone());
    let server = bind(&harness, stale).expect("nobody listens there");
    drop(server);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    let file = ListenAddress::Unix(path.clone());
    assert!(matches!(bind(&harness, file), Err(BindError::NotSocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let taken = ListenAddress::Tcp(harness.tcp(0));
    match bind(&harness, taken.clone()) {
        Err(error @ BindError::Address(..)) => assert_eq!(error.to_string(), taken.to_string()),
        other => panic!("{:?}", other.err()),
    }
    let port_25 = ListenAddress::Tcp("127.0.0.1:25".parse().unwrap());
    assert!(matches!(
        bind(&harness, port_25),
        Err(BindError::LmtpAtPort25(_))
    ));
    harness.begin_stop();
    harness.stopped().await;
}
