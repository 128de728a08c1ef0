//! Owns the account of the things in a mail that are not given on as they came, each with its reason.
//!
//! Does not leave anything out itself.

use super::Part;

/// The maximum number of entries for one mail.
pub const OMISSIONS_MAX: usize = 50;

/// A thing in a mail that is not given on as it came. The raw mail still contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omission {
    /// The file name, or else the media type.
    pub what: String,
    /// The reason.
    pub why: OmissionReason,
}

/// The reason why a thing in a mail is not given on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OmissionReason {
    /// The container was opened, and its contents are given on instead.
    Opened,
    /// The content is encrypted; the file is given on as it is.
    Encrypted,
    /// The container could not be read; the file is given on as it is.
    NotRead,
    /// The same text is given on in another form.
    OtherForm,
    /// A relay put it before or after the encoded text.
    AddedOnTheWay,
}

impl OmissionReason {
    /// The name in the Messages API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Encrypted => "encrypted",
            Self::NotRead => "not_read",
            Self::OtherForm => "other_form",
            Self::AddedOnTheWay => "added_on_the_way",
        }
    }
}

impl Omission {
    pub(super) fn of_part(part: &Part, why: OmissionReason) -> Self {
        let name = part.content.raw_filename.as_deref();
        let what = name.and_then(super::names::cleaned);
        Self {
            what: what.unwrap_or_else(|| part.content.media_type.clone()),
            why,
        }
    }
}
