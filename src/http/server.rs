//! Owns the HTTP sockets: accepting, TLS, limits on connections and time, shutdown.
//!
//! Does not know the content: the router is an argument.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{Extensions, HeaderValue};
use axum::serve::{Listener, ListenerExt};
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{self, Service as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream, unix};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::limits::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, LoadMonitor};
use crate::network::{Network, rate_limit_key};
use crate::tls::{CertificateError, Certificates};

/// Limits of one listening socket.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The number of concurrent connections, over all addresses of a server. Above it a new one replaces
    /// the longest idle connection that is not exempt, or waits. Exempt clients have an eighth more.
    pub connections_max: usize,
    /// The number of concurrent connections from one IPv4 address or IPv6 /64. A further client receives
    /// 503, or over TLS a closed connection.
    pub connections_per_network_max: usize,
    /// Networks without that limit, for example reverse proxies.
    pub exempt: Vec<Network>,
    /// The time limit of a TLS handshake.
    pub handshake_wait: Duration,
    /// The time limit for the head of a request, and of an idle connection.
    pub header_wait: Duration,
    /// The age at which a connection ends: with the response to the current or the next request.
    pub connection_age_max: Duration,
    /// The time for which a request may continue beyond that age.
    pub request_grace: Duration,
    /// The time for which a shutdown waits for running requests.
    pub grace: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            connections_max: 512,
            connections_per_network_max: 128,
            exempt: Network::LOOPBACK.to_vec(),
            handshake_wait: Duration::from_secs(10),
            header_wait: Duration::from_secs(15),
            connection_age_max: Duration::from_secs(600),
            request_grace: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// The options of one listening socket. Clones share their connection limit.
#[derive(Clone)]
pub struct HttpOptions {
    settings: ServerSettings,
    limiter: Arc<ConnectionLimiter>,
    refusals: Arc<RefusalLog>,
    tls: Option<TlsAcceptor>,
}

impl HttpOptions {
    /// The same options with TLS, using the certificates that are current at each connection. HTTP/1.1 is
    /// the only protocol of the TLS handshake (ALPN, RFC 7301).
    ///
    /// # Errors
    /// Like [`Certificates::server_config`].
    pub fn over_tls(&self, certificates: &Arc<Certificates>) -> Result<Self, CertificateError> {
        let mut config = Arc::unwrap_or_clone(certificates.server_config()?);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Some(TlsAcceptor::from(Arc::new(config))),
            ..self.clone()
        })
    }
}

impl HttpOptions {
    /// The address by which a client is counted; `None` if it is exempt.
    fn counted(&self, client: ClientIp) -> Option<IpAddr> {
        let is_exempt = |ip: IpAddr| self.settings.exempt.iter().any(|one| one.contains(ip));
        client.0.filter(|ip| !is_exempt(*ip))
    }

    async fn wait_for_place(&self, is_exempt: bool) -> Option<ConnectionPermit> {
        let acquired = self.limiter.acquire(is_exempt);
        time::timeout(PLACE_WAIT, acquired).await.ok()
    }

    /// Counts a place for the network of `ip`; false if that network has reached its limit.
    fn counts(&self, permit: &ConnectionPermit, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip else {
            return true;
        };
        let counts = permit.count_network(ip);
        if !counts {
            self.refusals.note(rate_limit_key(ip));
        }
        counts
    }
}

/// Connections that were refused because their network had too many. They are logged once in
/// [`REFUSALS_LOGGED_EVERY`].
#[derive(Debug, Default)]
struct RefusalLog(Mutex<(u64, Option<Instant>)>);

impl RefusalLog {
    fn note(&self, network: IpAddr) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (turned_away, logged_at) = &mut *noted;
        *turned_away += 1;
        if logged_at.is_none_or(|at| at.elapsed() >= REFUSALS_LOGGED_EVERY) {
            *logged_at = Some(Instant::now());
            let turned_away = *turned_away;
            warn!(protocol = "http", %network, turned_away, "too many connections from one network");
        }
    }
}

