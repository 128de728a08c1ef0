//! Owns the access keys, and their comparison in constant time.
//!
//! Does not decide what a key permits.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use data_encoding::BASE64;

use crate::secret::{Secret, matches_any};

/// Keys, each of which grants access. They are never printed.
#[derive(Clone)]
pub struct AccessKeys(Arc<[Secret]>);

impl AccessKeys {
    /// Creates the set of these keys; an empty key grants nothing.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        let keys = keys.into_iter().filter(|key| !key.is_empty());
        Self(keys.map(Secret::new).collect())
    }

    /// True if the request presents one of them as `Authorization: Bearer`.
    pub(super) fn admits_bearer(&self, headers: &HeaderMap) -> bool {
        credentials(headers, "bearer").is_some_and(|key| self.contains(key.as_bytes()))
    }

    /// True if the request presents one of them as the password of `Authorization: Basic`, with any
    /// user name.
    pub(super) fn admits_password(&self, headers: &HeaderMap) -> bool {
        let Some(pair) = credentials(headers, "basic") else {
            return false;
        };
        let Ok(pair) = BASE64.decode(pair.as_bytes()) else {
            return false;
        };
        let colon = pair.iter().position(|byte| *byte == b':');
        colon.is_some_and(|at| self.contains(&pair[at + 1..]))
    }

    /// The number of the keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, shown: &[u8]) -> bool {
        matches_any(self.0.iter(), shown)
    }
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// The credentials of the only `Authorization` field, if it is of the scheme `wanted`.
fn credentials<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then_some(rest.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_keys_are_admitted() {
        let keys = AccessKeys::new(["first-key", "second-key", ""]);
        for good in ["Bearer first-key", "bearer second-key"] {
            assert!(keys.admits_bearer(&headers(good)), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer first-ke",
            "Basic first-key",
            "first-key",
        ] {
            assert!(!keys.admits_bearer(&headers(bad)), "{bad}");
        }
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        for good in ["admin:first-key", ":second-key"] {
            assert!(keys.admits_password(&headers(&basic(good))), "{good}");
        }
        for bad in ["first-key", "first-key:", "a:", "a:b:first-key"] {
            assert!(!keys.admits_password(&headers(&basic(bad))), "{bad}");
        }
        assert!(!keys.admits_bearer(&HeaderMap::new()));
        assert!(!format!("{keys:?}").contains("first"));
    }
}
