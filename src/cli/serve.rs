//! Owns `serve`, which is also the default command.
//!
//! Does not assemble the parts; `run` does.

use std::io::Write;
use std::path::PathBuf;

use crate::config::Purpose;
use crate::run::{self, ExitError};

pub(super) fn serve(file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
    let loaded = super::load(file, Purpose::Run)?;
    run::serve(loaded.config, &loaded.warnings, out)
}
