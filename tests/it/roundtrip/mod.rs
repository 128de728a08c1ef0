//! The whole round trip through the real program: a product's message, a relay, a person's mail program,
//! and back into the thread.

mod between;
mod bounced;
mod crash;
mod leaks;
mod products;
mod relays;
mod robots;
mod submission;
mod way;
mod words;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::auth::python_program;
use crate::postern::{DOMAIN, Postern, eventually};
use crate::postfix::Postfix;
use crate::product::{KEY, Product};
use crate::relay::server::certificate;
use crate::sink::{Kept, Sink};

/// The domain of the people in the tests.
const SINK: &str = "sink.test";

/// A Postern that sends, with its product.
struct Gateway {
    postern: Postern,
    product: Product,
}

impl Gateway {
    /// A Postern with a relay at `port` of this machine, with more lines of `[outbound]` and tables,
    /// started.
    fn start(port: u16, more: &str) -> Self {
        let mut gateway = Self::new(port, more);
        gateway.postern.start();
        gateway
    }

    fn new(port: u16, more: &str) -> Self {
        let product = Product::start();
        let lines = format!(
            "[outbound]\nenabled = true\nfrom = 'support@product.test'\nfrom_name = 'Product'\n\
             host = '127.0.0.1'\nport = {port}\nretry_wait_first = '100ms'\nretry_wait_max = '1s'\n{more}"
        );
        let postern = Postern::new(Some(&product.base_url()), &lines);
        Self { postern, product }
    }

    /// The same with fixed ports that are known before the start.
    fn with_known_ports(mut self) -> Self {
        self.postern = self.postern.with_known_ports();
        self
    }

    /// Calls with the key; returns the status, 0 without a response, and the response.
    fn call(&self, method: &str, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
        call(self.postern.http, method, path, key, body)
    }

    fn fetched(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, None, &Value::Null);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A page that an operator opens in a browser.
    fn page(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.postern.http);
        let mut curl = Command::new("curl");
        curl.args(["-sf", "-u", &format!("operator:{KEY}"), &url]);
        let (ok, page) = fed(&mut curl, b"");
        assert!(ok, "{path}: {page}");
        page
    }

    /// Posts an event that must be accepted; returns its job.
    fn say(&self, event: &Value) -> String {
        let (status, answer) = self.call("POST", "/gateway/events", None, event);
        assert_eq!(status, 202, "{answer}");
        answer["jobId"].as_str().unwrap().to_owned()
    }

    fn job(&self, id: &str) -> Value {
        self.fetched(&format!("/gateway/jobs/{id}"))["data"].clone()
    }

    /// Waits until the job is in this state.
    fn becomes(&self, id: &str, state: &str) -> Value {
        let mut job = Value::Null;
        let what = format!("job {id} becomes {state}");
        let mut rounds = 0;
        eventually(&what, || {
            job = self.job(id);
            rounds += 1;
            assert!(rounds < 900, "{what}: {job} {}", self.postern.log());
            job["state"] == state
        });
        job
    }

    /// All events so far in the stream: name and data.
    fn events(&self) -> Vec<(String, Value)> {
        let told = Command::new("curl")
            .args(["-sN", "--max-time", "2", "-H", "Last-Event-ID: 0", "-H"])
            .arg(format!("Authorization: Bearer {KEY}"))
            .arg(format!(
                "http://127.0.0.1:{}/gateway/events",
                self.postern.http
            ))
            .output()
            .unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let events = lines.map(|line| serde_json::from_str(line).unwrap());
        events
            .map(|event: Value| {
                (
                    event["type"].as_str().unwrap().to_owned(),
                    event["data"].clone(),
                )
            })
            .collect()
    }

    /// The names of the events about a job, in order.
    fn told_of(&self, job: &str) -> Vec<String> {
        let events = self.events().into_iter();
        let of_job = events.filter(|(_, data)| data["jobId"] == job);
        let names = of_job.map(|(name, _)| name.trim_start_matches("email.outbound.").to_owned());
        names.collect()
    }

    /// Waits until the product has `count` messages; returns the last: its thread and its JSON.
    fn told(&self, count: usize) -> (String, Value) {
        let mut rounds = 0;
        eventually("the product is told", || {
            rounds += 1;
            assert!(rounds < 600, "{count} messages: {}", self.postern.log());
            self.product.messages().len() >= count
        });
        let mut messages = self.product.messages();
        assert_eq!(messages.len(), count, "{messages:?}");
        messages.pop().unwrap()
    }

    /// Sends a mail to Postern's SMTP server with swaks; it must be accepted.
    fn swaks(&self, from: &str, to: &str, mail: &[u8]) {
        let said = swaks(&self.postern, from, to, mail);
        assert!(said.0, "{}", said.1);
    }
}

fn call(port: u16, method: &str, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-X",
        method,
        "-w",
        "\n%{http_code}",
        "--max-time",
        "60",
    ]);
    curl.args(["-H", &format!("Authorization: Bearer {KEY}")]);
    curl.args(["-H", "Content-Type: application/json"]);
    if let Some(key) = key {
        curl.args(["-H", &format!("Idempotency-Key: {key}")]);
    }
    if !body.is_null() {
        curl.args(["--data-binary", "@-"]);
    }
    curl.arg(format!("http://127.0.0.1:{port}{path}"));
    let answered = fed(&mut curl, body.to_string().as_bytes()).1;
    let (body, status) = answered.rsplit_once('\n').unwrap();
    let value = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    (status.parse().unwrap(), value)
}

