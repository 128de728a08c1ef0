//! Owns the division of a header block into fields.
//!
//! Does not read their values.

use std::collections::BTreeSet;
use std::ops::Range;

use super::encoded_words;
use super::{
    ENCODED_WORDS_MAX, FIELD_BYTES_MAX, FIELDS_MAX, Flag, HEADER_BYTES_MAX, PARAMETERS_MAX,
    next_line,
};

/// Octets of a part's header that are read; only the description of the part matters.
const PART_HEADER_BYTES_MAX: usize = 64 * 1024;
/// The number of fields of a part's header that are read.
const PART_FIELDS_MAX: usize = 100;
/// The length of a field name: RFC 5322 section 2.1.1 does not allow a longer one on a line with its value.
const NAME_BYTES_MAX: usize = 255;

/// A block of more fields is a header, whatever their names.
const PROSE_FIELDS_MAX: usize = 50;
/// Field names of which a mail header has at least one.
const NAMES: [&[u8]; 21] = [
    b"from",
    b"to",
    b"cc",
    b"bcc",
    b"date",
    b"subject",
    b"sender",
    b"reply-to",
    b"received",
    b"return-path",
    b"message-id",
    b"in-reply-to",
    b"references",
    b"mime-version",
    b"delivered-to",
    b"envelope-to",
    b"auto-submitted",
    b"precedence",
    b"user-agent",
    b"organization",
    b"newsgroups",
];
/// Prefixes of further such names.
const PREFIXES: [&[u8]; 9] = [
    b"x-",
    b"content-",
    b"list-",
    b"resent-",
    b"arc-",
    b"dkim-",
    b"authentication-",
    b"received-",
    b"thread-",
];

/// True if a mail that begins with fields of these names has no header at all: "Thanks :-)" and "One: this
/// is what I have." look like fields, but are a person's words.
pub fn begins_without_header<'a>(mut names: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
    let is_known = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        NAMES.contains(&name.as_slice()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    names.len() <= PROSE_FIELDS_MAX && !names.any(is_known)
}

/// The fields of a header block.
#[derive(Debug, Default)]
pub(in crate::mail) struct HeaderBlock {
    pub(in crate::mail) fields: Vec<FieldSpan>,
    /// Offset of the body.
    pub(in crate::mail) end: usize,
    pub(in crate::mail) flags: BTreeSet<Flag>,
}

/// The position of a field: its name, and its value with the folds.
#[derive(Debug)]
pub(in crate::mail) struct FieldSpan {
    pub(in crate::mail) name: Range<usize>,
    pub(in crate::mail) value: Range<usize>,
}

struct HeaderBounds {
    /// The offset at which the last line must end.
    end_max: usize,
    fields_max: usize,
    /// True if the header continues after a line that is not a field. A mail's header does, because broken
    /// programs write such lines. A part's header ends there, because the line may be a delimiter.
    skips_junk: bool,
}

impl HeaderBlock {
    /// The header of a whole mail. A text that does not begin with a field, or has only fields that mail
    /// does not have, has no header.
    pub(in crate::mail) fn of_mail(mail: &[u8]) -> Self {
        let is_mbox_line = mail.starts_with(b"From ") || mail.starts_with(b">From ");
        let start = if is_mbox_line { next_line(mail, 0) } else { 0 };
        let bounds = HeaderBounds {
            end_max: start + HEADER_BYTES_MAX,
            fields_max: FIELDS_MAX,
            skips_junk: true,
        };
        let block = Self::read(mail, start, &bounds);
        if block.flags.is_empty()
            && begins_without_header(block.fields.iter().map(|field| &mail[field.name.clone()]))
        {
            return Self {
                fields: Vec::new(),
                end: start,
                flags: BTreeSet::new(),
            };
        }
        block
    }

    pub(super) fn of_part(mail: &[u8], start: usize) -> Self {
        let bounds = HeaderBounds {
            end_max: start + PART_HEADER_BYTES_MAX,
            fields_max: PART_FIELDS_MAX,
            skips_junk: false,
        };
        Self::read(mail, start, &bounds)
    }

