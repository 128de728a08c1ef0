//! Owns `check-config`: reports every error of a configuration, or that it is usable.
//!
//! Does not check ports, disks, relays and the Messages API; `doctor` does.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::terminal::printable;
use crate::config::{ConfigKey, Purpose};
use crate::run::{self, ExitError};

/// Arguments of `check-config`.
#[derive(Debug, Args)]
pub(super) struct CheckConfigArgs {
    /// The configuration file
    file: Option<PathBuf>,
    /// Print every key with its value and its source; secrets are not printed
    #[arg(long)]
    show: bool,
}

impl CheckConfigArgs {
    /// True if the command line names the file.
    pub(super) fn names_file(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let file = self.file.or(file);
        let name = match &file {
            Some(file) => file.display().to_string(),
            None => "configuration".to_owned(),
        };
        let loaded = super::load(file, Purpose::Look)?;
        run::check(&loaded.config)?;
        for warning in &loaded.warnings {
            writeln!(out, "warning: {}", printable(&warning.to_string()))?;
        }
        if self.show {
            for key in &loaded.keys {
                writeln!(out, "{}", printable(&key_line(key)))?;
            }
        }
        let mode = if loaded.config.development {
            "ok (development mode)"
        } else {
            "ok"
        };
        writeln!(out, "{}: {mode}", printable(&name))?;
        Ok(())
    }
}

fn key_line(key: &ConfigKey) -> String {
    let path = &key.path;
    match (&key.given, &key.default, key.variable) {
        (Some(given), _, Some(variable)) => format!("{path} = {given}  # {variable}"),
        (Some(given), _, None) => format!("{path} = {given}"),
        (None, Some(default), _) => format!("{path} = {default}  # default"),
        (None, None, _) => format!("# {path} is not set"),
    }
}
