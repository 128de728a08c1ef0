//! Owns the parsing of a server's responses, as far as fetching mail needs it (RFC 3501 section 7).
//!
//! Skips unknown responses, codes and attributes. There is no recursion, so nesting does no harm.

use bytes::Bytes;

use super::syntax;
use super::transport::{ImapFault, RawResponse};
use crate::clock::Timestamp;

/// The number of characters of a server's text that are kept.
const TEXT_CHARS_MAX: usize = 200;

/// One response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ImapResponse {
    /// The server waits for more data: `+`.
    Continuation,
    /// The result of a command.
    Tagged { tag: String, status: ImapStatus },
    /// Requested data, or data that the server sends unsolicited.
    Untagged(Untagged),
}

/// A response without a tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Untagged {
    Capability(Vec<String>),
    Exists,
    Fetch(FetchData),
    Other,
    Status(ImapStatus),
}

/// The status of a command or of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImapStatus {
    pub(super) kind: StatusKind,
    pub(super) code: ResponseCode,
    /// The server's text, escaped and cut.
    pub(super) text: String,
}

/// The kind of a status response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusKind {
    Bad,
    Bye,
    No,
    Ok,
    PreAuth,
}

/// The response codes that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponseCode {
    Capability(Vec<String>),
    None,
    ReadOnly,
    TryCreate,
    UidNext(u32),
    UidValidity(u32),
}

/// The attributes of a mail in a FETCH response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FetchData {
    pub(super) uid: Option<u32>,
    pub(super) size: Option<u64>,
    /// `None` if the response has no flags.
    pub(super) seen: Option<bool>,
    pub(super) arrived: Option<Timestamp>,
    pub(super) body: Option<Bytes>,
}

/// Parses a response.
///
/// # Errors
/// The line is not a valid response.
pub(super) fn parse(raw: RawResponse) -> Result<ImapResponse, ImapFault> {
    let line = &raw.line[..];
    if let Some(rest) = line.strip_prefix(b"* ") {
        return parse_untagged(rest, &raw.literals).map(ImapResponse::Untagged);
    }
    if line.starts_with(b"+") {
        return Ok(ImapResponse::Continuation);
    }
    let (tag, rest) = split(line);
    let tag = std::str::from_utf8(tag).map_err(|_| ImapFault::Protocol("a tag"))?;
    let status = parse_status(rest).filter(|_| !tag.is_empty());
    let status = status.ok_or(ImapFault::Protocol("neither a tag's end nor untagged"))?;
    Ok(ImapResponse::Tagged {
        tag: tag.to_owned(),
        status,
    })
}

fn parse_untagged(rest: &[u8], literals: &[Bytes]) -> Result<Untagged, ImapFault> {
    if let Some(status) = parse_status(rest) {
        return Ok(Untagged::Status(status));
    }
    let (word, after) = split(rest);
    if word.eq_ignore_ascii_case(b"CAPABILITY") {
        return Ok(Untagged::Capability(words(after)));
    }
    if !word.iter().all(u8::is_ascii_digit) || word.is_empty() {
        return Ok(Untagged::Other);
    }
    let (word, after) = split(after);
    if word.eq_ignore_ascii_case(b"EXISTS") {
        return Ok(Untagged::Exists);
    }
    if word.eq_ignore_ascii_case(b"FETCH") {
        let fetched =
            parse_fetch(after, literals).ok_or(ImapFault::Protocol("a FETCH response"))?;
        return Ok(Untagged::Fetch(fetched));
    }
    Ok(Untagged::Other)
}

fn parse_status(rest: &[u8]) -> Option<ImapStatus> {
    let (word, rest) = split(rest);
    let kind = match word.to_ascii_uppercase().as_slice() {
        b"BAD" => StatusKind::Bad,
        b"BYE" => StatusKind::Bye,
        b"NO" => StatusKind::No,
        b"OK" => StatusKind::Ok,
        b"PREAUTH" => StatusKind::PreAuth,
        _ => return None,
    };
    let (code, text) = match rest.strip_prefix(b"[") {
        Some(inner) => match memchr::memchr(b']', inner) {
            Some(end) => (parse_code(&inner[..end]), &inner[end + 1..]),
            None => (ResponseCode::None, rest),
        },
        None => (ResponseCode::None, rest),
    };
    let text = String::from_utf8_lossy(text);
    let text = text.trim().chars().take(TEXT_CHARS_MAX).collect::<String>();
    Some(ImapStatus {
        kind,
        code,
        text: text.escape_debug().to_string(),
    })
}

