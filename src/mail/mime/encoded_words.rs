//! Owns the preparation of header values for the parser: adjacent encoded words (RFC 2047) of one charset
//! become one word, and all octets become UTF-8.
//!
//! Does not decode words into the value, because decoded text must not be parsed as structure.

use data_encoding::BASE64;
use memchr::memmem;

use crate::mail::charset;

/// The value with each run of encoded words of one charset as one word in UTF-8. Octets outside of words
/// that are not UTF-8 are decoded by `hint`, or by the charset of the value's words.
pub(super) fn normalised(value: &[u8], hint: Option<&str>) -> Vec<u8> {
    if value.is_ascii() && memmem::find(value, b"=?").is_none() {
        return value.to_vec();
    }
    let hint = first_charset(value).or(hint);
    let plain = |octets: &[u8]| match str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => charset::decode(octets, None, hint),
    };
    let mut out = String::with_capacity(value.len() * 2);
    let mut rest = value;
    let mut run = Run::default();
    while let Some(at) = memmem::find(rest, b"=?") {
        let (before, from) = rest.split_at(at);
        let Some((word, behind)) = EncodedWord::read(from) else {
            run.end(&mut out);
            out.push_str(&plain(before));
            out.push_str("=?");
            rest = &from[2..];
            continue;
        };
        let is_next = run.is_open() && before.iter().all(u8::is_ascii_whitespace);
        if !(is_next && run.has_charset(word.charset)) {
            run.end(&mut out);
            out.push_str(&plain(before));
            run.begin(word.charset);
        }
        run.octets.extend(word.octets);
        rest = behind;
    }
    run.end(&mut out);
    out.push_str(&plain(rest));
    out.into_bytes()
}

/// The charset of the first encoded word.
pub(in crate::mail) fn first_charset(value: &[u8]) -> Option<&str> {
    let words = memmem::find_iter(value, b"=?").take(4);
    words
        .filter_map(|at| EncodedWord::read(&value[at..]))
        .map(|(word, _)| word.charset)
        .find(|name| charset::is_known(name))
}

/// Adjacent words of one charset.
#[derive(Default)]
struct Run<'a> {
    charset: Option<&'a str>,
    octets: Vec<u8>,
}

impl<'a> Run<'a> {
    const fn is_open(&self) -> bool {
        self.charset.is_some()
    }

    fn has_charset(&self, charset: &str) -> bool {
        self.charset
            .is_some_and(|ours| ours.eq_ignore_ascii_case(charset))
    }

    fn begin(&mut self, charset: &'a str) {
        self.charset = Some(charset);
    }

    fn end(&mut self, out: &mut String) {
        if let Some(charset) = self.charset.take() {
            let text = charset::decode(&self.octets, Some(charset), None);
            out.push_str("=?utf-8?B?");
            out.push_str(&BASE64.encode(text.as_bytes()));
            out.push_str("?=");
            self.octets.clear();
        }
    }
}

/// An encoded word after its transfer encoding is decoded.
struct EncodedWord<'a> {
    charset: &'a str,
    octets: Vec<u8>,
}

impl<'a> EncodedWord<'a> {
    /// Parses the word at the start of the value, and returns the rest; `None` if there is none.
    fn read(value: &'a [u8]) -> Option<(Self, &'a [u8])> {
        /// The length of an encoded word. RFC 2047 section 2 allows 75; some programs write a whole line.
        const WORD_BYTES_MAX: usize = 1_000;
        let window = &value[2..value.len().min(WORD_BYTES_MAX)];
        let mut parts = window.splitn(3, |b| *b == b'?');
        let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
        let end = memmem::find(text, b"?=")?;
        let behind = 2 + window.len() - text.len() + end + 2;
        let text = &text[..end];
        // A language may follow the charset (RFC 2231 section 5).
        let charset = charset.split(|b| *b == b'*').next().unwrap_or_default();
        let charset = str::from_utf8(charset).ok()?;
        let is_token = !charset.is_empty() && charset.bytes().all(|b| b.is_ascii_graphic());
        if !is_token || text.contains(&b'\n') {
            return None;
        }
        let octets = match encoding {
            b"B" | b"b" => base64(text)?,
            b"Q" | b"q" => quoted(text),
            _ => return None,
        };
        Some((Self { charset, octets }, value.get(behind..)?))
    }
}

/// Decodes base64 with or without padding; `None` if the text is not base64.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut held, mut bits) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' | b' ' | b'\r' | b'\t' => continue,
            _ => return None,
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            octets.push((held >> bits).to_le_bytes()[0]);
        }
    }
    Some(octets)
}

/// Decodes the Q encoding (RFC 2047 section 4.2).
fn quoted(text: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return octets,
            [b'_', behind @ ..] => {
                octets.push(b' ');
                behind
            }
            [b'=', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0).to_le_bytes()[0];
                octets.push(digit(*high) << 4 | digit(*low));
                behind
            }
            [first, behind @ ..] => {
                octets.push(*first);
                behind
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &[u8], hint: Option<&str>) -> String {
        use mail_parser::parsers::MessageStream;
        let mut input = normalised(value, hint);
        input.push(b'\n');
        let value = MessageStream::new(&input).parse_unstructured();
        value.as_text().unwrap_or_default().to_owned()
    }

    #[test]
    fn words_of_one_charset_are_joined_before_they_are_read() {
        for (value, text) in [
            (
                "=?utf-8?B?QVc6IEJlaMM=?=\r\n =?utf-8?B?tnJkZW4=?=",
                "AW: Behörden",
            ),
            (
                "=?UTF-8?Q?Ann_M=C3?=\r\n =?utf-8?q?=BCller?= x",
                "Ann Müller x",
            ),
            (
                "=?gb2312?B?u9i4tKO6uPbIy9PKz+TJ/by2tQ?=\r\n\t=?gb2312?B?xLi9vP7D+9LRvq3K1bW9?=",
                "回复：个人邮箱升级的附件名已经收到",
            ),
            ("=?iso-8859-1?Q?Gr=FC=DFe?= =?utf-8?Q?_=C3=A9?=", "Grüße é"),
            ("a =?x?Z?y?= b =? c", "a =?x?Z?y?= b =? c"),
            ("plain", "plain"),
        ] {
            assert_eq!(read(value.as_bytes(), None), text, "{value}");
        }
        assert_eq!(read(b"\xbb\xd8\xb8\xb4: 1", Some("gb18030")), "回复: 1");
        assert_eq!(read(b"Gr\xfc\xdfe", None), "Grüße");
    }

    #[test]
    fn the_content_of_a_word_is_not_structure() {
        let out = normalised(b"=?utf-8?Q?a=2C_b=40c=3Cd=3E?= <x@y.example>", None);
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("?= <x@y.example>"), "{out}");
        assert!(!out[..out.len() - 14].contains([',', '@', '<']), "{out}");
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "([ -~é]|=\\?utf-8\\?[BQ]\\?|\\?=|\\r\\n ){0,60}") {
            let once = normalised(value.as_bytes(), None);
            prop_assert!(once.len() <= value.len() * 6 + 64);
        }
    }
}
