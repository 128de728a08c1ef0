//! Owns a request's way through a door: who may come in now, which provider it is, what is fetched
//! for it, and what it hears.
//!
//! Does not read sockets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time;
use tracing::{error, warn};

use super::Adapter;
use super::acceptance::{Acceptance, Origin};
use super::errands::{ApiKeys, Errands};
use super::fetch::Fetch;
use super::incoming::{Decoded, Elsewhere, InBucket, Incoming, Malformed};
use super::law::{Law, Outcome, Response};
use super::metrics::Metrics;
use super::once::{Once, Used};
use super::outside::{Outside, Patience};
use super::rate::{Rate, Rates};
use super::request::{Headers, Request};
use super::room::{Held, Room};
use crate::clock::{self, Timestamp};
use crate::ingress::routes::Routes;
use crate::ingress::smtp::Throttle;
use crate::network::{Network, counted_by};
use crate::objects::{Bucket, Buckets};
use crate::store::Store;

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
    pub each: Rate,
    /// How often all together.
    pub all: Rate,
    /// How long the store may take for a mail.
    pub store_max: Duration,
    /// The keys of providers' APIs, for [`super::Errands`].
    pub api_keys: ApiKeys,
    /// The buckets mail may lie in, for [`Parts::buckets`].
    pub buckets: Vec<Bucket>,
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
            each: Rate {
                per_second: 200,
                burst: 1000,
            },
            all: Rate {
                per_second: 2000,
                burst: 5000,
            },
            store_max: Duration::from_secs(10),
            api_keys: ApiKeys::default(),
            buckets: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

/// The parts the doors work with.
pub struct Parts {
    /// Where mail goes.
    pub store: Store,
    /// What recipients are ours.
    pub routes: Arc<Routes>,
    /// What fetches certificates and confirms subscriptions.
    pub fetch: Arc<dyn Fetch>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where notes lie of mails that are still to be fetched; without it they are not taken.
    pub errands: Option<Errands>,
    /// The buckets mail may lie in; without them mail in a bucket is asked for again.
    pub buckets: Option<Buckets>,
}

/// What is known of a request before its body.
#[derive(Debug)]
pub struct Head<'a> {
    /// The provider its path names.
    pub provider: Option<&'a str>,
    /// Its header fields.
    pub headers: Headers,
    /// Who sends it.
    pub peer: Option<IpAddr>,
}

/// All doors. Clones are the same doors.
#[derive(Clone)]
pub struct Doors(Arc<Shared>);

struct Shared {
    adapters: Vec<Arc<dyn Adapter>>,
    acceptance: Acceptance,
    outside: Outside,
    used: Used,
    rates: Rates,
    room: Room,
    proxies: Vec<Network>,
    metrics: Metrics,
    throttle: Throttle,
    errands: Option<Errands>,
}

impl Doors {
    /// Opens the doors.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        Self(Arc::new(Shared {
            acceptance: Acceptance {
                store: parts.store,
                routes: parts.routes,
                metrics: parts.metrics.clone(),
                store_max: settings.store_max,
                mail_bytes_max: settings.mail_bytes_max,
            },
            adapters: settings.adapters,
            outside: Outside::new(parts.fetch, parts.buckets),
            used: Used::default(),
            rates: Rates::new(settings.each, settings.all, Instant::now()),
            room: Room::new(settings.bytes_in_flight_max, parts.metrics.clone()),
            proxies: settings.proxies,
            metrics: parts.metrics,
            throttle: Throttle::default(),
            errands: parts.errands,
        }))
    }

    /// Fetches what mails were told of but not brought, until `stop` resolves. Only an errand of
    /// [`Parts::errands`] gives it work.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let Some(errands) = &self.0.errands else {
            return stop.await;
        };
        tokio::select! {
            () = stop => {}
            () = errands.run(&self.0.acceptance, self.0.outside.fetch.as_ref()) => {}
        }
    }

    /// The names of the doors, as their paths have them.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.adapters.iter().map(|adapter| adapter.name())
    }

    /// Looks at a request before a byte of its body is read.
    ///
    /// # Errors
    /// What it hears instead of being read.
    pub fn knock(&self, head: Head<'_>) -> Result<Entry, Response> {
        let shared = &self.0;
        let named = match head.provider {
            None => None,
            Some(name) => match shared.adapters.iter().position(|a| a.name() == name) {
                // Somebody has set it up at the other side first: its mail must not be lost.
                None if super::NAMES.contains(&name) => {
                    let outcome = Outcome::Later("this provider is not set up here");
                    return Err(shared.end(None, &outcome));
                }
                None => return Err(shared.end(None, &Outcome::Unknown)),
                found => found,
            },
        };
        let named_adapter = named.map(|at| shared.adapters[at].as_ref());
        let peer = shared.source(&head);
        if !shared.rates.admit(peer.map(counted_by), Instant::now()) {
            return Err(shared.end(named_adapter, &Outcome::Later("too many requests")));
        }
        let encoding = head.headers.one("content-encoding");
        if !matches!(encoding, Ok(None | Some("" | "identity"))) {
            return Err(shared.end(named_adapter, &Outcome::Encoded));
        }
        let most = shared
            .adapters
            .iter()
            .map(|adapter| adapter.bytes_max())
            .max();
        let bytes_max = named_adapter.map_or_else(|| most.unwrap_or(0), Adapter::bytes_max);
        let length = head.headers.one("content-length").ok().flatten();
        let length: Option<usize> = length.and_then(|length| length.parse().ok());
        if length.is_some_and(|length| length > bytes_max) {
            return Err(shared.end(named_adapter, &Outcome::TooLarge));
        }
        Ok(Entry {
            shared: Arc::clone(shared),
            named,
            headers: head.headers,
            peer,
            bytes: 0,
            bytes_max,
            held: shared.room.none(),
        })
    }
}

