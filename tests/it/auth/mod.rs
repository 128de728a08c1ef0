//! Sender authentication: mails signed by dkimpy, checked with a name server of the test.

mod broken;
mod doors;
mod mails;
mod names;
mod sealed;
mod signatures;
mod suites;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use bytes::Bytes;
use postern::auth::{AuthInput, Authenticator, DnsSettings, Settings};
use postern::clock;
use postern::mail::address::Address;
use postern::mail::verdict::Verdict;
use serde_json::{Value, json};

use crate::nameserver::{NameServer, Zone};

/// Calls `sign.py`, which runs as long as the tests.
pub(crate) fn python(wish: &Value) -> Value {
    static SIGNER: OnceLock<Mutex<Signer>> = OnceLock::new();
    let signer = SIGNER.get_or_init(|| Mutex::new(Signer::start()));
    let mut signer = signer.lock().unwrap();
    writeln!(signer.wishes, "{wish}").unwrap();
    let mut answer = String::new();
    signer.answers.read_line(&mut answer).unwrap();
    assert!(
        !answer.is_empty(),
        "{} failed; it needs dkimpy, pynacl, authres and pyyaml: run tests/run.sh, it installs what \
         is missing",
        python_program().display()
    );
    serde_json::from_str(&answer).unwrap()
}

struct Signer {
    /// The process, which ends when its input does.
    _child: Child,
    wishes: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Signer {
    fn start() -> Self {
        let mut child = Command::new(python_program())
            .args(["-c", include_str!("sign.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python_program().display()));
        Self {
            wishes: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            _child: child,
        }
    }
}

/// `$POSTERN_PYTHON`, or the one in `target/venv`, or the system's.
pub(crate) fn python_program() -> PathBuf {
    let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let own = std::env::var_os("POSTERN_PYTHON").map(PathBuf::from);
    let own = own.or_else(|| venv.exists().then_some(venv));
    own.unwrap_or_else(|| "python3".into())
}

fn settings(server: &NameServer) -> Settings {
    Settings {
        authserv_id: "mx.us.example".to_owned(),
        dns: DnsSettings {
            servers: vec![server.address],
            ..DnsSettings::default()
        },
        ..Settings::default()
    }
}

fn authenticator(server: &NameServer) -> Authenticator {
    Authenticator::new(settings(server))
}

/// A mail from an unknown host, received now.
fn input(bytes: &Bytes) -> AuthInput<'_> {
    AuthInput {
        ip: Some([192, 0, 2, 1].into()),
        helo: "peer.example",
        mail_from: None,
        bytes,
        received_at: clock::now(),
    }
}

/// A key in the form for dkimpy, and its record.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) private: String,
    pub(crate) record: String,
}

/// The keys of all tests, made once: RSA of 2048 and of 512 bits, ed25519.
pub(crate) struct Keys {
    pub(crate) rsa: Key,
    pub(crate) weak: Key,
    ed25519: Key,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let made = python(&json!({ "keys": [["rsa", 2048], ["rsa", 512], ["ed25519", 0]] }));
        let key = |at: usize| Key {
            private: made[at][0].as_str().unwrap().to_owned(),
            record: made[at][1].as_str().unwrap().to_owned(),
        };
        Keys {
            rsa: key(0),
            weak: key(1),
            ed25519: key(2),
        }
    })
}

/// A step that signs as a domain with the RSA key under `s1`.
fn as_domain(domain: &str) -> Value {
    json!({ "domain": domain, "selector": "s1", "private": keys().rsa.private })
}

/// The step with further or changed values.
fn with(mut step: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        panic!("not an object");
    };
    step.as_object_mut().unwrap().extend(more);
    step
}

/// The mail after dkimpy has done these steps.
fn signed(mail: &str, steps: &[Value]) -> Bytes {
    let mail = data_encoding::BASE64.encode(mail.as_bytes());
    let answer = python(&json!({ "mail": mail, "steps": steps }));
    let mail = data_encoding::BASE64.decode(answer.as_str().unwrap().as_bytes());
    mail.unwrap().into()
}

/// The mail with one piece replaced, which must occur in it.
fn replaced(mail: &Bytes, from: &str, to: &str) -> Bytes {
    let text = String::from_utf8(mail.to_vec()).unwrap();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1).into()
}

/// The zone of a domain that has an RSA key under `s1`, a DMARC policy of reject, and no host that may send
/// for it.
fn zone_of(domain: &str) -> Zone {
    Zone::default()
        .txt(&format!("_dmarc.{domain}"), "v=DMARC1; p=reject")
        .txt(&format!("s1._domainkey.{domain}"), &keys().rsa.record)
        .txt(domain, "v=spf1 -all")
}

/// The verdict on a mail from an unknown host, with this zone.
async fn verdict(zone: Zone, mail: &Bytes) -> Verdict {
    let server = NameServer::start(zone).await;
    authenticator(&server).check(input(mail)).await
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// An unsigned mail of this author.
fn mail_by(author: &str) -> String {
    let date = clock::now().to_rfc5322();
    format!(
        "From: {author}\r\nTo: support@us.example\r\nSubject: A reply\r\nDate: {date}\r\n\r\n\
         Some  words. \r\n\tAnd more.\r\n\r\n\r\n"
    )
}
