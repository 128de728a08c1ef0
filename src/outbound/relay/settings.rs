//! Owns what is configured for a relay: its address, TLS, authentication and time-outs.
//!
//! Does not connect.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use thiserror::Error;

use crate::mail::address::Domain;
use crate::retry::SendSchedule;

/// The most octets of a token file.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

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

/// Reads a token file with one token; white space around it is ignored.
pub(super) fn read_token(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(TOKEN_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        let what = format!("longer than {TOKEN_BYTES_MAX} octets");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let what = "no token: it is empty, or has characters none has";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(token.to_owned())
}

/// The reason why a CA file cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The file is not PEM.
    #[error("no certificates in PEM form: {0}")]
    Pem(String),
    /// One of the certificates cannot be used.
    #[error("not a usable certificate: {0}")]
    Certificate(String),
    /// The cryptographic provider does not support TLS 1.2 and 1.3.
    #[error("TLS cannot be used: {0}")]
    Provider(String),
}

/// The TLS settings: the built-in root certificates are trusted, and those of the file.
///
/// # Errors
/// The file cannot be used.
pub fn client_config(ca_file: Option<&[u8]>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut store = RootCertStore::empty();
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(pem) = ca_file {
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TrustError::Pem(error.to_string()))?;
            store
                .add(certificate)
                .map_err(|error| TrustError::Certificate(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(TrustError::Pem("there are none".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError::Provider(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
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
