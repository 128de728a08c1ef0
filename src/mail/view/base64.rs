//! Owns base64 in mails (RFC 2045 section 6.8): finding the octets of a body that it covers, and decoding
//! them.
//!
//! Does not trust the label alone: relays append plain lines, and some programs use the label without
//! encoding.

use std::ops::Range;

/// A line of this many octets is not a single word of a language.
const LONG_LINE: usize = 40;
/// After padding, a line of this many octets continues the base64; a shorter one may be a plain word.
const GOES_ON: usize = 24;

/// The octets of the body that are base64, without the plain lines before and after it. `None` if the body is
/// not base64, whatever its label says. If it `is_text`, the body may be one or two plain words of the same
/// alphabet.
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

/// The findings about the lines of a body.
#[derive(Default)]
struct Seen {
    is_text: bool,
    /// The number of octets in lines of base64: before the first other line, and after it.
    encoded: usize,
    later: usize,
    /// The number of octets in other lines.
    other: usize,
    begins_with_other: bool,
    /// The offset of the first line of base64.
    start: usize,
    has_long_line: bool,
    /// The offset of the first other line after base64.
    end: Option<usize>,
    /// The offset of the last end of padding before that line.
    padded: Option<usize>,
    /// True if a line after the padding continues the base64.
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
            // Other lines are in between: the decoder skips characters outside the alphabet.
            return Some(self.start..body.len());
        }
        let end = match self.end {
            Some(end) => self.padded.filter(|_| !self.goes_on).unwrap_or(end),
            None => body.len(),
        };
        let found = self.start..end;
        self.is_plausible(&body[found.clone()]).then_some(found)
    }

    /// True unless the base64 may be one or two plain words: "Thanks" consists of the alphabet too.
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
        // UTF-16 has NUL, and the charsets of ISO 2022 shift by ESC, SO and SI.
        let is_whole = letters % 4 == 0;
        let mut is_text = true;
        decode(encoded, |byte| {
            is_text &= match byte {
                b'\t' | b'\r' | b'\n' => true,
                0 | 0x0e | 0x0f | 0x1b => is_whole,
                _ => byte >= 0x20 && byte != 0x7f,
            };
        });
        is_text || is_whole && letters >= GOES_ON
    }
}

/// True if a person would not write the line: it consists of the alphabet, or is long with few other
/// characters.
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

/// Decodes by RFC 2045 section 6.8: characters outside the alphabet are skipped. Padding ends a run, and
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
    fn base64_ends_before_added_lines() {
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
            // Each of two runs has padding.
            ("aGVsbG8=\nd29ybGQ=\nプライバシー\n", "aGVsbG8=\nd29ybGQ=\n"),
            ("aGVsbG8", "aGVsbG8"),
            ("", ""),
            // A NUL; UTF-16; ISO-2022-JP.
            ("d29yZHMA\n", "d29yZHMA\n"),
            ("TwBrACEA\n", "TwBrACEA\n"),
            ("GyRCJE8kJCEjGyhC\n", "GyRCJE8kJCEjGyhC\n"),
            // Blanks break the lines.
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
    fn plain_lines_before_base64_are_not_decoded() {
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
