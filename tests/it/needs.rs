//! Owns the handling of missing test inputs: a notice that the test runner does not capture, or a failure
//! if POSTERN_REQUIRE_ALL=1 requires all inputs, as `.ci/run` does.
//!
//! There are two kinds of input. Inputs from the repository, Debian or PyPI (node, chromium, moto_server)
//! are installed by tests/run.sh, and are required. Mails and requests of third parties (`fixtures/` of the
//! folder POSTERN_SHARED, or `../shared` beside the crate) are not part of the project: a clone lacks them,
//! so a test that reads them is skipped with a notice, and its subject is also covered by mails of our own.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Returns the input. If there is none, a notice names `what` is missing.
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

/// A folder of third parties' fixtures, or `None` after a notice.
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

/// Written directly, because the output of `println!` and `eprintln!` is hidden when a test passes.
pub(crate) fn skipped(what: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("NOT TESTED: {name}: {what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
