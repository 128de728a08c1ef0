//! Owns what is fetched while a provider waits for its answer: certificates, the confirmation of a
//! subscription, a mail that lies in a bucket.
//!
//! Does not decide whether it should be: hosts, topics and signatures were looked at before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::der::Certificate;
use super::fetch::Fetch;
use super::incoming::BucketMail;
use super::outcome::WebhookOutcome;
use super::proof::AuthenticationError;
use crate::limits::MemoryPermit;
use crate::objects::{BucketError, ReadableBuckets};

/// Octets of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// Octets of the answer to a confirmation.
const CONFIRMATION_BYTES_MAX: usize = 64 * 1024;
/// Certificates that are kept. Amazon has one a region, and changes it once a year.
const CERTIFICATES_MAX: usize = 64;

/// How long all that is fetched for one request may take.
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

    /// What comes in time.
    pub(super) async fn run<T>(self, coming: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, coming).await.ok()
    }
}

/// What can be asked outside.
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
        patience: FetchDeadline,
    ) -> Result<Bytes, AuthenticationError> {
        let kept = self.cached().get(&url).cloned();
        if let Some(certificate) = kept {
            return Ok(certificate);
        }
        let fetched = self.fetch.get(&url, None, CERTIFICATE_BYTES_MAX);
        let certificate = match patience.run(fetched).await {
            Some(Ok(certificate)) => certificate,
            Some(Err(error)) => {
                warn!(url, %error, "certificate not fetched");
                return Err(AuthenticationError::NoCertificate);
            }
            None => return Err(AuthenticationError::NoCertificate),
        };
        if Certificate::parse(&certificate).is_none() {
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

    /// Says yes to a topic.
    pub(super) async fn confirm_subscription(
        &self,
        url: &str,
        provider: &'static str,
        patience: FetchDeadline,
    ) -> WebhookOutcome {
        let asked = self.fetch.get(url, None, CONFIRMATION_BYTES_MAX);
        match patience.run(asked).await {
            Some(Ok(_)) => {
                info!(provider, "subscription confirmed");
                return WebhookOutcome::Ignored("subscription confirmed");
            }
            Some(Err(error)) => warn!(provider, %error, "subscription not confirmed"),
            None => warn!(provider, "subscription not confirmed in time"),
        }
        WebhookOutcome::Unavailable("subscription not confirmed")
    }

    /// The mail that lies in a bucket. `permit` grows by its length before a byte is read.
    ///
    /// # Errors
    /// How the request ends instead: only what is too long is not asked for again.
    pub(super) async fn read_bucket(
        &self,
        place: &BucketMail,
        bytes_max: usize,
        permit: &mut MemoryPermit,
    ) -> Result<Bytes, WebhookOutcome> {
        let Some(buckets) = &self.buckets else {
            error!("a mail lies in a bucket, and no bucket is set up");
            return Err(WebhookOutcome::Unavailable(
                "mail in a bucket is not fetched",
            ));
        };
        let found = buckets.open(&place.bucket, &place.key).await;
        let found = found.map_err(|failed| bucket_unavailable(&failed))?;
        let bytes = usize::try_from(found.bytes()).unwrap_or(usize::MAX);
        if bytes > bytes_max {
            return Err(WebhookOutcome::TooLarge);
        }
        if !permit.grow(bytes) {
            return Err(WebhookOutcome::Unavailable("too much mail at once"));
        }
        found
            .read_all()
            .await
            .map_err(|failed| bucket_unavailable(&failed))
    }
}

fn bucket_unavailable(failed: &BucketError) -> WebhookOutcome {
    let cause = std::error::Error::source(failed).map(ToString::to_string);
    error!(error = %failed, cause, "a mail in a bucket was not had");
    WebhookOutcome::Unavailable("the mail in the bucket cannot be had now")
}
