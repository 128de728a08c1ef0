//! Owns the calls to a product's Messages API: three calls, each bounded in time and bytes.
//!
//! Does not retry and does not decide how a mail ends: the result is a value, [`ApiOutcome`].

use std::error::Error;
use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url, redirect, retry};
use serde_json::Value;
use thiserror::Error;

pub use super::api_outcome::{ANSWER_BYTES_MAX, ApiOutcome, EXCERPT_CHARS_MAX};
use super::api_outcome::{
    ApiResponse, ExpectedResult, ResponseBody, classify_response, excerpt, is_id,
};
use crate::clock;

/// The address, the key and the timeouts of a Messages API.
#[derive(Clone)]
pub struct ApiSettings {
    /// The base URL, such as `http://localhost:3000/api/v1/messages`.
    pub base_url: String,
    /// The bearer key. Never printed.
    pub key: String,
    /// The longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// The longest pause within a response.
    pub read_timeout: Duration,
    /// The longest time of a whole call.
    pub total_timeout: Duration,
}

impl ApiSettings {
    /// Settings with the default timeouts: 5 s to connect, 15 s between reads, 30 s in all.
    pub fn new(base_url: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            key: key.into(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(15),
            total_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSettings")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// A client of one Messages API.
///
/// Redirects are not followed, proxies of the environment are not used, and no call is repeated by
/// the client itself.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: Url,
    key: String,
}

impl Api {
    /// Checks the settings without connecting.
    ///
    /// # Errors
    /// Names the invalid setting, without the key.
    pub fn new(settings: &ApiSettings) -> Result<Self, ApiError> {
        let base = parse_base_url(&settings.base_url)?;
        let mut bearer =
            HeaderValue::try_from(format!("Bearer {}", settings.key)).map_err(|_| ApiError::Key)?;
        if settings.key.is_empty() {
            return Err(ApiError::Key);
        }
        bearer.set_sensitive(true);
        let client = Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .timeout(settings.total_timeout)
            .build()
            .map_err(ApiError::Client)?;
        Ok(Self {
            client,
            base,
            key: settings.key.clone(),
        })
    }

    /// `POST {base}/threads`, which returns the thread's id.
    pub async fn create_thread(&self, key: &str, thread: &Value) -> ApiOutcome {
        let call = ApiRequest {
            method: Method::POST,
            path: &["threads"],
            key,
            body: thread,
        };
        self.call(call, ExpectedResult::Id).await
    }

    /// `POST {base}/threads/{thread}/messages`, which returns the message's id.
    pub async fn create_message(&self, thread: &str, key: &str, message: &Value) -> ApiOutcome {
        let call = ApiRequest {
            method: Method::POST,
            path: &["threads", thread, "messages"],
            key,
            body: message,
        };
        self.call(call, ExpectedResult::Id).await
    }

    /// `PATCH {base}/threads/{thread}`. No response body is expected.
    pub async fn patch_thread(&self, thread: &str, key: &str, patch: &Value) -> ApiOutcome {
        let call = ApiRequest {
            method: Method::PATCH,
            path: &["threads", thread],
            key,
            body: patch,
        };
        self.call(call, ExpectedResult::Patched(thread)).await
    }

    async fn call(&self, call: ApiRequest<'_>, wanted: ExpectedResult<'_>) -> ApiOutcome {
        // The URL parser removes "." and "..": such an id would name another resource.
        if !call.path.iter().all(|segment| is_id(segment)) {
            let reason = "thread id is not valid in a URL".to_owned();
            return ApiOutcome::Permanent { status: 0, reason };
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        let sent = self
            .client
            .request(call.method, url)
            .header("idempotency-key", call.key)
            .json(call.body)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let heard = read_response(response).await;
                classify_response(&heard, wanted, &self.key, clock::now())
            }
            Err(error) => ApiOutcome::Transient {
                reason: excerpt(root_cause(&error).as_bytes(), &self.key),
                retry_after: None,
            },
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// The reason why a client cannot be built.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The base URL is invalid, or cannot be called.
    #[error(
        "base URL {0:?} is not http:// or https:// with a host and without user, query, fragment"
    )]
    Base(String),
    /// The HTTP client could not be set up.
    #[error("HTTP client")]
    Client(#[source] reqwest::Error),
    /// The key is empty or has characters that no header field can carry.
    #[error("key is empty or has characters that no header field can carry")]
    Key,
}

struct ApiRequest<'a> {
    method: Method,
    path: &'a [&'a str],
    key: &'a str,
    body: &'a Value,
}

fn parse_base_url(text: &str) -> Result<Url, ApiError> {
    let wrong = || ApiError::Base(text.to_owned());
    // A URL with a password must not be printed.
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ApiError::Base("…@…".to_owned()));
    }
    let plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    Ok(url)
}

async fn read_response(mut response: Response) -> ApiResponse {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut bytes = Vec::new();
    let body = loop {
        match response.chunk().await {
            Ok(None) => break ResponseBody::Whole(bytes),
            Ok(Some(chunk)) => {
                let room = ANSWER_BYTES_MAX - bytes.len();
                bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    // Dropping the response closes the connection: the rest is never read.
                    break ResponseBody::Truncated(bytes);
                }
            }
            Err(error) => break ResponseBody::Interrupted(bytes, root_cause(&error)),
        }
    };
    ApiResponse {
        status,
        retry_after,
        body,
    }
}

/// The innermost cause only, because the outer ones repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            "time-out while connecting".to_owned()
        } else {
            "time-out".to_owned()
        };
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let settings = ApiSettings::new("http://127.0.0.1:1/base", "k-secret");
        let api = Api::new(&settings).unwrap();
        assert!(!format!("{settings:?} {api:?}").contains("k-secret"));
        let wrong = Api::new(&ApiSettings::new("http://u:pass@host/", "k-secret"));
        assert!(!wrong.unwrap_err().to_string().contains("pass"));
        let wrong = Api::new(&ApiSettings::new("http://host/", "k-secret\n"));
        assert!(!wrong.unwrap_err().to_string().contains("k-secret"));
    }

    #[test]
    fn base_urls_are_checked() {
        for good in [
            "http://localhost:3000/api/v1/messages",
            "https://x.example/a/",
        ] {
            assert!(parse_base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost:3000",
            "ftp://x/",
            "http://",
            "http://x/?k=1",
            "data:x",
        ] {
            assert!(parse_base_url(bad).is_err(), "{bad}");
        }
    }
}
