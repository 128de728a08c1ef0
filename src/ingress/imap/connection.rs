//! Owns the way to a server: address, TLS, greeting, login.
//!
//! Does not try again: that is `walk`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::ImapClient;
use super::settings::{ImapCredential, ImapSecurity, Settings};
use super::transport::{ImapFault, ImapStream};
use crate::tls;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Octets of a token. Microsoft's have about two thousand.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// What connections are made with.
pub(super) struct ImapConnector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl ImapConnector {
    /// Reads the certificates.
    ///
    /// # Errors
    /// They cannot be read, or the host has no name that a certificate could have.
    pub(super) fn new(settings: &Settings) -> Result<Self, ImapSetupError> {
        let roots = match &settings.ca_file {
            Some(file) => roots(file)?,
            None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_safe_default_protocol_versions()
            .map_err(ImapSetupError::Versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(settings.host.clone());
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            name: name.map_err(|_| ImapSetupError::Host(settings.host.clone()))?,
        })
    }

    /// A conversation that is logged in.
    pub(super) async fn connect(&self, settings: &Settings) -> Result<ImapClient, ImapFault> {
        let silence_max = settings.read_timeout;
        let tcp = timeout(silence_max, connect_tcp(settings));
        let tcp = tcp.await.map_err(|_| ImapFault::TimedOut)??;
        let mut dialogue = match settings.security {
            ImapSecurity::Tls => ImapClient::new(
                self.tls_handshake(Box::new(tcp), settings).await?,
                silence_max,
            ),
            ImapSecurity::Plain => {
                let ip = tcp.peer_addr()?.ip();
                if !ip.to_canonical().is_loopback() {
                    return Err(ImapFault::NotLoopback(ip));
                }
                ImapClient::new(Box::new(tcp), silence_max)
            }
            ImapSecurity::StartTls => self.connect_starttls(Box::new(tcp), settings).await?,
        };
        let is_known = match settings.security {
            // There is no second greeting.
            ImapSecurity::StartTls => false,
            ImapSecurity::Plain | ImapSecurity::Tls => dialogue.read_greeting().await?,
        };
        dialogue.request_capabilities().await?;
        if !is_known {
            log_in(&mut dialogue, settings).await?;
            // A server may have more for those it knows.
            dialogue.request_capabilities().await?;
        }
        Ok(dialogue)
    }

    async fn connect_starttls(
        &self,
        stream: Box<dyn ImapStream>,
        settings: &Settings,
    ) -> Result<ImapClient, ImapFault> {
        let mut open = ImapClient::new(stream, settings.read_timeout);
        // Who knows us already cannot be asked for TLS any more (RFC 3501 section 6.2.1).
        if open.read_greeting().await? {
            return Err(ImapFault::NotOffered("STARTTLS"));
        }
        open.request_capabilities().await?;
        if !open.has_capability("STARTTLS") {
            return Err(ImapFault::NotOffered("STARTTLS"));
        }
        let stream = self
            .tls_handshake(open.start_tls().await?, settings)
            .await?;
        Ok(ImapClient::new(stream, settings.read_timeout))
    }

    async fn tls_handshake(
        &self,
        stream: Box<dyn ImapStream>,
        settings: &Settings,
    ) -> Result<Box<dyn ImapStream>, ImapFault> {
        let handshake = self.tls.connect(self.name.clone(), stream);
        match timeout(settings.read_timeout, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(ImapFault::Tls(error)),
            Err(_) => Err(ImapFault::TimedOut),
        }
    }
}

/// Why no connection can be made, whatever the server does.
#[derive(Debug, Error)]
pub enum ImapSetupError {
    /// The file with the certificates cannot be used.
    #[error("{}: no usable certificates", path.display())]
    CaFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a name nor an address.
    #[error("{0:?}: neither a name nor an address")]
    Host(String),
    /// The crypto provider cannot do TLS 1.2 and 1.3.
    #[error("TLS versions")]
    Versions(#[source] rustls::Error),
}

fn roots(file: &Path) -> Result<RootCertStore, ImapSetupError> {
    let broken = |source: io::Error| ImapSetupError::CaFile {
        path: file.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    let read =
        CertificateDer::pem_file_iter(file).map_err(|error| broken(io::Error::other(error)))?;
    for certificate in read {
        let certificate = certificate.map_err(|error| broken(io::Error::other(error)))?;
        let added = roots.add(certificate);
        added.map_err(|error| broken(io::Error::other(error)))?;
    }
    if roots.is_empty() {
        return Err(broken(io::ErrorKind::NotFound.into()));
    }
    Ok(roots)
}

async fn connect_tcp(settings: &Settings) -> Result<TcpStream, ImapFault> {
    let found = lookup_host((settings.host.as_str(), settings.port)).await?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found.take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(ImapFault::Io(last))
}

async fn log_in(dialogue: &mut ImapClient, settings: &Settings) -> Result<(), ImapFault> {
    match &settings.credential {
        ImapCredential::Password(password) => dialogue.login(&settings.user, password).await,
        ImapCredential::TokenFile(path) => {
            let token = read_token_file(path)
                .await
                .map_err(|source| ImapFault::Token {
                    path: path.clone(),
                    source,
                })?;
            dialogue.login_by_token(&settings.user, &token).await
        }
    }
}

async fn read_token_file(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(TOKEN_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    });
    let text = read.await.map_err(io::Error::other)??;
    let token = text.trim();
    // What has controls in it could say more than a token may.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not one word"));
    }
    Ok(token.to_owned())
}
