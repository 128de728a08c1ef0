//! Owns the processing of a provider's request: admission, the provider, fetches, and the response.
//!
//! Does not read sockets.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::time;
use tracing::{error, warn};

use super::acceptance::{MailAcceptor, RequestOrigin};
use super::adapter::Adapter;
use super::deferred::FetchQueue;
use super::error::Malformed;
use super::external::{ExternalFetcher, FetchDeadline};
use super::generic;
use super::headers::Headers;
use super::incoming::{BucketMail, Decoded, DeferredMail, IncomingMail, UnreadableItem};
use super::metrics::Metrics;
use super::outcome::{StatusPolicy, WebhookOutcome, WebhookResponse};
use super::replay;
use super::request::WebhookRequest;
use super::set_aside::SetAside;
use super::settings::{Settings, WebhookHead, WebhookParts};
use crate::clock::{self, Timestamp};
use crate::limits::{
    Holder, LoadMonitor, LogThrottle, MemoryBudget, MemoryLimits, MemoryPermit, RateLimiter,
};
use crate::network::{Network, rate_limit_key};
use crate::store::Nonce;

/// The number of clients whose requests are counted.
const CLIENTS_MAX: usize = 20_000;

/// Receives the requests of all providers. Clones share the receiver.
#[derive(Clone)]
pub struct WebhookReceiver(Arc<ReceiverState>);

struct ReceiverState {
    adapters: Vec<Arc<dyn Adapter>>,
    acceptor: MailAcceptor,
    external: ExternalFetcher,
    rates: Mutex<RateLimiter<IpAddr>>,
    memory: Arc<MemoryBudget>,
    proxies: Vec<Network>,
    metrics: Metrics,
    throttle: LogThrottle,
    deferred: Option<FetchQueue>,
    set_aside: Option<SetAside>,
}

impl WebhookReceiver {
    /// A receiver with these settings and parts.
    pub fn new(settings: Settings, parts: WebhookParts) -> Self {
        let infos = settings.adapters.iter().map(|adapter| adapter.info());
        let bodies = infos.map(|info| info.body_bytes_max(settings.mail_bytes_max));
        let body_bytes_max = bodies.max();
        let providers = settings.adapters.iter().map(|adapter| adapter.name());
        parts.metrics.begin(providers);
        Self(Arc::new(ReceiverState {
            acceptor: MailAcceptor {
                store: parts.store,
                routes: parts.routes,
                metrics: parts.metrics.clone(),
                store_max: settings.store_max,
                mail_bytes_max: settings.mail_bytes_max,
            },
            adapters: settings.adapters,
            external: ExternalFetcher::new(parts.fetch, parts.buckets),
            rates: Mutex::new(RateLimiter::new(
                settings.rate_total,
                settings.rate_per_source,
                CLIENTS_MAX,
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
            set_aside: parts.set_aside,
        }))
    }

    /// Fetches the deferred mails, until `stop` resolves. Without [`WebhookParts::deferred`] there are
    /// none.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(deferred) = &self.0.deferred else {
            return stop.await;
        };
        tokio::select! {
            () = stop => {}
            () = deferred.run(&self.0.acceptor, self.0.external.fetch.as_ref()) => {}
        }
    }