/// A request that was let in. Its body's bytes count until it is dropped.
pub struct Entry {
    shared: Arc<Shared>,
    named: Option<usize>,
    headers: Headers,
    peer: Option<IpAddr>,
    bytes: usize,
    bytes_max: usize,
    held: Held,
}

impl Entry {
    /// Makes room for more bytes of the body, before they are kept.
    ///
    /// # Errors
    /// What the provider hears: there are too many, or no room now.
    pub fn take(&mut self, bytes: usize) -> Result<(), Response> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max {
            return Err(self.end(&Outcome::TooLarge));
        }
        if !self.held.take(bytes) {
            return Err(self.end(&Outcome::Later("too much mail at once")));
        }
        Ok(())
    }

    /// The body did not come in time.
    pub fn too_slow(self) -> Response {
        self.end(&Outcome::Slow)
    }

    /// The request ended before its body did.
    pub fn cut_off(self) -> Response {
        self.end(&Outcome::Malformed(Malformed::new("body: cut off")))
    }

    /// Does with the whole request what its provider is owed. With a yes the mail is on the disk.
    pub async fn receive(self, body: Bytes) -> Response {
        self.receive_at(body, clock::now()).await
    }

    /// As [`Entry::receive`], at a time of the caller's.
    pub async fn receive_at(self, body: Bytes, now: Timestamp) -> Response {
        let headers = self.headers.clone();
        let request = Arc::new(Request::new(headers, body, self.peer));
        let found = match self.named {
            Some(at) => Some(at),
            None => self.shared.find(&request).await,
        };
        let Some(at) = found else {
            let no_marks = Malformed::new("no provider's marks");
            return self.end(&Outcome::Malformed(no_marks));
        };
        let outcome = self.shared.receive(at, request, now).await;
        self.shared
            .end(Some(self.shared.adapters[at].as_ref()), &outcome)
    }

    fn end(&self, outcome: &Outcome) -> Response {
        let named = self.named.map(|at| self.shared.adapters[at].as_ref());
        self.shared.end(named, outcome)
    }
}

impl Shared {
    /// The source: the peer, or what a proxy of ours says of it.
    fn source(&self, head: &Head<'_>) -> Option<IpAddr> {
        let peer = head.peer?;
        let is_proxy = |ip: IpAddr| self.proxies.iter().any(|network| network.contains(ip));
        if !is_proxy(peer) {
            return Some(peer);
        }
        // The last of them that is no proxy: whatever stands before it the sender may have written.
        let told = head.headers.one("x-forwarded-for").ok().flatten();
        let told = told.unwrap_or_default().rsplit(',');
        let told = told.map_while(|ip| ip.trim().parse::<IpAddr>().ok());
        Some(told.into_iter().find(|ip| !is_proxy(*ip)).unwrap_or(peer))
    }

