//! Owns the one form in which a request hears no: `{"success":false,"error":{"code","message"}}`, with
//! the `field` that is at fault where there is one.
//!
//! Does not log: what went wrong inside is logged where it happened.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::StoreError;

/// Why a request is not done. It says nothing of our insides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The HTTP status.
    pub status: StatusCode,
    /// One word for programs.
    pub code: &'static str,
    /// One sentence for people, without anything secret.
    pub message: String,
    /// The field of the request that is at fault.
    pub field: Option<String>,
}

impl HttpError {
    /// A fault with this status, word and sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            field: None,
        }
    }

    /// 400: the request itself cannot be read; `message` names the part.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 401: no key, or not ours.
    pub fn unauthorized() -> Self {
        let message = "Authorization: Bearer with the key is needed";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 404: there is no such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no such {what}"),
        )
    }

    /// 409: it is in a state that does not allow this.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "wrong_state", message)
    }

    /// 422: this field's value cannot be taken, and why.
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
            StoreError::Full => "no room now, try later",
            StoreError::Dead => "the store takes nothing until a restart",
            StoreError::Unavailable => "the store does not answer now, try later",
            StoreError::Damaged => {
                let message = "a record of the store is damaged; the log says which";
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message);
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
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
            _ => None,
        };
        if let Some((name, value)) = more {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The one form of a yes: `{"success":true,"data":…}`.
pub(super) fn success(status: StatusCode, what: serde_json::Value) -> Response {
    (status, Json(json!({ "success": true, "data": what }))).into_response()
}
