//! Owns the reading of path parameters, query parameters and bodies, with errors in our form.
//!
//! Does not interpret them.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::error::HttpError;

/// The number of characters of a parameter's name in an error.
const NAME_CHARS_MAX: usize = 40;

/// The parameter of a path, such as `id` in `/jobs/{id}`.
pub(super) struct PathId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|_| HttpError::bad_request("the path is not UTF-8"))?;
        Ok(Self(id))
    }
}

/// The parameters of a query, in order.
///
/// # Errors
/// The query is malformed.
pub(super) fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, HttpError> {
    let query = Query::try_from_uri(uri);
    let Query(pairs) = query.map_err(|_| HttpError::bad_request("the query cannot be read"))?;
    Ok(pairs)
}

/// The values of these parameters, by the same index.
///
/// # Errors
/// The query is malformed, has another parameter, or has one of them twice.
pub(super) fn named_parameters<const N: usize>(
    uri: &Uri,
    names: [&str; N],
) -> Result<[Option<String>; N], HttpError> {
    let mut values = [const { None }; N];
    for (name, value) in parameters(uri)? {
        let shown = || name.chars().take(NAME_CHARS_MAX).collect::<String>();
        let Some(at) = names.iter().position(|known| *known == name) else {
            let message = format!("{}: there is no such parameter", shown());
            return Err(HttpError::bad_request(message));
        };
        if values[at].replace(value).is_some() {
            return Err(HttpError::bad_request(format!("{}: given twice", shown())));
        }
    }
    Ok(values)
}

/// The whole body.
///
/// # Errors
/// The body is too large, or the connection broke.
pub(super) fn whole_body(body: Result<Bytes, BytesRejection>) -> Result<Bytes, HttpError> {
    body.map_err(|rejection| {
        let message = "the body is too large or incomplete";
        HttpError::new(rejection.status(), "body", message)
    })
}
