//! Owns a request's way through a door: who may come in now, which provider it is, what is fetched
//! for it, and what it hears.
//!
//! Does not read sockets.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time;
use tracing::{error, warn};

use super::Adapter;
use super::acceptance::{MailAcceptor, RequestOrigin};
use super::deferred::{FetchQueue, ProviderApiKeys};
use super::external::{ExternalFetcher, FetchDeadline};
use super::fetch::Fetch;
use super::incoming::{BucketMail, Decoded, DeferredMail, IncomingMail, Malformed};
use super::metrics::Metrics;
use super::outcome::{StatusPolicy, WebhookOutcome, WebhookResponse};
use super::replay::{Nonce, ReplayGuard};
use super::request::{Headers, WebhookRequest};
use crate::clock::{self, Timestamp};
use crate::ingress::routes::Routes;
use crate::limits::{
    Holder, LoadMonitor, LogThrottle, MemoryBudget, MemoryLimits, MemoryPermit, Rate, RateLimiter,
};
use crate::network::{Network, rate_limit_key};
use crate::objects::{ReadableBuckets, S3Bucket};
use crate::store::Store;

/// Sources whose requests are counted at a time.
const SOURCES_MAX: usize = 20_000;

/// The doors there are, and their bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The doors. The first that a request has the marks of takes it, where its path names none; our
    /// own scheme, or an only door, takes what has no marks.
    pub adapters: Vec<Arc<dyn Adapter>>,
    /// Octets of a mail at most, whatever the request is like.
    pub mail_bytes_max: usize,
    /// Octets of bodies that all requests together hold in memory. A mail in parts takes up to four
    /// times its body while it is put together.
    pub bytes_in_flight_max: usize,
    /// How often one source may come: an IPv4 address, or a /64.
    pub rate_per_source: Rate,
    /// How often all together.
    pub rate_total: Rate,
    /// How long the store may take for a mail.
    pub store_max: Duration,
    /// The keys of providers' APIs, for [`super::FetchQueue`].
    pub api_keys: ProviderApiKeys,
    /// The buckets mail may lie in, for [`WebhookParts::buckets`].
    pub buckets: Vec<S3Bucket>,
    /// Networks of reverse proxies, whose word for the source is taken (`X-Forwarded-For`).
    pub proxies: Vec<Network>,
}

impl Settings {
    /// Octets of a mail, where nothing is said.
    pub const MAIL_BYTES_MAX: usize = 50 << 20;

    /// These doors with the default bounds.
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

/// The parts the doors work with.
pub struct WebhookParts {
    /// Where mail goes.
    pub store: Store,
    /// What recipients are ours.
    pub routes: Arc<Routes>,
    /// What fetches certificates and confirms subscriptions.
    pub fetch: Arc<dyn Fetch>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where notes lie of mails that are still to be fetched; without it they are not taken.
    pub deferred: Option<FetchQueue>,
    /// The buckets mail may lie in; without them mail in a bucket is asked for again.
    pub buckets: Option<ReadableBuckets>,
}

/// What is known of a request before its body.
#[derive(Debug)]
pub struct WebhookHead<'a> {
    /// The provider its path names.
    pub provider: Option<&'a str>,
    /// Its header fields.
    pub headers: Headers,
    /// Who sends it.
    pub peer: Option<IpAddr>,
}

/// All doors. Clones are the same doors.
#[derive(Clone)]
pub struct WebhookReceiver(Arc<ReceiverState>);

struct ReceiverState {
    adapters: Vec<Arc<dyn Adapter>>,
    acceptance: MailAcceptor,
    external: ExternalFetcher,
    replay_guard: ReplayGuard,
    rates: Mutex<RateLimiter<IpAddr>>,
    memory: Arc<MemoryBudget>,
    proxies: Vec<Network>,
    metrics: Metrics,
    throttle: LogThrottle,
    deferred: Option<FetchQueue>,
}

