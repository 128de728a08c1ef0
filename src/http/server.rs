//! Owns the sockets HTTP is served on: accepting, bounds on connections and time, going down.
//!
//! Does not know what is served: a router is an argument.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{self, Service as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream, unix};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time;
use tracing::error;

/// Bounds of one listening socket.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections_max: usize,
    /// The longest a head of a request may take, and the longest an idle connection is kept.
    pub header_wait: Duration,
    /// The longest one connection lives, whatever it does.
    pub connection_age_max: Duration,
    /// The longest wait for requests in flight when the server stops.
    pub grace: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            connections_max: 512,
            header_wait: Duration::from_secs(15),
            connection_age_max: Duration::from_secs(600),
            grace: Duration::from_secs(10),
        }
    }
}

/// A head of a request has at most so many bytes; hyper allows 100 fields in it.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Who is at the other end of a connection, as every request on it carries it; `None` on a unix
/// socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

/// An address a connection comes from.
pub trait Source {
    /// Its IP address, if it has one.
    fn ip(&self) -> Option<IpAddr>;
}

impl Source for SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        Some(self.ip().to_canonical())
    }
}

impl Source for unix::SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        None
    }
}

/// Serves `router` until `stop` is true or its sender is gone, then finishes what is in flight
/// within the grace.
///
/// A failed accept (no file descriptors left, say) is waited out, never the end.
pub async fn serve<L>(
    mut listener: L,
    router: Router,
    settings: ServerSettings,
    mut stop: watch::Receiver<bool>,
) where
    L: Listener<Addr: Source>,
{
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    let (draining, drain) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    error!("a request panicked: its connection is closed");
                }
                continue;
            }
            accepted = accept(&mut listener, &slots) => accepted,
        };
        let Some((io, peer, slot)) = accepted else {
            break;
        };
        let (router, settings, drain) = (router.clone(), settings.clone(), drain.clone());
        connections.spawn(async move {
            talk((io, peer), router, settings, drain).await;
            drop(slot);
        });
    }
    drop(listener);
    draining.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if time::timeout(settings.grace, drained).await.is_err() {
        connections.abort_all();
    }
}

/// A free slot first, then a connection for it.
async fn accept<L: Listener<Addr: Source>>(
    listener: &mut L,
    slots: &Arc<Semaphore>,
) -> Option<(L::Io, Peer, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    let (io, address) = listener.accept().await;
    Some((io, Peer(address.ip()), slot))
}

async fn talk<I>(
    (io, peer): (I, Peer),
    router: Router,
    settings: ServerSettings,
    mut drain: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let known = service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_wait)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), known);
    let mut connection = pin!(connection);
    let mut age = pin!(time::sleep(settings.connection_age_max));
    let mut draining = false;
    loop {
        tokio::select! {
            // An error here is the peer's affair: it went away or spoke no HTTP.
            _ = connection.as_mut() => return,
            () = &mut age => return,
            _ = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Listens on a TCP address.
///
/// # Errors
/// Those of the system: the address is taken or not ours.
pub async fn listen(address: SocketAddr) -> io::Result<impl Listener<Addr = SocketAddr>> {
    let listener = TcpListener::bind(address).await?;
    // Without it a small answer waits for the peer's acknowledgement.
    Ok(listener.tap_io(|stream| drop(stream.set_nodelay(true))))
}

/// Listens on a unix socket that only this user (and root) can talk to.
///
/// A socket file left behind at `path` is replaced: whoever calls holds the data folder's lock.
///
/// # Errors
/// Those of the system; also if something that is no socket stands at `path`.
pub fn listen_alone(path: &Path) -> io::Result<OwnSocket> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let owner = fs::symlink_metadata(path)?.uid();
    Ok(OwnSocket { listener, owner })
}

/// A unix socket that hangs up on other users.
///
/// The file's mode alone would not do: between bind and chmod it is what the umask makes it.
#[derive(Debug)]
pub struct OwnSocket {
    listener: UnixListener,
    owner: u32,
}

impl Listener for OwnSocket {
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
