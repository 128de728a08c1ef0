//! The HTTP address, over real sockets and a real store.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern::clock;
use postern::http::admin::Admin;
use postern::http::auth_failures::AuthFailures;
use postern::http::health::Health;
use postern::http::keys::AccessKeys;
use postern::http::messages::{BASE_PATH, EmbeddedApi};
use postern::http::metrics::register_ledger;
use postern::http::router::{App, router};
use postern::http::server::{ServerSettings, serve};
use postern::http::stream::EventStreams;
use postern::objects::ObjectId;
use postern::queue::JobQueue;
use postern::store::{EmbeddedMessages, Store};
use prometheus_client::registry::Registry;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bench::{Bench, KEY, mail, mailbox, objects_in, settings_in};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A running server over a separate store.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    book: EmbeddedMessages,
    paused: Arc<Mutex<Vec<String>>>,
    client: Client,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), ServerSettings::default()).await
    }

    async fn start_in(folder: tempfile::TempDir, settings: ServerSettings) -> Self {
        let store = Store::open(settings_in(folder.path()), clock::now()).unwrap();
        let book = EmbeddedMessages::open(folder.path().join("messages"), clock::now()).unwrap();
        let mut registry = Registry::default();
        register_ledger(&mut registry, store.clone());
        let auth_failures = AuthFailures::default();
        auth_failures.register(&mut registry);
        let paused = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&paused);
        let app = App {
            health: Health {
                store: store.clone(),
                paused_routes: Arc::new(move || seen.lock().unwrap().clone()),
                embedded: Some(book.clone()),
            },
            registry: Arc::new(registry),
            messages: Some(EmbeddedApi::new(book.clone(), KEY)),
            webhooks: None,
            gateway: None,
            objects: Some(objects_in(folder.path())),
            listeners: Some(EventStreams::new(store.clone(), AccessKeys::new([KEY]))),
            admin: Some(Admin::new(
                JobQueue::new(store.clone(), DAY),
                AccessKeys::new([KEY]),
                false,
            )),
            keys: AccessKeys::new([KEY]),
            auth_failures,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(listener, router(app), settings, stopped));
        Self {
            address,
            store,
            book,
            paused,
            client: Client::builder().no_proxy().build().unwrap(),
            stop,
            served,
            folder,
        }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        self.served.await.unwrap();
        self.book.close().await;
        self.store.close().await;
        self.folder
    }

    async fn call(&self, method: Method, path: &str, key: &str, body: &str) -> (u16, Value) {
        let mut request = self
            .client
            .request(method, format!("http://{}{path}", self.address))
            .bearer_auth(KEY)
            .body(body.to_owned());
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let response = self.client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn say(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.call(method, path, "", &body.to_string()).await
    }
}

const THREADS: &str = "/api/v1/messages/threads";

fn a_thread() -> Value {
    json!({ "sourceType": "email", "identityEmail": "ann@example.com", "metadata": { "a": 1 } })
}

fn a_message(body: &str) -> Value {
    json!({ "sourceType": "email", "senderEmail": "ann@example.com", "body": body })
}

#[tokio::test]
async fn the_embedded_api_keeps_threads_and_messages() {
    let server = Server::start().await;
    let (status, made) = server.say(Method::POST, THREADS, a_thread()).await;
    assert_eq!(status, 201, "{made}");
    let id = made["data"]["id"].as_str().unwrap().to_owned();
    let thread = format!("{THREADS}/{id}");
    let messages = format!("{thread}/messages");
    for n in 0..3 {
        let (status, added) = server
            .say(Method::POST, &messages, a_message(&n.to_string()))
            .await;
        assert_eq!(status, 201, "{added}");
        assert!(added["data"]["id"].is_string());
    }
    let patch = json!({ "metadata": { "b": 2 } });
    let (status, patched) = server.say(Method::PATCH, &thread, patch).await;
    assert_eq!(status, 200, "{patched}");
    let (_, shown) = server.say(Method::GET, &thread, Value::Null).await;
    assert_eq!(shown["data"]["metadata"], json!({ "a": 1, "b": 2 }));
    let (_, first) = server
        .say(Method::GET, &format!("{messages}?limit=2"), Value::Null)
        .await;
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, rest) = server
        .say(
            Method::GET,
            &format!("{messages}?limit=2&after={next}"),
            Value::Null,
        )
        .await;
    assert_eq!(rest["data"][0]["body"], "2");
    assert_eq!(
        (rest["data"].as_array().unwrap().len(), &rest["next"]),
        (1, &Value::Null)
    );
    let (_, threads) = server.say(Method::GET, THREADS, Value::Null).await;
    assert_eq!(threads["data"][0]["id"], id.as_str());
}