impl WebhookReceiver {
    /// Opens the doors.
    pub fn new(settings: Settings, parts: WebhookParts) -> Self {
        let adapters = settings.adapters.iter();
        let body_bytes_max = adapters.map(|adapter| adapter.bytes_max()).max();
        Self(Arc::new(ReceiverState {
            acceptance: MailAcceptor {
                store: parts.store,
                routes: parts.routes,
                metrics: parts.metrics.clone(),
                store_max: settings.store_max,
                mail_bytes_max: settings.mail_bytes_max,
            },
            adapters: settings.adapters,
            external: ExternalFetcher::new(parts.fetch, parts.buckets),
            replay_guard: ReplayGuard::default(),
            rates: Mutex::new(RateLimiter::new(
                settings.rate_total,
                settings.rate_per_source,
                SOURCES_MAX,
            )),
            memory: MemoryBudget::new(
                MemoryLimits::shared(settings.bytes_in_flight_max, body_bytes_max.unwrap_or(0)),
                parts.metrics.bytes_in_flight().clone(),
                LoadMonitor::default(),
            ),
            proxies: settings.proxies,
            metrics: parts.metrics,
            throttle: LogThrottle::default(),
            deferred: parts.deferred,
        }))
    }

    /// Fetches what mails were told of but not brought, until `stop` resolves. Only an errand of
    /// [`WebhookParts::deferred`] gives it work.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(errands) = &self.0.deferred else {
            return stop.await;
        };
        tokio::select! {
            () = stop => {}
            () = errands.run(&self.0.acceptance, self.0.external.fetch.as_ref()) => {}
        }
    }

    /// The names of the doors, as their paths have them.
    pub fn provider_names(&self) -> impl Iterator<Item = &'static str> {
        self.0.adapters.iter().map(|adapter| adapter.name())
    }

    /// Looks at a request before a byte of its body is read.
    ///
    /// # Errors
    /// What it hears instead of being read.
    pub fn admit(&self, head: WebhookHead<'_>) -> Result<AdmittedRequest, WebhookResponse> {
        let shared = &self.0;
        let named = match head.provider {
            None => None,
            Some(name) => match shared.adapters.iter().position(|a| a.name() == name) {
                // Somebody has set it up at the other side first: its mail must not be lost.
                None if super::NAMES.contains(&name) => {
                    let outcome = WebhookOutcome::Unavailable("this provider is not set up here");
                    return Err(shared.finish(None, &outcome));
                }
                None => return Err(shared.finish(None, &WebhookOutcome::UnknownProvider)),
                found => found,
            },
        };
        let named_adapter = named.map(|at| shared.adapters[at].as_ref());
        let peer = shared.client_address(&head);
        if !shared.is_within_rates(peer) {
            return Err(shared.finish(
                named_adapter,
                &WebhookOutcome::Unavailable("too many requests"),
            ));
        }
        let encoding = head.headers.single("content-encoding");
        if !matches!(encoding, Ok(None | Some("" | "identity"))) {
            return Err(shared.finish(named_adapter, &WebhookOutcome::ContentEncoded));
        }
        let most = shared
            .adapters
            .iter()
            .map(|adapter| adapter.bytes_max())
            .max();
        let bytes_max = named_adapter.map_or_else(|| most.unwrap_or(0), Adapter::bytes_max);
        let length = head.headers.single("content-length").ok().flatten();
        let length: Option<usize> = length.and_then(|length| length.parse().ok());
        if length.is_some_and(|length| length > bytes_max) {
            return Err(shared.finish(named_adapter, &WebhookOutcome::TooLarge));
        }
        Ok(AdmittedRequest {
            shared: Arc::clone(shared),
            named,
            headers: head.headers,
            peer,
            bytes: 0,
            bytes_max,
            permit: shared
                .memory
                .permit(peer.map_or(Holder::Trusted, Holder::Stranger)),
        })
    }
}

/// A request that was let in. Its body's bytes count until it is dropped.
pub struct AdmittedRequest {
    shared: Arc<ReceiverState>,
    named: Option<usize>,
    headers: Headers,
    peer: Option<IpAddr>,
    bytes: usize,
    bytes_max: usize,
    permit: MemoryPermit,
}

