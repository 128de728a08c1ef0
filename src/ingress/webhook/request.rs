//! Owns a provider's request in the form for adapters, and the type of an authentic one.
//!
//! Does not know sockets and axum, and does not interpret header fields.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;

use bytes::Bytes;

use super::error::Malformed;
use super::form::Form;
use super::headers::Headers;
use super::json::Json;
use super::proof::Proof;

/// A request with its whole body, not yet authenticated. The body is parsed once: recognition,
/// authentication and decoding share the result.
pub struct WebhookRequest {
    headers: Headers,
    body: Bytes,
    peer: Option<IpAddr>,
    form: OnceLock<Result<Form, Malformed>>,
    json: OnceLock<Result<Json, Malformed>>,
}

impl WebhookRequest {
    /// A request from `peer`; `None` if the address is not known.
    pub const fn new(headers: Headers, body: Bytes, peer: Option<IpAddr>) -> Self {
        Self {
            headers,
            body,
            peer,
            form: OnceLock::new(),
            json: OnceLock::new(),
        }
    }

    /// The header fields.
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The unchanged body, over which signatures are made.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as an HTML form, by its media type.
    pub(super) fn form(&self) -> Result<&Form, Malformed> {
        let parsed = self
            .form
            .get_or_init(|| Form::parse(&self.headers, &self.body));
        parsed.as_ref().map_err(Clone::clone)
    }

    /// The body as JSON, whatever its media type.
    pub(super) fn json(&self) -> Result<&Json, Malformed> {
        let parsed = self.json.get_or_init(|| Json::parse(&self.body));
        parsed.as_ref().map_err(Clone::clone)
    }

    /// True if the body contains these octets.
    pub(super) fn body_contains(&self, octets: &str) -> bool {
        memchr::memmem::find(&self.body, octets.as_bytes()).is_some()
    }

    /// The address of the client.
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// This request, authenticated by `proof`.
    pub const fn authenticated(&self, _proof: Proof) -> Authentic<'_> {
        Authentic { request: self }
    }
}

impl fmt::Debug for WebhookRequest {
    /// Does not print header values and body, which contain secrets and mail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRequest")
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A request whose sender knows one of our secrets. Only a [`Proof`] makes one, and only a successful
/// comparison makes a proof.
#[derive(Clone, Copy, Debug)]
pub struct Authentic<'r> {
    request: &'r WebhookRequest,
}

impl<'r> Authentic<'r> {
    /// The request.
    pub const fn request(self) -> &'r WebhookRequest {
        self.request
    }

    /// The body as a form, parsed once.
    pub(super) fn form(self) -> Result<&'r Form, Malformed> {
        self.request.form()
    }

    /// The body as JSON, parsed once.
    pub(super) fn json(self) -> Result<&'r Json, Malformed> {
        self.request.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_body_is_parsed_once() {
        let request = WebhookRequest::new(Headers::default(), Bytes::from_static(b"{}"), None);
        let first: *const Json = request.json().unwrap();
        assert!(std::ptr::eq(first, request.json().unwrap()));
    }
}
