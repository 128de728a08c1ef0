//! The webhooks over real HTTP: which requests are read, and which are not.

use std::net::SocketAddr;
use std::sync::Arc;

use postern::http::auth_failures::AuthFailures;
use postern::http::health::Health;
use postern::http::keys::AccessKeys;
use postern::http::router::{self, App};
use postern::http::server::{self, ServerSettings};
use postern::ingress::webhook::{
    BasicAccount, Forwarder, Generic, Headers, Mailgun, Postal, Resend, StandardSigning,
    WebhookHead,
};
use postern::secret::Secret;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Harness;
use super::kinds::KITS;

/// A server in front of a harness.
pub(super) struct Served {
    pub(super) harness: Harness,
    pub(super) address: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Served {
    pub(super) async fn new(harness: Harness) -> Self {
        // A free port: one that was just released.
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let listener = server::listen(address).await.unwrap();
        let app = App {
            health: Health {
                store: harness.store.clone(),
                paused_routes: Arc::new(Vec::new),
                embedded: None,
            },
            registry: Arc::new(Registry::default()),
            messages: None,
            webhooks: Some(Arc::new(harness.doors.clone())),
            gateway: None,
            objects: None,
            listeners: None,
            admin: None,
            keys: AccessKeys::new([]),
            auth_failures: AuthFailures::default(),
        };
        let (stop, stopped) = watch::channel(false);
        let router = router::router(app);
        tokio::spawn(server::serve(
            listener,
            router,
            ServerSettings::default(),
            stopped,
        ));
        Self {
            harness,
            address,
            _stop: stop,
        }
    }

    /// The response to these bytes, up to the end of the connection.
    pub(super) async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut heard = Vec::new();
        // A client that is refused early may find the connection closed while it still sends.
        let said = async { drop(writer.write_all(bytes).await) };
        let (_, read) = tokio::join!(said, reader.read_to_end(&mut heard));
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(read.is_ok() || !heard.is_empty(), "{read:?}");
        heard
    }
}

fn served() -> Harness {
    let generic = Generic::new(vec![Secret::new("test-secret-0123456789abcdef-0123")]);
    Harness::new(vec![
        Arc::new(generic),
        Arc::new(Resend::new(StandardSigning::default())),
        Arc::new(Postal::new(Vec::new())),
        Arc::new(Forwarder::new(vec![BasicAccount::new("user", "pass:word")])),
    ])
}

pub(super) fn written(path: &str, extra: &str, post: &super::Post) -> Vec<u8> {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}");
    for (name, value) in &post.headers {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
    }
    [head.as_bytes(), b"\r\n", &post.body].concat()
}

#[tokio::test]
async fn a_mail_comes_in_over_http() {
    let served = Served::new(served()).await;
    for (path, kit) in [
        ("/gateway/inbound", &KITS[0]),
        ("/gateway/inbound/generic", &KITS[1]),
        ("/gateway/inbound/relay", &KITS[23]),
    ] {
        let post = kit.good("general@in.example.com", postern::clock::now());
        let length = format!("Content-Length: {}\r\n", post.body.len());
        let heard = served.say(&written(path, &length, &post)).await;
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
        assert!(heard.contains("content-type: application/json"), "{heard}");
    }
    assert_eq!(served.harness.deliveries().len(), 3);
    let peer = served.harness.last().0.envelope.peer.clone();
    assert_eq!(
        peer.ip.map(|ip| ip.to_string()).as_deref(),
        Some("127.0.0.1")
    );
}

#[tokio::test]
async fn mailgun_alone_has_a_second_path() {
    let secret = Secret::new("test-secret-0123456789abcdef-0123");
    let harness = Harness::new(vec![
        Arc::new(Mailgun::new(vec![secret])),
        Arc::new(Forwarder::new(vec![BasicAccount::new("user", "pass:word")])),
    ]);
    let served = Served::new(harness).await;
    let mailgun = KITS.iter().find(|kit| kit.name == "mailgun").unwrap();
    let relay = &KITS[23];
    for (path, kit, status) in [
        ("mailgun", mailgun, "200"),
        ("mailgun/mime", mailgun, "200"),
        ("mailgun/mime/", mailgun, "404"),
        ("mailgun/other", mailgun, "404"),
        ("relay", relay, "200"),
        ("relay/mime", relay, "404"),
        ("mailgun/mime", relay, "415"),
    ] {
        let post = kit.good("general@in.example.com", postern::clock::now());
        let length = format!("Content-Length: {}\r\n", post.body.len());
        let path = format!("/gateway/inbound/{path}");
        let heard = served.say(&written(&path, &length, &post)).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(heard.starts_with(&expected), "{path}: {heard}");
    }
    assert_eq!(served.harness.deliveries().len(), 3);
    let (delivery, view) = served.harness.last();
    assert_eq!(delivery.envelope.told.as_ref().unwrap().by, "relay");
    assert!(view.text.unwrap().contains("Gr"));
}

