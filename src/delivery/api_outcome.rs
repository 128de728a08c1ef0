//! Owns the meaning of a response of the Messages API: one table from status and body to
//! [`ApiOutcome`].
//!
//! Does not speak HTTP and does not decide when to retry.

use std::time::Duration;

use serde_json::Value;

use crate::clock::Timestamp;
use crate::retry::parse_retry_after;

/// The number of bytes of a response body that are read. An id and a reason are far shorter.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The maximum length in characters of an error body in a log line or in a parked mail's reason.
pub const EXCERPT_CHARS_MAX: usize = 200;
/// The maximum length in bytes of an id of the API, which becomes a path segment and a key of the store.
pub(super) const ID_BYTES_MAX: usize = 256;
/// The outcome of one call to the Messages API.
///
/// | status                     | body                        | answer       |
/// |----------------------------|-----------------------------|--------------|
/// | 2xx, creating              | `data.id`, or a bare `id`   | done         |
/// | 2xx, creating              | no id, garbage, over 64 KiB | passing      |
/// | 2xx, patching              | anything, nothing too       | done         |
/// | 2xx                        | `"success": false`          | final        |
/// | 409, creating              | `data.id`, or a bare `id`   | done         |
/// | 409 with `Retry-After`     | no id                       | passing      |
/// | 401                        |                             | unauthorized |
/// | 403                        |                             | forbidden    |
/// | 408, 425, 429, 5xx         |                             | passing      |
/// | 1xx, 3xx, every other 4xx  |                             | final        |
/// | none: refused, reset, slow |                             | passing      |
///
/// A redirect is final, because a key must not be sent to another address. A 2xx without an id is
/// transient, because a call with the same `Idempotency-Key` returns its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiOutcome {
    /// The call took effect, now or in an earlier attempt.
    Done {
        /// The id of the created object, or of the patched thread.
        id: String,
    },
    /// The call failed for now; the same call may succeed later.
    Transient {
        /// The reason for a person; bounded and escaped.
        reason: String,
        /// The wait that the API requested, bounded by [`parse_retry_after`].
        retry_after: Option<Duration>,
    },
    /// The API refuses the key: no call will succeed until a person changes something.
    Unauthorized {
        /// The reason for a person; bounded and escaped.
        reason: String,
    },
    /// The API refuses this call. Either the key lacks the permission, or only this thread is forbidden.
    Forbidden {
        /// The reason for a person; bounded and escaped.
        reason: String,
    },
    /// The same call will never succeed.
    Permanent {
        /// The response status.
        status: u16,
        /// The reason for a person; bounded and escaped.
        reason: String,
    },
}

impl ApiOutcome {
    /// The name of the outcome in metrics.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Transient { .. } => "passing",
            Self::Unauthorized { .. } | Self::Forbidden { .. } => "unauthorized",
            Self::Permanent { .. } => "final",
        }
    }
}

/// The result that a call expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedResult<'a> {
    /// The id of the created object.
    Id,
    /// Success alone, for this thread.
    Patched(&'a str),
}

/// A response with a bounded body.
#[derive(Clone, Debug)]
pub(super) struct ApiResponse {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: ResponseBody,
}

/// The part of a body that was read.
#[derive(Clone, Debug)]
pub(super) enum ResponseBody {
    /// The whole body.
    Whole(Vec<u8>),
    /// The beginning of a body that is longer than [`ANSWER_BYTES_MAX`].
    Truncated(Vec<u8>),
    /// The beginning of a body whose connection broke, and the error.
    Interrupted(Vec<u8>, String),
}

/// Classifies the response to a call by the table of [`ApiOutcome`].
pub(super) fn classify_response(
    heard: &ApiResponse,
    wanted: ExpectedResult<'_>,
    key: &str,
    now: Timestamp,
) -> ApiOutcome {
    let status = heard.status;
    let wish = heard
        .retry_after
        .as_deref()
        .and_then(|r| parse_retry_after(r, now));
    let reason = || format!("{status}{}", describe(heard, key));
    match status {
        200..=299 => classify_success(heard, wanted, key, wish),
        401 => ApiOutcome::Unauthorized { reason: reason() },
        403 => ApiOutcome::Forbidden { reason: reason() },
        409 => match (created_id(heard), wanted) {
            (Some(id), ExpectedResult::Id) => ApiOutcome::Done { id },
            _ if wish.is_some() => ApiOutcome::Transient {
                reason: reason(),
                retry_after: wish,
            },
            _ => ApiOutcome::Permanent {
                status,
                reason: reason(),
            },
        },
        408 | 425 | 429 | 500..=599 => ApiOutcome::Transient {
            reason: reason(),
            retry_after: wish,
        },
        _ => ApiOutcome::Permanent {
            status,
            reason: reason(),
        },
    }
}

