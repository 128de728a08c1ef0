//! Owns the extraction of the words that a person wrote from a mail.
//!
//! Does not fetch, store or post anything, and does not parse MIME: it takes the text and the HTML part as
//! decoded strings, which may contradict each other.
//!
//! Every line of the chosen part is in exactly one of `text`, `quoted` and `signature`. Quotes with an
//! answer below them stay with the answer; closing words and the name below them ("Best regards, Ann") are
//! the person's own and stay.

mod attribution;
mod card;
mod classes;
mod coloured;
mod cut;
mod fold;
mod html;
mod known;
mod labels;
mod languages;
mod own_words;
mod phrases;
mod quotes;
mod shapes;
mod signature;
mod text;

use serde::Serialize;

use cut::{Cut, CutContext, LineClass};
use text::{BodyLine, LineMark};

/// Bytes of a part that are read; the rest is left out (`Reply::truncated`).
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The default marker of notifications.
pub const MARKER_DEFAULT: &str = "Reply above this line";

/// A mail's body as the MIME parser decoded it, and the known facts of its thread.
#[derive(Debug, Clone, Copy)]
pub struct ReplyInput<'a> {
    /// The `text/plain` part.
    pub text: Option<&'a str>,
    /// The `text/html` part.
    pub html: Option<&'a str>,
    /// The subject, which identifies forwards.
    pub subject: &'a str,
    /// The texts we sent earlier in this thread, newest first.
    pub known: &'a [&'a str],
    /// True if the mail is no answer: its quotes are the author's text, because there is no mail to quote.
    pub answers_nothing: bool,
    /// The line of our notifications below which nothing is reply.
    pub marker: &'a str,
}

impl Default for ReplyInput<'_> {
    fn default() -> Self {
        Self {
            text: None,
            html: None,
            subject: "",
            known: &[],
            answers_nothing: false,
            marker: MARKER_DEFAULT,
        }
    }
}

/// The words that a person wrote, and the text that was cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The person's words, with the quotes they answer. Empty only if the mail is.
    pub text: String,
    /// The same content as sanitised HTML, if the mail had an HTML part; `None` above 256 KiB.
    pub html: Option<String>,
    /// Old mail that was cut, with its attribution.
    pub quoted: String,
    /// Signature, "sent from" lines, disclaimers, list footers.
    pub signature: String,
    /// The evidence for the cut.
    pub method: Method,
    /// The certainty of the cut.
    pub confidence: Confidence,
    /// True if the part was longer than [`TEXT_BYTES_MAX`]; its end is in none of the fields.
    pub truncated: bool,
}

/// The evidence for a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// No text was cut.
    #[default]
    None,
    /// Our "reply above this line".
    Marker,
    /// Text that we sent was found.
    Known,
    /// "On … wrote:".
    Attribution,
    /// `From: … Sent: … To: …`, or "-----Original Message-----".
    HeaderBlock,
    /// Elements that a mail program puts around quotes.
    HtmlStructure,
    /// `>` marks alone.
    QuotePrefix,
    /// Only a signature was cut.
    Signature,
    /// A forwarded mail: cut if words stand above it, else kept whole.
    Forward,
    /// The whole body, because only quotes or a signature were found in it.
    FullBody,
}

impl Method {
    /// The name in JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Marker => "marker",
            Self::Known => "known",
            Self::Attribution => "attribution",
            Self::HeaderBlock => "header_block",
            Self::HtmlStructure => "html_structure",
            Self::QuotePrefix => "quote_prefix",
            Self::Signature => "signature",
            Self::Forward => "forward",
            Self::FullBody => "full_body",
        }
    }
}

/// The certainty of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// A guess: the product should show the whole mail too.
    Low,
    /// Likely.
    Medium,
    /// As certain as possible.
    #[default]
    High,
}

impl Confidence {
    /// The name in JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Extracts the reply from a mail. Linear in the size of the parts; never panics.
pub fn extract(input: &ReplyInput<'_>) -> Reply {
    let context = CutContext::of(input);
    let plain = input
        .text
        .filter(|text| !text.trim().is_empty())
        .map(|text| PartReply::of_text(text, input, &context));
    let html = input
        .html
        .filter(|html| !html.trim().is_empty())
        .map(|html| PartReply::of_html(html, input, &context));
    match (plain, html) {
        (None, None) => Reply::default(),
        (Some(plain), None) => plain.reply,
        (None, Some(html)) => html.reply,
        (Some(plain), Some(html)) => choose(plain, html),
    }
}

/// The reply of one part of the mail.
struct PartReply {
    reply: Reply,
    /// True if the structure of an HTML part gave evidence.
    structured: bool,
    /// True if only their colour distinguished answers from old mail; only HTML has colours.
    in_colour: bool,
}

impl PartReply {
    fn of_text(text: &str, input: &ReplyInput<'_>, context: &CutContext) -> Self {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        let mut lines = text::lines(&text[..end]);
        let mut cut = cut::cut(&mut lines, input.known, context);
        keep_own_quotes(&mut cut, &lines, input);
        let mut reply = assemble(&lines, &cut);
        reply.truncated = end < text.len();
        Self {
            reply,
            structured: false,
            in_colour: false,
        }
    }

