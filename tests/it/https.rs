//! HTTP over TLS by the real program: curl as the client, certificates that change while it runs, and
//! peers that do not speak TLS.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use postern::clock;

use crate::postern::{Postern, eventually, signal};
use crate::wait::PATIENCE;

const HOST: &str = "mx.test";

/// A Postern with HTTPS on a separate port.
struct Secured {
    postern: Postern,
    port: u16,
    certs: PathBuf,
}

impl Secured {
    fn start(http: &str, extra: &str) -> Self {
        let mut secured = Self::prepare(http, extra);
        secured.certify();
        secured.serve();
        secured
    }

    /// The same without a certificate, not yet started.
    fn prepare(http: &str, extra: &str) -> Self {
        let postern = Postern::new(Some("http://127.0.0.1:1/none"), "");
        let certs = postern.scratch("certs");
        let text = fs::read_to_string(postern.config()).unwrap();
        let listen = format!("[http]\ntls_listen = [\"127.0.0.1:0\"]\n{http}");
        let tls = format!("[tls]\nfolder = \"{}\"\n", certs.display());
        let text = format!("{extra}{tls}{}", text.replace("[http]\n", &listen));
        fs::write(postern.config(), text).unwrap();
        Self {
            postern,
            port: 0,
            certs,
        }
    }

    fn serve(&mut self) {
        self.postern.start();
        self.port = self.postern.https().expect("it listens");
    }

    /// Installs a new certificate; returns the file for the client's trust.
    fn certify(&self) -> PathBuf {
        self.certify_for([0, 60_000_000_000])
    }

    /// The same with a certificate that is valid between these two times, in seconds since 1970.
    fn certify_for(&self, span: [u64; 2]) -> PathBuf {
        let mut params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let [first, last] = span.map(Duration::from_secs);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        (params.not_before, params.not_after) = (epoch + first, epoch + last);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let folder = self.certs.join(HOST);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("privkey.pem"), key.serialize_pem()).unwrap();
        fs::write(folder.join("fullchain.pem"), made.pem()).unwrap();
        let name = format!("trusted-{}.pem", getrandom::u64().unwrap());
        let trusted = self.postern.scratch(&name);
        fs::write(&trusted, made.pem()).unwrap();
        trusted
    }

    fn curl(&self, trusted: &Path, more: &[&str]) -> Output {
        self.curl_path(trusted, more, "/healthz")
    }

    fn curl_path(&self, trusted: &Path, more: &[&str], path: &str) -> Output {
        Command::new("curl")
            .args(["-sS", "-v", "--max-time", "60", "--noproxy", "*"])
            .args(["--resolve", &format!("{HOST}:{}:127.0.0.1", self.port)])
            .args(["--cacert", &trusted.display().to_string()])
            .args(more)
            .arg(format!("https://{HOST}:{}{path}", self.port))
            .output()
            .unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// The octets until the peer disconnects, in any way.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => heard,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => heard,
        Err(error) => panic!("not hung up on: {error}"),
    }
}

#[test]
fn curl_verifies_the_certificate_and_a_new_one_after_a_signal() {
    let secured = Secured::start("", "");
    let first = secured.certify();
    signal("HUP", secured.postern.pid());
    eventually("the first certificate is shown", || {
        secured.curl(&first, &[]).status.success()
    });
    let answered = secured.curl(&first, &["-w", "%{http_code} %{http_version}"]);
    let (said, how) = (
        String::from_utf8_lossy(&answered.stdout),
        String::from_utf8_lossy(&answered.stderr),
    );
    assert!(said.ends_with("200 1.1"), "{said} {how}");
    assert!(how.contains("ALPN: server accepted http/1.1"), "{how}");
    for version in ["1.2", "1.3"] {
        let only = [
            format!("--tlsv{version}"),
            "--tls-max".into(),
            version.into(),
        ];
        let only: Vec<_> = only.iter().map(String::as_str).collect();
        assert!(secured.curl(&first, &only).status.success(), "{version}");
    }
    let second = secured.certify();
    assert!(!secured.curl(&second, &[]).status.success(), "not read yet");
    signal("HUP", secured.postern.pid());
    eventually("the second certificate is shown", || {
        secured.curl(&second, &[]).status.success()
    });
    assert!(!secured.curl(&first, &[]).status.success());
    // A mismatching pair leaves the old certificate in use.
    fs::write(secured.certs.join(HOST).join("privkey.pem"), "no key").unwrap();
    signal("HUP", secured.postern.pid());
    eventually("the fault is told", || {
        secured.postern.log().contains("certificate not read")
    });
    assert!(secured.curl(&second, &[]).status.success());
    assert_eq!(
        secured.postern.fetch("/healthz").0,
        200,
        "plain HTTP beside it"
    );
}

