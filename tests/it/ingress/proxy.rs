use std::time::Duration;

use super::{DOMAIN, Harness};

async fn behind_a_proxy() -> Harness {
    Harness::with(|settings| settings.proxies = vec!["127.0.0.0/8".parse().unwrap()]).await
}

fn v2(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([kind, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_gives_the_clients_address() {
    let harness = behind_a_proxy().await;
    let body = [192, 0, 2, 9, 127, 0, 0, 1, 0, 99, 0, 25];
    let headers = [
        (
            b"PROXY TCP4 192.0.2.9 127.0.0.1 99 25\r\n".to_vec(),
            "192.0.2.9",
        ),
        (
            b"PROXY TCP6 2001:db8::9 ::1 99 25\r\n".to_vec(),
            "2001:db8::9",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &body), "192.0.2.9"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
    ];
    for (at, (header, ip)) in headers.iter().enumerate() {
        let mut client = harness.connect().await;
        client.drips(header).await;
        client.hears("220 ").await;
        client.says("EHLO x", "250").await;
        let answer = client
            .posts(&format!("fans@{DOMAIN}"), "Subject: x\r\n\r\n.\r\n")
            .await;
        assert!(answer.starts_with("250 "));
        let told = harness.deliveries()[at].envelope.peer.ip;
        assert_eq!(told, Some(ip.parse().unwrap()));
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_closes_without_a_response() {
    let harness = behind_a_proxy().await;
    let headers = [
        b"EHLO client.example\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.9 127.0.0.1 99\r\n".to_vec(),
        format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes(),
        v2(0x21, 0x11, &[1, 2, 3]),
        v2(0x21, 0x00, &vec![0; 65_535]),
        v2(0x41, 0x11, &[0; 12]),
    ];
    for header in &headers {
        let mut client = harness.connect().await;
        let _ = client.tries_to_send(header).await;
        client.hears_the_end().await;
    }
    let mut half = harness.connect().await;
    half.sends("PROXY TC").await;
    half.half_closes().await;
    half.hears_the_end().await;
    let refused = harness.metric("connections_refused_total{reason=\"proxy_header\"}");
    assert_eq!(usize::try_from(refused).unwrap(), headers.len() + 1);
    assert_eq!(harness.metric("connections_total{protocol=\"smtp\"}"), 0);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_header_closes_without_a_response() {
    let harness = Harness::with(|settings| {
        settings.proxies = vec!["127.0.0.1".parse().unwrap()];
        settings.proxy_header_max = Duration::from_millis(50);
    })
    .await;
    let mut client = harness.connect().await;
    client.sends("PROXY ").await;
    client.hears_the_end().await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_address_gives_no_trust() {
    let harness = Harness::with(|settings| {
        settings.proxies = vec!["127.0.0.1".parse().unwrap()];
        settings.connections_per_network_max = 1;
    })
    .await;
    // Loopback is exempt from the limit, but not as an address that a proxy names.
    let mut first = harness.connect().await;
    first.sends("PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n").await;
    first.hears("220 ").await;
    let mut second = harness.connect().await;
    second
        .sends("PROXY TCP4 127.0.0.1 127.0.0.1 2 25\r\n")
        .await;
    second.hears("421 4.7.0 ").await;
    let mut other = harness.connect().await;
    other.sends("PROXY TCP4 192.0.2.1 127.0.0.1 2 25\r\n").await;
    other.hears("220 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_after_the_proxy_header_is_too_early() {
    let harness = behind_a_proxy().await;
    let header = "PROXY TCP4 192.0.2.9 127.0.0.1 99 25\r\n";
    for early in ["EHLO x\r\n", header] {
        let mut client = harness.connect().await;
        client.sends(format!("{header}{early}")).await;
        client.hears("554 5.5.0 ").await;
        client.hears_the_end().await;
    }
    let mut twice = harness.connect().await;
    twice.sends(header).await;
    twice.hears("220 ").await;
    twice.says(header.trim_end(), "500 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_only_for_proxies() {
    let harness =
        Harness::with(|settings| settings.proxies = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    client
        .says("PROXY TCP4 192.0.2.9 127.0.0.1 99 25", "500 ")
        .await;
    client.says("EHLO x", "250").await;
    client
        .posts(&format!("fans@{DOMAIN}"), "Subject: x\r\n\r\n.\r\n")
        .await;
    let told = harness.deliveries()[0].envelope.peer.ip;
    assert_eq!(told, Some("127.0.0.1".parse().unwrap()));
    harness.end().await;
}
