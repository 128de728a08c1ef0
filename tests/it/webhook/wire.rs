//! Requests that are framed in two ways or never end, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use postern::ingress::webhook::{Generic, Postal};
use postern::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Harness;
use super::http::{Served, written};
use super::kinds::KITS;

const SECRET: &str = "test-secret-0123456789abcdef-0123";
const PATH: &str = "/gateway/inbound/generic";

fn harness() -> Harness {
    Harness::new(vec![
        Arc::new(Generic::new(vec![Secret::new(SECRET)])),
        Arc::new(Postal::new(Vec::new())),
    ])
}

/// A whole valid request follows each head: a server that reads the first one as too short would treat the
/// rest as a second request, and store a mail that was never posted.
#[tokio::test]
async fn a_request_that_ends_in_two_places_smuggles_none() {
    let served = Served::new(harness()).await;
    let post = KITS[0].good("general@in.example.com", postern::clock::now());
    let length = format!("Content-Length: {}\r\n", post.body.len());
    let inner = written(PATH, &length, &post);
    let whole = inner.len() + 5;
    for head in [
        format!("Content-Length: {whole}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {whole}\r\n"),
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        format!("Content-Length: 5\r\nContent-Length: {whole}\r\n"),
        format!("Content-Length: {whole}\r\nContent-Length: 5\r\n"),
        format!("Content-Length: 5, {whole}\r\n"),
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: -5\r\n".to_owned(),
        "Content-Length: 0x5\r\n".to_owned(),
        "Content-Length: 5 5\r\n".to_owned(),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        "Content-Length : 5\r\n".to_owned(),
        "Content-Length\t: 5\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding\u{b}: chunked\r\nContent-Length: 5\r\n".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(),
        "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(),
        "X: \0\r\nContent-Length: 5\r\n".to_owned(),
    ] {
        let outer = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n0\r\n\r\n");
        let heard = served.say(&[outer.as_bytes(), &inner].concat()).await;
        assert!(heard.starts_with("HTTP/1.1 4"), "{head}: {heard}");
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{head}: {heard}");
        assert!(served.harness.deliveries().is_empty(), "{head}: {heard}");
    }
}

#[tokio::test]
async fn invalid_chunks_are_refused() {
    let served = Served::new(harness()).await;
    let post = KITS[0].good("general@in.example.com", postern::clock::now());
    let body = String::from_utf8(post.body.to_vec()).unwrap();
    let size = body.len();
    for chunks in [
        format!("{:x}\r\n{body}\r\n0\r\n\r\n", size + 1),
        format!("{:x}\r\n{body}\r\n0\r\n\r\n", size - 1),
        format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        format!("-1\r\n{body}\r\n0\r\n\r\n"),
        format!("{size:x}\n{body}\n0\n\n"),
        format!("{size:x};{}\r\n{body}\r\n0\r\n\r\n", "x".repeat(100_000)),
        format!("{size:x}\r\n{body}\r\n"),
        format!(" {size:x}\r\n{body}\r\n0\r\n\r\n"),
        format!("0x{size:x}\r\n{body}\r\n0\r\n\r\n"),
    ] {
        let mut post = post.clone();
        post.body = chunks.clone().into();
        let bytes = written(PATH, "Transfer-Encoding: chunked\r\n", &post);
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        let heard = String::from_utf8_lossy(&heard);
        assert!(!heard.starts_with("HTTP/1.1 2"), "{chunks:.60}: {heard}");
    }
    assert!(served.harness.deliveries().is_empty());
    assert_eq!(served.harness.metric("in_flight_bytes"), 0);
}

/// A body of one octet a second gets the status after which the provider retries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_must_be_retried() {
    let served = Served::new(harness()).await;
    let drip = async |path: &'static str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let dripping = async {
            loop {
                if writer.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut start = [0; 12];
        tokio::select! {
            () = dripping => {}
            read = reader.read_exact(&mut start) => drop(read.unwrap()),
        }
        String::from_utf8_lossy(&start).into_owned()
    };
    let (generic, postal) = tokio::join!(drip(PATH), drip("/gateway/inbound/postal"));
    assert_eq!(generic, "HTTP/1.1 408");
    assert_eq!(postal, "HTTP/1.1 503");
    assert_eq!(served.harness.metric("in_flight_bytes"), 0);
}
