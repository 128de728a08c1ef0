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
use super::incoming::InBucket;
use super::law::Outcome;
use super::proof::Unproven;
use super::room::Held;
use crate::objects::{BucketError, Buckets};

/// Octets of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
/// Octets of the answer to a confirmation.
const CONFIRMATION_BYTES_MAX: usize = 64 * 1024;
/// Certificates that are kept. Amazon has one a region, and changes it once a year.
const CERTIFICATES_MAX: usize = 64;

/// How long all that is fetched for one request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    ends: Instant,
}

impl Patience {
    /// SNS waits fifteen seconds for its answer.
    const MAX: Duration = Duration::from_secs(10);

    pub(super) fn begun() -> Self {
        Self {
            ends: Instant::now() + Self::MAX,
        }
    }

    /// What comes in time.
    pub(super) async fn wait<T>(self, coming: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, coming).await.ok()
    }
}

/// What can be asked outside.
pub(super) struct Outside {
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) buckets: Option<Buckets>,
    certificates: Mutex<HashMap<String, Bytes>>,
}

impl Outside {
    pub(super) fn new(fetch: Arc<dyn Fetch>, buckets: Option<Buckets>) -> Self {
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
        patience: Patience,
    ) -> Result<Bytes, Unproven> {
        let kept = self.kept().get(&url).cloned();
        if let Some(certificate) = kept {
            return Ok(certificate);
        }
        let fetched = self.fetch.get(&url, None, CERTIFICATE_BYTES_MAX);
        let certificate = match patience.wait(fetched).await {
            Some(Ok(certificate)) => certificate,
            Some(Err(error)) => {
                warn!(url, %error, "certificate not fetched");
                return Err(Unproven::NoCertificate);
            }
            None => return Err(Unproven::NoCertificate),
        };
        if Certificate::parse(&certificate).is_none() {
            return Err(Unproven::NoCertificate);
        }
        let mut certificates = self.kept();
        if certificates.len() >= CERTIFICATES_MAX {
            certificates.clear();
        }
        certificates.insert(url, certificate.clone());
        Ok(certificate)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Bytes>> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says yes to a topic.
    pub(super) async fn confirm(
        &self,
        url: &str,
        provider: &'static str,
        patience: Patience,
    ) -> Outcome {
        let asked = self.fetch.get(url, None, CONFIRMATION_BYTES_MAX);
        match patience.wait(asked).await {
            Some(Ok(_)) => {
                info!(provider, "subscription confirmed");
                return Outcome::Nothing("subscription confirmed");
            }
            Some(Err(error)) => warn!(provider, %error, "subscription not confirmed"),
            None => warn!(provider, "subscription not confirmed in time"),
        }
        Outcome::Later("subscription not confirmed")
    }

    /// The mail that lies in a bucket. `held` gets room for it before a byte is read.
    ///
    /// # Errors
    /// How the request ends instead: only what is too long is not asked for again.
    pub(super) async fn mail(
        &self,
        place: &InBucket,
        bytes_max: usize,
        held: &mut Held,
    ) -> Result<Bytes, Outcome> {
        let Some(buckets) = &self.buckets else {
            error!("a mail lies in a bucket, and no bucket is set up");
            return Err(Outcome::Later("mail in a bucket is not fetched"));
        };
        let found = buckets.open(&place.bucket, &place.key).await;
        let found = found.map_err(|failed| away(&failed))?;
        let bytes = usize::try_from(found.bytes()).unwrap_or(usize::MAX);
        if bytes > bytes_max {
            return Err(Outcome::TooLarge);
        }
        if !held.take(bytes) {
            return Err(Outcome::Later("too much mail at once"));
        }
        found.whole().await.map_err(|failed| away(&failed))
    }
}

fn away(failed: &BucketError) -> Outcome {
    let cause = std::error::Error::source(failed).map(ToString::to_string);
    error!(error = %failed, cause, "a mail in a bucket was not had");
    Outcome::Later("the mail in the bucket cannot be had now")
}
