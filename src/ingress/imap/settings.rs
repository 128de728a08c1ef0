//! Owns the settings of the mail that is fetched from an IMAP server.
//!
//! Does not read the configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::retry;

/// Folders of an account at most: each has a connection of its own.
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
    /// The file with the certificate authorities that may vouch for the server; `None` for the public
    /// ones.
    pub ca_file: Option<PathBuf>,
    /// The user who logs in.
    pub user: String,
    /// The user's credential.
    pub credential: ImapCredential,
    /// The folders, at most [`FOLDERS_MAX`].
    pub folders: Vec<String>,
    /// The time between two polls of a folder, where the server does not announce new mail by itself.
    pub poll_interval: Duration,
    /// True if the server is asked to announce new mail (IDLE), if it can.
    pub uses_idle: bool,
    /// The mails that are taken of a folder that is met for the first time.
    pub initial_fetch: InitialFetch,
    /// The fate, at the server, of a mail that is on our disk.
    pub after_fetch: AfterFetch,
    /// Octets of a mail at most. A longer one stays where it is.
    pub mail_bytes_max: usize,
    /// Octets of mails that all folders together hold in memory.
    pub bytes_in_flight_max: usize,
    /// The longest time for a connection, and the longest silence within a response.
    pub read_timeout: Duration,
    /// The longest time the store may take for a mail.
    pub store_max: Duration,
    /// The time for which the store recognises a mail: a mail that is older is not posted a second time.
    pub dedupe_window: Duration,
    /// The waits between failed connections. There is no last attempt.
    pub retry: retry::Settings,
}

impl Settings {
    /// The settings that are right for most.
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
    /// No TLS: only to this machine.
    Plain,
    /// TLS after STARTTLS, and no word of ours before.
    StartTls,
    /// TLS from the first octet.
    Tls,
}

/// The credential of a login.
#[derive(Clone)]
pub enum ImapCredential {
    /// A password.
    Password(String),
    /// A file with an OAuth 2.0 access token that another program keeps fresh; it is read at each login.
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

/// The mails that are taken of a folder that is met for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialFetch {
    /// All mails.
    All,
    /// The mails that nobody has read.
    Unseen,
}

/// The fate, at the server, of a mail that is on our disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFetch {
    /// The mail is deleted.
    Delete,
    /// The mail is moved to this folder.
    Move(String),
    /// The mail is marked as read.
    Seen,
}
