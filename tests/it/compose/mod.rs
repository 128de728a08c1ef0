//! Composed mails, through the real program, parsed by Python's email package.

mod pages;

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::{Home, config};

const THREAD: &str = "6f1f9f3e-2b1c-4a53-9d0b-1f0d6f7a8b9c";

/// A folder with a configuration and texts, and the prefix of a command.
pub(crate) struct Desk {
    home: Home,
    file: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let file = home.write("postern.toml", &config(&home.path("data"), [0; 3]));
        let file = file.to_str().unwrap().to_owned();
        Self { home, file }
    }

    /// The path of a new file.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.home.write(name, text);
        path.to_str().unwrap().to_owned()
    }

    /// The output of `mail compose` for this text.
    fn compose(&self, text: &str, more: &[&str]) -> String {
        let text = self.write("text.txt", text);
        self.run(&["--text", &text], more).ok()
    }

    fn run(&self, text: &[&str], more: &[&str]) -> crate::program::Outcome {
        let fixed = ["mail", "compose", "--dry-run", "--config", &self.file];
        let whom = ["--thread", THREAD, "--recipient", "bob@example.org"];
        self.home.run(&[&fixed[..], &whom, text, more].concat())
    }

    /// The mail, parsed by Python.
    fn read(&self, text: &str, more: &[&str]) -> Value {
        let mail = self.compose(text, more);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/compose/read.py");
        let mut python = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs: tests/run.sh installs it");
        let mut stdin = python.stdin.take().unwrap();
        stdin.write_all(mail.as_bytes()).unwrap();
        drop(stdin);
        let read = python.wait_with_output().unwrap();
        assert!(read.status.success(), "Python finds a defect in\n{mail}");
        serde_json::from_slice(&read.stdout).unwrap()
    }
}

fn texts(mail: &Value) -> Vec<(&str, &str)> {
    let parts = mail["parts"].as_array().unwrap();
    parts
        .iter()
        .filter_map(|part| Some((part["type"].as_str()?, part["text"].as_str()?)))
        .collect()
}

#[test]
fn a_plain_mail_is_parsed_as_composed() {
    let desk = Desk::new();
    let more = [
        "--subject",
        "RE: re: Order 42",
        "--sender-name",
        "Ann \"The\" Lee, Jr.",
        "--product-name",
        "Example",
        "--in-reply-to",
        "<q1@mail.example.org>",
    ];
    let mail = desk.read("Hello Bob,\n\n.\nFrom here on.\n", &more);
    let author = &mail["from"][0];
    assert_eq!(author[0], "Ann \"The\" Lee, Jr. via Example");
    assert_eq!(author[1], "support@inbox.example.com");
    assert_eq!(mail["to"][0][1], "bob@example.org");
    assert_eq!(mail["fields"]["Subject"], "Re: Order 42");
    assert_eq!(mail["fields"]["In-Reply-To"], "<q1@mail.example.org>");
    for of_machines in ["X-Auto-Response-Suppress", "Auto-Submitted"] {
        assert_eq!(mail["fields"][of_machines], Value::Null);
    }
    let texts = texts(&mail);
    let kinds: Vec<_> = texts.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["text/plain", "text/html"]);
    let plain = texts[0].1;
    assert!(
        plain.starts_with("Hello Bob,\n\n.\nFrom here on.\n"),
        "{plain}"
    );
    // The reply address leads to the thread, for this person.
    let reply_to = mail["reply_to"][0][1].as_str().unwrap();
    let inspect = ["token", "inspect", reply_to, "--config", &desk.file];
    let said = desk.home.run(&inspect).ok();
    assert!(said.contains(THREAD), "{said}");
    assert!(said.contains("participant: bound"), "{said}");
    let id = mail["fields"]["Message-ID"].as_str().unwrap();
    assert!(id.ends_with("@inbox.example.com>"), "{id}");
    assert!(
        !desk.home.path("data").exists(),
        "arithmetic needs no folder"
    );
}

