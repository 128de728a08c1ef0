use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ContentType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::{Client, config};
use super::{DOMAIN, HOST, Harness, PATIENCE};

const MAIL: &str = "Subject: hello\r\n\r\nHello.\r\n.\r\n";

/// A client within TLS.
async fn in_tls(harness: &Harness) -> Client {
    let mut client = harness.hello().await;
    client.says("STARTTLS", "220 ").await;
    client.starts_tls().await.unwrap()
}

/// A stream just before the handshake.
async fn at_handshake(harness: &Harness) -> TcpStream {
    let mut stream = TcpStream::connect(harness.tcp(0)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut line = [0; 1024];
    assert!(stream.read(&mut line).await.unwrap() > 0);
    stream.write_all(b"EHLO x\r\n").await.unwrap();
    assert!(stream.read(&mut line).await.unwrap() > 0);
    stream.write_all(b"STARTTLS\r\n").await.unwrap();
    let read = stream.read(&mut line).await.unwrap();
    assert!(line[..read].starts_with(b"220 "));
    stream
}

/// The octets that the server sends until it closes.
async fn all_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ = read.expect("the server closes");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_comes_through_tls() {
    let harness = Harness::new().await;
    let mut client = in_tls(&harness).await;
    let hello = client.says("EHLO client.example", "250-").await;
    assert!(!hello.contains("STARTTLS"));
    let answer = client.posts(&format!("fans@{DOMAIN}"), MAIL).await;
    assert!(answer.starts_with("250 "));
    client.says("STARTTLS", "503 5.5.1 ").await;
    client.says("QUIT", "221 ").await;
    client.hears_the_end().await;
    let told = harness.deliveries()[0].envelope.peer.tls.clone().unwrap();
    assert_eq!(told, "TLSv1.3 TLS13_AES_256_GCM_SHA384");
    assert_eq!(harness.metric("tls_handshakes_total{outcome=\"ok\"}"), 1);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_in_tls_is_the_same_one_byte_at_a_time() {
    let harness = Harness::new().await;
    let mut client = in_tls(&harness).await;
    let rcpt = format!("RCPT TO:<fans@{DOMAIN}>\r\n");
    for (bytes, start) in [
        ("EHLO client.example\r\n", "250"),
        ("MAIL FROM:<>\r\n", "250 "),
        (&rcpt, "250 "),
        ("DATA\r\n", "354 "),
        (MAIL, "250 "),
        ("QUIT\r\n", "221 "),
    ] {
        client.drips(bytes).await;
        client.hears(start).await;
    }
    client.hears_the_end().await;
    assert_eq!(harness.mail(0), b"Subject: hello\r\n\r\nHello.\r\n");
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_mail_comes_through_tls() {
    let harness = Harness::new().await;
    let mut client = in_tls(&harness).await;
    client.says("EHLO client.example", "250-").await;
    let mail = format!(
        "Subject: x\r\n\r\n{}",
        "0123456789abcdef\r\n".repeat(50_000)
    );
    let answer = client
        .posts(&format!("fans@{DOMAIN}"), &format!("{mail}.\r\n"))
        .await;
    assert!(answer.starts_with("250 "));
    assert_eq!(harness.mail(0), mail.into_bytes());
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_pipelined_after_starttls_never_run() {
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    let injected = format!(
        "STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<fans@{DOMAIN}>\r\n"
    );
    client.sends(injected).await;
    client.hears("220 ").await;
    // A tail that came in one read with STARTTLS was dropped, otherwise it broke the handshake.
    if let Ok(mut client) = client.starts_tls().await {
        client.says("DATA", "503 5.5.1 ").await;
        client.says("EHLO client.example", "250-").await;
        client.says("DATA", "503 5.5.1 ").await;
    }
    assert_eq!(harness.deliveries().len(), 0);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_before_tls_are_forgotten() {
    let harness = Harness::new().await;
    let mut client = in_tls(&harness).await;
    client
        .says("MAIL FROM:<ann@example.org>", "503 5.5.1 ")
        .await;
    let mut client = harness.hello().await;
    client.says("STARTTLS now", "501 5.5.4 ").await;
    client.says("MAIL FROM:<ann@example.org>", "250 ").await;
    client.says("STARTTLS", "503 5.5.1 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_ends_the_connection() {
    let harness =
        Harness::with(|settings| settings.handshake_max = Duration::from_millis(100)).await;
    // Plain text.
    let mut stream = at_handshake(&harness).await;
    stream
        .write_all(b"EHLO again\r\nMAIL FROM:<>\r\n")
        .await
        .unwrap();
    assert!(!all_of(&mut stream).await.starts_with(b"250"));
    // Silence.
    let mut stream = at_handshake(&harness).await;
    all_of(&mut stream).await;
    // The client closes.
    let stream = at_handshake(&harness).await;
    drop(stream);
    harness.until_all_are_gone().await;
    assert_eq!(
        harness.metric("tls_handshakes_total{outcome=\"failed\"}"),
        3
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_tls_are_refused() {
    let harness = Harness::new().await;
    for version in [1, 2] {
        let mut stream = at_handshake(&harness).await;
        // A ClientHello of TLS 1.0 or 1.1 with one cipher suite and no extensions.
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
        let length = u8::try_from(body.len()).unwrap();
        let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        hello.extend(body);
        stream.write_all(&hello).await.unwrap();
        let answer = all_of(&mut stream).await;
        assert_eq!(
            answer.first(),
            Some(&u8::from(ContentType::Alert)),
            "{answer:?}"
        );
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_in_records_of_one_byte() {
    let harness = Harness::new().await;
    let name = ServerName::try_from(HOST).unwrap();
    let mut client = ClientConnection::new(Arc::new(config()), name).unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    let mut records = Vec::new();
    for byte in &flight[5..] {
        records.extend_from_slice(&[22, 3, 1, 0, 1, *byte]);
    }
    let mut stream = at_handshake(&harness).await;
    stream.write_all(&records).await.unwrap();
    let mut answer = [0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap();
    // The handshake continues, or an alert ends it.
    let read = read.unwrap();
    assert!(matches!(answer[..read].first(), Some(21 | 22)));
    client.read_tls(&mut &answer[..read]).unwrap();
    drop(stream);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_name_is_shown_the_default() {
    let harness = Harness::new().await;
    let mut config = config();
    config.enable_sni = false;
    let stream = at_handshake(&harness).await;
    let name = ServerName::try_from("other.example").unwrap();
    let shaken = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    let mut client = Client::over(shaken.unwrap());
    client.says("EHLO x", "250").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_cut_off_by_close_notify_is_not_stored() {
    let harness = Harness::new().await;
    let mut client = in_tls(&harness).await;
    client.says("EHLO x", "250").await;
    client.says("MAIL FROM:<>", "250 ").await;
    client
        .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
        .await;
    client.says("DATA", "354 ").await;
    client.sends("Subject: cut\r\n\r\nhalf\r\n.\r").await;
    client.half_closes().await;
    client.hears_the_end().await;
    assert_eq!(harness.deliveries().len(), 0);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_open_sessions() {
    let harness = Harness::new().await;
    let mut old = in_tls(&harness).await;
    old.says("EHLO x", "250").await;
    let seen = shown(&harness).await;
    let certs = harness.folder.path().join("certs");
    std::fs::write(certs.join(HOST).join("privkey.pem"), "no key").unwrap();
    assert_eq!(harness.certificates.reload().len(), 1);
    assert_eq!(shown(&harness).await, seen);
    std::fs::remove_dir_all(certs.join(HOST)).unwrap();
    postern::tls::Certificates::load_or_self_sign(&certs, HOST).unwrap();
    assert_eq!(harness.certificates.reload().len(), 0);
    assert_ne!(shown(&harness).await, seen);
    old.says("NOOP", "250 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_noticed() {
    let harness = Harness::new().await;
    let seen = shown(&harness).await;
    let wait = Duration::from_millis(10);
    let watch = tokio::spawn(Arc::clone(&harness.certificates).watch(wait));
    let certs = harness.folder.path().join("certs");
    postern::tls::Certificates::load_or_self_sign(&certs, "b.example.com").unwrap();
    harness
        .until("it is read", |harness| {
            harness.certificates.hosts().len() == 2
        })
        .await;
    assert_eq!(shown(&harness).await, seen);
    std::fs::remove_dir_all(certs.join(HOST)).unwrap();
    harness
        .until("it is missing", |harness| {
            harness.certificates.hosts().len() == 1
        })
        .await;
    assert_ne!(shown(&harness).await, seen);
    watch.abort();
    harness.end().await;
}

async fn shown(harness: &Harness) -> Vec<u8> {
    let stream = at_handshake(harness).await;
    let name = ServerName::try_from(HOST).unwrap();
    let shaken = TlsConnector::from(Arc::new(config()))
        .connect(name, stream)
        .await;
    let shaken = shaken.unwrap();
    shaken.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