fn parse_code(inner: &[u8]) -> ResponseCode {
    let (word, rest) = split(inner);
    let number = || number(rest).and_then(|number| u32::try_from(number).ok());
    match word.to_ascii_uppercase().as_slice() {
        b"CAPABILITY" => ResponseCode::Capability(words(rest)),
        b"READ-ONLY" => ResponseCode::ReadOnly,
        b"TRYCREATE" => ResponseCode::TryCreate,
        b"UIDNEXT" => number().map_or(ResponseCode::None, ResponseCode::UidNext),
        b"UIDVALIDITY" => number().map_or(ResponseCode::None, ResponseCode::UidValidity),
        _ => ResponseCode::None,
    }
}

/// Parses `(NAME value NAME value …)`.
fn parse_fetch(text: &[u8], literals: &[Bytes]) -> Option<FetchData> {
    let mut fetched = FetchData::default();
    let mut scan = FetchScanner {
        text: text.strip_prefix(b"(")?,
        literals,
    };
    loop {
        scan.skip_spaces();
        if scan.text.first()? == &b')' {
            return Some(fetched);
        }
        let name = scan.name()?.to_ascii_uppercase();
        scan.skip_spaces();
        let value = scan.value()?;
        match (name.as_slice(), value) {
            (b"UID", FetchValue::Atom(atom)) => fetched.uid = u32::try_from(number(atom)?).ok(),
            (b"RFC822.SIZE", FetchValue::Atom(atom)) => fetched.size = number(atom),
            (b"INTERNALDATE", FetchValue::Quoted(text)) => {
                fetched.arrived = syntax::parse_internal_date(&text)
            }
            (b"FLAGS", FetchValue::List(list)) => {
                let mut flags = list.split(u8::is_ascii_whitespace);
                fetched.seen = Some(flags.any(|flag| flag.eq_ignore_ascii_case(b"\\Seen")));
            }
            (b"BODY[]", FetchValue::Literal(body)) => fetched.body = Some(body),
            (b"BODY[]", FetchValue::Quoted(body)) => fetched.body = Some(body.into()),
            _ => {}
        }
    }
}

/// A value in a FETCH response.
enum FetchValue<'t> {
    Atom(&'t [u8]),
    /// The text between the outermost parentheses.
    List(&'t [u8]),
    Literal(Bytes),
    Quoted(Vec<u8>),
}

/// The rest of a response during parsing.
struct FetchScanner<'t> {
    text: &'t [u8],
    literals: &'t [Bytes],
}

impl<'t> FetchScanner<'t> {
    fn skip_spaces(&mut self) {
        self.text = self.text.trim_ascii_start();
    }

    fn take(&mut self, at: usize) -> &'t [u8] {
        let (cut, rest) = self.text.split_at(at);
        self.text = rest;
        cut
    }

    /// An attribute's name, including its brackets, in which a field name may be a literal.
    fn name(&mut self) -> Option<&'t [u8]> {
        let mut in_brackets = false;
        let end = self.text.iter().position(|byte| {
            match byte {
                b'[' => in_brackets = true,
                b']' => in_brackets = false,
                _ => {}
            }
            !in_brackets && matches!(byte, b' ' | b'(' | b')' | b'"' | 0)
        });
        let name = self.take(end.filter(|end| *end > 0)?);
        for _ in name.iter().filter(|byte| **byte == 0) {
            self.literal()?;
        }
        Some(name)
    }

    fn value(&mut self) -> Option<FetchValue<'t>> {
        match *self.text.first()? {
            0 => {
                self.take(1);
                self.literal().map(FetchValue::Literal)
            }
            b'"' => self.quoted().map(FetchValue::Quoted),
            b'(' => self.list().map(FetchValue::List),
            _ => {
                let is_end = |byte: &u8| matches!(byte, b' ' | b')' | b'(' | 0);
                let end = self.text.iter().position(is_end)?;
                (end > 0).then(|| FetchValue::Atom(self.take(end)))
            }
        }
    }

    fn literal(&mut self) -> Option<Bytes> {
        let (first, rest) = self.literals.split_first()?;
        self.literals = rest;
        Some(first.clone())
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        let mut at = 1;
        loop {
            match *self.text.get(at)? {
                b'"' => break,
                b'\\' => {
                    at += 1;
                    plain.push(*self.text.get(at)?);
                }
                byte => plain.push(byte),
            }
            at += 1;
        }
        self.take(at + 1);
        Some(plain)
    }

    fn list(&mut self) -> Option<&'t [u8]> {
        let whole = self.text;
        let mut depth = 0_usize;
        loop {
            match *self.text.first()? {
                b'(' => depth += 1,
                b')' => depth -= 1,
                0 => drop(self.literal()?),
                b'"' => {
                    self.quoted()?;
                    continue;
                }
                _ => {}
            }
            self.take(1);
            if depth == 0 {
                let bytes = whole.len() - self.text.len();
                return whole.get(1..bytes - 1);
            }
        }
    }
}

