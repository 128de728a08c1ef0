//! Owns the read-only view of a mail: its header, its text and its attachments, as plain values.
//!
//! Does not determine the kind of the mail or its new words; and never opens an attached mail.

mod appointment;
mod base64;
mod choice;
mod cms;
mod enriched;
mod flowed;
mod header;
mod names;
mod omission;
mod opened;
mod rtf;
mod tnef;
mod transfer;
mod uuencode;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::calendar::CalendarEvent;
use super::charset;
pub use super::mime::{Flag, PartContent};
use super::mime::{MailStructure, first_charset};
pub use header::{ADDRESSES_MAX, HeaderAddress, HeaderField, HeaderView, REFERENCES_MAX};
pub use omission::{OMISSIONS_MAX, Omission, OmissionReason};
use opened::Opened;

/// Octets of text, and of HTML, in the view.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The parsed mail.
#[derive(Clone, Debug)]
pub struct View {
    /// The header.
    pub header: HeaderView,
    /// The plain text, with line ends as `\n` and flowed paragraphs joined; consecutive texts are joined.
    pub text: Option<String>,
    /// The HTML, unchanged and not sanitised; consecutive parts are joined.
    pub html: Option<String>,
    /// All parts that are neither text nor HTML of the mail, in order; then, if a bound was exceeded, the
    /// texts that were cut, or the mail itself, whole.
    pub attachments: Vec<Attachment>,
    /// Every part, in the order of the mail, including multiparts and opened containers. The first is the
    /// whole body.
    pub parts: Vec<Part>,
    /// The event of the mail's first calendar part, or else the appointment in `winmail.dat`.
    pub calendar: Option<CalendarEvent>,
    /// The things that are not given on as they came, each with its reason; at most [`OMISSIONS_MAX`].
    pub omissions: Vec<Omission>,
    /// The bounds that this mail exceeds, including those of the header.
    pub flags: BTreeSet<Flag>,
}

impl View {
    /// The number of octets of the body, all parts included.
    pub fn bytes(&self) -> usize {
        self.parts.first().map_or(0, |body| body.body.len())
    }

    /// Parses a mail, and never fails. Broken content is read as far as possible; content beyond a bound is
    /// left out and flagged. Bytes that do not begin with a header field are a plain text without header.
    pub fn parse(mail: &Bytes) -> Self {
        let shape = MailStructure::of(mail);
        let header = HeaderView::of_block(mail, &shape.header);
        let words_charset = first_charset(&mail[..shape.header.end]);
        let Opened {
            parts,
            mut flags,
            mut omissions,
            calendar: appointment,
            ..
        } = Opened::of(mail, shape.parts, shape.flags, words_charset);
        flags.extend(&header.flags);
        let mut choice = choice::BodyChoice::of(&parts);
        let mut body = choice.body(&parts);
        let calendar = calendar_of(&parts).or(appointment);
        if let Some(event) = &calendar {
            body.add_event(event);
        }
        let (mut text, mut html) = (body.text, body.html);
        if html.is_none() && text.as_deref().is_some_and(is_page) {
            html = text.take();
        }
        if !body.cut.is_empty() {
            flags.insert(Flag::TextCut);
        }
        // A text that was cut is also attached whole, before the files, because only the first of many files
        // are kept.
        let needs_raw_mail = flags.iter().any(|flag| flag.needs_raw_mail());
        let raw_mail = needs_raw_mail.then(|| Attachment::raw_mail(mail));
        let whole_texts = body
            .cut
            .iter()
            .map(|&at| Attachment::whole_text(&parts[at]));
        let files = choice.attachments.iter();
        let files = files.map(|&at| Attachment::of(&parts[at]));
        let attachments = raw_mail.into_iter().chain(whole_texts).chain(files);
        let attachments = attachments.collect();
        omissions.extend(choice.omissions(&parts));
        omissions.truncate(OMISSIONS_MAX);
        Self {
            attachments,
            header,
            text,
            html,
            parts,
            calendar,
            omissions,
            flags,
        }
    }

    /// The direct children of the part at this index.
    pub fn children(&self, part: usize) -> impl Iterator<Item = &Part> {
        self.parts
            .iter()
            .filter(move |child| child.parent == Some(part))
    }
}

/// One MIME part (RFC 2046).
#[derive(Clone, Debug)]
pub struct Part {
    /// The content, from the header of the part.
    pub content: PartContent,
    /// The enclosing multipart, as an index into [`View::parts`]; `None` for the first.
    pub parent: Option<usize>,
    body: Bytes,
    /// A charset that the rest of the mail uses.
    charset_hint: Option<Arc<str>>,
    /// True if the part is a container that repeats the mail's text.
    repeats_mail: bool,
}

impl Part {
    /// The decoded bytes: shared with the mail if there is no transfer encoding, else a new buffer.
    pub fn bytes(&self) -> Bytes {
        match transfer::decoded(&self.body, self.content.encoding) {
            Cow::Borrowed(_) => self.body.clone(),
            Cow::Owned(bytes) => bytes.into(),
        }
    }

