//! Owns the body of an outgoing mail: its MIME parts and their encodings.
//!
//! Does not write the header above the first Content-Type.

use std::borrow::Cow;

use lettre::message::header::{ContentDisposition, ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, SinglePart};

use super::header::HeaderText;
use super::{FILENAME_CHARS_MAX, OutgoingAttachment, OutgoingMail, SHORT_BYTES_MAX};
use crate::mail::address::Domain;
use crate::mail::redact;

/// Boundaries that cannot occur in an encoded body: there `=` is followed by two hex digits or a line end,
/// and never by `_`.
const MIXED_BOUNDARY: &str = "=_postern_mixed_=";
const ALTERNATIVE_BOUNDARY: &str = "=_postern_alternative_=";
const MEDIA_TYPE_BYTES_MAX: usize = 100;
const DEFAULT_MEDIA_TYPE: &str = "application/octet-stream";

/// Appends the parts to a header: the two alternatives of the text, then the attachments.
pub(super) fn write_parts(out: &mut Vec<u8>, plain: &str, html: &str, letter: &OutgoingMail) {
    let forms = MultiPart::alternative()
        .boundary(ALTERNATIVE_BOUNDARY)
        .singlepart(text_part(ContentType::TEXT_PLAIN, plain))
        .singlepart(text_part(ContentType::TEXT_HTML, html));
    let whole = if letter.attachments.is_empty() {
        forms
    } else {
        let mixed = MultiPart::mixed().boundary(MIXED_BOUNDARY).multipart(forms);
        letter.attachments.iter().fold(mixed, |mixed, file| {
            mixed.singlepart(file_part(file, &letter.reply_domains))
        })
    };
    out.extend(whole.formatted());
}

/// A text part, which is always encoded: so no line is too long, begins with a dot or `From `, or ends the
/// part.
fn text_part(kind: ContentType, text: &str) -> SinglePart {
    let mut lines = String::with_capacity(text.len() + text.len() / 16);
    for line in text.lines() {
        lines.push_str(line);
        lines.push_str("\r\n");
    }
    let foreign = lines.bytes().filter(|b| !b.is_ascii()).count();
    let encoding = if foreign * 4 > lines.len() {
        ContentTransferEncoding::Base64
    } else {
        ContentTransferEncoding::QuotedPrintable
    };
    part(kind, encoding, lines.into_bytes())
}

fn file_part(file: &OutgoingAttachment, domains: &[Domain]) -> SinglePart {
    let kind = media_type(&file.content_type);
    let name = filename(file, domains);
    let bytes = without_tokens(&file.bytes, domains);
    let encoded = encoded(ContentTransferEncoding::Base64, bytes.into_owned());
    SinglePart::builder()
        .header(kind)
        .header(ContentDisposition::attachment(&name))
        .body(encoded)
}

fn part(kind: ContentType, encoding: ContentTransferEncoding, bytes: Vec<u8>) -> SinglePart {
    SinglePart::builder()
        .header(kind)
        .body(encoded(encoding, bytes))
}

fn encoded(encoding: ContentTransferEncoding, bytes: Vec<u8>) -> Body {
    // Both encodings accept any bytes.
    Body::new_with_encoding(bytes, encoding)
        .unwrap_or_else(|bytes| Body::dangerous_pre_encoded(base64(&bytes), encoding))
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    data_encoding::BASE64_MIME.encode(bytes).into_bytes()
}

/// A file without reply addresses, if it is text: a mail or a page saved as a file may contain them. Other
/// files stay unchanged.
fn without_tokens<'f>(bytes: &'f [u8], domains: &[Domain]) -> Cow<'f, [u8]> {
    let is_binary = memchr::memchr(0, bytes).is_some();
    if is_binary {
        return Cow::Borrowed(bytes);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        return match redact::reply_addresses(text, domains) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
    }
    // Text of another charset: each octet is mapped to the character of its number, and back.
    let text: String = bytes.iter().copied().map(char::from).collect();
    match redact::reply_addresses(&text, domains) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => {
            let octets = text.chars().map(|c| u8::try_from(c).unwrap_or(b'?'));
            Cow::Owned(octets.collect())
        }
    }
}

/// The media type without parameters. Mails and multiparts may not be encoded (RFC 2046 section
/// 5.2.1), so they are sent as plain files.
fn media_type(text: &str) -> ContentType {
    let text = text.split(';').next().unwrap_or_default().trim();
    let text = text.to_ascii_lowercase();
    let is_token = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let fits = text.len() <= MEDIA_TYPE_BYTES_MAX
        && text.split_once('/').is_some_and(|(kind, subtype)| {
            is_token(kind) && is_token(subtype) && !["multipart", "message"].contains(&kind)
        });
    let parsed = fits.then(|| ContentType::parse(&text).ok()).flatten();
    parsed
        .or_else(|| ContentType::parse(DEFAULT_MEDIA_TYPE).ok())
        .unwrap_or(ContentType::TEXT_PLAIN)
}

/// The file name without a path, control characters, tokens and direction controls; `file` if
/// nothing is left of it.
pub(super) fn filename(file: &OutgoingAttachment, domains: &[Domain]) -> String {
    let last = file.filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let looked_at = &last[..last.floor_char_boundary(SHORT_BYTES_MAX)];
    // Characters that are left out here could hide a token, and so could a cut.
    let name: String = looked_at.chars().filter(|c| !is_left_out(*c)).collect();
    let name = redact::reply_addresses_in_name(&name, domains);
    let name = HeaderText::cleaned(&name, FILENAME_CHARS_MAX * 4);
    let name = name.as_str();
    let name = name.trim().trim_matches('.');
    if name.is_empty() {
        return "file".to_owned();
    }
    if name.chars().count() <= FILENAME_CHARS_MAX {
        return name.to_owned();
    }
    // The extension shows the type, so a name is cut before it.
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let ending: String = ending.chars().take(10).collect();
    let stem: String = stem.chars().take(FILENAME_CHARS_MAX - 11).collect();
    format!("{stem}.{ending}").trim_end_matches('.').to_owned()
}

/// True if file systems reject the character in a name, or it changes the writing direction.
const fn is_left_out(c: char) -> bool {
    matches!(
        c,
        '"' | '<' | '>' | ':' | '|' | '?' | '*' | '\u{200e}' | '\u{200f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_text_files_are_removed_and_binary_files_stay() {
        let domains = [Domain::parse("inbox.example.com").unwrap()];
        let token = "enxzmgp7rode2anufuam6t6jmt7ws7uxp4dzf673opiznszlvxojwmyh6e";
        let text = format!("To: reply+{token}@inbox.example.com\r\n\r\nHello");
        let safe = b"To: reply@inbox.example.com\r\n\r\nHello";
        assert_eq!(without_tokens(text.as_bytes(), &domains).as_ref(), safe);
        let latin = [b"\xe9\xe8 ", text.as_bytes(), b" \xff"].concat();
        let wanted = [b"\xe9\xe8 ", &safe[..], b" \xff"].concat();
        assert_eq!(without_tokens(&latin, &domains).as_ref(), wanted);
        let binary = [text.as_bytes(), b"\0"].concat();
        assert_eq!(without_tokens(&binary, &domains).as_ref(), binary);
        let clean = b"Hello \xff";
        assert!(matches!(without_tokens(clean, &domains), Cow::Borrowed(_)));
    }
}
