//! Owns the choice of parts: text, HTML and attachments.
//!
//! Decodes only the chosen texts, to join them.

use std::collections::{BTreeSet, HashSet};

use super::{Part, TEXT_BYTES_MAX, names, omission::Omission, omission::OmissionReason};
use crate::mail::calendar::CalendarEvent;
use crate::mail::text::cut;
use crate::mail::{html, markup};

/// The maximum size in octets of a named file that may be the mail's text.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Octets at the start of a page that are searched for words first.
const START_BYTES_MAX: usize = 2 * 1024;

/// Indices into the parts, in the order of the mail.
#[derive(Debug, Default)]
pub(super) struct BodyChoice {
    /// The pieces of the mail's text, in order.
    pieces: Vec<Piece>,
    /// Pieces of a container that repeats the mail. They count only if the other pieces lack their words.
    reserve: Vec<Piece>,
    pub(super) attachments: Vec<usize>,
    /// Parts whose text is given on in another form.
    unused: Vec<usize>,
}

/// One piece of the mail's text, in one form or in several.
#[derive(Clone, Debug, Default)]
struct Piece {
    text: Vec<usize>,
    html: Vec<usize>,
    /// The parts of an unknown text subtype.
    other: Vec<usize>,
}

/// A piece, decoded.
struct ReadPiece {
    text: Option<String>,
    html: Option<String>,
    parts: Vec<usize>,
}

/// The text of the mail, decoded.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    /// Parts that are not given on whole.
    pub(super) cut: BTreeSet<usize>,
}

impl BodyChoice {
    pub(super) fn of(parts: &[Part]) -> Self {
        let mut children = vec![Vec::new(); parts.len()];
        for (at, part) in parts.iter().enumerate() {
            if let Some(parent) = part.parent {
                children[parent].push(at);
            }
        }
        let mut choice = Self::of_part(parts, &children, 0);
        choice.attachments.sort_unstable();
        if choice.pieces.is_empty() {
            choice.promote(parts, |part| !part.content.is_attachment);
        }
        choice
    }

    /// The text and the HTML, with an empty line between two pieces. If no piece has any words, a text that
    /// came as a file is the text.
    pub(super) fn body(&mut self, parts: &[Part]) -> Body {
        let body = Self::joined(parts, &self.pieces);
        if !self.reserve.is_empty() {
            let reserve = Self::joined(parts, &self.reserve);
            if reserve.has_words() && !body.says(&reserve.words()) {
                if body.has_words() {
                    self.pieces.append(&mut self.reserve);
                    return Self::joined(parts, &self.pieces);
                }
                return reserve;
            }
        }
        if body.has_words() {
            return body;
        }
        let is_text = |part: &&Part| {
            matches!(part.content.media_type.as_str(), "text/plain" | "text/html")
                && part.body.len() <= FILE_BYTES_MAX
        };
        let files = self.attachments.iter().map(|&at| &parts[at]);
        if files.filter(is_text).count() == 1
            && self.promote(parts, |part| part.body.len() <= FILE_BYTES_MAX)
        {
            let promoted = Self::joined(parts, &self.pieces);
            if promoted.has_words() {
                return promoted;
            }
        }
        body
    }

    /// The parts that are not given on in their own form.
    pub(super) fn omissions(&self, parts: &[Part]) -> impl Iterator<Item = Omission> {
        let of = |at: &usize| Omission::of_part(&parts[*at], OmissionReason::OtherForm);
        self.unused.iter().map(of).collect::<Vec<_>>().into_iter()
    }

    fn joined(parts: &[Part], pieces: &[Piece]) -> Body {
        let mut body = Body::default();
        let mut read: Vec<ReadPiece> = pieces
            .iter()
            .map(|piece| ReadPiece {
                text: body.read(parts, &piece.text),
                html: body.read(parts, &piece.html),
                parts: [piece.text.as_slice(), &piece.html].concat(),
            })
            .collect();
        same_words_are_one(&mut read);
        let has_text = read.iter().any(|piece| piece.text.is_some());
        let has_html = read.iter().any(|piece| piece.html.is_some());
        for piece in read {
            let mut fits = true;
            if has_text {
                let words = || Some(html::parse(piece.html.as_deref()?).words());
                let words = piece.text.clone().or_else(words).unwrap_or_default();
                fits &= append(body.text.get_or_insert_default(), &words);
            }
            if has_html {
                let page = piece.html.or_else(|| piece.text.as_deref().map(as_page));
                fits &= append(body.html.get_or_insert_default(), &page.unwrap_or_default());
            }
            if !fits {
                body.cut.extend(piece.parts);
            }
        }
        body
    }

