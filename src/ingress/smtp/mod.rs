//! Owns the SMTP and LMTP server: the listeners, the connections, and what answers their sessions.
//!
//! Does not know the grammar of either protocol (that is `smtp`) and keeps no mail (that is the
//! store).

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

/// The parts the server works with.
pub struct SmtpParts {
    /// The store that mail goes into.
    pub store: Store,
    /// The routes, which know the recipients that are ours.
    pub routes: Arc<Routes>,
    /// The authenticator of senders; without it nobody checks them.
    pub auth: Option<Arc<Authenticator>>,
    /// The certificates that STARTTLS shows; without them it is not offered.
    pub certificates: Option<Arc<Certificates>>,
    /// The metrics that the server counts into.
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

    /// The addresses in the order of the settings, with the ports they really have.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// Serves until `stop` resolves. Then nobody new is let in, clients between mails receive 421, and
    /// mails on their way may finish until `drain_max` is over. The store must outlive this.
    ///
    /// # Panics
    /// If a listener panics: the process must not live on without its door.
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
            warn!(open, "connections were cut off: they did not end in time");
            tasks.shutdown().await;
        }
    }
}

/// The context that all connections share.
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

/// A reason why the server does not start.
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
    /// The file at the path of a unix socket is something else, and is left alone.
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
