//! Owns parsing a relay's replies: bytes in, one bounded reply out.
//!
//! Does not read from a socket, and does not decide what a reply means for a mail.

use thiserror::Error;

use crate::mail::address::cut_between_addresses;
use crate::mail::redact;

/// The most octets of one line of a reply. RFC 5321 section 4.5.3.1.5 allows 512.
pub const LINE_BYTES_MAX: usize = 4 * 1024;
/// The most octets of one reply.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;
/// The most lines of one reply.
pub const LINES_MAX: usize = 256;
/// The most octets of a reply that are kept and shown.
pub const SHOWN_BYTES_MAX: usize = 1024;

/// A complete reply (RFC 5321 section 4.2): one code, and a text for each line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayReply {
    code: u16,
    lines: Vec<Vec<u8>>,
}

impl RelayReply {
    /// The reply code, 200 to 599.
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// True for 200 to 299.
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// True for 500 to 599.
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The texts of the lines, without the code.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(Vec::as_slice)
    }

    /// The reply on one line for people: escaped, without tokens, at most [`SHOWN_BYTES_MAX`]
    /// octets.
    pub fn display_text(&self) -> String {
        let mut text = self.code.to_string();
        for line in &self.lines {
            if text.len() >= SHOWN_BYTES_MAX {
                break;
            }
            text.push(' ');
            text.push_str(&display_bytes(line));
        }
        truncate_text(text)
    }

    /// The code and the enhanced status code (RFC 2034) only. After AUTH nothing else is kept,
    /// because a relay that repeats the refused line repeats the password.
    pub fn status_text(&self) -> String {
        let first = self.lines.first().map_or(&[][..], Vec::as_slice);
        let word = first.split(|b| *b == b' ').next().unwrap_or_default();
        let is_status = word.len() <= 9
            && word.contains(&b'.')
            && word.iter().all(|b| b.is_ascii_digit() || *b == b'.');
        if is_status {
            return format!("{} {}", self.code, display_bytes(word));
        }
        self.code.to_string()
    }
}

/// Foreign bytes for people: without control characters, line ends, invalid octets and words that
/// may be a token; at most [`SHOWN_BYTES_MAX`] octets.
pub fn display_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > SHOWN_BYTES_MAX {
            break;
        }
    }
    // Tokens are removed before the cut, because a cut token is not recognised.
    truncate_text(redact::token_words(&text).into_owned())
}

/// Cuts a text to [`SHOWN_BYTES_MAX`] octets, but never within an address, so that a return path
/// can still be found and removed.
pub fn truncate_text(mut text: String) -> String {
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(cut_between_addresses(&text, SHOWN_BYTES_MAX - '…'.len_utf8()).len());
        text.push('…');
    }
    text
}

/// The reason why data is not a reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RelayReplyError {
    /// A line does not begin with a code of 200 to 599.
    #[error("not a reply: {0}")]
    Code(String),
    /// The lines of one reply have different codes.
    #[error("a reply of two codes, {first} and {then}")]
    Mixed {
        /// The code of the first line.
        first: u16,
        /// The code of a later line.
        then: u16,
    },
    /// The reply exceeds a bound.
    #[error("a reply too long: more than {0}")]
    TooLong(&'static str),
}

/// Parses one reply that arrives in any pieces.
#[derive(Debug, Default)]
pub struct RelayReplyReader {
    line: Vec<u8>,
    lines: Vec<Vec<u8>>,
    code: Option<u16>,
    bytes: usize,
}

