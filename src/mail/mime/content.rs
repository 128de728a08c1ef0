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
    /// `7bit`, `8bit`, `binary`, no encoding, or an unknown one.
    Identity,
    QuotedPrintable,
}

impl PartContent {
    /// The content of a mail that is attached unchanged.
    pub(in crate::mail) fn raw_mail() -> Self {
        Self {
            media_type: "message/rfc822".to_owned(),
            is_attachment: true,
            is_inline: false,
            raw_filename: Some("message.eml".to_owned()),
            content_id: None,
            parameters: Vec::new(),
            encoding: TransferEncoding::Identity,
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
            typed(&parser_input(field(name)?.raw(mail, flags), None, flags))
        };
        let line = |name: &str, flags: &mut BTreeSet<Flag>| {
            field(name).map(|field: &FieldSpan| unfolded(field.raw(mail, flags)))
        };
        let content_type = parsed("Content-Type", flags);
        let disposition = parsed("Content-Disposition", flags);
        let encoding = line("Content-Transfer-Encoding", flags);
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
        Self {
            raw_filename: filename(&disposition, "filename")
                .or_else(|| filename(&content_type, "name"))
                .filter(|name| !name.is_empty()),
            is_attachment: disposition_is("attachment"),
            is_inline: disposition_is("inline"),
            content_id: line("Content-ID", flags)
                .map(|id| bare_message_id(&id).to_owned())
                .filter(|id| !id.is_empty()),
            encoding: TransferEncoding::of(encoding.as_deref().unwrap_or_default()),
            media_type: media_type(content_type.as_ref(), in_digest),
            parameters: content_type.map(parameters).unwrap_or_default(),
        }
    }
}

impl TransferEncoding {
    fn of(value: &str) -> Self {
        // Some programs write `quoted printable`, some a trailing semicolon.
        let letters = value.chars().filter(char::is_ascii_alphanumeric);
        match letters.collect::<String>().to_ascii_lowercase().as_str() {
            "base64" => Self::Base64,
            "quotedprintable" => Self::QuotedPrintable,
            _ => Self::Identity,
        }
    }
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
