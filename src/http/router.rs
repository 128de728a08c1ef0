//! Owns the table of routes on the HTTP address, and what holds for every request.
//!
//! Does not open sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use prometheus_client::registry::Registry;
use tokio::time;

use super::admin::{self, Admin};
use super::attachments;
use super::error::HttpError;
use super::health::{self, Health};
use super::messages::{self, EmbeddedApi};
use super::metrics;
use super::outbound::{self, Gateway};
use super::stream::{self, EventStreams};
use super::webhook::{self, WebhookGateway};
use crate::objects::{LINK_PATH, Objects};

/// The longest one request may take, its body included.
const REQUEST_WAIT: Duration = Duration::from_secs(60);
/// Requests without a body of their own use may have so many bytes of one.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What requests on the HTTP address are answered from.
#[derive(Clone)]
pub struct App {
    /// What readiness is read from.
    pub health: Health,
    /// Everything that is counted.
    pub registry: Arc<Registry>,
    /// The embedded Messages API, where the product has none of its own.
    pub messages: Option<EmbeddedApi>,
    /// What takes providers' webhooks, where any are set up.
    pub webhooks: Option<Arc<dyn WebhookGateway>>,
    /// What the product's own calls are answered from.
    pub gateway: Option<Arc<Gateway>>,
    /// The files that came with mail, where they are kept.
    pub objects: Option<Objects>,
    /// Those who listen to events, where there are keys for them.
    pub listeners: Option<EventStreams>,
    /// The pages for people, where outgoing mail is on.
    pub admin: Option<Admin>,
}

/// All of the HTTP address.
pub fn router(app: App) -> Router {
    let mut open = Router::new();
    for route in routes() {
        open = open.route(route.path, route.handler);
    }
    if app.webhooks.is_some() {
        for route in webhook::routes() {
            open = open.route(route.path, route.handler);
        }
    }
    if app.listeners.is_some() {
        for route in stream::routes() {
            open = open.route(route.path, route.handler);
        }
    }
    if app.admin.is_some() {
        open = open.merge(admin::guarded_routes(&app));
    }
    if app.gateway.is_some() {
        for route in outbound::routes() {
            open = open.route(route.path, route.handler);
        }
        let mut keyed = Router::new();
        for route in outbound::keyed_routes() {
            keyed = keyed.route(route.path, route.handler);
        }
        let keyed = keyed.route_layer(middleware::from_fn_with_state(
            app.clone(),
            outbound::authorize,
        ));
        open = open.merge(keyed);
    }
    if app.messages.is_some() {
        let mut keyed = Router::new();
        for route in messages::routes() {
            keyed = keyed.route(route.path, route.handler);
        }
        // The key is looked at before a byte of the body is read.
        let keyed = keyed.route_layer(middleware::from_fn_with_state(
            app.clone(),
            messages::authorize,
        ));
        open = open.merge(keyed);
    }
    with_common_layers(open).with_state(app)
}

/// What every router of ours has: bounds, plain answers where there is no route, careful headers.
pub(super) fn with_common_layers<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(|| async { HttpError::not_found("path") })
        .method_not_allowed_fallback(|| async {
            let message = "this path has other methods";
            HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(apply_limits))
}

/// One row of a route table.
pub(super) struct Endpoint<S> {
    /// Only the test that compares the table with the OpenAPI document reads it.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the tests alone"))]
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) handler: MethodRouter<S>,
}

impl<S> Endpoint<S> {
    pub(super) fn new(method: Method, path: &'static str, call: MethodRouter<S>) -> Self {
        Self {
            method,
            path,
            handler: call,
        }
    }
}

pub(super) fn routes() -> Vec<Endpoint<App>> {
    vec![
        Endpoint::new(Method::GET, "/healthz", routing::get(health::healthz)),
        Endpoint::new(Method::GET, "/readyz", routing::get(health::readyz)),
        Endpoint::new(Method::GET, "/metrics", routing::get(metrics::metrics)),
        Endpoint::new(Method::GET, "/openapi.json", routing::get(openapi)),
        Endpoint::new(
            Method::GET,
            ATTACHMENT_PATH,
            routing::get(attachments::fetch),
        ),
    ]
}

/// Where a kept file is fetched.
const ATTACHMENT_PATH: &str = "/gateway/attachments/{id}";
const _: () = assert!(LINK_PATH.len() + "{id}".len() == ATTACHMENT_PATH.len());

/// The contract of everything on the HTTP address (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

async fn openapi(State(_): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn apply_limits(request: Request, next: Next) -> Response {
    let answered = time::timeout(REQUEST_WAIT, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| {
        let message = "the request took too long";
        HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).into_response()
    });
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        // Where a path has a policy of its own, that one holds.
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
