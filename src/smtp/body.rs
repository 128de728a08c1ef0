//! Owns the reading of the mail after DATA: its end, dot-unstuffing, and bounds.
//!
//! Does not parse the mail; counts only the octets, fields and hops of its header.

use bytes::Bytes;
use memchr::memchr3;

use super::response::Refusal;
use super::settings::{BareNewline, Settings};

/// The smallest step in octets by which the buffer of a mail grows, after its first piece.
const GROWTH_MIN: usize = 4 * 1024;

/// Reads a mail octet by octet, and keeps it with the stuffed dots removed (RFC 5321 section 4.5.2).
///
/// A mail that exceeds a bound is read to its end and refused there, because an earlier stop would
/// interpret its rest as commands. Nothing of it is kept from then on.
#[derive(Debug)]
pub(super) struct DataReader {
    position: LinePosition,
    kept: Vec<u8>,
    /// Octets of the mail so far, kept or not.
    bytes: u64,
    /// Octets of the line so far, without its stuffed dot.
    line_bytes: usize,
    /// `None` after the empty line.
    header: Option<HeaderCounts>,
    /// The first error found. If the mail is also too large, the response names that instead.
    fault: Option<Refusal>,
    bounds: DataBounds,
}

/// The end of a mail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DataEnd {
    /// A bare CR or LF. The session cannot continue.
    BareNewline,
    /// The mail has ended, and exceeds a bound.
    Refused(Refusal),
    /// The mail has ended without error.
    Whole(Bytes),
}

/// The position of the reader in the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinePosition {
    /// After a line end, which was CRLF or, if those are repaired, a bare LF.
    LineStart { crlf: bool },
    /// After CRLF and a dot.
    Dot,
    /// After CRLF, a dot and a CR.
    DotReturn,
    /// In a line.
    Text,
    /// After a CR in a line.
    Return,
}

#[derive(Debug, Default)]
struct HeaderCounts {
    bytes: usize,
    fields: usize,
    received: usize,
}

#[derive(Debug)]
struct DataBounds {
    bare_newline: BareNewline,
    fields: usize,
    header_bytes: usize,
    line_bytes: usize,
    mail_bytes: u64,
    received: usize,
}

