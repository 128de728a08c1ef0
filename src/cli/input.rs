//! Owns the reading of input files: mails and texts, from a path or from standard input.
//!
//! Does not interpret them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::run::{Exit, ExitError};

/// Octets of a mail file, above every configurable limit.
const MAIL_BYTES_MAX: u64 = 1 << 30;

/// The bytes of the file at `path`, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ExitError> {
    let unreadable = |error: io::Error| {
        let line = format!("{}: {error}", path.display());
        ExitError::with_message(Exit::NoInput, line)
    };
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    source
        .take(MAIL_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAIL_BYTES_MAX {
        let line = format!("{}: more than {MAIL_BYTES_MAX} octets", path.display());
        return Err(ExitError::with_message(Exit::Malformed, line));
    }
    Ok(bytes)
}
