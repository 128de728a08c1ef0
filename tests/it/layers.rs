//! The floors of ARCHITECTURE.md, proven by reading `src/`: imports go down only, the pure parts stay
//! pure, and what only one file may name is named there alone.

use std::path::Path;
use std::{fs, io};

/// No file has more lines: a limit for thought, with some room above the 500 that are meant.
const LINES_MAX: usize = 600;

/// The top modules by floor, lowest first. Within a row none imports another where `SIBLINGS_APART`.
const FLOORS: [(&[&str], Siblings); 8] = [
    (&["clock", "network"], Siblings::Apart),
    (&["limits", "mail", "retry"], Siblings::Apart),
    (&["smtp", "store"], Siblings::Apart),
    (&["auth", "client", "tls", "objects"], Siblings::Free),
    (
        &["ingress", "delivery", "outbound", "events", "http"],
        Siblings::Apart,
    ),
    (&["config"], Siblings::Apart),
    (&["run"], Siblings::Apart),
    (&["cli"], Siblings::Apart),
];

/// May the modules of one floor import each other?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Siblings {
    Apart,
    Free,
}

/// What the pure modules must not name: anything that does I/O, awaits, logs or reads a clock.
const IMPURE: [&str; 16] = [
    "tokio",
    "tracing",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "SystemTime",
    "Instant",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];
const PURE: [&str; 4] = ["mail", "network", "smtp", "retry"];

/// Names that only these files or folders may have in them.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("sled", &["store/index.rs"]),
    ("anyhow", &["main.rs", "cli/", "run/", "run.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    ("smtp_proto", &["smtp/"]),
];

#[test]
fn imports_go_down_and_the_pure_stay_pure() {
    let mut faults = Vec::new();
    let mut files = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    each_file(&root, &mut |path, text| {
        files += 1;
        faults.extend(faults_of(path, text));
    })
    .unwrap();
    faults.sort();
    assert!(files > 20, "only {files} files found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// File, text and the fault that must be found in it.
const BAD: &[(&str, &str, &str)] = &[
    (
        "smtp/a.rs",
        "use crate::store::Store;",
        "smtp imports store",
    ),
    (
        "store/a.rs",
        "use crate::{clock, smtp::session};",
        "store imports smtp",
    ),
    (
        "http/a.rs",
        "fn f() { crate::delivery::run() }",
        "http imports delivery",
    ),
    (
        "ingress/a.rs",
        "use super::super::http::X;",
        "ingress imports http",
    ),
    (
        "ingress/mod.rs",
        "use super::http::X;",
        "ingress imports http",
    ),
    ("mail/a.rs", "use crate::smtp::X;", "mail imports smtp"),
    ("mail/a.rs", "use crate::retry::X;", "mail imports retry"),
    (
        "delivery/a.rs",
        "use crate::config::Config;",
        "delivery imports config",
    ),
    ("config/a.rs", "use crate::run::X;", "config imports run"),
    ("run/a.rs", "use crate::cli::X;", "run imports cli"),
    ("mail/a.rs", "use tokio::net;", "pure, but names tokio"),
    (
        "mail/a.rs",
        "fn f() { tracing::info!(\"\") }",
        "pure, but names tracing",
    ),
    (
        "smtp/a.rs",
        "use std::{fmt, fs};",
        "pure, but names std::fs",
    ),
    (
        "smtp/a.rs",
        "use std::net::{IpAddr, TcpStream};",
        "pure, but names TcpStream",
    ),
    (
        "retry.rs",
        "use std::time::Instant;",
        "pure, but names Instant",
    ),
    ("http/a.rs", "use anyhow::Result;", "anyhow is named"),
    ("store/a.rs", "fn f() { sled::open(p) }", "sled is named"),
    (
        "store/a.rs",
        "fn f() { SystemTime::now() }",
        "SystemTime::now is named",
    ),
    ("store/mod.rs", "fn f() {}", "no module head"),
];

#[test]
fn the_reader_of_the_floors_can_say_no() {
    for (path, text, fault) in BAD {
        let head = if *fault == "no module head" {
            ""
        } else {
            "//! x\n"
        };
        let faults = faults_of(path, &format!("{head}{text}"));
        let found = faults.iter().any(|found| found.contains(fault));
        assert!(found, "{path}: {text}: {faults:?}");
    }
    let long = format!("//! x\n{}", "\n".repeat(LINES_MAX));
    let faults = faults_of("store/a.rs", &long);
    assert_eq!(faults, ["store/a.rs: 601 lines, 600 at most"]);
}

#[test]
fn the_reader_of_the_floors_can_say_yes() {
    for (path, text) in [
        (
            "smtp/a.rs",
            "use std::net::IpAddr; use crate::mail::x; use super::body::B;",
        ),
        (
            "mail/a.rs",
            "/// See [`tokio`] and crate::store.\nconst A: &str = \"use tokio\";",
        ),
        (
            "mail/a.rs",
            "const A: &str = r#\"crate::store \" \"#; const C: char = '\"';",
        ),
        (
            "mail/a.rs",
            "fn f<'a>(a: &'a str) {} /* crate::store /* */ tokio */",
        ),
        ("mail/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }"),
        ("mail/reply/tests.rs", "use std::fs; use super::*;"),
        (
            "http/a.rs",
            "use crate::{clock, mail::{a, b}, store, smtp, tls};",
        ),
        (
            "cli/a.rs",
            "use crate::run; use crate::config; use anyhow::X;",
        ),
        ("store/index.rs", "use sled::Db;"),
        ("tls/a.rs", "fn f() { let sled_like = 1; tokio::spawn(x); }"),
    ] {
        let faults = faults_of(path, &format!("//! x\n{text}"));
        assert!(faults.is_empty(), "{path}: {text}: {faults:?}");
    }
}

/// Everything in the file at `path` (below `src/`) that breaks a rule.
fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{path}: {lines} lines, {LINES_MAX} at most"));
    }
    if !is_test && !text.starts_with("//!") {
        faults.push(format!("{path}: no module head"));
    }
    let code = code_of(text);
    let module = path.split(['/', '.']).next().unwrap_or_default();
    for import in imports_of(path, &code) {
        if !may_import(module, &import) {
            faults.push(format!("{path}: {module} imports {import}"));
        }
    }
    // What tests need of the world does not make the module impure.
    let shipped = match code.find("#[cfg(test)]") {
        _ if is_test => "",
        Some(at) => &code[..at],
        None => &code,
    };
    let paths = paths_of(shipped);
    if PURE.contains(&module) {
        for name in IMPURE.iter().filter(|name| names(&paths, name)) {
            faults.push(format!("{path}: pure, but names {name}"));
        }
    }
    for (name, homes) in ONLY_IN {
        let is_home = homes.iter().any(|home| path.starts_with(home));
        if !is_home && names(&paths, name) {
            faults.push(format!("{path}: {name} is named"));
        }
    }
    faults
}

fn may_import(module: &str, import: &str) -> bool {
    let floor_of = |name: &str| FLOORS.iter().position(|(names, _)| names.contains(&name));
    let Some(theirs) = floor_of(import) else {
        return true; // Not one of the top modules.
    };
    // `main.rs` and `lib.rs` stand above all.
    let Some(ours) = floor_of(module) else {
        return true;
    };
    let siblings_free = FLOORS[ours].1 == Siblings::Free;
    module == import || theirs < ours || (theirs == ours && siblings_free)
}

/// The top modules of ours that the code names, by `crate::` or by climbing with `super::`.
fn imports_of(path: &str, code: &str) -> Vec<String> {
    let mut depth = path.split('/').count();
    if path.ends_with("/mod.rs") {
        depth -= 1;
    }
    let mut imports = Vec::new();
    for path in paths_of(code) {
        let mut names = path.as_slice();
        let mut climbed = 0;
        while names.first().is_some_and(|name| name == "super") {
            names = &names[1..];
            climbed += 1;
        }
        let from_top = match names.first().map(String::as_str) {
            Some("crate") => names.get(1),
            other if climbed > 0 && climbed == depth => other.and_then(|_| names.first()),
            _ => None,
        };
        imports.extend(from_top.cloned());
    }
    imports
}

/// True if one of the paths has these names in it, one after the other.
fn names(paths: &[Vec<String>], wanted: &str) -> bool {
    let wanted: Vec<_> = wanted.split("::").collect();
    paths
        .iter()
        .any(|path| path.windows(wanted.len()).any(|window| window == wanted))
}

/// Every path in the code, name by name; `a::{b, c::d}` is two.
fn paths_of(code: &str) -> Vec<Vec<String>> {
    let mut tokens = tokens_of(code).into_iter().peekable();
    let mut paths = Vec::new();
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "::" => {
                if tokens.peek().is_some_and(|next| next == "{") {
                    tokens.next();
                    let whole = [prefixes.last().cloned().unwrap_or_default(), path.clone()];
                    prefixes.push(whole.concat());
                    path.clear();
                }
            }
            "," if !prefixes.is_empty() => end(&mut path, &prefixes, &mut paths),
            "}" if !prefixes.is_empty() => {
                end(&mut path, &prefixes, &mut paths);
                prefixes.pop();
            }
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(name.to_owned());
                if tokens.peek().is_none_or(|next| next != "::") {
                    end(&mut path, &prefixes, &mut paths);
                }
            }
            _ => end(&mut path, &prefixes, &mut paths),
        }
    }
    paths
}

