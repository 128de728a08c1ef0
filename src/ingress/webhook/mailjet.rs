//! Owns Mailjet's Parse API: one mail in parts as JSON, with a name and password in the URL.
//!
//! Does not use `To`, because `Recipient` is the envelope's.

use std::net::IpAddr;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, decode_base64, reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::copy_headers;
use super::proof::{BasicAccount, Proof, basic_auth};
use super::request::{Authentic, WebhookRequest};

/// The number of parts that are read: each needs a search among all members.
const PARTS_MAX: usize = 1_000;

/// Fixed facts about Mailjet.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "mailjet",
    body_bytes: 60 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for Mailjet.
#[derive(Clone, Debug)]
pub struct Mailjet {
    /// The accounts in the URL; each is accepted.
    pub accounts: Vec<BasicAccount>,
}

impl Mailjet {
    /// The adapter with these accounts.
    pub const fn new(accounts: Vec<BasicAccount>) -> Self {
        Self { accounts }
    }
}

impl Adapter for Mailjet {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.body_contains("\"Recipient\"") && request.body_contains("\"Parts\"")
    }

    fn prove_head(
        &self,
        headers: &Headers,
        _: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        basic_auth(headers, &self.accounts)
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        let mut mime = MimeBuilder::default();
        copy_headers(&mut mime, root.member("Headers")?)?;
        for name in ["From", "Subject", "Date"] {
            mime.field_if_absent(name, root.text(name)?);
        }
        mime.text(root.text("Text-part")?);
        mime.html(root.text("Html-part")?);
        for part in root.list("Parts")?.iter().take(PARTS_MAX) {
            if let Some(file) = attachment(root, part.object("Parts")?)? {
                mime.add_file(file);
            }
        }
        let mut results = ProviderResults::of(self.name());
        let score = root.scalar("SpamAssassinScore")?;
        results.add("spam_score", None, score.as_deref());
        Ok(Decoded::Mails(vec![IncomingMail {
            id: String::new(),
            sender: root.text("Sender")?.and_then(reverse_path),
            recipients: Recipients::Envelope(vec![root.required_text("Recipient")?.to_owned()]),
            bytes: mime.build(self.name(), ""),
            results: results.into_verdict(),
        }]))
    }
}

/// The file of a part. Its content is a member of the root, named by the part's `ContentRef`.
fn attachment(root: JsonObject<'_>, part: JsonObject<'_>) -> Result<Option<FilePart>, Malformed> {
    let name = part.text("ContentRef")?;
    let Some(name) = name.filter(|name| name.contains("Attachment")) else {
        return Ok(None);
    };
    let fields = part.object("Headers")?;
    let field = |name: &str| {
        let value = fields.map(|fields| fields.member(name)).transpose()?;
        let first = match value.flatten() {
            Some(Json::List(values)) => values.first(),
            value => value,
        };
        let text = first.map(|value| value.text(name)).transpose()?;
        Ok::<_, Malformed>(text.map(str::to_owned))
    };
    let disposition = field("Content-Disposition")?.unwrap_or_default();
    let file_name = disposition.split_once("filename=").map(|(_, name)| name);
    let file_name =
        file_name.and_then(|name| name.trim_start_matches('"').split(['"', ';']).next());
    Ok(Some(FilePart {
        file_name: file_name.map(str::to_owned),
        media_type: field("Content-Type")?,
        content_id: field("Content-ID")?,
        bytes: decode_base64(root.required_text(name)?, name)?.into(),
    }))
}