impl AdmittedRequest {
    /// Makes room for more bytes of the body, before they are kept.
    ///
    /// # Errors
    /// What the provider hears: there are too many, or no room now.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), WebhookResponse> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max {
            return Err(self.finish(&WebhookOutcome::TooLarge));
        }
        if !self.permit.grow(bytes) {
            return Err(self.finish(&WebhookOutcome::Unavailable("too much mail at once")));
        }
        Ok(())
    }

    /// The body did not come in time.
    pub fn too_slow(self) -> WebhookResponse {
        self.finish(&WebhookOutcome::TimedOut)
    }

    /// The request ended before its body did.
    pub fn cut_off(self) -> WebhookResponse {
        self.finish(&WebhookOutcome::Malformed(Malformed::new("body: cut off")))
    }

    /// Does with the whole request what its provider is owed. With a yes the mail is on the disk.
    pub async fn receive(self, body: Bytes) -> WebhookResponse {
        self.receive_at(body, clock::now()).await
    }

    /// As [`AdmittedRequest::receive`], at a time of the caller's.
    pub async fn receive_at(self, body: Bytes, now: Timestamp) -> WebhookResponse {
        let headers = self.headers.clone();
        let request = Arc::new(WebhookRequest::new(headers, body, self.peer));
        let found = match self.named {
            Some(at) => Some(at),
            None => self.shared.find_adapter(&request).await,
        };
        let Some(at) = found else {
            let no_marks = Malformed::new("no provider's marks");
            return self.finish(&WebhookOutcome::Malformed(no_marks));
        };
        let outcome = self.shared.receive(at, request, now).await;
        self.shared
            .finish(Some(self.shared.adapters[at].as_ref()), &outcome)
    }

    fn finish(&self, outcome: &WebhookOutcome) -> WebhookResponse {
        let named = self.named.map(|at| self.shared.adapters[at].as_ref());
        self.shared.finish(named, outcome)
    }
}

impl ReceiverState {
    /// Counts a request of this source. False if it comes too soon.
    fn is_within_rates(&self, source: Option<IpAddr>) -> bool {
        let source = source.map(rate_limit_key);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.try_acquire(source.as_ref(), Instant::now()).is_ok()
    }

    /// The source: the peer, or what a proxy of ours says of it.
    fn client_address(&self, head: &WebhookHead<'_>) -> Option<IpAddr> {
        let peer = head.peer?;
        let is_proxy = |ip: IpAddr| self.proxies.iter().any(|network| network.contains(ip));
        if !is_proxy(peer) {
            return Some(peer);
        }
        // The last of them that is no proxy: whatever stands before it the sender may have written.
        let told = head.headers.single("x-forwarded-for").ok().flatten();
        let told = told.unwrap_or_default().rsplit(',');
        let told = told.map_while(|ip| ip.trim().parse::<IpAddr>().ok());
        Some(told.into_iter().find(|ip| !is_proxy(*ip)).unwrap_or(peer))
    }

    async fn find_adapter(self: &Arc<Self>, request: &Arc<WebhookRequest>) -> Option<usize> {
        let (finder, request) = (Arc::clone(self), Arc::clone(request));
        // Some marks lie in the body, which may be long.
        let marked = tokio::task::spawn_blocking(move || {
            finder
                .adapters
                .iter()
                .position(|adapter| adapter.is_recognised(&request))
        });
        let marked = marked.await.ok().flatten();
        marked.or_else(|| match self.adapters.as_slice() {
            [_] => Some(0),
            many => many.iter().position(|adapter| adapter.name() == "generic"),
        })
    }

