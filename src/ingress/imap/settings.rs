//! Owns the settings for fetching mail from an IMAP server.
//!
//! Does not read the configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::retry;

/// The maximum number of folders of an account: each has a separate connection.
pub const FOLDERS_MAX: usize = 16;

/// An account, its folders, and the bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name or address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The protection of the connection.
    pub security: ImapSecurity,
    /// The file with the certificate authorities for the server; `None` for the public ones.
    pub ca_file: Option<PathBuf>,
    /// The user who logs in.
    pub user: String,
    /// The user's credential.
    pub credential: ImapCredential,
    /// The folders, at most [`FOLDERS_MAX`].
    pub folders: Vec<String>,
    /// The interval between two polls of a folder if the server does not announce mail.
    pub poll_interval: Duration,
    /// True if IDLE is used, provided the server supports it.
    pub uses_idle: bool,
    /// The mails to fetch at the first poll of a folder.
    pub initial_fetch: InitialFetch,
    /// The treatment of a stored mail at the server.
    pub after_fetch: AfterFetch,
    /// Octets of a mail. A longer one stays on the server.
    pub mail_bytes_max: usize,
    /// Octets of mails that all folders together hold in memory.
    pub bytes_in_flight_max: usize,
    /// The time limit for connecting, and for a pause within a response.
    pub read_timeout: Duration,
    /// The time limit of the store for a mail.
    pub store_max: Duration,
    /// The deduplication window of the store: an older mail is not posted a second time.
    pub dedupe_window: Duration,
    /// The back-off after failed connections. There is no last attempt.
    pub retry: retry::Settings,
}

impl Settings {
    /// The default settings.
    pub fn new(host: String, user: String, credential: ImapCredential) -> Self {
        Self {
            host,
            port: 993,
            security: ImapSecurity::Tls,
            ca_file: None,
            user,
            credential,
            folders: vec!["INBOX".to_owned()],
            poll_interval: Duration::from_secs(60),
            uses_idle: true,
            initial_fetch: InitialFetch::Unseen,
            after_fetch: AfterFetch::Seen,
            mail_bytes_max: 50 << 20,
            bytes_in_flight_max: 64 << 20,
            read_timeout: Duration::from_secs(60),
            store_max: Duration::from_secs(60),
            dedupe_window: Duration::from_secs(30 * 24 * 60 * 60),
            retry: retry::Settings {
                wait_first: Duration::from_secs(1),
                wait_max: Duration::from_secs(5 * 60),
                max_age: Duration::MAX,
            },
        }
    }

    /// True if the host is this machine, by its name or address.
    pub fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// The protection of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImapSecurity {
    /// No TLS, only to this machine.
    Plain,
    /// TLS after STARTTLS; nothing else is sent before.
    StartTls,
    /// TLS from the first octet.
    Tls,
}

/// The credential of a login.
#[derive(Clone)]
pub enum ImapCredential {
    /// A password.
    Password(String),
    /// A file with an OAuth 2.0 access token that another program renews; it is read at each login.
    TokenFile(PathBuf),
}

impl fmt::Debug for ImapCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(_) => f.write_str("Password(…)"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
        }
    }
}

/// The mails to fetch at the first poll of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialFetch {
    /// All mails.
    All,
    /// The unread mails.
    Unseen,
}

/// The treatment of a stored mail at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFetch {
    /// The mail is deleted.
    Delete,
    /// The mail is moved to this folder.
    Move(String),
    /// The mail is marked as read.
    Seen,
}
