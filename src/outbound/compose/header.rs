//! Owns the header of an outgoing mail: types that cannot contain a line end, encoding and folding.
//!
//! Does not choose the fields of a mail.

use std::fmt;

use data_encoding::BASE64;
use thiserror::Error;

use crate::mail::address::{Address, Domain};
use crate::mail::job_id::JobId;
use crate::mail::text::breaks_line;

/// The maximum length in characters of the name of an extra field.
const NAME_CHARS_MAX: usize = 40;
/// The maximum length in octets of the value of an extra field.
const TEXT_BYTES_MAX: usize = 900;
/// Characters of a line before it is folded (RFC 2047 section 2, for lines with encoded words).
const LINE_CHARS: usize = 76;
/// The maximum length in characters of a word that is written unencoded; a longer one is encoded, so that
/// it can be folded.
const WORD_CHARS_MAX: usize = 60;
/// The maximum length in octets of a foreign Message-ID that is repeated in a field.
const MESSAGE_ID_BYTES_MAX: usize = 250;
/// Message-IDs kept from the end of a long References field; the first one is kept too.
const REFERENCES_LAST: usize = 19;
/// The maximum length in octets of all Message-IDs in a References field.
const REFERENCES_BYTES_MAX: usize = 2_000;
/// The maximum length in octets of a web address in a field.
const URL_BYTES_MAX: usize = 900;

/// Names of the extra fields that may be given besides `X-…`.
const ALLOWED: [&str; 9] = [
    "comments",
    "feedback-id",
    "importance",
    "keywords",
    "list-archive",
    "list-help",
    "list-owner",
    "organization",
    "priority",
];

/// Prefixes of `X-…` names that are reserved, because they describe the mail's path or Postern itself.
const RESERVED: [&str; 9] = [
    "x-auto",
    "x-envelope",
    "x-failed-recipients",
    "x-loop",
    "x-original",
    "x-originating",
    "x-postern",
    "x-received",
    "x-spam",
];

/// The name of an extra field: `X-…`, or one of a few descriptive fields. No field that gives a mail's
/// path, sender, structure or thread is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(String);

