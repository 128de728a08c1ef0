//! Owns connecting to a server: address, TLS, greeting, login.
//!
//! Does not retry; `poller` does.

use std::io;
use std::path::PathBuf;

use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::ImapClient;
use super::settings::{ImapCredential, ImapSecurity, Settings};
use super::transport::{ImapFault, ImapStream};
use crate::client::{TrustError, TrustedRoots, client_config, read_token_file};

/// The maximum number of addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The TLS settings for connections.
pub(super) struct ImapConnector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl ImapConnector {
    /// Reads the certificates.
    ///
    /// # Errors
    /// The certificates cannot be read, or the host name is invalid in a certificate.
    pub(super) fn new(settings: &Settings) -> Result<Self, ImapSetupError> {
        let config = match &settings.ca_file {
            Some(file) => {
                let pem = std::fs::read(file)
                    .map_err(|error| ImapSetupError::CaFileRead(file.clone(), error))?;
                client_config(TrustedRoots::Only(&pem))
                    .map_err(|error| ImapSetupError::CaFile(file.clone(), error))?
            }
            None => client_config(TrustedRoots::Public).map_err(ImapSetupError::Tls)?,
        };
        let name = ServerName::try_from(settings.host.clone());
        Ok(Self {
            tls: TlsConnector::from(config),
            name: name.map_err(|_| ImapSetupError::Host(settings.host.clone()))?,
        })
    }

    /// A client that is logged in.
    pub(super) async fn connect(&self, settings: &Settings) -> Result<ImapClient, ImapFault> {
        let silence_max = settings.read_timeout;
        let tcp = timeout(silence_max, connect_tcp(settings));
        let tcp = tcp.await.map_err(|_| ImapFault::TimedOut)??;
        let mut client = match settings.security {
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
            ImapSecurity::Plain | ImapSecurity::Tls => client.read_greeting().await?,
        };
        client.request_capabilities().await?;
        if !is_known {
            log_in(&mut client, settings).await?;
            // A server may offer more after the login.
            client.request_capabilities().await?;
        }
        Ok(client)
    }

    async fn connect_starttls(
        &self,
        stream: Box<dyn ImapStream>,
        settings: &Settings,
    ) -> Result<ImapClient, ImapFault> {
        let mut open = ImapClient::new(stream, settings.read_timeout);
        // After PREAUTH STARTTLS is not allowed (RFC 3501 section 6.2.1).
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

/// The reason why no connection can be made, independent of the server.
#[derive(Debug, Error)]
pub enum ImapSetupError {
    /// The file with the certificates cannot be used.
    #[error("{}: no usable certificates", .0.display())]
    CaFile(PathBuf, #[source] TrustError),
    /// The file with the certificates cannot be read.
    #[error("{}: no usable certificates", .0.display())]
    CaFileRead(PathBuf, #[source] io::Error),
    /// The host is neither a name nor an address.
    #[error("{0:?}: neither a name nor an address")]
    Host(String),
    /// No TLS client can be set up.
    #[error("TLS")]
    Tls(#[source] TrustError),
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

async fn log_in(client: &mut ImapClient, settings: &Settings) -> Result<(), ImapFault> {
    match &settings.credential {
        ImapCredential::Password(password) => client.login(&settings.user, password).await,
        ImapCredential::TokenFile(path) => {
            let token = read_token_file(path).await;
            let token = token.map_err(|source| ImapFault::Token {
                path: path.clone(),
                source,
            })?;
            client.login_by_token(&settings.user, &token).await
        }
    }
}
