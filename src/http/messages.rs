//! Owns the embedded Messages API: the contract that a product implements, kept in a durable store.
//!
//! Does not know that Postern itself is its client: it serves every holder of the key.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use serde_json::{Map, Value};

use super::endpoint::{Endpoint, mount};
use super::error::{HttpError, success};
use super::extract::{PathId, whole_body};
use super::idempotency;
use super::keys::AccessKeys;
use super::page::{PageQuery, page_response};
use crate::clock;
use crate::store::{EmbeddedMessages, PageLimit};

/// The path of the embedded API.
pub const BASE_PATH: &str = "/api/v1/messages";
/// Octets of a message's JSON: a mail of 25 MiB, and the growth by escaping.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Octets after which a page ends; the item that exceeds them is its last.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Octets of a one-line field, such as an address or a subject.
const LINE_BYTES_MAX: usize = 4096;

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
pub(super) fn router(api: EmbeddedApi) -> Router {
    let guard = middleware::from_fn_with_state(api.clone(), authorize);
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
async fn authorize(State(api): State<EmbeddedApi>, request: Request, next: Next) -> Response {
    if api.keys.admits_bearer(request.headers()) {
        return next.run(request).await;
    }
    HttpError::unauthorized().into_response()
}

async fn create_thread(
    State(api): State<EmbeddedApi>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let key = idempotency::key(&headers)?;
    let mut thread = object(body)?;
    thread
        .required("sourceType")?
        .one_of("sourceType", &["email"])?;
    thread.required("identityEmail")?.line("identityEmail")?;
    thread.line("mailbox")?;
    thread.one_of("priority", &["vip", "priority", "standard", "general"])?;
    thread.object("metadata")?;
    let made = api.book.make_thread(key, thread.into_value(), clock::now());
    Ok(success(StatusCode::CREATED, made.await?))
}

async fn add_message(
    State(api): State<EmbeddedApi>,
    PathId(id): PathId,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let key = idempotency::key(&headers)?;
    let mut message = object(body)?;
    message
        .required("sourceType")?
        .one_of("sourceType", &["email"])?;
    message.required("senderEmail")?.line("senderEmail")?;
    message.required("body")?.text("body")?;
    for name in ["bodyHtml", "quotedText"] {
        message.text(name)?;
    }
    for name in [
        "senderName",
        "subject",
        "emailMessageId",
        "inReplyTo",
        "receivedAt",
        "kind",
    ] {
        message.line(name)?;
    }
    for name in ["authentication", "match"] {
        message.object(name)?;
    }
    message.list("attachments")?;
    message.list("flags")?;
    let added = api
        .book
        .add_message(&id, key, message.into_value(), clock::now())
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
    // Merging twice has the effect of merging once: the key is checked but need not be kept.
    idempotency::key(&headers)?;
    let mut patch = object(body)?;
    patch.required("metadata")?.object("metadata")?;
    let metadata = patch.0.remove("metadata").unwrap_or_default();
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

/// The limit of a page: a hundred long messages in each of a hundred requests would not fit into memory.
const fn page_limit(items: usize) -> PageLimit {
    PageLimit {
        items,
        bytes: PAGE_BYTES_MAX,
    }
}

/// A JSON object whose fields are checked one by one.
struct ObjectFields(Map<String, Value>);

fn object(body: Result<Bytes, BytesRejection>) -> Result<ObjectFields, HttpError> {
    match serde_json::from_slice(&whole_body(body)?) {
        Ok(Value::Object(fields)) => Ok(ObjectFields(fields)),
        Ok(_) => Err(HttpError::bad_request("the body is not a JSON object")),
        Err(error) => Err(HttpError::bad_request(format!(
            "the body is not JSON: {error}"
        ))),
    }
}

impl ObjectFields {
    /// Requires the field to be present and not null.
    fn required(&mut self, name: &str) -> Result<&mut Self, HttpError> {
        if self.0.get(name).is_none_or(Value::is_null) {
            return Err(HttpError::invalid_field(name, "is required"));
        }
        Ok(self)
    }

    fn check(&self, name: &str, why: &str, fits: impl Fn(&Value) -> bool) -> Result<(), HttpError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if fits(value) => Ok(()),
            Some(_) => Err(HttpError::invalid_field(name, why)),
        }
    }

    fn text(&self, name: &str) -> Result<(), HttpError> {
        self.check(name, "is not a string", Value::is_string)
    }

    fn line(&self, name: &str) -> Result<(), HttpError> {
        let why = format!("is not a string of at most {LINE_BYTES_MAX} bytes");
        self.check(name, &why, |value| {
            value.as_str().is_some_and(|s| s.len() <= LINE_BYTES_MAX)
        })
    }

    fn one_of(&self, name: &str, words: &[&str]) -> Result<(), HttpError> {
        let why = format!("is not one of {}", words.join(", "));
        self.check(name, &why, |value| {
            value.as_str().is_some_and(|s| words.contains(&s))
        })
    }

    fn object(&self, name: &str) -> Result<(), HttpError> {
        self.check(name, "is not an object", Value::is_object)
    }

    fn list(&self, name: &str) -> Result<(), HttpError> {
        self.check(name, "is not a list", Value::is_array)
    }

    /// The object without the names that the store assigns itself.
    fn into_value(mut self) -> Value {
        for name in ["id", "createdAt", "updatedAt", "threadId"] {
            self.0.remove(name);
        }
        Value::Object(self.0)
    }
}
