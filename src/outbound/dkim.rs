//! Owns the DKIM signatures of outgoing mail (RFC 6376, RFC 8463).
//!
//! Does not change the mail: a signature is a field to prepend.

use std::fmt;

use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::{Canonicalization, DkimSigner, Done};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

use crate::mail::address::Domain;

/// The fields that are signed if they are present. Their absence is signed too, so that none can be added.
/// From is signed once more often than it occurs.
const FIELDS: [&str; 17] = [
    "From",
    "From",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Auto-Submitted",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// The maximum number of keys; each one adds a signature to every mail.
pub const KEYS_MAX: usize = 4;

/// The reason why a key or a signature could not be made.
#[derive(Debug, Error)]
pub enum DkimSignError {
    /// The text is not a private key in PEM form.
    #[error("not a private key in PEM form")]
    Pem,
    /// The key is neither RSA of 2048 bits or more nor Ed25519.
    #[error("neither an RSA key of 2048 bits or more nor an Ed25519 key")]
    Kind,
    /// The selector does not consist of dotted labels.
    #[error("selector is not of the form label.label")]
    Selector,
    /// The key cannot sign.
    #[error("cannot be signed: {0}")]
    Crypto(String),
}

/// A key with its name in the DNS.
pub struct DkimSigningKey {
    domain: Domain,
    selector: String,
    key: SigningAlgorithm,
}

enum SigningAlgorithm {
    Rsa(DkimSigner<RsaKey<Sha256>, Done>),
    Ed25519(DkimSigner<Ed25519Key, Done>),
}

impl fmt::Debug for DkimSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}._domainkey.{})", self.selector, self.domain)
    }
}

impl DkimSigningKey {
    /// Reads a key in PEM form, whose public half is at `selector._domainkey.domain`.
    ///
    /// # Errors
    /// The key or the selector is invalid. The error does not contain the key.
    pub fn new(domain: Domain, selector: &str, pem: &str) -> Result<Self, DkimSignError> {
        let is_name = Domain::parse(selector).is_ok_and(|name| name.as_str().is_ascii());
        if !is_name || selector.starts_with('[') {
            return Err(DkimSignError::Selector);
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            // The text of the error could contain a line of the key.
            .map_err(|_| DkimSignError::Pem)?;
        let ed25519 = match &der {
            PrivateKeyDer::Pkcs8(der) => {
                Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()).ok()
            }
            _ => None,
        };
        let key = match ed25519 {
            Some(key) => SigningAlgorithm::Ed25519(configure(key, &domain, selector)),
            None => {
                let key = RsaKey::<Sha256>::from_key_der(der).map_err(|_| DkimSignError::Kind)?;
                SigningAlgorithm::Rsa(configure(key, &domain, selector))
            }
        };
        Ok(Self {
            domain,
            selector: selector.to_owned(),
            key,
        })
    }

    /// The signing domain (d=).
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// True if DMARC aligns this signature with the domain of `from`: it is the same domain or a parent.
    pub fn is_aligned(&self, from: &Domain) -> bool {
        let (ours, theirs) = (self.domain.ascii(), from.ascii());
        let below = theirs.strip_suffix(&ours);
        below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
    }

    /// The signature field for this mail, with its line end.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn signature_field(&self, mail: &[u8]) -> Result<String, DkimSignError> {
        self.sign_trimmed(&trimmed(mail))
    }

    fn sign_trimmed(&self, trimmed: &[u8]) -> Result<String, DkimSignError> {
        let signature = match &self.key {
            SigningAlgorithm::Rsa(signer) => signer.sign(trimmed),
            SigningAlgorithm::Ed25519(signer) => signer.sign(trimmed),
        };
        let signature = signature.map_err(|error| DkimSignError::Crypto(error.to_string()))?;
        let field = signature.to_header();
        // Some verifiers, such as dkimpy, treat a fold after the signature as part of the signed text.
        Ok(match field.trim_end().strip_suffix("\r\n\t;") {
            Some(signed) => format!("{signed};\r\n"),
            None => field,
        })
    }
}

fn configure<K: SigningKey>(key: K, domain: &Domain, selector: &str) -> DkimSigner<K, Done> {
    DkimSigner::from_key(key)
        .domain(domain.ascii())
        .selector(selector)
        .headers(FIELDS)
        .header_canonicalization(Canonicalization::Relaxed)
        .body_canonicalization(Canonicalization::Relaxed)
}

/// The signature fields of all keys for this mail, to be prepended to it.
///
/// # Errors
/// One of the keys cannot sign.
pub fn signature_fields(signers: &[DkimSigningKey], mail: &[u8]) -> Result<String, DkimSignError> {
    if signers.is_empty() {
        return Ok(String::new());
    }
    let mail = trimmed(mail);
    signers
        .iter()
        .map(|signer| signer.sign_trimmed(&mail))
        .collect()
}

/// The mail without trailing white space in its body, which the relaxed canonicalisation leaves out anyway
/// (RFC 6376 section 3.4.4). `mail-auth` 0.13.3 keeps blank lines above a last line of spaces.
fn trimmed(mail: &[u8]) -> Vec<u8> {
    let head = memchr::memmem::find(mail, b"\r\n\r\n").map_or(mail.len(), |at| at + 4);
    let (head, body) = mail.split_at(head);
    let end = body.iter().rposition(|b| !b" \t\r\n".contains(b));
    let body = end.map_or(&[][..], |end| &body[..=end]);
    let line_end: &[u8] = if body.is_empty() { b"" } else { b"\r\n" };
    [head, body, line_end].concat()
}
