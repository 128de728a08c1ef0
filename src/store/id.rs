//! Owns the ids of mails, deliveries and events, and their text form.
//!
//! Does not assign them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The id of a mail, printed in decimal: the number of its record in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MailId(pub u64);

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for MailId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_number(text).map(Self)
    }
}

/// The id of a delivery: one mail for one recipient. Printed and parsed as `1042.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryId {
    /// The mail.
    pub mail: MailId,
    /// The index of the recipient in the envelope, from 0.
    pub recipient: u16,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.mail, self.recipient)
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (mail, recipient) = text.split_once('.').ok_or(IdError)?;
        Ok(Self {
            mail: mail.parse()?,
            recipient: parse_number(recipient)?,
        })
    }
}

/// The id of an event. It is opaque and ordered: a later event has a larger id, ids have gaps, and
/// [`EventId::default`] is before all of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EventId(pub(super) u64);

impl EventId {
    /// The event with this number, for tests.
    #[cfg(test)]
    pub(crate) const fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// The id directly before this one: every event up to it came before this one.
    #[must_use]
    pub const fn just_before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_number(text).map(Self)
    }
}

/// The text is not the id of a mail or a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not of the form 1042 (a mail) or 1042.0 (a delivery)")]
pub struct IdError;

/// Parses a number of digits only.
fn parse_number<N: FromStr>(text: &str) -> Result<N, IdError> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| IdError);
    }
    Err(IdError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_nothing_else_is() {
        let id = DeliveryId {
            mail: MailId(1042),
            recipient: 3,
        };
        assert_eq!(id.to_string(), "1042.3");
        assert_eq!("1042.3".parse(), Ok(id));
        assert_eq!("1042".parse(), Ok(MailId(1042)));
        for text in [
            "",
            "1042",
            ".3",
            "1042.",
            "1042.+3",
            "1042.70000",
            "a.b",
            "1.2.3",
        ] {
            assert_eq!(text.parse::<DeliveryId>(), Err(IdError), "{text}");
        }
    }
}
