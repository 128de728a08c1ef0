//! Owns the parsing of HTML forms: `multipart/form-data` (RFC 7578) and
//! `application/x-www-form-urlencoded`, as bytes, bounded.
//!
//! Does not guess charsets: a field is bytes.

use bytes::Bytes;

use super::error::Malformed;
use super::headers::Headers;

/// The number of fields of one form. Mailgun posts each header field of a mail as one.
const FIELDS_MAX: usize = 2_000;
/// Octets of the header of one part.
const PART_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Octets of a field's name.
const NAME_BYTES_MAX: usize = 1024;
/// Octets of a boundary (RFC 2046 section 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// The fields of a form, in order.
#[derive(Debug)]
pub(super) struct Form(Vec<FormField>);

/// One field. A file is a field with a file name or a media type.
#[derive(Clone, Debug)]
pub(super) struct FormField {
    pub(super) name: String,
    /// The unchanged file name: it may be hostile, and invalid UTF-8 is replaced.
    pub(super) file_name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) bytes: Bytes,
}

impl Form {
    /// Parses a body as a form, by its media type.
    pub(super) fn parse(headers: &Headers, body: &Bytes) -> Result<Self, Malformed> {
        match headers.media_type().as_str() {
            "multipart/form-data" => {
                let value = headers.single("content-type").ok().flatten();
                let boundary = parameter(value.unwrap_or_default().as_bytes(), "boundary");
                let boundary = boundary.ok_or_else(|| Malformed::new("boundary: missing"))?;
                parse_multipart(body, &boundary).map(Self)
            }
            "application/x-www-form-urlencoded" => parse_urlencoded(body).map(Self),
            _ => Err(Malformed::new("content-type: not a form")),
        }
    }

    /// True if there is a field of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|field| field.name == name)
    }

    /// The only field of this name.
    pub(super) fn single(&self, name: &str) -> Result<Option<&FormField>, Malformed> {
        let mut found = self.0.iter().filter(|field| field.name == name);
        let first = found.next();
        if found.next().is_some() {
            return Err(Malformed::field(name, "occurs twice"));
        }
        Ok(first)
    }

    /// The bytes of the only field of this name.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<&Bytes>, Malformed> {
        Ok(self.single(name)?.map(|field| &field.bytes))
    }

    /// The only field of this name as UTF-8.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Malformed> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes);
        text.map(Some)
            .map_err(|_| Malformed::field(name, "not UTF-8"))
    }

    /// Like [`Form::text`], for a required field.
    pub(super) fn required(&self, name: &str) -> Result<&str, Malformed> {
        self.text(name)?
            .ok_or_else(|| Malformed::field(name, "missing"))
    }

    /// All fields, sorted by their names.
    pub(super) fn sorted_fields(&self) -> Vec<&FormField> {
        let mut fields: Vec<_> = self.0.iter().collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    }

    /// The fields `attachment1`, `attachment2`, … (or with `-` before the number) by number.
    pub(super) fn attachments(&self) -> Vec<&FormField> {
        let number = |name: &str| {
            let digits = name.strip_prefix("attachment")?;
            digits
                .strip_prefix('-')
                .unwrap_or(digits)
                .parse::<u32>()
                .ok()
        };
        let numbered = self.0.iter();
        let mut found: Vec<(u32, &FormField)> = numbered
            .filter_map(|field| Some((number(&field.name)?, field)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, field)| field).collect()
    }
}

fn parse_urlencoded(body: &Bytes) -> Result<Vec<FormField>, Malformed> {
    let mut fields = Vec::new();
    for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        let at = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or_default();
        let field = FormField {
            name: field_name(&percent_decode(&pair[..at])?)?,
            file_name: None,
            media_type: None,
            bytes: percent_decode(value)?.into(),
        };
        push(&mut fields, field)?;
    }
    Ok(fields)
}

fn percent_decode(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                let code = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                let code = code.and_then(|code| u8::try_from(code).ok());
                code.ok_or_else(|| Malformed::new("form: % without two digits"))?
            }
            byte => *byte,
        });
    }
    Ok(out)
}

