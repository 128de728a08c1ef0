//! Owns the parts of a mail, including those that the encoding of another part hides.
//!
//! Does not open an attached mail or an encrypted part.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::uuencode::{self, EncodedFile};
use super::{Flag, Omission, OmissionReason, Part, PartContent, cms, tnef, transfer};
use crate::base64::decode_lines;
use crate::mail::calendar::CalendarEvent;
use crate::mail::charset;
use crate::mail::mime::{MailStructure, PARTS_MAX, PartSpan, TransferEncoding};

/// The maximum depth to which containers within containers are opened.
const DEPTH_MAX: usize = 4;
/// The number of octets of a text in which files are searched.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The number of octets that all compressed parts of a mail may become.
const INFLATED_MAX: usize = 64 * 1024 * 1024;

/// The parts of a mail, and the state of the containers among them.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// The parts in the order of the mail; the contents of a part follow it.
    pub(super) parts: Vec<Part>,
    pub(super) flags: BTreeSet<Flag>,
    pub(super) omissions: Vec<Omission>,
    /// The appointment in a container.
    pub(super) calendar: Option<CalendarEvent>,
    /// The number of octets that compressed parts have become.
    inflated: usize,
}

impl Opened {
    /// The parts at `spans` of the mail. `words_charset` is the charset of the header's encoded words.
    pub(super) fn of(
        mail: &Bytes,
        spans: Vec<PartSpan>,
        flags: BTreeSet<Flag>,
        words_charset: Option<&str>,
    ) -> Self {
        let labels = spans
            .iter()
            .filter_map(|span| span.content.parameter("charset"));
        let hint = labels
            .filter(|label| charset::is_known(label))
            .chain(words_charset)
            .next()
            .map(Arc::from);
        let mut opened = Self {
            flags,
            ..Self::default()
        };
        let within = Within {
            parent: None,
            hint,
            depth: 0,
        };
        opened.add_all(mail, spans, &within);
        opened
    }

    /// Adds the parts at `spans` of `source` and their contents. The recursion is at most [`DEPTH_MAX`] deep.
    fn add_all(&mut self, source: &Bytes, spans: Vec<PartSpan>, within: &Within) {
        let mut is_parent = vec![false; spans.len()];
        for parent in spans.iter().filter_map(|span| span.parent) {
            is_parent[parent] = true;
        }
        let mut places = Vec::with_capacity(spans.len());
        for (span, is_parent) in spans.into_iter().zip(is_parent) {
            let parent = span.parent.map(|parent| places[parent]);
            let part = Part {
                body: source.slice(span.body),
                content: span.content,
                parent: parent.or(within.parent),
                charset_hint: within.hint.clone(),
                repeats_mail: false,
            };
            let Some(place) = self.add(part) else {
                return;
            };
            places.push(place);
            if !is_parent && within.depth < DEPTH_MAX {
                self.open(place, &within.below(place));
            }
        }
    }

    /// Adds a part; `None` if there are too many.
    fn add(&mut self, part: Part) -> Option<usize> {
        if self.parts.len() == PARTS_MAX {
            self.flags.insert(Flag::TooManyParts);
            return None;
        }
        self.parts.push(part);
        Some(self.parts.len() - 1)
    }

    /// Adds the contents of a part that has no parts of its own.
    fn open(&mut self, place: usize, within: &Within) {
        let part = &self.parts[place];
        let content = &part.content;
        if content.is_multipart() {
            if content.encoding != TransferEncoding::Identity {
                self.open_multipart(place, within);
            }
        } else if is_cms(content) {
            self.open_cms(place, within);
        } else if is_tnef(content) {
            self.open_tnef(place, within);
        } else if content.media_type == "text/plain"
            && (part.parent.is_none() || !content.is_file())
        {
            self.open_text(place, within);
        }
        let part = &self.parts[place];
        if transfer::has_additions(&part.body, part.content.encoding) {
            self.note(place, OmissionReason::AddedOnTheWay);
        }
    }

    /// Opens a multipart whose whole body is encoded, which RFC 2045 section 6.4 forbids.
    fn open_multipart(&mut self, place: usize, within: &Within) {
        let part = &self.parts[place];
        let body = part.bytes();
        let found = MailStructure::of_multipart(&part.content, &body);
        if found.parts.len() < 2 {
            return;
        }
        self.flags.extend(found.flags);
        let parts = found.parts.into_iter().skip(1).map(|mut span| {
            // The list already has the multipart itself.
            span.parent = span.parent.and_then(|parent| parent.checked_sub(1));
            span
        });
        self.add_all(&body, parts.collect(), within);
    }

    /// Opens the mail within an opaque signature (RFC 8551 section 3.5.2) or within compressed data (section
    /// 3.6). Other signed content, such as a document, is a file.
    fn open_cms(&mut self, place: usize, within: &Within) {
        let bytes = self.parts[place].bytes();
        let unarmoured = unarmoured(&bytes);
        let entity = match cms::read(
            unarmoured.as_deref().unwrap_or(&bytes),
            INFLATED_MAX - self.inflated,
        ) {
            cms::Content::Signed(entity) => Bytes::from(entity),
            cms::Content::Compressed(entity) => {
                self.inflated += entity.len();
                Bytes::from(entity)
            }
            cms::Content::Encrypted => return self.note(place, OmissionReason::Encrypted),
            cms::Content::Other => return self.note(place, OmissionReason::NotRead),
        };
        let found = MailStructure::of_entity(&entity);
        let describes = |name: &[u8]| name.to_ascii_lowercase().starts_with(b"content-");
        let mut fields = found.header.fields.iter();
        if !fields.any(|field| describes(&entity[field.name.clone()])) {
            return self.note(place, OmissionReason::NotRead);
        }
        self.flags.extend(found.flags);
        self.note(place, OmissionReason::Opened);
        self.add_all(&entity, found.parts, within);
    }

