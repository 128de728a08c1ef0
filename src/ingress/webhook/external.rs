//! Owns the fetches during a provider's request: certificates, the confirmation of a subscription, a mail
//! in a bucket.
//!
//! Does not decide what to fetch: hosts, topics and signatures were checked before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::error::AuthenticationError;
use super::fetch::Fetch;
use super::incoming::BucketMail;
use super::outcome::WebhookOutcome;
use crate::limits::{LogThrottle, MemoryPermit};
use crate::objects::{BucketError, ReadableBuckets};
use crate::tls::Certificate;

/// Octets of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// Octets of the response to a confirmation.
const CONFIRMATION_BYTES_MAX: usize = 64 * 1024;
/// The number of certificates, and of failures to fetch one, that are cached. Amazon has one for each
/// region, and changes it once a year.
const CERTIFICATES_MAX: usize = 64;
/// The time for which a failure to fetch a certificate is cached.
const FAILURE_KEPT: Duration = Duration::from_secs(60);
/// The number of characters of an error about a bucket that the log shows.
const ERROR_CHARS_MAX: usize = 300;
/// The number of log lines per second about failures to fetch a certificate.
const LINES_MAX: u32 = 1;

/// The deadline for all fetches of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchDeadline {
    ends: Instant,
}

impl FetchDeadline {
    /// SNS waits fifteen seconds for the response.
    const MAX: Duration = Duration::from_secs(10);

    pub(super) fn start() -> Self {
        Self {
            ends: Instant::now() + Self::MAX,
        }
    }

    /// The result of `work`, if it arrives in time.
    pub(super) async fn run<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, work).await.ok()
    }
}

/// Fetches for requests that wait for the response.
pub(super) struct ExternalFetcher {
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) buckets: Option<ReadableBuckets>,
    certificates: Mutex<CertificateCache>,
    throttle: LogThrottle,
}

/// Certificates, and failures with their expiry, by URL.
#[derive(Default)]
struct CertificateCache {
    fetched: HashMap<String, Bytes>,
    failed: HashMap<String, Instant>,
}

impl CertificateCache {
    fn get(&self, url: &str) -> Option<Result<Bytes, AuthenticationError>> {
        if let Some(certificate) = self.fetched.get(url) {
            return Some(Ok(certificate.clone()));
        }
        let until = self.failed.get(url)?;
        (*until > Instant::now()).then_some(Err(AuthenticationError::NoCertificate))
    }

    fn insert(&mut self, url: String, certificate: Option<Bytes>) {
        let now = Instant::now();
        self.failed.retain(|_, until| *until > now);
        if self.fetched.len() >= CERTIFICATES_MAX {
            self.fetched.clear();
        }
        if self.failed.len() >= CERTIFICATES_MAX {
            self.failed.clear();
        }
        match certificate {
            Some(certificate) => drop(self.fetched.insert(url, certificate)),
            None => drop(self.failed.insert(url, now + FAILURE_KEPT)),
        }
    }
}

impl ExternalFetcher {
    pub(super) fn new(fetch: Arc<dyn Fetch>, buckets: Option<ReadableBuckets>) -> Self {
        Self {
            fetch,
            buckets,
            certificates: Mutex::default(),
            throttle: LogThrottle::new(LINES_MAX),
        }
    }

    /// The certificate at `url`, whose host and length were checked.
    pub(super) async fn certificate(
        &self,
        url: String,
        deadline: FetchDeadline,
    ) -> Result<Bytes, AuthenticationError> {
        let cached = self.cached().get(&url);
        if let Some(cached) = cached {
            return cached;
        }
        let fetched = self.fetch.get(&url, None, CERTIFICATE_BYTES_MAX);
        let certificate = match deadline.run(fetched).await {
            Some(Ok(certificate)) if Certificate::from_pem(&certificate).is_some() => {
                Ok(certificate)
            }
            Some(Ok(_)) => Err("not a certificate".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no answer in time".to_owned()),
        };
        if let Err(error) = &certificate
            && self.throttle.allow()
        {
            warn!(url, error, "the certificate could not be fetched");
        }
        let certificate = certificate.ok();
        self.cached().insert(url, certificate.clone());
        certificate.ok_or(AuthenticationError::NoCertificate)
    }

    fn cached(&self) -> MutexGuard<'_, CertificateCache> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Confirms the subscription to a topic.
    pub(super) async fn confirm_subscription(
        &self,
        url: &str,
        provider: &'static str,
        deadline: FetchDeadline,
    ) -> WebhookOutcome {
        let asked = self.fetch.get(url, None, CONFIRMATION_BYTES_MAX);
        match deadline.run(asked).await {
            Some(Ok(_)) => {
                info!(provider, "subscription confirmed");
                return WebhookOutcome::Ignored("subscription confirmed");
            }
            Some(Err(error)) => warn!(provider, %error, "subscription not confirmed"),
            None => warn!(provider, "subscription not confirmed in time"),
        }
        WebhookOutcome::Unavailable("subscription not confirmed")
    }

    /// Reads a mail from its bucket, after `permit` has memory for all of it.
    ///
    /// # Errors
    /// The outcome of the request: only a mail that is too long is refused permanently.
    pub(super) async fn read_bucket(
        &self,
        mail: &BucketMail,
        bytes_max: usize,
        permit: &mut MemoryPermit,
    ) -> Result<Bytes, WebhookOutcome> {
        let Some(buckets) = &self.buckets else {
            error!("a mail is in a bucket, but no bucket is configured");
            return Err(WebhookOutcome::Unavailable(
                "mail in a bucket is not fetched",
            ));
        };
        let found = buckets.open(&mail.bucket, &mail.key).await;
        let found = found.map_err(|error| bucket_unavailable(&error))?;
        let bytes = usize::try_from(found.bytes()).unwrap_or(usize::MAX);
        if bytes > bytes_max {
            return Err(WebhookOutcome::TooLarge);
        }
        if !permit.grow(bytes) {
            return Err(WebhookOutcome::Unavailable("too much mail at once"));
        }
        let whole = found.read_all().await;
        whole.map_err(|error| bucket_unavailable(&error))
    }
}

fn bucket_unavailable(error: &BucketError) -> WebhookOutcome {
    // The request names the bucket and the key, and the causes may contain both.
    let short = |text: String| text.chars().take(ERROR_CHARS_MAX).collect::<String>();
    let cause = std::error::Error::source(error).map(|cause| short(cause.to_string()));
    let error = short(error.to_string());
    error!(error, cause, "a mail could not be read from its bucket");
    WebhookOutcome::Unavailable("the mail cannot be read from its bucket now")
}
