//! Owns the account that a message gives of its mail: the things left out, each with its reason, and the
//! warnings.
//!
//! Does not decide which things are left out.

use serde::Serialize;

use super::parsed_mail::ParsedMail;
use crate::mail::mime::Flag;
use crate::mail::reply::{Confidence, Method};
use crate::mail::view::OmissionReason;

/// The maximum number of entries in one message.
const OMITTED_MAX: usize = 100;

/// Something that is not in the message as it came, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Omitted {
    /// The file name, the media type, or `signature`.
    pub what: String,
    /// The reason, as a word.
    pub why: &'static str,
}

/// A reason to look at the whole mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// The text is longer than the part that the message has.
    TextCut,
    /// The body is empty, though the mail holds files, quotes or unreadable parts.
    NoWords,
    /// A part is encrypted.
    Encrypted,
    /// The text has octets of an unknown charset.
    UnknownOctets,
    /// The author announces answers within the old mail, and nothing distinguishes them from it.
    AnswersMayHide,
    /// The message has the whole body, because only quotes and a signature were found in it.
    WholeBody,
}

/// The things of the mail that the message lacks, or has in another form.
pub fn omitted(mail: &ParsedMail) -> Vec<Omitted> {
    let parts = mail.omissions.iter().map(|one| Omitted {
        what: one.what.clone(),
        why: one.why.name(),
    });
    let skipped = mail.files.listed.iter().filter_map(|file| {
        Some(Omitted {
            what: file
                .filename
                .clone()
                .unwrap_or_else(|| file.content_type.clone()),
            why: file.skipped?,
        })
    });
    let images = mail.files.known_images.iter().map(|name| Omitted {
        what: name.clone(),
        why: "known_image",
    });
    let signature = (!mail.reply.signature.is_empty()).then(|| Omitted {
        what: "signature".to_owned(),
        why: "signature",
    });
    let all = parts.chain(skipped).chain(images).chain(signature);
    all.take(OMITTED_MAX).collect()
}

/// The reasons to look at the whole mail.
pub fn warnings(mail: &ParsedMail) -> Vec<Warning> {
    let reply = &mail.reply;
    let is_doubtful = reply.confidence == Confidence::Low;
    let is_whole = reply.method == Method::FullBody;
    let holds_more =
        !(mail.files.listed.is_empty() && mail.omissions.is_empty() && reply.quoted.is_empty());
    let mut encrypted = mail.omissions.iter();
    let found = [
        (mail.flags.contains(&Flag::TextCut), Warning::TextCut),
        (reply.text.trim().is_empty() && holds_more, Warning::NoWords),
        (
            encrypted.any(|one| one.why == OmissionReason::Encrypted),
            Warning::Encrypted,
        ),
        (
            reply.text.contains(char::REPLACEMENT_CHARACTER),
            Warning::UnknownOctets,
        ),
        (is_doubtful && !is_whole, Warning::AnswersMayHide),
        (is_doubtful && is_whole, Warning::WholeBody),
    ];
    let found = found.into_iter().filter(|(is_so, _)| *is_so);
    found.map(|(_, warning)| warning).collect()
}
