//! Owns the composition of an outgoing mail: from its content to the bytes that are sent.
//!
//! Does not send, sign or store mails, and decides nothing: [`OutgoingMail`] holds every decision.

mod header;
mod page;
mod structure;
mod templates;
mod words;

use bytes::Bytes;
use thiserror::Error;

pub use header::{HeaderFieldError, HeaderName, HeaderText, WebAddress, WebAddressForm};
pub use templates::{TemplateError, Templates};
pub use words::{Locale, LocaleWords};

use header::{AsciiAddress, OutgoingHeader, WritableMessageId};
use templates::TemplatePage;

use crate::clock::Timestamp;
use crate::mail::address::{Address, Domain};
use crate::mail::kind::LOOP_FIELD;
use crate::mail::redact;
use crate::mail::subject::Subject;

/// The maximum length in octets of the text of a mail.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// The maximum length in octets of the HTML of a mail.
pub const HTML_BYTES_MAX: usize = 512 * 1024;
/// The maximum number of earlier messages that are shown below the text.
pub const HISTORY_MAX: usize = 3;
/// The maximum number of characters shown of an earlier message.
const EARLIER_CHARS_MAX: usize = 600;
/// The maximum number of addresses in Cc.
pub const CC_MAX: usize = 50;
/// The maximum number of attachments of a mail.
pub const ATTACHMENTS_MAX: usize = 100;
/// The maximum number of extra fields of a mail.
pub const FIELDS_MAX: usize = 50;
/// The maximum number of Message-IDs of a chain that are read, counted from its ends.
const REFERENCES_MAX: usize = 1_000;
const SUBJECT_CHARS_MAX: usize = 400;
const NAME_CHARS_MAX: usize = 100;
/// The maximum length in octets of a name or a subject that is read; less may be shown.
const SHORT_BYTES_MAX: usize = 16 * 1024;
const MARKER_CHARS_MAX: usize = 120;
/// The maximum length in octets of a subject's reply prefix, its colon included.
const PREFIX_BYTES_MAX: usize = 60;
const FILENAME_CHARS_MAX: usize = 120;

/// One mail to one recipient, with every decision made.
#[derive(Clone, Debug)]
pub struct OutgoingMail {
    /// The author address (From).
    pub from: Address,
    /// The author's display name; empty if the product itself writes.
    pub sender_name: String,
    /// The product's name; with an author's name it forms "Name via Product".
    pub product_name: String,
    /// The recipient.
    pub to: HeaderMailbox,
    /// Other recipients to name in Cc; at most [`CC_MAX`].
    pub cc: Vec<HeaderMailbox>,
    /// The address for replies, with the reply token.
    pub reply_to: Address,
    /// The subject, with or without a reply prefix.
    pub subject: String,
    /// The content as plain text; at most [`TEXT_BYTES_MAX`].
    pub text: String,
    /// The content as the product's own HTML, which is sanitised; without it HTML is made from the
    /// text. At most [`HTML_BYTES_MAX`].
    pub html: Option<String>,
    /// Earlier messages of the conversation, newest first; [`HISTORY_MAX`] of them are shown.
    pub history: Vec<EarlierMessage>,
    /// The line above which people reply; `None` is the default of the language, an empty one means no
    /// line.
    pub marker: Option<String>,
    /// The attachments; at most [`ATTACHMENTS_MAX`]. The caller bounds their total size.
    pub attachments: Vec<OutgoingAttachment>,
    /// The Message-ID of the mail that this one answers. An invalid value is left out.
    pub in_reply_to: Option<String>,
    /// The Message-IDs of the conversation, oldest first. The first and the last ones are written.
    pub references: Vec<String>,
    /// The Message-ID of the mail.
    pub message_id: String,
    /// The return path. It is not part of the mail; only its form is checked here.
    pub return_path: Address,
    /// Time of composition, for the Date field.
    pub date: Timestamp,
    /// The list to which the mail belongs (RFC 2919), as a domain.
    pub list_id: Option<Domain>,
    /// The address that accepts the one-click unsubscribe POST (RFC 8058).
    pub list_unsubscribe: Option<WebAddress>,
    /// True if no person wrote the mail, so that no machine should answer (RFC 3834).
    pub is_automatic: bool,
    /// The loop mark, by which Postern recognises its own mail if it returns.
    pub loop_mark: HeaderText,
    /// The language of the fixed texts.
    pub locale: Locale,
    /// The reply domains, whose tokens are removed from text, HTML and history.
    pub reply_domains: Vec<Domain>,
    /// Extra fields; at most [`FIELDS_MAX`].
    pub fields: Vec<(HeaderName, HeaderText)>,
}

