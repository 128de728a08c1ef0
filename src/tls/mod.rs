//! Owns the certificates the servers show: read from `<folder>/<host>/{fullchain,privkey}.pem`,
//! chosen by the name a client asks for (SNI, RFC 6066 section 3), read again when they change.
//!
//! Does not open a connection, and never turns a name from the network into a path: a client's name
//! is only looked up in the map made from the folder's listing.

mod certificate;
mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use thiserror::Error;
use tracing::{info, warn};

use files::HostStamp;

pub use certificate::{Certificate, PublicKey};

/// The time between two looks at the files for a change.
pub const POLL_WAIT: Duration = Duration::from_secs(30);

/// The certificates of every host, and which of them a client is shown.
///
/// The map is swapped whole: a handshake sees the certificates from before a reload or from after it.
pub struct Certificates {
    folder: PathBuf,
    default_host: String,
    hosts: RwLock<Arc<BTreeMap<String, Arc<CertifiedKey>>>>,
    /// The metadata of the files when they were last read. Locked while reading, so that two
    /// reloads never mix.
    stamps: Mutex<BTreeMap<String, HostStamp>>,
}

impl Certificates {
    /// Reads every `<folder>/<host>/{fullchain,privkey}.pem`. A client that names no host of these
    /// is shown the certificate of `hostname`, or of the first host by the alphabet. A folder with
    /// neither file, and one whose name begins with a dot, is passed over.
    ///
    /// # Errors
    /// Says which file cannot be read or used, or that there is no certificate at all.
    pub fn load(folder: &Path, hostname: &str) -> Result<Self, CertificateError> {
        let seen = files::list_hosts(folder)?;
        let mut hosts = BTreeMap::new();
        for host in seen.keys() {
            hosts.insert(
                host.clone(),
                Arc::new(files::read_pair(&folder.join(host))?),
            );
        }
        if hosts.is_empty() {
            return Err(CertificateError::NoHost(folder.to_owned()));
        }
        Ok(Self {
            folder: folder.to_owned(),
            default_host: hostname.to_ascii_lowercase(),
            hosts: RwLock::new(Arc::new(lowercase_names(hosts))),
            stamps: Mutex::new(seen),
        })
    }

    /// As [`Certificates::load`], after making a self-signed certificate for `hostname` where there
    /// is none yet. Its key is stored with mode 0600. For development: no stranger can verify it.
    ///
    /// # Errors
    /// As `load`, and where the certificate cannot be made or written.
    pub fn load_or_self_sign(folder: &Path, hostname: &str) -> Result<Self, CertificateError> {
        files::self_sign(folder, &hostname.to_ascii_lowercase())?;
        Self::load(folder, hostname)
    }

    /// Reads all files again. A host whose new files are bad keeps the certificate it has; a host
    /// whose folder is gone is shown no more, unless nothing would be left.
    ///
    /// Blocks on the disk. Returns what was wrong, one error a host; empty if all is well.
    pub fn reload(&self) -> Vec<CertificateError> {
        let mut seen = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        match files::list_hosts(&self.folder) {
            Ok(now) => self.reload_listed(&mut seen, now),
            Err(error) => vec![error],
        }
    }

    /// As [`Certificates::reload`], but only if a file looks changed since it was last read.
    /// `None` if nothing changed.
    pub fn reload_if_changed(&self) -> Option<Vec<CertificateError>> {
        let mut seen = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        match files::list_hosts(&self.folder) {
            Ok(now) if now == *seen => None,
            Ok(now) => Some(self.reload_listed(&mut seen, now)),
            Err(error) => Some(vec![error]),
        }
    }

