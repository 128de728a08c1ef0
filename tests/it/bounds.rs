//! Mails that exceed a bound, through the real program: the message says so, the log says so once, and
//! nothing of the mail is lost.

use std::fmt::Write as _;

use serde_json::Value;

use crate::postern::{Client, Postern, eventually};
use crate::product::Product;

const HEAD: &str = "From: Ann <ann@peer.test>\r\nSubject: A long one\r\nMessage-ID: <long@peer.test>\r\n\
                    Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n";

/// A message in the product, and the Postern that posted it.
struct Told {
    postern: Postern,
    message: Value,
}

impl Told {
    /// Hands a mail in by SMTP and waits for its message.
    fn of(mail: &str) -> Self {
        let product = Product::start();
        let mut postern = Postern::new(Some(&product.base_url()), "");
        postern.start();
        let mut client = Client::connect(postern.smtp, "EHLO peer.test").unwrap();
        let answer = client.mail("ann@peer.test", "general@inbox.test", mail);
        assert!(answer.unwrap().starts_with("250"));
        postern.drained();
        let mut messages = product.messages();
        assert_eq!(messages.len(), 1, "{}", postern.log());
        let (_, message) = messages.pop().unwrap();
        Self { postern, message }
    }

    fn attachments(&self) -> &[Value] {
        self.message["attachments"].as_array().unwrap()
    }

    /// The bytes behind the link of the kept attachment of this name.
    fn kept(&self, name: &str) -> String {
        let found = self
            .attachments()
            .iter()
            .find(|file| file["filename"] == name);
        let file = found.unwrap_or_else(|| panic!("{name} is not told: {}", self.message));
        self.fetched(file)
    }

    fn fetched(&self, file: &Value) -> String {
        let url = file["url"]
            .as_str()
            .unwrap_or_else(|| panic!("it is not kept: {file}"));
        let (_, path) = url.split_once("/gateway/").unwrap();
        let (status, body) = self.postern.fetch(&format!("/gateway/{path}"));
        assert_eq!(status, 200, "{url}");
        assert_eq!(file["size"], body.len(), "{file}");
        body
    }

    /// Asserts that the message and one log line name this bound.
    fn names(&mut self, flag: &str) {
        assert_eq!(self.message["flags"], serde_json::json!([flag]));
        let log = self.postern.log();
        let lines = log.lines().filter(|line| line.contains("exceeds a bound"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("flags=\"{flag}\"")), "{lines:?}");
        self.postern.stop();
    }
}

#[test]
fn a_long_text_is_cut_and_kept_whole_as_a_file() {
    let mut text = String::new();
    for n in 0..3_000 {
        write!(text, "{n:06} {}\r\n", "x".repeat(900)).unwrap();
    }
    let mut told = Told::of(&format!("{HEAD}\r\n{text}THE END\r\n"));
    let body = told.message["body"].as_str().unwrap();
    assert!(
        body.starts_with("000000 xxx") && body.len() <= 1 << 20,
        "{}",
        body.len()
    );
    assert!(!body.contains("THE END"));
    let whole = told.kept("text.txt");
    assert!(whole.starts_with("000000 xxx") && whole.trim_end().ends_with("THE END"));
    assert_eq!(whole.lines().count(), 3_001);
    told.names("text_cut");
}

#[test]
fn behind_the_last_part_that_is_read_the_mail_is_kept_whole() {
    let mut mail =
        format!("{HEAD}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nSee all.\r\n");
    for n in 1..=1_000 {
        let part = "Content-Type: text/csv\r\nContent-Disposition: attachment; filename=";
        write!(mail, "--b\r\n{part}{n}.csv\r\n\r\nfile {n} of them\r\n").unwrap();
    }
    mail.push_str("--b--\r\n");
    let mut told = Told::of(&mail);
    assert_eq!(told.message["body"], "See all.");
    let names: Vec<_> = told
        .attachments()
        .iter()
        .map(|file| &file["filename"])
        .collect();
    assert!(names.iter().any(|name| **name == "1.csv"), "{names:?}");
    assert!(!names.iter().any(|name| **name == "1000.csv"), "{names:?}");
    let whole = told.kept("message.eml");
    assert!(whole.contains("file 1 of them") && whole.contains("file 1000 of them"));
    told.names("too_many_parts");
}

#[test]
fn a_text_too_deep_to_be_read_is_kept_as_a_file() {
    let mut mail = HEAD.to_owned();
    for n in 0..33 {
        write!(
            mail,
            "Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"
        )
        .unwrap();
    }
    mail.push_str("Content-Type: text/plain\r\n\r\nDeep words.\r\n");
    for n in (0..33).rev() {
        write!(mail, "--b{n}--\r\n").unwrap();
    }
    let mut told = Told::of(&mail);
    let files = told.attachments().iter().map(|file| told.fetched(file));
    let files: Vec<_> = files.collect();
    assert!(
        files.iter().any(|file| file.contains("Deep words.")),
        "{files:?}"
    );
    told.names("too_deep");
}

#[test]
fn a_mail_within_the_bounds_names_none() {
    let mut told = Told::of(&format!("{HEAD}\r\nA few words.\r\n"));
    assert!(told.message["flags"].is_null(), "{}", told.message);
    eventually("it is told", || told.postern.log().contains(" delivered"));
    assert!(!told.postern.log().contains("exceeds a bound"));
    told.postern.stop();
}