fn classify_success(
    heard: &ApiResponse,
    wanted: ExpectedResult<'_>,
    key: &str,
    wish: Option<Duration>,
) -> ApiOutcome {
    let status = heard.status;
    if reports_failure(heard) {
        let reason = format!("{status}, success false{}", describe(heard, key));
        return ApiOutcome::Permanent { status, reason };
    }
    let thread = match wanted {
        ExpectedResult::Patched(thread) => thread,
        ExpectedResult::Id => {
            return created_id(heard).map_or_else(
                || ApiOutcome::Transient {
                    reason: format!("{status} without an id{}", describe(heard, key)),
                    retry_after: wish,
                },
                |id| ApiOutcome::Done { id },
            );
        }
    };
    ApiOutcome::Done {
        id: thread.to_owned(),
    }
}

fn parse_json(heard: &ApiResponse) -> Option<Value> {
    match &heard.body {
        ResponseBody::Whole(bytes) => serde_json::from_slice(bytes).ok(),
        ResponseBody::Truncated(_) | ResponseBody::Interrupted(..) => None,
    }
}

fn reports_failure(heard: &ApiResponse) -> bool {
    parse_json(heard).is_some_and(|body| body["success"] == Value::Bool(false))
}

/// The id in `{"success":true,"data":{"id":…}}`, or in `{"id":…}`, which frameworks send by default.
/// A number is accepted, since some products count their rows.
fn created_id(heard: &ApiResponse) -> Option<String> {
    let body = parse_json(heard)?;
    let text = |value: &Value| match value {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.as_u64()?.to_string()),
        _ => None,
    };
    let id = text(&body["data"]["id"]).or_else(|| text(&body["id"]))?;
    is_id(&id).then_some(id)
}

/// True if the text can be an id, which must be a single segment of a path.
pub(super) fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.chars().any(char::is_control)
}

fn describe(heard: &ApiResponse, key: &str) -> String {
    let (bytes, more) = match &heard.body {
        ResponseBody::Whole(bytes) => (bytes, String::new()),
        ResponseBody::Truncated(bytes) => (bytes, format!(" (over {ANSWER_BYTES_MAX} bytes)")),
        ResponseBody::Interrupted(bytes, how) => (bytes, format!(" ({how})")),
    };
    let said = parse_json(heard).and_then(|body| error_text(&body));
    let text = said.map_or_else(|| excerpt(bytes, key), |said| excerpt(said.as_bytes(), key));
    if text.is_empty() {
        return more;
    }
    format!(": {text}{more}")
}

/// The reason in an error body: `error.message`, `detail` (RFC 9457), `message`, `errors`, or `error`. A
/// list of reasons is joined; NestJS sends one in `message`, beside the name of the status in `error`.
fn error_text(body: &Value) -> Option<String> {
    let reasons = [
        &body["error"]["message"],
        &body["detail"],
        &body["message"],
        &body["errors"],
        &body["error"],
        &body["title"],
    ];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    reasons.into_iter().find_map(|value| match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Array(list) if !list.is_empty() => {
            Some(list.iter().map(text).collect::<Vec<_>>().join("; "))
        }
        Value::Object(fields) if !fields.is_empty() => Some(value.to_string()),
        _ => None,
    })
}

