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

/// The providers that are set up, and the bounds of their requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Adapters of the providers. Where the path names none, the first that recognises a request takes
    /// it; a request that none recognises is taken by our own scheme, or by an only adapter.
    pub adapters: Vec<Arc<dyn Adapter>>,
    /// Octets of a mail at most.
    pub mail_bytes_max: usize,
    /// Octets of bodies that all requests together hold in memory. A mail in parts takes up to four times
    /// its body while it is put together.
    pub bytes_in_flight_max: usize,
    /// Rate of requests from one IPv4 address or one /64.
    pub rate_per_source: Rate,
    /// Rate of all requests together.
    pub rate_total: Rate,
    /// Time that the store may take for a mail.
    pub store_max: Duration,
    /// Keys of providers' APIs, for [`FetchQueue`].
    pub api_keys: ProviderApiKeys,
    /// Buckets that a provider may put mail into, for [`WebhookParts::buckets`].
    pub buckets: Vec<S3Bucket>,
    /// Networks of reverse proxies, whose `X-Forwarded-For` is believed.
    pub proxies: Vec<Network>,
}

impl Settings {
    /// Octets of a mail, where nothing is configured.
    pub const MAIL_BYTES_MAX: usize = 50 << 20;

    /// These adapters with the default bounds.
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

/// The parts that a receiver works with.
pub struct WebhookParts {
    /// Store of the mails.
    pub store: Store,
    /// Recipients that are ours.
    pub routes: Arc<Routes>,
    /// Client that fetches certificates and confirms subscriptions.
    pub fetch: Arc<dyn Fetch>,
    /// Counters.
    pub metrics: Metrics,
    /// Mails that are still to be fetched. Without this, mail that a provider keeps is not taken.
    pub deferred: Option<FetchQueue>,
    /// Buckets that mail may be in. Without these, mail in a bucket is asked for again.
    pub buckets: Option<ReadableBuckets>,
    /// Items of batches that cannot be read. Without these, the provider is told that its batch is malformed.
    pub set_aside: Option<SetAside>,
}

/// The head of a request.
#[derive(Debug)]
pub struct WebhookHead<'a> {
    /// Provider that the path names.
    pub provider: Option<&'a str>,
    /// Header fields.
    pub headers: Headers,
    /// Address of the client.
    pub peer: Option<IpAddr>,
}