    /// The text in the part's charset, with line ends as `\n`, without controls, with flowed paragraphs
    /// (RFC 3676) joined, at most [`TEXT_BYTES_MAX`] octets; and true if it was cut.
    pub fn text(&self) -> (String, bool) {
        // No transfer encoding needs more than three octets for one, and no charset more than four.
        let enough = self.body.len().min(4 * TEXT_BYTES_MAX);
        let bytes = transfer::decoded(&self.body[..enough], self.content.encoding);
        let label = self.content.parameter("charset");
        let is_page = self.content.media_type == "text/html";
        let page_charset = is_page.then(|| charset::of_page(&bytes)).flatten();
        let hint = page_charset.as_deref().or(self.charset_hint.as_deref());
        let text = charset::decode(&bytes, label, hint);
        let mut text = normalised(&text);
        let says = |name: &str, value: &str| {
            self.content
                .parameter(name)
                .is_some_and(|said| said.eq_ignore_ascii_case(value))
        };
        text = match self.content.media_type.as_str() {
            "text/plain" if says("format", "flowed") => {
                flowed::unflowed(&text, says("delsp", "yes"))
            }
            "text/rtf" | "text/richtext" if text.starts_with("{\\rtf") => rtf::words(&text),
            "text/enriched" => enriched::plain(&text, false),
            "text/richtext" => enriched::plain(&text, true),
            _ => text,
        };
        let is_cut = enough < self.body.len() || text.len() > TEXT_BYTES_MAX;
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        (text, is_cut)
    }
}

/// A part that is not the text of the mail: a file, a picture, another mail.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The name without path, controls and bidirectional overrides; `None` if the part has none.
    pub filename: Option<String>,
    /// Type and subtype as the sender declares them, lower-cased and not verified.
    pub content_type: String,
    /// The decoded size in octets.
    pub size: usize,
    /// True if the part is to be displayed within the text.
    pub inline: bool,
    /// The Content-ID without angle brackets, to which `cid:` in the HTML refers.
    pub content_id: Option<String>,
    part: Part,
}

impl Attachment {
    /// The decoded bytes. Every call decodes them anew.
    pub fn bytes(&self) -> Bytes {
        self.part.bytes()
    }

    /// A text of the mail that was cut in the view.
    fn whole_text(part: &Part) -> Self {
        let ending = if part.content.media_type == "text/html" {
            "html"
        } else {
            "txt"
        };
        Self {
            filename: Some(format!("text.{ending}")),
            inline: false,
            content_id: None,
            ..Self::of(part)
        }
    }

    /// The mail itself, if not all of it was read.
    fn raw_mail(mail: &Bytes) -> Self {
        Self::of(&Part {
            content: PartContent::raw_mail(),
            parent: None,
            body: mail.clone(),
            charset_hint: None,
            repeats_mail: false,
        })
    }

    fn of(part: &Part) -> Self {
        let content = &part.content;
        let mut file = Self {
            filename: content.raw_filename.as_deref().and_then(names::cleaned),
            content_type: content.media_type.clone(),
            size: transfer::decoded_len(&part.body, content.encoding),
            inline: content.is_inline || (content.content_id.is_some() && !content.is_attachment),
            content_id: content.content_id.clone(),
            part: part.clone(),
        };
        if file.filename.is_none() {
            file.filename = names::of_nameless(&file, content);
        }
        file
    }
}

/// The event of the first calendar part.
fn calendar_of(parts: &[Part]) -> Option<CalendarEvent> {
    let is_calendar = |part: &&Part| {
        matches!(
            part.content.media_type.as_str(),
            "text/calendar" | "text/x-vcalendar" | "application/ics"
        )
    };
    let part = parts.iter().find(is_calendar)?;
    CalendarEvent::parse(&part.text().0, part.content.parameter("method"))
}

/// True if a text is a whole HTML page, or begins and ends with an HTML block: some programs send HTML as
/// plain text. A person who types tags begins with words.
fn is_page(text: &str) -> bool {
    const STARTS: [&str; 7] = [
        "<!doctype html",
        "<html",
        "<head>",
        "<body",
        "<div",
        "<table",
        "<p>",
    ];
    let text = text.trim();
    let start = text.get(..16).unwrap_or(text).to_ascii_lowercase();
    let Some(start) = STARTS.iter().find(|name| start.starts_with(**name)) else {
        return false;
    };
    let name = start.trim_start_matches(['<', '!']).trim_end_matches('>');
    let name = name.split(' ').next().unwrap_or_default();
    let name = if name == "doctype" { "html" } else { name };
    let end = text.get(text.floor_char_boundary(text.len().saturating_sub(16))..);
    let end = end.unwrap_or_default().to_ascii_lowercase();
    end.ends_with('>') && (end.contains("</html") || end.contains(&format!("</{name}")))
}

/// Line ends as `\n`, other controls left out.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Runs without controls are copied whole. The octet c2 begins the controls above ASCII, and letters.
    let may_be_control = |byte: &u8| matches!(byte, 0..=0x08 | 0x0b..=0x1f | 0x7f | 0xc2);
    while let Some(at) = rest.as_bytes().iter().position(may_be_control) {
        out.push_str(&rest[..at]);
        let mut chars = rest[at..].chars();
        match chars.next() {
            Some('\r') if chars.as_str().starts_with('\n') => {}
            Some('\r') => out.push('\n'),
            Some(c) if is_clean(c) => out.push(c),
            _ => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

fn is_clean(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

/// True for controls of the bidirectional algorithm (Unicode Standard Annex 9), with which `exe.gpj` reads
/// `jpg.exe`.
const fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