    /// The names of the configured providers, as in their paths.
    pub fn provider_names(&self) -> impl Iterator<Item = &'static str> {
        self.0.adapters.iter().map(|adapter| adapter.name())
    }

    /// Checks a request before an octet of its body is read.
    ///
    /// # Errors
    /// The response to a rejected request.
    pub fn admit(&self, head: WebhookHead<'_>) -> Result<AdmittedRequest, WebhookResponse> {
        let state = &self.0;
        let peer = state.client_address(&head);
        let named = match head.provider {
            None => None,
            Some(name) => match state.adapter_named(name, &head.headers) {
                Some(at) => Some(at),
                None => {
                    let known = super::NAMES.into_iter().find(|known| *known == name);
                    let outcome = match known {
                        // The provider sends already: its mail must not be lost.
                        Some(_) => WebhookOutcome::Unavailable("this provider is not set up here"),
                        None => WebhookOutcome::UnknownProvider,
                    };
                    let policy = StatusPolicy::RETRIES_ALL;
                    return Err(state.finish(known, policy, peer, &outcome));
                }
            },
        };
        let named_adapter = named.map(|at| state.adapters[at].as_ref());
        let refuse = |outcome: &WebhookOutcome| state.finish_for(named_adapter, peer, outcome);
        if !state.is_within_rates(peer) {
            return Err(refuse(&WebhookOutcome::Unavailable("too many requests")));
        }
        let encoding = head.headers.single("content-encoding");
        if !matches!(encoding, Ok(None | Some("" | "identity"))) {
            return Err(refuse(&WebhookOutcome::ContentEncoded));
        }
        let bytes_max = state.body_bytes_max(named_adapter);
        let length = head.headers.single("content-length").ok().flatten();
        let length: Option<usize> = length.and_then(|length| length.parse().ok());
        if length.is_some_and(|length| length > bytes_max) {
            return Err(refuse(&WebhookOutcome::TooLarge));
        }
        // Unauthenticated bodies must not use up the memory of authenticated callers.
        let possible = match named {
            Some(at) => &state.adapters[at..=at],
            None => state.adapters.as_slice(),
        };
        let is_proven = possible
            .iter()
            .any(|adapter| adapter.prove_head(&head.headers, peer).is_ok());
        let holder = match peer {
            Some(ip) if !is_proven => Holder::Stranger(ip),
            _ => Holder::Trusted,
        };
        Ok(AdmittedRequest {
            state: Arc::clone(state),
            named,
            headers: head.headers,
            peer,
            bytes: 0,
            bytes_max,
            permit: state.memory.permit(holder),
        })
    }
}

/// An admitted request. The octets of its body count until it is dropped.
pub struct AdmittedRequest {
    state: Arc<ReceiverState>,
    named: Option<usize>,
    headers: Headers,
    peer: Option<IpAddr>,
    bytes: usize,
    bytes_max: usize,
    permit: MemoryPermit,
}

impl AdmittedRequest {
    /// Reserves memory for more octets of the body, before they are kept.
    ///
    /// # Errors
    /// The response to a request that is too long, or that exceeds the available memory.
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

    /// The response to a request whose body did not arrive in time.
    pub fn too_slow(self) -> WebhookResponse {
        self.finish(&WebhookOutcome::TimedOut)
    }

    /// The response to a request with an incomplete body.
    pub fn cut_off(self) -> WebhookResponse {
        let cut_off = Malformed::new("body: cut off");
        self.finish(&WebhookOutcome::Malformed(cut_off))
    }

    /// Processes the whole request. After a 2xx the mail is on disk.
    pub async fn receive(self, body: Bytes) -> WebhookResponse {
        self.receive_at(body, clock::now()).await
    }

    /// Like [`AdmittedRequest::receive`], at a given time.
    pub async fn receive_at(self, body: Bytes, now: Timestamp) -> WebhookResponse {
        let headers = self.headers.clone();
        let request = Arc::new(WebhookRequest::new(headers, body, self.peer));
        let found = match self.named {
            Some(at) => Some(at),
            None => self.state.find_adapter(&request).await,
        };
        let Some(at) = found else {
            let unknown = Malformed::new("the request belongs to no configured provider");
            return self.finish(&WebhookOutcome::Malformed(unknown));
        };
        let outcome = self.state.receive(at, request, now).await;
        let adapter = self.state.adapters[at].as_ref();
        self.state.finish_for(Some(adapter), self.peer, &outcome)
    }

    fn finish(&self, outcome: &WebhookOutcome) -> WebhookResponse {
        let named = self.named.map(|at| self.state.adapters[at].as_ref());
        self.state.finish_for(named, self.peer, outcome)
    }
}

