//! Owns one request to a subscriber's webhook: its signature by the Standard Webhooks scheme, and the
//! meaning of the response.
//!
//! Does not retry.

use std::error::Error;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Url, redirect, retry};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::retry::parse_retry_after;
use crate::signature::{HmacKey, StandardMessage, standard_key};
use crate::store::{Event, EventId};

/// Octets of a signing key after decoding (Standard Webhooks asks for 24 to 64).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The number of octets of a response body that are read; its content is ignored.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A signing key of the Standard Webhooks scheme, version `v1`. It is never printed.
#[derive(Clone, Debug)]
pub struct WebhookSigner(HmacKey);

impl WebhookSigner {
    /// Parses a secret in base64, with or without the prefix `whsec_`.
    ///
    /// # Errors
    /// The text has another form, or the key is too short or too long.
    pub fn parse(text: &str) -> Result<Self, WebhookSignerError> {
        let key = standard_key(text).filter(|key| KEY_BYTES.contains(&key.len()));
        let key = key.ok_or(WebhookSignerError)?;
        Ok(Self(HmacKey::new(&key)))
    }

    /// The value of the `webhook-signature` field.
    fn sign(&self, id: &str, seconds: u64, body: &str) -> String {
        self.0.sign_standard(StandardMessage {
            id,
            timestamp: &seconds.to_string(),
            body: body.as_bytes(),
        })
    }
}

/// The secret does not have the form of the scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the base64 of 24 to 64 octets, as whsec_…")]
pub struct WebhookSignerError;

/// The address and the bounds of a webhook.
#[derive(Clone, Debug)]
pub struct EventWebhookSettings {
    /// The URL, such as `https://product.example/hooks/mail`.
    pub url: String,
    /// The signing keys, the newest first; several while a secret is being rotated.
    pub signers: Vec<WebhookSigner>,
    /// The longest time of a request.
    pub timeout: Duration,
}

/// A subscriber's webhook. Redirects are not followed, and proxies of the environment are not used.
#[derive(Clone, Debug)]
pub struct EventWebhook {
    client: Client,
    url: Url,
    signers: Vec<WebhookSigner>,
}

/// The reason why a webhook cannot be used.
#[derive(Debug, Error)]
pub enum EventWebhookError {
    /// The URL is invalid.
    #[error("URL is not http:// or https:// with a host and without user, password and fragment")]
    Url,
    /// The HTTP client could not be set up.
    #[error("HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EventPostOutcome {
    /// The subscriber accepted the event with 2xx.
    Accepted,
    /// The request failed and may succeed later.
    Retry {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl EventWebhook {
    /// Checks the settings without connecting.
    ///
    /// # Errors
    /// Names the invalid setting.
    pub fn new(settings: EventWebhookSettings) -> Result<Self, EventWebhookError> {
        let url = Url::parse(&settings.url).map_err(|_| EventWebhookError::Url)?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && url.has_host();
        if !plain || !matches!(url.scheme(), "http" | "https") {
            return Err(EventWebhookError::Url);
        }
        let client = Client::builder()
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .timeout(settings.timeout)
            .build()
            .map_err(EventWebhookError::Client)?;
        Ok(Self {
            client,
            url,
            signers: settings.signers,
        })
    }

    /// Sends one event. Its `webhook-id` is the same in every attempt.
    pub(super) async fn send(
        &self,
        id: EventId,
        event: &Event,
        now: Timestamp,
    ) -> EventPostOutcome {
        let name = format!("evt_{id}");
        let body = event.to_json().to_string();
        let signed = |signer: &WebhookSigner| signer.sign(&name, now.as_secs(), &body);
        let signatures: Vec<String> = self.signers.iter().map(signed).collect();
        let sent = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &name)
            .header("webhook-timestamp", now.as_secs().to_string())
            .header("webhook-signature", signatures.join(" "))
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => read_response(response, now).await,
            Err(error) => EventPostOutcome::Retry {
                reason: root_cause(&error),
                retry_after: None,
            },
        }
    }
}

/// Only the status counts. The rest of a short body is read, so that the connection can be reused.
async fn read_response(mut response: reqwest::Response, now: Timestamp) -> EventPostOutcome {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| parse_retry_after(value.to_str().ok()?, now));
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > ANSWER_BYTES_MAX {
            break;
        }
    }
    if status.is_success() {
        return EventPostOutcome::Accepted;
    }
    EventPostOutcome::Retry {
        reason: format!("HTTP {}", status.as_u16()),
        retry_after,
    }
}

/// The innermost cause only, because the outer ones repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "time-out".to_owned();
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_scheme() {
        // The example of the Standard Webhooks specification's reference libraries.
        let signer = WebhookSigner::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{signer:?}"), "WebhookSigner(HmacKey(…))");
    }

    #[test]
    fn weak_or_odd_secrets_and_urls_are_refused() {
        for text in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS?",
        ] {
            assert!(WebhookSigner::parse(text).is_err(), "{text}");
        }
        for url in ["", "ftp://x/", "https://u:p@x/", "https://", "http://x/#a"] {
            let settings = EventWebhookSettings {
                url: url.to_owned(),
                signers: Vec::new(),
                timeout: Duration::from_secs(1),
            };
            assert!(EventWebhook::new(settings).is_err(), "{url}");
        }
    }
}
