//! Owns the little of DER that public keys and certificates need (X.690, RFC 5280): where the key
//! lies, and from when to when it counts.
//!
//! Does not check who signed a certificate: whoever uses one has it from a host he trusts.

use data_encoding::BASE64;
use mail_parser::DateTime;

use super::proof::PublicKey;
use crate::clock::Timestamp;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// A certificate's key, and the span in which it counts.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) key: PublicKey,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Certificate {
    /// Reads the first certificate of a PEM text. `None` if there is none that can be read.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let der = unarmoured(std::str::from_utf8(pem).ok()?, "CERTIFICATE")?;
        let mut fields = DerReader(DerReader(&der).read(SEQUENCE)?);
        let mut signed = DerReader(fields.read(SEQUENCE)?);
        if signed.tag() == Some(VERSION) {
            signed.read(VERSION)?;
        }
        signed.read(INTEGER)?;
        signed.read(SEQUENCE)?; // Algorithm.
        signed.read(SEQUENCE)?; // Issuer.
        let mut validity = DerReader(signed.read(SEQUENCE)?);
        let (from, until) = (validity.time()?, validity.time()?);
        signed.read(SEQUENCE)?; // Subject.
        let key = DerReader(signed.read(SEQUENCE)?).key()?;
        Some(Self { key, from, until })
    }
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo: PEM, or its base64 alone, as providers show it. A `\n` spelled
    /// out, as it survives in an environment variable, is a line end.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace("\\n", "\n");
        let der = match unarmoured(&text, "PUBLIC KEY") {
            Some(der) => der,
            None => decoded(&text)?,
        };
        DerReader(DerReader(&der).read(SEQUENCE)?).key()
    }
}

/// What stands between the lines `-----BEGIN label-----` and `-----END label-----`, decoded.
fn unarmoured(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (inner, _) = rest.split_once(&format!("-----END {label}-----"))?;
    decoded(inner)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let whole: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64.decode(whole.as_bytes()).ok()
}

/// What is left of an encoding.
struct DerReader<'a>(&'a [u8]);

impl<'a> DerReader<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, which must have this tag.
    fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let [found, first, rest @ ..] = self.0 else {
            return None;
        };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81 | 0x82 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }

    /// The key of a SubjectPublicKeyInfo that is opened already.
    fn key(&mut self) -> Option<PublicKey> {
        self.read(SEQUENCE)?;
        let bits = self.read(BIT_STRING)?;
        let (unused, bits) = bits.split_first()?;
        (*unused == 0 && !bits.is_empty()).then(|| PublicKey {
            bits: bits.to_vec(),
        })
    }

    /// A time in UTC, to the second: RFC 5280 section 4.1.2.5 allows no other form.
    fn time(&mut self) -> Option<Timestamp> {
        let tag = self.tag()?;
        let text = self.read(tag)?.strip_suffix(b"Z")?;
        let year_digits = match tag {
            UTC_TIME => 2,
            GENERALIZED_TIME => 4,
            _ => return None,
        };
        if text.len() != year_digits + 10 || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = |digits: &[u8]| {
            digits
                .iter()
                .fold(0u16, |n, d| n * 10 + u16::from(d - b'0'))
        };
        let (year, rest) = text.split_at(year_digits);
        let century = match tag {
            GENERALIZED_TIME => 0,
            _ if number(year) < 50 => 2000,
            _ => 1900,
        };
        let mut pairs = rest
            .chunks(2)
            .map(|pair| u8::try_from(number(pair)).unwrap_or(0));
        let mut next = || pairs.next().unwrap_or(0);
        let date = DateTime {
            year: century + number(year),
            month: next(),
            day: next(),
            hour: next(),
            minute: next(),
            second: next(),
            tz_before_gmt: false,
            tz_hour: 0,
            tz_minute: 0,
        };
        // `is_valid` knows no year beyond 3000, and some certificates are meant to outlive it.
        let is_date = (1..=12).contains(&date.month) && (1..=31).contains(&date.day);
        let is_time = date.hour < 24 && date.minute < 60 && date.second <= 60;
        (is_date && is_time)
            .then(|| Timestamp::from_secs(u64::try_from(date.to_timestamp()).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_gives_its_key_and_span() {
        let made = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap();
        let read = Certificate::parse(made.cert.pem().as_bytes()).unwrap();
        let pem = made.signing_key.public_key_pem();
        assert_eq!(read.key.bits, PublicKey::parse(&pem).unwrap().bits);
        assert!(
            read.from.to_rfc3339().starts_with("1975-01-01T00:00:00"),
            "{}",
            read.from
        );
        assert!(
            read.until.to_rfc3339().starts_with("4096-01-01T00:00:00"),
            "{}",
            read.until
        );
    }

    #[test]
    fn keys_come_in_many_dresses() {
        let made = rcgen::KeyPair::generate().unwrap();
        let pem = made.public_key_pem();
        let key = PublicKey::parse(&pem).unwrap().bits;
        assert_eq!(key.len(), 65);
        let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        for text in [pem.replace('\n', "\\n"), bare.clone(), format!(" {bare}\n")] {
            assert_eq!(PublicKey::parse(&text).unwrap().bits, key);
        }
        for text in ["", "AAAA", "MAA=", &bare[..bare.len() - 8]] {
            assert!(PublicKey::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn cut_certificates_are_none() {
        let made = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        for end in 0..300 {
            let pem = format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----",
                BASE64.encode(&der[..end])
            );
            assert!(Certificate::parse(pem.as_bytes()).is_none(), "{end}");
        }
    }
}
