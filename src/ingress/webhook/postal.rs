//! Owns Postal's HTTP endpoints: JSON or a form, the raw mail or its parts, and an RSA signature of the
//! body.
//!
//! Does not reject old requests, because Postal sends no time: a repeated mail is a duplicate.

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::form::Form;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, decode_base64, loggable_id, reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::proof::{SignatureHash, rsa};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::tls::PublicKey;

const SHA256: &str = "x-postal-signature-256";
const SHA1: &str = "x-postal-signature";

/// Fixed facts about Postal: it bounces the mail after any 4xx, including 429.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "postal",
    body_bytes: 60 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy::CLIENT_ERRORS_ARE_FINAL,
};

/// The adapter for Postal.
#[derive(Clone, Debug)]
pub struct Postal {
    /// The public keys of the Postal server.
    pub keys: Vec<PublicKey>,
    /// True if signatures over SHA-1 are accepted too, which old servers make.
    pub allows_sha1: bool,
}

impl Postal {
    /// The adapter with these keys, without SHA-1.
    pub const fn new(keys: Vec<PublicKey>) -> Self {
        Self {
            keys,
            allows_sha1: false,
        }
    }
}

impl Adapter for Postal {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
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
        let signature = headers.required(name)?;
        let proof = rsa(&self.keys, hash, request.body(), signature, name)?;
        Ok(request.authenticated(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let of_form;
        let json = if authentic.request().headers().media_type() == "application/json" {
            authentic.json()?
        } else {
            of_form = form_as_json(authentic.form()?)?;
            &of_form
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
            results: results.into_verdict(),
        }]))
    }
}

/// The fields of a form that are read. Attachments in a form have no fixed names, so they need the raw
/// format.
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

fn form_as_json(form: &Form) -> Result<Json, Malformed> {
    let mut members = Vec::new();
    for name in FIELDS {
        if let Some(text) = form.text(name)? {
            members.push((name.to_owned(), Json::Text(text.to_owned())));
        }
    }
    Ok(Json::Object(members))
}

fn build_mime(root: JsonObject<'_>) -> Result<MimeBuilder, Malformed> {
    let mut mime = MimeBuilder::default();
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
        mime.field_if_absent(field, root.text(name)?);
    }
    // Postal leaves out the brackets.
    for (field, name) in [("Message-ID", "message_id"), ("In-Reply-To", "in_reply_to")] {
        let id = root.text(name)?.map(|id| match id.contains('<') {
            true => id.to_owned(),
            false => format!("<{id}>"),
        });
        mime.field_if_absent(field, id.as_deref());
    }
    let (plain, html) = (root.text("plain_body")?, root.text("html_body")?);
    if plain.is_none() && html.is_none() {
        return Err(Malformed::new(
            "message, plain_body and html_body: all missing",
        ));
    }
    mime.text(plain);
    mime.html(html);
    for file in root.list("attachments")? {
        let file = file.object("attachments")?;
        mime.add_file(FilePart {
            file_name: file.text("filename")?.map(str::to_owned),
            media_type: file.text("content_type")?.map(str::to_owned),
            content_id: None,
            bytes: decode_base64(file.required_text("data")?, "attachments.data")?.into(),
        });
    }
    Ok(mime)
}
