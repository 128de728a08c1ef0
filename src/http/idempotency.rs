//! Owns the `Idempotency-Key` of a request and its bounds.
//!
//! Does not store keys; the handlers do.

use axum::http::HeaderMap;

use super::error::HttpError;

/// The name of the header field.
const NAME: &str = "Idempotency-Key";
/// Octets of a key.
const KEY_BYTES_MAX: usize = 255;

/// The key of a request.
///
/// # Errors
/// There are several keys, or the value is empty, longer than 255 octets or not ASCII.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, HttpError> {
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if !(1..=KEY_BYTES_MAX).contains(&key.len()) || values.next().is_some() {
        let message = format!("{NAME}: once, with 1 to {KEY_BYTES_MAX} ASCII characters");
        return Err(HttpError {
            field: Some(NAME.to_owned()),
            ..HttpError::bad_request(message)
        });
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_single_and_short() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for (values, wanted) in [
            (vec![], Some(None)),
            (vec!["a key"], Some(Some("a key"))),
            (vec![&long[1..]], Some(Some(&long[1..]))),
            (vec![""], None),
            (vec![&long], None),
            (vec!["\u{e9}"], None),
            (vec!["a", "a"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(NAME, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let found = key(&headers).ok();
            assert_eq!(found.as_ref().map(Option::as_deref), wanted, "{values:?}");
        }
    }
}