/// Runs a program with this input: returns true if it succeeded, and its output.
fn fed(command: &mut Command, input: &[u8]) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: is it installed?"));
    // A program that reads no input may have ended.
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap())
}

fn swaks(postern: &Postern, from: &str, to: &str, mail: &[u8]) -> (bool, String) {
    let file = postern.scratch("mail.eml");
    fs::write(&file, mail).unwrap();
    let mut swaks = Command::new("swaks");
    swaks.args(["--server", &format!("127.0.0.1:{}", postern.smtp)]);
    swaks.args(["--from", from, "--to", to, "--helo", "peer.test", "--data"]);
    swaks.arg(format!("@{}", file.display()));
    fed(&mut swaks, b"")
}

/// The results of Python's `email` for a mail, and its answer if `wish` has a `style`.
fn read(mail: &[u8], mut wish: Value) -> Value {
    wish["mail"] = json!(BASE64.encode(mail));
    let mut python = Command::new(python_program());
    python.args(["-c", include_str!("answer.py")]);
    let (ok, said) = fed(&mut python, wish.to_string().as_bytes());
    assert!(ok, "answer.py: {said}");
    let seen: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        seen["defects"],
        json!([]),
        "{}",
        String::from_utf8_lossy(mail)
    );
    assert!(
        seen["longest"].as_u64().unwrap() <= 998,
        "{}",
        seen["longest"]
    );
    assert_eq!(seen["bare"], false);
    seen
}

fn field<'v>(seen: &'v Value, name: &str) -> &'v str {
    let fields = seen["fields"].as_array().unwrap();
    let mut found = fields.iter().filter(|field| field[0] == name);
    let value = found.next().map_or("", |field| field[1].as_str().unwrap());
    assert!(found.next().is_none(), "{name} twice");
    value
}

fn event(thread: &str, message: &str, text: &str) -> Value {
    json!({
        "threadId": thread, "messageId": message, "messageText": text,
        "threadMetadata": { "sourceType": "email" },
        "senderProfile": { "displayName": "Sam" },
    })
}

/// The same to a person of whom nothing is known yet.
fn first(thread: &str, message: &str, to: &str) -> Value {
    let mut event = event(thread, message, "It left us today.");
    event["threadMetadata"]["emailFrom"] = json!(to);
    event["threadMetadata"]["emailSubject"] = json!("Your order");
    event
}

fn letter(from: &str, to: &str, id: &str, text: &str) -> Vec<u8> {
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject: Where is my order?\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <{id}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n{text}\r\n"
    )
    .into_bytes()
}

/// Waits until the sink has `count` mails; returns the last.
fn arrived(sink: &Sink, count: usize) -> Kept {
    eventually("the mail is at the sink", || sink.taken().len() >= count);
    let mut taken = sink.taken();
    assert_eq!(taken.len(), count, "{taken:?}");
    taken.pop().unwrap()
}

/// A Postfix that requires STARTTLS, with `extra` lines in `main.cf`, and sends mail for [`SINK`] by
/// `transport` and mail for the reply domain to `smtp`; and the lines of `[outbound]` that trust its
/// certificate.
fn relay(transport: String, smtp: u16, extra: &str) -> (Postfix, tempfile::TempDir, String) {
    let (pem, key, _) = certificate("127.0.0.1");
    let folder = tempfile::TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = folder.path().display().to_string();
    fs::write(folder.path().join("cert.pem"), pem).unwrap();
    fs::write(folder.path().join("key.pem"), key).unwrap();
    let more = format!(
        "smtpd_tls_cert_file = {at}/cert.pem\nsmtpd_tls_key_file = {at}/key.pem\n\
         smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\n{extra}"
    );
    let transports = [
        (SINK, transport),
        (DOMAIN, format!("smtp:[127.0.0.1]:{smtp}")),
    ];
    let postfix = Postfix::start_relaying(&transports, &more);
    (
        postfix,
        folder,
        format!("tls = 'starttls'\nca_file = '{at}/cert.pem'\n"),
    )
}

/// A Postern with a Postfix between it and the sink.
fn with_postfix(sink: &Sink, more: &str) -> (Gateway, Postfix, tempfile::TempDir) {
    with_postfix_to(sink.transport(), "", more)
}

/// A Postern with a Postfix that sends mail for [`SINK`] by `transport`, and has `extra` lines in
/// `main.cf`.
fn with_postfix_to(
    transport: String,
    extra: &str,
    more: &str,
) -> (Gateway, Postfix, tempfile::TempDir) {
    let mut gateway = Gateway::new(0, "").with_known_ports();
    let (postfix, folder, lines) = relay(transport, gateway.postern.smtp, extra);
    let text = fs::read_to_string(gateway.postern.config()).unwrap();
    let text = text.replace("port = 0\n", &format!("port = {}\n{lines}", postfix.port()));
    fs::write(gateway.postern.config(), text + more).unwrap();
    gateway.postern.start();
    (gateway, postfix, folder)
}