impl ReceiverState {
    /// Counts a request of this client; false if it exceeds a rate.
    fn is_within_rates(&self, peer: Option<IpAddr>) -> bool {
        let client = peer.map(rate_limit_key);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.try_acquire(client.as_ref(), Instant::now()).is_ok()
    }

    /// The address of the client: the peer, or the one that a trusted proxy reports.
    fn client_address(&self, head: &WebhookHead<'_>) -> Option<IpAddr> {
        let peer = head.peer?;
        let is_proxy = |ip: IpAddr| self.proxies.iter().any(|network| network.contains(ip));
        if !is_proxy(peer) {
            return Some(peer);
        }
        // The last address that is not a proxy's, because the client may have written all before it. Fields
        // of the same name are one list (RFC 9110 section 5.3).
        let fields = head.headers.all("x-forwarded-for").rev();
        let fields = fields.map(|value| std::str::from_utf8(value).unwrap_or_default());
        let told = fields.flat_map(|list| list.rsplit(','));
        let mut told = told.map_while(|ip| ip.trim().parse::<IpAddr>().ok());
        Some(told.find(|ip| !is_proxy(*ip)).unwrap_or(peer))
    }

    /// The adapter of the provider in the path. If that provider is not configured, a request signed by our
    /// own scheme is handled by that scheme: a product's own sender may use any provider's path.
    fn adapter_named(&self, name: &str, headers: &Headers) -> Option<usize> {
        let position = |name| self.adapters.iter().position(|a| a.name() == name);
        position(name).or_else(|| {
            let is_ours = super::NAMES.contains(&name) && generic::is_signed(headers);
            is_ours.then(|| position(generic::INFO.name)).flatten()
        })
    }

    /// The maximum octets of a body from this provider or, if none is named, from any.
    fn body_bytes_max(&self, named: Option<&dyn Adapter>) -> usize {
        let mail_bytes_max = self.acceptor.mail_bytes_max;
        let of = |adapter: &dyn Adapter| adapter.info().body_bytes_max(mail_bytes_max);
        let longest = || {
            self.adapters
                .iter()
                .map(|adapter| of(adapter.as_ref()))
                .max()
        };
        named.map_or_else(|| longest().unwrap_or(0), of)
    }

    async fn find_adapter(self: &Arc<Self>, request: &Arc<WebhookRequest>) -> Option<usize> {
        let (state, request) = (Arc::clone(self), Arc::clone(request));
        // Some features are in the body, which may be long.
        let recognised = tokio::task::spawn_blocking(move || {
            let mut adapters = state.adapters.iter();
            adapters.position(|adapter| adapter.is_recognised(&request))
        });
        let recognised = recognised.await.ok().flatten();
        recognised.or_else(|| match self.adapters.as_slice() {
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
        let deadline = FetchDeadline::start();
        let adapter = self.adapters[at].as_ref();
        if adapter.is_ping(&request) {
            return WebhookOutcome::Ignored("ping");
        }
        if let Err(outcome) = adapter.check_form(&request) {
            return outcome;
        }
        let certificate = match adapter.certificate_url(&request) {
            Ok(None) => None,
            Ok(Some(url)) => match self.external.certificate(url, deadline).await {
                Ok(certificate) => Some(certificate),
                Err(error) => return WebhookOutcome::Unauthenticated(error),
            },
            Err(error) => return WebhookOutcome::Unauthenticated(error),
        };
        let origin = RequestOrigin {
            provider: adapter.name(),
            peer: request.peer(),
            now,
        };
        // Signatures and base64 of a hundred megabytes must not delay other requests.
        let state = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let adapter = state.adapters[at].as_ref();
            read(adapter, &request, now, certificate.as_deref())
        });
        let Ok(read) = read.await else {
            self.metrics.panicked();
            let provider = origin.provider;
            error!(provider, "a request could not be read: panic");
            return WebhookOutcome::Unavailable("an internal error");
        };
        let (decoded, nonce) = match read {
            Ok(read) => read,
            Err(outcome) => return outcome,
        };
        if let Some(nonce) = nonce
            && let Err(refused) = self.bind_nonce(nonce).await
        {
            if let WebhookOutcome::Unauthenticated(error) = &refused {
                let provider = origin.provider;
                error!(provider, "{error}: another sender uses its name");
            }
            return refused;
        }
        self.take(decoded, origin, deadline).await
    }