fn end(path: &mut Vec<String>, prefixes: &[Vec<String>], paths: &mut Vec<Vec<String>>) {
    if !path.is_empty() {
        let whole = [prefixes.last().cloned().unwrap_or_default(), path.clone()];
        paths.push(whole.concat());
        path.clear();
    }
}

fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

/// The text without comments, strings and characters: what is left is code.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skipped(rest);
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// How many bytes at the start of `rest` are a comment, a string or a character.
fn skipped(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let raw = rest.strip_prefix('b').unwrap_or(rest);
    if let Some(opening) = raw.strip_prefix('r') {
        let hashes = opening.len() - opening.trim_start_matches('#').len();
        if opening[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let head = rest.len() - opening.len() + hashes + 1;
            return rest[head..]
                .find(&close)
                .map_or(rest.len(), |at| head + at + close.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // A character, not a lifetime: the closing quote comes after one character or an escape.
    if let Some(inner) = rest.strip_prefix('\'') {
        let second = inner.chars().nth(1);
        if inner.starts_with('\\') || second == Some('\'') {
            return quoted(rest, '\'');
        }
    }
    0
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn each_file(folder: &Path, each: &mut impl FnMut(&str, &str)) -> io::Result<()> {
    fn walk(root: &Path, folder: &Path, each: &mut impl FnMut(&str, &str)) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(root, &path, each)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap_or(&path);
                each(&name.to_string_lossy(), &fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }
    walk(folder, folder, each)
}