    /// Opens the text and files in `winmail.dat`. Its text repeats the mail's own text, if the mail has one.
    fn open_tnef(&mut self, place: usize, within: &Within) {
        let bytes = self.parts[place].bytes();
        let Some(found) = tnef::read(&bytes) else {
            return self.note(place, OmissionReason::NotRead);
        };
        if found == tnef::Tnef::default() {
            return self.note(place, OmissionReason::NotRead);
        }
        self.note(place, OmissionReason::Opened);
        if self.calendar.is_none() {
            self.calendar = found.appointment.map(|appointment| appointment.event());
        }
        self.parts[place].repeats_mail = true;
        let both = self.add(within.part(PartContent::text("multipart/alternative"), Bytes::new()));
        let Some(both) = both else { return };
        let alternatives = within.below(both);
        for (media_type, text) in [("text/plain", found.text), ("text/html", found.html)] {
            let Some(text) = text else { continue };
            let part = alternatives.part(PartContent::text(media_type), text.into());
            if self.add(part).is_none() {
                return;
            }
        }
        for file in found.files {
            let media_type = file.media_type.filter(|name| is_media_type(name));
            let media_type = media_type.as_deref().unwrap_or("application/octet-stream");
            let mut content = PartContent::file(media_type, file.name);
            content.content_id = file.content_id;
            let part = within.part(content, bytes.slice(file.place));
            if self.add(part).is_none() {
                return;
            }
        }
    }

    /// Takes out the files that were written into the text.
    fn open_text(&mut self, place: usize, within: &Within) {
        let part = &self.parts[place];
        if part.body.len() > TEXT_BYTES_MAX {
            return;
        }
        let body = part.bytes();
        let files = uuencode::files(&body);
        if files.is_empty() {
            return;
        }
        let mut words = Vec::with_capacity(body.len());
        let mut at = 0;
        for EncodedFile { place, .. } in &files {
            words.extend_from_slice(&body[at..place.start]);
            at = place.end;
        }
        words.extend_from_slice(&body[at..]);
        let text = part.content.clone().into_decoded_text();
        let files = files.into_iter().map(|file| {
            let content = PartContent::file("application/octet-stream", Some(file.name));
            within.part(content, file.bytes.into())
        });
        for part in std::iter::once(within.part(text, words.into())).chain(files) {
            if self.add(part).is_none() {
                return;
            }
        }
    }

    fn note(&mut self, place: usize, why: OmissionReason) {
        if self.omissions.len() < super::OMISSIONS_MAX {
            self.omissions
                .push(Omission::of_part(&self.parts[place], why));
        }
    }
}

/// The surroundings of parts.
struct Within {
    /// The part that contains them.
    parent: Option<usize>,
    /// A charset that other parts of the mail use.
    hint: Option<Arc<str>>,
    /// The number of containers around them.
    depth: usize,
}

impl Within {
    /// A part in these surroundings.
    fn part(&self, content: PartContent, body: Bytes) -> Part {
        Part {
            content,
            parent: self.parent,
            body,
            charset_hint: self.hint.clone(),
            repeats_mail: false,
        }
    }

    fn below(&self, parent: usize) -> Self {
        Self {
            parent: Some(parent),
            hint: self.hint.clone(),
            depth: self.depth + 1,
        }
    }
}

/// True for S/MIME, by its type or by the file name that programs give it.
fn is_cms(content: &PartContent) -> bool {
    let name = content.raw_filename.as_deref().unwrap_or_default();
    match content.media_type.as_str() {
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => {
            // Certificates alone hold no mail.
            content.parameter("smime-type") != Some("certs-only")
        }
        "application/octet-stream" | "application/pkcs7" | "application/x-pkcs7" => {
            name.eq_ignore_ascii_case("smime.p7m") || name.eq_ignore_ascii_case("smime.p7z")
        }
        _ => false,
    }
}

fn is_tnef(content: &PartContent) -> bool {
    let name = content.raw_filename.as_deref().unwrap_or_default();
    matches!(
        content.media_type.as_str(),
        "application/ms-tnef" | "application/vnd.ms-tnef"
    ) || content.media_type == "application/octet-stream"
        && name.eq_ignore_ascii_case("winmail.dat")
}

/// Decodes base64 that a gateway left, with or without its armour (RFC 7468).
fn unarmoured(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(bytes).ok()?.trim();
    if !(text.starts_with("MI") || text.starts_with("-----BEGIN")) {
        return None;
    }
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    decode_lines(&lines.collect::<Vec<_>>().join("\n"))
}

/// True for `type/subtype` in the characters of a token (RFC 2045 section 5.1).
fn is_media_type(name: &str) -> bool {
    let is_token = |part: &str| {
        (1..=64).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    name.split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}