/// A display name with an address: a mailbox in the sense of RFC 5322 section 3.4.
#[derive(Clone, Debug)]
pub struct HeaderMailbox {
    /// The display name; may be empty.
    pub name: String,
    /// The address; its local part must be ASCII.
    pub address: Address,
}

/// An earlier message of the conversation.
#[derive(Clone, Debug)]
pub struct EarlierMessage {
    /// The author's display name.
    pub name: String,
    /// Time of the message.
    pub at: Timestamp,
    /// The message as plain text; its beginning is shown.
    pub text: String,
}

/// A file attached to an outgoing mail.
#[derive(Clone, Debug)]
pub struct OutgoingAttachment {
    /// The file name; a leading path is removed.
    pub filename: String,
    /// The media type. An invalid one, or one that only a mail program may write, becomes
    /// `application/octet-stream`.
    pub content_type: String,
    /// The content of the file.
    pub bytes: Bytes,
}

/// A composed mail.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The mail (RFC 5322): ASCII, with every line ended by CRLF and at most 998 octets long.
    pub bytes: Bytes,
    /// The text as it was sent, without earlier messages; quotes of it are recognised later.
    pub text: String,
    /// The HTML alternative.
    pub html: String,
    /// The complete plain-text alternative.
    pub plain: String,
}

/// The reason why a mail cannot be composed.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// A field cannot be written in a header.
    #[error("{field}: {fault}")]
    Header {
        /// The name of the field.
        field: &'static str,
        /// The reason why the value is invalid.
        fault: HeaderFieldError,
    },
    /// The HTML nests its elements too deeply.
    #[error("html: elements nested deeper than {}", page::DEPTH_MAX)]
    TooDeep,
    /// A field has too many octets.
    #[error("{field}: longer than {max} octets")]
    TooLong {
        /// The name of the field.
        field: &'static str,
        /// Its bound, in octets.
        max: usize,
    },
    /// A field has too many entries.
    #[error("{field}: more than {max}")]
    TooMany {
        /// The name of the field.
        field: &'static str,
        /// Its bound, in entries.
        max: usize,
    },
    /// The template failed for this mail.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl ComposeError {
    /// The name of the invalid field; `None` if no field is invalid.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Header { field, .. }
            | Self::TooLong { field, .. }
            | Self::TooMany { field, .. } => Some(field),
            Self::TooDeep => Some("html"),
            Self::Template(_) => None,
        }
    }
}

/// Composes the mail. The same input gives the same bytes.
///
/// # Errors
/// Names the field that is invalid or exceeds its bound.
pub fn compose(letter: &OutgoingMail, templates: &Templates) -> Result<Composed, ComposeError> {
    check_length("text", letter.text.len(), TEXT_BYTES_MAX)?;
    let html = letter.html.as_ref().map_or(0, String::len);
    check_length("html", html, HTML_BYTES_MAX)?;
    for said in letter.history.iter().take(HISTORY_MAX) {
        check_length("history", said.text.len(), TEXT_BYTES_MAX)?;
    }
    for (field, count, max) in [
        ("cc", letter.cc.len(), CC_MAX),
        ("enclosures", letter.attachments.len(), ATTACHMENTS_MAX),
        ("fields", letter.fields.len(), FIELDS_MAX),
    ] {
        if count > max {
            return Err(ComposeError::TooMany { field, max });
        }
    }
    let subject = subject(letter);
    let head = header_block(letter, &subject)?;
    let pages = RenderedBody::render(letter, &subject, templates)?;
    let mut bytes = head.into_bytes();
    structure::write_parts(&mut bytes, &pages.plain, &pages.html, letter);
    Ok(Composed {
        bytes: bytes.into(),
        text: pages.text,
        html: pages.html,
        plain: pages.plain,
    })
}

const fn check_length(field: &'static str, bytes: usize, max: usize) -> Result<(), ComposeError> {
    if bytes > max {
        return Err(ComposeError::TooLong { field, max });
    }
    Ok(())
}

