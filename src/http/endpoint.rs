//! Owns the row of a route table.
//!
//! Does not handle any request.

use axum::Router;
use axum::http::Method;
use axum::routing::MethodRouter;

/// A row of a route table.
pub(super) struct Endpoint<S> {
    /// The method, read only by the test that compares the table with the OpenAPI document.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the tests alone"))]
    pub(super) method: Method,
    pub(super) path: &'static str,
    handler: MethodRouter<S>,
}

impl<S> Endpoint<S> {
    pub(super) fn new(method: Method, path: &'static str, handler: MethodRouter<S>) -> Self {
        Self {
            method,
            path,
            handler,
        }
    }
}

/// The router of these rows.
pub(super) fn mount<S>(endpoints: Vec<Endpoint<S>>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    endpoints.into_iter().fold(Router::new(), |router, row| {
        router.route(row.path, row.handler)
    })
}