#[test]
fn other_scripts_long_lines_and_files_arrive_intact() {
    let desk = Desk::new();
    let text = "Größe 📦\n\nשלום, זו הודעה בעברית.\n\nお荷物は月曜日の午前中に届く予定です。";
    let long = "x".repeat(5_000);
    let text = format!("{text}\n{long}\n\u{1}\u{7}\0end");
    let pdf = desk.write("plan für heute und morgen.pdf", &"%PDF ".repeat(2_000));
    let photo = desk.write("写真.jpg", "not a picture");
    let subject = "Größe – שלום – お荷物は月曜日の午前中に届く予定です – and on and on it goes";
    let more = [
        "--subject",
        subject,
        "--sender-name",
        "Jörg Ærøskøbing",
        "--product-name",
        "例え",
        "--locale",
        "de-AT",
        "--attach",
        &pdf,
        "--attach",
        &photo,
    ];
    let mail = desk.read(&text, &more);
    assert_eq!(mail["fields"]["Subject"], subject);
    assert_eq!(mail["from"][0][0], "Jörg Ærøskøbing über 例え");
    let plain = texts(&mail)[0].1.to_owned();
    assert!(plain.contains("お荷物は月曜日の午前中に届く予定です。"));
    assert!(plain.contains(&format!("\n{long}\nend\n")));
    assert!(plain.contains("— Antworten Sie oberhalb dieser Zeile —"));
    let parts = mail["parts"].as_array().unwrap();
    let shape: Vec<_> = parts.iter().map(|part| part["type"].clone()).collect();
    assert_eq!(
        shape,
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "text/html",
            "application/octet-stream",
            "application/octet-stream",
        ]
    );
    assert_eq!(parts[4]["filename"], "plan für heute und morgen.pdf");
    assert_eq!(parts[4]["size"], 10_000);
    assert_eq!(parts[5]["filename"], "写真.jpg");
}

#[test]
fn an_automatic_mail_is_marked() {
    let desk = Desk::new();
    let mail = desk.read("Your order is on its way.", &["--automatic"]);
    assert_eq!(mail["fields"]["Auto-Submitted"], "auto-generated");
    assert_eq!(mail["fields"]["X-Auto-Response-Suppress"], "All");
    assert_eq!(mail["from"][0][0], "");
}

#[test]
fn an_argument_adds_no_field() {
    let desk = Desk::new();
    let evil = "x\r\nBcc: eve@example.com\r\n\r\nbody";
    let more = [
        "--subject",
        evil,
        "--sender-name",
        evil,
        "--product-name",
        evil,
        "--in-reply-to",
        evil,
        "--locale",
        evil,
    ];
    let mail = desk.read(evil, &more);
    let names = mail["names"].as_array().unwrap();
    assert!(names.iter().all(|name| name != "Bcc"), "{names:?}");
    let expected = [
        "From",
        "To",
        "Reply-To",
        "Subject",
        "Date",
        "Message-ID",
        "Content-Language",
        "MIME-Version",
        "Content-Type",
    ];
    assert_eq!(*names, expected);
}

#[test]
fn invalid_mails_are_refused_with_one_line() {
    let desk = Desk::new();
    let text = desk.write("text.txt", "Hello");
    let deep = desk.write("deep.html", &"<b>".repeat(500));
    let folder = desk.home.path("templates");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("message.txt.jinja"), "{{ text }}\n{{ txt }}").unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    for (more, code, told) in [
        (
            &["--html", &deep][..],
            65,
            "postern: html: elements nested deeper than 100\n",
        ),
        (
            &["--from", "jörg@example.org"],
            65,
            "postern: from: local part is not ASCII\n",
        ),
        (
            &["--templates", &folder],
            78,
            "message.txt.jinja, line 2: undefined value",
        ),
        (&["--route", "none"], 64, "there is none of this name"),
        (&["--attach", "/nowhere/at/all"], 66, "No such file"),
    ] {
        let refused = desk.run(&["--text", &text], more);
        assert_eq!(refused.code, Some(code), "{refused:?}");
        assert!(refused.err.contains(told), "{refused:?}");
        assert_eq!(refused.out, "");
    }
}