impl DataReader {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            // The line end of DATA is the first half of the CRLF.CRLF that ends an empty mail.
            position: LinePosition::LineStart { crlf: true },
            kept: Vec::new(),
            bytes: 0,
            line_bytes: 0,
            header: Some(HeaderCounts::default()),
            fault: None,
            bounds: DataBounds {
                bare_newline: settings.bare_newline,
                fields: settings.header_fields_max,
                header_bytes: settings.header_bytes_max,
                line_bytes: settings.mail_line_bytes_max,
                mail_bytes: settings.mail_bytes_max,
                received: settings.received_max,
            },
        }
    }

    /// Octets of memory in use.
    pub(super) const fn bytes_held(&self) -> usize {
        self.kept.capacity()
    }

    /// Discards the mail so far and its rest; the response at the end is `refusal`, unless the mail already
    /// had an error of its own.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.fault.get_or_insert(refusal);
        self.kept = Vec::new();
        self.header = None;
    }

    /// Reads `input` up to the end of the mail; `None` if the input is used up and the mail continues.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Option<DataEnd> {
        let strict = self.bounds.bare_newline == BareNewline::Refuse;
        if self.kept.capacity() == 0 && self.bytes == 0 {
            // Line by line the buffer would grow in many small steps.
            self.kept.reserve(input.len());
        }
        while let Some(&next) = input.first() {
            match (self.position, next) {
                (LinePosition::LineStart { .. } | LinePosition::Dot, octet)
                    if octet != b'.' && octet != b'\r' =>
                {
                    self.position = LinePosition::Text;
                    continue;
                }
                (LinePosition::LineStart { crlf: true }, b'.') => self.position = LinePosition::Dot,
                (LinePosition::LineStart { crlf: false }, b'.') => {
                    self.position = LinePosition::Text
                }
                (LinePosition::Dot, b'\r') => self.position = LinePosition::DotReturn,
                (LinePosition::DotReturn, b'\n') => {
                    *input = &input[1..];
                    return Some(self.end());
                }
                (LinePosition::Return, b'\n') => self.end_line(true),
                (LinePosition::DotReturn | LinePosition::Return, _)
                | (LinePosition::Text, b'\n')
                    if strict =>
                {
                    return Some(DataEnd::BareNewline);
                }
                (LinePosition::DotReturn | LinePosition::Return, _) => {
                    self.refuse(Refusal::BareReturn);
                    self.keep(b"\r");
                    self.position = LinePosition::Text;
                    continue;
                }
                (LinePosition::LineStart { .. } | LinePosition::Text, b'\r') => {
                    self.position = LinePosition::Return
                }
                (LinePosition::Text, b'\n') => self.end_line(false),
                (LinePosition::Text, 0) => {
                    self.refuse(Refusal::MailNul);
                    self.keep(b"\0");
                }
                _ => {
                    self.position = LinePosition::Text;
                    self.read_text(input);
                    continue;
                }
            }
            *input = &input[1..];
        }
        None
    }

    /// Reads text and whole lines, with a single copy, up to an octet that needs a decision: a dot at the
    /// start of a line, a NUL, a CR or LF that may not be half of a CRLF, the end of a header line.
    fn read_text(&mut self, input: &mut &[u8]) {
        let bytes = *input;
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let text = memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
            used += text;
            self.line_bytes += text;
            self.check_line();
            let next = bytes.get(used + 2).copied();
            let whole = bytes[used..].starts_with(b"\r\n");
            if !whole || self.header.is_some() || matches!(next, None | Some(b'.')) {
                break;
            }
            self.line_bytes += 2;
            self.check_line();
            self.line_bytes = 0;
            used += 2;
        }
        self.keep(&bytes[..used]);
        *input = &bytes[used..];
    }

    fn keep(&mut self, octets: &[u8]) {
        self.bytes += octets.len() as u64;
        if self.bytes > self.bounds.mail_bytes {
            self.kept = Vec::new();
            self.header = None;
        } else if self.fault.is_none() {
            self.reserve(octets.len());
            self.kept.extend_from_slice(octets);
        }
    }

    /// Grows the buffer in steps of an eighth: a doubling vector would hold up to twice the mail, and the
    /// buffer counts against the server's memory budget.
    fn reserve(&mut self, octets: usize) {
        if self.kept.capacity() - self.kept.len() < octets {
            let left = self
                .bounds
                .mail_bytes
                .saturating_sub(self.kept.len() as u64);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let step = (self.kept.len() / 8).max(GROWTH_MIN).min(left);
            self.kept.reserve_exact(octets.max(step));
        }
    }

    fn end_line(&mut self, crlf: bool) {
        self.line_bytes += 2;
        self.check_line();
        self.keep(b"\r\n");
        self.count_header_line();
        self.line_bytes = 0;
        self.position = LinePosition::LineStart { crlf };
    }

    fn check_line(&mut self) {
        if self.line_bytes > self.bounds.line_bytes {
            self.refuse(Refusal::MailLineTooLong);
        }
    }

    fn count_header_line(&mut self) {
        let Some(header) = &mut self.header else {
            return;
        };
        // Without an error all octets are kept, so the whole line is in the buffer.
        let line = &self.kept[self.kept.len() - self.line_bytes..];
        if line == b"\r\n" {
            self.header = None;
            return;
        }
        header.bytes += line.len();
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            header.fields += 1;
            header.received += usize::from(is_received(line));
        }
        if header.bytes > self.bounds.header_bytes || header.fields > self.bounds.fields {
            self.refuse(Refusal::HeaderTooBig);
        } else if header.received > self.bounds.received {
            self.refuse(Refusal::LoopDetected);
        }
    }

    fn end(&mut self) -> DataEnd {
        if self.bytes > self.bounds.mail_bytes {
            return DataEnd::Refused(Refusal::MailTooBig);
        }
        if let Some(fault) = self.fault {
            return DataEnd::Refused(fault);
        }
        if self.bytes == 0 {
            return DataEnd::Refused(Refusal::MailEmpty);
        }
        DataEnd::Whole(Bytes::from(std::mem::take(&mut self.kept)))
    }
}

fn is_received(line: &[u8]) -> bool {
    const NAME: &[u8] = b"received";
    line.split_at_checked(NAME.len())
        .is_some_and(|(name, rest)| {
            name.eq_ignore_ascii_case(NAME) && rest.trim_ascii_start().starts_with(b":")
        })
}

#[cfg(test)]
mod tests {
    use super::super::settings::Protocol;
    use super::*;

    fn body(bare_newline: BareNewline) -> DataReader {
        let mut settings = Settings::new(String::new(), Protocol::Smtp);
        settings.bare_newline = bare_newline;
        DataReader::new(&settings)
    }

    /// The result for `sent`, and the number of octets left after it.
    fn read(sent: &[u8], bare_newline: BareNewline, cut: usize) -> (Option<DataEnd>, usize) {
        let mut body = body(bare_newline);
        for (number, piece) in sent.chunks(cut).enumerate() {
            let mut input = piece;
            let end = body.read(&mut input);
            let read = number * cut + piece.len() - input.len();
            // After an abort the rest of the input does not matter, because nothing is read any more.
            if end == Some(DataEnd::BareNewline) {
                return (end, 0);
            }
            if end.is_some() {
                return (end, sent.len() - read);
            }
            assert!(input.is_empty());
        }
        (None, 0)
    }