impl HeaderName {
    /// Parses a name of at most 40 letters, digits and dashes.
    ///
    /// # Errors
    /// [`HeaderFieldError::Name`] for other characters, [`HeaderFieldError::Reserved`] for a field
    /// that the caller may not set.
    pub fn parse(text: &str) -> Result<Self, HeaderFieldError> {
        let fits = (1..=NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && text.starts_with(|c: char| c.is_ascii_alphabetic());
        if !fits {
            return Err(HeaderFieldError::Name(shown(text)));
        }
        let folded = text.to_ascii_lowercase();
        let is_reserved = RESERVED.iter().any(|name| folded.starts_with(name));
        let is_allowed = ALLOWED.contains(&folded.as_str())
            || (folded.len() > 2 && folded.starts_with("x-") && !is_reserved);
        if !is_allowed {
            return Err(HeaderFieldError::Reserved(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name, as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of a field, in any language: one line without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderText(String);

impl HeaderText {
    /// Parses a text of at most 900 octets.
    ///
    /// # Errors
    /// The text is longer, or has a line end or another control character.
    pub fn parse(text: &str) -> Result<Self, HeaderFieldError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(HeaderFieldError::TextTooLong);
        }
        if text.chars().any(breaks_line) {
            return Err(HeaderFieldError::TextControl);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text with each run of white space and controls as one space, without controls that
    /// change the writing direction, cut to `chars_max` characters.
    pub fn cleaned(text: &str, chars_max: usize) -> Self {
        // More characters are read than kept, because many may be left out.
        let looked_at = text.chars().take(chars_max.saturating_mul(8));
        let plain: String = looked_at
            .filter(|c| !is_bidi_control(*c))
            .map(|c| if breaks_line(c) { ' ' } else { c })
            .collect();
        let mut words = String::new();
        for word in plain.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
        let cut = words.chars().take(chars_max).collect::<String>();
        Self(cut.trim_end().to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A web address for a one-click POST (RFC 8058): `https://` and printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress(String);

impl WebAddress {
    /// Parses an address of at most 900 octets.
    ///
    /// # Errors
    /// [`HeaderFieldError::Url`] if it is not https, or has a character that must be
    /// percent-encoded.
    pub fn parse(text: &str) -> Result<Self, HeaderFieldError> {
        let fits = text.len() <= URL_BYTES_MAX
            && text.len() > "https://".len()
            && text.starts_with("https://")
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"<>\"\\^`{|},".contains(&b));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(HeaderFieldError::Url)
        }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The placeholder for the mail's job id in a [`WebAddressForm`].
const JOB: &str = "{job}";

/// A [`WebAddress`] in which each `{job}` stands for the id of the mail's job, so that the POST
/// identifies the recipient (RFC 8058 section 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddressForm(String);

impl WebAddressForm {
    /// Parses an address that has at most 900 octets with the job id filled in.
    ///
    /// # Errors
    /// As [`WebAddress::parse`].
    pub fn parse(text: &str) -> Result<Self, HeaderFieldError> {
        let form = Self(text.to_owned());
        // All job ids have the same length.
        WebAddress::parse(&form.of(JobId([0; 16])).0)?;
        Ok(form)
    }

    /// The address for the mail of this job.
    pub fn of(&self, job: JobId) -> WebAddress {
        WebAddress(self.0.replace(JOB, &job.to_string()))
    }
}

/// The reason why a field cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderFieldError {
    /// The address cannot be written without SMTPUTF8 (RFC 6531), which most relays lack.
    #[error("local part is not ASCII")]
    LocalNotAscii,
    /// The domain has no form in A-labels.
    #[error("domain {0:?} has no ASCII form")]
    DomainNotAscii(String),
    /// The name has characters other than letters, digits and dashes, or is too long.
    #[error("field name {0:?}: not 1 to {NAME_CHARS_MAX} letters, digits and dashes")]
    Name(String),
    /// The field is reserved.
    #[error("field name {0:?}: neither X-… nor one that may be set")]
    Reserved(String),
    /// The text has a line end or another control character.
    #[error("control character in the text")]
    TextControl,
    /// The text is too long.
    #[error("text longer than {TEXT_BYTES_MAX} octets")]
    TextTooLong,
    /// The text is not a valid Message-ID.
    #[error("not a Message-ID")]
    MessageId,
    /// The text is not a web address for a one-click POST.
    #[error("not an https address of at most {URL_BYTES_MAX} printable ASCII characters")]
    Url,
}

/// An address in the ASCII form of a header field.
#[derive(Clone, Debug)]
pub(super) struct AsciiAddress(String);

impl AsciiAddress {
    /// Converts an address.
    ///
    /// # Errors
    /// [`HeaderFieldError::LocalNotAscii`], [`HeaderFieldError::DomainNotAscii`].
    pub(super) fn of(address: &Address) -> Result<Self, HeaderFieldError> {
        let domain = address.domain().ascii();
        // The mapping to A-labels turns look-alikes into plain ASCII, such as a full-width comma
        // into a comma.
        if !domain.is_ascii() || Domain::parse(&domain).is_err() {
            return Err(HeaderFieldError::DomainNotAscii(shown(&domain)));
        }
        let whole = address.to_string();
        let local = whole.rsplit_once('@').map_or("", |(local, _)| local);
        if !local.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return Err(HeaderFieldError::LocalNotAscii);
        }
        Ok(Self(format!("{local}@{domain}")))
    }
}

impl fmt::Display for AsciiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Message-ID in angle brackets that can be written unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WritableMessageId(String);

impl WritableMessageId {
    /// Reads a Message-ID with or without angle brackets; `None` if a field cannot hold it.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        let inner = text.strip_prefix('<').unwrap_or(text);
        let inner = inner.strip_suffix('>').unwrap_or(inner);
        let fits = (1..=MESSAGE_ID_BYTES_MAX).contains(&inner.len())
            && inner
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"<>()\\\",".contains(&b));
        fits.then(|| Self(format!("<{inner}>")))
    }
}

/// The Message-IDs of a References field (RFC 5322 section 3.6.4), each once; if the chain is too long, the
/// first and the last ones.
pub(super) fn references_chain(
    references: &[String],
    in_reply_to: Option<&WritableMessageId>,
) -> Vec<WritableMessageId> {
    let mut ids: Vec<WritableMessageId> = Vec::new();
    // The chain is read from its end, because the last occurrence of each id counts.
    let given = references.iter().filter_map(|id| WritableMessageId::of(id));
    let all: Vec<WritableMessageId> = given.chain(in_reply_to.cloned()).collect();
    let first = all.first().cloned();
    let mut bytes = first.as_ref().map_or(0, |id| id.0.len() + 1);
    for id in all.into_iter().rev() {
        if ids.len() == REFERENCES_LAST || ids.contains(&id) || first.as_ref() == Some(&id) {
            continue;
        }
        bytes += id.0.len() + 1;
        if bytes > REFERENCES_BYTES_MAX {
            break;
        }
        ids.push(id);
    }
    ids.extend(first);
    ids.reverse();
    ids
}

/// The header of a mail under construction. The types of its parts ensure that every line ends in
/// CRLF and has at most 998 octets.
#[derive(Default)]
pub(super) struct OutgoingHeader(String);

impl OutgoingHeader {
    pub(super) fn text(&mut self, name: &str, text: &HeaderText) {
        self.unstructured(name, &text.0);
    }

    pub(super) fn extra(&mut self, name: &HeaderName, text: &HeaderText) {
        self.unstructured(&name.0, &text.0);
    }

    /// Appends a field with a constant text.
    pub(super) fn fixed(&mut self, name: &'static str, text: &'static str) {
        self.unstructured(name, text);
    }

    /// Appends addresses with display names (RFC 5322 section 3.4), one per line.
    pub(super) fn mailboxes<'a>(
        &mut self,
        name: &str,
        boxes: impl IntoIterator<Item = (&'a HeaderText, &'a AsciiAddress)>,
    ) {
        self.open(name);
        for (at, (display, address)) in boxes.into_iter().enumerate() {
            if at > 0 {
                self.0.push_str(",\r\n ");
            }
            let Some(line) = self.0.rsplit('\n').next() else {
                return;
            };
            let column = line.len();
            if display.0.is_empty() {
                self.0.push_str(&address.0);
                continue;
            }
            push_phrase(&mut self.0, column, &display.0);
            let line = self.0.rsplit('\n').next().unwrap_or_default();
            let fits = line.len() + address.0.len() + 3 <= LINE_CHARS;
            self.0.push_str(if fits { " <" } else { "\r\n <" });
            self.0.push_str(&address.0);
            self.0.push('>');
        }
        self.close();
    }

    pub(super) fn ids<'a>(
        &mut self,
        name: &str,
        ids: impl IntoIterator<Item = &'a WritableMessageId>,
    ) {
        self.open(name);
        for (at, id) in ids.into_iter().enumerate() {
            if at > 0 {
                self.0.push_str("\r\n ");
            }
            self.0.push_str(&id.0);
        }
        self.close();
    }

    pub(super) fn list(&mut self, list: &AsciiAddress) {
        // The list id is only the domain, which follows the `@`.
        let domain = list.0.rsplit('@').next().unwrap_or_default();
        self.open("List-Id");
        self.0.push('<');
        self.0.push_str(domain);
        self.0.push('>');
        self.close();
    }

    pub(super) fn url(&mut self, name: &str, url: &WebAddress) {
        self.open(name);
        self.0.push('<');
        self.0.push_str(&url.0);
        self.0.push('>');
        self.close();
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }

    fn open(&mut self, name: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
    }

    fn close(&mut self) {
        self.0.push_str("\r\n");
    }

    fn unstructured(&mut self, name: &str, text: &str) {
        self.open(name);
        let column = name.len() + 2;
        if is_plain(text) {
            push_folded(&mut self.0, column, text);
        } else {
            push_encoded(&mut self.0, column, text);
        }
        self.close();
    }
}

/// True if the text may stand unencoded. Text that looks like an encoded word is encoded, because mail
/// programs would decode it.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
        && !text.contains("=?")
        && !text.contains("  ")
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && text.split(' ').all(|word| word.len() <= WORD_CHARS_MAX)
}

fn push_folded(out: &mut String, mut column: usize, text: &str) {
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 && column + 1 + word.len() > LINE_CHARS {
            out.push_str("\r\n");
            column = 0;
        }
        if at > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
}

/// Appends encoded words (RFC 2047), each of whole characters.
fn push_encoded(out: &mut String, mut column: usize, text: &str) {
    const OPEN: &str = "=?utf-8?B?";
    const CLOSE: &str = "?=";
    let mut rest = text;
    loop {
        let room = LINE_CHARS.saturating_sub(column + OPEN.len() + CLOSE.len());
        let bytes = (room / 4 * 3).max(4);
        let word = &rest[..rest.floor_char_boundary(bytes.min(rest.len()))];
        out.push_str(OPEN);
        out.push_str(&BASE64.encode(word.as_bytes()));
        out.push_str(CLOSE);
        rest = &rest[word.len()..];
        if rest.is_empty() {
            return;
        }
        out.push_str("\r\n ");
        column = 1;
    }
}

/// Appends a display name: a quoted string if it is ASCII, encoded words otherwise.
fn push_phrase(out: &mut String, column: usize, text: &str) {
    if !is_plain(text) || column + text.len() > 3 * LINE_CHARS {
        return push_encoded(out, column, text);
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    push_folded(out, column, &quoted);
}

/// True if the character is a bidirectional control with an effect beyond itself (Unicode Standard Annex
/// 9).
const fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX * 2).collect()
}
