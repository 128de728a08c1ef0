//! Owns how a mail of ours is made: from what is to be said to the bytes that are sent.
//!
//! Does not send, sign or store them, and decides nothing: the letter says it all.

mod header;
mod page;
mod redact;
mod structure;
mod templates;
mod words;

use bytes::Bytes;
use thiserror::Error;

pub use header::{HeaderFieldError, HeaderName, HeaderText, WebAddress, WebAddressForm};
pub use redact::redact;
pub use templates::{TemplateError, Templates};
pub use words::{Locale, LocaleWords};

use header::{AsciiAddress, OutgoingHeader, WritableMessageId};
use templates::TemplatePage;

use crate::clock::Timestamp;
use crate::mail::address::{Address, Domain};
use crate::mail::kind::LOOP_FIELD;
use crate::mail::subject::Subject;

/// Octets of the text of a letter.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Octets of the HTML of a letter.
pub const HTML_BYTES_MAX: usize = 512 * 1024;
/// What was said earlier: the newest that are shown.
pub const HISTORY_MAX: usize = 3;
/// Characters of one of them.
const EARLIER_CHARS_MAX: usize = 600;
/// People in the copy.
pub const CC_MAX: usize = 50;
/// Files with a letter.
pub const ATTACHMENTS_MAX: usize = 100;
/// Extra fields of a letter.
pub const FIELDS_MAX: usize = 50;
/// Message-IDs of a chain that are looked at, counted from its ends.
const REFERENCES_MAX: usize = 1_000;
const SUBJECT_CHARS_MAX: usize = 400;
const NAME_CHARS_MAX: usize = 100;
/// Octets of a name or a subject that are looked at: more than can be shown of it.
const SHORT_BYTES_MAX: usize = 16 * 1024;
const MARKER_CHARS_MAX: usize = 120;
/// A prefix word of a subject, with its colon.
const PREFIX_BYTES_MAX: usize = 60;
const FILENAME_CHARS_MAX: usize = 120;

/// One mail to one recipient, everything decided.
#[derive(Clone, Debug)]
pub struct OutgoingMail {
    /// Whose mailbox it comes from.
    pub from: Address,
    /// Who says it; empty if the product itself does.
    pub sender_name: String,
    /// The product's name; with a sender's it makes "Name via Product".
    pub product_name: String,
    /// Whom it is for.
    pub to: HeaderMailbox,
    /// Who else is told it went to; at most [`CC_MAX`].
    pub cc: Vec<HeaderMailbox>,
    /// Where the answer goes: the address with the token.
    pub reply_to: Address,
    /// The subject, with or without a reply's prefix.
    pub subject: String,
    /// What is said, as plain text; at most [`TEXT_BYTES_MAX`].
    pub text: String,
    /// The same in the product's own HTML, which is made safe; without it HTML is made of the text.
    /// At most [`HTML_BYTES_MAX`].
    pub html: Option<String>,
    /// What was said before, newest first; [`HISTORY_MAX`] of it are shown.
    pub history: Vec<EarlierMessage>,
    /// The line under which nothing is reply; `None` is the language's own, empty is none.
    pub marker: Option<String>,
    /// The files; at most [`ATTACHMENTS_MAX`]. How big they may be together is the caller's to say.
    pub attachments: Vec<OutgoingAttachment>,
    /// The Message-ID of the mail it answers. One that cannot be written again is left out.
    pub in_reply_to: Option<String>,
    /// The Message-IDs of the conversation, oldest first. The first and the last are written.
    pub references: Vec<String>,
    /// Its own Message-ID.
    pub message_id: String,
    /// Where it bounces to. Not part of the mail; only whether a relay can take it is looked at.
    pub return_path: Address,
    /// When it was made.
    pub date: Timestamp,
    /// The name of the list it belongs to (RFC 2919), as a domain.
    pub list_id: Option<Domain>,
    /// What takes the POST that ends these mails (RFC 8058).
    pub list_unsubscribe: Option<WebAddress>,
    /// No person wrote it: no machine shall answer (RFC 3834).
    pub is_automatic: bool,
    /// Our mark, by which we know our own mail should it come back.
    pub loop_mark: HeaderText,
    /// The language of the fixed words.
    pub locale: Locale,
    /// The reply domains, whose tokens are taken out of text, HTML and history.
    pub reply_domains: Vec<Domain>,
    /// Extra fields; at most [`FIELDS_MAX`].
    pub fields: Vec<(HeaderName, HeaderText)>,
}

