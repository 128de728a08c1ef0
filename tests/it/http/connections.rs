//! Connections that are slow, silent or old, and a stop.

use std::net::SocketAddr;
use std::time::Duration;

use postern::http::server::ServerSettings;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Server, THREADS, a_thread};
use crate::bench::KEY;

#[tokio::test]
async fn a_slow_head_is_closed_and_others_are_served() {
    let settings = ServerSettings {
        connections_max: 2,
        header_wait: Duration::from_millis(300),
        ..ServerSettings::default()
    };
    let server = Server::start_in(tempfile::tempdir().unwrap(), settings).await;
    let mut slow = Vec::new();
    for head in ["", "GET /healthz HTTP/1.1\r\nx-slow: "] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Both places are taken; this request waits for one.
    let (status, _) = server.call(Method::GET, "/healthz", "", "").await;
    assert_eq!(status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        let _ = read.await.expect("hung up");
    }
}

#[tokio::test]
async fn silent_connections_make_room() {
    let settings = ServerSettings {
        connections_max: 16,
        exempt: Vec::new(),
        header_wait: Duration::from_secs(3_600),
        ..ServerSettings::default()
    };
    let server = Server::start_in(tempfile::tempdir().unwrap(), settings).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    for _ in 0..3 {
        let (status, _) = server.call(Method::GET, "/healthz", "", "").await;
        assert_eq!(status, 200);
    }
    // The oldest connection was closed, not a late one.
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), silent[0].read_to_end(&mut rest));
    let _ = read.await.expect("closed");
}

#[tokio::test]
async fn an_old_connection_ends_after_the_answer_and_not_before() {
    let settings = ServerSettings {
        connection_age_max: Duration::from_millis(200),
        ..ServerSettings::default()
    };
    let server = Server::start_in(tempfile::tempdir().unwrap(), settings).await;
    let body = a_thread().to_string();
    let request = format!(
        "POST {THREADS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (first, second) = request.as_bytes().split_at(request.len() - 10);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // There is always a request in flight: the next one begins before the last is answered.
    stream.write_all(first).await.unwrap();
    for answered in 0.. {
        pass_time(server.address).await;
        let next = [second, first].concat();
        stream.write_all(&next).await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 2"), "{answered}: {answer:?}");
        if answer.to_lowercase().contains("connection: close") {
            break;
        }
    }
}

#[tokio::test]
async fn an_old_idle_connection_is_told_before_it_ends() {
    let settings = ServerSettings {
        connection_age_max: Duration::from_millis(50),
        ..ServerSettings::default()
    };
    let server = Server::start_in(tempfile::tempdir().unwrap(), settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The connection is idle whenever it becomes old; no request is lost.
    for asked in 0.. {
        pass_time(server.address).await;
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{asked}: {answer:?}");
        if answer.to_lowercase().contains("connection: close") {
            break;
        }
    }
}

/// Asks the server for its health by a connection of its own: a kept one would end by its age as well.
async fn pass_time(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = one_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

/// One whole response, or the part that arrived before the connection ended.
async fn one_answer(stream: &mut TcpStream) -> String {
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return text,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
        }
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}",
        "x".repeat(100_000)
    );
    // The server may disconnect while this is still being written.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    let (status, _) = server.call(Method::GET, "/healthz", "", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_stop_lets_a_running_request_end() {
    let server = Server::start().await;
    let body = a_thread().to_string();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {THREADS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    // The request has begun when the server answers another one on a second socket.
    server.call(Method::GET, "/healthz", "", "").await;
    server.stop.send_replace(true);
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    server.served.await.unwrap();
}
