//! Owns the findings about a configuration: errors, warnings, and every key that was read.
//!
//! Does not read anything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use toml::Value;

/// An error or a warning about one place of the configuration. It prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    location: String,
    text: String,
}

impl ConfigProblem {
    pub(super) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            location: place.into(),
            text: what.into(),
        }
    }
}

impl Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.text)
    }
}

/// A key that was read, with its default and its value.
#[derive(Clone, Debug)]
pub struct ConfigKey {
    /// The key with its tables, for example `smtp.mail_bytes_max`.
    pub path: String,
    /// The default; `None` if there is none.
    pub default: Option<Value>,
    /// The configured value for display; `None` if there is none, `(set)` for a secret.
    pub given: Option<String>,
    /// The environment variable that set it, if any.
    pub variable: Option<&'static str>,
}

/// The findings so far.
#[derive(Default)]
pub(super) struct ConfigFindings {
    /// The file of the tables, for messages.
    pub(super) file: Option<PathBuf>,
    /// Keys that an environment variable has set.
    pub(super) variables: BTreeMap<String, &'static str>,
    pub(super) problems: RefCell<Vec<ConfigProblem>>,
    pub(super) warnings: RefCell<Vec<ConfigProblem>>,
    pub(super) keys: RefCell<Vec<ConfigKey>>,
}

impl ConfigFindings {
    /// The variable that set the key `path`, or a key that contains it.
    pub(super) fn variable(&self, path: &str) -> Option<&'static str> {
        let set = self.variables.iter().find(|(key, _)| {
            let rest = path.strip_prefix(key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        set.map(|(_, name)| *name)
    }

    /// The beginning of a message about the key `path`: its source, then the key.
    pub(super) fn location(&self, path: &str) -> String {
        match (self.variable(path), &self.file) {
            (Some(name), _) => format!("environment: {name}"),
            (None, Some(file)) => format!("{}: {path}", file.display()),
            (None, None) => format!("configuration: {path}"),
        }
    }

    pub(super) fn problem(&self, path: &str, what: impl Into<String>) {
        let problem = ConfigProblem::new(self.location(path), what);
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn warn(&self, path: &str, what: impl Into<String>) {
        let warning = ConfigProblem::new(self.location(path), what);
        self.warnings.borrow_mut().push(warning);
    }
}
