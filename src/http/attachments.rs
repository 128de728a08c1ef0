//! Owns `GET /gateway/attachments/{id}`: a stored attachment for holders of a valid link.
//!
//! Does not let an attachment execute: browsers receive a download of a harmless media type, whatever the
//! sender declared, and a page that renders it nevertheless has no rights.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde::Deserialize;
use tracing::error;

use super::endpoint::Endpoint;
use super::error::HttpError;
use super::extract::PathId;
use crate::clock;
use crate::objects::{AttachmentLink, LINK_PATH, LinkError, ObjectError, ObjectId, Objects};

/// The query of a link.
#[derive(Debug, Deserialize)]
struct LinkQuery {
    expires: u64,
    name: String,
    #[serde(rename = "type")]
    media_type: String,
    signature: String,
}

/// The path of a stored attachment.
const ATTACHMENT_PATH: &str = "/gateway/attachments/{id}";
const _: () = assert!(LINK_PATH.len() + "{id}".len() == ATTACHMENT_PATH.len());

pub(super) fn routes() -> Vec<Endpoint<Objects>> {
    vec![Endpoint::new(
        Method::GET,
        ATTACHMENT_PATH,
        routing::get(fetch),
    )]
}

async fn fetch(
    State(objects): State<Objects>,
    PathId(id): PathId,
    parts: Result<Query<LinkQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let forged = || HttpError::new(StatusCode::FORBIDDEN, "forbidden", "the link is not valid");
    let Query(parts) = parts.map_err(|_| forged())?;
    let id: ObjectId = id.parse().map_err(|_| forged())?;
    let link = AttachmentLink {
        id,
        name: &parts.name,
        media_type: &parts.media_type,
        expires: parts.expires,
    };
    let proven = objects
        .links()
        .verify(&link, &parts.signature, clock::now());
    proven.map_err(|error| match error {
        LinkError::Forged => forged(),
        LinkError::Expired => HttpError::new(StatusCode::GONE, "expired", "the link has expired"),
    })?;
    let absent = || HttpError::not_found("attachment");
    let size = objects.size(id).await.map_err(|error| unreadable(&error))?;
    let size = size.ok_or_else(absent)?;
    let (status, range) = match requested_range(&headers, size) {
        RequestedRange::All => (StatusCode::OK, 0..size),
        RequestedRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        RequestedRange::Unsatisfiable => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            set_header(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            return Ok(response);
        }
    };
    let opened = objects
        .read(id, range)
        .await
        .map_err(|error| unreadable(&error))?;
    let opened = opened.ok_or_else(absent)?;
    let range = opened.range;
    let mut response = (status, Body::from_stream(opened.stream)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        let content_range = format!("bytes {}-{last}/{size}", range.start);
        set_header(&mut response, header::CONTENT_RANGE, &content_range);
    }
    let length = range.end.saturating_sub(range.start).to_string();
    set_header(&mut response, header::CONTENT_LENGTH, &length);
    set_header(&mut response, header::ACCEPT_RANGES, "bytes");
    set_header(
        &mut response,
        header::CONTENT_TYPE,
        safe_media_type(link.media_type),
    );
    set_header(
        &mut response,
        header::CONTENT_DISPOSITION,
        &content_disposition(link.name),
    );
    set_header(
        &mut response,
        header::CONTENT_SECURITY_POLICY,
        "sandbox; default-src 'none'; frame-ancestors 'none'",
    );
    Ok(response)
}

fn set_header(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn unreadable(error: &ObjectError) -> HttpError {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    error!(%error, cause = cause.unwrap_or_default(), "an attachment cannot be read");
    let message = "the attachment cannot be read now";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
}

/// The range that a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum RequestedRange {
    All,
    Part(std::ops::Range<u64>),
    /// The range lies outside the attachment.
    Unsatisfiable,
}

