//! Owns the rebuilding of a mail (RFC 5322) from the fields that a provider has split it into.
//!
//! Adds nothing that varies: the same fields make the same octets, so that a repeated mail is a duplicate.

use std::fmt::Write as _;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use ring::digest;

/// The number of header fields that are copied.
const FIELDS_MAX: usize = 500;
/// Octets of one header field that are copied.
const FIELD_BYTES_MAX: usize = 16 * 1024;
/// Octets of a field's name: a line with a longer one could not be folded.
const NAME_BYTES_MAX: usize = 128;
/// Octets of a line, of which RFC 5322 section 2.1.1 allows 998.
const LINE_BYTES_MAX: usize = 900;
/// The number of attachments that are copied; further ones would not be read later.
const ATTACHMENTS_MAX: usize = 500;

/// A mail under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct MimeBuilder {
    fields: Vec<(String, String)>,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<FilePart>,
    /// The names of files that could not be fetched.
    missing_files: Vec<String>,
}

/// A file of the mail.
#[derive(Clone, Debug)]
pub(super) struct FilePart {
    pub(super) file_name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) content_id: Option<String>,
    pub(super) bytes: Bytes,
}

impl MimeBuilder {
    /// Copies a header field. A field about the original octets (structure, signatures) is left out, and so
    /// is one with an invalid name; no line end of the value is kept.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        const STRUCTURE: [&str; 5] = [
            "mime-version",
            "dkim-signature",
            "domainkey-signature",
            "x-google-dkim-signature",
            "x-ms-exchange-organization-messagedirectionality",
        ];
        let lowered = name.to_ascii_lowercase();
        let is_structure = STRUCTURE.contains(&lowered.as_str())
            || lowered.starts_with("content-")
            || lowered.starts_with("arc-");
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b':');
        if is_structure || !is_name || self.fields.len() >= FIELDS_MAX {
            return;
        }
        let end = value.floor_char_boundary(FIELD_BYTES_MAX);
        let plain = value[..end].split(|c: char| c.is_control() || c.is_whitespace());
        let words: Vec<&str> = plain.filter(|word| !word.is_empty()).collect();
        self.fields.push((name.to_owned(), words.join(" ")));
    }

    /// Like [`MimeBuilder::field`], unless there is one of this name or the value is empty.
    pub(super) fn field_if_absent(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.trim().is_empty())
            && !self.has_field(name)
        {
            self.field(name, value);
        }
    }

    /// True if there is a field of this name.
    pub(super) fn has_field(&self, name: &str) -> bool {
        self.fields
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// Copies all fields of a header block, folded or not.
    pub(super) fn header_block(&mut self, block: &str) {
        let mut open: Option<(String, String)> = None;
        for line in block.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = &mut open {
                    value.push_str(line);
                }
                continue;
            }
            if let Some((name, value)) = open.take() {
                self.field(&name, &value);
            }
            if let Some((name, value)) = line.split_once(':') {
                open = Some((name.trim_end().to_owned(), value.to_owned()));
            }
        }
        if let Some((name, value)) = open {
            self.field(&name, &value);
        }
    }

    /// Sets the plain body.
    pub(super) fn text(&mut self, text: Option<&str>) {
        self.text = text.map(str::to_owned);
    }

    /// Sets the HTML body.
    pub(super) fn html(&mut self, html: Option<&str>) {
        self.html = html.filter(|html| !html.is_empty()).map(str::to_owned);
    }

    /// Adds a file.
    pub(super) fn add_file(&mut self, file: FilePart) {
        if self.attachments.len() < ATTACHMENTS_MAX {
            self.attachments.push(file);
        }
    }

    /// Lists a file that could not be fetched as an external body (RFC 2046 section 5.2.3), so that the
    /// mail is visibly incomplete.
    pub(super) fn add_missing_file(&mut self, file_name: Option<&str>) {
        if self.attachments.len() + self.missing_files.len() < ATTACHMENTS_MAX {
            self.missing_files
                .push(file_name.unwrap_or_default().to_owned());
        }
    }

    /// The octets of the mail. `name` is the provider's id for it: a mail without Message-ID gets one
    /// derived from that id and the content, so that two equal short answers of one person remain two
    /// mails.
    pub(super) fn build(mut self, provider: &str, name: &str) -> Bytes {
        let digest = self.digest(name);
        if !self.has_field("message-id") {
            let id = format!("<{}@{provider}.postern.invalid>", &digest[..40]);
            self.field("Message-ID", &id);
        }
        let mut out = String::new();
        for (name, value) in &self.fields {
            write_field(&mut out, name, value);
        }
        out.push_str("MIME-Version: 1.0\r\n");
        // Some providers send a blank text if the mail has only HTML.
        let is_blank = |text: &String| text.trim().is_empty();
        let text = self.text.as_ref();
        let text = text.filter(|text| self.html.is_none() || !is_blank(text));
        let bodies: Vec<String> = [("plain", text), ("html", self.html.as_ref())]
            .into_iter()
            .filter_map(|(kind, body)| Some(body_part(kind, body?)))
            .collect();
        let body = match bodies.as_slice() {
            [] => body_part("plain", ""),
            [one] => one.clone(),
            many => multipart("alternative", &format!("a{}", &digest[..32]), many),
        };
        let body = if self.attachments.is_empty() && self.missing_files.is_empty() {
            body
        } else {
            let mut parts = vec![body];
            parts.extend(self.attachments.iter().map(attachment_part));
            parts.extend(
                self.missing_files
                    .iter()
                    .map(|name| missing_file_part(name)),
            );
            multipart("mixed", &format!("m{}", &digest[..32]), &parts)
        };
        out.push_str(&body);
        out.into_bytes().into()
    }

    fn digest(&self, name: &str) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        add(name.as_bytes());
        for (name, value) in &self.fields {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for body in [&self.text, &self.html] {
            add(body.as_deref().unwrap_or_default().as_bytes());
        }
        for attachment in &self.attachments {
            add(attachment
                .file_name
                .as_deref()
                .unwrap_or_default()
                .as_bytes());
            add(&attachment.bytes);
        }
        for name in &self.missing_files {
            add(name.as_bytes());
        }
        HEXLOWER.encode(context.finish().as_ref())
    }
}