    /// The recursion is bounded by the number of open multiparts.
    fn of_part(parts: &[Part], children: &[Vec<usize>], at: usize) -> Self {
        let part = &parts[at];
        if children[at].is_empty() {
            return Self::of_leaf(part, at);
        }
        let chosen = children[at]
            .iter()
            .map(|&child| Self::of_part(parts, children, child));
        match part.content.media_type.as_str() {
            "multipart/alternative" => {
                let mut one = chosen.fold(Self::default(), Self::or).settled();
                one.set_data_aside(parts, at);
                one
            }
            "multipart/related" => chosen.fold(Self::default(), Self::with_resource).settled(),
            _ if part.repeats_mail => {
                let mut inner = chosen.fold(Self::default(), Self::then).settled();
                inner.reserve.append(&mut inner.pieces);
                inner
            }
            _ => chosen.fold(Self::default(), Self::then).settled(),
        }
    }

    fn of_leaf(part: &Part, at: usize) -> Self {
        let content = &part.content;
        let is_root = part.parent.is_none();
        let name = content.raw_filename.as_deref();
        let is_file = content.is_file() && !name.is_some_and(names::is_made_up);
        let mut choice = Self::default();
        let mut piece = Piece::default();
        match content.media_type.as_str() {
            "text/plain" if is_root || !is_file => piece.text.push(at),
            "text/html" if is_root || !is_file => piece.html.push(at),
            _ if content.is_other_text() && (is_root || !content.is_file()) => {
                piece.other.push(at);
            }
            // A multipart without any boundary is shown as text.
            _ if content.is_multipart() && is_root => piece.text.push(at),
            _ if content.is_multipart() && part.body.is_empty() => return choice,
            _ => {
                choice.attachments.push(at);
                return choice;
            }
        }
        choice.pieces.push(piece);
        if is_root { choice.settled() } else { choice }
    }

    /// If a mail has no other text, its text with a file name is not an attachment.
    fn promote(&mut self, parts: &[Part], may_be: impl Fn(&Part) -> bool) -> bool {
        for (at, &part) in self.attachments.iter().enumerate() {
            let content = &parts[part].content;
            let mut piece = Piece::default();
            match content.media_type.as_str() {
                "text/plain" if may_be(&parts[part]) => piece.text.push(part),
                "text/html" if may_be(&parts[part]) => piece.html.push(part),
                _ => continue,
            }
            self.pieces.push(piece);
            let is_named = content.raw_filename.as_deref().is_some_and(is_chosen);
            if !(content.is_attachment && is_named) {
                self.attachments.remove(at);
            }
            return true;
        }
        false
    }

    /// Two alternative forms (RFC 2046 section 5.1.4): of plain texts the first, of HTML the last, which is
    /// the richest; further forms are not the text of the mail.
    fn or(mut self, other: Self) -> Self {
        let mut one = Piece::default();
        for piece in self.pieces.drain(..) {
            one.add(piece);
        }
        let mut two = Piece::default();
        for piece in other.pieces {
            two.add(piece);
        }
        if one.text.is_empty() {
            one.text = two.text;
        }
        if !two.html.is_empty() {
            one.html = two.html;
        }
        one.other.extend(two.other);
        self.pieces.push(one);
        self.attachments.extend(other.attachments);
        self.reserve.extend(other.reserve);
        self.unused.extend(other.unused);
        self
    }

    /// Moves the nameless JSON forms of the text at `at` from the files to the unused forms: they are for
    /// programs.
    fn set_data_aside(&mut self, parts: &[Part], at: usize) {
        if self.pieces.is_empty() {
            return;
        }
        let is_data = |part: &usize| {
            let content = &parts[*part].content;
            let is_json = content.media_type.ends_with("json");
            parts[*part].parent == Some(at) && is_json && !content.is_file()
        };
        let (data, files) = self.attachments.drain(..).partition(is_data);
        self.attachments = files;
        self.unused.extend::<Vec<usize>>(data);
    }

    /// A document and its resources (RFC 2387): the texts are those of the first part.
    fn with_resource(mut self, other: Self) -> Self {
        if self.pieces.is_empty() {
            return self.then(other);
        }
        for piece in other.pieces {
            self.attachments.extend(piece.text);
            self.attachments.extend(piece.html);
            self.attachments.extend(piece.other);
        }
        self.attachments.extend(other.attachments);
        self
    }

    /// The texts and files of two consecutive parts.
    fn then(mut self, other: Self) -> Self {
        self.pieces.extend(other.pieces);
        self.reserve.extend(other.reserve);
        self.attachments.extend(other.attachments);
        self.unused.extend(other.unused);
        self
    }

    /// Decides about text of an unknown subtype: alone it is plain text; beside a known form it is not
    /// needed.
    fn settled(mut self) -> Self {
        for piece in &mut self.pieces {
            let other = std::mem::take(&mut piece.other);
            let mut other = other.into_iter();
            if piece.text.is_empty() && piece.html.is_empty() {
                piece.text.extend(other.next());
            }
            self.unused.extend(other);
        }
        self.pieces
            .retain(|piece| !(piece.text.is_empty() && piece.html.is_empty()));
        self
    }
}

