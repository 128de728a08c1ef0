//! Owns the router of the HTTP address, and the rules for every request.
//!
//! Does not open sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing;
use prometheus_client::registry::Registry;
use tokio::time;

use super::admin::{self, Admin};
use super::attachments;
use super::auth_failures::AuthFailures;
use super::endpoint::{Endpoint, mount};
use super::error::HttpError;
use super::health::{self, Health};
use super::keys::AccessKeys;
use super::messages::{self, EmbeddedApi};
use super::metrics;
use super::outbound::{self, Gateway};
use super::schema::OPENAPI;
use super::stream::{self, EventStreams};
use super::webhook::{self, WebhookGateway};
use crate::objects::Objects;

/// The time limit of one request, including its body.
const REQUEST_WAIT: Duration = Duration::from_secs(60);
/// Octets of a body, for requests without a separate limit.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The parts that serve requests on the HTTP address.
#[derive(Clone)]
pub struct App {
    /// The parts that readiness depends on.
    pub health: Health,
    /// All metrics.
    pub registry: Arc<Registry>,
    /// The embedded Messages API, if it is enabled.
    pub messages: Option<EmbeddedApi>,
    /// The receiver of providers' webhooks, if any are configured.
    pub webhooks: Option<Arc<dyn WebhookGateway>>,
    /// The state behind the product's calls.
    pub gateway: Option<Arc<Gateway>>,
    /// The stored attachments.
    pub objects: Option<Objects>,
    /// The event streams, if there are keys for them.
    pub listeners: Option<EventStreams>,
    /// The pages for operators.
    pub admin: Option<Admin>,
    /// The keys of the gateway, which also permit the metrics over TLS.
    pub keys: AccessKeys,
    /// The record of failed logins.
    pub auth_failures: AuthFailures,
}

/// The routes of the HTTP address.
pub fn router(app: App) -> Router {
    let mut router = mount(routes())
        .merge(mount(health::routes()).with_state(app.health))
        .merge(metrics::router(
            app.registry,
            app.keys,
            app.auth_failures.clone(),
        ))
        .route("/", routing::get(index));
    if let Some(objects) = app.objects {
        router = router.merge(mount(attachments::routes()).with_state(objects));
    }
    if let Some(webhooks) = app.webhooks {
        router = router.merge(mount(webhook::routes()).with_state(webhooks));
    }
    if let Some(streams) = app.listeners {
        router = router.merge(mount(stream::routes()).with_state(streams));
    }
    if let Some(admin) = app.admin {
        router = router.merge(admin::router(admin, app.auth_failures.clone()));
    }
    if let Some(gateway) = app.gateway {
        router = router.merge(outbound::router(gateway, app.auth_failures.clone()));
    }
    if let Some(messages) = app.messages {
        router = router.merge(messages::router(messages, app.auth_failures));
    }
    with_common_layers(router)
}

/// Adds the parts that every router has: limits, error responses for unknown paths and methods,
/// security headers.
pub(super) fn with_common_layers<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(|| async { HttpError::not_found("path") })
        .method_not_allowed_fallback(|| async {
            let message = "this path does not support this method";
            HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(apply_limits))
}

pub(super) fn routes() -> Vec<Endpoint<()>> {
    vec![Endpoint::new(
        Method::GET,
        "/openapi.json",
        routing::get(openapi),
    )]
}

/// `GET /`: an index of the other paths, for people.
async fn index() -> &'static str {
    "Postern\n\n/admin         pages\n/openapi.json  API\n/healthz       health\n/readyz        readiness\n/metrics       metrics\n"
}

async fn openapi() -> Response {
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
        // The path's own policy has priority.
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
