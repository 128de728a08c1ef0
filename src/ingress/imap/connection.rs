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

use super::dialogue::Dialogue;
use super::settings::{Credential, Security, Settings};
use super::wire::{Fault, Stream};
use crate::tls;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Octets of a token. Microsoft's have about two thousand.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// What connections are made with.
pub(super) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    /// Reads the certificates.
    ///
    /// # Errors
    /// They cannot be read, or the host has no name that a certificate could have.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let roots = match &settings.ca_file {
            Some(file) => roots(file)?,
            None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_safe_default_protocol_versions()
            .map_err(SetupError::Versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(settings.host.clone());
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            name: name.map_err(|_| SetupError::Host(settings.host.clone()))?,
        })
    }

    /// A conversation that is logged in.
    pub(super) async fn connect(&self, settings: &Settings) -> Result<Dialogue, Fault> {
        let silence_max = settings.silence_max;
        let tcp = timeout(silence_max, reach(settings));
        let tcp = tcp.await.map_err(|_| Fault::Silent)??;
        let mut dialogue = match settings.security {
            Security::Tls => {
                Dialogue::new(self.protected(Box::new(tcp), settings).await?, silence_max)
            }
            Security::Plain => {
                let ip = tcp.peer_addr()?.ip();
                if !ip.to_canonical().is_loopback() {
                    return Err(Fault::NotLoopback(ip));
                }
                Dialogue::new(Box::new(tcp), silence_max)
            }
            Security::StartTls => self.upgraded(Box::new(tcp), settings).await?,
        };
        let is_known = match settings.security {
            // There is no second greeting.
            Security::StartTls => false,
            Security::Plain | Security::Tls => dialogue.greeted().await?,
        };
        dialogue.learn().await?;
        if !is_known {
            log_in(&mut dialogue, settings).await?;
            // A server may have more for those it knows.
            dialogue.learn().await?;
        }
        Ok(dialogue)
    }

    async fn upgraded(
        &self,
        stream: Box<dyn Stream>,
        settings: &Settings,
    ) -> Result<Dialogue, Fault> {
        let mut open = Dialogue::new(stream, settings.silence_max);
        // Who knows us already cannot be asked for TLS any more (RFC 3501 section 6.2.1).
        if open.greeted().await? {
            return Err(Fault::NotOffered("STARTTLS"));
        }
        open.learn().await?;
        if !open.offers("STARTTLS") {
            return Err(Fault::NotOffered("STARTTLS"));
        }
        let stream = self.protected(open.start_tls().await?, settings).await?;
        Ok(Dialogue::new(stream, settings.silence_max))
    }

    async fn protected(
        &self,
        stream: Box<dyn Stream>,
        settings: &Settings,
    ) -> Result<Box<dyn Stream>, Fault> {
        let handshake = self.tls.connect(self.name.clone(), stream);
        match timeout(settings.silence_max, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(Fault::Tls(error)),
            Err(_) => Err(Fault::Silent),
        }
    }
}

/// Why no connection can be made, whatever the server does.
#[derive(Debug, Error)]
pub enum SetupError {
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

fn roots(file: &Path) -> Result<RootCertStore, SetupError> {
    let broken = |source: io::Error| SetupError::CaFile {
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

async fn reach(settings: &Settings) -> Result<TcpStream, Fault> {
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
    Err(Fault::Io(last))
}

async fn log_in(dialogue: &mut Dialogue, settings: &Settings) -> Result<(), Fault> {
    match &settings.credential {
        Credential::Password(password) => dialogue.login(&settings.user, password).await,
        Credential::TokenFile(path) => {
            let token = token(path).await.map_err(|source| Fault::Token {
                path: path.clone(),
                source,
            })?;
            dialogue.login_by_token(&settings.user, &token).await
        }
    }
}

async fn token(path: &Path) -> io::Result<String> {
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