    fn read(mail: &[u8], start: usize, bounds: &HeaderBounds) -> Self {
        let mut block = Self {
            fields: Vec::new(),
            end: mail.len(),
            flags: BTreeSet::new(),
        };
        let mut at = start;
        let mut is_in_field = false;
        while at < mail.len() {
            let next = next_line(mail, at);
            let line = &mail[at..next];
            if matches!(line, b"\n" | b"\r\n") {
                block.end = next;
                return block;
            }
            if matches!(line[0], b' ' | b'\t') && at > start {
                if let (true, Some(field)) = (is_in_field, block.fields.last_mut()) {
                    field.value.end = next;
                }
            } else if let Some(name_bytes) = name_of(line) {
                is_in_field = block.add(mail, at..next, name_bytes, bounds);
            } else if block.fields.is_empty() || !bounds.skips_junk {
                block.end = at;
                return block;
            } else {
                is_in_field = false;
            }
            at = next;
        }
        block
    }

    /// Adds the field that begins with this line, unless a bound forbids it.
    fn add(
        &mut self,
        mail: &[u8],
        line: Range<usize>,
        name_bytes: usize,
        bounds: &HeaderBounds,
    ) -> bool {
        if line.end > bounds.end_max {
            self.flags.insert(Flag::HeaderTooLong);
            return false;
        }
        if self.fields.len() == bounds.fields_max {
            self.flags.insert(Flag::TooManyFields);
            return false;
        }
        let colon = line.start
            + mail[line.clone()]
                .iter()
                .take_while(|&&b| b != b':')
                .count();
        self.fields.push(FieldSpan {
            name: line.start..line.start + name_bytes,
            value: colon + 1..line.end,
        });
        true
    }
}

impl FieldSpan {
    pub(in crate::mail) fn is_named(&self, mail: &[u8], name: &str) -> bool {
        mail[self.name.clone()].eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value with its folds, cut at [`FIELD_BYTES_MAX`].
    pub(in crate::mail) fn raw<'a>(&self, mail: &'a [u8], flags: &mut BTreeSet<Flag>) -> &'a [u8] {
        let value = &mail[self.value.clone()];
        if value.len() <= FIELD_BYTES_MAX {
            return value;
        }
        flags.insert(Flag::FieldTooLong);
        &value[..FIELD_BYTES_MAX]
    }
}

/// The length in octets of the field name that begins a line. RFC 5322 section 4.5 allows white space
/// before the colon.
fn name_of(line: &[u8]) -> Option<usize> {
    let colon = line
        .iter()
        .take(NAME_BYTES_MAX + 1)
        .position(|&b| b == b':')?;
    let name = line[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name.len())
}

/// The value on one line, unfolded (RFC 5322 section 2.2.3), without space around it.
pub(in crate::mail) fn unfolded(value: &[u8]) -> String {
    let line: Vec<u8> = value
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    String::from_utf8_lossy(line.trim_ascii()).into_owned()
}

/// The value in the form that the parser needs: in UTF-8, with a line end, and cut at the bounds of encoded
/// words and parameters, because these take the parser more than linear time. `hint` is the charset of the
/// rest of the mail.
pub(in crate::mail) fn parser_input(
    value: &[u8],
    hint: Option<&str>,
    flags: &mut BTreeSet<Flag>,
) -> Vec<u8> {
    let mut end = value.len();
    let mut words = value.windows(2).enumerate().filter(|(_, two)| two == b"=?");
    if let Some((at, _)) = words.nth(ENCODED_WORDS_MAX) {
        flags.insert(Flag::TooManyEncodedWords);
        end = at;
    }
    let mut parameters = value[..end]
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b';');
    if let Some((at, _)) = parameters.nth(PARAMETERS_MAX) {
        flags.insert(Flag::TooManyParameters);
        end = at;
    }
    let mut input = encoded_words::normalised(value[..end].trim_ascii_end(), hint);
    input.push(b'\n');
    input
}