/// The beginning of foreign text for a log line: escaped, bounded by [`EXCERPT_CHARS_MAX`], and
/// without our key, which an API may repeat.
pub(super) fn excerpt(bytes: &[u8], key: &str) -> String {
    // A character has at most four bytes, and a key that begins within the excerpt must be complete
    // to be found.
    let end = bytes.len().min(EXCERPT_CHARS_MAX * 4 + key.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let text = if key.is_empty() {
        text.into_owned()
    } else {
        text.replace(key, "[key]")
    };
    let escaped: String = text
        .trim()
        .chars()
        .flat_map(|c| {
            let plain = c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
            let hard = (!plain).then(|| c.escape_default());
            plain
                .then_some(c)
                .into_iter()
                .chain(hard.into_iter().flatten())
        })
        .take(EXCERPT_CHARS_MAX + 1)
        .collect();
    if escaped.chars().count() <= EXCERPT_CHARS_MAX {
        return escaped;
    }
    let cut: String = escaped.chars().take(EXCERPT_CHARS_MAX - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "k-secret-0123456789";

    fn heard(status: u16, body: &str) -> ApiResponse {
        ApiResponse {
            status,
            retry_after: None,
            body: ResponseBody::Whole(body.into()),
        }
    }

    fn class(status: u16, body: &str, wanted: ExpectedResult<'_>) -> &'static str {
        classify_response(&heard(status, body), wanted, KEY, Timestamp::default()).class()
    }

    #[test]
    fn the_table_holds() {
        let id = r#"{"success":true,"data":{"id":"m1"}}"#;
        let no = r#"{"success":false,"error":{"code":"x","message":"no"}}"#;
        for (status, body, creating, patching) in [
            (200, id, "done", "done"),
            (201, id, "done", "done"),
            (202, id, "done", "done"),
            (200, r#"{"success":true,"data":{"id":7}}"#, "done", "done"),
            (
                200,
                r#"{"success":true,"data":{"id":""}}"#,
                "passing",
                "done",
            ),
            (
                200,
                r#"{"success":true,"data":{"id":".."}}"#,
                "passing",
                "done",
            ),
            (
                200,
                r#"{"success":true,"data":{"id":"a\nb"}}"#,
                "passing",
                "done",
            ),
            (200, r#"{"success":true}"#, "passing", "done"),
            (200, "<html>", "passing", "done"),
            (200, no, "final", "final"),
            (202, "", "passing", "done"),
            (204, "", "passing", "done"),
            (301, "", "final", "final"),
            (308, id, "final", "final"),
            (400, no, "final", "final"),
            (401, no, "unauthorized", "unauthorized"),
            (403, "", "unauthorized", "unauthorized"),
            (201, r#"{"id":"m1"}"#, "done", "done"),
            (201, r#"{"id":7}"#, "done", "done"),
            (201, r#"{"success":false,"id":"m1"}"#, "final", "final"),
            (404, "", "final", "final"),
            (408, "", "passing", "passing"),
            (409, id, "done", "final"),
            (409, no, "final", "final"),
            (410, "", "final", "final"),
            (413, "", "final", "final"),
            (422, no, "final", "final"),
            (425, "", "passing", "passing"),
            (429, "", "passing", "passing"),
            (500, id, "passing", "passing"),
            (501, "", "passing", "passing"),
            (503, "", "passing", "passing"),
            (599, "", "passing", "passing"),
            (100, "", "final", "final"),
            (600, "", "final", "final"),
        ] {
            assert_eq!(
                class(status, body, ExpectedResult::Id),
                creating,
                "{status} {body}"
            );
            assert_eq!(
                class(status, body, ExpectedResult::Patched("t")),
                patching,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_cut_body_is_no_success() {
        for body in [
            ResponseBody::Truncated(br#"{"success":true,"data":{"id":"m1"}}"#.to_vec()),
            ResponseBody::Interrupted(br#"{"success":true,"#.to_vec(), "reset".into()),
        ] {
            let heard = ApiResponse {
                status: 200,
                retry_after: None,
                body,
            };
            let answer = classify_response(&heard, ExpectedResult::Id, KEY, Timestamp::default());
            assert_eq!(answer.class(), "passing");
        }
    }

    #[test]
    fn a_conflict_with_retry_after_is_transient() {
        let mut conflict = heard(409, "{}");
        conflict.retry_after = Some("3".into());
        let answer = classify_response(&conflict, ExpectedResult::Id, KEY, Timestamp::default());
        assert_eq!(answer.class(), "passing");
    }

    #[test]
    fn reasons_are_bounded_escaped_and_without_the_key() {
        let body = format!("bad key {KEY}\r\n\u{1b}[31m{}", "x".repeat(100_000));
        let ApiOutcome::Permanent { reason, .. } = classify_response(
            &heard(400, &body),
            ExpectedResult::Id,
            KEY,
            Timestamp::default(),
        ) else {
            panic!("not final");
        };
        assert!(reason.chars().count() <= EXCERPT_CHARS_MAX + 8, "{reason}");
        assert!(
            reason.starts_with("400: bad key [key]\\r\\n\\u{1b}"),
            "{reason}"
        );
        assert!(!reason.contains(KEY));
    }

    #[test]
    fn the_apis_own_message_is_preferred() {
        for (body, said) in [
            (r#"{"error":{"message":"no body"}}"#, "422: no body"),
            (r#"{"error":"no body"}"#, "422: no body"),
            (r#"{"message":"no body"}"#, "422: no body"),
            (
                r#"{"statusCode":422,"message":["no body","no sender"],"error":"Unprocessable"}"#,
                "422: no body; no sender",
            ),
            (
                r#"{"message":"thread is closed","error":"Forbidden"}"#,
                "422: thread is closed",
            ),
            (r#"{"title":"Invalid","detail":"no body"}"#, "422: no body"),
            (
                r#"{"errors":{"body":["is empty"]}}"#,
                r#"422: {"body":["is empty"]}"#,
            ),
            ("", "422"),
            ("plain", "422: plain"),
        ] {
            let answer = classify_response(
                &heard(422, body),
                ExpectedResult::Id,
                KEY,
                Timestamp::default(),
            );
            let expected = ApiOutcome::Permanent {
                status: 422,
                reason: said.into(),
            };
            assert_eq!(answer, expected);
        }
    }
}
