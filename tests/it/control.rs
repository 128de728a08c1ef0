//! The control socket: the requests of the command line to a running server.
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, ready};
use postern::clock::{self, Timestamp};
use postern::http::control::{self, ControlParts, TokenRoute};
use postern::http::server::{ServerSettings, listen_private, serve};
use postern::mail::address::{Address, Domain};
use postern::mail::envelope::{Recipient, RecipientTarget};
use postern::mail::token::{Format, KeyRing};
use postern::queue::MailQueue;
use postern::run::inject_bridge::accept_into;
use postern::store::{DeliveryOutcome, EventId, EventKind, Fact};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

use crate::ask::ask;
use crate::bench::DAY;
use crate::http::Server;

const DOMAIN: &str = "inbox.example.com";

type Resolved = BoxFuture<'static, Result<Recipient, String>>;

/// A control socket over the same store.
struct Desk {
    path: PathBuf,
    keys: Arc<KeyRing>,
    _stop: watch::Sender<bool>,
}

impl Desk {
    fn start(server: &Server) -> Self {
        let keys = vec![(1, vec![7; 32])];
        let keys = Arc::new(KeyRing::new(keys, 365 * DAY).unwrap());
        let verifier = Arc::clone(&keys);
        let recipient = move |address: Address, now: Timestamp| -> Resolved {
            let target = match verifier.verify(&address, now) {
                Ok(claims) => RecipientTarget::Thread(claims),
                Err(_) if address.local() == "fans" => RecipientTarget::Mailbox("fans".to_owned()),
                Err(error) => return Box::pin(ready(Err(error.to_string()))),
            };
            Box::pin(ready(Ok(Recipient {
                address,
                route: "default".to_owned(),
                target,
            })))
        };
        let desk = ControlParts {
            store: server.store.clone(),
            routes: Arc::new([TokenRoute {
                name: "default".to_owned(),
                domain: Domain::parse(DOMAIN).unwrap(),
                keys: Arc::clone(&keys),
                format: Format::V2,
            }]),
            resolve_recipient: Arc::new(recipient),
            accept_mail: accept_into(server.store.clone()),
            queue: MailQueue::new(
                server.store.clone(),
                "mx.example.com".to_owned(),
                "mx.example.com".to_owned(),
            ),
            mail_bytes_max: 1_000_000,
        };
        let path = server.folder.path().join(control::SOCKET_NAME);
        let listener = listen_private(&path).unwrap();
        let (stop, stopped) = watch::channel(false);
        let settings = ServerSettings::default();
        tokio::spawn(serve(listener, control::router(desk), settings, stopped));
        Self {
            path,
            keys,
            _stop: stop,
        }
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap())
    }
}

#[tokio::test]
async fn the_control_socket_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    let desk = Desk::start(&server);
    let mode = std::fs::metadata(&desk.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // An old socket is replaced, any other file is left alone.
    let other = server.folder.path().join("other.sock");
    drop(listen_private(&other).unwrap());
    listen_private(&other).unwrap();
    let file = server.folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(listen_private(&file).is_err());
}

#[tokio::test]
async fn a_minted_address_takes_mail() {
    let server = Server::start().await;
    let desk = Desk::start(&server);
    let wish = r#"{"thread":"order-17","participant":"ann@example.com"}"#;
    let (status, minted) = desk.call("POST", "/tokens", wish).await;
    assert_eq!(status, 201, "{minted}");
    let address = minted["data"]["address"].as_str().unwrap();
    let claims = desk
        .keys
        .verify(&Address::parse(address).unwrap(), clock::now())
        .unwrap();
    assert_eq!(
        ask(server.store.thread("default", claims.thread))
            .unwrap()
            .thread_id,
        "order-17"
    );
    assert_eq!(
        ask(server.store.thread_by_token(claims.digest)).as_deref(),
        Some("order-17")
    );

    let path = format!(
        "/mail?from=ann%40example.com&rcpt={}",
        address.replace('+', "%2B")
    );
    let (status, put) = desk.call("POST", &path, "Subject: hi\r\n\r\nhi\r\n").await;
    assert_eq!(status, 201, "{put}");
    assert_eq!(server.store.ledger().waiting, 1);
    let (_, waiting) = desk.call("GET", "/queue?state=waiting", "").await;
    assert_eq!(waiting["data"][0]["from"], "ann@example.com", "{waiting}");
    assert_eq!(waiting["data"][0]["to"], format!("…@{DOMAIN}"));
    let token = address.split(['+', '@']).nth(1).unwrap();
    assert!(!waiting.to_string().contains(token), "{waiting}");

    let (status, revoked) = desk
        .call(
            "POST",
            "/tokens/revoke",
            &json!({ "address": address }).to_string(),
        )
        .await;
    assert_eq!(status, 200, "{revoked}");
    assert!(ask(server.store.is_revoked(claims.digest)));
}

