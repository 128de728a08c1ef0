//! Owns the bridge between the HTTP server and the webhook receiver, which do not know each other.
//!
//! Does not decide anything.

use std::net::IpAddr;
use std::pin::Pin;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, request};
use axum::response::Response;
use bytes::Bytes;

use crate::http::webhook::{AdmittedWebhook, WebhookGateway};
use crate::ingress::webhook::{self, Headers, WebhookHead, WebhookReceiver};

impl WebhookGateway for WebhookReceiver {
    fn admit(
        &self,
        provider: Option<&str>,
        head: &request::Parts,
        peer: Option<IpAddr>,
    ) -> Result<Box<dyn AdmittedWebhook>, Box<Response>> {
        let fields = head.headers.iter();
        let headers = Headers::new(fields.map(|(name, value)| (name.as_str(), value.as_bytes())));
        let head = WebhookHead {
            provider,
            headers,
            peer,
        };
        match Self::admit(self, head) {
            Ok(entry) => Ok(Box::new(entry)),
            Err(response) => Err(Box::new(written(response))),
        }
    }
}

impl AdmittedWebhook for webhook::AdmittedRequest {
    fn reserve(&mut self, bytes: usize) -> Result<(), Box<Response>> {
        Self::reserve(self, bytes).map_err(|response| Box::new(written(response)))
    }

    fn too_slow(self: Box<Self>) -> Response {
        written(Self::too_slow(*self))
    }

    fn cut_off(self: Box<Self>) -> Response {
        written(Self::cut_off(*self))
    }

    fn receive(self: Box<Self>, body: Bytes) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        Box::pin(async move { written(Self::receive(*self, body).await) })
    }
}

fn written(response: webhook::WebhookResponse) -> Response {
    let headers = response.headers();
    let mut written = Response::new(Body::from(response.body));
    *written.status_mut() =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            written.headers_mut().insert(name, value);
        }
    }
    written
}
