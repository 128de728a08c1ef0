//! Owns the reasons why a request is not authentic or malformed.
//!
//! Does not choose the response.

use std::fmt;

use thiserror::Error;

/// The number of characters of a name from a request that an error shows.
const NAME_CHARS_MAX: usize = 80;

/// The reason why a request is not authentic. It contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// The certificate that signed the request cannot be fetched, or is not valid now.
    #[error("certificate not available")]
    NoCertificate,
    /// The certificate that signed the request is not one of the provider's.
    #[error("certificate not the provider's")]
    ForeignCertificate,
    /// A field that must occur once occurs twice.
    #[error("{0}: occurs twice")]
    Duplicate(&'static str),
    /// The request is from outside the networks of the provider.
    #[error("not from the provider's networks")]
    ForeignNetwork,
    /// A field is malformed.
    #[error("{0}: malformed")]
    Malformed(&'static str),
    /// A required field is missing.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// The request has no name and password.
    #[error("no name and password")]
    NoAccount,
    /// No secret of ours matches.
    #[error("no secret matches")]
    NoMatch,
    /// The nonce of the request was used with another mail before.
    #[error("token used before for another mail")]
    NonceReused,
    /// The queue, topic or list of the request is not one of ours.
    #[error("{0}: not one of ours")]
    NotOurs(&'static str),
    /// The generic scheme uses milliseconds, and this looks like seconds.
    #[error("timestamp looks like seconds, not milliseconds")]
    Seconds,
    /// The time of the request is so many seconds ahead of ours.
    #[error("timestamp {0} s ahead")]
    TooNew(u64),
    /// The request was made so many seconds ago.
    #[error("timestamp {0} s old")]
    TooOld(u64),
}

/// The reason why an authentic request is malformed. It names the place, never the content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    pub(super) fn field(name: &str, what: impl fmt::Display) -> Self {
        // The name may come from the request, and the log line must stay short.
        let name: String = name
            .chars()
            .filter(|c| !c.is_control())
            .take(NAME_CHARS_MAX)
            .collect();
        Self(format!("{name}: {what}"))
    }
}