/// Writes a field, folded at spaces if it is long (RFC 5322 section 2.2.3). A value that is not ASCII stays
/// UTF-8 (RFC 6532).
fn write_field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push(':');
    let mut line = name.len() + 1;
    for word in value.split(' ') {
        let mut rest = word;
        loop {
            if line + 1 + rest.len() <= LINE_BYTES_MAX {
                break;
            }
            if line > 1 {
                out.push_str("\r\n");
                line = 0;
                continue;
            }
            // Without a space for folding the value is cut here, because other programs would cut a line
            // that is too long elsewhere.
            let end = rest.floor_char_boundary(LINE_BYTES_MAX - 1);
            out.push(' ');
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            line = LINE_BYTES_MAX;
        }
        out.push(' ');
        out.push_str(rest);
        line += 1 + rest.len();
    }
    out.push_str("\r\n");
}

fn body_part(kind: &str, text: &str) -> String {
    format!(
        "Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n{}",
        wrapped(text.as_bytes())
    )
}

fn attachment_part(attachment: &FilePart) -> String {
    let media = attachment.media_type.as_deref().unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let is_media = media
        .split_once('/')
        .is_some_and(|(a, b)| is_token(a) && is_token(b));
    // An attached mail must not be encoded (RFC 2046 section 5.2.1), and a multipart must not be a second
    // structure within ours.
    let lowered = media.to_ascii_lowercase();
    let is_simple = !lowered.starts_with("message/") && !lowered.starts_with("multipart/");
    let media = if is_media && is_simple {
        media
    } else {
        "application/octet-stream"
    };
    let mut part = format!("Content-Type: {media}\r\nContent-Transfer-Encoding: base64\r\n");
    let id = attachment.content_id.as_deref().unwrap_or_default();
    let id = id.trim_matches(['<', '>', ' ']);
    let is_id = (1..=255).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'!'..=b'~'));
    if is_id && !id.contains(['<', '>']) {
        part.push_str(&format!(
            "Content-ID: <{id}>\r\nContent-Disposition: inline"
        ));
    } else {
        part.push_str("Content-Disposition: attachment");
    }
    add_file_name(&mut part, attachment.file_name.as_deref());
    part.push_str("\r\n\r\n");
    part.push_str(&wrapped(&attachment.bytes));
    part
}

fn missing_file_part(name: &str) -> String {
    let mut part = "Content-Type: message/external-body; access-type=\"x-not-fetched\"\r\n\
        Content-Disposition: attachment"
        .to_owned();
    add_file_name(&mut part, Some(name));
    part.push_str("\r\n\r\nContent-Type: application/octet-stream\r\n\r\n");
    part
}

fn add_file_name(part: &mut String, name: Option<&str>) {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return;
    };
    part.push_str(";\r\n filename*=utf-8''");
    for byte in name.bytes().take(255) {
        // The characters of RFC 8187 section 3.2.1, without those that some programs cannot handle.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            part.push(char::from(byte));
        } else {
            let _ = write!(part, "%{byte:02X}");
        }
    }
}