/// Reads `Range` (RFC 9110 section 14.2). A request with several ranges or a malformed one may be
/// ignored, and is.
fn requested_range(headers: &HeaderMap, size: u64) -> RequestedRange {
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let Some((first, last)) = range
        .and_then(|range| range.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return RequestedRange::All;
    };
    let number = |text: &str| -> Option<u64> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (
        number(first),
        number(last),
        first.is_empty(),
        last.is_empty(),
    ) {
        (Some(first), Some(last), ..) if first > last => RequestedRange::All,
        (Some(first), ..) if first >= size && (last.is_empty() || number(last).is_some()) => {
            RequestedRange::Unsatisfiable
        }
        (Some(first), Some(last), ..) => {
            RequestedRange::Part(first..size.min(last.saturating_add(1)))
        }
        (Some(first), None, _, true) => RequestedRange::Part(first..size),
        (None, Some(0), true, _) => RequestedRange::Unsatisfiable,
        (None, Some(_), true, _) if size == 0 => RequestedRange::Unsatisfiable,
        (None, Some(last), true, _) => RequestedRange::Part(size.saturating_sub(last)..size),
        _ => RequestedRange::All,
    }
}

/// The media type that is served: the declared one if it is harmless, otherwise
/// `application/octet-stream`.
fn safe_media_type(claimed: &str) -> &str {
    const NONE: &str = "application/octet-stream";
    let token = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        (1..=64).contains(&text.len()) && text.bytes().all(fits)
    };
    let Some((kind, rest)) = claimed.split_once('/') else {
        return NONE;
    };
    let is_plain = match kind {
        "image" => !rest.contains("svg") && !rest.contains("xml"),
        "audio" | "video" => !rest.contains("xml"),
        "text" => matches!(rest, "plain" | "csv" | "calendar" | "vcard"),
        "application" => matches!(rest, "pdf" | "zip" | "json") || rest.starts_with("vnd."),
        _ => false,
    };
    if is_plain && token(rest) && !rest.contains("html") && !rest.contains("script") {
        claimed
    } else {
        NONE
    }
}

/// `Content-Disposition` (RFC 6266) with the name twice: in ASCII for old clients, and in full for
/// the others (RFC 8187).
fn content_disposition(name: &str) -> String {
    if name.is_empty() {
        return "attachment".to_owned();
    }
    let plain = |c: char| match c {
        '"' | '\\' | '%' | '/' | ';' => '_',
        c if c == ' ' || c.is_ascii_graphic() => c,
        _ => '_',
    };
    let ascii: String = name.chars().map(plain).collect();
    let mut whole = String::new();
    for byte in name.bytes() {
        // attr-char of RFC 8187 section 3.2.1.
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            whole.push(char::from(byte));
        } else {
            whole.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (range, wants) in [
            ("bytes=0-3", RequestedRange::Part(0..4)),
            ("bytes=4-", RequestedRange::Part(4..10)),
            ("bytes=4-99", RequestedRange::Part(4..10)),
            ("bytes=-3", RequestedRange::Part(7..10)),
            ("bytes=-99", RequestedRange::Part(0..10)),
            (
                "bytes=0-99999999999999999999999",
                RequestedRange::Part(0..10),
            ),
            ("bytes=10-", RequestedRange::Unsatisfiable),
            ("bytes=10-20", RequestedRange::Unsatisfiable),
            ("bytes=-0", RequestedRange::Unsatisfiable),
            ("bytes=5-4", RequestedRange::All),
            ("bytes=0-1,4-5", RequestedRange::All),
            ("bytes=-", RequestedRange::All),
            ("bytes=a-b", RequestedRange::All),
            ("lines=0-3", RequestedRange::All),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
            assert_eq!(requested_range(&headers, 10), wants, "{range}");
        }
        assert_eq!(requested_range(&HeaderMap::new(), 10), RequestedRange::All);
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(content_disposition(""), "attachment");
        assert_eq!(
            content_disposition("a\"; x=\"\\b%c é\r\n.txt"),
            "attachment; filename=\"a__ x=__b_c ___.txt\"; \
             filename*=UTF-8''a%22%3B%20x%3D%22%5Cb%25c%20%C3%A9%0D%0A.txt"
        );
    }

    #[test]
    fn active_content_is_served_as_a_download() {
        for plain in ["image/png", "text/plain", "application/pdf", "video/mp4"] {
            assert_eq!(safe_media_type(plain), plain);
        }
        for active in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/javascript",
            "application/vnd.x\r\nset-cookie: a",
            "application/vnd.mozilla.xul+html",
            "",
        ] {
            assert_eq!(
                safe_media_type(active),
                "application/octet-stream",
                "{active}"
            );
        }
    }
}
