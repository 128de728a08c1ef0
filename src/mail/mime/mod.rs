//! Owns the structure of a mail: the positions of header fields and MIME parts, found in one pass with
//! bounds on depth, parts, fields and sizes.
//!
//! Does not decode anything, and never opens an attached mail: a `message/rfc822` part is bytes. So no
//! nesting can make a parser recurse, however it is encoded.

mod content;
mod encoded_words;
mod fields;

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use content::PartContent;
pub(super) use content::TransferEncoding;
pub(super) use encoded_words::first_charset;
pub use fields::begins_without_header;
pub(super) use fields::{FieldSpan, HeaderBlock, parser_input, unfolded};

/// The depth of nested multiparts that are opened.
pub const DEPTH_MAX: usize = 32;
/// The number of parts that are found, including multiparts.
pub const PARTS_MAX: usize = 1_000;
/// Octets of a mail's header block that are read.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;
/// The number of fields of a mail's header that are read.
pub const FIELDS_MAX: usize = 1_000;
/// Octets of one header field that are read.
pub const FIELD_BYTES_MAX: usize = 32 * 1024;
/// The number of encoded words (RFC 2047) of one header field that are read.
pub const ENCODED_WORDS_MAX: usize = 200;
/// The number of parameters of one header field that are read, including continuations (RFC 2231 section
/// 3).
pub const PARAMETERS_MAX: usize = 100;

/// The length of a boundary. RFC 2046 section 5.1.1 allows 70; some programs send more.
const BOUNDARY_BYTES_MAX: usize = 255;

/// A bound that a mail exceeds. Content beyond the bound was not read; the raw mail has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// A header field has more than [`FIELD_BYTES_MAX`] octets.
    FieldTooLong,
    /// The header block has more than [`HEADER_BYTES_MAX`] octets.
    HeaderTooLong,
    /// The text or HTML body was too long and was cut.
    TextCut,
    /// Multiparts are nested deeper than [`DEPTH_MAX`]; the deeper ones become attachments.
    TooDeep,
    /// An address field has too many addresses, and the list was cut.
    TooManyAddresses,
    /// A header field has more than [`ENCODED_WORDS_MAX`] encoded words.
    TooManyEncodedWords,
    /// The header has more than [`FIELDS_MAX`] fields.
    TooManyFields,
    /// A header field has more than [`PARAMETERS_MAX`] parameters.
    TooManyParameters,
    /// There are more than [`PARTS_MAX`] parts.
    TooManyParts,
}

impl Flag {
    /// The name in the Messages API and the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FieldTooLong => "field_too_long",
            Self::HeaderTooLong => "header_too_long",
            Self::TextCut => "text_cut",
            Self::TooDeep => "too_deep",
            Self::TooManyAddresses => "too_many_addresses",
            Self::TooManyEncodedWords => "too_many_encoded_words",
            Self::TooManyFields => "too_many_fields",
            Self::TooManyParameters => "too_many_parameters",
            Self::TooManyParts => "too_many_parts",
        }
    }

    /// True if content was left out that only the raw mail has.
    pub(super) const fn needs_raw_mail(self) -> bool {
        matches!(
            self,
            Self::FieldTooLong | Self::HeaderTooLong | Self::TooManyFields | Self::TooManyParts
        )
    }
}

/// The positions of header fields and parts in a mail.
#[derive(Debug)]
pub(super) struct MailStructure {
    /// The mail's own header.
    pub(super) header: HeaderBlock,
    /// All parts in the order of the mail; the first is the mail's whole body.
    pub(super) parts: Vec<PartSpan>,
    pub(super) flags: BTreeSet<Flag>,
}

/// The position of one part, and the description in its header.
#[derive(Debug)]
pub(super) struct PartSpan {
    pub(super) content: PartContent,
    /// The body, without the line end that belongs to the following delimiter.
    pub(super) body: Range<usize>,
    /// The enclosing multipart: an index into the parts.
    pub(super) parent: Option<usize>,
}

impl MailStructure {
    pub(super) fn of(mail: &[u8]) -> Self {
        Self::below(mail, HeaderBlock::of_mail(mail))
    }

    /// The structure of one MIME entity: the header of a part, and its body.
    pub(super) fn of_entity(entity: &[u8]) -> Self {
        Self::below(entity, HeaderBlock::of_part(entity, 0))
    }

