//! Owns the choice of parts: text, HTML and attachments.
//!
//! Decodes only the chosen texts, to join them.

use std::collections::BTreeSet;

use super::{Part, TEXT_BYTES_MAX};

/// Indices into the parts, in the order of the mail.
#[derive(Debug, Default)]
pub(super) struct BodyChoice {
    pub(super) text: Vec<usize>,
    pub(super) html: Vec<usize>,
    pub(super) attachments: Vec<usize>,
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
        choice.promote(parts);
        choice
    }

    /// The chosen texts joined, with an empty line between them. Parts that were cut are added to `cut`.
    pub(super) fn joined(
        &self,
        parts: &[Part],
        chosen: &[usize],
        cut: &mut BTreeSet<usize>,
    ) -> Option<String> {
        let mut whole: Option<String> = None;
        for &at in chosen {
            let (text, is_cut) = parts[at].text();
            if is_cut {
                cut.insert(at);
            }
            let whole = whole.get_or_insert_default();
            if !whole.is_empty() {
                whole.truncate(whole.trim_end_matches('\n').len());
                whole.push_str("\n\n");
            }
            let room = TEXT_BYTES_MAX.saturating_sub(whole.len());
            if text.len() > room {
                cut.insert(at);
                whole.push_str(&text[..text.floor_char_boundary(room)]);
                continue;
            }
            whole.push_str(&text);
        }
        whole
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
            "multipart/alternative" => chosen.fold(Self::default(), Self::or),
            "multipart/related" => chosen.fold(Self::default(), Self::with_resource),
            _ => chosen.fold(Self::default(), Self::then),
        }
    }

    fn of_leaf(part: &Part, at: usize) -> Self {
        let content = &part.content;
        let is_root = part.parent.is_none();
        let is_file = content.is_attachment || content.raw_filename.is_some();
        let mut choice = Self::default();
        match content.media_type.as_str() {
            "text/plain" if is_root || !is_file => choice.text.push(at),
            "text/html" if is_root || !is_file => choice.html.push(at),
            // A multipart without any boundary is shown as text.
            _ if content.is_multipart() && is_root => choice.text.push(at),
            _ if content.is_multipart() && part.body.is_empty() => {}
            _ => choice.attachments.push(at),
        }
        choice
    }

    /// If a mail has no other text, its text with a file name is not an attachment.
    fn promote(&mut self, parts: &[Part]) {
        if !self.text.is_empty() || !self.html.is_empty() {
            return;
        }
        for (at, &part) in self.attachments.iter().enumerate() {
            let content = &parts[part].content;
            match content.media_type.as_str() {
                "text/plain" if !content.is_attachment => self.text.push(part),
                "text/html" if !content.is_attachment => self.html.push(part),
                _ => continue,
            }
            self.attachments.remove(at);
            return;
        }
    }

    /// Two alternative forms (RFC 2046 section 5.1.4): of plain texts the first, of HTML the last, which is
    /// the richest; further forms are not the text of the mail.
    fn or(mut self, other: Self) -> Self {
        if self.text.is_empty() {
            self.text = other.text;
        }
        if !other.html.is_empty() {
            self.html = other.html;
        }
        self.attachments.extend(other.attachments);
        self
    }

    /// A document and its resources (RFC 2387): the texts are those of the first part.
    fn with_resource(mut self, other: Self) -> Self {
        if self.text.is_empty() && self.html.is_empty() {
            return self.then(other);
        }
        self.attachments.extend(other.text);
        self.attachments.extend(other.html);
        self.attachments.extend(other.attachments);
        self
    }

    /// The texts and files of two consecutive parts.
    fn then(mut self, other: Self) -> Self {
        self.text.extend(other.text);
        self.html.extend(other.html);
        self.attachments.extend(other.attachments);
        self
    }
}