    /// The same result, computed from all of `sent` at once, without a state.
    fn model(sent: &[u8], bare_newline: BareNewline) -> (Option<DataEnd>, usize) {
        const END: &[u8] = b"\r\n.\r\n";
        let whole = [b"\r\n", sent].concat();
        let end = whole.windows(END.len()).position(|window| window == END);
        let seen = &whole[..end.map_or(whole.len(), |at| at + 2)];
        let is_bare = |at: usize| match seen[at] {
            b'\n' => seen[at - 1] != b'\r',
            b'\r' => seen.get(at + 1).is_some_and(|&next| next != b'\n'),
            _ => false,
        };
        let bare = (2..seen.len()).find(|&at| is_bare(at));
        let bare_return = (2..seen.len()).any(|at| seen[at] == b'\r' && is_bare(at));
        if bare.is_some() && bare_newline == BareNewline::Refuse {
            return (Some(DataEnd::BareNewline), 0);
        }
        let Some(end) = end else {
            return (None, 0);
        };
        let left = whole.len() - end - END.len();
        if bare_return {
            return (Some(DataEnd::Refused(Refusal::BareReturn)), left);
        }
        let mut kept = Vec::new();
        for line in seen[2..].split_inclusive(|&octet| octet == b'\n') {
            let text = line
                .strip_suffix(b"\r\n")
                .unwrap_or(&line[..line.len() - 1]);
            kept.extend_from_slice(text.strip_prefix(b".").unwrap_or(text));
            kept.extend_from_slice(b"\r\n");
        }
        let end = if kept.is_empty() {
            DataEnd::Refused(Refusal::MailEmpty)
        } else {
            DataEnd::Whole(Bytes::from(kept))
        };
        (Some(end), left)
    }

    #[test]
    fn every_short_mail_ends_where_the_model_says() {
        const OCTETS: [u8; 4] = *b"\r\n.a";
        const LENGTH_MAX: u32 = 7;
        let mut ended = 0;
        for length in 0..=LENGTH_MAX {
            for mut number in 0..4_usize.pow(length) {
                let mut sent = Vec::new();
                for _ in 0..length {
                    sent.push(OCTETS[number % 4]);
                    number /= 4;
                }
                sent.extend_from_slice(b"\r\n.\r\nQUIT\r\n");
                for bare_newline in [BareNewline::Refuse, BareNewline::Normalize] {
                    let expected = model(&sent, bare_newline);
                    ended += u32::from(matches!(expected.0, Some(DataEnd::Whole(_))));
                    for cut in [usize::MAX, 1, 3] {
                        let found = read(&sent, bare_newline, cut.min(sent.len()));
                        assert_eq!(
                            found,
                            expected,
                            "{bare_newline:?} {:?}",
                            sent.escape_ascii()
                        );
                    }
                }
            }
        }
        assert!(ended > 1000, "{ended}");
    }

    #[test]
    fn nothing_is_held_of_a_mail_that_is_refused() {
        let mut settings = Settings::new(String::new(), Protocol::Smtp);
        settings.mail_bytes_max = 100_000;
        let mut body = DataReader::new(&settings);
        let chunk = [b'a'; 8 * 1024];
        for sent in 1..100 {
            assert_eq!(body.read(&mut &chunk[..]), None);
            let held_max = if sent <= 2 { 2 * sent * chunk.len() } else { 0 };
            assert!(body.bytes_held() <= held_max, "{sent}");
        }
        let end = Some(DataEnd::Refused(Refusal::MailTooBig));
        assert_eq!(body.read(&mut &b"\r\n.\r\n"[..]), end);
    }

    #[test]
    fn the_first_error_is_reported() {
        let long = "a".repeat(17 * 1024);
        for (sent, refusal) in [
            (format!("{long}\0\r\n.\r\n"), Refusal::MailLineTooLong),
            (format!("\0{long}\r\n.\r\n"), Refusal::MailNul),
            (
                format!("{}\r\n.\r\n", "A: a\r\n".repeat(1001)),
                Refusal::HeaderTooBig,
            ),
            (
                format!("{}\r\n.\r\n", "A: a\r\n".repeat(1000)),
                Refusal::Busy,
            ),
            (
                format!("{}\r\n.\r\n", "Received: a\r\n".repeat(51)),
                Refusal::LoopDetected,
            ),
        ] {
            for cut in [sent.len(), 1000, 1] {
                let mut body = body(BareNewline::Refuse);
                let mut end = None;
                for mut piece in sent.as_bytes().chunks(cut) {
                    end = body.read(&mut piece);
                }
                let found = match end {
                    Some(DataEnd::Refused(refusal)) => refusal,
                    Some(DataEnd::Whole(_)) => Refusal::Busy,
                    other => panic!("{other:?}"),
                };
                assert_eq!(found, refusal, "cut at {cut}");
            }
        }
    }
}
