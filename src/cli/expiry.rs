//! Owns the reading of a certificate's last day (X.509, RFC 5280 section 4.1.2.5).
//!
//! Does not judge a certificate: that is the affair of whoever is shown it.

use mail_parser::DateTime;

use crate::clock::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the certificate ends, or `None` if the bytes are no certificate.
pub(super) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = inner(der, SEQUENCE)?;
    let (mut fields, _) = inner(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = element(fields)?;
    }
    // Serial number, signature algorithm, issuer; then validity.
    for _ in 0..3 {
        (_, fields) = element(fields)?;
    }
    let (validity, _) = inner(fields, SEQUENCE)?;
    let (_, last) = element(validity)?;
    let form = *last.first()?;
    let (text, _) = inner(last, form)?;
    time(form, str::from_utf8(text).ok()?)
}

/// The content of the element that begins `der`, which must have this tag, and what follows it.
fn inner(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    (*der.first()? == tag).then(|| element(der))?
}

/// The content of the element that begins `der`, and what follows it (X.690 section 8.1).
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, first], mut rest) = der.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) || rest.len() < count {
            return None;
        }
        length = rest[..count]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = &rest[count..];
    }
    rest.split_at_checked(length)
}

fn time(form: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match form {
        UTC_TIME => {
            let short: u16 = digits.get(..2)?.parse().ok()?;
            let century = if short < 50 { 2000 } else { 1900 };
            (century + short, digits.get(2..)?)
        }
        GENERALIZED_TIME => (digits.get(..4)?.parse().ok()?, digits.get(4..)?),
        _ => return None,
    };
    let pair = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
    let date = DateTime {
        year,
        month: pair(0)?,
        day: pair(2)?,
        hour: pair(4)?,
        minute: pair(6)?,
        second: pair(8)?,
        tz_before_gmt: false,
        tz_hour: 0,
        tz_minute: 0,
    };
    let secs = u64::try_from(date.to_timestamp()).unwrap_or_default();
    Some(Timestamp::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mx.example.com".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 3, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_last_day_is_read_in_both_forms() {
        for (year, date) in [
            (2027, "2027-03-01T00:00:00.000Z"),
            (2060, "2060-03-01T00:00:00.000Z"),
        ] {
            let ends = not_after(&certificate(year)).unwrap();
            assert_eq!(ends.to_rfc3339(), date);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut der = certificate(2027);
            let at = at.min(der.len() - 1);
            der[at] = byte;
            der.truncate(der.len() - cut.min(der.len()));
            let _ = not_after(&der);
        }
    }
}
