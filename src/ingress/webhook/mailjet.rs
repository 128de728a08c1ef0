//! Owns Mailjet's Parse API: one mail in parts as JSON, with a name and password in the URL.
//!
//! Does not use `To`: `Recipient` is the envelope's.

use super::Adapter;
use super::incoming::{Decoded, Incoming, Malformed, Recipients, Results, base64, reverse_path};
use super::json::{Json, Object};
use super::law::Law;
use super::payload::headers;
use super::proof::{Account, Unproven, basic};
use super::rebuild::{Attachment, Draft};
use super::request::{Authentic, Request};
use super::room;
use crate::clock::Timestamp;

/// Parts that are looked at: each is looked up among all members.
const PARTS_MAX: usize = 1_000;

/// Mailjet's door.
#[derive(Clone, Debug)]
pub struct Mailjet {
    /// Names and passwords in the URL.
    pub accounts: Vec<Account>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Mailjet {
    /// The door with its usual bound.
    pub const fn new(accounts: Vec<Account>) -> Self {
        Self {
            accounts,
            bytes_max: 60 << 20,
        }
    }
}

impl Adapter for Mailjet {
    fn name(&self) -> &'static str {
        "mailjet"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::in_base64(mail_bytes_max));
    }

    fn law(&self) -> Law {
        Law::RETRIES_FOR_LONG
    }

    fn is_marked(&self, request: &Request) -> bool {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        has(b"\"Recipient\"") && has(b"\"Parts\"")
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        Ok(request.proven(basic(request.headers(), &self.accounts)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        let mut draft = Draft::default();
        headers(&mut draft, root.member("Headers")?)?;
        draft.field_if_none("From", root.text("From")?);
        draft.field_if_none("Subject", root.text("Subject")?);
        draft.field_if_none("Date", root.text("Date")?);
        draft.text(root.text("Text-part")?);
        draft.html(root.text("Html-part")?);
        for part in root.list("Parts")?.iter().take(PARTS_MAX) {
            if let Some(file) = attachment(root, part.object("Parts")?)? {
                draft.attach(file);
            }
        }
        let mut results = Results::by(self.name());
        results.add(
            "spam_score",
            None,
            root.scalar("SpamAssassinScore")?.as_deref(),
        );
        Ok(Decoded::Mails(vec![Incoming {
            id: String::new(),
            sender: root.text("Sender")?.and_then(reverse_path),
            recipients: Recipients::Envelope(vec![root.needed_text("Recipient")?.to_owned()]),
            bytes: draft.build(self.name(), ""),
            told: results.told(),
        }]))
    }
}

/// The file a part stands for: its content is a member of the root, by the part's `ContentRef`.
fn attachment(root: Object<'_>, part: Object<'_>) -> Result<Option<Attachment>, Malformed> {
    let Some(name) = part
        .text("ContentRef")?
        .filter(|name| name.contains("Attachment"))
    else {
        return Ok(None);
    };
    let fields = part.object("Headers")?;
    let field = |name: &str| match fields
        .map(|fields| fields.member(name))
        .transpose()?
        .flatten()
    {
        Some(Json::List(values)) => {
            let first = values.first().map(|value| value.text(name)).transpose()?;
            Ok::<_, Malformed>(first.map(str::to_owned))
        }
        Some(value) => Ok(Some(value.text(name)?.to_owned())),
        None => Ok(None),
    };
    let shown = field("Content-Disposition")?.unwrap_or_default();
    let file_name = shown.split_once("filename=").map(|(_, name)| name);
    let file_name =
        file_name.and_then(|name| name.trim_start_matches('"').split(['"', ';']).next());
    Ok(Some(Attachment {
        file_name: file_name.map(str::to_owned),
        media_type: field("Content-Type")?,
        content_id: field("Content-ID")?,
        bytes: base64(root.needed_text(name)?, name)?.into(),
    }))
}
