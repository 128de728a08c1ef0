//! Owns the SMTP and LMTP server: the listeners, the connections, and what answers their sessions.
//!
//! Does not know the grammar of either protocol (that is `smtp`) and keeps no mail (that is the
//! store).

mod answers;
mod connection;
mod listener;
mod maillog;
mod metrics;
mod panics;
mod proxy;
mod stream;
mod timeouts;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::routes::Routes;
use crate::auth::Authenticator;
use crate::limits::{
    ConnectionLimiter, ConnectionLimits, LoadMonitor, LogThrottle, MemoryBudget, MemoryLimits,
};
use crate::network::Network;
use crate::smtp::session::{self, BareNewline, Protocol};
use crate::store::{RECIPIENTS_MAX, Store};
use crate::tls::{CertificateError, Certificates};

use answers::SessionAnswers;
use listener::Listener;

pub(super) use maillog::mask_address;
pub use metrics::Metrics;

/// Where the server listens, and its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The addresses, each with the protocol spoken there.
    pub listen: Vec<Listen>,
    /// What the sessions offer and bear. The server sets protocol, STARTTLS and bare newlines of
    /// each connection itself, and keeps to the recipients that the store takes.
    pub session: session::Settings,
    /// Connections at most, over all listeners. One more hears 421 4.3.2.
    pub connections_max: usize,
    /// Connections at most from one IPv4 address or IPv6 /64. One more hears 421 4.7.0.
    pub connections_per_network_max: usize,
    /// Networks to which neither that bound, nor those of a session's time and bytes, nor the wait
    /// before the greeting apply. An address that a proxy told never counts as one of them.
    pub exempt: Vec<Network>,
    /// Networks of proxies: a connection from there must begin with a PROXY header. It gives the
    /// client's address, and no trust.
    pub proxies: Vec<Network>,
    /// Networks whose bare line feeds are mended ([`BareNewline::Normalize`]).
    pub lenient: Vec<Network>,
    /// Networks of relays: what they tell of the client with XCLIENT and XFORWARD is believed, and
    /// where they tell nothing, their own address says nothing of who sent a mail.
    pub relays: Vec<Network>,
    /// Who comes by a unix socket is such a relay too.
    pub unix_relays: bool,
    /// Bytes of mail that all connections together hold in memory. What is beyond hears 452 4.3.1.
    pub bytes_in_flight_max: usize,
    /// How long a stranger has to wait for the greeting. Who speaks before it hears 554 5.5.0. With
    /// zero only what has already arrived is noticed.
    pub greeting_wait: Duration,
    /// How long a client may take from one answer to the end of its next command.
    pub idle_max: Duration,
    /// The same while the server is crowded.
    pub idle_crowded_max: Duration,
    /// The server is crowded while more than this part of its places is taken, in percent.
    pub crowded_percent: usize,
    /// How long a whole session may take.
    pub session_max: Duration,
    /// Bytes a session may read. It ends with 421 after the mail that reaches it.
    pub session_bytes_max: u64,
    /// How long the answers to one read may take to be written.
    pub write_max: Duration,
    /// How long a TLS handshake may take.
    pub handshake_max: Duration,
    /// How long a proxy may take for its header.
    pub proxy_header_max: Duration,
    /// How long a mail may come at any rate.
    pub rate_grace: Duration,
    /// Bytes per second that a mail must bring after that, on average.
    pub rate_min: u32,
    /// How long the store may take for a mail. Beyond, the client hears 451 4.4.5.
    pub store_max: Duration,
    /// How long connections may finish their mail once the server stops.
    pub drain_max: Duration,
    /// How long is waited for a client to close after our last word, so that it can be read.
    pub linger_max: Duration,
}

impl Settings {
    /// The default bounds, listening nowhere yet.
    pub fn new(hostname: String) -> Self {
        let session = session::Settings::new(hostname, Protocol::Smtp);
        Self {
            listen: Vec::new(),
            connections_max: 2_000,
            connections_per_network_max: 20,
            exempt: Network::LOOPBACK.to_vec(),
            proxies: Vec::new(),
            lenient: Vec::new(),
            relays: Vec::new(),
            unix_relays: false,
            bytes_in_flight_max: 512 * 1024 * 1024,
            greeting_wait: Duration::ZERO,
            idle_max: Duration::from_secs(300),
            idle_crowded_max: Duration::from_secs(10),
            crowded_percent: 80,
            session_max: Duration::from_secs(20 * 60),
            session_bytes_max: 8 * session.mail_bytes_max,
            write_max: Duration::from_secs(60),
            handshake_max: Duration::from_secs(10),
            proxy_header_max: Duration::from_secs(3),
            rate_grace: Duration::from_secs(30),
            rate_min: 500,
            store_max: Duration::from_secs(60),
            drain_max: Duration::from_secs(30),
            linger_max: Duration::from_secs(2),
            session,
        }
    }
}

