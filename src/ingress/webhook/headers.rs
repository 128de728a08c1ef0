//! Owns the header fields of a request.
//!
//! Does not interpret any field.

use std::fmt;

use super::error::AuthenticationError;

/// Header fields: names in lower case, values as octets, in order.
#[derive(Clone, Default)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// The fields of a request.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let lowered = fields.into_iter();
        Self(
            lowered
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
                .collect(),
        )
    }

    /// True if there is a field of this name, which must be in lower case.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The value of the only field of this name, in visible ASCII and spaces.
    ///
    /// # Errors
    /// The field occurs twice, so that programs could use different ones, or has other octets.
    pub fn single(&self, name: &'static str) -> Result<Option<&str>, AuthenticationError> {
        let mut found = self.all(name);
        let Some(value) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(AuthenticationError::Duplicate(name));
        }
        let is_plain = value.iter().all(|b| matches!(b, b' '..=b'~'));
        match std::str::from_utf8(value) {
            Ok(text) if is_plain => Ok(Some(text.trim_matches(' '))),
            _ => Err(AuthenticationError::Malformed(name)),
        }
    }

    /// Like [`Headers::single`], for a required field.
    ///
    /// # Errors
    /// The same; also if the field is missing.
    pub fn required(&self, name: &'static str) -> Result<&str, AuthenticationError> {
        self.single(name)?.ok_or(AuthenticationError::Missing(name))
    }

    /// The values of all fields of this name, in order.
    pub(super) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &[u8]> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_slice())
    }

    /// The media type of the body in lower case, without parameters; empty if there is none.
    pub fn media_type(&self) -> String {
        let value = self
            .single("content-type")
            .ok()
            .flatten()
            .unwrap_or_default();
        let media = value.split(';').next().unwrap_or_default();
        media.trim().to_ascii_lowercase()
    }
}

impl fmt::Debug for Headers {
    /// Does not print values, which contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_occurs_twice_has_no_value() {
        let headers = Headers::new([
            ("X-One", b" a b ".as_slice()),
            ("x-two", b"a"),
            ("X-Two", b"a"),
            ("x-odd", b"a\xff"),
            ("Content-Type", b"Application/JSON; charset=utf-8"),
        ]);
        assert_eq!(headers.single("x-one"), Ok(Some("a b")));
        let twice = AuthenticationError::Duplicate("x-two");
        assert_eq!(headers.single("x-two"), Err(twice));
        let odd = AuthenticationError::Malformed("x-odd");
        assert_eq!(headers.single("x-odd"), Err(odd));
        assert_eq!(headers.single("x-none"), Ok(None));
        let missing = AuthenticationError::Missing("x-none");
        assert_eq!(headers.required("x-none"), Err(missing));
        assert_eq!(headers.media_type(), "application/json");
    }
}
