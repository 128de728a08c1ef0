//! Owns the door by which mail is fetched from the folders of an IMAP server (RFC 3501).
//!
//! Does not post mail, nor decide what is in it. Nothing is done to a mail at the server before it is
//! on our disk.
//!
//! ```text
//! walk        one folder for ever: connect, look, wait, and again after a fault
//!   connection   address, TLS, login
//!   dialogue     commands and what they bring        wire: octets, bounded and in time
//!   transfer     a few mails: fetch, keep, mark      response: what a line means
//!   intake       whose mail it is → store.accept
//! ```
//!
//! The server may be anybody, and say anything: every line, literal, list and wait has a bound.

mod connection;
mod dialogue;
mod intake;
mod metrics;
mod names;
mod response;
mod settings;
#[cfg(test)]
mod tests;
mod transfer;
mod walk;
mod wire;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};

use crate::auth::Authenticator;
use crate::ingress::routes::Routes;
use crate::store::Store;

use connection::Connector;
use intake::Intake;
use transfer::Account;
use walk::Walk;

pub use connection::SetupError;
pub use metrics::Metrics;
pub use settings::{After, Credential, FOLDERS_MAX, First, Security, Settings};
pub use wire::Fault;

/// What the door works with.
pub struct Parts {
    /// Where mail goes.
    pub store: Store,
    /// Whose it is.
    pub routes: Arc<Routes>,
    /// Who believes the results of servers before us; `None` if senders are not checked.
    pub auth: Option<Arc<Authenticator>>,
    /// Where it is counted.
    pub metrics: Metrics,
}

/// An account whose folders are looked through.
pub struct Imap {
    account: Arc<Account>,
}

impl Imap {
    /// Sets the door up; no connection is made yet.
    ///
    /// # Errors
    /// The certificates cannot be read, or the host has no name.
    pub fn new(settings: Settings, parts: Parts) -> Result<Self, SetupError> {
        let Parts {
            store,
            routes,
            auth,
            metrics,
        } = parts;
        let intake = Intake {
            store,
            routes,
            auth,
            store_max: settings.store_max,
            user: settings.user.clone(),
        };
        let room = settings.bytes_in_flight_max.max(settings.mail_bytes_max);
        Ok(Self {
            account: Arc::new(Account {
                connector: Connector::new(&settings)?,
                room: Semaphore::new(transfer::permits(room) as usize),
                settings,
                intake,
                metrics,
            }),
        })
    }

    /// Fetches mail until `stop` is true. What is under way is ended first.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let folders = self.account.settings.folders.iter();
        let walks = folders
            .map(|folder| Walk::new(Arc::clone(&self.account), folder.clone(), stop.clone()).run());
        join_all(walks).await;
    }
}
