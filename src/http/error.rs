//! Owns the form of every error response: `{"success":false,"error":{"code","message"}}`, with the invalid
//! `field` if there is one.
//!
//! Does not log: internal errors are logged where they happen.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::queue::QueueError;
use crate::store::StoreError;

/// The reason why a request failed. It discloses nothing internal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The HTTP status.
    pub status: StatusCode,
    /// A code for programs.
    pub code: &'static str,
    /// A sentence for people, without anything secret.
    pub message: String,
    /// The invalid field of the request.
    pub field: Option<String>,
}

impl HttpError {
    /// An error with this status, code and message.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            field: None,
        }
    }

    /// 400: the request is malformed; `message` names the part.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401: the key is missing or wrong.
    pub fn unauthorized() -> Self {
        let message = "a valid key is required, as Authorization: Bearer";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 404: no such object exists.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no such {what}"),
        )
    }

    /// 409: the current state does not allow the request.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "wrong_state", message)
    }

    /// 422: the value of this field is invalid; `why` is the reason.
    pub fn invalid_field(name: &str, why: &str) -> Self {
        let message = format!("{name}: {why}");
        Self {
            field: Some(name.to_owned()),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message)
        }
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        let message = match error {
            StoreError::Full => "no space now, retry later",
            StoreError::Dead => "the store accepts nothing until a restart",
            StoreError::Unavailable => "the store has no answer now, retry later",
            StoreError::Damaged => {
                let message = "a record of the store is damaged; the log says which";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message);
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl From<QueueError> for HttpError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::NotFound(what) => Self::not_found(what),
            QueueError::WrongState(why) => Self::conflict(why),
            QueueError::Busy => Self::conflict(error.to_string()),
            QueueError::Unreadable => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, "internal", error.to_string())
            }
            QueueError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        let body = json!({ "success": false, "error": error });
        let mut response = (self.status, Json(body)).into_response();
        let more = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "30")),
            StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "60")),
            _ => None,
        };
        if let Some((name, value)) = more {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The form of every success response: `{"success":true,"data":…}`.
pub(super) fn success(status: StatusCode, what: serde_json::Value) -> Response {
    (status, Json(json!({ "success": true, "data": what }))).into_response()
}
