//! Owns the pages for operators: outgoing jobs, their history, and a preview of each mail.
//!
//! Does not compose or send: commands (retry, cancel) go to the job queue.
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

use super::auth_failures::{AuthFailures, ProtectedArea};
use super::endpoint::{Endpoint, mount};
use super::error::HttpError;
use super::extract::{PathId, named_parameters};
use super::keys::AccessKeys;
use super::server::{OverTls, client_ip};
use crate::mail::job_id::JobId;
use crate::mail::view::View;
use crate::queue::JobQueue;
use crate::store::JobStateKind;
use pages::AdminPages;

/// The number of jobs on one page.
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
        let client = client_ip(request.extensions());
        // Without this check, a foreign page could reach us through a DNS name that resolves to
        // this machine.
        let near = self.open_to_loopback
            && client.is_some_and(|ip| ip.is_loopback())
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
        row(
            Method::GET,
            "/admin/",
            routing::get(|| async { Redirect::to("/admin/outbox") }),
        ),
        row(Method::GET, "/admin/style.css", routing::get(style)),
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

/// Requires the password before anything else, and accepts changes only from our own pages. A network with
/// too many failures is refused for a while, whatever it presents.
async fn require_password(
    State((admin, failures)): State<(Admin, AuthFailures)>,
    request: Request,
    next: Next,
) -> Response {
    let has_credentials = request.headers().contains_key(header::AUTHORIZATION);
    let client = client_ip(request.extensions());
    if has_credentials && failures.is_paused(client) {
        let message = "too many wrong passwords, retry later";
        return HttpError::new(StatusCode::TOO_MANY_REQUESTS, "paused", message).into_response();
    }
    if !admin.admits(&request) {
        if has_credentials {
            failures.record(ProtectedArea::Admin, client);
        }
        let mut response = HttpError::unauthorized().into_response();
        let ask = HeaderValue::from_static("Basic realm=\"Postern\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        return response;
    }
    if *request.method() != Method::GET && !is_same_origin(&request) {
        let message = "changes are accepted only from the pages themselves";
        return HttpError::new(StatusCode::FORBIDDEN, "foreign", message).into_response();
    }
    let mut response = next.run(request).await;
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    let headers = response.headers_mut();
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(policy);
    response
}

/// The routes of the pages, all of them guarded.
pub(super) fn router(admin: Admin, failures: AuthFailures) -> Router {
    let guard = middleware::from_fn_with_state((admin.clone(), failures), require_password);
    mount(routes()).route_layer(guard).with_state(admin)
}

async fn style() -> Response {
    let fields = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (fields, include_str!("style.css")).into_response()
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
    let job = admin.jobs.find(parse_id(&id)?).await?;
    let view = match admin.jobs.mail(job.record.job.id).await {
        Ok(mail) => Some(parse(mail).await?),
        Err(_) => None,
    };
    html_response(admin.pages.job(&job, view.as_ref()))
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
    let job = admin.jobs.retry(parse_id(&id)?).await?.record.job.id;
    Ok(Redirect::to(&format!("/admin/outbox/{job}")))
}

async fn cancel(State(admin): State<Admin>, PathId(id): PathId) -> Result<Redirect, HttpError> {
    let job = admin.jobs.cancel(parse_id(&id)?).await?.record.job.id;
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

/// True if the browser states that the request comes from one of our own pages: its origin has our host,
/// and the scheme with which the page was fetched. A proxy that ends TLS before us names the scheme in
/// `X-Forwarded-Proto`, which no foreign page can set.
fn is_same_origin<B>(request: &hyper::Request<B>) -> bool {
    let text = |name| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let Some(host) = text(header::HOST) else {
        return false;
    };
    let is_over_tls = request.extensions().get() == Some(&OverTls(true));
    let scheme = match text(FORWARDED_PROTO) {
        _ if is_over_tls => "https",
        Some(scheme) => scheme,
        None => "http",
    };
    match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://") == Some((scheme, host)),
        // A browser sends Origin with every such request: this client is a program with the password.
        None => text(header::HeaderName::from_static("sec-fetch-site")).is_none(),
    }
}

/// The scheme of the request that a proxy received.
const FORWARDED_PROTO: header::HeaderName = header::HeaderName::from_static("x-forwarded-proto");

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
    fn only_loopback_names_are_local() {
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
    fn changes_must_come_from_our_own_pages() {
        let is_own = |is_over_tls: bool, fields: &[(&'static str, &str)]| {
            let mut request = hyper::Request::new(());
            *request.headers_mut() = headers(fields);
            request.extensions_mut().insert(OverTls(is_over_tls));
            is_same_origin(&request)
        };
        let host = ("host", "mail.example:8080");
        let plain = ("origin", "http://mail.example:8080");
        let secured = ("origin", "https://mail.example:8080");
        let proxied = ("x-forwarded-proto", "https");
        assert!(is_own(false, &[host, plain]));
        assert!(is_own(true, &[host, secured]));
        assert!(is_own(false, &[host, secured, proxied]));
        assert!(is_own(false, &[host]));
        assert!(!is_own(false, &[host, secured]));
        assert!(!is_own(true, &[host, plain]));
        assert!(!is_own(true, &[host, plain, ("x-forwarded-proto", "http")]));
        for foreign in ["http://evil.example", "null", "", "http://mail.example"] {
            assert!(!is_own(false, &[host, ("origin", foreign)]), "{foreign}");
        }
        assert!(!is_own(false, &[host, ("sec-fetch-site", "cross-site")]));
    }
}