/// A person with an address.
#[derive(Clone, Debug)]
pub struct HeaderMailbox {
    /// The display name; may be empty.
    pub name: String,
    /// The address. Its local part must be ASCII.
    pub address: Address,
}

/// What somebody said earlier in the conversation.
#[derive(Clone, Debug)]
pub struct EarlierMessage {
    /// Who.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// What, as plain text. Its beginning is shown.
    pub text: String,
}

/// A file that goes with a letter.
#[derive(Clone, Debug)]
pub struct OutgoingAttachment {
    /// Its name; a path before it is left out.
    pub filename: String,
    /// Its media type; one that is none, or that only a mail program may write, becomes
    /// `application/octet-stream`.
    pub content_type: String,
    /// Its content.
    pub bytes: Bytes,
}

/// A mail, ready to be sent.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The mail (RFC 5322): ASCII, every line ended by CRLF and of 998 octets at most.
    pub bytes: Bytes,
    /// The words as they were sent, without what was said earlier: by them a quote is recognised.
    pub text: String,
    /// The HTML form.
    pub html: String,
    /// The whole plain form.
    pub plain: String,
}

/// Why a letter cannot be made into a mail.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// A field cannot be written in a header.
    #[error("{field}: {fault}")]
    Header {
        /// The letter's field.
        field: &'static str,
        /// What is wrong with it.
        fault: HeaderFieldError,
    },
    /// The HTML's elements nest too deep.
    #[error("html: elements nested deeper than {}", page::DEPTH_MAX)]
    TooDeep,
    /// A field has too many octets.
    #[error("{field}: longer than {max} octets")]
    TooLong {
        /// The letter's field.
        field: &'static str,
        /// Its bound.
        max: usize,
    },
    /// A field has too many entries.
    #[error("{field}: more than {max}")]
    TooMany {
        /// The letter's field.
        field: &'static str,
        /// Its bound.
        max: usize,
    },
    /// The template could not make a page of this letter.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl ComposeError {
    /// The letter's field that is at fault; `None` if none is.
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

/// Makes the mail of a letter. The same letter makes the same bytes.
///
/// # Errors
/// Names the field that cannot be written or goes beyond its bound.
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
    // What bounces must find its way too.
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
        let text = redact(text.as_str(), &letter.reply_domains);
        block.extra(name, &in_field("fields", HeaderText::parse(&text))?);
    }
    Ok(block)
}

/// The fields that put the mail into its thread.
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

/// The fields that tell other machines how to behave.
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

/// A display name, without tokens.
fn display_name(letter: &OutgoingMail, text: &str) -> HeaderText {
    one_line(text, NAME_CHARS_MAX, &letter.reply_domains)
}

/// A short text as one line without tokens.
fn one_line(text: &str, chars_max: usize, domains: &[Domain]) -> HeaderText {
    let looked_at = &text[..text.floor_char_boundary(SHORT_BYTES_MAX)];
    HeaderText::cleaned(&redact(looked_at, domains), chars_max)
}

/// "Name via Product".
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

/// The subject with one prefix if the letter answers a mail, and as it is if it begins a thread.
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

/// What stands behind a reply's prefix, in any of the languages known; `None` if there is none.
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

/// What a person will see.
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
        let clean = |text: &str| redact(&normalise_text(text), domains).trim().to_owned();
        let shown = |text: &str| display_name(letter, text).as_str().to_owned();
        let text = clean(&letter.text);
        let html = match &letter.html {
            Some(html) => {
                let safe = page::sanitise(html).map_err(|_| ComposeError::TooDeep)?;
                redact(&safe, domains).into_owned()
            }
            None => page::html_of_text(&text),
        };
        // Taken out before it is cut, or the cut could hide whose token it is.
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

/// Line ends as `\n`, no other controls but tabs.
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

/// The beginning of what was said, at the end of a word.
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

/// Date and time in a form every language reads.
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
