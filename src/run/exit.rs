//! Owns the exit of a failed program: an exit code of sysexits(3) and lines for a person.
//!
//! Does not print them.

use std::process::ExitCode;
use std::{fmt, io};

use crate::config::InvalidConfig;

/// The exit code of a failed program, by sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 64: the command line is not valid.
    Usage,
    /// 65: the input is malformed.
    Malformed,
    /// 66: the input does not exist.
    NoInput,
    /// 67: the recipient is not ours, or the mail would be refused.
    Refused,
    /// 69: a required service is not available: an address in use, a server that does not run.
    Unavailable,
    /// 70: an internal error.
    Software,
    /// 73: an output file or folder cannot be created or used.
    CannotCreate,
    /// 74: an error while reading or writing.
    InputOutput,
    /// 78: the configuration is not usable.
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

/// The error that ends the program, with its exit code.
#[derive(Debug)]
pub struct ExitError {
    exit: Exit,
    lines: Vec<String>,
}

impl ExitError {
    /// An error with this exit code, printed with all its causes on one line.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self {
            exit,
            lines: vec![format!("postern: {}", one_line(&format!("{error:#}")))],
        }
    }

    /// An error with this exit code and message.
    pub fn with_message(exit: Exit, line: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{line}"))
    }

    /// The lines for a person; empty if the reader of the output has gone.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The exit code.
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
        // The reader of the output has closed it, like `head` in a pipe.
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

/// The text without line ends and other control characters, because it may quote a peer or a file.
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
    fn a_closed_pipe_prints_no_error() {
        let failure = ExitError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.lines().is_empty());
        assert_eq!(failure.exit(), Exit::InputOutput);
    }
}
