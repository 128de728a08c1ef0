//! Owns how the program ends when it cannot go on: a code of sysexits(3) and lines for a person.
//!
//! Does not print them.

use std::process::ExitCode;
use std::{fmt, io};

use crate::config::InvalidConfig;

/// The code a failed program ends with, as sysexits(3) numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 64: the command line was not understood.
    Usage,
    /// 65: what was to be read is not what it should be.
    Malformed,
    /// 66: what was to be read is not there.
    NoInput,
    /// 67: the recipient is not ours, or the mail would be refused.
    Refused,
    /// 69: something needed is not to be had: an address in use, a server that does not run.
    Unavailable,
    /// 70: a fault of this program.
    Software,
    /// 73: a file or folder that is ours to make cannot be made or used.
    CannotCreate,
    /// 74: reading or writing broke off.
    InputOutput,
    /// 78: the configuration cannot be used.
    Config,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Malformed => 65,
            Self::NoInput => 66,
            Self::Refused => 67,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::CannotCreate => 73,
            Self::InputOutput => 74,
            Self::Config => 78,
        }
    }
}

/// Why the program ends, and with which code.
#[derive(Debug)]
pub struct ExitError {
    exit: Exit,
    lines: Vec<String>,
}

impl ExitError {
    /// Ends with `exit` because of `error`, told with all its causes on one line.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self {
            exit,
            lines: vec![format!("postern: {}", one_line(&format!("{error:#}")))],
        }
    }

    /// Ends with `exit` because of what `line` says.
    pub fn with_message(exit: Exit, line: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{line}"))
    }

    /// The lines for a person; none where nobody listens any more.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The code to end with.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl From<InvalidConfig> for ExitError {
    fn from(invalid: InvalidConfig) -> Self {
        let lines = invalid.problems().iter().map(|p| one_line(&p.to_string()));
        Self {
            exit: Exit::Config,
            lines: lines.collect(),
        }
    }
}

impl From<io::Error> for ExitError {
    fn from(error: io::Error) -> Self {
        let is_enough = error.kind() == io::ErrorKind::BrokenPipe;
        let mut failure = Self::new(Exit::InputOutput, error);
        // Whoever read the output has seen enough, as in `postern queue list | head`.
        if is_enough {
            failure.lines.clear();
        }
        failure
    }
}

impl From<&ExitError> for ExitCode {
    fn from(failure: &ExitError) -> Self {
        Self::from(failure.exit.code())
    }
}

/// The text without line ends and other control characters: it may quote what a peer or a file said.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let cause = Err::<(), _>(anyhow::anyhow!("no\r\nsuch\x1b[2J thing"));
        let error = cause.context("data/lock").unwrap_err();
        let failure = ExitError::new(Exit::CannotCreate, error);
        assert_eq!(failure.lines(), ["postern: data/lock: no  such [2J thing"]);
        assert_eq!(failure.exit().code(), 73);
    }

    #[test]
    fn a_reader_that_went_away_is_not_told() {
        let failure = ExitError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.lines().is_empty());
        assert_eq!(failure.exit(), Exit::InputOutput);
    }
}