impl From<ServerSettings> for HttpOptions {
    /// Plain HTTP with a separate connection limit.
    fn from(settings: ServerSettings) -> Self {
        Self {
            limiter: ConnectionLimiter::new(
                ConnectionLimits {
                    connections_max: settings.connections_max,
                    per_network_max: settings.connections_per_network_max,
                    crowded_percent: 100,
                },
                LoadMonitor::default(),
            ),
            refusals: Arc::default(),
            settings,
            tls: None,
        }
    }
}

/// Interval between log lines about refused connections.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// The number of connections that may wait for a place. A further one is closed at once.
const WAITING_MAX: usize = 128;
/// The time limit for waiting for a place.
const PLACE_WAIT: Duration = Duration::from_secs(30);
/// The response to a client above the limit.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 30\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
/// The time limit for writing that response.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// Octets of a request's head; hyper allows 100 fields in it.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// The IP address of the client, as an extension of every request; `None` on a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(pub Option<IpAddr>);

/// The IP address of a request's client, by the request's extensions.
pub(super) fn client_ip(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ClientIp>().and_then(|ip| ip.0)
}

/// True if the request came over TLS, as an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverTls(pub(super) bool);

/// A socket address of a client.
pub trait RemoteAddress {
    /// Its IP address, if it has one.
    fn ip(&self) -> Option<IpAddr>;
}

impl RemoteAddress for SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        Some(self.ip().to_canonical())
    }
}

impl RemoteAddress for unix::SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        None
    }
}