fn header_block(
    letter: &OutgoingMail,
    subject: &HeaderText,
) -> Result<OutgoingHeader, ComposeError> {
    let no_name = HeaderText::default();
    let spelled = |field, address| in_field(field, AsciiAddress::of(address));
    // The return path must be writable too, or bounces would be lost.
    spelled("return_path", &letter.return_path)?;
    let mut block = OutgoingHeader::default();
    block.mailboxes(
        "From",
        [(&from_name(letter), &spelled("from", &letter.from)?)],
    );
    let to = &letter.to;
    let to_name = display_name(letter, &to.name);
    block.mailboxes("To", [(&to_name, &spelled("to", &to.address)?)]);
    if !letter.cc.is_empty() {
        let copied = letter.cc.iter().map(|cc| {
            let name = display_name(letter, &cc.name);
            Ok((name, spelled("cc", &cc.address)?))
        });
        let copied = copied.collect::<Result<Vec<_>, ComposeError>>()?;
        block.mailboxes("Cc", copied.iter().map(|(name, address)| (name, address)));
    }
    block.mailboxes(
        "Reply-To",
        [(&no_name, &spelled("reply_to", &letter.reply_to)?)],
    );
    block.text("Subject", subject);
    block.text("Date", &HeaderText::cleaned(&letter.date.to_rfc5322(), 40));
    let own = WritableMessageId::of(&letter.message_id).ok_or(HeaderFieldError::MessageId);
    block.ids("Message-ID", [&in_field("message_id", own)?]);
    write_thread_fields(letter, &mut block);
    write_automation_fields(letter, &mut block)?;
    for (name, text) in &letter.fields {
        let text = redact::reply_addresses(text.as_str(), &letter.reply_domains);
        block.extra(name, &in_field("fields", HeaderText::parse(&text))?);
    }
    Ok(block)
}

/// Appends the fields that put the mail into its thread.
fn write_thread_fields(letter: &OutgoingMail, block: &mut OutgoingHeader) {
    let answered = letter
        .in_reply_to
        .as_deref()
        .and_then(WritableMessageId::of);
    if let Some(answered) = &answered {
        block.ids("In-Reply-To", [answered]);
    }
    let given = &letter.references;
    let chain = if given.len() > REFERENCES_MAX {
        let newest = &given[given.len() - REFERENCES_MAX..];
        header::references_chain(&[&given[..1], newest].concat(), answered.as_ref())
    } else {
        header::references_chain(given, answered.as_ref())
    };
    if !chain.is_empty() {
        block.ids("References", &chain);
    }
}

