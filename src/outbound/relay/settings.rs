//! Owns what is configured for a relay: its address, TLS, authentication and time-outs.
//!
//! Does not connect.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::mail::address::Domain;
use crate::retry::SendSchedule;

/// One relay.
#[derive(Clone)]
pub struct Relay {
    /// The host name or address, as the operator wrote it.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The use of TLS.
    pub security: RelaySecurity,
    /// The credentials, if the relay asks for authentication.
    pub login: Option<RelayLogin>,
    /// The TLS settings with the trusted certificates.
    pub tls_config: Arc<ClientConfig>,
    /// The name that the relay's certificate must have.
    pub server_name: ServerName<'static>,
}

impl Relay {
    /// The relay as `host:port`.
    pub fn label(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("label", &self.label())
            .field("security", &self.security)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// The use of TLS on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySecurity {
    /// STARTTLS; a relay on the same machine is used without TLS.
    Auto,
    /// STARTTLS; a relay on the same machine may be used without TLS if it does not offer it.
    StartTls,
    /// TLS from the first octet (RFC 8314).
    Implicit,
    /// No TLS; only a relay on the same machine can be used.
    None,
}

/// The user and the credentials for a relay.
#[derive(Clone)]
pub struct RelayLogin {
    /// The user name.
    pub user: String,
    /// The credentials.
    pub credentials: RelayCredentials,
}

/// The credentials for authentication.
#[derive(Clone)]
pub enum RelayCredentials {
    /// A password, sent with the first of the mechanisms that the relay offers.
    Password {
        /// The password.
        password: String,
        /// The allowed mechanisms, in order of preference.
        mechanisms: Vec<PasswordMechanism>,
    },
    /// A token (XOAUTH2) from this file. The file is read for each connection, so that another
    /// program can renew the token.
    Token(PathBuf),
}

/// A SASL mechanism for a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMechanism {
    /// PLAIN (RFC 4616).
    Plain,
    /// LOGIN, an older mechanism with two challenges.
    Login,
}

impl fmt::Debug for RelayLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.credentials {
            RelayCredentials::Password { .. } => "password",
            RelayCredentials::Token(_) => "token",
        };
        f.debug_tuple("Login").field(&how).finish()
    }
}

/// Settings for all relays.
#[derive(Clone, Debug)]
pub struct RelayPoolSettings {
    /// The name of this host in EHLO.
    pub ehlo_name: String,
    /// The time-outs of each step.
    pub timeouts: RelayTimeouts,
    /// The schedule for retrying a failed relay. It is that of the mails, without a limit of
    /// attempts.
    pub schedule: SendSchedule,
    /// The reply domains, whose addresses are removed from a relay's text.
    pub own_domains: Vec<Domain>,
}

/// The time-outs of each step (RFC 5321 section 4.5.3.2 allows longer ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTimeouts {
    /// Time to connect, and for the TLS handshake.
    pub connect: Duration,
    /// Time until the greeting.
    pub greeting: Duration,
    /// Time for each command with its reply, and for each block of the mail.
    pub command: Duration,
    /// Time from the end of the mail until the reply to it.
    pub end: Duration,
    /// Time for the whole attempt.
    pub attempt: Duration,
}

impl Default for RelayTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            greeting: Duration::from_secs(60),
            command: Duration::from_secs(60),
            end: Duration::from_secs(300),
            attempt: Duration::from_secs(900),
        }
    }
}
