//! Owns the server certificates: read from `<folder>/<host>/{fullchain,privkey}.pem`, chosen by the name
//! that a client requests (SNI, RFC 6066 section 3), and reloaded when they change.
//!
//! Does not open a connection, and never makes a path from a name of a client: the name is only looked up
//! in the map of the folder's hosts.

mod certificate;
mod files;
mod metrics;

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

use crate::clock::{self, Timestamp};
use files::HostStamp;

pub use certificate::{Certificate, PublicKey, Validity};
pub use metrics::register_expiry;

/// The interval between two checks of the files for a change, and of the certificates for their expiry.
pub const POLL_WAIT: Duration = Duration::from_secs(30);

/// The certificates of every host, and the choice for a client.
///
/// The map is replaced as a whole: a handshake sees the certificates either from before a reload or from
/// after it.
pub struct Certificates {
    folder: PathBuf,
    default_host: String,
    hosts: RwLock<Arc<BTreeMap<String, HostCertificate>>>,
    /// The metadata of the files at the last reading. Locked while reading, so that two reloads do not mix.
    stamps: Mutex<BTreeMap<String, HostStamp>>,
    /// The validity of each host's certificate when it was last logged.
    logged: Mutex<BTreeMap<String, Validity>>,
}

/// The certificate of a host: as TLS presents it, and parsed.
#[derive(Clone)]
struct HostCertificate {
    certified: Arc<CertifiedKey>,
    leaf: Option<Certificate>,
}

impl From<CertifiedKey> for HostCertificate {
    fn from(certified: CertifiedKey) -> Self {
        let leaf = certified.cert.first();
        Self {
            leaf: leaf.and_then(|der| Certificate::from_der(der)),
            certified: Arc::new(certified),
        }
    }
}

impl Certificates {
    /// Reads every `<folder>/<host>/{fullchain,privkey}.pem`. A client that requests none of these hosts
    /// gets the certificate of `hostname`, or of the first host in alphabetical order. A subfolder with
    /// neither file, and one whose name begins with a dot, is ignored.
    ///
    /// # Errors
    /// Names the file that is unreadable or invalid, or states that there is no certificate.
    pub fn load(folder: &Path, hostname: &str) -> Result<Self, CertificateError> {
        let seen = files::list_hosts(folder)?;
        let mut hosts = BTreeMap::new();
        for host in seen.keys() {
            hosts.insert(host.clone(), files::read_pair(&folder.join(host))?.into());
        }
        if hosts.is_empty() {
            return Err(CertificateError::NoHost(folder.to_owned()));
        }
        Ok(Self {
            folder: folder.to_owned(),
            default_host: hostname.to_ascii_lowercase(),
            hosts: RwLock::new(Arc::new(lowercase_names(hosts))),
            stamps: Mutex::new(seen),
            logged: Mutex::default(),
        })
    }

    /// Like [`Certificates::load`], after making a self-signed certificate for `hostname` if there is none.
    /// Its key is stored with mode 0600. For development: other hosts cannot verify it.
    ///
    /// # Errors
    /// Like `load`; also if the certificate cannot be made or written.
    pub fn load_or_self_sign(folder: &Path, hostname: &str) -> Result<Self, CertificateError> {
        files::self_sign(folder, &hostname.to_ascii_lowercase())?;
        Self::load(folder, hostname)
    }

    /// Reads all files again. A host whose new files are invalid keeps its certificate; a host whose folder
    /// was removed loses it, unless none would be left.
    ///
    /// Blocks on the disk. Returns one error per host; empty if there is none.
    pub fn reload(&self) -> Vec<CertificateError> {
        let mut seen = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        match files::list_hosts(&self.folder) {
            Ok(now) => self.reload_listed(&mut seen, now),
            Err(error) => vec![error],
        }
    }

    /// Like [`Certificates::reload`], but only if a file has changed since it was last read; `None` if
    /// nothing changed.
    pub fn reload_if_changed(&self) -> Option<Vec<CertificateError>> {
        let mut seen = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        match files::list_hosts(&self.folder) {
            Ok(now) if now == *seen => None,
            Ok(now) => Some(self.reload_listed(&mut seen, now)),
            Err(error) => Some(vec![error]),
        }
    }

