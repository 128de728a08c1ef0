//! Owns the configuration: a TOML file and the environment become checked settings, or a list of all
//! errors.
//!
//! Does not start anything. Each part has its own `Settings` with its own defaults; the configured
//! values override them here.

mod attachments;
mod auth;
mod development;
mod env;
mod events;
mod findings;
mod imap;
mod listeners;
mod outbound;
mod outbound_api;
mod reader;
mod route;
mod secret;
mod sections;
mod value;
mod webhook;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use toml::Table;

pub use env::{VARIABLES, Variable};
pub use findings::{ConfigKey, ConfigProblem};
pub use outbound::OutboundConfig;
pub use outbound_api::OutboundApiConfig;
pub use route::RouteConfig;
pub use secret::{KEY_BYTES_MIN, Secret};
pub use sections::{Config, LogFormat};

use findings::ConfigFindings;
use reader::Section;

/// Octets of the file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A usable configuration, and the findings about it.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Warnings about doubtful but allowed values.
    pub warnings: Vec<ConfigProblem>,
    /// Every key with its default and its configured value.
    pub keys: Vec<ConfigKey>,
}

/// The purpose of loading, which decides about writing to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Loading for inspection: in development mode, missing secrets are generated and forgotten.
    Look,
    /// Loading for a server: in development mode, secrets are generated once and stored in the data folder.
    Run,
}

/// Reads `file` and the environment, which overrides it. Without either, the result is development
/// mode: everything on loopback, everything generated.
///
/// # Errors
/// Every error, at once.
pub fn load(
    file: Option<&Path>,
    environment: impl Fn(&str) -> Option<OsString>,
    purpose: Purpose,
) -> Result<Loaded, InvalidConfig> {
    let set = env::read(environment).map_err(InvalidConfig)?;
    let mut log = ConfigFindings {
        file: file.map(Path::to_owned),
        ..ConfigFindings::default()
    };
    let mut table = match file {
        Some(file) => read(file).map_err(|problem| InvalidConfig(vec![problem]))?,
        None => Table::new(),
    };
    let development = file.is_none() && set.iter().all(|(variable, _)| variable.is_location_only());
    env::overlay(set, &mut table, &mut log);
    if development {
        development::fill(&mut table, purpose).map_err(|problem| InvalidConfig(vec![problem]))?;
    }
    let mut root = Section::root(table, &log);
    let config = sections::read(&mut root, development);
    root.end();
    let problems = log.problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded {
            config,
            warnings: log.warnings.into_inner(),
            keys: log.keys.into_inner(),
        }),
        _ => Err(InvalidConfig(problems)),
    }
}

/// Every key with its default, as read from an empty file with one empty route.
pub fn keys() -> Vec<ConfigKey> {
    let log = ConfigFindings::default();
    let mut root = Section::root(Table::new(), &log);
    sections::read(&mut root, false);
    log.keys.into_inner()
}

/// Every error of a configuration, one line each.
#[derive(Debug)]
pub struct InvalidConfig(Vec<ConfigProblem>);

impl InvalidConfig {
    /// The errors.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidConfig {}

fn read(file: &Path) -> Result<Table, ConfigProblem> {
    let name = file.display().to_string();
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| ConfigProblem::new(&name, error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let what = format!("longer than {}", value::show_size(FILE_BYTES_MAX));
        return Err(ConfigProblem::new(&name, what));
    }
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own text quotes the line, which may contain a secret.
        let what = error.message().replace('\n', ", ");
        let Some(at) = error.span() else {
            return ConfigProblem::new(&name, what);
        };
        let line = 1 + text.bytes().take(at.start).filter(|b| *b == b'\n').count();
        ConfigProblem::new(format!("{name}: line {line}"), what)
    })
}

#[cfg(test)]
mod tests;
