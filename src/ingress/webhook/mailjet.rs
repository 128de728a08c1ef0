//! Owns Mailjet's Parse API: one mail in parts as JSON, with a name and password in the URL.
//!
//! Does not use `To`: `Recipient` is the envelope's.

use super::Adapter;
use super::body_budget;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, decode_base64, reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::copy_headers;
use super::proof::{AuthenticationError, BasicAccount, basic_auth};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

/// Parts that are looked at: each is looked up among all members.
const PARTS_MAX: usize = 1_000;

/// Mailjet's door.
#[derive(Clone, Debug)]
pub struct Mailjet {
    /// Names and passwords in the URL.
    pub accounts: Vec<BasicAccount>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Mailjet {
    /// The door with its usual bound.
    pub const fn new(accounts: Vec<BasicAccount>) -> Self {
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

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_base64_mail(mail_bytes_max));
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_FOR_LONG
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        has(b"\"Recipient\"") && has(b"\"Parts\"")
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        Ok(request.authenticated(basic_auth(request.headers(), &self.accounts)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        let mut draft = MimeBuilder::default();
        copy_headers(&mut draft, root.member("Headers")?)?;
        draft.field_if_absent("From", root.text("From")?);
        draft.field_if_absent("Subject", root.text("Subject")?);
        draft.field_if_absent("Date", root.text("Date")?);
        draft.text(root.text("Text-part")?);
        draft.html(root.text("Html-part")?);
        for part in root.list("Parts")?.iter().take(PARTS_MAX) {
            if let Some(file) = attachment(root, part.object("Parts")?)? {
                draft.add_file(file);
            }
        }
        let mut results = ProviderResults::of(self.name());
        results.add(
            "spam_score",
            None,
            root.scalar("SpamAssassinScore")?.as_deref(),
        );
        Ok(Decoded::Mails(vec![IncomingMail {
            id: String::new(),
            sender: root.text("Sender")?.and_then(reverse_path),
            recipients: Recipients::Envelope(vec![root.required_text("Recipient")?.to_owned()]),
            bytes: draft.build(self.name(), ""),
            results: results.into_told(),
        }]))
    }
}

/// The file a part stands for: its content is a member of the root, by the part's `ContentRef`.
fn attachment(root: JsonObject<'_>, part: JsonObject<'_>) -> Result<Option<FilePart>, Malformed> {
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
    Ok(Some(FilePart {
        file_name: file_name.map(str::to_owned),
        media_type: field("Content-Type")?,
        content_id: field("Content-ID")?,
        bytes: decode_base64(root.required_text(name)?, name)?.into(),
    }))
}
