//! Owns what reading a configuration finds: problems, warnings, and every key that was asked for.
//!
//! Does not read anything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use toml::Value;

/// What is wrong with, or doubtful about, one place of the configuration. Prints as one line.
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

/// One key that was asked for: what it is without a word from the operator, and what it is now.
#[derive(Clone, Debug)]
pub struct ConfigKey {
    /// The key with its tables, as in `smtp.mail_bytes_max`.
    pub path: String,
    /// What holds if nobody says otherwise; `None` where there is no such value.
    pub default: Option<Value>,
    /// What was said, for showing; `None` if nothing was, `(set)` for a secret.
    pub given: Option<String>,
    /// The environment variable that said it, if one did.
    pub variable: Option<&'static str>,
}

/// What reading has found so far.
#[derive(Default)]
pub(super) struct ConfigFindings {
    /// The file the tables come from, for error lines.
    pub(super) file: Option<PathBuf>,
    /// Keys that an environment variable has set.
    pub(super) variables: BTreeMap<String, &'static str>,
    pub(super) problems: RefCell<Vec<ConfigProblem>>,
    pub(super) warnings: RefCell<Vec<ConfigProblem>>,
    pub(super) keys: RefCell<Vec<ConfigKey>>,
}

impl ConfigFindings {
    /// The variable that set the key `path`: it stands for its key and for all that lies within it.
    pub(super) fn variable(&self, path: &str) -> Option<&'static str> {
        let set = self.variables.iter().find(|(key, _)| {
            let rest = path.strip_prefix(key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        set.map(|(_, name)| *name)
    }

    /// How a line about the key `path` begins: who said it, then which key.
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
