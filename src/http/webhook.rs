//! Owns the way of a provider's request through HTTP: its head is looked at before its body, and its
//! body is read within bounds of bytes and time.
//!
//! Does not know providers, but for one that wants a path of its own: a [`Gate`], built where they are
//! known, says what is read and what is answered.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, request};
use axum::response::{IntoResponse, Response};
use axum::routing;
use bytes::{Bytes, BytesMut};
use tokio::time;

use super::error::Fault;
use super::router::{App, Route};
use super::server::Peer;

/// The longest a body may take to come. With what a gate takes after it (ten seconds for what it
/// fetches, ten for the store) it is less than a request may take: the router's own answer to a slow
/// one would be the last word for some providers.
const BODY_MAX: Duration = Duration::from_secs(35);
/// Octets set aside for a body at once, whatever its head promises.
const BODY_BYTES_FIRST: usize = 256 * 1024;

/// Takes providers' requests.
pub trait Gate: Send + Sync {
    /// Looks at a request before its body is read. `provider` is what its path names.
    ///
    /// # Errors
    /// What it hears instead of being read.
    fn knock(
        &self,
        provider: Option<&str>,
        head: &request::Parts,
        peer: Option<IpAddr>,
    ) -> Result<Box<dyn Entry>, Box<Response>>;
}

/// A request that was let in.
pub trait Entry: Send {
    /// Makes room for more bytes of the body.
    ///
    /// # Errors
    /// What it hears, for there are too many.
    fn take(&mut self, bytes: usize) -> Result<(), Box<Response>>;

    /// What it hears if the body did not come in time.
    fn too_slow(self: Box<Self>) -> Response;

    /// What it would hear if the body broke off.
    fn cut_off(self: Box<Self>) -> Response;

    /// What it hears once it is whole.
    fn receive(self: Box<Self>, body: Bytes) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

pub(super) fn routes() -> Vec<Route<App>> {
    vec![
        Route::new(Method::POST, "/gateway/inbound", routing::post(marked)),
        Route::new(
            Method::POST,
            "/gateway/inbound/{provider}",
            // Some look with HEAD whether there is anybody before they send.
            routing::post(named).head(|| async { StatusCode::OK }),
        ),
        Route::new(
            Method::POST,
            "/gateway/inbound/mailgun/mime",
            // Mailgun sends the raw mail only to a path that ends so.
            routing::post(mailgun).head(|| async { StatusCode::OK }),
        ),
    ]
}

async fn marked(State(app): State<App>, request: Request) -> Response {
    take(app, None, request).await
}

async fn named(State(app): State<App>, Path(provider): Path<String>, request: Request) -> Response {
    take(app, Some(&provider), request).await
}

async fn mailgun(State(app): State<App>, request: Request) -> Response {
    take(app, Some("mailgun"), request).await
}

async fn take(app: App, provider: Option<&str>, request: Request) -> Response {
    let Some(gate) = &app.webhooks else {
        return Fault::absent("path").into_response();
    };
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<Peer>().and_then(|peer| peer.0);
    let mut entry = match gate.knock(provider, &head, peer) {
        Ok(entry) => entry,
        Err(response) => return *response,
    };
    let read = time::timeout(BODY_MAX, whole(body, entry.as_mut())).await;
    match read {
        Ok(Ok(body)) => entry.receive(body).await,
        Ok(Err(Broken::Refused(response))) => *response,
        Ok(Err(Broken::CutOff)) => entry.cut_off(),
        Err(_) => entry.too_slow(),
    }
}

enum Broken {
    CutOff,
    Refused(Box<Response>),
}

async fn whole(body: Body, entry: &mut dyn Entry) -> Result<Bytes, Broken> {
    let mut body = pin!(body);
    let told = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(told.min(BODY_BYTES_FIRST));
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| Broken::CutOff)?;
        if let Ok(more) = frame.into_data() {
            entry.take(more.len()).map_err(Broken::Refused)?;
            bytes.extend_from_slice(&more);
        }
    }
    Ok(bytes.freeze())
}