#[test]
fn an_invalid_certificate_is_warned_of_at_start_and_at_each_reload() {
    const DAY: u64 = 24 * 60 * 60;
    const EXPIRED: &str = "the certificate has expired";
    let now = clock::now().as_secs();
    let mut secured = Secured::prepare("", "");
    secured.certify_for([now - 2 * DAY, now - DAY]);
    secured.serve();
    let told = |words: &str| secured.postern.log().matches(words).count();
    let expiry = || {
        let name = "postern_tls_certificate_expiry_timestamp_seconds";
        let (_, metrics) = secured.postern.fetch("/metrics");
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().to_owned()
    };
    eventually("it is warned of", || told(EXPIRED) > 0);
    let name = format!("postern_tls_certificate_expiry_timestamp_seconds{{name=\"{HOST}\"}}");
    assert_eq!(expiry(), format!("{name} {}", now - DAY));
    for (span, words) in [
        ([now - DAY, now + DAY], "the certificate expires soon"),
        (
            [now + DAY, now + 90 * DAY],
            "the certificate is not valid yet",
        ),
        ([now - DAY, now + 90 * DAY], "certificates reloaded"),
    ] {
        let before = told("certificates reloaded");
        secured.certify_for(span);
        signal("HUP", secured.postern.pid());
        eventually("it is read again", || {
            told("certificates reloaded") > before && told(words) > 0
        });
        assert_eq!(expiry(), format!("{name} {}", span[1]));
    }
    for words in [EXPIRED, "the certificate expires soon", "is not valid yet"] {
        assert_eq!(told(words), 1, "{words}");
    }
}

#[test]
fn clients_without_tls_are_closed_and_others_are_served() {
    let limits = "handshake_timeout = \"1s\"\nheader_timeout = \"1s\"\nconnections_max = 4\n";
    let secured = Secured::start(limits, "");
    let trusted = secured.certify();
    signal("HUP", secured.postern.pid());
    eventually("it is served", || {
        secured.curl(&trusted, &[]).status.success()
    });
    let mut silent: Vec<_> = (0..4).map(|_| secured.connect()).collect();
    // All places are taken until the handshakes time out.
    assert!(secured.curl(&trusted, &[]).status.success());
    for stream in &mut silent {
        assert!(rest(stream).is_empty());
    }
    for bytes in [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x00\x02",
        "\0".repeat(100_000).as_bytes(),
    ] {
        let mut stream = secured.connect();
        let _ = stream.write_all(bytes);
        let heard = rest(&mut stream);
        assert!(!heard.starts_with(b"HTTP/"), "{heard:?}");
    }
    assert!(secured.curl(&trusted, &[]).status.success());
    assert_eq!(secured.postern.metric("postern_ledger_received"), 0.0);
}

/// Sends a request on a connection that stays open; true if the response is 200.
fn is_answered(stream: &mut TcpStream) -> bool {
    // A connection that is turned away may be closed already.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let (mut heard, mut chunk) = (String::new(), [0; 4096]);
    while !heard.ends_with("\"live\"}") {
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => heard.push_str(&String::from_utf8_lossy(&chunk[..read])),
            Ok(_) | Err(_) => return false,
        }
    }
    heard.starts_with("HTTP/1.1 200 ")
}

#[test]
fn one_address_cannot_take_all_places() {
    let limits = "connections_per_network_max = 3\n";
    let secured = Secured::start(limits, "[networks]\nexempt = []\n");
    let trusted = secured.certify();
    signal("HUP", secured.postern.pid());
    eventually("it is served", || {
        secured.curl(&trusted, &[]).status.success()
    });
    let plain = || {
        let stream = TcpStream::connect(("127.0.0.1", secured.postern.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // An answered client has a place. The place of curl may be free a little later than curl ends.
    let mut held = Vec::new();
    eventually("three clients have the places", || {
        let mut stream = plain();
        let has_place = is_answered(&mut stream);
        held.extend(has_place.then_some(stream));
        held.len() == 3
    });
    // Both listeners share the places.
    let mut start = [0; 13];
    plain().read_exact(&mut start).unwrap();
    assert_eq!(start, *b"HTTP/1.1 503 ");
    assert!(!secured.curl(&trusted, &[]).status.success());
    assert!(is_answered(&mut held[0]));
    drop(held);
    eventually("places are free again", || {
        secured.curl(&trusted, &[]).status.success()
    });
    let log = secured.postern.log();
    assert!(
        log.contains("too many connections from one network"),
        "{log}"
    );
}

#[test]
fn metrics_over_tls_need_a_key() {
    let secured = Secured::start("", "");
    let trusted = secured.certify();
    signal("HUP", secured.postern.pid());
    eventually("the certificate is shown", || {
        secured.curl(&trusted, &[]).status.success()
    });
    let code = |more: &[&str], path: &str| {
        let more = [&["-o", "/dev/null", "-w", "%{http_code}"], more].concat();
        let answered = secured.curl_path(&trusted, &more, path);
        String::from_utf8(answered.stdout).unwrap()
    };
    assert_eq!(code(&[], "/metrics"), "401");
    assert_eq!(code(&["-u", "x:wrong"], "/metrics"), "401");
    assert_eq!(code(&[], "/readyz"), "200");
}
