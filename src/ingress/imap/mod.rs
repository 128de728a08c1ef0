//! Owns the door by which mail is fetched from the folders of an IMAP server (RFC 3501).
//!
//! Does not post mail, nor read its content. Nothing is done to a mail at the server before it is on our
//! disk.
//!
//! ```text
//! poller      one folder for ever: connect, poll, wait, and again after a fault
//!   connection   address, TLS, login
//!   client       commands and their results          transport: octets, bounded and in time
//!   transfer     a few mails: fetch, store, mark     response: the meaning of a line
//!   intake       the recipients → accept
//! ```
//!
//! The server may be anybody, and say anything: every line, literal, list and wait has a bound.

mod client;
mod connection;
mod intake;
mod metrics;
mod poller;
mod response;
mod settings;
mod syntax;
#[cfg(test)]
mod tests;
mod transfer;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tracing::warn;

use crate::auth::Authenticator;
use crate::ingress::routes::Routes;
use crate::limits::{LoadMonitor, MemoryBudget, MemoryLimits};
use crate::store::{Lease, LeaseName, Store};

use connection::ImapConnector;
use intake::ImapIntake;
use poller::FolderPoller;
use transfer::ImapAccount;

/// Time until an account is claimed again that could not be.
const LEASE_RETRY_WAIT: Duration = Duration::from_secs(10);

pub use connection::ImapSetupError;
pub use metrics::Metrics;
pub use settings::{AfterFetch, FOLDERS_MAX, ImapCredential, ImapSecurity, InitialFetch, Settings};
pub use transport::ImapFault;

/// The parts the fetcher works with.
pub struct ImapParts {
    /// The store that mail goes into.
    pub store: Store,
    /// The routes, which know the recipients that are ours.
    pub routes: Arc<Routes>,
    /// The authenticator, which knows the servers before us that are trusted; `None` if senders are not
    /// checked.
    pub auth: Option<Arc<Authenticator>>,
    /// The metrics that are counted into.
    pub metrics: Metrics,
}

/// An account whose folders are looked through.
pub struct ImapFetcher {
    account: Arc<ImapAccount>,
}

impl ImapFetcher {
    /// Prepares the fetcher; no connection is made yet.
    ///
    /// # Errors
    /// The certificates cannot be read, or the host has no name.
    pub fn new(settings: Settings, parts: ImapParts) -> Result<Self, ImapSetupError> {
        let ImapParts {
            store,
            routes,
            auth,
            metrics,
        } = parts;
        let intake = ImapIntake {
            store,
            routes,
            auth,
            store_max: settings.store_max,
            user: settings.user.clone(),
        };
        let bytes_max = settings.bytes_in_flight_max.max(settings.mail_bytes_max);
        Ok(Self {
            account: Arc::new(ImapAccount {
                connector: ImapConnector::new(&settings)?,
                memory: MemoryBudget::new(
                    MemoryLimits::undivided(bytes_max),
                    Gauge::default(),
                    LoadMonitor::default(),
                ),
                settings,
                intake,
                metrics,
            }),
        })
    }

    /// Fetches mail until `stop` is true. What is under way is ended first.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let Some(_account) = self.lease(&mut stop).await else {
            return;
        };
        let folders = self.account.settings.folders.iter();
        let walks = folders.map(|folder| {
            FolderPoller::new(Arc::clone(&self.account), folder.clone(), stop.clone()).run()
        });
        join_all(walks).await;
    }

    /// Waits until no other process reads the account; `None`: until `stop` was true.
    async fn lease(&self, stop: &mut watch::Receiver<bool>) -> Option<Lease> {
        let Settings { host, user, .. } = &self.account.settings;
        let store = &self.account.intake.store;
        loop {
            let name = LeaseName::Mailbox(format!("{user}@{host}"));
            let pause = tokio::select! {
                lease = store.lease(name) => match lease {
                    Ok(lease) => return Some(lease),
                    Err(error) => {
                        warn!(protocol = "imap", %error, "the account cannot be claimed now");
                        tokio::time::sleep(LEASE_RETRY_WAIT)
                    }
                },
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            tokio::select! {
                () = pause => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }
}
