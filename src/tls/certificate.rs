//! Owns the parsing of X.509 certificates and public keys (RFC 5280): the key, and the period of validity.
//!
//! Does not verify the issuer of a certificate.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::base64;
use crate::clock::Timestamp;

/// The public key of a certificate and its period of validity.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The public key.
    pub key: PublicKey,
    /// The first time at which the certificate is valid.
    pub not_before: Timestamp,
    /// The last time at which the certificate is valid.
    pub not_after: Timestamp,
}

impl Certificate {
    /// Parses the first certificate of a PEM text; `None` if there is none that can be parsed.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        Self::from_der(&CertificateDer::from_pem_slice(pem).ok()?)
    }

    /// Parses a certificate as it is sent in TLS; `None` if it cannot be parsed.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            key: PublicKey::of(certificate.public_key())?,
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
        })
    }
}

/// A public key for verifying signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bits: Vec<u8>,
}

impl PublicKey {
    /// Parses a SubjectPublicKeyInfo: PEM, or only its base64. A literal `\n`, as in an environment
    /// variable, is a line end. `None` if it cannot be parsed.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace("\\n", "\n");
        let der = match SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()) {
            Ok(der) => der.as_ref().to_vec(),
            Err(_) => base64::decode_lines(&text)?,
        };
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
        Self::of(&info)
    }

    /// The content of the key's `BIT STRING`, for signature verification.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    fn of(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bits = &info.subject_public_key;
        let is_whole = bits.unused_bits == 0 && !bits.data.is_empty();
        is_whole.then(|| Self {
            bits: bits.data.to_vec(),
        })
    }
}

/// A time before 1970 counts as 1970.
fn time(time: ASN1Time) -> Timestamp {
    Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> (Vec<u8>, KeyPair) {
        let mut params = CertificateParams::new(vec!["mx.example.com".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 3, 1);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().der().to_vec(), key)
    }

    #[test]
    fn a_certificate_gives_its_key_and_span() {
        let made = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap();
        let read = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
        let pem = made.signing_key.public_key_pem();
        assert_eq!(read.key, PublicKey::parse(&pem).unwrap());
        let span = [read.not_before, read.not_after].map(|at| at.to_rfc3339());
        let wanted = ["1975-01-01T00:00:00.000Z", "4096-01-01T00:00:00.000Z"];
        assert_eq!(span, wanted);
    }

    #[test]
    fn the_last_day_is_read_in_both_forms() {
        for (year, date) in [
            (2027, "2027-03-01T00:00:00.000Z"),
            (2060, "2060-03-01T00:00:00.000Z"),
        ] {
            let read = Certificate::from_der(&certificate(year).0).unwrap();
            assert_eq!(read.not_after.to_rfc3339(), date);
        }
    }

    #[test]
    fn keys_come_in_many_forms() {
        let made = KeyPair::generate().unwrap();
        let pem = made.public_key_pem();
        let key = PublicKey::parse(&pem).unwrap();
        assert_eq!(key.bits().len(), 65);
        let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        for text in [pem.replace('\n', "\\n"), bare.clone(), format!(" {bare}\n")] {
            assert_eq!(PublicKey::parse(&text).unwrap(), key, "{text}");
        }
        for text in ["", "AAAA", "MAA=", &bare[..bare.len() - 8]] {
            assert!(PublicKey::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_cut_certificate_is_none() {
        let (der, _) = certificate(2027);
        for end in 0..der.len() {
            assert!(Certificate::from_der(&der[..end]).is_none(), "{end}");
            let pem = format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----",
                BASE64.encode(&der[..end])
            );
            assert!(Certificate::from_pem(pem.as_bytes()).is_none(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let (mut der, _) = certificate(2027);
            let at = at.min(der.len() - 1);
            der[at] = byte;
            der.truncate(der.len() - cut.min(der.len()));
            let _ = Certificate::from_der(&der);
        }
    }
}
