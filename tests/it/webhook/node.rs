//! The programs in `docs/webhooks.md`, run unchanged with Node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::http::Served;
use super::kit::adapters;
use super::{Harness, reply_address};
use crate::ask::wait;
use crate::needs::required;

const SECRET: &str = "test-secret-0123456789abcdef-0123";

/// The first block of this language in the document.
fn block(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/webhooks.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("\n```").unwrap().0.to_owned()
}

fn has_node() -> bool {
    let found = Command::new("node").arg("--version").output();
    let found = found.ok().filter(|found| found.status.success());
    required(found, "no node to run the programs in docs/webhooks.md").is_some()
}

/// Runs a program against the server, with the names of the document.
async fn run(served: &Served, program: PathBuf, to: String) -> Output {
    let url = format!("http://{}/gateway/inbound/generic", served.address);
    let running = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg(program)
            .env("POSTERN_URL", url)
            .env("EMAIL_WEBHOOK_SECRET", SECRET)
            .env("REPLY_TO", to)
            .output()
            .unwrap()
    });
    running.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_of_the_document_sends_a_mail() {
    let program = block("ts");
    let lines = program
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    assert!(lines <= 15, "{lines} lines");
    if !has_node() {
        return;
    }
    let served = Served::new(Harness::new(adapters())).await;
    let folder = tempfile::tempdir().unwrap();
    // It has no type annotations, so it is JavaScript too, which any Node runs.
    let file = folder.path().join("send.mjs");
    fs::write(&file, program).unwrap();
    let to = reply_address();
    let ran = run(&served, file, to.clone()).await;
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let (delivery, view) = served.harness.last();
    assert_eq!(delivery.recipient.address.to_string(), to);
    assert_eq!(view.text.as_deref().map(str::trim), Some("My answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_of_the_document_forwards_a_mail() {
    if !has_node() {
        return;
    }
    let served = Served::new(Harness::new(adapters())).await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("worker.mjs"), block("js")).unwrap();
    let file = folder.path().join("call.mjs");
    fs::write(
        &file,
        r#"import worker from "./worker.mjs";
const raw = new TextEncoder().encode("From: a@b.example\r\nSubject: x\r\n\r\nh\u00e9\r\n".repeat(1) + "y".repeat(100000));
const said = [];
const message = (to) => ({ to, from: "a@b.example", raw: new Blob([raw]).stream(),
  rawSize: raw.length, setReject: (why) => said.push(why) });
await worker.email(message(process.env.REPLY_TO), process.env);
await worker.email(message("nobody@in.example.com"), process.env);
if (said.length !== 1) throw new Error(`rejected ${said.length}`);
let thrown = false;
const wrong = { ...process.env, EMAIL_WEBHOOK_SECRET: "wrong" };
await worker.email(message(process.env.REPLY_TO), wrong).catch(() => { thrown = true; });
if (!thrown) throw new Error("a wrong secret must be a temporary failure");
"#,
    )
    .unwrap();
    let ran = run(&served, file, reply_address()).await;
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let kept = served.harness.deliveries();
    assert_eq!(kept.len(), 1);
    let bytes = wait(served.harness.store.mail_bytes(kept[0].id.mail)).unwrap();
    assert!(bytes.starts_with("From: a@b.example\r\nSubject: x\r\n\r\nh\u{e9}\r\n".as_bytes()));
}
