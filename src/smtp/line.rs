//! Owns the splitting of bytes into command lines.
//!
//! Does not parse commands, and does not read mails.

use std::borrow::Cow;

use memchr::memchr;

use super::settings::BareNewline;

/// Octets of a command line with its line end. RFC 5321 section 4.5.3.1.4 asks for 512; extensions
/// and UTF-8 addresses need more.
const COMMAND_BYTES_MAX: usize = 2048;

/// The type of a TLS handshake record, with which a ClientHello begins.
const TLS_HANDSHAKE: u8 = 0x16;

/// Splits command lines, and holds an incomplete one.
pub(super) struct LineReader {
    partial: Vec<u8>,
    bare_newline: BareNewline,
    /// True until the first line was read.
    at_start: bool,
    /// True within the rest of a line that was too long.
    skipping_line: bool,
    /// True if the last octet that was skipped is a CR.
    skipped_return: bool,
    /// True if the line before ended in a bare LF that is refused: the text up to the next CRLF belongs to
    /// what the peer sent as one line, and must not run as a command.
    tainted: bool,
}

/// The reason why a line is not a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// The peer speaks HTTP, TLS or SSH.
    Foreign,
    /// The line has a bare CR or LF, a control character, or is not UTF-8.
    Malformed,
    /// The line has more than [`COMMAND_BYTES_MAX`] octets. The rest of it is skipped.
    TooLong,
}

impl LineReader {
    pub(super) const fn new(bare_newline: BareNewline) -> Self {
        Self {
            partial: Vec::new(),
            bare_newline,
            at_start: true,
            skipping_line: false,
            skipped_return: false,
            tainted: false,
        }
    }

    /// Takes the next line from `input`, without its line end; `None` if the input is used up.
    ///
    /// A line ends at LF, so that a peer that sends bare line feeds receives a response to each line
    /// instead of none; the settings decide if a bare one is an error.
    pub(super) fn next<'i>(
        &mut self,
        input: &mut &'i [u8],
    ) -> Option<Result<Cow<'i, str>, LineError>> {
        if self.skipping_line {
            let end = memchr(b'\n', input);
            let skipped = &input[..end.unwrap_or(input.len())];
            if let Some(last) = skipped.last() {
                self.skipped_return = *last == b'\r';
            }
            let Some(end) = end else {
                *input = &[];
                return None;
            };
            *input = &input[end + 1..];
            self.skipping_line = false;
            self.tainted = !self.skipped_return && self.bare_newline == BareNewline::Refuse;
        }
        if self.at_start {
            // A ClientHello need not contain a line feed, so its first octet identifies it.
            let first = *input.first()?;
            self.at_start = false;
            if first == TLS_HANDSHAKE {
                return Some(Err(LineError::Foreign));
            }
        }
        let room = COMMAND_BYTES_MAX - self.partial.len();
        let window = &input[..input.len().min(room)];
        let Some(end) = memchr(b'\n', window) else {
            self.partial.extend_from_slice(window);
            *input = &input[window.len()..];
            return (self.partial.len() == COMMAND_BYTES_MAX).then(|| Err(self.too_long()));
        };
        let (line, rest) = input.split_at(end + 1);
        *input = rest;
        if self.partial.is_empty() {
            return Some(self.text(line).map(Cow::Borrowed));
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(line);
        Some(self.text(&whole).map(|text| Cow::Owned(text.to_owned())))
    }

    /// Discards an incomplete line.
    pub(super) fn clear(&mut self) {
        self.partial = Vec::new();
        self.skipping_line = false;
        self.tainted = false;
    }

    /// The text of a line that ends in LF, unless a bare LF stood just before it.
    fn text<'l>(&mut self, line: &'l [u8]) -> Result<&'l str, LineError> {
        let is_bare = self.bare_newline == BareNewline::Refuse && !line.ends_with(b"\r\n");
        let was_tainted = std::mem::replace(&mut self.tainted, is_bare);
        match text(line, self.bare_newline) {
            Ok(_) if was_tainted => Err(LineError::Malformed),
            text => text,
        }
    }

    fn too_long(&mut self) -> LineError {
        self.skipping_line = true;
        self.skipped_return = self.partial.ends_with(b"\r");
        let start = std::mem::take(&mut self.partial);
        if is_foreign(&start) {
            LineError::Foreign
        } else {
            LineError::TooLong
        }
    }
}

