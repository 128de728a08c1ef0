//! Owns secrets in memory: never printed, and compared in constant time.
//!
//! Does not read them from files or the environment, and does not sign with them.

use std::fmt;
use std::sync::Arc;

use ring::digest;
use subtle::{Choice, ConstantTimeEq as _};

/// A password, key or token. `Debug` prints `Secret(…)`; clones share one copy of the text.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A secret with this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text of the secret, for the place that uses it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True for the empty text, which is no secret: it never matches anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// True if `shown` is one of `secrets`. The time taken depends only on the number of secrets and the length
/// of `shown`: digests are compared, so neither the content nor the length of a secret leaks.
pub fn matches_any<'s>(secrets: impl IntoIterator<Item = &'s Secret>, shown: &[u8]) -> bool {
    let shown = digest::digest(&digest::SHA256, shown);
    let known = secrets.into_iter().filter(|secret| !secret.is_empty());
    let matches = known.fold(Choice::from(0), |found, secret| {
        let known = digest::digest(&digest::SHA256, secret.0.as_bytes());
        found | known.as_ref().ct_eq(shown.as_ref())
    });
    matches.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_secret_matches() {
        let secrets = ["first", "second", ""].map(Secret::new);
        for shown in ["first", "second"] {
            assert!(matches_any(&secrets, shown.as_bytes()), "{shown}");
        }
        for shown in ["", "firs", "firstsecond", "First"] {
            assert!(!matches_any(&secrets, shown.as_bytes()), "{shown}");
        }
        assert!(!matches_any(&[], b""));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hidden")), "Secret(…)");
    }
}
