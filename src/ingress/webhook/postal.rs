//! Owns Postal's HTTP endpoints: JSON or a form, the raw mail or its parts, and an RSA signature of
//! the body.
//!
//! Does not stop replays by time, for Postal sends none: a mail that comes again is a duplicate.

use super::Adapter;
use super::form::Form;
use super::incoming::{
    Decoded, Incoming, Malformed, Recipients, Results, base64, reverse_path, short,
};
use super::json::{Json, Object};
use super::law::Law;
use super::proof::{Hash, PublicKey, Unproven, rsa};
use super::rebuild::{Attachment, Draft};
use super::request::{Authentic, Request};
use super::room;
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

    fn make_room(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self.bytes_max.max(room::in_base64(mail_bytes_max));
    }

    /// A 4xx, 429 too, makes Postal bounce the mail.
    fn law(&self) -> Law {
        Law::CLIENT_ERRORS_ARE_FINAL
    }

    fn is_marked(&self, request: &Request) -> bool {
        request.headers().has(SHA256) || request.headers().has(SHA1)
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        let headers = request.headers();
        let (hash, name) = if self.allows_sha1 && !headers.has(SHA256) {
            (Hash::Sha1, SHA1)
        } else {
            (Hash::Sha256, SHA256)
        };
        let proof = rsa(
            &self.keys,
            hash,
            request.body(),
            headers.needed(name)?,
            name,
        )?;
        Ok(request.proven(proof))
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
                base64(raw, "message")?.into()
            }
            Some(raw) => raw.to_owned().into(),
            None => parsed(root)?.build(self.name(), &id),
        };
        let mut results = Results::by(self.name());
        results.add("spam", None, root.text("spam_status")?);
        Ok(Decoded::Mails(vec![Incoming {
            id: short(&id),
            sender: root.text("mail_from")?.and_then(reverse_path),
            recipients: Recipients::Envelope(vec![root.needed_text("rcpt_to")?.to_owned()]),
            bytes,
            told: results.told(),
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

fn parsed(root: Object<'_>) -> Result<Draft, Malformed> {
    let mut draft = Draft::default();
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
        draft.field_if_none(field, root.text(name)?);
    }
    // Postal leaves the brackets out.
    for (field, name) in [("Message-ID", "message_id"), ("In-Reply-To", "in_reply_to")] {
        let id = root.text(name)?.map(|id| match id.contains('<') {
            true => id.to_owned(),
            false => format!("<{id}>"),
        });
        draft.field_if_none(field, id.as_deref());
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
        draft.attach(Attachment {
            file_name: file.text("filename")?.map(str::to_owned),
            media_type: file.text("content_type")?.map(str::to_owned),
            content_id: None,
            bytes: base64(file.needed_text("data")?, "attachments.data")?.into(),
        });
    }
    Ok(draft)
}
