//! Owns one request to a subscriber's webhook: its signature by the Standard Webhooks scheme, and what its
//! answer means.
//!
//! Does not try again.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, Mac as _};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Url, redirect, retry};
use sha2::Sha256;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::store::{Event, EventId};

/// Octets a signing key must have, decoded (Standard Webhooks asks for 24 to 64).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Octets of an answer's body that are read; what it says is of no interest.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Signs requests by the Standard Webhooks scheme, version `v1`. Never printed.
#[derive(Clone)]
pub struct WebhookSigner(Vec<u8>);

impl WebhookSigner {
    /// Reads a secret as base64, with or without `whsec_` before it.
    ///
    /// # Errors
    /// It is not of that form, or too short or too long.
    pub fn parse(text: &str) -> Result<Self, WebhookSignerError> {
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let key = BASE64
            .decode(encoded.as_bytes())
            .map_err(|_| WebhookSignerError)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(WebhookSignerError);
        }
        Ok(Self(key))
    }

    /// The `webhook-signature` field's value.
    #[expect(
        clippy::expect_used,
        reason = "HMAC takes a key of any length (RFC 2104 section 2)"
    )]
    fn sign(&self, id: &str, seconds: u64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(format!("{id}.{seconds}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(…)")
    }
}

/// The secret is not of the scheme's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the base64 of 24 to 64 octets, as whsec_…")]
pub struct WebhookSignerError;

/// Where a webhook is and how long it may take.
#[derive(Clone, Debug)]
pub struct EventWebhookSettings {
    /// As in `https://product.example/hooks/mail`.
    pub url: String,
    /// What signs: while a secret changes, both, the new one first.
    pub signers: Vec<WebhookSigner>,
    /// The longest a request may take.
    pub timeout: Duration,
}

/// A subscriber's webhook. Redirects are not followed, proxies of the environment are not asked.
#[derive(Clone, Debug)]
pub struct EventWebhook {
    client: Client,
    url: Url,
    signers: Vec<WebhookSigner>,
}

/// Why a webhook cannot be used.
#[derive(Debug, Error)]
pub enum EventWebhookError {
    /// The URL is none that a request can go to.
    #[error("URL is not http:// or https:// with a host and without user, password and fragment")]
    Url,
    /// The HTTP client could not be set up.
    #[error("HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EventPostOutcome {
    /// 2xx.
    Accepted,
    /// It may pass.
    Retry {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl EventWebhook {
    /// Checks the settings; connects to nothing yet.
    ///
    /// # Errors
    /// Says what cannot be used.
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

    /// Tells one event. Its `webhook-id` is the same each time.
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
            Ok(response) => read_response(response).await,
            Err(error) => EventPostOutcome::Retry {
                reason: root_cause(&error),
                retry_after: None,
            },
        }
    }
}

/// The status alone decides. What is left of a short body is read, so that the connection lives on.
async fn read_response(mut response: reqwest::Response) -> EventPostOutcome {
    let status = response.status();
    let wish = response.headers().get(RETRY_AFTER);
    let wish = wish.and_then(|value| value.to_str().ok()?.parse().ok());
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
        retry_after: wish.map(Duration::from_secs),
    }
}

/// The innermost cause alone: the outer ones repeat the URL.
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
        assert_eq!(format!("{signer:?}"), "Signer(…)");
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
