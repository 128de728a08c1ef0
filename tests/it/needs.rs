//! Owns what becomes of a test whose input is missing: it says so past the test runner's capture and
//! ends, or fails where POSTERN_REQUIRE_ALL=1 says that all must be there, as `.ci/run` does.
//!
//! There are two kinds of input. What the repository, Debian or PyPI can provide (node, chromium,
//! moto_server) is installed by tests/run.sh, and is required. Mails and requests of third parties
//! (`fixtures/` of the folder POSTERN_SHARED, or `../shared` beside the crate) are not part of the project:
//! a clone does not have them, so a test that reads them is skipped loudly, and what it covers is covered
//! by mails of our own as well.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Gives back what was found. If nothing was, a loud line says what is missing: `what`.
#[track_caller]
pub(crate) fn required<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        let all = std::env::var("POSTERN_REQUIRE_ALL").is_ok_and(|value| value == "1");
        assert!(
            !all,
            "{what}, and POSTERN_REQUIRE_ALL is set: run tests/run.sh"
        );
        skipped(what);
    }
    found
}

/// A folder of third parties' fixtures, or `None` after a loud line.
pub(crate) fn fixtures(kind: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("POSTERN_SHARED").map_or(beside, PathBuf::from);
    let folder = shared.join("fixtures").join(kind);
    if folder.is_dir() {
        return Some(folder);
    }
    skipped(&format!(
        "no folder {}: set POSTERN_SHARED",
        folder.display()
    ));
    None
}

/// Not by `println!` or `eprintln!`: what those print is hidden when a test passes.
fn skipped(what: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("NOT TESTED: {name}: {what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
