//! Owns the description of a mail's files for the product, and the choice of those to store.
//!
//! Does not store them.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::mail::view::View;
use crate::objects::{AttachmentLimits, LinkSigner, LinkTerms, ObjectId, SkipReason, sniff};
use crate::store::SkippedFile;

/// The maximum number of attachments that a message describes.
const ATTACHMENTS_MAX: usize = 1000;

/// The choice of the files of a mail to store.
#[derive(Clone, Copy, Debug)]
pub enum FileChoice<'a> {
    /// No file is stored.
    NoFile,
    /// The files within these limits.
    Within(&'a AttachmentLimits),
    /// All files but these, as an earlier attempt decided: limits that have changed since then would change
    /// the body of a repeated call.
    AllBut(&'a [SkippedFile]),
}

/// The files of a mail.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The description of each file.
    pub listed: Vec<MessageAttachment>,
    /// The files to store: index in `listed`, id and bytes. A file that occurs twice is here once.
    pub to_store: Vec<(usize, ObjectId, Bytes)>,
    /// The names of pictures that are left out, because the thread has shown them before.
    pub known_images: Vec<String>,
}

/// The description of an attachment. One that is not stored has neither an id nor a URL; size and
/// hash identify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageAttachment {
    /// The id under which the bytes are stored.
    pub id: Option<String>,
    /// The file name without a path.
    pub filename: Option<String>,
    /// The media type that the sender gave.
    pub content_type: String,
    /// The size in bytes, without transfer encoding.
    pub size: usize,
    /// The SHA-256 of the bytes, in lower-case hex.
    pub sha256: String,
    /// True if the file is shown within the text.
    pub inline: bool,
    /// The Content-ID, which `cid:` in the HTML refers to.
    pub content_id: Option<String>,
    /// The URL of the bytes.
    pub url: Option<String>,
    /// The media type of the first bytes, where it differs from the sender's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected_type: Option<&'static str>,
    /// The reason why the file is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'static str>,
}

impl Files {
    /// Reads the files of a mail.
    pub fn of(view: &View, choice: FileChoice<'_>) -> Self {
        let mut files = Self::default();
        let mut before = (0, 0);
        for attachment in view.attachments.iter().take(ATTACHMENTS_MAX) {
            let bytes = attachment.bytes();
            let id = ObjectId::of(&bytes);
            let found = sniff(&bytes);
            let size = bytes.len() as u64;
            let skip = match choice {
                FileChoice::NoFile => None,
                FileChoice::Within(limits) => {
                    let name = attachment.filename.as_deref();
                    let types = [Some(attachment.content_type.as_str()), found];
                    limits.screen(name, types, size, before)
                }
                FileChoice::AllBut(skipped) => {
                    let is_this =
                        |file: &&SkippedFile| usize::from(file.file) == files.listed.len();
                    let this = skipped.iter().find(is_this);
                    this.and_then(|file| SkipReason::of_label(&file.reason))
                }
            };
            if skip.is_none() && !matches!(choice, FileChoice::NoFile) {
                before = (before.0 + 1, before.1 + size);
                files.to_store.push((files.listed.len(), id, bytes));
            }
            files.listed.push(MessageAttachment {
                id: None,
                filename: attachment.filename.clone(),
                content_type: attachment.content_type.clone(),
                size: usize::try_from(size).unwrap_or(usize::MAX),
                sha256: id.to_string(),
                inline: attachment.inline && is_embedded(view, attachment.content_id.as_deref()),
                content_id: attachment.content_id.clone(),
                url: None,
                detected_type: found.filter(|found| *found != attachment.content_type),
                skipped: skip.map(|skip| skip.label()),
            });
        }
        files
    }

    /// The files that are not stored, each with the reason.
    pub(super) fn skipped(&self) -> Vec<SkippedFile> {
        let files = self.listed.iter().enumerate();
        let skipped = files.filter_map(|(at, told)| {
            Some(SkippedFile {
                file: u16::try_from(at).ok()?,
                reason: told.skipped?.to_owned(),
            })
        });
        skipped.collect()
    }

    /// Leaves out the pictures of a signature that an earlier mail of the thread has shown: they
    /// belong to a part of the page that was cut off. `html` is the rest of the page, `seen` are
    /// the known pictures.
    pub(super) fn omit_known_images(&mut self, seen: &[[u8; 8]], html: Option<&str>) {
        let is_gone = |told: &MessageAttachment| {
            let id = told.content_id.as_deref();
            image_digest(told).is_some_and(|image| seen.contains(&image))
                && id.is_some_and(|id| html.is_some_and(|html| !html_references(html, id)))
        };
        let gone: Vec<bool> = self.listed.iter().map(is_gone).collect();
        let mut places = Vec::with_capacity(gone.len());
        let mut left = 0;
        for gone in &gone {
            places.push((!gone).then_some(left));
            left += usize::from(!gone);
        }
        let left_out = self.listed.iter().zip(&gone).filter(|(_, gone)| **gone);
        let name = |told: &MessageAttachment| {
            let name = told.filename.as_ref().unwrap_or(&told.content_type);
            name.clone()
        };
        self.known_images = left_out.map(|(told, _)| name(told)).collect();
        let mut gone = gone.iter();
        self.listed.retain(|_| gone.next() == Some(&false));
        let kept = std::mem::take(&mut self.to_store).into_iter();
        let kept = kept.filter_map(|(at, id, bytes)| Some((places[at]?, id, bytes)));
        self.to_store = kept.collect();
    }

    /// The digests of the pictures in the HTML, for the thread's record.
    pub(super) fn image_digests(&self) -> impl Iterator<Item = [u8; 8]> + '_ {
        self.listed.iter().filter_map(image_digest)
    }

    /// Adds the links to the stored files.
    pub(super) fn add_links(&mut self, links: &LinkSigner, terms: &LinkTerms) {
        for (at, id, _) in &self.to_store {
            let told = &mut self.listed[*at];
            let name = told.filename.as_deref();
            told.url = Some(links.url_on_terms(*id, name, &told.content_type, terms));
            told.id = Some(id.to_string());
        }
    }
}

/// True if an inline part is really shown within the text: some programs mark every picture or file as
/// inline, but the HTML refers only to the shown ones. Without HTML the mark counts.
fn is_embedded(view: &View, content_id: Option<&str>) -> bool {
    let Some(html) = &view.html else {
        return true;
    };
    let Some(id) = content_id else {
        return false;
    };
    html_references(html, id)
}

/// True if the HTML refers to the part with this id.
fn html_references(html: &str, id: &str) -> bool {
    let encoded = id.replace('%', "%25").replace('@', "%40");
    [id, &encoded]
        .iter()
        .any(|id| html.contains(&format!("cid:{id}")))
}

/// The first octets of the hash of a picture in the HTML.
fn image_digest(told: &MessageAttachment) -> Option<[u8; 8]> {
    let is_picture = told.inline && told.content_type.starts_with("image/");
    let start = told.sha256.get(..16).filter(|_| is_picture)?;
    let bytes = HEXLOWER.decode(start.as_bytes()).ok()?;
    bytes.try_into().ok()
}
