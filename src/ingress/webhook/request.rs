//! Owns a provider's request as the adapters see it, and the typestate of one that is proven.
//!
//! Does not know sockets, axum, or what any header means.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;

use super::proof::{AuthenticationError, Proof};

/// A request with its whole body. Nobody has vouched for it yet.
pub struct WebhookRequest {
    headers: Headers,
    body: Bytes,
    peer: Option<IpAddr>,
}

impl WebhookRequest {
    /// A request from `peer`, `None` where it is not known.
    pub const fn new(headers: Headers, body: Bytes, peer: Option<IpAddr>) -> Self {
        Self {
            headers,
            body,
            peer,
        }
    }

    /// The header fields.
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The body, byte for byte as it came: what a signature is made of.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Who sent it.
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// This request, for which `proof` speaks.
    pub const fn authenticated(&self, _proof: Proof) -> Authentic<'_> {
        Authentic { request: self }
    }
}

impl fmt::Debug for WebhookRequest {
    /// Header values and body hold secrets and mail: neither is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("peer", &self.peer)
            .finish()
    }
}

/// A request that somebody who knows a secret of ours has sent. There is no other way to make one
/// than with a [`Proof`], which only a comparison that came out right gives.
#[derive(Clone, Copy, Debug)]
pub struct Authentic<'r> {
    request: &'r WebhookRequest,
}

impl<'r> Authentic<'r> {
    /// The request.
    pub const fn request(self) -> &'r WebhookRequest {
        self.request
    }
}

/// Header fields: names lower-cased, values as bytes, in their order.
#[derive(Clone, Default)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// Takes the fields of a request.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let lowered = fields.into_iter();
        Self(
            lowered
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
                .collect(),
        )
    }

    /// True if there is a field of this (lower-case) name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The value of the only field of this name, in visible ASCII and spaces.
    ///
    /// # Errors
    /// There are two of them, or it has other bytes: which of two readings is meant is not guessed.
    pub fn single(&self, name: &'static str) -> Result<Option<&str>, AuthenticationError> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let Some((_, value)) = found.next() else {
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

    /// As [`Headers::single`], of a field that must be there.
    ///
    /// # Errors
    /// As there, or it is missing.
    pub fn required(&self, name: &'static str) -> Result<&str, AuthenticationError> {
        self.single(name)?.ok_or(AuthenticationError::Missing(name))
    }

    /// The media type of the body, lower-cased and without parameters; empty if there is none.
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
    fn a_field_that_is_there_twice_is_nobodys_word() {
        let headers = Headers::new([
            ("X-One", b" a b ".as_slice()),
            ("x-two", b"a"),
            ("X-Two", b"a"),
            ("x-odd", b"a\xff"),
            ("Content-Type", b"Application/JSON; charset=utf-8"),
        ]);
        assert_eq!(headers.single("x-one"), Ok(Some("a b")));
        assert_eq!(
            headers.single("x-two"),
            Err(AuthenticationError::Duplicate("x-two"))
        );
        assert_eq!(
            headers.single("x-odd"),
            Err(AuthenticationError::Malformed("x-odd"))
        );
        assert_eq!(headers.single("x-none"), Ok(None));
        assert_eq!(
            headers.required("x-none"),
            Err(AuthenticationError::Missing("x-none"))
        );
        assert_eq!(headers.media_type(), "application/json");
    }

    #[test]
    fn a_request_shows_no_values() {
        let headers = Headers::new([("authorization", b"Basic hidden".as_slice())]);
        let request = WebhookRequest::new(headers, Bytes::from_static(b"hidden"), None);
        let shown = format!("{request:?}");
        assert!(
            shown.contains("authorization") && !shown.contains("hidden"),
            "{shown}"
        );
    }
}
