//! Owns the outline of a mail: its header fields and the text of its parts, from which the kind is
//! determined and reports are read.
//!
//! Does not look into attached mails, because a forwarded mail says nothing about the mail that carries it.
//! Decides nothing.

use std::borrow::Cow;

use super::html;
use super::text::cut;
use super::view::{Part, PartContent, View};

/// The number of parts that are read. A report has three; a person's mail may have any number.
const PARTS_MAX: usize = 64;
/// The bytes of each part that are read.
const PART_BYTES_MAX: usize = 128 * 1024;

/// The header of a mail and the leaves of its body, in order.
#[derive(Clone, Debug)]
pub(super) struct Outline<'a> {
    view: &'a View,
    leaves: Vec<Leaf<'a>>,
}

impl<'a> Outline<'a> {
    /// Reads the outline of a mail.
    pub(super) fn of(view: &'a View) -> Self {
        // A multipart without any boundary counts as text.
        let mut is_parent = vec![false; view.parts.len()];
        for parent in view.parts.iter().filter_map(|part| part.parent) {
            is_parent[parent] = true;
        }
        let is_leaf = |(at, _): &(usize, &'a Part)| !is_parent[*at];
        let parts = view.parts.iter().enumerate().filter(is_leaf);
        Self {
            view,
            leaves: parts
                .take(PARTS_MAX)
                .map(|(_, part)| Leaf::of(part))
                .collect(),
        }
    }

    /// The subject, decoded; empty if there is none.
    pub(super) fn subject(&self) -> &'a str {
        self.view.header.subject.as_deref().unwrap_or_default()
    }

    /// The content of the mail as a whole, from its header.
    pub(super) fn content(&self) -> &'a PartContent {
        &self.view.header.content
    }

    /// The leaves: all parts except multiparts. An attached mail is one leaf.
    pub(super) fn leaves(&self) -> &[Leaf<'a>] {
        &self.leaves
    }

    /// The first field of that name.
    pub(super) fn field(&self, name: &str) -> Option<&'a str> {
        self.view.header.header(name)
    }

    /// All fields of that name, in order.
    pub(super) fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a str> + 's {
        let fields = self.view.header.fields().iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.as_str())
    }

    /// True if there is such a field with a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).any(|value| !value.is_empty())
    }

    /// The text of all leaves of that media type.
    pub(super) fn texts<'s>(&'s self, media: &'s str) -> impl Iterator<Item = &'s str> {
        self.leaves
            .iter()
            .filter(move |leaf| leaf.media == media)
            .map(|leaf| leaf.text.as_str())
    }

    /// The beginning of the visible text: the plain text, else the text of the HTML; at most `bytes_max`
    /// bytes.
    pub(super) fn opening(&self, bytes_max: usize) -> Cow<'_, str> {
        let inline = |leaf: &&Leaf<'_>| !leaf.content.is_attachment;
        let mut leaves = self.leaves.iter().filter(inline);
        if let Some(plain) = leaves.find(|leaf| leaf.media == "text/plain") {
            return Cow::Borrowed(cut(&plain.text, bytes_max));
        }
        let html = self.texts("text/html").next().unwrap_or_default();
        Cow::Owned(cut(&text_of_html(html, bytes_max.saturating_mul(8)), bytes_max).to_owned())
    }
}

/// A part that is no multipart.
#[derive(Clone, Debug)]
pub(super) struct Leaf<'a> {
    /// The content, from the header of the part.
    pub(super) content: &'a PartContent,
    /// The media type; `text/plain` for a multipart without parts, and for text of an unknown subtype.
    pub(super) media: &'a str,
    /// The decoded text; for an attached mail, its bytes as text.
    pub(super) text: String,
}

impl<'a> Leaf<'a> {
    fn of(part: &'a Part) -> Self {
        let media = part.content.media_type.as_str();
        let (mut text, _) = if media.starts_with("text/")
            || media.starts_with("message/")
            || part.content.is_multipart()
        {
            part.text()
        } else {
            Default::default()
        };
        text.truncate(text.floor_char_boundary(PART_BYTES_MAX));
        Self {
            content: &part.content,
            media: if part.content.is_multipart()
                || part.content.is_other_text() && !part.content.is_file()
            {
                "text/plain"
            } else {
                media
            },
            text,
        }
    }
}

/// The text of the HTML, of which `bytes_max` bytes are read.
pub(super) fn text_of_html(html: &str, bytes_max: usize) -> String {
    html::parse(cut(html, bytes_max)).words()
}