/// The text of a line that ends in LF.
fn text(line: &[u8], bare_newline: BareNewline) -> Result<&str, LineError> {
    if is_foreign(line) {
        return Err(LineError::Foreign);
    }
    let (([text @ .., b'\r', b'\n'], _) | ([text @ .., b'\n'], BareNewline::Normalize)) =
        (line, bare_newline)
    else {
        return Err(LineError::Malformed);
    };
    let text = str::from_utf8(text).map_err(|_| LineError::Malformed)?;
    if text.chars().any(char::is_control) {
        return Err(LineError::Malformed);
    }
    Ok(text)
}

/// True for the first words of protocols whose clients can be tricked into connecting to a mail port
/// (ALPACA, <https://alpaca-attack.com>): their lines must not run as commands.
fn is_foreign(line: &[u8]) -> bool {
    const STARTS: [&[u8]; 12] = [
        b"CONNECT ",
        b"DELETE ",
        b"GET ",
        b"HEAD ",
        b"HTTP/",
        b"OPTIONS ",
        b"PATCH ",
        b"POST ",
        b"PRI * ",
        b"PUT ",
        b"SSH-",
        b"TRACE ",
    ];
    STARTS
        .iter()
        .any(|start| line.len() >= start.len() && line[..start.len()].eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8], bare_newline: BareNewline) -> Vec<Result<String, LineError>> {
        let mut reader = LineReader::new(bare_newline);
        let mut lines = Vec::new();
        while let Some(line) = reader.next(&mut input) {
            lines.push(line.map(Cow::into_owned));
        }
        assert!(input.is_empty());
        lines
    }

    #[test]
    fn only_crlf_ends_a_good_line() {
        let input = b"NOOP\r\nNOOP\nNO\rOP\r\nNOOP\r\r\nN\0OP\r\n\xff\r\n\xc3\xbc\r\nN\tP\r\n\r\n";
        let malformed = Err(LineError::Malformed);
        let mut expected = vec![Ok("NOOP".to_owned())];
        expected.extend(vec![malformed.clone(); 5]);
        expected.extend([Ok("ü".to_owned()), malformed, Ok(String::new())]);
        assert_eq!(lines(input, BareNewline::Refuse), expected);
        expected[1] = Ok("NOOP".to_owned());
        assert_eq!(lines(input, BareNewline::Normalize), expected);
    }

    #[test]
    fn the_longest_line_is_taken_and_one_octet_more_is_not() {
        let fits = "a".repeat(COMMAND_BYTES_MAX - 2);
        let input = format!("{fits}\r\n{fits}a\r\nNOOP\r\n");
        let expected = [Ok(fits), Err(LineError::TooLong), Ok("NOOP".to_owned())];
        assert_eq!(lines(input.as_bytes(), BareNewline::Refuse), expected);
    }

    #[test]
    fn a_line_without_end_is_reported_once_and_not_buffered() {
        let mut reader = LineReader::new(BareNewline::Refuse);
        let chunk = [b'a'; 4096];
        let mut told = 0;
        for _ in 0..1000 {
            let mut input = &chunk[..];
            while reader.next(&mut input).is_some() {
                told += 1;
            }
            assert!(reader.partial.capacity() <= 2 * COMMAND_BYTES_MAX);
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn other_protocols_are_recognised_by_their_first_words() {
        for input in [
            &b"\x16\x03\x01\x02"[..],
            b"GET / HTTP/1.1\r\n",
            b"post /x HTTP/1.0\n",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"PRI * HTTP/2.0\r\n",
        ] {
            assert_eq!(
                lines(&input[..input.len()], BareNewline::Refuse).first(),
                Some(&Err(LineError::Foreign))
            );
        }
    }
}