    async fn find(self: &Arc<Self>, request: &Arc<Request>) -> Option<usize> {
        let (finder, request) = (Arc::clone(self), Arc::clone(request));
        // Some marks lie in the body, which may be long.
        let marked = tokio::task::spawn_blocking(move || {
            finder
                .adapters
                .iter()
                .position(|adapter| adapter.is_marked(&request))
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
        request: Arc<Request>,
        now: Timestamp,
    ) -> Outcome {
        let patience = Patience::begun();
        let adapter = self.adapters[at].as_ref();
        if adapter.is_ping(&request) {
            return Outcome::Nothing("ping");
        }
        if let Err(outcome) = adapter.suits(&request) {
            return outcome;
        }
        let certificate = match adapter.certificate(&request) {
            Ok(None) => None,
            Ok(Some(url)) => match self.outside.certificate(url, patience).await {
                Ok(certificate) => Some(certificate),
                Err(unproven) => return Outcome::Unproven(unproven),
            },
            Err(unproven) => return Outcome::Unproven(unproven),
        };
        let origin = Origin {
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
            return Outcome::Later("a fault of ours");
        };
        let (decoded, once) = match read {
            Ok(read) => read,
            Err(outcome) => return outcome,
        };
        if let Some(once) = once
            && let Err(refused) = self.bind(once).await
        {
            if let Outcome::Unproven(unproven) = &refused {
                error!(
                    provider = origin.provider,
                    "{unproven}: somebody sends mail in its name"
                );
            }
            return refused;
        }
        match decoded {
            Decoded::Mails(mails) => self.acceptance.take(mails, origin).await,
            Decoded::Partly(mails, why) => match self.acceptance.take(mails, origin).await {
                // What was kept is known again when the whole comes again.
                Outcome::Kept { .. } | Outcome::Unroutable { .. } => Outcome::Malformed(why),
                other => other,
            },
            Decoded::Nothing(what) => Outcome::Nothing(what),
            Decoded::Confirm(url) => self.outside.confirm(&url, origin.provider, patience).await,
            Decoded::InBucket(place) => self.fetched(place, origin, patience).await,
            Decoded::Elsewhere(elsewhere) => self.note(elsewhere, origin).await,
            Decoded::OutOfReach(why) => {
                error!(provider = origin.provider, "{why}");
                Outcome::Later(why)
            }
        }
    }

    async fn bind(&self, once: Once) -> Result<(), Outcome> {
        let Acceptance {
            store, store_max, ..
        } = &self.acceptance;
        let bound = time::timeout(*store_max, self.used.bind(once, store)).await;
        bound.unwrap_or(Err(Outcome::Later("the store is too slow")))
    }

    /// Takes a mail out of its bucket.
    async fn fetched(&self, place: InBucket, origin: Origin, patience: Patience) -> Outcome {
        let mut held = self.room.none();
        let bytes_max = self.acceptance.mail_bytes_max;
        let read = self.outside.mail(&place, bytes_max, &mut held);
        match patience.wait(read).await {
            Some(Ok(bytes)) => {
                let mail = Incoming {
                    bytes,
                    ..place.mail
                };
                self.acceptance.take(vec![mail], origin).await
            }
            Some(Err(outcome)) => outcome,
            None => Outcome::Later("the mail in the bucket does not come in time"),
        }
    }

    /// Makes a note of a mail to be fetched, on disk before it says yes.
    async fn note(&self, elsewhere: Elsewhere, origin: Origin) -> Outcome {
        let Some(errands) = &self.errands else {
            return Outcome::Later("mail kept at the provider is not fetched");
        };
        match errands.add(elsewhere, origin).await {
            Ok(()) => Outcome::Nothing("to be fetched"),
            Err(error) => {
                error!(provider = origin.provider, %error, "errand not kept");
                Outcome::Later("no room now")
            }
        }
    }

    /// Counts and logs how a request ended, and says it in its provider's way.
    fn end(&self, adapter: Option<&dyn Adapter>, outcome: &Outcome) -> Response {
        let provider = adapter.map_or("", Adapter::name);
        let law = adapter.map_or(Law::RETRIES_ALL, Adapter::law);
        let response = outcome.response(law);
        self.metrics.ended(provider, outcome.word());
        let why = match outcome {
            Outcome::Kept { .. } | Outcome::Nothing(_) | Outcome::Unroutable { .. } => {
                return response;
            }
            Outcome::Malformed(why) => why.to_string(),
            Outcome::Unproven(why) => why.to_string(),
            Outcome::Later(why) => (*why).to_owned(),
            Outcome::MediaType(taken) => format!("content-type: not {taken}"),
            other => other.word().to_owned(),
        };
        if self.throttle.lets_pass() {
            let (outcome, status) = (outcome.word(), response.status);
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
    request: &Request,
    now: Timestamp,
    certificate: Option<&[u8]>,
) -> Result<(Decoded, Option<Once>), Outcome> {
    let authentic = adapter.authenticate(request, now, certificate);
    let authentic = authentic.map_err(Outcome::Unproven)?;
    let once = adapter.once(authentic).map_err(Outcome::Malformed)?;
    let decoded = adapter.decode(authentic).map_err(Outcome::Malformed)?;
    Ok((decoded, once))
}
