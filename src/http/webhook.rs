//! Owns the way of a provider's request through HTTP: the head is checked before the body, and the body is
//! read within bounds of octets and time.
//!
//! Does not know providers, except for one that needs a path of its own: a [`WebhookGateway`], built where they
//! are known, decides what is read and what is answered.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, request};
use axum::response::{IntoResponse, Response};
use axum::routing;
use bytes::{Bytes, BytesMut};
use tokio::time;

use super::error::HttpError;
use super::path_text::PathText;
use super::router::{App, Endpoint};
use super::server::ClientIp;

/// Time that a body may take to arrive. With the time of the gateway after it (ten seconds for a fetch, ten for
/// the store) it is less than a request may take: some providers give up after the router's own answer to a
/// slow request.
const BODY_TIMEOUT: Duration = Duration::from_secs(35);
/// Octets that are allocated for a body at once, whatever its head promises.
const INITIAL_CAPACITY_MAX: usize = 256 * 1024;

/// Takes providers' requests.
pub trait WebhookGateway: Send + Sync {
    /// Checks a request before its body is read. `provider` is the one that the path names.
    ///
    /// # Errors
    /// The response to a request that is not let in.
    fn admit(
        &self,
        provider: Option<&str>,
        head: &request::Parts,
        peer: Option<IpAddr>,
    ) -> Result<Box<dyn AdmittedWebhook>, Box<Response>>;
}

/// A request that was let in.
pub trait AdmittedWebhook: Send {
    /// Reserves memory for more octets of the body.
    ///
    /// # Errors
    /// The response to a request that is too long, or for which there is no memory now.
    fn reserve(&mut self, bytes: usize) -> Result<(), Box<Response>>;

    /// The response to a request whose body did not come in time.
    fn too_slow(self: Box<Self>) -> Response;

    /// The response to a request whose body broke off.
    fn cut_off(self: Box<Self>) -> Response;

    /// The response to the whole request.
    fn receive(self: Box<Self>, body: Bytes) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

pub(super) fn routes() -> Vec<Endpoint<App>> {
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

async fn unnamed(State(app): State<App>, request: Request) -> Response {
    handle(app, None, request).await
}

async fn named_provider(
    State(app): State<App>,
    PathText(provider): PathText,
    request: Request,
) -> Response {
    handle(app, Some(&provider), request).await
}

async fn mailgun_mime(State(app): State<App>, request: Request) -> Response {
    handle(app, Some("mailgun"), request).await
}

async fn handle(app: App, provider: Option<&str>, request: Request) -> Response {
    let Some(gate) = &app.webhooks else {
        return HttpError::not_found("path").into_response();
    };
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