/// Serves `router` until `stop` is true or its sender is dropped, then finishes running requests within the
/// grace period.
///
/// A failed accept (for example without free file descriptors) is retried and never ends the server.
pub async fn serve<L>(
    mut listener: L,
    router: Router,
    terms: impl Into<HttpOptions>,
    mut stop: watch::Receiver<bool>,
) where
    L: Listener<Addr: RemoteAddress>,
{
    let terms = terms.into();
    let (draining, drain) = watch::channel(false);
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    let mut connections = JoinSet::new();
    let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
    loop {
        let (io, address) = tokio::select! {
            () = &mut stopped => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    error!("a request panicked: its connection is closed");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let client = HttpClient {
            io,
            ip: ClientIp(address.ip()),
            is_over_tls: OverTls(false),
            drain: drain.clone(),
        };
        let counted = terms.counted(client.ip);
        let place = terms.limiter.try_acquire(counted.is_none());
        let turn = match place {
            Some(_) => None,
            None => match Arc::clone(&waiting).try_acquire_owned() {
                Ok(turn) => Some(turn),
                // Too many connections are waiting already.
                Err(_) => continue,
            },
        };
        let (router, terms) = (router.clone(), terms.clone());
        connections.spawn(async move {
            let place = match place {
                None => terms.wait_for_place(counted.is_none()).await,
                place => place,
            };
            drop(turn);
            match place.filter(|permit| terms.counts(permit, counted)) {
                Some(permit) => client.serve(router, &terms, permit).await,
                None => client.refuse(&terms).await,
            }
        });
    }
    drop(listener);
    draining.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if time::timeout(terms.settings.grace, drained).await.is_err() {
        connections.abort_all();
    }
}

/// An accepted connection.
struct HttpClient<I> {
    io: I,
    ip: ClientIp,
    is_over_tls: OverTls,
    /// True after the server began to stop.
    drain: watch::Receiver<bool>,
}

impl<I> HttpClient<I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn refuse(mut self, terms: &HttpOptions) {
        if terms.tls.is_none() {
            let sent = self.io.write_all(TOO_MANY_CONNECTIONS);
            // The server does not wait for a client that does not read.
            drop(time::timeout(REFUSAL_WAIT, sent).await);
        }
    }

    /// Does the TLS handshake, if there is one, and serves requests.
    async fn serve(mut self, router: Router, terms: &HttpOptions, permit: ConnectionPermit) {
        permit.set_idle();
        let Some(tls) = &terms.tls else {
            return self.answer_requests(router, &terms.settings, permit).await;
        };
        let shaken = tokio::select! {
            // A handshake may be aborted.
            _ = self.drain.wait_for(|drain| *drain) => return,
            () = permit.evicted() => return,
            shaken = time::timeout(terms.settings.handshake_wait, tls.accept(self.io)) => shaken,
        };
        match shaken {
            Ok(Ok(io)) => {
                let client = HttpClient {
                    io,
                    ip: self.ip,
                    is_over_tls: OverTls(true),
                    drain: self.drain,
                };
                client
                    .answer_requests(router, &terms.settings, permit)
                    .await;
            }
            Ok(Err(error)) => debug!(protocol = "http", %error, "the TLS handshake failed"),
            Err(_) => debug!(protocol = "http", "the TLS handshake timed out"),
        }
    }

    async fn answer_requests(
        self,
        router: Router,
        settings: &ServerSettings,
        permit: ConnectionPermit,
    ) {
        let Self {
            io,
            ip,
            is_over_tls,
            mut drain,
        } = self;
        let permit = Arc::new(permit);
        let router = TowerToHyperService::new(router);
        let (busy, old) = (Arc::clone(&permit), Arc::new(AtomicBool::new(false)));
        let is_old = Arc::clone(&old);
        let service = service::service_fn(move |mut request: Request<Incoming>| {
            busy.set_busy();
            request.extensions_mut().insert(ip);
            request.extensions_mut().insert(is_over_tls);
            let (answered, busy) = (router.call(request), Arc::clone(&busy));
            let is_old = Arc::clone(&is_old);
            async move {
                let mut response = answered.await?;
                if is_old.load(Ordering::Relaxed) {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response.map(|body| BusyBody { body, busy }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_wait)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        let mut ends = pin!(time::sleep(settings.connection_age_max));
        let (mut is_draining, mut is_ending) = (false, false);
        loop {
            tokio::select! {
                // The client disconnected or did not speak HTTP: neither is our error.
                _ = connection.as_mut() => return,
                () = &mut ends => {
                    if is_ending {
                        return;
                    }
                    ends.as_mut().reset(time::Instant::now() + settings.request_grace);
                    // The response to the current or the next request says that the connection ends: a client
                    // that is idle may be about to send one.
                    if old.swap(true, Ordering::Relaxed) {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
                () = permit.evicted() => {
                    if permit.is_idle() {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                _ = drain.wait_for(|drain| *drain), if !is_draining => {
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The body of a response. The connection is idle again after it is dropped.
struct BusyBody {
    body: axum::body::Body,
    busy: Arc<ConnectionPermit>,
}

impl Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for BusyBody {
    fn drop(&mut self) {
        self.busy.set_idle();
    }
}

/// Listens on a TCP address.
///
/// # Errors
/// Errors of the system, for example if the address is in use or not local.
pub async fn listen(address: SocketAddr) -> io::Result<impl Listener<Addr = SocketAddr>> {
    let listener = TcpListener::bind(address).await?;
    // Otherwise a small response waits for the peer's acknowledgement.
    Ok(listener.tap_io(|stream| drop(stream.set_nodelay(true))))
}

/// Listens on a unix socket that only this user and root can use.
///
/// An old socket file at `path` is replaced: the caller holds the lock of the data folder.
///
/// # Errors
/// Errors of the system; also if `path` exists and is not a socket.
pub fn listen_private(path: &Path) -> io::Result<PrivateSocket> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let owner = fs::symlink_metadata(path)?.uid();
    Ok(PrivateSocket { listener, owner })
}

/// A unix socket that closes connections of other users.
///
/// The mode of the file is not enough: between bind and chmod it depends on the umask.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: UnixListener,
    owner: u32,
}

impl Listener for PrivateSocket {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, unix::SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let peer = stream.peer_cred().map(|cred| cred.uid());
            if peer.is_ok_and(|uid| uid == 0 || uid == self.owner) {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.listener.local_addr()
    }
}