    /// Looks for changed files every `wait` and logs the result, for ever. The disk is read
    /// off the async threads.
    pub async fn watch(self: Arc<Self>, wait: Duration) {
        loop {
            tokio::time::sleep(wait).await;
            let this = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload_if_changed()).await
            else {
                // The runtime is shutting down, or the reader panicked, which the panic hook told.
                continue;
            };
            match outcome {
                None => {}
                Some(errors) if errors.is_empty() => {
                    info!(hosts = self.hosts().join(" "), "certificates reloaded");
                }
                Some(errors) => {
                    for error in errors {
                        warn!(error = %with_cause(&error), "certificate not reloaded, the old one stays");
                    }
                }
            }
        }
    }

    /// The settings of a TLS server that shows these certificates: TLS 1.2 and 1.3, no client
    /// certificates, no ALPN.
    ///
    /// # Errors
    /// If the crypto provider lacks what these versions need, which is a fault of the build.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(CertificateError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Arc::new(config))
    }

    /// The names of the hosts there are certificates for, by the alphabet.
    pub fn hosts(&self) -> Vec<String> {
        self.current().keys().cloned().collect()
    }

    fn reload_listed(
        &self,
        seen: &mut BTreeMap<String, HostStamp>,
        now: BTreeMap<String, HostStamp>,
    ) -> Vec<CertificateError> {
        let old = self.current();
        let mut hosts = BTreeMap::new();
        let mut errors = Vec::new();
        for host in now.keys() {
            match files::read_pair(&self.folder.join(host)) {
                Ok(certified) => {
                    hosts.insert(host.clone(), Arc::new(certified));
                }
                Err(error) => {
                    if let Some(kept) = old.get(&host.to_ascii_lowercase()) {
                        hosts.insert(host.clone(), Arc::clone(kept));
                    }
                    errors.push(error);
                }
            }
        }
        *seen = now;
        if hosts.is_empty() {
            errors.push(CertificateError::NoHost(self.folder.clone()));
            return errors;
        }
        let mut current = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(lowercase_names(hosts));
        errors
    }

    fn current(&self) -> Arc<BTreeMap<String, Arc<CertifiedKey>>> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&hosts)
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let hosts = self.current();
        let asked = name.and_then(|name| hosts.get(&name.to_ascii_lowercase()));
        asked
            .or_else(|| hosts.get(&self.default_host))
            .or_else(|| hosts.values().next())
            .cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("folder", &self.folder)
            .field("hosts", &self.hosts())
            .finish_non_exhaustive()
    }
}

/// The one crypto provider of every TLS connection in this program: `ring`, named, never whatever
/// the process has as its default.
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// A reason why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The folder has more hosts than are read.
    #[error("{}: more than {} hosts", .0.display(), files::HOSTS_MAX)]
    HostsTooMany(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The name of the host cannot be the name of a folder, or not stand in a certificate.
    #[error("{0:?}: no name for a certificate's host")]
    HostName(String),
    /// The key does not belong to the first certificate of the chain, or one of them is broken.
    #[error("{}: certificate and key are not a pair that can be used", .0.display())]
    Pair(PathBuf, #[source] rustls::Error),
    /// The file is not PEM, or holds nothing of the kind looked for.
    #[error("{}: no usable PEM", .0.display())]
    Pem(PathBuf, #[source] pem::Error),
    /// The folder has no host with both files.
    #[error("{}: no <host>/fullchain.pem with its privkey.pem", .0.display())]
    NoHost(PathBuf),
    /// A self-signed certificate cannot be made.
    #[error("self-signed certificate for {0:?}")]
    SelfSign(String, #[source] rcgen::Error),
    /// The file is longer than a certificate or key may be.
    #[error("{}: longer than {} bytes", .0.display(), files::FILE_BYTES_MAX)]
    TooLong(PathBuf),
    /// The crypto provider cannot do TLS 1.2 and 1.3.
    #[error("TLS versions")]
    Versions(#[source] rustls::Error),
}

fn lowercase_names(
    hosts: BTreeMap<String, Arc<CertifiedKey>>,
) -> BTreeMap<String, Arc<CertifiedKey>> {
    hosts
        .into_iter()
        .map(|(name, certified)| (name.to_ascii_lowercase(), certified))
        .collect()
}

fn with_cause(error: &CertificateError) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