    /// Checks for changed files and for expiring certificates every `wait`, and logs the result, for ever.
    /// The disk is read off the async threads.
    pub async fn watch(self: Arc<Self>, wait: Duration) {
        loop {
            self.log_validity(clock::now());
            tokio::time::sleep(wait).await;
            let this = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload_if_changed()).await
            else {
                // The runtime is shutting down, or the reader panicked, which the panic hook logged.
                continue;
            };
            match outcome {
                None => {}
                Some(errors) if errors.is_empty() => {
                    info!(hosts = self.hosts().join(" "), "certificates reloaded");
                }
                Some(errors) => {
                    for error in errors {
                        warn!(error = %with_cause(&error), "certificate not reloaded, the old one stays in use");
                    }
                }
            }
        }
    }

    /// The settings of a TLS server with these certificates: TLS 1.2 and 1.3, no client certificates, no
    /// ALPN.
    ///
    /// # Errors
    /// If the crypto provider lacks these versions, which is an error of the build.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(CertificateError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Arc::new(config))
    }

    /// Logs each certificate that is expired, expires soon or is not valid yet at `now`: once, and again when
    /// that changes and after each reload.
    pub fn log_validity(&self, now: Timestamp) {
        for (host, certificate, validity) in self.validity_changes(now) {
            let Certificate {
                not_before,
                not_after,
                ..
            } = certificate;
            match validity {
                Validity::Good => {}
                Validity::ExpiresSoon => {
                    warn!(host, %not_after, "the certificate expires soon");
                }
                Validity::Expired => {
                    warn!(host, %not_after, "the certificate has expired: clients refuse it");
                }
                Validity::NotYetValid => {
                    warn!(host, %not_before, "the certificate is not valid yet: clients refuse it");
                }
            }
        }
    }

    /// The certificates whose validity differs from the last result.
    fn validity_changes(&self, now: Timestamp) -> Vec<(String, Certificate, Validity)> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let leaves = self.leaves().into_iter();
        let changes = leaves.filter_map(|(host, leaf)| {
            let leaf = leaf?;
            let validity = leaf.validity(now);
            let before = logged.insert(host.clone(), validity);
            (before != Some(validity)).then_some((host, leaf, validity))
        });
        changes.collect()
    }

    /// The certificate of each host, in alphabetical order; `None` if its dates cannot be read.
    pub fn leaves(&self) -> Vec<(String, Option<Certificate>)> {
        let hosts = self.current();
        let leaves = hosts.iter();
        leaves
            .map(|(host, shown)| (host.clone(), shown.leaf.clone()))
            .collect()
    }

    /// The names of the hosts with certificates, in alphabetical order.
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
                    hosts.insert(host.clone(), certified.into());
                }
                Err(error) => {
                    if let Some(kept) = old.get(&host.to_ascii_lowercase()) {
                        hosts.insert(host.clone(), kept.clone());
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
        drop(current);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.clear();
        errors
    }

    fn current(&self) -> Arc<BTreeMap<String, HostCertificate>> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&hosts)
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let hosts = self.current();
        let asked = name.and_then(|name| hosts.get(&name.to_ascii_lowercase()));
        asked
            .or_else(|| hosts.get(&self.default_host))
            .or_else(|| hosts.values().next())
            .map(|shown| Arc::clone(&shown.certified))
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

/// The crypto provider of every TLS connection: always `ring`, never the default of the process.
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// The reason why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The folder has too many hosts.
    #[error("{}: more than {} hosts", .0.display(), files::HOSTS_MAX)]
    HostsTooMany(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The name of the host is invalid as a folder name, or in a certificate.
    #[error("{0:?}: not valid as the host of a certificate")]
    HostName(String),
    /// The key does not belong to the first certificate of the chain, or one of them is invalid.
    #[error("{}: certificate and key are not a usable pair", .0.display())]
    Pair(PathBuf, #[source] rustls::Error),
    /// The file is not PEM, or lacks the expected content.
    #[error("{}: no usable PEM", .0.display())]
    Pem(PathBuf, #[source] pem::Error),
    /// The folder has no host with both files.
    #[error("{}: no <host>/fullchain.pem with its privkey.pem", .0.display())]
    NoHost(PathBuf),
    /// A self-signed certificate cannot be made.
    #[error("self-signed certificate for {0:?}")]
    SelfSign(String, #[source] rcgen::Error),
    /// The file is too long for a certificate or key.
    #[error("{}: longer than {} bytes", .0.display(), files::FILE_BYTES_MAX)]
    TooLong(PathBuf),
    /// The crypto provider lacks TLS 1.2 and 1.3.
    #[error("TLS versions")]
    Versions(#[source] rustls::Error),
}

fn lowercase_names(hosts: BTreeMap<String, HostCertificate>) -> BTreeMap<String, HostCertificate> {
    hosts
        .into_iter()
        .map(|(name, shown)| (name.to_ascii_lowercase(), shown))
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
