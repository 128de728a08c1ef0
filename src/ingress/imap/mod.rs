//! Owns fetching mail from the folders of an IMAP server (RFC 3501).
//!
//! Does not post mail, nor interpret its content. A mail is not changed at the server before it is on our
//! disk.
//!
//! ```text
//! poller      one folder in a loop: connect, poll, wait, and again after a failure
//!   connection   address, TLS, login
//!   client       commands and their results          transport: octets, with bounds and time limits
//!   transfer     a few mails: fetch, store, mark     response: the meaning of a line
//!   intake       the recipients → accept
//! ```
//!
//! The server is not trusted: every line, literal, list and wait has a bound.

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

/// The time until another attempt to claim an account.
const LEASE_RETRY_WAIT: Duration = Duration::from_secs(10);

pub use connection::ImapSetupError;
pub use metrics::Metrics;
pub use settings::{AfterFetch, FOLDERS_MAX, ImapCredential, ImapSecurity, InitialFetch, Settings};
pub use transport::ImapFault;

/// The parts that the fetcher needs.
pub struct ImapParts {
    /// The store for the mail.
    pub store: Store,
    /// The routes, which know our recipients.
    pub routes: Arc<Routes>,
    /// The authenticator, which knows the trusted upstream servers; `None` if senders are not checked.
    pub auth: Option<Arc<Authenticator>>,
    /// The metrics of the fetcher.
    pub metrics: Metrics,
}

/// An account whose folders are polled.
pub struct ImapFetcher {
    account: Arc<ImapAccount>,
}

impl ImapFetcher {
    /// Prepares the fetcher, without a connection.
    ///
    /// # Errors
    /// The certificates cannot be read, or the host name is invalid.
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

    /// Fetches mail until `stop` is true. Running transfers are finished first.
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

    /// Waits until no other process polls the account; `None` if `stop` became true first.
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
