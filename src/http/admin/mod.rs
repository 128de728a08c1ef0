//! Owns the pages for people: outgoing jobs, their history, and each mail as it looks.
//!
//! Does not compose or send: a person's command (retry, cancel) goes to the job queue.
//!
//! Every page requires a password (a key of the gateway, with any user name). In development mode
//! the pages are also open to clients on this machine that address it by a loopback name. Templates
//! escape foreign text, and a mail's HTML is shown in a frame without scripts, forms, origin or
//! network.

mod pages;

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Router, routing};
use bytes::Bytes;

use super::endpoint::{Endpoint, mount};
use super::error::HttpError;
use super::extract::{PathId, named_parameters};
use super::keys::AccessKeys;
use super::server::ClientIp;
use crate::mail::job_id::JobId;
use crate::mail::view::View;
use crate::queue::JobQueue;
use crate::store::JobStateKind;
use pages::AdminPages;

/// Jobs on one page.
const PAGE_JOBS: usize = 50;

/// The jobs, keys and templates of the pages.
#[derive(Clone)]
pub struct Admin {
    jobs: JobQueue,
    keys: AccessKeys,
    /// True if clients on this machine need no password.
    open_to_loopback: bool,
    pages: Arc<AdminPages>,
}

impl Admin {
    /// Creates pages about these jobs for holders of one of the keys and, if `open_to_loopback`, for
    /// clients on this machine.
    pub fn new(jobs: JobQueue, keys: AccessKeys, open_to_loopback: bool) -> Self {
        Self {
            jobs,
            keys,
            open_to_loopback,
            pages: Arc::new(AdminPages::new()),
        }
    }

