//! Owns the variable segment of a path as text.
//!
//! Does not know what the segment names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::error::HttpError;

/// The only variable segment of a path, percent-decoded. A segment that is not UTF-8 is a bad request, told
/// in the form of all errors.
pub(super) struct PathText(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(HttpError::bad_request("path: not UTF-8")),
        }
    }
}