impl Piece {
    fn add(&mut self, other: Self) {
        self.text.extend(other.text);
        self.html.extend(other.html);
        self.other.extend(other.other);
    }
}

impl Body {
    /// The text of the chosen parts, one after the other; a part that does not fit whole is cut.
    fn read(&mut self, parts: &[Part], chosen: &[usize]) -> Option<String> {
        let mut whole: Option<String> = None;
        for &at in chosen {
            let (text, is_cut) = parts[at].text();
            if !append(whole.get_or_insert_default(), &text) || is_cut {
                self.cut.insert(at);
            }
        }
        whole
    }

    /// Adds the event's text if the mail has none, and the parts of an answer that the mail's text lacks.
    pub(super) fn add_event(&mut self, event: &CalendarEvent) {
        if !self.has_words() {
            self.text = Some(event.words());
            return;
        }
        let Some(comment) = event.comment.as_deref().filter(|_| event.is_answer()) else {
            return;
        };
        let shown = [self.text.as_deref(), self.html.as_deref()];
        if shown
            .into_iter()
            .flatten()
            .any(|text| says_the_same(comment, text))
        {
            return;
        }
        if let Some(text) = &mut self.text {
            *text = format!("{comment}\n\n{text}");
        }
        if let Some(html) = &mut self.html {
            html.insert_str(0, &as_page(comment));
        }
    }

    /// True if the body contains nearly all words of a text.
    fn says(&self, text: &str) -> bool {
        let (said, ours) = (words_of(text), words_of(&self.words()));
        said.intersection(&ours).count() * 10 >= said.len() * 8
    }

    /// The words of both forms.
    fn words(&self) -> String {
        let mut words = self.text.clone().unwrap_or_default();
        if let Some(html) = &self.html {
            words.push('\n');
            words.push_str(&html::parse(html).words());
        }
        words
    }

    fn has_words(&self) -> bool {
        let has_any = |text: &str| !text.trim_matches(is_blank_char).is_empty();
        self.text.as_deref().is_some_and(has_any)
            || self.html.as_deref().is_some_and(|html| {
                // The words of whole tags at the start are words of the page.
                let start = cut(html, START_BYTES_MAX);
                let start = &start[..start.rfind('<').unwrap_or_default()];
                has_any(&html::parse(start).words()) || has_any(&html::parse(html).words())
            })
    }
}

fn is_blank_char(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}'..='\u{200f}')
}

/// True if a person chose the name.
fn is_chosen(name: &str) -> bool {
    !names::is_made_up(name)
        && !matches!(
            name.to_ascii_lowercase().as_str(),
            "text.txt" | "message.txt" | "body.txt" | "text.html" | "body.html" | "message.html"
        )
}

/// Appends a piece within the bound on text; false if it does not fit whole.
fn append(whole: &mut String, piece: &str) -> bool {
    if !whole.is_empty() {
        whole.truncate(whole.trim_end_matches('\n').len());
        whole.push_str("\n\n");
    }
    let room = TEXT_BYTES_MAX.saturating_sub(whole.len());
    let end = piece.floor_char_boundary(room);
    whole.push_str(&piece[..end]);
    end == piece.len()
}

/// Merges two pieces with the same words: some programs send both forms one after the other, not as
/// alternatives.
fn same_words_are_one(pieces: &mut Vec<ReadPiece>) {
    let mut at = 1;
    while at < pieces.len() {
        let (one, two) = (&pieces[at - 1], &pieces[at]);
        let is_same = match [(&one.text, &two.html), (&two.text, &one.html)] {
            [(Some(text), Some(html)), (None, None)] | [(None, None), (Some(text), Some(html))] => {
                says_the_same(text, html)
            }
            _ => false,
        };
        if is_same {
            let two = pieces.remove(at);
            let one = &mut pieces[at - 1];
            one.text = one.text.take().or(two.text);
            one.html = one.html.take().or(two.html);
            one.parts.extend(two.parts);
        } else {
            at += 1;
        }
    }
}

/// True if two texts have most of their words in common.
fn says_the_same(text: &str, html: &str) -> bool {
    let page = html::parse(html).words();
    let letters = |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).collect() };
    let (words, page_words) = (words_of(text), words_of(&page));
    let shared = words.intersection(&page_words).count();
    shared * 10 >= words.len().max(page_words.len()) * 7 || letters(&page) == letters(text)
}

fn words_of(text: &str) -> HashSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Plain text as a piece of a page.
fn as_page(text: &str) -> String {
    let mut page = String::with_capacity(text.len() + text.len() / 8);
    page.push_str("<div>");
    for line in text.trim_matches('\n').split('\n') {
        markup::escape(line, &mut page);
        page.push_str("<br>");
    }
    page.push_str("</div>");
    page
}
