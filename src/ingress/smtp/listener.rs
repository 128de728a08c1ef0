//! Owns one listening socket: it accepts connections, and rejects those above the limit.
//!
//! Does not speak SMTP beyond that rejection.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use super::connection::SmtpConnection;
use super::peer::{SmtpPeer, protocol_name};
use super::refusal::refuse_connection;
use super::settings::{Listen, ListenAddress};
use super::stream::SmtpStream;
use super::{BindError, SmtpContext};
use crate::network::Network;
use crate::smtp::response::Refusal;
use crate::smtp::session::{self, BareNewline, Protocol};

/// The number of connections that the kernel queues.
const BACKLOG: i32 = 1_024;
/// The port that LMTP must not use (RFC 2033 section 5).
const SMTP_PORT: u16 = 25;
/// The first and the longest wait after the system had no descriptor for a connection.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One listening socket, and the settings of its sessions.
pub(super) struct Listener {
    socket: ListenerSocket,
    /// The settings for untrusted clients and, second, for relays.
    strict: [Arc<session::Settings>; 2],
    /// The same for networks whose bare LF are repaired.
    lenient: [Arc<session::Settings>; 2],
}

enum ListenerSocket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    pub(super) fn bind(listen: &Listen, strict: session::Settings) -> Result<Self, BindError> {
        let address = &listen.address;
        let broken = |error| BindError::Address(address.clone(), error);
        let door = match address {
            ListenAddress::Tcp(at) => {
                if strict.protocol == Protocol::Lmtp && at.port() == SMTP_PORT {
                    return Err(BindError::LmtpAtPort25(address.clone()));
                }
                let listener = bind_tcp(*at).map_err(broken)?;
                let at = listener.local_addr().map_err(broken)?;
                ListenerSocket::Tcp(listener, at)
            }
            ListenAddress::Unix(path) => {
                let (listener, file) = bind_unix(path, address)?;
                ListenerSocket::Unix(listener, file)
            }
        };
        let session = |bare_newline, trusts_relay| {
            Arc::new(session::Settings {
                bare_newline,
                trusts_relay,
                ..strict.clone()
            })
        };
        Ok(Self {
            socket: door,
            strict: [false, true].map(|relay| session(BareNewline::Refuse, relay)),
            lenient: [false, true].map(|relay| session(BareNewline::Normalize, relay)),
        })
    }

    /// The address, with the actual port.
    pub(super) fn address(&self) -> ListenAddress {
        match &self.socket {
            ListenerSocket::Tcp(_, at) => ListenAddress::Tcp(*at),
            ListenerSocket::Unix(_, file) => ListenAddress::Unix(file.path.clone()),
        }
    }

    pub(super) fn protocol_name(&self) -> &'static str {
        protocol_name(self.strict[0].protocol)
    }

    /// Accepts connections until the server closes, then waits for the open ones.
    pub(super) async fn run(self, shared: Arc<SmtpContext>) {
        let mut load = shared.load.subscribe();
        let mut connections = JoinSet::new();
        let mut pause = PAUSE_FIRST;
        loop {
            let accepted = tokio::select! {
                _ = load.wait_for(|level| level.closing) => break,
                Some(ended) = connections.join_next() => {
                    count_panic(&shared, ended);
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((wire, ip)) => {
                    pause = PAUSE_FIRST;
                    if let Some(connection) = self.admit(wire, ip, &shared) {
                        connections.spawn(connection.serve());
                    }
                }
                Err(error) if is_client_fault(&error) => {}
                Err(error) => {
                    // Without descriptors or memory the connection stays in the backlog, so an immediate
                    // retry would only use processor time.
                    shared.metrics.accept_failed();
                    if shared.throttle.allow() {
                        warn!(%error, address = %self.address(), "cannot accept a connection");
                    }
                    tokio::select! {
                        _ = load.wait_for(|level| level.closing) => break,
                        () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                    }
                }
            }
        }
        drop(self);
        while let Some(ended) = connections.join_next().await {
            count_panic(&shared, ended);
        }
    }

    fn admit(
        &self,
        wire: SmtpStream,
        ip: Option<IpAddr>,
        shared: &Arc<SmtpContext>,
    ) -> Option<SmtpConnection> {
        let settings = &shared.settings;
        let is_in = |networks: &[Network]| {
            ip.is_some_and(|ip| networks.iter().any(|network| network.contains(ip)))
        };
        let proxied = is_in(&settings.proxies);
        // A proxied client does not get the exemptions of the proxy's address.
        let exempt = ip.is_none() || (!proxied && is_in(&settings.exempt));
        let lenient = !proxied && is_in(&settings.lenient);
        let relay = match ip {
            None => settings.unix_relays,
            Some(_) => !proxied && is_in(&settings.relays),
        };
        let sessions = if lenient { &self.lenient } else { &self.strict };
        let session = &sessions[usize::from(relay)];
        let peer = SmtpPeer {
            exempt,
            relay,
            ..SmtpPeer::new(session.protocol, ip)
        };
        let Some(permit) = shared.limiter.try_acquire(exempt) else {
            refuse_connection(&wire, &peer, Refusal::ServerFull, shared);
            return None;
        };
        if !exempt && !proxied && !ip.is_none_or(|ip| permit.count_network(ip)) {
            refuse_connection(&wire, &peer, Refusal::TooManyConnections, shared);
            return None;
        }
        Some(SmtpConnection {
            wire,
            peer,
            permit,
            proxied,
            session: Arc::clone(session),
            shared: Arc::clone(shared),
        })
    }
}

impl ListenerSocket {
    async fn accept(&self) -> io::Result<(SmtpStream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, from) = listener.accept().await?;
                // Responses are written whole, so there is nothing to gather. If the option cannot be set,
                // the connection is about to end.
                let _ = stream.set_nodelay(true);
                Ok((SmtpStream::Tcp(stream), Some(from.ip().to_canonical())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((SmtpStream::Unix(stream), None))
            }
        }
    }
}

/// The file of a unix socket. The listener removes it at its end, if it is still the same file.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn count_panic(shared: &SmtpContext, ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        shared.metrics.panicked();
    }
}

/// True if the error belongs to the connection that was to be accepted, so that the next one may succeed.
fn is_client_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn bind_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        // `[::]` and `0.0.0.0` can then both be bound, and no address is IPv4-mapped.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds under another name and renames the socket, so that no client can connect before its mode is set,
/// and an old file is replaced without a gap.
fn bind_unix(
    path: &Path,
    address: &ListenAddress,
) -> Result<(UnixListener, SocketFile), BindError> {
    let broken = |error| BindError::Address(address.clone(), error);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotSocket(address.clone()));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(BindError::InUse(address.clone()));
        }
        _ => {}
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(broken)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660)).map_err(broken)?;
    let inode = fs::symlink_metadata(&fresh).map_err(broken)?.ino();
    fs::rename(&fresh, path).map_err(broken)?;
    let file = SocketFile {
        path: path.to_owned(),
        inode,
    };
    Ok((listener, file))
}
