//! Owns lists in pages: the query of a page, its bounds, and its response.
//!
//! Does not query anything.

use axum::Json;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::error::HttpError;
use super::extract::named_parameters;

/// The default and the maximum number of items of a page.
const PAGE_ITEMS_DEFAULT: usize = 50;
const PAGE_ITEMS_MAX: usize = 100;

/// The query of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    /// The last item of the previous page.
    pub(super) after: Option<String>,
    /// The number of items, within the bounds.
    pub(super) limit: usize,
    /// The state to filter by, one of the list's own.
    pub(super) state: Option<String>,
}

impl PageQuery {
    /// Parses the query of a list whose items have these states; an empty list of states means no such
    /// filter.
    ///
    /// # Errors
    /// A parameter is unknown, given twice or out of bounds.
    pub(super) fn read(uri: &Uri, states: &[&str]) -> Result<Self, HttpError> {
        let (after, limit, state) = if states.is_empty() {
            let [after, limit] = named_parameters(uri, ["after", "limit"])?;
            (after, limit, None)
        } else {
            let [after, limit, state] = named_parameters(uri, ["after", "limit", "state"])?;
            (after, limit, state)
        };
        let limit = match limit.as_deref().map(str::parse) {
            None => PAGE_ITEMS_DEFAULT,
            Some(Ok(limit)) if (1..=PAGE_ITEMS_MAX).contains(&limit) => limit,
            Some(_) => {
                let message = format!("limit: a number from 1 to {PAGE_ITEMS_MAX}");
                return Err(HttpError::bad_request(message));
            }
        };
        if state
            .as_deref()
            .is_some_and(|state| !states.contains(&state))
        {
            let message = format!("state: one of {}", states.join(", "));
            return Err(HttpError::bad_request(message));
        }
        Ok(Self {
            after,
            limit,
            state,
        })
    }
}

/// A page of a list, and the id to pass as `after` if there are more items.
pub(super) fn page_response(items: &[Value], more: bool) -> Response {
    let next = items.last().filter(|_| more).map(|item| &item["id"]);
    Json(json!({ "success": true, "data": items, "next": next })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, states: &[&str]) -> Result<PageQuery, String> {
        let uri: Uri = format!("/list{query}").parse().unwrap();
        PageQuery::read(&uri, states).map_err(|error| error.message)
    }

    #[test]
    fn a_query_is_parsed_completely_or_refused() {
        let page = read("?after=a%20b&limit=7&state=sent", &["waiting", "sent"]).unwrap();
        assert_eq!(page.after.as_deref(), Some("a b"));
        assert_eq!((page.limit, page.state.as_deref()), (7, Some("sent")));
        assert_eq!(read("", &[]).unwrap().limit, PAGE_ITEMS_DEFAULT);
        for (query, states, named) in [
            ("?limit=0", [].as_slice(), "limit"),
            ("?limit=101", &[], "limit"),
            ("?limit=x", &[], "limit"),
            ("?limit=1&limit=2", &[], "limit: given twice"),
            ("?threadId=77", &[], "threadId: there is no such parameter"),
            ("?state=sent", &[], "state: there is no such parameter"),
            ("?state=gone", &["sent"], "state: one of sent"),
            ("?state=sent&state=sent", &["sent"], "state: given twice"),
        ] {
            let error = read(query, states).unwrap_err();
            assert!(error.contains(named), "{query}: {error}");
        }
    }
}