#[tokio::test]
async fn the_same_key_gives_the_same_object_after_a_restart() {
    let server = Server::start().await;
    let body = a_thread().to_string();
    let (_, first) = server.call(Method::POST, THREADS, "k1", &body).await;
    let id = first["data"]["id"].as_str().unwrap().to_owned();
    let messages = format!("{THREADS}/{id}/messages");
    let said = a_message("hi").to_string();
    let (_, said_first) = server.call(Method::POST, &messages, "k2", &said).await;
    let folder = server.stop().await;
    let server = Server::start_in(folder, ServerSettings::default()).await;
    let (status, again) = server.call(Method::POST, THREADS, "k1", &body).await;
    assert_eq!((status, &again["data"]["id"]), (201, &first["data"]["id"]));
    let (_, said_again) = server.call(Method::POST, &messages, "k2", &said).await;
    assert_eq!(said_again["data"]["id"], said_first["data"]["id"]);
    let (_, all) = server.call(Method::GET, &messages, "", "").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let thread = format!("{THREADS}/{}", made["data"]["id"].as_str().unwrap());
    let nobody = format!("{THREADS}/nope");
    let all = format!("{THREADS}?limit");
    let long = "x".repeat(300);
    let email = r#"{"sourceType":"email"}"#;
    let list = r#"{"sourceType":"email","identityEmail":"a","metadata":[]}"#;
    let number = r#"{"sourceType":"email","senderEmail":"a","body":7}"#;
    for (call, path, key, body, status, named) in [
        ("POST", THREADS, "", "", 400, "the body is not JSON"),
        ("POST", THREADS, "", "[]", 400, "not a JSON object"),
        ("POST", THREADS, "", "{}", 422, "sourceType"),
        (
            "POST",
            THREADS,
            "",
            r#"{"sourceType":"fax"}"#,
            422,
            "sourceType",
        ),
        ("POST", THREADS, "", email, 422, "identityEmail"),
        ("POST", THREADS, "", list, 422, "metadata"),
        ("POST", THREADS, &long, "{}", 400, "Idempotency-Key"),
        (
            "POST",
            &format!("{thread}/messages"),
            "",
            email,
            422,
            "senderEmail",
        ),
        (
            "POST",
            &format!("{thread}/messages"),
            "",
            number,
            422,
            "body",
        ),
        ("GET", &format!("{all}=0"), "", "", 400, "limit"),
        ("GET", &format!("{all}=101"), "", "", 400, "limit"),
        ("GET", &format!("{all}=x"), "", "", 400, "limit"),
        ("GET", &nobody, "", "", 404, "thread"),
        ("GET", &format!("{nobody}/messages"), "", "", 404, "thread"),
        ("PATCH", &nobody, "", r#"{"metadata":{}}"#, 404, "thread"),
        ("PATCH", &thread, "", "{}", 422, "metadata"),
        ("DELETE", THREADS, "", "", 405, "method"),
        ("GET", "/nowhere", "", "", 404, "path"),
    ] {
        let method = Method::from_bytes(call.as_bytes()).unwrap();
        let (heard, fault) = server.call(method, path, key, body).await;
        let message = fault["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(heard, status, "{call} {path} {body}: {fault}");
        assert!(message.contains(named), "{call} {path} {body}: {fault}");
        assert_eq!(fault["success"], false);
    }
}

#[tokio::test]
async fn without_the_key_nothing_is_read() {
    let server = Server::start().await;
    let url = format!("http://{}{THREADS}", server.address);
    for bearer in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic azp2",
        KEY,
        "Bearer k-secret",
    ] {
        let response = server
            .client
            .post(&url)
            .header("authorization", bearer)
            .body(a_thread().to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{bearer}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert!(!response.text().await.unwrap().contains(KEY));
    }
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"], json!([]));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = Server::start().await;
    let mut thread = a_thread();
    thread["metadata"] = json!({ "a": "x".repeat(70_000) });
    let (status, _) = server.say(Method::POST, THREADS, thread).await;
    assert_eq!(status, 413);
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    let long = a_message(&"x".repeat(1_000_000));
    let (status, _) = server.say(Method::POST, &messages, long).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn health_and_metrics_show_the_state() {
    let server = Server::start().await;
    let get = |path: &'static str| {
        let url = format!("http://{}{path}", server.address);
        let client = server.client.clone();
        async move {
            let response = client.get(url).send().await.unwrap();
            let headers = response.headers().clone();
            (
                response.status().as_u16(),
                headers,
                response.text().await.unwrap(),
            )
        }
    };
    let (status, headers, _) = get("/healthz").await;
    assert_eq!(status, 200);
    for name in [
        "content-security-policy",
        "x-content-type-options",
        "cache-control",
    ] {
        assert!(headers.contains_key(name), "{name}");
    }
    let (status, _, body) = get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    server.paused.lock().unwrap().push("default".to_owned());
    let (status, _, body) = get("/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""paused":["default"]"#), "{body}");
    let (status, headers, body) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    for name in ["received", "waiting", "delivered", "parked"] {
        assert!(body.contains(&format!("postern_ledger_{name} 0")), "{body}");
    }
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (status, _, body) = get("/openapi.json").await;
    assert_eq!(status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["openapi"],
        "3.1.0"
    );
}

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
        server.call(Method::GET, "/healthz", "", "").await;
        let next = [second, first].concat();
        stream.write_all(&next).await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 2"), "{answered}: {answer:?}");
        if answer.to_lowercase().contains("connection: close") {
            break;
        }
    }
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

#[tokio::test]
async fn a_mail_becomes_a_message_in_the_embedded_api() {
    let server = Server::start().await;
    let base = format!("http://{}{BASE_PATH}", server.address);
    let bench = Bench::start_at(tempfile::tempdir().unwrap(), base, |_| {}).await;
    for _ in 0..2 {
        bench.put(mailbox(), &mail(1, "Where is it?")).await;
    }
    // The mail answers the first one: the header leads to the thread that was made for it.
    let second = mail(2, "Still nothing.")
        .replace("Subject:", "In-Reply-To: <m1@mail.example.com>\r\nSubject:");
    bench.put(mailbox(), &second).await;
    bench.drained().await;
    assert_eq!(bench.fates(), [2, 0, 1], "{:?}", bench.reasons());
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"].as_array().unwrap().len(), 1, "{threads}");
    let thread = &threads["data"][0];
    assert_eq!(thread["identityEmail"], "ann@example.com");
    assert_eq!(
        thread["metadata"]["lastEmailMessageId"],
        "m2@mail.example.com"
    );
    let path = format!("{THREADS}/{}/messages", thread["id"].as_str().unwrap());
    let (_, messages) = server.call(Method::GET, &path, "", "").await;
    let said: Vec<_> = messages["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["body"])
        .collect();
    assert_eq!(said, ["Where is it?", "Still nothing."]);
    assert_eq!(messages["data"][1]["match"]["reason"], "stored_message_id");
    bench.stop().await;
}

#[tokio::test]
async fn a_stored_file_is_fetched_only_by_its_link() {
    let server = Server::start().await;
    let objects = objects_in(server.folder.path());
    let id = ObjectId::of(b"<script>0123456789");
    objects.put(id, "<script>0123456789".into()).await.unwrap();
    let link = |at| {
        let url = objects
            .links()
            .url(id, Some("ünd \"x\".html"), "text/html", at);
        url.replace(
            "http://postern.example",
            &format!("http://{}", server.address),
        )
    };
    let good = link(clock::now());
    let get = |url: &str, range: &str| {
        let request = server.client.get(url);
        let request = if range.is_empty() {
            request
        } else {
            request.header("range", range)
        };
        async { request.send().await.unwrap() }
    };
    let whole = get(&good, "").await;
    assert_eq!(whole.status(), 200);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("content-length", "18"),
        (
            "content-disposition",
            "attachment; filename=\"_nd _x_.html\"; filename*=UTF-8''%C3%BCnd%20%22x%22.html",
        ),
    ] {
        assert_eq!(whole.headers()[name], value, "{name}");
    }
    let policy = whole.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("sandbox;"), "{policy}");
    assert_eq!(whole.text().await.unwrap(), "<script>0123456789");
    let part = get(&good, "bytes=8-10").await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 8-10/18");
    assert_eq!(part.text().await.unwrap(), "012");
    assert_eq!(get(&good, "bytes=18-").await.status(), 416);
    let late = link(clock::now().minus(Duration::from_secs(90_000)));
    let other = ObjectId::of(b"other").to_string();
    for (url, status) in [
        (late, 410),
        (good.replace("html", "exe"), 403),
        (good.replace(&id.to_string(), &other), 403),
        (good.replace(&id.to_string(), "..%2f..%2fetc%2fpasswd"), 403),
        (good.split('?').next().unwrap().to_owned(), 403),
    ] {
        assert_eq!(get(&url, "").await.status(), status, "{url}");
    }
    let gone = objects
        .links()
        .url(ObjectId::of(b"gone"), None, "a/b", clock::now());
    let gone = gone.replace(
        "http://postern.example",
        &format!("http://{}", server.address),
    );
    assert_eq!(get(&gone, "").await.status(), 404);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_long_messages_ends_early_and_the_next_continues() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    for n in 0..6 {
        let long = a_message(&format!("{n}{}", "x".repeat(1_500_000)));
        let (status, _) = server.say(Method::POST, &messages, long).await;
        assert_eq!(status, 201);
    }
    let (mut seen, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let (_, page) = server
            .call(Method::GET, &format!("{messages}?limit=100{after}"), "", "")
            .await;
        for message in page["data"].as_array().unwrap() {
            seen.push(message["body"].as_str().unwrap()[..1].to_owned());
        }
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(pages, 2);
}

#[tokio::test]
async fn a_store_that_accepts_nothing_is_not_ready() {
    let server = Server::start().await;
    server.store.clone().close().await;
    let (status, body) = server.call(Method::GET, "/readyz", "", "").await;
    assert_eq!(status, 503);
    let reasons = body["reasons"].to_string();
    assert!(reasons.contains("the store accepts nothing"), "{reasons}");
    server.book.clone().close().await;
    let (_, body) = server.call(Method::GET, "/readyz", "", "").await;
    assert!(
        body["reasons"]
            .to_string()
            .contains("embedded Messages API"),
        "{body}"
    );
    let (status, fault) = server.say(Method::POST, THREADS, a_thread()).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (503, &"unavailable".into())
    );
    let (status, _) = server.call(Method::GET, "/healthz", "", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn wrong_passwords_are_counted_and_then_not_examined() {
    let server = Server::start().await;
    let page = format!("http://{}/admin/outbox", server.address);
    let try_with = |password: &'static str| {
        let request = server.client.get(&page).basic_auth("admin", Some(password));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(try_with(KEY).await, 200);
    for _ in 0..30 {
        assert_eq!(try_with("wrong").await, 401);
    }
    assert_eq!(try_with("wrong").await, 429);
    assert_eq!(try_with(KEY).await, 429, "a guess is not examined");
    let without = server.client.get(&page).send().await.unwrap();
    assert_eq!(without.status(), 401, "a browser asks first");
    let (_, body) = server.text("/metrics").await;
    assert!(
        body.contains("postern_http_auth_failures_total{area=\"admin\"} 30"),
        "{body}"
    );
}

#[tokio::test]
async fn every_rule_has_a_series_before_its_first_drop() {
    let server = Server::start().await;
    let (_, body) = server.text("/metrics").await;
    for rule in ["auto_reply", "duplicate", "operator"] {
        let series = format!("postern_ledger_dropped{{rule=\"{rule}\"}} 0");
        assert!(body.contains(&series), "{body}");
    }
}

#[tokio::test]
async fn malformed_requests_get_our_error_form() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    for query in ["?page=2", "?limit=1&limit=2", "?state=sent"] {
        let (status, fault) = server
            .call(Method::GET, &format!("{THREADS}{query}"), "", "")
            .await;
        assert_eq!(status, 400, "{query}: {fault}");
        assert_eq!(fault["success"], false, "{query}: {fault}");
    }
    let events = "/gateway/events?after=1&after=2";
    for path in [
        events,
        "/gateway/attachments/%ff?x=1",
        "/api/v1/messages/threads/%ff",
    ] {
        let (status, fault) = server.call(Method::GET, path, "", "").await;
        assert!((400..404).contains(&status), "{path}: {status}");
        assert_eq!(fault["success"], false, "{path}: {fault}");
    }
    let without = server
        .client
        .get(format!("http://{}{events}", server.address));
    assert_eq!(without.send().await.unwrap().status(), 401);
    for (field, value) in [
        ("match", json!("text")),
        ("match", json!({ "reason": 7 })),
        ("attachments", json!([{ "filename": 1 }])),
        ("authentication", json!({ "identity": "sure" })),
    ] {
        let mut message = a_message("hi");
        message[field] = value;
        let (status, fault) = server.say(Method::POST, &messages, message).await;
        assert_eq!(status, 422, "{fault}");
        let named = fault["error"]["field"].as_str().unwrap();
        assert!(named.starts_with(field), "{fault}");
    }
}

#[tokio::test]
async fn the_index_leads_to_the_pages() {
    let server = Server::start().await;
    let (status, body) = server.text("/").await;
    assert_eq!(status, 200);
    assert!(body.contains("/admin"), "{body}");
    let page = server
        .client
        .get(format!("http://{}/admin/", server.address))
        .basic_auth("admin", Some(KEY))
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(!policy.contains("unsafe-inline"), "{policy}");
    assert!(policy.contains("style-src 'self'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(
        !text.contains("<style") && !text.contains("style=\""),
        "{text}"
    );
}
