//! Owns the settings and parts of the webhook receiver, and the head of a request.
//!
//! Does not read configuration files.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::adapter::Adapter;
use super::deferred::{FetchQueue, ProviderApiKeys};
use super::fetch::Fetch;
use super::headers::Headers;
use super::metrics::Metrics;
use super::set_aside::SetAside;
use crate::ingress::routes::Routes;
use crate::limits::Rate;
use crate::network::Network;
use crate::objects::{ReadableBuckets, S3Bucket};
use crate::store::Store;

/// The configured providers, and the limits of their requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The adapters of the providers. If the path names none, the first that recognises a request handles
    /// it; a request that none recognises is handled by our own scheme, or by the only adapter.
    pub adapters: Vec<Arc<dyn Adapter>>,
    /// Octets of a mail.
    pub mail_bytes_max: usize,
    /// Octets of bodies that all requests together hold in memory. A mail in parts takes up to four times
    /// its body while it is rebuilt.
    pub bytes_in_flight_max: usize,
    /// The rate of requests from one IPv4 address or one /64.
    pub rate_per_source: Rate,
    /// The rate of all requests together.
    pub rate_total: Rate,
    /// The time limit of the store for a mail.
    pub store_max: Duration,
    /// The keys of providers' APIs, for [`FetchQueue`].
    pub api_keys: ProviderApiKeys,
    /// The buckets into which a provider may put mail, for [`WebhookParts::buckets`].
    pub buckets: Vec<S3Bucket>,
    /// The networks of reverse proxies, whose `X-Forwarded-For` is trusted.
    pub proxies: Vec<Network>,
}

impl Settings {
    /// The default limit of a mail in octets.
    pub const MAIL_BYTES_MAX: usize = 50 << 20;

    /// These adapters with the default limits.
    pub fn new(adapters: Vec<Arc<dyn Adapter>>) -> Self {
        Self {
            adapters,
            mail_bytes_max: Self::MAIL_BYTES_MAX,
            bytes_in_flight_max: 256 << 20,
            rate_per_source: Rate {
                per_second: 200,
                burst: 1000,
            },
            rate_total: Rate {
                per_second: 2000,
                burst: 5000,
            },
            store_max: Duration::from_secs(10),
            api_keys: ProviderApiKeys::default(),
            buckets: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

/// The parts that a receiver needs.
pub struct WebhookParts {
    /// The store for the mail.
    pub store: Store,
    /// The routes, which know our recipients.
    pub routes: Arc<Routes>,
    /// The client that fetches certificates and confirms subscriptions.
    pub fetch: Arc<dyn Fetch>,
    /// The metrics of the receiver.
    pub metrics: Metrics,
    /// The mails that are still to be fetched. Without it, mail that a provider stores is not accepted.
    pub deferred: Option<FetchQueue>,
    /// The buckets with mail. Without them, the provider must retry a mail in a bucket.
    pub buckets: Option<ReadableBuckets>,
    /// The malformed items of batches. Without it, the whole batch counts as malformed.
    pub set_aside: Option<SetAside>,
}

/// The head of a request.
#[derive(Debug)]
pub struct WebhookHead<'a> {
    /// The provider in the path.
    pub provider: Option<&'a str>,
    /// The header fields.
    pub headers: Headers,
    /// The address of the client.
    pub peer: Option<IpAddr>,
}
