//! Owns the HTTP part of a provider's request: the head is checked before the body, and the body is read
//! within bounds of octets and time.
//!
//! Does not know providers, except for one that needs a separate path: a [`WebhookGateway`], built
//! elsewhere, decides what is read and what the response is.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, request};
use axum::response::Response;
use axum::routing;
use bytes::{Bytes, BytesMut};
use tokio::time;

use super::endpoint::Endpoint;
use super::extract::PathId;
use super::server::ClientIp;

/// The time limit for receiving a body. Together with the time of the gateway (ten seconds for a fetch, ten
/// for the store) it is less than the limit of a request, because some providers give up after the router's
/// own response to a slow request.
const BODY_TIMEOUT: Duration = Duration::from_secs(35);
/// Octets allocated initially for a body, whatever its declared length.
const INITIAL_CAPACITY_MAX: usize = 256 * 1024;

/// Accepts providers' requests.
pub trait WebhookGateway: Send + Sync {
    /// Checks a request before its body is read. `provider` is the name in the path.
    ///
    /// # Errors
    /// The response to a rejected request.
    fn admit(
        &self,
        provider: Option<&str>,
        head: &request::Parts,
        peer: Option<IpAddr>,
    ) -> Result<Box<dyn AdmittedWebhook>, Box<Response>>;
}

/// An admitted request.
pub trait AdmittedWebhook: Send {
    /// Reserves memory for more octets of the body.
    ///
    /// # Errors
    /// The response to a request that is too long, or that exceeds the available memory.
    fn reserve(&mut self, bytes: usize) -> Result<(), Box<Response>>;

    /// The response to a request whose body did not arrive in time.
    fn too_slow(self: Box<Self>) -> Response;

    /// The response to a request whose body is incomplete.
    fn cut_off(self: Box<Self>) -> Response;

    /// The response to the whole request.
    fn receive(self: Box<Self>, body: Bytes) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

/// The gateway that the webhook routes pass requests to.
type Gateway = Arc<dyn WebhookGateway>;

pub(super) fn routes() -> Vec<Endpoint<Gateway>> {
    vec![
        Endpoint::new(Method::POST, "/gateway/inbound", routing::post(unnamed)),
        Endpoint::new(
            Method::POST,
            "/gateway/inbound/{provider}",
            // Some providers test the URL with HEAD before they send.
            routing::post(named_provider).head(|| async { StatusCode::OK }),
        ),
        Endpoint::new(
            Method::POST,
            "/gateway/inbound/mailgun/mime",
            // Mailgun sends the raw mail only to a path with this ending.
            routing::post(mailgun_mime).head(|| async { StatusCode::OK }),
        ),
    ]
}

async fn unnamed(State(gate): State<Gateway>, request: Request) -> Response {
    handle(gate, None, request).await
}

async fn named_provider(
    State(gate): State<Gateway>,
    PathId(provider): PathId,
    request: Request,
) -> Response {
    handle(gate, Some(&provider), request).await
}

async fn mailgun_mime(State(gate): State<Gateway>, request: Request) -> Response {
    handle(gate, Some("mailgun"), request).await
}

async fn handle(gate: Gateway, provider: Option<&str>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<ClientIp>().and_then(|peer| peer.0);
    let mut entry = match gate.admit(provider, &head, peer) {
        Ok(entry) => entry,
        Err(response) => return *response,
    };
    let read = time::timeout(BODY_TIMEOUT, read_body(body, entry.as_mut())).await;
    match read {
        Ok(Ok(body)) => entry.receive(body).await,
        Ok(Err(BodyFailure::Refused(response))) => *response,
        Ok(Err(BodyFailure::CutOff)) => entry.cut_off(),
        Err(_) => entry.too_slow(),
    }
}

enum BodyFailure {
    CutOff,
    Refused(Box<Response>),
}

async fn read_body(body: Body, entry: &mut dyn AdmittedWebhook) -> Result<Bytes, BodyFailure> {
    let mut body = pin!(body);
    let told = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(told.min(INITIAL_CAPACITY_MAX));
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| BodyFailure::CutOff)?;
        if let Ok(more) = frame.into_data() {
            entry.reserve(more.len()).map_err(BodyFailure::Refused)?;
            bytes.extend_from_slice(&more);
        }
    }
    Ok(bytes.freeze())
}
