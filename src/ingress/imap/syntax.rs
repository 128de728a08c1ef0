//! Owns the syntax of IMAP strings: quoted strings, folder names, UID sets and dates.
//!
//! Does not know their use.

use data_encoding::BASE64_NOPAD;

use crate::clock::Timestamp;

/// A quoted string (RFC 3501 section 4.3); `None` if the text has a character that is not allowed in one.
pub(super) fn quoted(text: &str) -> Option<String> {
    if text.contains(['\r', '\n', '\0']) {
        return None;
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    Some(format!("\"{escaped}\""))
}

/// A folder's name in modified UTF-7 (RFC 3501 section 5.1.3).
pub(super) fn encode_folder(name: &str) -> String {
    let mut wire = String::new();
    let mut foreign: Vec<u8> = Vec::new();
    let end = |foreign: &mut Vec<u8>, wire: &mut String| {
        if !foreign.is_empty() {
            let base64 = BASE64_NOPAD.encode(foreign).replace('/', ",");
            wire.push_str(&format!("&{base64}-"));
            foreign.clear();
        }
    };
    for letter in name.chars() {
        if !(' '..='~').contains(&letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                foreign.extend_from_slice(&unit.to_be_bytes());
            }
            continue;
        }
        end(&mut foreign, &mut wire);
        wire.push(letter);
        if letter == '&' {
            wire.push('-');
        }
    }
    end(&mut foreign, &mut wire);
    wire
}

/// A UID set, with consecutive UIDs as ranges: `3:5,9`.
pub(super) fn uid_set(uids: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for uid in uids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*uid) => *last = *uid,
            _ => ranges.push((*uid, *uid)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}:{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// Parses an INTERNALDATE: `17-Jul-1996 02:44:25 -0700`, with an optional space before a one-digit day.
pub(super) fn parse_internal_date(text: &[u8]) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let text = std::str::from_utf8(text).ok()?.trim();
    let mut words = text.split_ascii_whitespace();
    let (date, time, zone) = (words.next()?, words.next()?, words.next()?);
    let mut parts = date.split('-');
    let day: i64 = parse_up_to(parts.next()?, 31)?;
    let month = parts.next()?.to_ascii_lowercase();
    let month = MONTHS.iter().position(|name| *name == month)?;
    let year: i64 = parse_up_to(parts.next()?, 9999)?;
    let mut clock = time.split(':').map(|part| parse_up_to(part, 60));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let (east, offset) = match zone.split_at_checked(1)? {
        ("+", offset) => (1, parse_up_to(offset, 2400)?),
        ("-", offset) => (-1, parse_up_to(offset, 2400)?),
        _ => return None,
    };
    let offset = east * (offset / 100 * 3600 + offset % 100 * 60);
    let days = days_since_epoch(year, i64::try_from(month).ok()? + 1, day);
    let secs = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Timestamp::from_secs(u64::try_from(secs).ok()?))
}

fn parse_up_to(digits: &str, most: i64) -> Option<i64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| plain);
    number.filter(|number| *number <= most)
}

/// The days from 1970-01-01 to a day of the Gregorian calendar, computed in years that begin in March.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folder_names_are_encoded() {
        assert_eq!(quoted("a\"b\\c").as_deref(), Some(r#""a\"b\\c""#));
        assert_eq!(quoted("a\r\nb"), None);
        for (name, wire) in [
            ("INBOX", "INBOX"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("Entwürfe & Mehr", "Entw&APw-rfe &- Mehr"),
            ("😀", "&2D3eAA-"),
        ] {
            assert_eq!(encode_folder(name), wire);
        }
    }

    #[test]
    fn uid_sets_use_ranges() {
        assert_eq!(uid_set(&[]), "");
        assert_eq!(uid_set(&[7]), "7");
        assert_eq!(uid_set(&[1, 2, 3, 5, 8, 9]), "1:3,5,8:9");
        assert_eq!(uid_set(&[u32::MAX, 1]), "4294967295,1");
    }

    #[test]
    fn internal_dates_are_parsed() {
        for (text, secs) in [
            ("17-Jul-1996 02:44:25 -0700", Some(837_596_665)),
            (" 1-Jan-1970 00:00:00 +0000", Some(0)),
            ("29-Feb-2024 23:59:59 +0530", Some(1_709_231_399)),
            ("01-Jan-1970 00:00:00 +0100", None),
            ("17-Foo-1996 02:44:25 -0700", None),
            ("17-Jul-1996", None),
            ("", None),
            ("-1-Jul-1996 02:44:25 -0700", None),
            ("17-Jul-1996 02:44:25 é0700", None),
        ] {
            assert_eq!(
                parse_internal_date(text.as_bytes()),
                secs.map(Timestamp::from_secs),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn dates_are_those_of_the_clock(secs in 0_u64..253_402_300_799) {
            // The form of RFC 5322: `Sat, 31 Jan 2026 23:59:59 +0000`.
            let text = Timestamp::from_secs(secs).to_rfc5322();
            let words: Vec<&str> = text.split_ascii_whitespace().skip(1).collect();
            let date = format!("{}-{}-{} {} {}", words[0], words[1], words[2], words[3], words[4]);
            prop_assert_eq!(parse_internal_date(date.as_bytes()), Some(Timestamp::from_secs(secs)));
        }
    }
}
