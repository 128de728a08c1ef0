//! Owns the header of a mail as raw fields, for signatures over its bytes.
//!
//! Does not parse values; the parsed view does. A test proves that both see the same fields.

use std::ops::Range;

use crate::mail::mime;

/// The length of a field name, as in the view.
const NAME_BYTES_MAX: usize = 255;

/// The fields of a mail's header and the position of its body.
#[derive(Debug)]
pub(super) struct RawHeader<'a> {
    pub(super) fields: Vec<RawField<'a>>,
    /// Offset of the body.
    pub(super) body: usize,
    /// True if every line belongs to a field, so that no other program can find another field in it.
    pub(super) is_plain: bool,
    /// True if the first line is an mbox separator to the view, but a From field to other programs.
    pub(super) hides_from: bool,
}

/// A header field.
#[derive(Clone, Debug)]
pub(super) struct RawField<'a> {
    /// The name, unchanged.
    pub(super) name: &'a [u8],
    /// Everything after the colon, including folds and the line end.
    pub(super) value: &'a [u8],
    /// The position in the mail, including the line end.
    pub(super) span: Range<usize>,
}

impl RawField<'_> {
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl<'a> RawHeader<'a> {
    /// Reads the lines before the first empty one, within the bounds of the view.
    pub(super) fn read(mail: &'a [u8]) -> Self {
        let header = Self::scan(mail);
        if !mime::begins_without_header(header.fields.iter().map(|field| field.name)) {
            return header;
        }
        Self {
            fields: Vec::new(),
            is_plain: false,
            ..header
        }
    }

    fn scan(mail: &'a [u8]) -> Self {
        let is_mbox_line = mail.starts_with(b"From ") || mail.starts_with(b">From ");
        let start = if is_mbox_line { line_end(mail, 0) } else { 0 };
        let mut header = Self {
            fields: Vec::new(),
            body: mail.len(),
            is_plain: !is_mbox_line,
            hides_from: is_mbox_line && mail[b"From ".len()..].trim_ascii_start().starts_with(b":"),
        };
        let mut is_in_field = false;
        let mut at = start;
        while at < mail.len() {
            let next = line_end(mail, at);
            let line = &mail[at..next];
            if matches!(line, b"\n" | b"\r\n") {
                header.body = next;
                return header;
            }
            if matches!(line[0], b' ' | b'\t') && at > start {
                match header.fields.last_mut() {
                    Some(field) if is_in_field => field.extend_to(mail, next),
                    _ => header.is_plain = false,
                }
            } else if let Some(field) = RawField::begin(mail, at..next) {
                is_in_field = next <= start + mime::HEADER_BYTES_MAX
                    && header.fields.len() < mime::FIELDS_MAX;
                header.is_plain &= is_in_field && mail[field.span.start + field.name.len()] == b':';
                if is_in_field {
                    header.fields.push(field);
                }
            } else if header.fields.is_empty() {
                header.body = at;
                header.is_plain = false;
                return header;
            } else {
                is_in_field = false;
                header.is_plain = false;
            }
            at = next;
        }
        header
    }

    pub(super) fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = &RawField<'a>> {
        self.fields.iter().filter(move |field| field.is_named(name))
    }
}

impl<'a> RawField<'a> {
    fn begin(mail: &'a [u8], line: Range<usize>) -> Option<Self> {
        let text = &mail[line.clone()];
        let colon = text
            .iter()
            .take(NAME_BYTES_MAX + 1)
            .position(|&byte| byte == b':')?;
        let name = text[..colon].trim_ascii_end();
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        is_name.then_some(Self {
            name,
            value: &text[colon + 1..],
            span: line,
        })
    }

    fn extend_to(&mut self, mail: &'a [u8], end: usize) {
        let value_start = self.span.end - self.value.len();
        self.span.end = end;
        self.value = &mail[value_start..end];
    }
}

/// The offset of the line after the one at `at`.
fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(bytes.len(), |end| at + end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::view::HeaderView;

    #[test]
    fn fields_are_raw() {
        let mail = b"From: a\r\n b\r\nDKIM-Signature:x\r\n\r\nbody";
        let header = RawHeader::read(mail);
        assert_eq!(header.fields.len(), 2);
        assert_eq!(header.fields[0].name, b"From");
        assert_eq!(header.fields[0].value, b" a\r\n b\r\n");
        assert_eq!(header.fields[1].span, 13..31);
        assert_eq!(&mail[header.body..], b"body");
        assert!(header.is_plain);
    }

    #[test]
    fn ambiguous_headers_are_not_plain() {
        for mail in [
            "From x\r\nFrom: a\r\n\r\n",
            "From: a\r\njunk\r\nTo: b\r\n\r\n",
            "From : a\r\n\r\n",
            " folded\r\nFrom: a\r\n\r\n",
            "just text",
        ] {
            assert!(!RawHeader::read(mail.as_bytes()).is_plain, "{mail}");
        }
    }

    proptest! {
        #[test]
        fn the_view_sees_the_same_fields(
            mail in "((From|Sender|A-B|x y|From |é)?:?[ \t]?(a@b|\\PC{0,6})(\r\n|\n|\r\n |\n\t)){0,12}(\r\n)?x?"
        ) {
            let view = HeaderView::parse(mail.as_bytes());
            let seen: Vec<_> = view.fields().iter().map(|field| field.name.clone()).collect();
            let header = RawHeader::read(mail.as_bytes());
            let raw: Vec<_> = header
                .fields
                .iter()
                .map(|field| String::from_utf8_lossy(field.name).into_owned())
                .collect();
            prop_assert_eq!(raw, seen);
            for (field, value) in header.fields.iter().zip(view.fields()) {
                let text: Vec<u8> = field
                    .value
                    .iter()
                    .copied()
                    .filter(|byte| !b"\r\n".contains(byte))
                    .collect();
                prop_assert_eq!(
                    String::from_utf8_lossy(text.trim_ascii()).into_owned(),
                    value.value.clone()
                );
            }
        }
    }
}