#[tokio::test]
async fn rejected_requests_are_not_read() {
    let served = Served::new(served()).await;
    let post = KITS[0].good("general@in.example.com", postern::clock::now());
    let refused = async |path: &str, extra: &str, body: Vec<u8>, status: &str| {
        let mut post = post.clone();
        post.body = body.into();
        let heard = served.say(&written(path, extra, &post)).await;
        assert!(
            heard.starts_with(&format!("HTTP/1.1 {status} ")),
            "{extra}: {heard}"
        );
    };
    let path = "/gateway/inbound/generic";
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let endless = chunk.repeat(400);
    let short = "/gateway/inbound/resend";
    refused(short, "Transfer-Encoding: chunked\r\n", endless, "413").await;
    refused(short, "Content-Length: 30000000\r\n", Vec::new(), "413").await;
    let gzip = "Content-Length: 2\r\nContent-Encoding: gzip\r\n";
    refused(path, gzip, b"xx".to_vec(), "415").await;
    refused(path, "Content-Length: 2\r\n", b"xx".to_vec(), "401").await;
    refused(
        "/gateway/inbound/nobody",
        "Content-Length: 2\r\n",
        b"xx".to_vec(),
        "404",
    )
    .await;
    refused(
        "/gateway/inbound/postal",
        "Content-Length: 2\r\n",
        b"xx".to_vec(),
        "503",
    )
    .await;
    refused(
        "/gateway/inbound",
        "Content-Length: 2\r\n",
        b"xx".to_vec(),
        "401",
    )
    .await;
    let smuggled = "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n";
    let heard = served
        .say(&written(
            path,
            smuggled,
            &super::Post {
                body: "0\r\n\r\n".into(),
                ..post.clone()
            },
        ))
        .await;
    assert!(!heard.starts_with("HTTP/1.1 2"), "{heard}");
    let head = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        served
            .say(head.as_bytes())
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    let get = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        served
            .say(get.as_bytes())
            .await
            .starts_with("HTTP/1.1 405 ")
    );
    assert!(served.harness.deliveries().is_empty());
}

#[tokio::test]
async fn a_truncated_body_is_not_a_mail() {
    let served = Served::new(served()).await;
    let post = KITS[23].good("general@in.example.com", postern::clock::now());
    let bytes = written("/gateway/inbound/relay", "Content-Length: 5000\r\n", &post);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    let heard = String::from_utf8_lossy(&heard);
    assert!(!heard.starts_with("HTTP/1.1 2"), "{heard}");
    assert!(served.harness.deliveries().is_empty());
}

#[tokio::test]
async fn slow_requests_may_be_retried() {
    let harness = served();
    for (provider, status) in [("generic", 408), ("relay", 408), ("postal", 503)] {
        let head = WebhookHead {
            provider: Some(provider),
            headers: Headers::default(),
            peer: None,
        };
        let mut entry = harness.doors.admit(head).unwrap();
        entry.reserve(100).unwrap();
        assert_eq!(harness.metric("in_flight_bytes"), 100);
        assert_eq!(entry.too_slow().status, status, "{provider}");
        assert_eq!(harness.metric("in_flight_bytes"), 0);
    }
}

#[tokio::test]
async fn the_client_behind_a_proxy_is_the_last_foreign_address() {
    let harness = Harness::with(
        vec![Arc::new(Forwarder::new(vec![BasicAccount::new(
            "user",
            "pass:word",
        )]))],
        |settings| settings.proxies = vec!["192.0.2.0/24".parse().unwrap()],
    );
    for (told, source) in [
        ("203.0.113.9", "203.0.113.9"),
        ("10.9.9.9, 203.0.113.9, 192.0.2.77", "203.0.113.9"),
        ("nonsense", "192.0.2.1"),
        ("203.0.113.9\n192.0.2.77", "203.0.113.9"),
        ("10.9.9.9\n203.0.113.9", "203.0.113.9"),
        ("", "192.0.2.1"),
    ] {
        let mut post = KITS[23].good("general@in.example.com", harness.now);
        for field in told.split('\n') {
            post.header("X-Forwarded-For", field);
        }
        assert_eq!(harness.send(&post).await.status, 200);
        let ip = harness.last().0.envelope.peer.ip.unwrap();
        assert_eq!(ip.to_string(), source, "{told}");
    }
}
