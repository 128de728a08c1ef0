//! Owns the account of what a mail holds that is not given on as it came, and why.
//!
//! Does not leave anything out itself.

use super::Part;

/// Entries that are kept for one mail.
pub const OMISSIONS_MAX: usize = 50;

/// Something of a mail that is not given on as it came. The raw mail still holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omission {
    /// The file name, or else the media type.
    pub what: String,
    /// The reason.
    pub why: OmissionReason,
}

/// The reason why something of a mail is not given on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OmissionReason {
    /// The container was opened, and what lay in it is given on instead.
    Opened,
    /// The content is encrypted; the file is given on as it is.
    Encrypted,
    /// The container could not be read; the file is given on as it is.
    NotRead,
    /// The same text is given on in another form.
    OtherForm,
    /// Somebody on the way put it before or behind the encoded text.
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