fn is_token(text: &str) -> bool {
    let special = |b: u8| b"()<>@,;:\\\"/[]?=".contains(&b);
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|b| matches!(b, b'!'..=b'~') && !special(b))
}

/// The boundary is a digest over the whole content, and base64 has no `-`: no part can contain it.
fn multipart(kind: &str, boundary: &str, parts: &[String]) -> String {
    let mut out = format!("Content-Type: multipart/{kind}; boundary=\"{boundary}\"\r\n\r\n");
    for part in parts {
        out.push_str(&format!("--{boundary}\r\n"));
        out.push_str(part);
    }
    out.push_str(&format!("--{boundary}--\r\n"));
    out
}

/// Base64 in lines of 76 (RFC 2045 section 6.8).
fn wrapped(bytes: &[u8]) -> String {
    const LINE_BYTES: usize = 57;
    let mut out = String::with_capacity(bytes.len() / LINE_BYTES * 78 + 80);
    if bytes.is_empty() {
        // The line end before a delimiter belongs to it, and not to the header above.
        out.push_str("\r\n");
    }
    for line in bytes.chunks(LINE_BYTES) {
        BASE64.encode_append(line, &mut out);
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::view::View;

    fn attachment(name: &str, media: &str, id: Option<&str>) -> FilePart {
        FilePart {
            file_name: Some(name.to_owned()),
            media_type: Some(media.to_owned()),
            content_id: id.map(str::to_owned),
            bytes: Bytes::from_static(b"\x00\xffx"),
        }
    }

    #[test]
    fn a_split_mail_is_rebuilt() {
        let mut mime = MimeBuilder::default();
        mime.header_block(
            "From: Ann <ann@example.com>\r\nSubject: Grüße\n aus\n\tder Ferne\nContent-Type: x\n\
             DKIM-Signature: v=1\nnonsense\nMessage-ID: <1@example.com>\nbad name: x\n",
        );
        mime.text(Some("one\n--a\r\ntwo é"));
        mime.html(Some("<p>one</p>"));
        mime.add_file(attachment("a/../\r\n\"é.png", "image/png", Some("<c1@x>")));
        mime.add_file(attachment("", "message/rfc822\r\nX: y", None));
        let bytes = mime.clone().build("test", "1");
        assert_eq!(bytes, mime.build("test", "1"));
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!text.contains("DKIM") && !text.contains("nonsense") && !text.contains("bad name"));
        let view = View::parse(&bytes);
        assert_eq!(view.header.subject.as_deref(), Some("Grüße aus der Ferne"));
        assert_eq!(view.header.message_id.as_deref(), Some("1@example.com"));
        assert_eq!(
            view.text.as_deref().map(str::trim_end),
            Some("one\n--a\ntwo é")
        );
        assert_eq!(view.html.as_deref().map(str::trim_end), Some("<p>one</p>"));
        assert_eq!(text.matches("application/octet-stream").count(), 1);
    }

    #[test]
    fn a_mail_without_a_message_id_gets_one_of_its_own() {
        let built = |name: &str, text: &str| {
            let mut mime = MimeBuilder::default();
            mime.field("From", "ann@example.com");
            mime.text(Some(text));
            mime.build("test", name)
        };
        let id = |bytes: &Bytes| View::parse(bytes).header.message_id.unwrap();
        assert_eq!(id(&built("1", "ok")), id(&built("1", "ok")));
        assert_ne!(id(&built("1", "ok")), id(&built("2", "ok")));
        assert_ne!(id(&built("1", "ok")), id(&built("1", "no")));
    }

    proptest! {
        #[test]
        fn only_fields_get_into_the_header(
            name in "\\PC{0,20}|Subject|[\\x00-\\x7f]{0,20}",
            value in "[\\x00-\\x7fé\u{2028}]{0,3000}|x{0,3000}",
            file in "\\PC{0,20}|[\\x00-\\x7f]{0,20}",
            media in "[\\x00-\\x7f]{0,20}|text/x",
        ) {
            let mut mime = MimeBuilder::default();
            mime.field(&name, &value);
            mime.text(Some(&value));
            mime.add_file(attachment(&file, &media, Some(&value)));
            let bytes = mime.build("test", "");
            let text = std::str::from_utf8(&bytes).unwrap();
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
            let head = text.split("\r\n\r\n").next().unwrap();
            let unfolded = head.replace("\r\n ", " ");
            let mut fields = unfolded.split("\r\n").filter(|l| !l.starts_with(' '));
            let known = |l: &str| {
                ["Message-ID:", "MIME-Version:", "Content-Type:"].iter().any(|n| l.starts_with(n))
            };
            prop_assert!(fields.all(|l| known(l) || l.starts_with(&format!("{name}:"))), "{head}");
        }
    }
}