    /// The structure of a multipart with this content and this whole body. Its first part is the multipart
    /// itself.
    pub(super) fn of_multipart(content: &PartContent, body: &[u8]) -> Self {
        let mut flags = BTreeSet::new();
        let mut walk = MimeWalk::over(body);
        walk.enter_part(content.clone(), 0, &mut flags);
        walk.run(0, &mut flags);
        Self {
            header: HeaderBlock::default(),
            parts: walk.parts,
            flags,
        }
    }

    fn below(mail: &[u8], header: HeaderBlock) -> Self {
        let mut flags = header.flags.clone();
        let mut walk = MimeWalk::over(mail);
        walk.enter(&header, &mut flags);
        walk.run(header.end, &mut flags);
        Self {
            header,
            parts: walk.parts,
            flags,
        }
    }
}

/// One pass over the lines of a mail, with the multiparts that are open at the current line.
struct MimeWalk<'a> {
    mail: &'a [u8],
    parts: Vec<PartSpan>,
    /// The open multiparts, innermost last. Bounded by [`DEPTH_MAX`].
    open: Vec<OpenMultipart>,
    /// The part whose body contains the current line; `None` in a preamble or an epilogue.
    leaf: Option<usize>,
}

struct OpenMultipart {
    part: usize,
    boundary: String,
}

impl<'a> MimeWalk<'a> {
    const fn over(mail: &'a [u8]) -> Self {
        Self {
            mail,
            parts: Vec::new(),
            open: Vec::new(),
            leaf: None,
        }
    }

    fn run(&mut self, start: usize, flags: &mut BTreeSet<Flag>) {
        let mut at = start;
        while at < self.mail.len() {
            let next = next_line(self.mail, at);
            let Some((level, closes)) = self.delimiter(&self.mail[at..next]) else {
                at = next;
                continue;
            };
            self.end_parts(level, at);
            at = next;
            if closes {
                self.open.truncate(level);
                continue;
            }
            if self.parts.len() == PARTS_MAX {
                flags.insert(Flag::TooManyParts);
                return;
            }
            let header = HeaderBlock::of_part(self.mail, at);
            at = header.end;
            self.enter(&header, flags);
        }
    }

    /// Begins the part whose header was just read.
    fn enter(&mut self, header: &HeaderBlock, flags: &mut BTreeSet<Flag>) {
        let parent = self.open.last().map(|multipart| multipart.part);
        let in_digest = parent
            .is_some_and(|parent| self.parts[parent].content.media_type == "multipart/digest");
        let content = PartContent::read(self.mail, header, in_digest, flags);
        self.enter_part(content, header.end, flags);
    }

    fn enter_part(&mut self, content: PartContent, start: usize, flags: &mut BTreeSet<Flag>) {
        let parent = self.open.last().map(|multipart| multipart.part);
        let part = self.parts.len();
        let boundary = content
            .is_multipart()
            .then(|| content.parameter("boundary"))
            .flatten()
            .filter(|boundary| (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()));
        let deep = self.open.len() == DEPTH_MAX;
        if deep && boundary.is_some() {
            flags.insert(Flag::TooDeep);
        }
        self.leaf = Some(part);
        if let Some(boundary) = boundary.filter(|_| !deep) {
            // Trailing spaces are not part of a boundary (RFC 2046 section 5.1.1).
            let boundary = boundary.trim_end().to_owned();
            self.open.push(OpenMultipart { part, boundary });
            self.leaf = None;
        }
        self.parts.push(PartSpan {
            content,
            body: start..self.mail.len(),
            parent,
        });
    }

    /// The open multipart whose delimiter is this line, and whether the line closes it. The innermost is
    /// tried first; an outer delimiter ends all multiparts within (RFC 2046 section 5.1.2).
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let line = line.strip_prefix(b"--")?.trim_ascii_end();
        self.open
            .iter()
            .enumerate()
            .rev()
            .find_map(|(level, multipart)| {
                match line.strip_prefix(multipart.boundary.as_bytes())? {
                    b"" => Some((level, false)),
                    b"--" => Some((level, true)),
                    _ => None,
                }
            })
    }

    /// Ends the current part and the multiparts within `level` before the delimiter at `at`.
    fn end_parts(&mut self, level: usize, at: usize) {
        let mut end = at;
        for byte in [b'\n', b'\r'] {
            if end > 0 && self.mail[end - 1] == byte {
                end -= 1;
            }
        }
        let within = self.open.drain(level + 1..).map(|multipart| multipart.part);
        for part in within.chain(self.leaf.take()) {
            let body = &mut self.parts[part].body;
            body.end = end.max(body.start);
        }
    }
}

/// The offset of the line after the one at `at`.
fn next_line(bytes: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1)
}

#[cfg(test)]
mod tests;
