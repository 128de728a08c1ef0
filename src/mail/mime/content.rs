//! Owns the description of a part in its header: type, encoding, disposition.
//!
//! Does not read the content.

use std::borrow::Cow;
use std::collections::BTreeSet;

use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType, HeaderValue};

use super::{FieldSpan, Flag, HeaderBlock, parser_input, unfolded};
use crate::mail::text::bare_message_id;

/// The content of a part, as its header describes it (RFC 2045, RFC 2183).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartContent {
    /// Type and subtype, lower-cased: `text/plain`.
    pub media_type: String,
    /// True for `Content-Disposition: attachment`.
    pub is_attachment: bool,
    /// True for `Content-Disposition: inline`.
    pub is_inline: bool,
    /// The unchanged file name, from Content-Disposition or else Content-Type.
    pub raw_filename: Option<String>,
    /// Content-ID without its angle brackets.
    pub content_id: Option<String>,
    pub(in crate::mail) encoding: TransferEncoding,
    /// The parameters, with lower-cased names.
    parameters: Vec<(String, String)>,
}

/// The transfer encoding of a part (RFC 2045 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mail) enum TransferEncoding {
    Base64,
    /// Base64 of a text part. Plain text of one word can consist of its alphabet too.
    Base64Text,
    /// `7bit`, `8bit`, `binary`, no encoding, or an unknown one.
    Identity,
    QuotedPrintable,
    /// `x-uuencode` and its other names.
    Uuencode,
}

impl PartContent {
    /// The content of a mail that is attached unchanged.
    pub(in crate::mail) fn raw_mail() -> Self {
        Self::file("message/rfc822", Some("message.eml".to_owned()))
    }

    /// The content of a file that was within a part, already decoded.
    pub(in crate::mail) fn file(media_type: &str, raw_filename: Option<String>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            is_attachment: true,
            is_inline: false,
            raw_filename,
            content_id: None,
            parameters: Vec::new(),
            encoding: TransferEncoding::Identity,
        }
    }

    /// The same content for a body that is decoded already and is no file.
    pub(in crate::mail) fn into_decoded_text(self) -> Self {
        Self {
            raw_filename: None,
            is_attachment: false,
            encoding: TransferEncoding::Identity,
            ..self
        }
    }

    /// The content of a text that was within a part, already decoded; the text is UTF-8.
    pub(in crate::mail) fn text(media_type: &str) -> Self {
        Self {
            is_attachment: false,
            parameters: vec![("charset".to_owned(), "utf-8".to_owned())],
            ..Self::file(media_type, None)
        }
    }

    /// A parameter of Content-Type, by its lower-cased name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// True for every `multipart/*`.
    pub fn is_multipart(&self) -> bool {
        self.media_type.starts_with("multipart/")
    }

    /// True if the part is meant to be a file: it has a name, or is an attachment.
    pub fn is_file(&self) -> bool {
        self.is_attachment || self.raw_filename.is_some()
    }

    /// True if this is text of a subtype that is neither plain nor HTML, and whose files no program opens:
    /// such text is read as plain (RFC 2046 section 4.1.4).
    pub fn is_other_text(&self) -> bool {
        const FILES: [&str; 14] = [
            "plain",
            "html",
            "calendar",
            "x-vcalendar",
            "csv",
            "tab-separated-values",
            "vcard",
            "x-vcard",
            "directory",
            "css",
            "javascript",
            "xml",
            "rfc822-headers",
            "rfc822-header",
        ];
        let subtype = self.media_type.strip_prefix("text/");
        subtype.is_some_and(|subtype| !FILES.contains(&subtype))
    }

    /// Reads the fields that describe a part. The first of two equal fields counts. In a `multipart/digest`
    /// a part is a mail unless it declares another type (RFC 2046 section 5.1.5).
    pub(in crate::mail) fn read(
        mail: &[u8],
        header: &HeaderBlock,
        in_digest: bool,
        flags: &mut BTreeSet<Flag>,
    ) -> Self {
        let field = |name: &str| {
            header
                .fields
                .iter()
                .find(|field| field.is_named(mail, name))
        };
        let parsed = |name: &str, flags: &mut BTreeSet<Flag>| {
            let input = parser_input(field(name)?.raw(mail, flags), None, flags);
            typed(&shielded(input))
        };
        let line = |name: &str, flags: &mut BTreeSet<Flag>| {
            field(name).map(|field: &FieldSpan| unfolded(field.raw(mail, flags)))
        };
        let content_type = parsed("Content-Type", flags);
        let disposition = parsed("Content-Disposition", flags);
        let encoding = line("Content-Transfer-Encoding", flags);
        let media_type = media_type(content_type.as_ref(), in_digest);
        let filename = |of: &Option<ContentType<'static>>, name: &str| {
            of.as_ref()
                .and_then(|of| of.attribute(name))
                .map(str::to_owned)
        };
        let disposition_is = |word: &str| {
            disposition
                .as_ref()
                .is_some_and(|disposition| disposition.c_type.eq_ignore_ascii_case(word))
        };
        // Some senders write the file's name nowhere else. A text with a name would count as a file.
        let has_kind = media_type.starts_with("text/") || media_type.starts_with("m");
        let described = line("Content-Description", flags)
            .or_else(|| line("Content-Location", flags))
            .filter(|name| !has_kind && looks_like_file(name));
        Self {
            raw_filename: filename(&disposition, "filename")
                .or_else(|| filename(&content_type, "name"))
                .filter(|name| !name.is_empty())
                .or(described),
            is_attachment: disposition_is("attachment"),
            is_inline: disposition_is("inline"),
            content_id: line("Content-ID", flags)
                .map(|id| bare_message_id(&id).to_owned())
                .filter(|id| !id.is_empty()),
            encoding: TransferEncoding::of(
                encoding.as_deref().unwrap_or_default(),
                media_type.starts_with("text/"),
            ),
            media_type,
            parameters: content_type.map(parameters).unwrap_or_default(),
        }
    }
}

