//! Methods that a path of the real program does not support: each response names the supported ones.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use data_encoding::BASE64;
use serde_json::Value;

use crate::postern::Postern;
use crate::product::KEY;
use crate::wait::PATIENCE;

/// Paths of pages, which the contract does not name, and their methods.
const PAGES: [(&str, &[&str]); 9] = [
    ("/", &["GET"]),
    ("/admin", &["GET"]),
    ("/admin/", &["GET"]),
    ("/admin/style.css", &["GET"]),
    ("/admin/outbox", &["GET"]),
    ("/admin/outbox/x", &["GET"]),
    ("/admin/outbox/x/html", &["GET"]),
    ("/admin/outbox/x/retry", &["POST"]),
    ("/admin/outbox/x/cancel", &["POST"]),
];

/// The status of a response, and its `Allow` fields.
fn ask(port: u16, method: &str, path: &str) -> (u16, Vec<String>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let login = match path.starts_with("/admin") {
        true => format!("Basic {}", BASE64.encode(format!("x:{KEY}").as_bytes())),
        false => format!("Bearer {KEY}"),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {login}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    let head = heard.split("\r\n\r\n").next().unwrap();
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("{heard}"));
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let allow = fields.filter(|(name, _)| name.eq_ignore_ascii_case("allow"));
    let allow = allow.map(|(_, value)| value.trim().to_owned()).collect();
    (status.parse().unwrap(), allow)
}

/// The paths of the contract and the pages, with their methods.
fn paths(postern: &Postern) -> Vec<(String, BTreeSet<String>)> {
    let (status, contract) = postern.fetch("/openapi.json");
    assert_eq!(status, 200);
    let contract: Value = serde_json::from_str(&contract).unwrap();
    let mut paths = Vec::new();
    for (path, operations) in contract["paths"].as_object().unwrap() {
        let methods = operations.as_object().unwrap().keys();
        let methods = methods.filter(|name| *name != "parameters");
        let methods = methods.map(|name| name.to_ascii_uppercase()).collect();
        let filled = path.split('/').map(|part| match part.starts_with('{') {
            true => "generic",
            false => part,
        });
        paths.push((filled.collect::<Vec<_>>().join("/"), methods));
    }
    let owned = |methods: &[&str]| methods.iter().map(|name| (*name).to_owned()).collect();
    let pages = PAGES.iter();
    paths.extend(pages.map(|(path, methods)| ((*path).to_owned(), owned(methods))));
    paths
}

#[test]
fn every_answer_to_a_wrong_method_names_the_right_ones() {
    let more = format!(
        "[webhook]\nsecret = \"a webhook secret made for tests, worth nothing\"\n\
         [outbound]\nenabled = true\ncapture = true\nfrom = \"a@product.test\"\n\
         [outbound.api]\nkey = \"{KEY}\"\n"
    );
    let mut postern = Postern::new(None, &more);
    let text = fs::read_to_string(postern.config()).unwrap();
    let open = "[server]\ninbound = [\"smtp\", \"lmtp\", \"webhook\"]\n";
    fs::write(postern.config(), text.replacen("[server]\n", open, 1)).unwrap();
    postern.start();
    let paths = paths(&postern);
    assert!(paths.len() > 25, "{paths:?}");
    for (path, mut methods) in paths {
        if methods.contains("GET") || path.starts_with("/gateway/inbound/") {
            methods.insert("HEAD".to_owned());
        }
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "FOO",
        ] {
            if methods.contains(method) {
                continue;
            }
            let (status, allow) = ask(postern.http, method, &path);
            assert_eq!(status, 405, "{method} {path}");
            let [allow] = allow.as_slice() else {
                panic!("{method} {path}: {allow:?}");
            };
            let listed: Vec<_> = allow
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect();
            let named: BTreeSet<_> = listed.iter().cloned().collect();
            assert_eq!(named, methods, "{method} {path}");
            assert_eq!(listed.len(), named.len(), "{method} {path}: {allow}");
        }
    }
    // An unknown path has no methods.
    assert_eq!(ask(postern.http, "TRACE", "/none").0, 404);
    postern.stop();
}
