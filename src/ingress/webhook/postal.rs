//! Owns Postal's HTTP endpoints: JSON or a form, the raw mail or its parts, and an RSA signature of
//! the body.
//!
//! Does not stop replays by time, for Postal sends none: a mail that comes again is a duplicate.

use super::Adapter;
use super::body_budget;
use super::form::Form;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, decode_base64, loggable_id,
    reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::proof::{AuthenticationError, PublicKey, SignatureHash, rsa};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const SHA256: &str = "x-postal-signature-256";
const SHA1: &str = "x-postal-signature";

/// Postal's door.
#[derive(Clone, Debug)]
pub struct Postal {
    /// The server's public keys.
    pub keys: Vec<PublicKey>,
    /// Take signatures over SHA-1 too, which is all that old servers make.
    pub allows_sha1: bool,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Postal {
    /// The door with its usual bound.
    pub const fn new(keys: Vec<PublicKey>) -> Self {
        Self {
            keys,
            allows_sha1: false,
            bytes_max: 60 << 20,
        }
    }
}

impl Adapter for Postal {
    fn name(&self) -> &'static str {
        "postal"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_base64_mail(mail_bytes_max));
    }

    /// A 4xx, 429 too, makes Postal bounce the mail.
    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::CLIENT_ERRORS_ARE_FINAL
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(SHA256) || request.headers().contains(SHA1)
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let headers = request.headers();
        let (hash, name) = if self.allows_sha1 && !headers.contains(SHA256) {
            (SignatureHash::Sha1, SHA1)
        } else {
            (SignatureHash::Sha256, SHA256)
        };
        let proof = rsa(
            &self.keys,
            hash,
            request.body(),
            headers.required(name)?,
            name,
        )?;
        Ok(request.authenticated(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let request = authentic.request();
        let json = if request.headers().media_type() == "application/json" {
            Json::parse(request.body())?
        } else {
            let form = Form::parse(request)?;
            let member = |name: &str| -> Result<Option<(String, Json)>, Malformed> {
                let text = form.text(name)?;
                Ok(text.map(|text| (name.to_owned(), Json::Text(text.to_owned()))))
            };
            let mut members = Vec::new();
            for name in FIELDS {
                members.extend(member(name)?);
            }
            Json::Object(members)
        };
        let root = json.object("")?;
        let id = root.scalar("id")?.unwrap_or_default();
        let bytes = match root.text("message")? {
            Some(raw) if root.scalar("base64")?.as_deref() == Some("true") => {
                decode_base64(raw, "message")?.into()
            }
            Some(raw) => raw.to_owned().into(),
            None => build_mime(root)?.build(self.name(), &id),
        };
        let mut results = ProviderResults::of(self.name());
        results.add("spam", None, root.text("spam_status")?);
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(&id),
            sender: root.text("mail_from")?.and_then(reverse_path),
            recipients: Recipients::Envelope(vec![root.required_text("rcpt_to")?.to_owned()]),
            bytes,
            results: results.into_told(),
        }]))
    }
}

/// What is read of a form. Attachments in one have no settled names, so they need the raw format.
const FIELDS: [&str; 17] = [
    "id",
    "rcpt_to",
    "mail_from",
    "message",
    "base64",
    "spam_status",
    "subject",
    "message_id",
    "date",
    "from",
    "to",
    "cc",
    "reply_to",
    "in_reply_to",
    "references",
    "plain_body",
    "html_body",
];

fn build_mime(root: JsonObject<'_>) -> Result<MimeBuilder, Malformed> {
    let mut draft = MimeBuilder::default();
    for (field, name) in [
        ("From", "from"),
        ("To", "to"),
        ("Cc", "cc"),
        ("Reply-To", "reply_to"),
        ("Subject", "subject"),
        ("Date", "date"),
        ("References", "references"),
        ("Auto-Submitted", "auto_submitted"),
    ] {
        draft.field_if_absent(field, root.text(name)?);
    }
    // Postal leaves the brackets out.
    for (field, name) in [("Message-ID", "message_id"), ("In-Reply-To", "in_reply_to")] {
        let id = root.text(name)?.map(|id| match id.contains('<') {
            true => id.to_owned(),
            false => format!("<{id}>"),
        });
        draft.field_if_absent(field, id.as_deref());
    }
    let (plain, html) = (root.text("plain_body")?, root.text("html_body")?);
    if plain.is_none() && html.is_none() {
        return Err(Malformed::new(
            "message, plain_body and html_body: all missing",
        ));
    }
    draft.text(plain);
    draft.html(html);
    for file in root.list("attachments")? {
        let file = file.object("attachments")?;
        draft.add_file(FilePart {
            file_name: file.text("filename")?.map(str::to_owned),
            media_type: file.text("content_type")?.map(str::to_owned),
            content_id: None,
            bytes: decode_base64(file.required_text("data")?, "attachments.data")?.into(),
        });
    }
    Ok(draft)
}