#[tokio::test]
async fn parked_mail_is_shown_and_sent_back_or_dropped() {
    let server = Server::start().await;
    let desk = Desk::start(&server);
    for _ in 0..2 {
        let path = format!("/mail?from=&rcpt=fans%40{DOMAIN}");
        let (status, put) = desk.call("POST", &path, "Subject: hi\r\n\r\nhi\r\n").await;
        assert_eq!(status, 201, "{put}");
    }
    let waiting = ask(server.store.waiting(None, 10));
    let ids: Vec<String> = waiting.iter().map(|d| d.id.to_string()).collect();
    // A delivery that waits behind another is not attempted before it.
    let (status, fault) = desk
        .call("POST", &format!("/queue/{}/retry", ids[1]), "")
        .await;
    assert_eq!(status, 409, "{fault}");
    let (_, second) = desk.call("GET", &format!("/queue/{}", ids[1]), "").await;
    assert_eq!(second["data"]["waitsBehind"], ids[0].as_str());
    for delivery in &waiting {
        let fact = Fact::Settled {
            delivery: delivery.id,
            outcome: DeliveryOutcome::Parked {
                reason: "message: 422".to_owned(),
            },
            fingerprint: None,
            at: clock::now(),
        };
        server.store.record(vec![fact]).await.unwrap();
    }
    let (_, first) = desk.call("GET", "/queue?state=parked&limit=1", "").await;
    assert_eq!(first["data"][0]["id"], ids[0].as_str());
    let (_, second) = desk
        .call("GET", &format!("/queue?state=parked&after={}", ids[0]), "")
        .await;
    assert_eq!(second["data"][0]["id"], ids[1].as_str());
    let (status, shown) = desk.call("GET", &format!("/queue/{}", ids[0]), "").await;
    assert_eq!(status, 200);
    assert_eq!(shown["data"]["reason"], "message: 422");
    let (status, _) = desk
        .call("POST", &format!("/queue/{}/retry", ids[0]), "")
        .await;
    assert_eq!(status, 200);
    let (status, _) = desk
        .call("POST", &format!("/queue/{}/drop", ids[1]), "")
        .await;
    assert_eq!(status, 200);
    let ledger = server.store.ledger();
    assert_eq!((ledger.waiting, ledger.parked), (1, 0));
    assert_eq!(ledger.dropped["operator"], 1);
    for (method, path, status) in [
        ("GET", "/queue/99999.0", 404),
        ("GET", "/queue/nonsense", 400),
        ("GET", "/queue?state=lost", 400),
        ("POST", "/queue/99999.0/retry", 404),
        ("POST", "/mail?rcpt=stranger%40elsewhere.example", 400),
        ("GET", "/nowhere", 404),
    ] {
        let (heard, fault) = desk.call(method, path, "").await;
        assert_eq!(heard, status, "{path}: {fault}");
    }
    let path = "/mail?rcpt=stranger%40elsewhere.example";
    let (status, fault) = desk.call("POST", path, "x").await;
    assert_eq!(status, 422, "{fault}");
}

#[tokio::test]
async fn a_persons_action_on_a_mail_is_logged() {
    let server = Server::start().await;
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // The server runs on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let desk = Desk::start(&server);
    let wish = r#"{"thread":"order-17"}"#;
    let (_, minted) = desk.call("POST", "/tokens", wish).await;
    let address = minted["data"]["address"].as_str().unwrap();
    let path = format!("/mail?from=&rcpt={}", address.replace('+', "%2B"));
    let mail = "Subject: hi\r\nMessage-ID: <a1@mail.example.com>\r\n\r\nhi\r\n";
    let (status, _) = desk.call("POST", &path, mail).await;
    assert_eq!(status, 201);
    let id = ask(server.store.waiting(None, 1))[0].id;
    for word in ["retry", "drop"] {
        let fact = Fact::Settled {
            delivery: id,
            outcome: DeliveryOutcome::Parked {
                reason: "message: 422".to_owned(),
            },
            fingerprint: None,
            at: clock::now(),
        };
        server.store.record(vec![fact]).await.unwrap();
        let (status, _) = desk.call("POST", &format!("/queue/{id}/{word}"), "").await;
        assert_eq!(status, 200);
    }
    let told = ask(server.store.events_after(EventId::default(), 10));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1.kind, EventKind::Processed);
    let data = json!({
        "mailId": id.to_string(), "emailMessageId": "a1@mail.example.com",
        "kind": null, "dropped": "operator",
    });
    assert_eq!(json!(told[0].1.data), data);
    let body = json!({ "address": address }).to_string();
    desk.call("POST", "/tokens/revoke", &body).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in [
        format!("received mail={}", id.mail.0),
        format!("released delivery={id}"),
        format!("dropped delivery={id} route=\"default\" rule=\"operator\""),
        "token revoked".to_owned(),
    ] {
        assert_eq!(log.matches(&line).count(), 1, "{line} in {log}");
    }
    let token = address.split(['+', '@']).nth(1).unwrap();
    assert!(!log.contains(token), "{log}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
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
