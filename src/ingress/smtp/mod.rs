//! Owns the SMTP and LMTP server: the listeners, the connections, and the answers to their sessions.
//!
//! Does not know the grammar of either protocol (`smtp` does) and keeps no mail (the store does).

mod answers;
mod connection;
mod listener;
mod metrics;
mod panics;
mod peer;
mod proxy;
mod refusal;
mod settings;
mod stream;
mod timeouts;

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::auth::Authenticator;
use crate::ingress::routes::Routes;
use crate::limits::{
    ConnectionLimiter, ConnectionLimits, LoadMonitor, LogThrottle, MemoryBudget, MemoryLimits,
};
use crate::smtp::session::{self, BareNewline};
use crate::store::{RECIPIENTS_MAX, Store};
use crate::tls::{CertificateError, Certificates};

use answers::SessionAnswers;
use listener::Listener;

pub use metrics::Metrics;
pub use settings::{Listen, ListenAddress, ListenAddressError, Settings};

/// The parts that the server needs.
pub struct SmtpParts {
    /// The store for the mail.
    pub store: Store,
    /// The routes, which know our recipients.
    pub routes: Arc<Routes>,
    /// The authenticator; without it senders are not checked.
    pub auth: Option<Arc<Authenticator>>,
    /// The certificates for STARTTLS; without them it is not offered.
    pub certificates: Option<Arc<Certificates>>,
    /// The metrics of the server.
    pub metrics: Metrics,
}

/// The SMTP and LMTP server, bound to its addresses.
pub struct SmtpServer {
    listeners: Vec<Listener>,
    shared: Arc<SmtpContext>,
}

impl SmtpServer {
    /// Binds every address. Clients can connect from now on, and are served after `run` is called. Must be
    /// called within a tokio runtime.
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
        let mail_bytes_max = settings.session.mail_bytes_max;
        let mail_bytes_max = usize::try_from(mail_bytes_max).unwrap_or(usize::MAX);
        let memory = MemoryBudget::new(
            MemoryLimits::shared(settings.bytes_in_flight_max, mail_bytes_max),
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

    /// The addresses in the order of the settings, with the actual ports.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Serves until `stop` resolves. Then no client is accepted, clients between mails receive 421, and
    /// running mails may finish until `drain_max` has passed. The store must outlive this.
    ///
    /// # Panics
    /// If a listener panics, because the process must not continue without its listener.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listeners, shared } = self;
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listener.run(Arc::clone(&shared)));
        }
        tokio::pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            Some(ended) = tasks.join_next() => resume_panic(ended),
        }
        shared.load.close();
        let drained = async {
            while let Some(ended) = tasks.join_next().await {
                resume_panic(ended);
            }
        };
        if timeout(shared.settings.drain_max, drained).await.is_err() {
            let open = shared.limiter.open();
            warn!(open, "connections were aborted: they did not end in time");
            tasks.shutdown().await;
        }
    }
}

/// The context shared by all connections.
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

/// The reason why the server does not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("{0}")]
    Address(ListenAddress, #[source] io::Error),
    /// Another process uses the unix socket.
    #[error("{0}: another process listens there")]
    InUse(ListenAddress),
    /// LMTP must not use port 25 (RFC 2033 section 5).
    #[error("{0}: LMTP must not use port 25")]
    LmtpAtPort25(ListenAddress),
    /// The file at the path of a unix socket is not a socket, and is left alone.
    #[error("{0}: exists and is not a socket")]
    NotSocket(ListenAddress),
    /// The certificates are invalid.
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
