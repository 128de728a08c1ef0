//! Owns the check of ARCHITECTURE.md's floors against `src/`: imports go down only, the pure parts stay
//! pure, and names that belong to one file are used only there.

mod circles;
mod code;

use std::path::Path;
use std::{fs, io};

use circles::circles_of;
use code::{code_of, paths_of, without_tests};

/// The limit of lines in a file: some room above the recommended 500.
const LINES_MAX: usize = 600;

/// The top modules by floor, lowest first. On a floor of [`Siblings::Apart`] none imports another.
const FLOORS: [(&[&str], Siblings); 8] = [
    (
        &[
            "base64",
            "clock",
            "network",
            "random",
            "secret",
            "signature",
        ],
        Siblings::Free,
    ),
    (&["limits", "mail", "retry"], Siblings::Apart),
    (&["smtp", "store"], Siblings::Apart),
    (
        &["auth", "client", "tls", "objects", "queue"],
        Siblings::Free,
    ),
    (
        &["ingress", "delivery", "outbound", "events", "http"],
        Siblings::Apart,
    ),
    (&["config"], Siblings::Apart),
    (&["run"], Siblings::Apart),
    (&["cli"], Siblings::Apart),
];

/// The permission of one floor's modules to import each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Siblings {
    Apart,
    Free,
}

/// Names that pure modules must not use: anything that does I/O, awaits, logs or reads a clock.
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
const PURE: [&str; 7] = [
    "base64",
    "mail",
    "network",
    "secret",
    "signature",
    "smtp",
    "retry",
];

/// Names that only these files or folders may use.
const ONLY_IN: [(&str, &[&str]); 3] = [
    ("sled", &["store/embedded/index.rs"]),
    ("anyhow", &["main.rs", "cli/", "run/"]),
    ("SystemTime::now", &["clock.rs"]),
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

#[test]
fn siblings_import_each_other_in_no_circle() {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    each_file(&root, &mut |path, text| {
        files.push((path.to_owned(), text.to_owned()));
    })
    .unwrap();
    let circles = circles_of(&files);
    assert_eq!(circles, Vec::<Vec<String>>::new());
}

#[test]
fn circles_are_found() {
    let circles = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        circles_of(&files.collect::<Vec<_>>())
    };
    // Direct, through a third, through a folder, by a path within the code.
    for files in [
        [
            ("a/b.rs", "use super::c::C;"),
            ("a/c.rs", "use super::d::D;"),
            ("a/d.rs", "use crate::a::b::B;"),
        ],
        [
            ("a/b/mod.rs", ""),
            ("a/b/x.rs", "use crate::a::c;"),
            ("a/c.rs", "fn f() { super::b::x::g() }"),
        ],
        [
            ("a/b.rs", "#[cfg(test)]\nmod t { use z; }\nuse super::c::C;"),
            ("a/c.rs", "use super::{b::{B}, Z};"),
            ("a/mod.rs", ""),
        ],
    ] {
        assert_eq!(circles(&files).len(), 1, "{files:?}: {:?}", circles(&files));
    }
    // Parent and child, tests, comments, and one-way imports.
    for files in [
        [
            ("a/mod.rs", "mod b; use b::B;"),
            ("a/b.rs", "use super::A;"),
            ("a/c.rs", ""),
        ],
        [
            ("a/b.rs", "use super::c::C;"),
            ("a/c.rs", "#[cfg(test)]\nuse super::b::{B};"),
            ("a/mod.rs", ""),
        ],
        [
            ("a/b.rs", "use super::c::C;"),
            ("a/c.rs", "/// [`super::b::B`]\nfn f() {}"),
            ("a/mod.rs", ""),
        ],
        [
            ("a/b.rs", "use super::c::C;"),
            ("a/c/tests.rs", "use super::super::b::B;"),
            ("a/c/mod.rs", ""),
        ],
    ] {
        assert_eq!(circles(&files), Vec::<Vec<String>>::new(), "{files:?}");
    }
}

/// File, text and the error that must be found in it.
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
    (
        "mail/a.rs",
        "#[cfg(test)]\nmod tests;\nuse std::fs;",
        "pure, but names std::fs",
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
fn the_checker_of_the_floors_finds_violations() {
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
fn the_checker_of_the_floors_accepts_valid_code() {
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
        ("mail/a.rs", "#[cfg(test)]\nuse std::{fs, net::TcpStream};"),
        ("mail/a.rs", "#[cfg(test)]\nmod tests;"),
        ("mail/reply/tests.rs", "use std::fs; use super::*;"),
        (
            "http/a.rs",
            "use crate::{clock, mail::{a, b}, store, smtp, tls};",
        ),
        (
            "cli/a.rs",
            "use crate::run; use crate::config; use anyhow::X;",
        ),
        ("store/embedded/index.rs", "use sled::Db;"),
        ("tls/a.rs", "fn f() { let sled_like = 1; tokio::spawn(x); }"),
    ] {
        let faults = faults_of(path, &format!("//! x\n{text}"));
        assert!(faults.is_empty(), "{path}: {text}: {faults:?}");
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

/// All rule violations in the file at `path` (below `src/`).
fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let is_test = is_test(path);
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
    // Test-only names do not make the module impure.
    let shipped = if is_test {
        String::new()
    } else {
        without_tests(&code)
    };
    let paths = paths_of(&shipped);
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
    // `main.rs` and `lib.rs` are above all floors.
    let Some(ours) = floor_of(module) else {
        return true;
    };
    let siblings_free = FLOORS[ours].1 == Siblings::Free;
    module == import || theirs < ours || (theirs == ours && siblings_free)
}

/// Our top modules that the code uses, by `crate::` or by climbing with `super::`.
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

/// True if one of the paths contains these names, one after the other.
fn names(paths: &[Vec<String>], wanted: &str) -> bool {
    let wanted: Vec<_> = wanted.split("::").collect();
    paths
        .iter()
        .any(|path| path.windows(wanted.len()).any(|window| window == wanted))
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
