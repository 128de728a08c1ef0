//! Owns the pages for people: what is on its way out, what came of it, and the mail as it looks.
//!
//! Does not compose or send; a person's word (try again, call back) goes to the store.
//!
//! Every page is behind a password (a key of the API, with any name); in development also open to
//! whoever is on this machine and calls it by a name of this machine. Words of strangers are escaped by the
//! templates, and a mail's HTML is shown in a frame without scripts, forms, origin or network.

mod pages;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing;
use bytes::Bytes;
use serde::Deserialize;

use super::error::HttpError;
use super::keys::AccessKeys;
use super::router::{App, Endpoint};
use super::server::ClientIp;
use crate::clock;
use crate::mail::job_id::JobId;
use crate::mail::view::View;
use crate::store::{Fact, JobRecord, JobStateKind, ReadError, Store};
use pages::AdminPages;

/// Jobs on one page.
const PAGE_JOBS: usize = 50;

/// What the pages are made from.
#[derive(Clone)]
pub struct Admin {
    store: Store,
    keys: AccessKeys,
    /// Whoever is on this machine needs no password.
    open_to_loopback: bool,
    /// How long a job is tried that a person has tried again.
    age_max: Duration,
    pages: Arc<AdminPages>,
}

impl Admin {
    /// Pages over this store for whoever has one of the keys, and, if `open`, for whoever is on this
    /// machine. A job that is tried again is given up after `age_max`.
    pub fn new(store: Store, keys: AccessKeys, open: bool, age_max: Duration) -> Self {
        Self {
            store,
            keys,
            open_to_loopback: open,
            age_max,
            pages: Arc::new(AdminPages::new()),
        }
    }

    fn admits(&self, request: &Request) -> bool {
        let headers = request.headers();
        let peer = request
            .extensions()
            .get::<ClientIp>()
            .and_then(|peer| peer.0);
        // The name keeps a stranger's page from reaching us through a name of his own that leads here.
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

pub(super) fn routes() -> Vec<Endpoint<App>> {
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

/// Asks for the password before anything is looked at, and lets changes only come from a page of ours.
pub(super) async fn require_password(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let admin = app.admin.as_ref();
    if !admin.is_some_and(|admin| admin.admits(&request)) {
        let mut response = HttpError::unauthorized().into_response();
        let ask = HeaderValue::from_static("Basic realm=\"Postern\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        return response;
    }
    if *request.method() != Method::GET && !is_same_origin(request.headers()) {
        let message = "changes are made from the pages themselves";
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

pub(super) fn guarded_routes(app: &App) -> axum::Router<App> {
    let mut router = axum::Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    router.route_layer(middleware::from_fn_with_state(
        app.clone(),
        require_password,
    ))
}

/// What a list shows.
#[derive(Debug, Default, Deserialize)]
struct OutboxQuery {
    state: Option<String>,
    after: Option<String>,
}

async fn list(
    State(app): State<App>,
    wish: Result<Query<OutboxQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let admin = admin(&app)?;
    let Query(wish) = wish.map_err(|_| HttpError::bad_request("query: not understood"))?;
    let after = wish.after.as_deref().map(parse_id).transpose()?;
    let state = wish.state.as_deref().unwrap_or("all");
    let jobs = match JobStateKind::of_name(state) {
        None if state != "all" => Vec::new(),
        wanted => admin.store.jobs(wanted, after, PAGE_JOBS).await?,
    };
    html_response(
        admin
            .pages
            .list(state, &jobs, admin.store.outbox_ledger(), PAGE_JOBS),
    )
}

async fn show(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, HttpError> {
    let admin = admin(&app)?;
    let record = find_job(admin, id).await?;
    let view = match admin.store.job_mail(record.job.id).await {
        Ok(mail) => Some(parse(mail).await?),
        Err(_) => None,
    };
    html_response(admin.pages.job(&record, view.as_ref()))
}

async fn html(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, HttpError> {
    let mail = job_mail(&app, id).await?;
    let html = parse(mail)
        .await?
        .html
        .ok_or_else(|| HttpError::not_found("HTML"))?;
    let policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                  frame-ancestors 'self'";
    let fields = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    Ok((fields, Html(html)).into_response())
}

async fn raw_mail(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, HttpError> {
    let mail = job_mail(&app, id).await?;
    let fields = [
        (header::CONTENT_TYPE, "message/rfc822"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"mail.eml\"",
        ),
    ];
    Ok((fields, mail).into_response())
}

async fn retry(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Redirect, HttpError> {
    let admin = admin(&app)?;
    let job = find_job(admin, id).await?.job.id;
    let at = clock::now();
    let ends_at = at.plus(admin.age_max);
    let fact = Fact::Retried { job, at, ends_at };
    admin.store.record(vec![fact]).await?;
    Ok(Redirect::to(&format!("/admin/outbox/{job}")))
}

async fn cancel(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Redirect, HttpError> {
    let admin = admin(&app)?;
    let job = find_job(admin, id).await?.job.id;
    if !admin.store.cancel(job, clock::now()).await? {
        return Err(HttpError::conflict("the job is being sent, or is over"));
    }
    Ok(Redirect::to(&format!("/admin/outbox/{job}")))
}

fn admin(app: &App) -> Result<&Admin, HttpError> {
    app.admin
        .as_ref()
        .ok_or_else(|| HttpError::not_found("path"))
}

async fn find_job(
    admin: &Admin,
    id: Result<Path<String>, PathRejection>,
) -> Result<JobRecord, HttpError> {
    let Path(id) = id.map_err(|_| HttpError::not_found("job"))?;
    let found = admin.store.job(parse_id(&id)?).await?;
    found.ok_or_else(|| HttpError::not_found("job"))
}

async fn job_mail(app: &App, id: Result<Path<String>, PathRejection>) -> Result<Bytes, HttpError> {
    let admin = admin(app)?;
    let job = find_job(admin, id).await?.job.id;
    let mail = admin.store.job_mail(job).await;
    mail.map_err(|error| match error {
        ReadError::Store(error) => error.into(),
        _ => HttpError::not_found("mail"),
    })
}

/// Reads a mail where it blocks nobody: it may be large.
async fn parse(mail: Bytes) -> Result<View, HttpError> {
    let parsed = tokio::task::spawn_blocking(move || View::parse(&mail)).await;
    parsed.map_err(|_| {
        let message = "the mail cannot be read";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

fn parse_id(text: &str) -> Result<JobId, HttpError> {
    text.parse().map_err(|_| HttpError::not_found("job"))
}

fn html_response(rendered: Result<String, pages::PageError>) -> Result<Response, HttpError> {
    rendered
        .map(|text| Html(text).into_response())
        .map_err(|error| {
            tracing::error!(%error, "a page cannot be made");
            let message = "the page cannot be made; the log says why";
            HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        })
}

/// Does the request call us by an address or name of this machine?
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

/// Does the request come from a page of ours, as its browser says?
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else {
        return false;
    };
    match text(header::ORIGIN) {
        Some(origin) => origin
            .split_once("://")
            .is_some_and(|(_, name)| name == host),
        // A browser sends Origin with every such request: this is a program, with the password.
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