    /// Processes the content of an authentic request.
    async fn take(
        &self,
        decoded: Decoded,
        origin: RequestOrigin,
        deadline: FetchDeadline,
    ) -> WebhookOutcome {
        let provider = origin.provider;
        match decoded {
            Decoded::Mails(mails) => self.acceptor.accept(mails, origin).await,
            Decoded::Partial(mails, unreadable) => {
                match self.acceptor.accept(mails, origin).await {
                    accepted @ (WebhookOutcome::Accepted { .. }
                    | WebhookOutcome::Unroutable { .. }) => {
                        self.set_aside(unreadable, accepted, provider).await
                    }
                    other => other,
                }
            }
            Decoded::Ignored(what) => WebhookOutcome::Ignored(what),
            Decoded::Confirm(url) => {
                let external = &self.external;
                external
                    .confirm_subscription(&url, provider, deadline)
                    .await
            }
            Decoded::InBucket(mail) => self.receive_from_bucket(mail, origin, deadline).await,
            Decoded::Deferred(mail, unreadable) => {
                let outcome = self.defer_fetch(mail, origin).await;
                let is_noted = matches!(outcome, WebhookOutcome::Ignored(_));
                match is_noted && !unreadable.is_empty() {
                    true => self.set_aside(unreadable, outcome, provider).await,
                    false => outcome,
                }
            }
            Decoded::Unreachable(why) => {
                error!(provider, "{why}");
                WebhookOutcome::Unavailable(why)
            }
        }
    }

    /// Sets the malformed items of a batch aside, the rest of which is accepted. If they cannot be stored,
    /// the batch counts as malformed: the accepted mails are then duplicates in its repetition.
    async fn set_aside(
        &self,
        unreadable: Vec<UnreadableItem>,
        accepted: WebhookOutcome,
        provider: &'static str,
    ) -> WebhookOutcome {
        let malformed = WebhookOutcome::Malformed(UnreadableItem::summary(&unreadable));
        let bytes: usize = unreadable.iter().map(|item| item.json.len()).sum();
        let (Some(set_aside), true) = (self.set_aside.clone(), self.has_room(bytes)) else {
            return malformed;
        };
        let kept = tokio::task::spawn_blocking(move || {
            let keep = |item: UnreadableItem| {
                let file = set_aside.keep(provider, &item.json)?;
                Ok((item.number, item.reason, file))
            };
            unreadable
                .into_iter()
                .map(keep)
                .collect::<io::Result<Vec<_>>>()
        });
        match kept.await.map_err(io::Error::other).flatten() {
            Ok(kept) => {
                for (item, reason, file) in kept {
                    self.metrics.item_set_aside(provider);
                    if self.throttle.allow() {
                        error!(provider, item, %reason, file, "an unreadable item is set aside");
                    }
                }
                accepted
            }
            Err(error) => {
                error!(provider, %error, "an unreadable item could not be set aside");
                malformed
            }
        }
    }

    /// True if the disk has space for files beside the journal.
    fn has_room(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.acceptor.store.has_room(bytes).is_ok()
    }

    async fn bind_nonce(&self, nonce: Nonce) -> Result<(), WebhookOutcome> {
        let MailAcceptor {
            store, store_max, ..
        } = &self.acceptor;
        let bound = time::timeout(*store_max, replay::bind(nonce, store)).await;
        bound.unwrap_or(Err(WebhookOutcome::Unavailable(
            "the store did not answer in time",
        )))
    }