    fn admits(&self, request: &Request) -> bool {
        let headers = request.headers();
        let peer = request
            .extensions()
            .get::<ClientIp>()
            .and_then(|peer| peer.0);
        // Without this check, a foreign page could reach us through a DNS name that resolves to
        // this machine.
        let near = self.open_to_loopback
            && peer.is_some_and(|ip| ip.is_loopback())
            && is_loopback_host(headers);
        near || self.keys.admits_password(headers)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

pub(super) fn routes() -> Vec<Endpoint<Admin>> {
    let row = |method, path, call| Endpoint::new(method, path, call);
    vec![
        row(
            Method::GET,
            "/admin",
            routing::get(|| async { Redirect::to("/admin/outbox") }),
        ),
        row(Method::GET, "/admin/outbox", routing::get(list)),
        row(Method::GET, "/admin/outbox/{id}", routing::get(show)),
        row(Method::GET, "/admin/outbox/{id}/html", routing::get(html)),
        row(
            Method::GET,
            "/admin/outbox/{id}/mail.eml",
            routing::get(raw_mail),
        ),
        row(
            Method::POST,
            "/admin/outbox/{id}/retry",
            routing::post(retry),
        ),
        row(
            Method::POST,
            "/admin/outbox/{id}/cancel",
            routing::post(cancel),
        ),
    ]
}

/// Requires the password before anything else, and accepts changes only from our own pages.
async fn require_password(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if !admin.admits(&request) {
        let mut response = HttpError::unauthorized().into_response();
        let ask = HeaderValue::from_static("Basic realm=\"Postern\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        return response;
    }
    if *request.method() != Method::GET && !is_same_origin(request.headers()) {
        let message = "changes are accepted only from the pages themselves";
        return HttpError::new(StatusCode::FORBIDDEN, "foreign", message).into_response();
    }
    let mut response = next.run(request).await;
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    let headers = response.headers_mut();
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(policy);
    response
}

/// The routes of the pages, all of them guarded.
pub(super) fn router(admin: Admin) -> Router {
    let guard = middleware::from_fn_with_state(admin.clone(), require_password);
    mount(routes()).route_layer(guard).with_state(admin)
}

async fn list(State(admin): State<Admin>, uri: Uri) -> Result<Response, HttpError> {
    let [state, after] = named_parameters(&uri, ["state", "after"])?;
    let after = after.as_deref().map(parse_id).transpose()?;
    let state = state.as_deref().unwrap_or("all");
    let jobs = match JobStateKind::of_name(state) {
        None if state != "all" => Vec::new(),
        wanted => admin.jobs.list(wanted, after, PAGE_JOBS).await?,
    };
    let ledger = admin.jobs.ledger();
    html_response(admin.pages.list(state, &jobs, ledger, PAGE_JOBS))
}

async fn show(State(admin): State<Admin>, PathId(id): PathId) -> Result<Response, HttpError> {
    let record = admin.jobs.find(parse_id(&id)?).await?;
    let view = match admin.jobs.mail(record.job.id).await {
        Ok(mail) => Some(parse(mail).await?),
        Err(_) => None,
    };
    html_response(admin.pages.job(&record, view.as_ref()))
}

async fn html(State(admin): State<Admin>, PathId(id): PathId) -> Result<Response, HttpError> {
    let mail = admin.jobs.mail(parse_id(&id)?).await?;
    let html = parse(mail).await?.html;
    let html = html.ok_or_else(|| HttpError::not_found("HTML"))?;
    let policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                  frame-ancestors 'self'";
    let fields = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    Ok((fields, Html(html)).into_response())
}

async fn raw_mail(State(admin): State<Admin>, PathId(id): PathId) -> Result<Response, HttpError> {
    let mail = admin.jobs.mail(parse_id(&id)?).await?;
    let fields = [
        (header::CONTENT_TYPE, "message/rfc822"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"mail.eml\"",
        ),
    ];
    Ok((fields, mail).into_response())
}

async fn retry(State(admin): State<Admin>, PathId(id): PathId) -> Result<Redirect, HttpError> {
    let job = admin.jobs.retry(parse_id(&id)?).await?.job.id;
    Ok(Redirect::to(&format!("/admin/outbox/{job}")))
}

async fn cancel(State(admin): State<Admin>, PathId(id): PathId) -> Result<Redirect, HttpError> {
    let job = admin.jobs.cancel(parse_id(&id)?).await?.job.id;
    Ok(Redirect::to(&format!("/admin/outbox/{job}")))
}

/// Parses a mail of any size without blocking the other tasks.
async fn parse(mail: Bytes) -> Result<View, HttpError> {
    let parsed = tokio::task::spawn_blocking(move || View::parse(&mail)).await;
    parsed.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        HttpError::new(status, "internal", "the mail cannot be parsed")
    })
}

fn parse_id(text: &str) -> Result<JobId, HttpError> {
    text.parse().map_err(|_| HttpError::not_found("job"))
}

fn html_response(rendered: Result<String, pages::PageError>) -> Result<Response, HttpError> {
    rendered
        .map(|text| Html(text).into_response())
        .map_err(|error| {
            tracing::error!(%error, "a page cannot be rendered");
            let message = "the page cannot be rendered; the log has the reason";
            HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        })
}

/// True if the request addresses us by a loopback address or name.
fn is_loopback_host(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let name = host.map(|host| {
        host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) {
                name
            } else {
                host
            }
        })
    });
    matches!(name, Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// True if the request comes from one of our own pages, by the browser's statement.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else {
        return false;
    };
    match text(header::ORIGIN) {
        Some(origin) => origin
            .split_once("://")
            .is_some_and(|(_, name)| name == host),
        // A browser sends Origin with every such request: this client is a program that has the
        // password.
        None => text(header::HeaderName::from_static("sec-fetch-site")).is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            let name = header::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn only_names_of_this_machine_are_near() {
        for near in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback_host(&headers(&[("host", near)])), "{near}");
        }
        for far in [
            "",
            "mail.example",
            "127.0.0.1.evil.example:80",
            "localhost.evil.example",
        ] {
            assert!(!is_loopback_host(&headers(&[("host", far)])), "{far}");
        }
    }

    #[test]
    fn changes_come_from_our_own_pages() {
        let host = ("host", "mail.example:8080");
        assert!(is_same_origin(&headers(&[
            host,
            ("origin", "http://mail.example:8080")
        ])));
        assert!(is_same_origin(&headers(&[host])));
        for foreign in ["http://evil.example", "null", "", "http://mail.example"] {
            assert!(
                !is_same_origin(&headers(&[host, ("origin", foreign)])),
                "{foreign}"
            );
        }
        assert!(!is_same_origin(&headers(&[
            host,
            ("sec-fetch-site", "cross-site")
        ])));
    }
}
