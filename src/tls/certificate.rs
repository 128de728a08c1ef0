//! Owns the parsing of X.509 certificates and public keys (RFC 5280): the key, the names, and the period of
//! validity.
//!
//! Does not verify the issuer of a certificate.

use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer as _, GeneralName};
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::base64;
use crate::clock::Timestamp;

/// The maximum number of names of one certificate that are read.
const NAMES_MAX: usize = 100;
/// The maximum number of certificates of one chain that are read.
const CHAIN_MAX: usize = 10;

/// The public key of a certificate, the names of its owner and its period of validity.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The public key.
    pub key: PublicKey,
    /// The host names of the owner in lower case: the DNS names among the alternative names, then the common
    /// names; at most 100.
    pub names: Vec<String>,
    /// The first time at which the certificate is valid.
    pub not_before: Timestamp,
    /// The last time at which the certificate is valid.
    pub not_after: Timestamp,
}

/// The time before its end in which a certificate expires soon. Let's Encrypt renews a month before the
/// end, so half of that time later the renewal must have failed.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The state of a certificate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The certificate is valid, and still is 14 days later.
    Good,
    /// The certificate is valid, but not 14 days later.
    ExpiresSoon,
    /// The period of validity is over.
    Expired,
    /// The period of validity has not begun.
    NotYetValid,
}

impl Certificate {
    /// The state of the certificate at `now`.
    pub fn validity(&self, now: Timestamp) -> Validity {
        if now < self.not_before {
            Validity::NotYetValid
        } else if now > self.not_after {
            Validity::Expired
        } else if now.plus(EXPIRES_SOON) > self.not_after {
            Validity::ExpiresSoon
        } else {
            Validity::Good
        }
    }

    /// The certificates of a PEM text up to the first that is not PEM, in their order; at most 10.
    pub fn chain_from_pem(pem: &[u8]) -> Vec<CertificateDer<'static>> {
        let all = CertificateDer::pem_slice_iter(pem);
        all.map_while(Result::ok).take(CHAIN_MAX).collect()
    }

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
            names: names_of(&certificate),
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
        })
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    // An extension that occurs twice counts as none.
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.map(|extension| extension.value.general_names.as_slice());
    let dns_names = alternative
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
    let common_names = certificate.subject().iter_common_name();
    let common_names = common_names.filter_map(|name| name.as_str().ok());
    let names = dns_names.chain(common_names).take(NAMES_MAX);
    names.map(str::to_ascii_lowercase).collect()
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
    fn a_certificate_is_good_until_fourteen_days_before_its_end() {
        let certificate = Certificate::from_der(&certificate(2027).0).unwrap();
        let (first, last) = (certificate.not_before, certificate.not_after);
        let (soon, second) = (EXPIRES_SOON, Duration::from_secs(1));
        for (now, validity) in [
            (first.minus(second), Validity::NotYetValid),
            (first, Validity::Good),
            (last.minus(soon), Validity::Good),
            (last.minus(soon).plus(second), Validity::ExpiresSoon),
            (last, Validity::ExpiresSoon),
            (last.plus(second), Validity::Expired),
        ] {
            assert_eq!(certificate.validity(now), validity, "{now}");
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
