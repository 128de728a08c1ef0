//! Owns the certificate authorities that a client trusts, and the check that one of them vouches for a
//! certificate.
//!
//! Does not read files, and presents no client certificate.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::tls::provider;

/// The certificate authorities that are trusted for servers.
#[derive(Clone, Copy, Debug)]
pub enum TrustedRoots<'a> {
    /// The public ones, which are built in.
    Public,
    /// The public ones, and those in this PEM text.
    PublicAnd(&'a [u8]),
    /// Only those in this PEM text.
    Only(&'a [u8]),
}

/// The reason why no client can be made with these authorities.
#[derive(Debug, Error)]
pub enum TrustError {
    /// One of the certificates cannot be used as an authority.
    #[error("not a usable certificate")]
    Certificate(#[source] rustls::Error),
    /// The text holds no certificate.
    #[error("no certificates in PEM form")]
    Empty,
    /// The text is not PEM.
    #[error("no certificates in PEM form")]
    Pem(#[source] pem::Error),
    /// The crypto provider lacks TLS 1.2 and 1.3, which is an error of the build.
    #[error("TLS cannot be used")]
    Versions(#[source] rustls::Error),
}

/// A TLS client (1.2 and 1.3) that trusts these authorities and presents no certificate.
///
/// # Errors
/// One of the certificates cannot be used, or there is none.
pub fn client_config(roots: TrustedRoots<'_>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut store = match roots {
        TrustedRoots::Only(_) => RootCertStore::empty(),
        TrustedRoots::Public | TrustedRoots::PublicAnd(_) => public_roots(),
    };
    if let TrustedRoots::PublicAnd(pem) | TrustedRoots::Only(pem) = roots {
        let mut is_empty = true;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(TrustError::Pem)?;
            store.add(certificate).map_err(TrustError::Certificate)?;
            is_empty = false;
        }
        if is_empty {
            return Err(TrustError::Empty);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Versions)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The public certificate authorities, which are built in.
pub fn public_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// True if one of `roots` vouches for the first certificate of `chain` at `now`, by way of the others
/// (RFC 5280 section 6). The name of the certificate is not checked.
pub fn is_trusted(chain: &[CertificateDer<'_>], roots: &RootCertStore, now: Timestamp) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return false;
    };
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
        return false;
    };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    let algorithms = provider().signature_verification_algorithms.all;
    let verified =
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms);
    verified.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_text_than_certificates_is_refused() {
        let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".to_owned()]).unwrap();
        let good = made.cert.pem();
        assert!(client_config(TrustedRoots::Public).is_ok());
        assert!(client_config(TrustedRoots::Only(good.as_bytes())).is_ok());
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, error) in [
            ("", "no certificates in PEM form"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n",
                "no certificates in PEM form",
            ),
            (bad, "not a usable certificate"),
        ] {
            let refused = client_config(TrustedRoots::PublicAnd(pem.as_bytes()));
            assert_eq!(refused.unwrap_err().to_string(), error, "{pem}");
        }
    }
}