/// The first word, and the text after the following space.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

fn words(text: &[u8]) -> Vec<String> {
    let words = text.split(u8::is_ascii_whitespace);
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).to_ascii_uppercase())
        .collect()
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &[u8], literals: &[&[u8]]) -> Result<ImapResponse, ImapFault> {
        parse(RawResponse {
            line: line.to_vec(),
            literals: literals.iter().map(|l| Bytes::copy_from_slice(l)).collect(),
        })
    }

    fn news(line: &[u8]) -> Untagged {
        match read(line, &[b"mail"]).unwrap() {
            ImapResponse::Untagged(news) => news,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fetch_is_parsed_with_unknown_attributes() {
        let line = b"* 12 FETCH (FLAGS (\\Answered \\sEEN $x) X-ODD (a (\"b)\" (c)) d) UID 7 \
            INTERNALDATE \"17-Jul-1996 02:44:25 -0700\" RFC822.SIZE 4286 \
            BODY[HEADER.FIELDS (DATE FROM)] NIL ENVELOPE (\"\\\"\" NIL) BODY[] \0 MODSEQ (5))";
        let wanted = FetchData {
            uid: Some(7),
            size: Some(4286),
            seen: Some(true),
            arrived: Some(Timestamp::from_secs(837_596_665)),
            body: Some(Bytes::from_static(b"mail")),
        };
        assert_eq!(news(line), Untagged::Fetch(wanted));
        let Untagged::Fetch(bare) = news(b"* 1 FETCH (UID 9 FLAGS () BODY[] NIL)") else {
            panic!("no fetch");
        };
        assert_eq!(
            (bare.uid, bare.seen, bare.body),
            (Some(9), Some(false), None)
        );
    }

    #[test]
    fn a_truncated_fetch_is_refused() {
        for line in [
            &b"* 1 FETCH UID 7"[..],
            b"* 1 FETCH (UID 7",
            b"* 1 FETCH (UID",
            b"* 1 FETCH (FLAGS (a)",
            b"* 1 FETCH (X \"a)",
            b"* 1 FETCH (BODY[] \0 BODY[] \0)",
            b"* 1 FETCH (((((((((",
            b"* 1 FETCH (UID ))",
            b"nonsense",
            b"",
            b"\xff\xfe OK",
        ] {
            assert!(read(line, &[b"mail"]).is_err(), "{}", line.escape_ascii());
        }
        let deep = [
            &b"* 1 FETCH (X "[..],
            &b"(".repeat(60_000),
            &b")".repeat(60_001),
        ]
        .concat();
        assert!(read(&deep, &[]).is_ok());
    }

    #[test]
    fn statuses_have_codes() {
        let Untagged::Status(status) = news(b"* ok [UIDVALIDITY 385752904] UIDs valid\x1b") else {
            panic!("no status");
        };
        assert_eq!(status.code, ResponseCode::UidValidity(385_752_904));
        assert_eq!(status.text, "UIDs valid\\u{1b}");
        let done = read(b"a1 NO [TRYCREATE] No folder", &[]).unwrap();
        let ImapResponse::Tagged { tag, status } = done else {
            panic!("{done:?}");
        };
        assert_eq!((tag.as_str(), status.kind), ("a1", StatusKind::No));
        assert_eq!(status.code, ResponseCode::TryCreate);
        assert_eq!(news(b"* 23 EXISTS"), Untagged::Exists);
        assert_eq!(news(b"* 44 EXPUNGE"), Untagged::Other);
        assert_eq!(news(b"* SEARCH 1 2"), Untagged::Other);
        let words = vec!["IMAP4REV1".to_owned(), "IDLE".to_owned()];
        assert_eq!(
            news(b"* CAPABILITY IMAP4rev1 idle"),
            Untagged::Capability(words)
        );
        assert_eq!(read(b"+ idling", &[]).unwrap(), ImapResponse::Continuation);
        assert_eq!(read(b"+", &[]).unwrap(), ImapResponse::Continuation);
    }

    #[test]
    fn a_literal_in_an_atom_is_no_body() {
        let read = read(b"* 1 FETCH (X a\0 BODY[] \0 UID 1)", &[b"odd", b"mail"]);
        assert!(read.is_err(), "{read:?}");
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_panic(line in proptest::collection::vec(
            prop_oneof![Just("* 1 FETCH ("), Just("* OK ["), Just("("), Just(")"), Just("\""),
                Just("\\"), Just("\0"), Just(" "), Just("BODY["), Just("]"), Just("UID 5"),
                Just("INTERNALDATE \"1-"), Just("a1 ")], 0..40)) {
            let _ = read(line.concat().as_bytes(), &[b"a", b"b"]);
        }
    }
}