/// Appends the fields that tell other machines how to treat the mail.
fn write_automation_fields(
    letter: &OutgoingMail,
    block: &mut OutgoingHeader,
) -> Result<(), ComposeError> {
    if let Some(domain) = &letter.list_id {
        let address = Address::parse(&format!("list@{domain}"));
        let not_ascii = |_| HeaderFieldError::DomainNotAscii(domain.to_string());
        let list = address
            .map_err(not_ascii)
            .and_then(|list| AsciiAddress::of(&list));
        block.list(&in_field("list_id", list)?);
    }
    if let Some(url) = &letter.list_unsubscribe {
        block.url("List-Unsubscribe", url);
        block.fixed("List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
    }
    if letter.is_automatic {
        block.fixed("Auto-Submitted", "auto-generated");
        block.fixed("X-Auto-Response-Suppress", "All");
    }
    if !letter.loop_mark.as_str().is_empty() {
        block.text(LOOP_FIELD, &letter.loop_mark);
    }
    block.fixed("Content-Language", letter.locale.tag());
    block.fixed("MIME-Version", "1.0");
    Ok(())
}

fn in_field<T>(
    field: &'static str,
    parsed: Result<T, HeaderFieldError>,
) -> Result<T, ComposeError> {
    parsed.map_err(|fault| ComposeError::Header { field, fault })
}

/// A display name without tokens.
fn display_name(letter: &OutgoingMail, text: &str) -> HeaderText {
    one_line(text, NAME_CHARS_MAX, &letter.reply_domains)
}

/// A short text as one line without tokens.
fn one_line(text: &str, chars_max: usize, domains: &[Domain]) -> HeaderText {
    let looked_at = &text[..text.floor_char_boundary(SHORT_BYTES_MAX)];
    HeaderText::cleaned(&redact::reply_addresses(looked_at, domains), chars_max)
}

/// The author's display name: "Name via Product".
fn from_name(letter: &OutgoingMail) -> HeaderText {
    let [sender, product] =
        [&letter.sender_name, &letter.product_name].map(|text| display_name(letter, text));
    match (sender.as_str(), product.as_str()) {
        ("", _) => product,
        (_, "") => sender,
        (name, product) => {
            let via = letter.locale.words().via;
            HeaderText::cleaned(&format!("{name} {via} {product}"), 3 * NAME_CHARS_MAX)
        }
    }
}

/// The subject: with exactly one prefix if the mail answers another, unchanged if it begins a
/// thread.
fn subject(letter: &OutgoingMail) -> HeaderText {
    let given = one_line(&letter.subject, SUBJECT_CHARS_MAX, &letter.reply_domains);
    let answers = letter.in_reply_to.is_some() || !letter.references.is_empty();
    let mut bare = given.as_str();
    let mut stripped = 0;
    while let Some(rest) = without_prefix(bare) {
        bare = rest;
        stripped += 1;
    }
    match (answers, stripped) {
        (true, _) => HeaderText::cleaned(&format!("Re: {bare}"), SUBJECT_CHARS_MAX),
        (false, 0 | 1) => given,
        (false, _) => HeaderText::cleaned(&format!("Re: {bare}"), SUBJECT_CHARS_MAX),
    }
}

/// The subject behind a reply prefix of any known language; `None` if there is no prefix.
fn without_prefix(subject: &str) -> Option<&str> {
    let colon = subject
        .char_indices()
        .take_while(|(at, _)| *at < PREFIX_BYTES_MAX)
        .find(|(_, c)| matches!(c, ':' | '：' | '﹕' | '꞉'));
    let (at, c) = colon?;
    let end = at + c.len_utf8();
    let read = Subject::of(&format!("{} x", &subject[..end]));
    let is_prefix = read.is_reply && !read.is_forward && read.normalised == "x";
    is_prefix.then(|| subject[end..].trim_start())
}

/// The two alternatives of a mail's text.
struct RenderedBody {
    text: String,
    plain: String,
    html: String,
}

impl RenderedBody {
    fn render(
        letter: &OutgoingMail,
        subject: &HeaderText,
        templates: &Templates,
    ) -> Result<Self, ComposeError> {
        let domains = &letter.reply_domains;
        let clean = |text: &str| {
            redact::reply_addresses(&normalise_text(text), domains)
                .trim()
                .to_owned()
        };
        let shown = |text: &str| display_name(letter, text).as_str().to_owned();
        let text = clean(&letter.text);
        let html = match &letter.html {
            Some(html) => {
                let safe = page::sanitise(html).map_err(|_| ComposeError::TooDeep)?;
                redact::reply_addresses(&safe, domains).into_owned()
            }
            None => page::html_of_text(&text),
        };
        // Tokens are removed before the text is cut, because a cut could hide the domain of a
        // token.
        let history = letter.history.iter().take(HISTORY_MAX).map(|said| {
            let text = excerpt(&clean(&said.text));
            let html = page::html_of_text(&text);
            (shown(&said.name), format_date(said.at), text, html)
        });
        let history: Vec<_> = history.collect();
        let history: Vec<_> = history
            .iter()
            .map(|(name, date, text, html)| templates::EarlierMessagePage {
                name,
                date,
                text,
                html,
            })
            .collect();
        let files: Vec<_> = letter
            .attachments
            .iter()
            .map(|file| {
                (
                    structure::filename(file, domains),
                    format_size(file.bytes.len()),
                )
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, size)| (name.as_str(), size.clone()))
            .collect();
        let words = letter.locale.words();
        let marker = letter.marker.as_deref().unwrap_or(words.marker);
        let page = TemplatePage {
            subject: subject.as_str(),
            sender_name: &shown(&letter.sender_name),
            product_name: &shown(&letter.product_name),
            text: &text,
            html: &html,
            attachments: &files,
            history: &history,
            marker: HeaderText::cleaned(marker, MARKER_CHARS_MAX).as_str(),
            words,
            language: letter.locale.tag(),
            is_automatic: letter.is_automatic,
            unsubscribe: letter.list_unsubscribe.as_ref().map(WebAddress::as_str),
        }
        .value();
        Ok(Self {
            plain: normalise_text(&templates.text(&page)?),
            html: normalise_text(&templates.html(&page)?),
            text,
        })
    }
}

/// The text with `\n` as line end and no control characters except tabs.
fn normalise_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// The beginning of an earlier message, cut at the end of a word.
fn excerpt(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(EARLIER_CHARS_MAX) else {
        return text.to_owned();
    };
    let kept = &text[..end];
    let word = kept
        .rfind(char::is_whitespace)
        .filter(|at| at * 4 > end * 3);
    format!("{} …", kept[..word.unwrap_or(end)].trim_end())
}

/// Date and time in a form that people of every language understand.
fn format_date(at: Timestamp) -> String {
    let text = at.to_rfc3339();
    let minutes = text.get(..16).unwrap_or_default().replace('T', " ");
    format!("{minutes} UTC")
}

fn format_size(bytes: usize) -> String {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{} KB", bytes.div_ceil(KIB)),
        _ => format!("{}.{} MB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}

#[cfg(test)]
mod tests;
