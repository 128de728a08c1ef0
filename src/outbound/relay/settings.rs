//! Owns what is known of a relay before it is spoken to: where it is, with which TLS, as whom, how
//! long each step may take.
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

/// Octets of a token file at most.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// One relay.
#[derive(Clone)]
pub struct Relay {
    /// Its name or address, as the operator wrote it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: RelaySecurity,
    /// Who we are to it, if it wants to know.
    pub login: Option<RelayLogin>,
    /// The certificates that are believed.
    pub tls_config: Arc<ClientConfig>,
    /// `host` as a certificate must have it.
    pub server_name: ServerName<'static>,
}

impl Relay {
    /// As `host:port`.
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

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySecurity {
    /// With STARTTLS, or not at all to a relay on this machine.
    Auto,
    /// With STARTTLS. A relay on this machine may do without; one elsewhere may not.
    StartTls,
    /// From the first octet on (RFC 8314).
    Implicit,
    /// Not at all: only to a relay on this machine.
    None,
}

/// Who we are to a relay.
#[derive(Clone)]
pub struct RelayLogin {
    /// The user's name.
    pub user: String,
    /// How it is shown.
    pub credentials: RelayCredentials,
}

/// How we show who we are.
#[derive(Clone)]
pub enum RelayCredentials {
    /// With a password, by the mechanism of these that the relay offers first: PLAIN (RFC 4616), LOGIN.
    Password {
        /// The password.
        password: String,
        /// The mechanisms that may be used, best first.
        mechanisms: Vec<PasswordMechanism>,
    },
    /// With a token (XOAUTH2) from this file, read again at each connection: whoever keeps the token fresh
    /// writes it there.
    Token(PathBuf),
}

/// How a password is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMechanism {
    /// RFC 4616.
    Plain,
    /// The older one of two questions.
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

/// Reads a token file: one token, the white space around it is not part of it.
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

/// Why a CA file cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It cannot be read as PEM.
    #[error("no certificates in PEM form: {0}")]
    Pem(String),
    /// One of its certificates cannot be used.
    #[error("not a usable certificate: {0}")]
    Certificate(String),
    /// The provider of cryptography cannot do TLS 1.2 and 1.3.
    #[error("TLS cannot be used: {0}")]
    Provider(String),
}

/// What is believed of certificates: the roots that come with the program, and those of a file.
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

/// How all relays are spoken to.
#[derive(Clone, Debug)]
pub struct RelayPoolSettings {
    /// Our name, for EHLO.
    pub ehlo_name: String,
    /// How long each step may take.
    pub timeouts: RelayTimeouts,
    /// The pace of asking a relay again that cannot be used. It is that of the mails; how often is not bounded.
    pub schedule: SendSchedule,
    /// Our reply domains, whose addresses are taken out of what a relay says.
    pub own_domains: Vec<Domain>,
}

/// How long each step may take (RFC 5321 section 4.5.3.2 allows longer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTimeouts {
    /// To connect, and for the handshake of TLS.
    pub connect: Duration,
    /// Until the greeting is there.
    pub greeting: Duration,
    /// For each command and its answer, and each block of the mail.
    pub command: Duration,
    /// From the end of the mail until its answer is there.
    pub end: Duration,
    /// All of an attempt.
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