impl TransferEncoding {
    fn of(value: &str, is_text: bool) -> Self {
        // Some programs write `quoted printable`, some a trailing semicolon.
        let letters = value.chars().filter(char::is_ascii_alphanumeric);
        match letters.collect::<String>().to_ascii_lowercase().as_str() {
            "base64" if is_text => Self::Base64Text,
            "base64" => Self::Base64,
            "quotedprintable" => Self::QuotedPrintable,
            "xuuencode" | "uuencode" | "xuue" | "uue" | "xuu" => Self::Uuencode,
            _ => Self::Identity,
        }
    }
}

/// The field with the parentheses in unquoted file names escaped: programs write `filename=a (1).pdf` and
/// `filename*=utf-8''a(1).pdf`, and the parser would read them as comments and lose the rest of the name.
fn shielded(input: Vec<u8>) -> Vec<u8> {
    if !input.contains(&b'(') {
        return input;
    }
    let mut out = Vec::with_capacity(input.len() + 16);
    let mut is_quoted = false;
    let mut is_escaped = false;
    let parameters = input.split(|byte| {
        let ends = *byte == b';' && !is_quoted;
        is_quoted ^= *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    for (at, parameter) in parameters.enumerate() {
        if at > 0 {
            out.push(b';');
        }
        shield(parameter, &mut out);
    }
    out
}

fn shield(parameter: &[u8], out: &mut Vec<u8>) {
    let equals = parameter.iter().position(|byte| *byte == b'=');
    let Some((name, value)) = equals.map(|at| parameter.split_at(at + 1)) else {
        out.extend_from_slice(parameter);
        return;
    };
    let label = name.trim_ascii().to_ascii_lowercase();
    let is_name = label.starts_with(b"filename") || label.starts_with(b"name");
    let bare = value.trim_ascii();
    if !is_name || bare.starts_with(b"\"") || is_commented(bare) || bare.contains(&b'"') {
        out.extend_from_slice(parameter);
        return;
    }
    out.extend_from_slice(name);
    if label.ends_with(b"*=") {
        for byte in bare {
            match byte {
                b'(' => out.extend_from_slice(b"%28"),
                b')' => out.extend_from_slice(b"%29"),
                byte => out.push(*byte),
            }
        }
    } else if bare.contains(&b'(') {
        out.push(b'"');
        out.extend_from_slice(bare);
        out.push(b'"');
    } else {
        out.extend_from_slice(value);
    }
    if parameter.ends_with(b"\n") {
        out.push(b'\n');
    }
}

/// True if the name is one short line with the ending of a file name.
fn looks_like_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, ending)| {
        !stem.is_empty()
            && !name.contains(['/', '\\', '<', '='])
            && name.len() <= 120
            && (2..=5).contains(&ending.len())
            && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// True if the value is a name with its ending, followed by a comment: `a.txt (the file)`.
fn is_commented(value: &[u8]) -> bool {
    let Some(open) = value.iter().position(|byte| *byte == b'(') else {
        return false;
    };
    let name = value[..open].trim_ascii_end();
    let ending = name.iter().rev().position(|byte| *byte == b'.');
    name.len() < open
        && value.ends_with(b")")
        && ending.is_some_and(|letters| (1..=5).contains(&letters))
}

fn typed(input: &[u8]) -> Option<ContentType<'static>> {
    match MessageStream::new(input).parse_content_type() {
        HeaderValue::ContentType(value) => HeaderValue::ContentType(value)
            .into_owned()
            .into_content_type(),
        _ => None,
    }
}

/// Type and subtype. A type without a subtype is text (RFC 2045 section 5.2), as is a missing type.
fn media_type(content_type: Option<&ContentType<'_>>, in_digest: bool) -> String {
    let Some(content_type) = content_type else {
        let default = if in_digest {
            "message/rfc822"
        } else {
            "text/plain"
        };
        return default.to_owned();
    };
    match content_type.subtype() {
        Some(subtype) => format!("{}/{subtype}", content_type.ctype()).to_ascii_lowercase(),
        None if content_type.ctype().eq_ignore_ascii_case("multipart") => "multipart/mixed".into(),
        None => "text/plain".to_owned(),
    }
}

fn parameters(content_type: ContentType<'_>) -> Vec<(String, String)> {
    let owned = |text: Cow<'_, str>| text.into_owned();
    content_type
        .attributes
        .unwrap_or_default()
        .into_iter()
        .map(|attribute| (attribute.name.to_ascii_lowercase(), owned(attribute.value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filename(field: &str) -> Option<String> {
        let mail = format!("Content-Disposition: attachment; {field}\n\n");
        let header = HeaderBlock::of_part(mail.as_bytes(), 0);
        let mut flags = BTreeSet::new();
        PartContent::read(mail.as_bytes(), &header, false, &mut flags).raw_filename
    }

    #[test]
    fn parentheses_stay_in_file_names() {
        for (field, name) in [
            ("filename=Rechnung (1).pdf", "Rechnung (1).pdf"),
            (
                "filename*=UTF-8''devis%20(copie).pdf; size=5",
                "devis (copie).pdf",
            ),
            (
                "filename*0*=utf-8''%E8%AB%8B(; filename*1*=2).pdf",
                "請(2).pdf",
            ),
            ("filename=\"a (b; c).pdf\"", "a (b; c).pdf"),
            ("filename=a.pdf (the file)", "a.pdf"),
            ("filename=a.pdf", "a.pdf"),
            ("size=5 (octets); filename=b.pdf", "b.pdf"),
        ] {
            assert_eq!(filename(field).as_deref(), Some(name), "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_field_panics(field in "(filename|name|\\*|\\*0|=|;|\\(|\\)|\"|\\\\|a| |é|''|%28){0,40}") {
            let _ = filename(&field);
            let plain = field.replace('(', "x").into_bytes();
            prop_assert_eq!(shielded(plain.clone()), plain);
        }
    }
}