    fn of_html(html: &str, input: &ReplyInput<'_>, context: &CutContext) -> Self {
        let mut page = html::RenderedHtml::read(html);
        let mut cut = cut::cut(&mut page.lines, input.known, context);
        keep_own_quotes(&mut cut, &page.lines, input);
        let mut reply = assemble(&page.lines, &cut);
        reply.truncated = page.truncated;
        reply.html = page.cleaned(&cut.classes, cut.in_colour);
        Self {
            reply,
            structured: page.lines.iter().any(|line| line.mark != LineMark::None),
            in_colour: cut.in_colour,
        }
    }

    /// The number of words of the whole part.
    fn words(&self) -> usize {
        let reply = &self.reply;
        let parts = [&reply.text, &reply.quoted, &reply.signature];
        parts
            .map(|text| text.split_whitespace().count())
            .iter()
            .sum()
    }
}

/// Keeps quotes without attribution, header block or known text, in a mail that is no answer. "The page
/// writes:", without a date or an address, is a person's sentence there.
fn keep_own_quotes(cut: &mut Cut, lines: &[BodyLine], input: &ReplyInput<'_>) {
    if !input.answers_nothing {
        return;
    }
    let tells = |fold: &str| fold.contains(|c: char| c == '@' || c.is_numeric());
    let is_own = match cut.method {
        Method::QuotePrefix | Method::HtmlStructure => true,
        Method::Attribution => !lines.iter().zip(&cut.classes).any(|(line, class)| {
            *class == LineClass::Quoted && line.depth == 0 && tells(&line.fold)
        }),
        _ => false,
    };
    if is_own {
        for class in &mut cut.classes {
            if *class == LineClass::Quoted {
                *class = LineClass::Text;
            }
        }
        cut.method = Method::None;
    }
}

/// True if the subject begins with "Fwd:" or a similar prefix.
fn is_forward(subject: &str) -> bool {
    let subject = fold::fold(subject);
    [
        "fwd:",
        "fw:",
        "wg:",
        "tr:",
        "rv:",
        "enc:",
        "i:",
        "doorst:",
        "vs:",
        "vb:",
        "vl:",
        "pd:",
        "转发:",
        "轉寄:",
        "fwd :",
        "пересл:",
        "továbbítás:",
        "ilt:",
        "yml:",
        "rif:",
    ]
    .iter()
    .any(|prefix| subject.starts_with(prefix))
}

/// Joins the lines of each class.
fn assemble(lines: &[BodyLine], cut: &Cut) -> Reply {
    let mut parts = [String::new(), String::new(), String::new()];
    let mut gap = [false; 3];
    for (at, line) in lines.iter().enumerate() {
        if line.is_blank() && line.depth == 0 {
            gap = [true; 3];
            continue;
        }
        let slot = match cut.classes[at] {
            LineClass::Text => 0,
            LineClass::Quoted => 1,
            LineClass::Signature => 2,
        };
        if gap[slot] && !parts[slot].is_empty() {
            parts[slot].push('\n');
        }
        gap[slot] = false;
        for other in (0..3).filter(|other| *other != slot) {
            gap[other] = true;
        }
        if cut.unmarked[at] {
            parts[slot].push_str("> ");
        }
        parts[slot].push_str(&line.raw);
        parts[slot].push('\n');
    }
    let [text, quoted, signature] = parts.map(|part| part.trim_end().to_owned());
    Reply {
        text,
        quoted,
        signature,
        method: cut.method,
        confidence: cut.confidence,
        ..Reply::default()
    }
}

/// Chooses between the two parts; the HTML of the reply always comes from the HTML part.
fn choose(plain: PartReply, html: PartReply) -> Reply {
    let cleaned = html.reply.html.clone();
    let mut reply = if html_is_better(&plain, &html) {
        html.reply
    } else {
        plain.reply
    };
    reply.html = cleaned;
    reply
}

fn html_is_better(plain: &PartReply, html: &PartReply) -> bool {
    if html.reply.text.is_empty() {
        return false;
    }
    if html.in_colour {
        return true;
    }
    // A text part may only say "Your mail program cannot show HTML".
    let (plain_words, html_words) = (plain.words(), html.words());
    if plain_words * 4 < html_words && plain_words < 60 {
        return true;
    }
    if html_words * 4 < plain_words {
        return false;
    }
    let same = letters(&plain.reply.text).eq(letters(&html.reply.text));
    if same {
        // With equal words, HTML is preferred if it has whole paragraphs where the text is wrapped.
        return html.reply.text.lines().count() < plain.reply.text.lines().count();
    }
    match html.reply.confidence.cmp(&plain.reply.confidence) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => html.structured,
    }
}

fn letters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| c.is_alphanumeric())
}

#[cfg(test)]
mod tests;
