//! Owns base64 as mails hold it (RFC 2045 section 6.8): which octets of a body it covers, and what they
//! stand for.
//!
//! Does not believe the label alone: relays append lines in the clear, and programs that never encode say
//! that they do.

use std::ops::Range;

/// Octets of a line that is no word of a language.
const LONG_LINE: usize = 40;
/// Octets of a line behind padding that goes on rather than begins a word in the clear.
const GOES_ON: usize = 24;

/// The octets of the body that are base64, without what was put before or behind in the clear. `None` if the
/// body is none, whatever its label says. A body that `is_text` may be a word or two, which are of the alphabet too.
pub(super) fn extent(body: &[u8], is_text: bool) -> Option<Range<usize>> {
    let mut seen = Seen {
        is_text,
        ..Seen::default()
    };
    let mut at = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        seen.add(line.trim_ascii(), at, at + line.len());
        at += line.len();
    }
    seen.extent(body)
}

/// What the lines of a body show.
#[derive(Default)]
struct Seen {
    is_text: bool,
    /// Octets in lines of base64 before anything else, and behind the start of anything else.
    encoded: usize,
    later: usize,
    /// Octets in other lines.
    other: usize,
    begins_with_other: bool,
    /// Where the first line of base64 begins.
    start: usize,
    has_long_line: bool,
    /// Where the first other line behind base64 begins.
    end: Option<usize>,
    /// The last end of padding before it.
    padded: Option<usize>,
    /// A line that goes on stands behind the padding.
    goes_on: bool,
}

impl Seen {
    fn add(&mut self, line: &[u8], start: usize, end: usize) {
        if line.is_empty() {
            return;
        }
        if !is_encoded(line) {
            self.other += line.len();
            if self.encoded == 0 {
                self.begins_with_other = true;
            } else {
                self.end.get_or_insert(start);
            }
            return;
        }
        if self.end.is_some() {
            self.later += line.len();
            return;
        }
        if self.encoded == 0 {
            self.start = start;
        }
        self.encoded += line.len();
        self.has_long_line |= line.len() >= LONG_LINE;
        if line.ends_with(b"=") {
            (self.padded, self.goes_on) = (Some(end), false);
        } else if line.len() >= GOES_ON {
            self.goes_on = true;
        }
    }

    fn extent(&self, body: &[u8]) -> Option<Range<usize>> {
        if self.encoded == 0 {
            return (self.other == 0).then_some(0..body.len());
        }
        if self.begins_with_other && self.encoded + self.later <= self.other {
            return None;
        }
        if self.later > self.other && self.later >= LONG_LINE {
            // Stray lines within: the decoder passes over what is not of the alphabet.
            return Some(self.start..body.len());
        }
        let end = match self.end {
            Some(end) => self.padded.filter(|_| !self.goes_on).unwrap_or(end),
            None => body.len(),
        };
        let found = self.start..end;
        self.is_plausible(&body[found.clone()]).then_some(found)
    }

    /// True unless the base64 is but a word or two: "Thanks" is of the alphabet too.
    fn is_plausible(&self, encoded: &[u8]) -> bool {
        let letters = encoded.iter().filter(|byte| value(**byte).is_some());
        let letters = letters.count();
        if !self.is_text || self.has_long_line || self.padded.is_some() && letters >= 4 {
            return true;
        }
        if letters % 4 == 1 {
            return false;
        }
        if letters >= LONG_LINE {
            return true;
        }
        let mut is_text = true;
        decode(encoded, |byte| {
            is_text &= byte >= 0x20 && byte != 0x7f || matches!(byte, b'\t' | b'\r' | b'\n');
        });
        is_text || letters % 4 == 0 && letters >= GOES_ON
    }
}

/// True of a line that nobody writes: of the alphabet alone, or a long one with hardly anything else.
fn is_encoded(line: &[u8]) -> bool {
    let strays = line
        .iter()
        .filter(|byte| value(**byte).is_none() && **byte != b'=' && !byte.is_ascii_whitespace())
        .count();
    let is_parted = line.iter().any(u8::is_ascii_whitespace);
    if is_parted {
        let mut pieces = line.split(u8::is_ascii_whitespace);
        return strays == 0 && pieces.all(|piece| piece.is_empty() || piece.len() >= 16);
    }
    let has_letter = strays < line.len() && line.iter().any(|byte| value(*byte).is_some());
    has_letter && strays == 0 || line.len() >= LONG_LINE && strays * 20 <= line.len()
}

/// RFC 2045 section 6.8: characters outside the alphabet are passed over. Padding ends a run, and
/// another may follow.
pub(super) fn decode(body: &[u8], mut sink: impl FnMut(u8)) {
    let (mut held, mut bits) = (0u32, 0);
    for &byte in body {
        let Some(value) = value(byte) else {
            if byte == b'=' {
                (held, bits) = (0, 0);
            }
            continue;
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            sink((held >> bits).to_le_bytes()[0]);
        }
    }
}

const fn value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_ends_where_it_ends() {
        for (body, encoded) in [
            ("aGVsbG8=\r\n", "aGVsbG8=\r\n"),
            ("aGVs\r\nbG8=\r\n-- \r\n", "aGVs\r\nbG8=\r\n"),
            (
                "aGVs\nbG8=\n\nVertraulich\nDiese Nachricht ist vertraulich.\n",
                "aGVs\nbG8=\n",
            ),
            (
                "WWVzLCBwbGVhc2Ugc2VuZCBtZSBhbiBpbnZvaWNl\n_____\nune liste\n",
                "WWVzLCBwbGVhc2Ugc2VuZCBtZSBhbiBpbnZvaWNl\n",
            ),
            // Runs with padding each.
            ("aGVsbG8=\nd29ybGQ=\nプライバシー\n", "aGVsbG8=\nd29ybGQ=\n"),
            ("aGVsbG8", "aGVsbG8"),
            ("", ""),
            // Broken by blanks.
            (
                "WWVzLCBwbGVhc2Ug c2VuZCBtZSBhbiBp bnZvaWNlWWVzLCBw",
                "WWVzLCBwbGVhc2Ug c2VuZCBtZSBhbiBp bnZvaWNlWWVzLCBw",
            ),
        ] {
            assert_eq!(
                extent(body.as_bytes(), true),
                Some(0..encoded.len()),
                "{body}"
            );
        }
    }

    #[test]
    fn what_stands_before_is_not_decoded() {
        let banner = "[EXTERNE] Vorsicht:\n\n";
        let body = format!("{banner}WWVzLCBwbGVhc2Ugc2VuZCBtZSBhbiBpbnZvaWNl\n");
        let found = extent(body.as_bytes(), true).unwrap();
        assert_eq!(found, banner.len()..body.len());
    }

    #[test]
    fn words_are_no_base64() {
        for body in [
            "Hello,\n\nplease send the invoice.\n",
            "Bonjour\n\nmerci d'envoyer la facture.\n",
            "Hola\n\nestá bien, gracias por todo lo que hacen\n",
            "Danke",
            "Thanks\n",
            "はい、木曜日で大丈夫です。",
            "<html>\n<body>\n<p>\nYes\n</p>\n</body>\n</html>\n",
            "https://a.example/b?c=d",
        ] {
            assert_eq!(extent(body.as_bytes(), true), None, "{body}");
        }
    }
}