/// The fields of a multipart body. The line end of the first line is that of all delimiters, because some
/// senders use bare LF.
fn parse_multipart(body: &Bytes, boundary: &[u8]) -> Result<Vec<FormField>, Malformed> {
    let dashed = [b"--", boundary].concat();
    let start = if body.starts_with(&dashed) {
        0
    } else {
        let first = memchr::memmem::find(body, &[b"\n", dashed.as_slice()].concat());
        first.ok_or_else(|| Malformed::new("form: no boundary"))? + 1
    };
    let mut at = start + dashed.len();
    let line_end: &[u8] = match body.get(at..) {
        Some(rest) if rest.starts_with(b"--") => return Ok(Vec::new()),
        Some(rest) if rest.starts_with(b"\n") => b"\n",
        _ => b"\r\n",
    };
    let delimiter = [line_end, dashed.as_slice()].concat();
    let finder = memchr::memmem::Finder::new(&delimiter);
    let mut fields = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(fields);
        }
        let blanks = rest
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        let from = at + blanks;
        if !body[from..].starts_with(line_end) {
            return Err(Malformed::new("form: text behind a boundary"));
        }
        // The line end stays, because a part may be empty, and its delimiter begins with the line end.
        let end = finder.find(&body[from..]);
        let end = from + end.ok_or_else(|| Malformed::new("form: cut off"))?;
        push(&mut fields, parse_part(body, from..end, line_end)?)?;
        at = end + delimiter.len();
    }
}

/// Parses the part in `span`, which begins with the line end of its boundary.
fn parse_part(
    body: &Bytes,
    span: std::ops::Range<usize>,
    line_end: &[u8],
) -> Result<FormField, Malformed> {
    let blank = line_end.repeat(2);
    let headless = body[span.clone()].starts_with(&blank);
    let head_end = if headless {
        Some(0)
    } else {
        memchr::memmem::find(&body[span.clone()], &blank)
    };
    let head_end = head_end.ok_or_else(|| Malformed::new("form: part without header"))?;
    if head_end > PART_HEADER_BYTES_MAX {
        return Err(Malformed::new("form: part header too long"));
    }
    let head = &body[span.start..span.start + head_end];
    let content = body.slice(span.start + head_end + blank.len()..span.end);
    let header = |wanted: &str| {
        head.split(|b| *b == b'\n').find_map(|line| {
            let at = memchr::memchr(b':', line)?;
            let name = line[..at].trim_ascii();
            let is_it = name.eq_ignore_ascii_case(wanted.as_bytes());
            is_it.then(|| line[at + 1..].trim_ascii())
        })
    };
    let disposition = header("content-disposition").unwrap_or_default();
    let name = parameter(disposition, "name");
    let name = name.ok_or_else(|| Malformed::new("form: part without name"))?;
    if header("content-transfer-encoding").is_some_and(|encoding| {
        let is_plain = |plain: &[u8]| encoding.eq_ignore_ascii_case(plain);
        !(is_plain(b"binary") || is_plain(b"8bit") || is_plain(b"7bit"))
    }) {
        // RFC 7578 section 4.7 has removed the field.
        return Err(Malformed::new("form: encoded part"));
    }
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(FormField {
        name: field_name(&name)?,
        file_name: parameter(disposition, "filename").map(|name| lossy(&name)),
        media_type: header("content-type").map(lossy),
        bytes: content,
    })
}

fn push(fields: &mut Vec<FormField>, field: FormField) -> Result<(), Malformed> {
    if fields.len() >= FIELDS_MAX {
        return Err(Malformed::new(format!(
            "form: more than {FIELDS_MAX} fields"
        )));
    }
    fields.push(field);
    Ok(())
}

fn field_name(name: &[u8]) -> Result<String, Malformed> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Malformed::new("form: field name too long"));
    }
    // A name that is not UTF-8 is never requested.
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The parameter of a header value: a token, or a quoted string in which browsers write `\"` and `%22` and
/// old programs leave a backslash alone.
fn parameter(value: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut rest = &value[memchr::memchr(b';', value)? + 1..];
    loop {
        rest = rest.trim_ascii_start();
        let at = rest.iter().position(|b| matches!(b, b'=' | b';'))?;
        let name = rest[..at].trim_ascii();
        let is_it = name.eq_ignore_ascii_case(wanted.as_bytes());
        if rest[at] == b';' {
            rest = &rest[at + 1..];
            continue;
        }
        let (found, behind) = match rest[at + 1..].trim_ascii_start() {
            [b'"', quoted @ ..] => unquote(quoted)?,
            plain => {
                let end = memchr::memchr(b';', plain).unwrap_or(plain.len());
                (plain[..end].trim_ascii().to_vec(), &plain[end..])
            }
        };
        if is_it {
            let fits = wanted != "boundary" || (1..=BOUNDARY_BYTES_MAX).contains(&found.len());
            return fits.then_some(found);
        }
        rest = &behind[memchr::memchr(b';', behind)? + 1..];
    }
}

fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some((text, &quoted[at + 1..])),
            b'\\' if matches!(quoted.get(at + 1), Some(b'"' | b'\\')) => {
                text.push(quoted[at + 1]);
                at += 2;
            }
            byte => {
                text.push(*byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(media: &str, body: &[u8]) -> Result<Form, String> {
        let headers = Headers::new([("content-type", media.as_bytes())]);
        let body = Bytes::copy_from_slice(body);
        Form::parse(&headers, &body).map_err(|error| error.to_string())
    }

    const PARTS: &str = "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n--x\r\n\
        --b \r\ncontent-disposition: form-data; filename=\"q;\\\"\\x\"; name=attachment10\r\n\
        Content-Type: image/png\r\n\r\nB\r\n--b\r\nContent-Disposition: form-data; name=\"attachment9\"\r\n\
        \r\n\r\n--b--\r\nepilogue";

    #[test]
    fn parts_are_cut_at_their_boundary_alone() {
        for (media, body) in [
            ("multipart/form-data; boundary=b", PARTS.to_owned()),
            (
                "Multipart/Form-Data; charset=x; Boundary=\"b\"",
                PARTS.to_owned(),
            ),
            (
                "multipart/form-data; boundary=b",
                PARTS.replace("\r\n", "\n"),
            ),
        ] {
            let form = form(media, body.as_bytes()).unwrap();
            let a = form.text("a").unwrap().unwrap();
            assert_eq!(a.trim_start(), "--x");
            let files: Vec<_> = form.attachments();
            assert_eq!(files[0].bytes.as_ref(), b"");
            assert_eq!(files[1].bytes.as_ref(), b"B");
            assert_eq!(files[1].file_name.as_deref(), Some("q;\"\\x"));
            assert_eq!(files[1].media_type.as_deref(), Some("image/png"));
        }
    }

    #[test]
    fn broken_parts_are_refused() {
        let media = "multipart/form-data; boundary=b";
        for (media, body, why) in [
            ("multipart/form-data", "--b\r\n", "boundary: missing"),
            (
                "multipart/form-data; boundary=\"\"",
                "--\r\n",
                "boundary: missing",
            ),
            (media, "", "form: no boundary"),
            (media, "--b\r\n\r\nx", "form: cut off"),
            (media, "--b\r\n\r\nx\r\n--b--", "form: part without name"),
            (
                media,
                "--bc\r\n\r\nx\r\n--b--",
                "form: text behind a boundary",
            ),
            (
                media,
                "--b\r\nContent-Disposition: x; name=a\r\n--b--",
                "form: part without header",
            ),
            ("text/plain", "", "content-type: not a form"),
        ] {
            assert_eq!(form(media, body.as_bytes()).unwrap_err(), why, "{body}");
        }
        let many = "--b\r\nContent-Disposition: x; name=a\r\n\r\n\r\n".repeat(FIELDS_MAX + 1);
        let many = form(media, format!("{many}--b--").as_bytes()).unwrap_err();
        assert_eq!(many, "form: more than 2000 fields");
        let cut = &PARTS[..PARTS.len() - 20];
        for end in 0..cut.len() {
            assert!(form(media, &cut.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn pairs_are_bytes() {
        let media = "application/x-www-form-urlencoded";
        let form = form(media, b"a=%FFx+y%2B&b&&c=1&c=2&%61b==").unwrap();
        assert_eq!(form.bytes("a").unwrap().unwrap().as_ref(), b"\xffx y+");
        assert!(form.text("a").is_err());
        assert_eq!(form.required("b").unwrap(), "");
        assert_eq!(form.single("c").unwrap_err().to_string(), "c: occurs twice");
        assert_eq!(form.required("ab").unwrap(), "=");
        assert!(parse_urlencoded(&Bytes::from_static(b"a=%f")).is_err());
        assert!(parse_urlencoded(&Bytes::from_static(b"a=%zz")).is_err());
    }
}
