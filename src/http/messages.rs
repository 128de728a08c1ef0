//! Owns the embedded Messages API: the contract a product implements, kept in a durable book.
//!
//! Does not know that Postern itself is its client: it answers whoever has the key.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Json, routing};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time;

use super::error::{HttpError, success};
use super::idempotency;
use super::keys::AccessKeys;
use super::router::{App, Endpoint};
use crate::clock;
use crate::store::{EmbeddedMessages, PageLimit};

/// Where the embedded API stands on the HTTP address.
pub const BASE_PATH: &str = "/api/v1/messages";
/// A message has at most so many bytes of JSON: a mail of 25 MiB, and what escaping adds.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A page has so many items if none are asked for, and at most.
const PAGE_ITEMS_DEFAULT: usize = 50;
const PAGE_ITEMS_MAX: usize = 100;
/// A page ends with the item that brings it over so many bytes.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A field of one line (an address, a subject) has at most so many bytes.
const LINE_BYTES_MAX: usize = 4096;

/// The embedded Messages API: its book and its key.
#[derive(Clone)]
pub struct EmbeddedApi {
    book: EmbeddedMessages,
    keys: AccessKeys,
}

impl EmbeddedApi {
    /// An API over this book for whoever has this key. An empty key is nobody's.
    pub fn new(book: EmbeddedMessages, key: &str) -> Self {
        Self {
            book,
            keys: AccessKeys::new([key]),
        }
    }
}

pub(super) fn routes() -> Vec<Endpoint<App>> {
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

/// Lets a request through if it has the key.
pub(super) async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let embedded = app.messages.as_ref();
    if embedded.is_some_and(|embedded| embedded.keys.admits_bearer(request.headers())) {
        return next.run(request).await;
    }
    HttpError::unauthorized().into_response()
}

async fn create_thread(
    State(app): State<App>,
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
    let made = app
        .book()?
        .make_thread(key, thread.into_value(), clock::now());
    Ok(success(StatusCode::CREATED, made.await?))
}

async fn add_message(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let id = thread_id(id)?;
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
    let added = app
        .book()?
        .add_message(&id, key, message.into_value(), clock::now())
        .await?;
    let added = added.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::CREATED, added))
}

async fn patch_thread(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let id = thread_id(id)?;
    // A merge done twice is a merge done once: the key is checked but need not be kept.
    idempotency::key(&headers)?;
    let mut patch = object(body)?;
    patch.required("metadata")?.object("metadata")?;
    let metadata = patch.0.remove("metadata").unwrap_or_default();
    let patched = app
        .book()?
        .patch_thread(&id, metadata, clock::now())
        .await?;
    let patched = patched.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::OK, patched))
}

async fn show_thread(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, HttpError> {
    let thread = app.book()?.thread(&thread_id(id)?).await?;
    let thread = thread.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(success(StatusCode::OK, thread))
}

async fn list_threads(
    State(app): State<App>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let (after, limit) = page_bounds(page)?;
    let book = app.book()?;
    let page = book.threads(after.as_deref(), page_limit(limit)).await?;
    Ok(page_response(&page.items, page.has_more))
}

async fn list_messages(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let id = thread_id(id)?;
    let (after, limit) = page_bounds(page)?;
    let book = app.book()?;
    let page = book.messages(&id, after.as_deref(), page_limit(limit));
    let page = page.await?.ok_or_else(|| HttpError::not_found("thread"))?;
    Ok(page_response(&page.items, page.has_more))
}

/// A hundred long messages would not fit into memory a hundred times, so a page has few bytes.
const fn page_limit(items: usize) -> PageLimit {
    PageLimit {
        items,
        bytes: PAGE_BYTES_MAX,
    }
}

impl App {
    /// True if there is an embedded API and it can keep nothing more.
    pub(super) async fn is_embedded_api_dead(&self) -> bool {
        match &self.messages {
            // Polled once: either it has ended or it has not.
            Some(embedded) => time::timeout(Duration::ZERO, embedded.book.ended())
                .await
                .is_ok(),
            None => false,
        }
    }

    fn book(&self) -> Result<&EmbeddedMessages, HttpError> {
        let embedded = self.messages.as_ref();
        embedded
            .map(|embedded| &embedded.book)
            .ok_or_else(|| HttpError::not_found("path"))
    }
}

/// Which part of a list.
#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// The checked `after` and `limit` of a list.
pub(super) fn page_bounds(
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<(Option<String>, usize), HttpError> {
    let wrong = || HttpError::bad_request(format!("limit: a number from 1 to {PAGE_ITEMS_MAX}"));
    let Query(page) = page.map_err(|_| wrong())?;
    let limit = page.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(wrong());
    }
    Ok((page.after, limit))
}

/// A list, and the id to ask `after` for where there are more.
pub(super) fn page_response(items: &[Value], more: bool) -> Response {
    let next = items.last().filter(|_| more).map(|item| &item["id"]);
    Json(json!({ "success": true, "data": items, "next": next })).into_response()
}

fn thread_id(id: Result<Path<String>, PathRejection>) -> Result<String, HttpError> {
    id.map(|Path(id)| id)
        .map_err(|_| HttpError::bad_request("thread id is no UTF-8"))
}

/// A JSON object whose fields are checked one by one.
struct ObjectFields(Map<String, Value>);

fn object(body: Result<Bytes, BytesRejection>) -> Result<ObjectFields, HttpError> {
    let body = body.map_err(|rejection| {
        let message = "the body is too large or broke off";
        HttpError::new(rejection.status(), "body", message)
    })?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(ObjectFields(fields)),
        Ok(_) => Err(HttpError::bad_request("the body is no JSON object")),
        Err(error) => Err(HttpError::bad_request(format!(
            "the body is no JSON: {error}"
        ))),
    }
}

impl ObjectFields {
    /// Present and not null.
    fn required(&mut self, name: &str) -> Result<&mut Self, HttpError> {
        if self.0.get(name).is_none_or(Value::is_null) {
            return Err(HttpError::invalid_field(name, "is needed"));
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
        self.check(name, "is no string", Value::is_string)
    }

    fn line(&self, name: &str) -> Result<(), HttpError> {
        let why = format!("is no string of at most {LINE_BYTES_MAX} bytes");
        self.check(name, &why, |value| {
            value.as_str().is_some_and(|s| s.len() <= LINE_BYTES_MAX)
        })
    }

    fn one_of(&self, name: &str, words: &[&str]) -> Result<(), HttpError> {
        let why = format!("is none of {}", words.join(", "));
        self.check(name, &why, |value| {
            value.as_str().is_some_and(|s| words.contains(&s))
        })
    }

    fn object(&self, name: &str) -> Result<(), HttpError> {
        self.check(name, "is no object", Value::is_object)
    }

    fn list(&self, name: &str) -> Result<(), HttpError> {
        self.check(name, "is no list", Value::is_array)
    }

    /// The object without the names the book gives itself.
    fn into_value(mut self) -> Value {
        for name in ["id", "createdAt", "updatedAt", "threadId"] {
            self.0.remove(name);
        }
        Value::Object(self.0)
    }
}
