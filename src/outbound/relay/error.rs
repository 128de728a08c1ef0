//! Owns the errors of a session with a relay.
//!
//! Does not decide their effect on a mail.

use std::io;

use thiserror::Error;

use super::reply::{RelayReplyError, truncate_text};

/// The step whose replies concern the recipient.
pub(super) const RCPT: &str = "RCPT";

/// The reason why a session failed. The cause is the relay, not the mail.
#[derive(Debug, Error)]
pub(super) enum RelayError {
    /// The program stops, and the end of the mail was not on its way.
    #[error("cancelled")]
    Cancelled,
    /// The network failed, or a time-out passed.
    #[error("{step}: {}", describe_io_error(error))]
    Io {
        step: &'static str,
        error: io::Error,
    },
    /// The data is not a valid reply.
    #[error("{step}: {error}")]
    InvalidReply {
        step: &'static str,
        error: RelayReplyError,
    },
    /// The data is not a valid reply, and may not be shown.
    #[error("{0}: not a reply")]
    RedactedReply(&'static str),
    /// The relay sent data before a command asked for it.
    #[error("{0}: bytes that nothing asked for")]
    UnexpectedData(&'static str),
    /// The relay refuses the session.
    #[error("{step}: {reply}")]
    Refused { step: &'static str, reply: String },
    /// The relay does not meet the requirements.
    #[error("{0}")]
    Unsuitable(String),
}

impl RelayError {
    /// True if the relay failed at a step that does not concern the recipient.
    pub(super) fn concerns_every_mail(&self) -> bool {
        match self {
            Self::Io { step, .. }
            | Self::InvalidReply { step, .. }
            | Self::Refused { step, .. }
            | Self::RedactedReply(step)
            | Self::UnexpectedData(step) => *step != RCPT,
            Self::Unsuitable(_) => true,
            Self::Cancelled => false,
        }
    }
}

pub(super) fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => truncate_text(error.to_string().escape_debug().to_string()),
    }
}
