//! Real mail programs with the real program: swaks, smtp-source, Python's smtplib, curl, openssl.
//!
//! Does not test the dialogue itself; `dialogues` does.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::postern::{DOMAIN, Postern, eventually};
use crate::product::Product;

const THREAD: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

fn running(product: &Product) -> (Postern, String) {
    let mut postern = Postern::new(Some(&product.base_url()), "");
    let address = postern.mint(THREAD);
    assert!(address.ends_with(&format!("@{DOMAIN}")), "{address}");
    postern.start();
    (postern, address)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}: run tests/run.sh, it installs what is missing")
        });
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn succeed(program: &str, arguments: &[&str], input: &str) -> String {
    let out = run(program, arguments, input);
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Waits for the single message.
fn only_message(product: &Product) -> Value {
    eventually("the message is told", || !product.messages().is_empty());
    let messages = product.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0].0, THREAD);
    messages[0].1.clone()
}

#[test]
fn swaks_sends_a_reply_in_plain_text() {
    let product = Product::start();
    let (postern, address) = running(&product);
    let server = format!("127.0.0.1:{}", postern.smtp);
    let body = "Yes, Tuesday suits me.\\n\\nOn Mon, 16 Nov 2026 at 09:12, Shop <no-reply@shop.test> wrote:\\n> Does Tuesday suit you?\\n";
    let said = succeed(
        "swaks",
        &[
            "--server",
            &server,
            "--from",
            "ann@peer.test",
            "--to",
            &address,
            "--h-From",
            "Ann Smith <ann@peer.test>",
            "--header",
            "Subject: Re: Your order",
            "--body",
            body,
        ],
        "",
    );
    assert!(said.contains("250 2.0.0"), "{said}");
    let message = only_message(&product);
    assert_eq!(message["body"], "Yes, Tuesday suits me.");
    assert_eq!(message["senderEmail"], "ann@peer.test");
    assert_eq!(message["senderName"], "Ann Smith");
    assert_eq!(message["subject"], "Re: Your order");
    assert_eq!(message["sourceType"], "email");
    assert_eq!(message["match"]["reason"], "token");
    assert!(
        message["quotedText"]
            .as_str()
            .unwrap()
            .contains("Does Tuesday suit you?"),
        "{message}"
    );
}

#[test]
fn swaks_sends_with_starttls() {
    let product = Product::start();
    let mut postern = Postern::new(Some(&product.base_url()), "");
    let certs = postern.scratch("certs/mx.test");
    std::fs::create_dir_all(&certs).unwrap();
    let (key, chain) = (certs.join("privkey.pem"), certs.join("fullchain.pem"));
    succeed(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=mx.test",
            "-addext",
            "subjectAltName=DNS:mx.test",
            "-keyout",
            &key.display().to_string(),
            "-out",
            &chain.display().to_string(),
        ],
        "",
    );
    let folder = certs.parent().unwrap().display().to_string();
    postern.configure(&format!("[tls]\nfolder = \"{folder}\"\n"));
    let address = postern.mint(THREAD);
    postern.start();
    let server = format!("127.0.0.1:{}", postern.smtp);
    let said = succeed(
        "swaks",
        &[
            "--tls",
            "--tls-verify",
            "--tls-ca-path",
            &chain.display().to_string(),
            "--tls-sni",
            "mx.test",
            "--server",
            &server,
            "--from",
            "ann@peer.test",
            "--to",
            &address,
            "--body",
            "In private.",
        ],
        "",
    );
    assert!(said.contains("TLS started"), "{said}");
    assert_eq!(only_message(&product)["body"], "In private.");
    let handshake = run(
        "openssl",
        &[
            "s_client",
            "-starttls",
            "smtp",
            "-connect",
            &server,
            "-tls1_1",
            "-brief",
        ],
        "QUIT\r\n",
    );
    assert!(
        !handshake.status.success(),
        "TLS 1.1 was taken: {handshake:?}"
    );
}

#[test]
fn smtp_source_sends_over_twenty_sessions() {
    let product = Product::start();
    let (postern, address) = running(&product);
    for (lmtp, port) in [(false, postern.smtp), (true, postern.lmtp)] {
        let server = format!("127.0.0.1:{port}");
        let mut arguments = vec![
            "-s",
            "20",
            "-m",
            "200",
            "-l",
            "2000",
            "-f",
            "ann@peer.test",
            "-t",
            &address,
            &server,
        ];
        if lmtp {
            arguments.insert(0, "-L");
        }
        succeed("smtp-source", &arguments, "");
    }
    assert_eq!(postern.metric("postern_ledger_received"), 400.0);
    eventually("all is settled", || {
        postern.metric("postern_ledger_waiting") == 0.0
    });
    assert_eq!(postern.metric("postern_ledger_parked"), 0.0);
}

#[test]
fn python_smtplib_sends_a_mail_with_two_alternatives() {
    let product = Product::start();
    let (postern, address) = running(&product);
    let script = format!(
        r#"
import smtplib
from email.message import EmailMessage
mail = EmailMessage()
mail["From"] = "Jürgen Müller <juergen@peer.test>"
mail["To"] = "{address}"
mail["Subject"] = "Antw.: Größe"
mail["Message-ID"] = "<python@peer.test>"
mail.set_content("Die Größe passt.\n")
mail.add_alternative("<p>Die <b>Größe</b> passt.</p>", subtype="html")
with smtplib.SMTP("127.0.0.1", {port}) as server:
    server.send_message(mail)
"#,
        port = postern.smtp
    );
    succeed("python3", &["-"], &script);
    let message = only_message(&product);
    assert_eq!(message["body"], "Die Größe passt.");
    assert_eq!(message["senderName"], "Jürgen Müller");
    assert_eq!(message["subject"], "Antw.: Größe");
    assert_eq!(
        message["emailMessageId"]
            .as_str()
            .unwrap()
            .trim_matches(['<', '>']),
        "python@peer.test"
    );
}

#[test]
fn curl_sends_a_mail() {
    let product = Product::start();
    let (postern, address) = running(&product);
    let url = format!("smtp://127.0.0.1:{}/peer.test", postern.smtp);
    let mail = format!("From: ann@peer.test\r\nTo: {address}\r\nSubject: hi\r\n\r\nBy curl.\r\n");
    succeed(
        "curl",
        &[
            "-sS",
            &url,
            "--mail-from",
            "ann@peer.test",
            "--mail-rcpt",
            &address,
            "-T",
            "-",
        ],
        &mail,
    );
    assert_eq!(only_message(&product)["body"], "By curl.");
}

#[test]
fn relaying_is_refused() {
    let product = Product::start();
    let (postern, _) = running(&product);
    let server = format!("127.0.0.1:{}", postern.smtp);
    for to in [
        "bob@elsewhere.test",
        "bob%elsewhere.test@inbox.test",
        "nobody@inbox.test",
    ] {
        let out = run(
            "swaks",
            &["--server", &server, "--from", "ann@peer.test", "--to", to],
            "",
        );
        // swaks: 24 is "no recipient was accepted".
        assert_eq!(out.status.code(), Some(24), "{to}: {out:?}");
    }
    assert_eq!(postern.metric("postern_ledger_received"), 0.0);
}
