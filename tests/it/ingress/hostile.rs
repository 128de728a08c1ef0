use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Client;
use super::{DOMAIN, Harness, alone};

const MAIL: &str = "Subject: hello\r\n\r\nHello.\r\n.\r\n";

/// A stream after the 354.
async fn in_data(harness: &Harness) -> TcpStream {
    let mut stream = TcpStream::connect(harness.tcp(0)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let lines = format!("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<fans@{DOMAIN}>\r\nDATA\r\n");
    stream.write_all(lines.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(6).any(|window| window == b"\r\n354 ") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_without_its_end_is_not_stored() {
    let harness = Harness::new().await;
    for (at, part) in ["Subject: x\r\n", "Subject: x\r\n\r\nx\r\n.", "x\r\n.\r"]
        .iter()
        .enumerate()
    {
        for ending in ["close", "reset", "half-close"] {
            let mut stream = in_data(&harness).await;
            stream.write_all(part.as_bytes()).await.unwrap();
            match ending {
                "close" => drop(stream),
                "reset" => {
                    let linger = Some(Duration::ZERO);
                    SockRef::from(&stream).set_linger(linger).unwrap();
                    drop(stream);
                }
                _ => {
                    stream.shutdown().await.unwrap();
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.unwrap();
                }
            }
            harness.until_all_are_gone().await;
            assert_eq!(harness.deliveries().len(), 0, "{at} {ending}");
        }
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_mail_is_stored_even_if_the_client_disconnects() {
    let harness = Harness::new().await;
    let mut stream = in_data(&harness).await;
    stream.write_all(MAIL.as_bytes()).await.unwrap();
    drop(stream);
    harness
        .until("it is stored", |harness| harness.deliveries().len() == 1)
        .await;
    let mut stream = in_data(&harness).await;
    stream.write_all(MAIL.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.windows(5).any(|window| window == b"250 2"),
        "half-closed, it reads on"
    );
    assert_eq!(harness.deliveries().len(), 2);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smuggled_mail_is_one_mail_or_none() {
    for end in [
        "\n.\r\n",
        "\r\n.\n",
        "\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r\r\n.\r\r\n",
    ] {
        let harness = Harness::new().await;
        let mut stream = in_data(&harness).await;
        let inner = format!("MAIL FROM:<>\r\nRCPT TO:<fans@{DOMAIN}>\r\nDATA\r\n");
        let whole = format!("Subject: a\r\n\r\na{end}{inner}Subject: b\r\n\r\nb\r\n.\r\nQUIT\r\n");
        stream.write_all(whole.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("521 5.5.2 "), "{end:?}: {answer}");
        assert_eq!(harness.deliveries().len(), 0, "{end:?}");
        harness.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_harm_the_server() {
    let harness = Harness::new().await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..60 {
        let bytes: Vec<u8> = (0..3_000)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Line ends are more frequent than by chance.
                match seed >> 56 {
                    0..16 => b'\r',
                    16..40 => b'\n',
                    other => u8::try_from(other).unwrap(),
                }
            })
            .collect();
        let mut client = match round % 3 {
            0 => harness.connect().await,
            1 => Client::tcp(harness.tcp(1)).await,
            _ => Client::unix(&harness.unix()).await,
        };
        let _ = client.tries_to_send(bytes).await;
        client.half_closes_if_open().await;
        while client.tries_to_hear().await.is_ok() {}
    }
    for start in ["GET / HTTP/1.1", "\x16\x03\x01\x02", "SSH-2.0-x"] {
        let mut client = harness.connect().await;
        client.hears("220 ").await;
        client.says(start, "554 5.5.0 ").await;
        client.hears_the_end().await;
    }
    drop(harness.hello().await);
    harness.until_all_are_gone().await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_commands_in_a_row_end_the_session() {
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    let _ = client.tries_to_send("RSET\r\n".repeat(1_000_000)).await;
    let mut heard = 0;
    while client.tries_to_hear().await.is_ok() {
        heard += 1;
    }
    assert!((1..=60).contains(&heard), "{heard}");
    assert_eq!(
        harness.metric("refusals_total{refusal=\"too_many_junk\"}"),
        1
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_come_and_go() {
    let harness = Harness::with(|settings| {
        settings.connections_max = 50;
        settings.connections_per_network_max = 5;
        settings.exempt.clear();
    })
    .await;
    for round in 0..1_000 {
        let stream = TcpStream::connect(harness.tcp(0)).await.unwrap();
        if round % 2 == 0 {
            SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(stream);
    }
    // The last of them may still wait to be accepted.
    while !harness.connect().await.reply().await.starts_with("220 ") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    harness.until_all_are_gone().await;
    harness.end().await;
}

/// Runs itself again with few descriptors, because the limit applies to the whole process.
#[test]
fn a_lack_of_descriptors_is_temporary() {
    alone("ulimit -n 96", "ingress::hostile::with_few_descriptors");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_lack_of_descriptors_is_temporary, in a process that has few"]
async fn with_few_descriptors() {
    let harness = Harness::new().await;
    let mut first = harness.hello().await;
    let mut taken = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(harness.tcp(0)) {
        taken.push(stream);
        assert!(taken.len() < 1_000, "there are few descriptors");
    }
    harness
        .until("accepting fails", |harness| {
            harness.metric("accept_errors_total") > 2
        })
        .await;
    first.says("NOOP", "250 ").await;
    drop(taken);
    let mut second = harness.hello().await;
    second.says("NOOP", "250 ").await;
    first.says("NOOP", "250 ").await;
    harness.end().await;
}
