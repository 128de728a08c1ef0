//! Owns what is fetched while a provider waits for its answer: certificates, the confirmation of a
//! subscription, a mail in a bucket.
//!
//! Does not decide whether to fetch: hosts, topics and signatures were checked before.

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
use crate::limits::MemoryPermit;
use crate::objects::{BucketError, ReadableBuckets};
use crate::tls::Certificate;

/// Octets of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// Octets of the answer to a confirmation.
const CONFIRMATION_BYTES_MAX: usize = 64 * 1024;
/// Certificates that are kept. Amazon has one for each region, and changes it once a year.
const CERTIFICATES_MAX: usize = 64;

/// The time by which all that is fetched for one request must be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct FetchDeadline {
    ends: Instant,
}

impl FetchDeadline {
    /// SNS waits fifteen seconds for its answer.
    const MAX: Duration = Duration::from_secs(10);

    pub(super) fn start() -> Self {
        Self {
            ends: Instant::now() + Self::MAX,
        }
    }

    /// The result of `work`, if it is there in time.
    pub(super) async fn run<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, work).await.ok()
    }
}

/// Fetches from outside for requests that wait.
pub(super) struct ExternalFetcher {
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) buckets: Option<ReadableBuckets>,
    certificates: Mutex<HashMap<String, Bytes>>,
}

impl ExternalFetcher {
    pub(super) fn new(fetch: Arc<dyn Fetch>, buckets: Option<ReadableBuckets>) -> Self {
        Self {
            fetch,
            buckets,
            certificates: Mutex::default(),
        }
    }

    /// The certificate at `url`, whose host was checked.
    pub(super) async fn certificate(
        &self,
        url: String,
        deadline: FetchDeadline,
    ) -> Result<Bytes, AuthenticationError> {
        let kept = self.cached().get(&url).cloned();
        if let Some(certificate) = kept {
            return Ok(certificate);
        }
        let fetched = self.fetch.get(&url, None, CERTIFICATE_BYTES_MAX);
        let certificate = match deadline.run(fetched).await {
            Some(Ok(certificate)) => certificate,
            Some(Err(error)) => {
                warn!(url, %error, "the certificate could not be fetched");
                return Err(AuthenticationError::NoCertificate);
            }
            None => return Err(AuthenticationError::NoCertificate),
        };
        if Certificate::from_pem(&certificate).is_none() {
            return Err(AuthenticationError::NoCertificate);
        }
        let mut certificates = self.cached();
        if certificates.len() >= CERTIFICATES_MAX {
            certificates.clear();
        }
        certificates.insert(url, certificate.clone());
        Ok(certificate)
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<String, Bytes>> {
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

    /// Reads a mail from its bucket, after `permit` has room for all of it.
    ///
    /// # Errors
    /// The outcome of the request: only a mail that is too long is not asked for again.
    pub(super) async fn read_bucket(
        &self,
        mail: &BucketMail,
        bytes_max: usize,
        permit: &mut MemoryPermit,
    ) -> Result<Bytes, WebhookOutcome> {
        let Some(buckets) = &self.buckets else {
            error!("a mail is in a bucket, and no bucket is set up");
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
    let cause = std::error::Error::source(error).map(ToString::to_string);
    error!(%error, cause, "a mail could not be read from its bucket");
    WebhookOutcome::Unavailable("the mail cannot be read from its bucket now")
}