/// One address the server listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// An address to listen at: `192.0.2.1:25`, `[::]:25` or `unix:/run/postern/lmtp.sock`.
///
/// An IPv6 address takes no IPv4 connections: `0.0.0.0` and `[::]` are listed both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a TCP port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// The path of a unix socket. It gets mode 0660.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let wrong = || ListenAddressError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err(wrong()),
            None => text.parse().map(Self::Tcp).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is no address to listen at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?}: not of the form address:port, [address]:port or unix:/path")]
pub struct ListenAddressError(String);

/// The parts the server works with.
pub struct SmtpParts {
    /// Where mail goes.
    pub store: Store,
    /// What recipients are ours.
    pub routes: Arc<Routes>,
    /// Who finds out who sent a mail; without it nobody does.
    pub auth: Option<Arc<Authenticator>>,
    /// What STARTTLS shows; without it STARTTLS is not offered.
    pub certificates: Option<Arc<Certificates>>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The SMTP and LMTP server, bound to its addresses.
pub struct SmtpServer {
    listeners: Vec<Listener>,
    shared: Arc<SmtpContext>,
}

impl SmtpServer {
    /// Binds every address. Clients can connect from now on, and are answered once `run` runs.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(settings: Settings, parts: SmtpParts) -> Result<Self, BindError> {
        let acceptor = match &parts.certificates {
            Some(certificates) => Some(TlsAcceptor::from(certificates.server_config()?)),
            None => None,
        };
        let mut listeners = Vec::new();
        for listen in &settings.listen {
            let offer_starttls =
                acceptor.is_some() && matches!(listen.address, ListenAddress::Tcp(_));
            let strict = session::Settings {
                protocol: listen.protocol,
                offer_starttls,
                bare_newline: BareNewline::Refuse,
                rcpt_max: settings.session.rcpt_max.min(RECIPIENTS_MAX),
                ..settings.session.clone()
            };
            let listener = Listener::bind(listen, strict)?;
            info!(address = %listener.address(), protocol = listener.protocol_name(), "listening");
            listeners.push(listener);
        }
        let load = LoadMonitor::default();
        let memory = MemoryBudget::new(
            MemoryLimits::undivided(settings.bytes_in_flight_max),
            parts.metrics.in_flight(),
            load.clone(),
        );
        let limits = ConnectionLimits {
            connections_max: settings.connections_max,
            per_network_max: settings.connections_per_network_max,
            crowded_percent: settings.crowded_percent,
        };
        let shared = SmtpContext {
            answers: SessionAnswers {
                store: parts.store,
                routes: parts.routes,
                auth: parts.auth,
                memory: Arc::clone(&memory),
                store_max: settings.store_max,
            },
            limiter: ConnectionLimiter::new(limits, load.clone()),
            load,
            acceptor,
            memory,
            metrics: parts.metrics,
            throttle: LogThrottle::default(),
            settings,
        };
        Ok(Self {
            listeners,
            shared: Arc::new(shared),
        })
    }

    /// The addresses in the order of the settings, with the ports they really have.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Serves until `stop` resolves. Then nobody new is let in, who is between mails hears 421, and
    /// mails on their way may finish until `drain_max` is over. The store must outlive this.
    ///
    /// # Panics
    /// If a listener panics: the process must not live on without its door.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listeners, shared } = self;
        let mut doors = JoinSet::new();
        for listener in listeners {
            doors.spawn(listener.run(Arc::clone(&shared)));
        }
        tokio::pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            Some(ended) = doors.join_next() => resume_panic(ended),
        }
        shared.load.close();
        let drained = async {
            while let Some(ended) = doors.join_next().await {
                resume_panic(ended);
            }
        };
        if timeout(shared.settings.drain_max, drained).await.is_err() {
            let open = shared.limiter.open();
            warn!(open, "connections cut off: they did not end in time");
            doors.shutdown().await;
        }
    }
}

/// What all connections share.
struct SmtpContext {
    settings: Settings,
    answers: SessionAnswers,
    acceptor: Option<TlsAcceptor>,
    memory: Arc<MemoryBudget>,
    limiter: Arc<ConnectionLimiter>,
    load: LoadMonitor,
    metrics: Metrics,
    throttle: LogThrottle,
}

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("{0}")]
    Address(ListenAddress, #[source] io::Error),
    /// Another process listens at the unix socket.
    #[error("{0}: another process listens there")]
    InUse(ListenAddress),
    /// LMTP must not be spoken at port 25 (RFC 2033 section 5).
    #[error("{0}: LMTP must not be spoken at port 25")]
    LmtpAtPort25(ListenAddress),
    /// What lies at the path of a unix socket is something else, and is left alone.
    #[error("{0}: there is something that is no socket")]
    NotSocket(ListenAddress),
    /// The certificates cannot be used.
    #[error("TLS")]
    Tls(#[from] CertificateError),
}

fn resume_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Lmtp => "lmtp",
        Protocol::Smtp => "smtp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_at_print_as_they_are_read() {
        for text in [
            "127.0.0.1:25",
            "[::1]:2525",
            "[::]:25",
            "unix:/run/lmtp.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "25",
            ":25",
            "localhost:25",
            "127.0.0.1",
            "unix:lmtp",
            "unix:",
            "/run/x",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