    async fn receive(
        self: &Arc<Self>,
        at: usize,
        request: Arc<WebhookRequest>,
        now: Timestamp,
    ) -> WebhookOutcome {
        let patience = FetchDeadline::start();
        let adapter = self.adapters[at].as_ref();
        if adapter.is_ping(&request) {
            return WebhookOutcome::Ignored("ping");
        }
        if let Err(outcome) = adapter.check_form(&request) {
            return outcome;
        }
        let certificate = match adapter.certificate_url(&request) {
            Ok(None) => None,
            Ok(Some(url)) => match self.external.certificate(url, patience).await {
                Ok(certificate) => Some(certificate),
                Err(unproven) => return WebhookOutcome::Unauthenticated(unproven),
            },
            Err(unproven) => return WebhookOutcome::Unauthenticated(unproven),
        };
        let origin = RequestOrigin {
            provider: adapter.name(),
            peer: request.peer(),
            now,
        };
        // Signatures and base64 of a hundred megabytes must not hold up everybody else.
        let reader = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            read(
                reader.adapters[at].as_ref(),
                &request,
                now,
                certificate.as_deref(),
            )
        });
        let Ok(read) = read.await else {
            self.metrics.panicked();
            error!(
                provider = origin.provider,
                "a request could not be read: panic"
            );
            return WebhookOutcome::Unavailable("a fault of ours");
        };
        let (decoded, once) = match read {
            Ok(read) => read,
            Err(outcome) => return outcome,
        };
        if let Some(once) = once
            && let Err(refused) = self.bind_nonce(once).await
        {
            if let WebhookOutcome::Unauthenticated(unproven) = &refused {
                error!(
                    provider = origin.provider,
                    "{unproven}: somebody sends mail in its name"
                );
            }
            return refused;
        }
        match decoded {
            Decoded::Mails(mails) => self.acceptance.accept(mails, origin).await,
            Decoded::Partial(mails, why) => match self.acceptance.accept(mails, origin).await {
                // What was kept is known again when the whole comes again.
                WebhookOutcome::Accepted { .. } | WebhookOutcome::Unroutable { .. } => {
                    WebhookOutcome::Malformed(why)
                }
                other => other,
            },
            Decoded::Ignored(what) => WebhookOutcome::Ignored(what),
            Decoded::Confirm(url) => {
                self.external
                    .confirm_subscription(&url, origin.provider, patience)
                    .await
            }
            Decoded::InBucket(place) => self.receive_from_bucket(place, origin, patience).await,
            Decoded::Deferred(elsewhere) => self.defer_fetch(elsewhere, origin).await,
            Decoded::Unreachable(why) => {
                error!(provider = origin.provider, "{why}");
                WebhookOutcome::Unavailable(why)
            }
        }
    }

    async fn bind_nonce(&self, once: Nonce) -> Result<(), WebhookOutcome> {
        let MailAcceptor {
            store, store_max, ..
        } = &self.acceptance;
        let bound = time::timeout(*store_max, self.replay_guard.bind(once, store)).await;
        bound.unwrap_or(Err(WebhookOutcome::Unavailable("the store is too slow")))
    }

    /// Takes a mail out of its bucket.
    async fn receive_from_bucket(
        &self,
        place: BucketMail,
        origin: RequestOrigin,
        patience: FetchDeadline,
    ) -> WebhookOutcome {
        let mut permit = self.memory.permit(Holder::Trusted);
        let bytes_max = self.acceptance.mail_bytes_max;
        let read = self.external.read_bucket(&place, bytes_max, &mut permit);
        match patience.run(read).await {
            Some(Ok(bytes)) => {
                let mail = IncomingMail {
                    bytes,
                    ..place.mail
                };
                self.acceptance.accept(vec![mail], origin).await
            }
            Some(Err(outcome)) => outcome,
            None => WebhookOutcome::Unavailable("the mail in the bucket does not come in time"),
        }
    }

    /// Makes a note of a mail to be fetched, on disk before it says yes.
    async fn defer_fetch(&self, elsewhere: DeferredMail, origin: RequestOrigin) -> WebhookOutcome {
        let Some(errands) = &self.deferred else {
            return WebhookOutcome::Unavailable("mail kept at the provider is not fetched");
        };
        match errands.add(elsewhere, origin).await {
            Ok(()) => WebhookOutcome::Ignored("to be fetched"),
            Err(error) => {
                error!(provider = origin.provider, %error, "errand not kept");
                WebhookOutcome::Unavailable("no room now")
            }
        }
    }

    /// Counts and logs how a request ended, and says it in its provider's way.
    fn finish(&self, adapter: Option<&dyn Adapter>, outcome: &WebhookOutcome) -> WebhookResponse {
        let provider = adapter.map_or("", Adapter::name);
        let law = adapter.map_or(StatusPolicy::RETRIES_ALL, Adapter::status_policy);
        let response = outcome.response(law);
        self.metrics.request_finished(provider, outcome.label());
        let why = match outcome {
            WebhookOutcome::Accepted { .. }
            | WebhookOutcome::Ignored(_)
            | WebhookOutcome::Unroutable { .. } => {
                return response;
            }
            WebhookOutcome::Malformed(why) => why.to_string(),
            WebhookOutcome::Unauthenticated(why) => why.to_string(),
            WebhookOutcome::Unavailable(why) => (*why).to_owned(),
            WebhookOutcome::MediaType(taken) => format!("content-type: not {taken}"),
            other => other.label().to_owned(),
        };
        if self.throttle.allow() {
            let (outcome, status) = (outcome.label(), response.status);
            warn!(
                protocol = "webhook",
                provider, outcome, status, "refused: {why}"
            );
        }
        response
    }
}

fn read(
    adapter: &dyn Adapter,
    request: &WebhookRequest,
    now: Timestamp,
    certificate: Option<&[u8]>,
) -> Result<(Decoded, Option<Nonce>), WebhookOutcome> {
    let authentic = adapter.authenticate(request, now, certificate);
    let authentic = authentic.map_err(WebhookOutcome::Unauthenticated)?;
    let once = adapter
        .nonce(authentic)
        .map_err(WebhookOutcome::Malformed)?;
    let decoded = adapter
        .decode(authentic)
        .map_err(WebhookOutcome::Malformed)?;
    Ok((decoded, once))
}