    /// Reads a mail from its bucket and accepts it.
    async fn receive_from_bucket(
        &self,
        mail: BucketMail,
        origin: RequestOrigin,
        deadline: FetchDeadline,
    ) -> WebhookOutcome {
        let mut permit = self.memory.permit(Holder::Trusted);
        let bytes_max = self.acceptor.mail_bytes_max;
        let read = self.external.read_bucket(&mail, bytes_max, &mut permit);
        match deadline.run(read).await {
            Some(Ok(bytes)) => {
                let mail = IncomingMail { bytes, ..mail.mail };
                self.acceptor.accept(vec![mail], origin).await
            }
            Some(Err(outcome)) => outcome,
            None => WebhookOutcome::Unavailable("the mail in the bucket did not arrive in time"),
        }
    }

    /// Stores a note of a mail to be fetched, before the positive response.
    async fn defer_fetch(&self, mail: DeferredMail, origin: RequestOrigin) -> WebhookOutcome {
        let Some(deferred) = &self.deferred else {
            return WebhookOutcome::Unavailable(
                "fetching mail from the provider is not configured",
            );
        };
        let provider = origin.provider;
        let bytes = mail.request.as_ref().map_or(0, String::len);
        if !self.has_room(bytes) {
            return WebhookOutcome::Unavailable("no space now");
        }
        match deferred.add(mail, origin).await {
            Ok(()) => WebhookOutcome::Ignored("to be fetched"),
            Err(error) => {
                error!(provider, %error, "the note of a mail to fetch could not be written");
                WebhookOutcome::Unavailable("no space now")
            }
        }
    }

    /// Like [`ReceiverState::finish`], for the provider of an adapter.
    fn finish_for(
        &self,
        adapter: Option<&dyn Adapter>,
        peer: Option<IpAddr>,
        outcome: &WebhookOutcome,
    ) -> WebhookResponse {
        let info = adapter.map(Adapter::info);
        let policy = info.map_or(StatusPolicy::RETRIES_ALL, |info| info.status_policy);
        self.finish(info.map(|info| info.name), policy, peer, outcome)
    }

    /// Counts and logs the outcome of a request, and makes the response.
    fn finish(
        &self,
        provider: Option<&'static str>,
        policy: StatusPolicy,
        peer: Option<IpAddr>,
        outcome: &WebhookOutcome,
    ) -> WebhookResponse {
        let response = outcome.response(policy);
        let label = provider.unwrap_or_default();
        self.metrics.request_finished(label, outcome.label());
        let why = match outcome {
            WebhookOutcome::Accepted { .. }
            | WebhookOutcome::Ignored(_)
            | WebhookOutcome::Unroutable { .. } => return response,
            WebhookOutcome::Malformed(why) => why.to_string(),
            WebhookOutcome::Unauthenticated(why) => why.to_string(),
            WebhookOutcome::Unavailable(why) => (*why).to_owned(),
            WebhookOutcome::MediaType(taken) => format!("content-type: not {taken}"),
            other => other.label().to_owned(),
        };
        if self.throttle.allow() {
            let (outcome, status) = (outcome.label(), response.status);
            let peer = peer.map(tracing::field::display);
            warn!(
                protocol = "webhook",
                provider, peer, outcome, status, "refused: {why}"
            );
        }
        response
    }
}

/// Verifies and decodes a request.
fn read(
    adapter: &dyn Adapter,
    request: &WebhookRequest,
    now: Timestamp,
    certificate: Option<&[u8]>,
) -> Result<(Decoded, Option<Nonce>), WebhookOutcome> {
    let authentic = adapter.authenticate(request, now, certificate);
    let authentic = authentic.map_err(WebhookOutcome::Unauthenticated)?;
    let nonce = adapter.nonce(authentic);
    let nonce = nonce.map_err(WebhookOutcome::Malformed)?;
    let decoded = adapter.decode(authentic);
    Ok((decoded.map_err(WebhookOutcome::Malformed)?, nonce))
}