impl RelayReplyReader {
    /// Parses further input. Returns the number of octets of `input` that belong to the reply, and
    /// the reply once it is complete; the reader is then ready for the next one.
    ///
    /// # Errors
    /// The data is not a reply. Later data on this connection has no meaning.
    pub fn read(&mut self, input: &[u8]) -> Result<(usize, Option<RelayReply>), RelayReplyError> {
        let mut read = 0;
        while let Some(at) = input[read..].iter().position(|b| *b == b'\n') {
            self.push_bytes(&input[read..read + at])?;
            read += at + 1;
            if let Some(reply) = self.finish_line()? {
                return Ok((read, Some(reply)));
            }
        }
        self.push_bytes(&input[read..])?;
        Ok((input.len(), None))
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), RelayReplyError> {
        self.bytes += bytes.len();
        if self.line.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(RelayReplyError::TooLong("4 KiB in a line"));
        }
        if self.bytes > REPLY_BYTES_MAX {
            return Err(RelayReplyError::TooLong("64 KiB"));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_line(&mut self) -> Result<Option<RelayReply>, RelayReplyError> {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let (code, goes_on) =
            parse_line_start(&line).ok_or_else(|| RelayReplyError::Code(display_bytes(&line)))?;
        if let Some(first) = self.code.filter(|first| *first != code) {
            return Err(RelayReplyError::Mixed { first, then: code });
        }
        self.code = Some(code);
        if self.lines.len() >= LINES_MAX {
            return Err(RelayReplyError::TooLong("256 lines"));
        }
        line.drain(..line.len().min(4));
        self.lines.push(line);
        if goes_on {
            return Ok(None);
        }
        let whole = std::mem::take(self);
        Ok(Some(RelayReply {
            code,
            lines: whole.lines,
        }))
    }
}

/// The code of a line, and whether another line follows.
fn parse_line_start(line: &[u8]) -> Option<(u16, bool)> {
    let digits = line.get(..3)?;
    if !matches!(digits[0], b'2'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    match line.get(3) {
        None | Some(b' ') => Some((code, false)),
        Some(b'-') => Some((code, true)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Result<Option<RelayReply>, RelayReplyError> {
        RelayReplyReader::default()
            .read(text)
            .map(|(_, reply)| reply)
    }

    #[test]
    fn replies_are_read_to_their_end_and_no_further() {
        let text = b"250-one\r\n250-two\n250 three\r\n250 injected\r\n";
        let (read, reply) = RelayReplyReader::default().read(text).unwrap();
        assert_eq!(&text[read..], b"250 injected\r\n");
        let reply = reply.unwrap();
        assert_eq!((reply.code(), reply.is_positive()), (250, true));
        assert_eq!(reply.display_text(), "250 one two three");
        assert_eq!(whole(b"354\r\n").unwrap().unwrap().display_text(), "354 ");
        assert_eq!(whole(b"250-one\r\n250").unwrap(), None);
    }

    #[test]
    fn what_is_no_reply_is_told() {
        for text in [
            "\r\n",
            "2xx ok\r\n",
            "999 ok\r\n",
            "100 ok\r\n",
            "25\r\n",
            "250ok\r\n",
            "2500 ok\r\n",
            " 250 ok\r\n",
            "6\r\n",
            "250_ok\r\n",
        ] {
            let error = whole(text.as_bytes()).unwrap_err();
            assert!(matches!(error, RelayReplyError::Code(_)), "{text}: {error}");
        }
        let mixed = RelayReplyError::Mixed {
            first: 250,
            then: 550,
        };
        assert_eq!(whole(b"250-ok\r\n550 no\r\n"), Err(mixed));
    }

    #[test]
    fn nothing_grows_without_a_bound() {
        let mut reader = RelayReplyReader::default();
        let endless = [b'x'; 1024];
        let grown = (0..100).find_map(|_| reader.read(&endless).err());
        assert!(matches!(grown, Some(RelayReplyError::TooLong(_))));
        assert!(reader.line.len() <= LINE_BYTES_MAX);
        let mut reader = RelayReplyReader::default();
        let count = (0..100_000).take_while(|_| reader.read(b"250-x\r\n").is_ok());
        assert_eq!(count.count(), LINES_MAX);
        let long = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat();
        let mut reader = RelayReplyReader::default();
        let count = (0..100_000).take_while(|_| reader.read(&long).is_ok());
        assert!(count.count() * 4000 <= REPLY_BYTES_MAX);
    }

    #[test]
    fn what_is_shown_is_escaped_and_short() {
        let hostile = b"550 <b>no</b>\x07\xff\r\x1b[31m caf\xc3\xa9 \xe2\x80\xae\r\n";
        let shown = whole(hostile).unwrap().unwrap().display_text();
        assert_eq!(
            shown,
            "550 <b>no</b>\\u{7}\\xff\\r\\u{1b}[31m café \\u{202e}"
        );
        let long = [b"550 ".as_slice(), "é".repeat(1500).as_bytes(), b"\r\n"].concat();
        let shown = whole(&long).unwrap().unwrap().display_text();
        assert!(shown.len() <= SHOWN_BYTES_MAX && shown.ends_with('…'));
        // Wherever the text is cut, the address is either complete or gone.
        let address = "<bounce+word@inbox.test>";
        for pad in SHOWN_BYTES_MAX - 50..SHOWN_BYTES_MAX {
            let line = format!("550 {} {address} no\r\n", "x".repeat(pad));
            let shown = whole(line.as_bytes()).unwrap().unwrap().display_text();
            assert_eq!(shown.contains("word"), shown.contains(address), "{shown}");
        }
    }

    #[test]
    fn of_a_refused_login_only_the_status_is_kept() {
        let reply = whole(b"535 5.7.8 AUTH PLAIN AGJvYgBodW50ZXIy\r\n");
        assert_eq!(reply.unwrap().unwrap().status_text(), "535 5.7.8");
        let reply = whole(b"535 AGJvYgBodW50ZXIy\r\n");
        assert_eq!(reply.unwrap().unwrap().status_text(), "535");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            lines in proptest::collection::vec("[ -~]{0,40}", 1..6), code in 200u16..600,
            cuts in proptest::collection::vec(1usize..20, 1..60), tail in "[ -~]{0,9}",
        ) {
            let mut text = Vec::new();
            for (at, line) in lines.iter().enumerate() {
                let mark = if at + 1 == lines.len() { ' ' } else { '-' };
                text.extend(format!("{code}{mark}{line}\r\n").bytes());
            }
            let end = text.len();
            text.extend(tail.bytes());
            let (read, reply) = RelayReplyReader::default().read(&text).unwrap();
            prop_assert_eq!(read, end);
            let mut reader = RelayReplyReader::default();
            let (mut at, mut found) = (0, None);
            for step in cuts.iter().cycle() {
                let piece = &text[at..(at + step).min(text.len())];
                let (read, reply) = reader.read(piece).unwrap();
                at += read;
                if reply.is_some() {
                    found = reply;
                    break;
                }
            }
            prop_assert_eq!(at, end);
            prop_assert_eq!(found, reply);
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = RelayReplyReader::default();
            if let Ok((_, Some(reply))) = reader.read(&bytes) {
                prop_assert!(reply.display_text().len() <= SHOWN_BYTES_MAX);
                prop_assert!(!reply.display_text().chars().any(char::is_control));
            }
            prop_assert!(display_bytes(&bytes).len() <= SHOWN_BYTES_MAX);
            prop_assert!(!display_bytes(&bytes).chars().any(char::is_control));
        }
    }
}
