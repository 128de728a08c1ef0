//! Owns the embedded Messages API: the contract that a product implements, with durable storage.
//!
//! Does not know that Postern itself is its client: it serves every holder of the key.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Router, routing};
use serde_json::Value;

use super::auth_failures::{AuthFailures, ProtectedArea};
use super::endpoint::{Endpoint, mount};
use super::error::{HttpError, success};
use super::extract::{PathId, whole_body};
use super::idempotency;
use super::keys::AccessKeys;
use super::page::{PageQuery, page_response};
use super::schema::validate;
use super::server::client_ip;
use crate::clock;
use crate::store::{EmbeddedMessages, PageLimit};

/// The path of the embedded API.
pub const BASE_PATH: &str = "/api/v1/messages";
/// Octets of a message's JSON: a mail of 25 MiB, plus the growth by escaping.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Octets after which a page ends; the item that exceeds them is its last.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The embedded Messages API: its store and its key.
#[derive(Clone)]
pub struct EmbeddedApi {
    book: EmbeddedMessages,
    keys: AccessKeys,
}

impl EmbeddedApi {
    /// Creates an API over this store for holders of this key. An empty key grants nothing.
    pub fn new(book: EmbeddedMessages, key: &str) -> Self {
        Self {
            book,
            keys: AccessKeys::new([key]),
        }
    }
}

/// The routes of the embedded API. The key is checked before a byte of the body is read.
pub(super) fn router(api: EmbeddedApi, failures: AuthFailures) -> Router {
    let guard = middleware::from_fn_with_state((api.clone(), failures), authorize);
    mount(routes()).route_layer(guard).with_state(api)
}

pub(super) fn routes() -> Vec<Endpoint<EmbeddedApi>> {
    let threads = "/api/v1/messages/threads";
    let thread = "/api/v1/messages/threads/{id}";
    let messages = "/api/v1/messages/threads/{id}/messages";
    let wide = DefaultBodyLimit::max(MESSAGE_BYTES_MAX);
    vec![
        Endpoint::new(Method::GET, threads, routing::get(list_threads)),
        Endpoint::new(Method::POST, threads, routing::post(create_thread)),
        Endpoint::new(Method::GET, thread, routing::get(show_thread)),
        Endpoint::new(Method::PATCH, thread, routing::patch(patch_thread)),
        Endpoint::new(Method::GET, messages, routing::get(list_messages)),
        Endpoint::new(
            Method::POST,
            messages,
            routing::post(add_message).layer(wide),
        ),
    ]
}

/// Lets a request pass if it has the key.
async fn authorize(
    State((api, failures)): State<(EmbeddedApi, AuthFailures)>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    if api.keys.admits_bearer(request.headers()) {
        return Ok(next.run(request).await);
    }
    if request.headers().contains_key(header::AUTHORIZATION) {
        failures.record(ProtectedArea::Messages, client_ip(request.extensions()));
    }
    Err(HttpError::unauthorized())
}

async fn create_thread(
    State(api): State<EmbeddedApi>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let key = idempotency::key(&headers)?;
    let thread = object(body, "NewThread")?;
    let made = api.book.make_thread(key, thread, clock::now());
    Ok(success(StatusCode::CREATED, made.await?))
}

async fn add_message(
    State(api): State<EmbeddedApi>,
    PathId(id): PathId,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let key = idempotency::key(&headers)?;
    let message = object(body, "NewMessage")?;
    let added = api
        .book
        .add_message(&id, key, message, clock::now())
        .await?;
    let added = added.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::CREATED, added))
}

async fn patch_thread(
    State(api): State<EmbeddedApi>,
    PathId(id): PathId,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    // Merging twice has the same effect as merging once: the key is checked but need not be stored.
    idempotency::key(&headers)?;
    let metadata = object(body, "Patch")?["metadata"].take();
    let patched = api.book.patch_thread(&id, metadata, clock::now()).await?;
    let patched = patched.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::OK, patched))
}

async fn show_thread(
    State(api): State<EmbeddedApi>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let thread = api.book.thread(&id).await?;
    let thread = thread.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::OK, thread))
}

async fn list_threads(State(api): State<EmbeddedApi>, uri: Uri) -> Result<Response, HttpError> {
    let page = PageQuery::read(&uri, &[])?;
    let found = api
        .book
        .threads(page.after.as_deref(), page_limit(page.limit));
    let found = found.await?;
    Ok(page_response(&found.items, found.has_more))
}

async fn list_messages(
    State(api): State<EmbeddedApi>,
    PathId(id): PathId,
    uri: Uri,
) -> Result<Response, HttpError> {
    let page = PageQuery::read(&uri, &[])?;
    let found = api
        .book
        .messages(&id, page.after.as_deref(), page_limit(page.limit));
    let found = found.await?.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(page_response(&found.items, found.has_more))
}

/// The limit of a page: a hundred requests with a hundred long messages each would not fit into memory.
const fn page_limit(items: usize) -> PageLimit {
    PageLimit {
        items,
        bytes: PAGE_BYTES_MAX,
    }
}

/// The body as JSON that matches the schema of this name, without the fields that the store assigns.
fn object(body: Result<Bytes, BytesRejection>, schema: &str) -> Result<Value, HttpError> {
    let mut value: Value = serde_json::from_slice(&whole_body(body)?)
        .map_err(|error| HttpError::bad_request(format!("the body is not JSON: {error}")))?;
    let Some(fields) = value.as_object_mut() else {
        return Err(HttpError::bad_request("the body is not a JSON object"));
    };
    for name in ["id", "createdAt", "updatedAt", "threadId"] {
        fields.remove(name);
    }
    validate(schema, &value)
        .map_err(|violation| HttpError::invalid_field(&violation.field, &violation.why))?;
    Ok(value)
}
