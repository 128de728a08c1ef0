//! Owns Postmark's inbound webhook: JSON, with the raw mail if the server is set to include it; a name and
//! password, and Postmark's own addresses.
//!
//! Does not use `MailboxHash`: the token is read from the recipient.

use std::net::IpAddr;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, bare_address, decode_base64, loggable_id,
    reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::{copy_headers, name_value, with_display_name};
use super::proof::{BasicAccount, Proof, basic_auth, from_networks};
use super::request::{Authentic, WebhookRequest};
use crate::network::Network;

/// Fixed facts about Postmark: it gives up after 403, which a wrong password of ours must not cause. The 35
/// MB of attachments stand twice in base64 in the JSON.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "postmark",
    body_bytes: 110 << 20,
    carries: Carries::EncodedMailAndFiles,
    status_policy: StatusPolicy {
        malformed: 403,
        unroutable: 403,
        ..StatusPolicy::RETRIES_ALL
    },
};

/// The adapter for Postmark, which signs nothing: a request must have an account, and come from one of the
/// networks if any are configured.
#[derive(Clone, Debug)]
pub struct Postmark {
    /// The accounts in the URL; each is accepted.
    pub accounts: Vec<BasicAccount>,
    /// The networks from which Postmark posts; empty for any.
    pub networks: Vec<Network>,
}

impl Postmark {
    /// The adapter with these accounts and networks.
    pub const fn new(accounts: Vec<BasicAccount>, networks: Vec<Network>) -> Self {
        Self { accounts, networks }
    }
}

impl Adapter for Postmark {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has = |mark| request.body_contains(mark);
        request.headers().media_type() == "application/json"
            && (has("\"OriginalRecipient\"") || has("\"MessageStream\""))
    }

    fn prove_head(
        &self,
        headers: &Headers,
        peer: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        if self.networks.is_empty() {
            return basic_auth(headers, &self.accounts);
        }
        let proof = from_networks(peer, &self.networks)?;
        match self.accounts.as_slice() {
            [] => Ok(proof),
            accounts => basic_auth(headers, accounts),
        }
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        if let Some(other) = root.text("RecordType")?
            && !other.eq_ignore_ascii_case("inbound")
        {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        let id = root.text("MessageID")?.unwrap_or_default();
        let fields = root.list("Headers")?;
        let recipients = match root.text("OriginalRecipient")?.and_then(bare_address) {
            Some(recipient) => Recipients::Envelope(vec![recipient]),
            None => Recipients::Header(header_recipients(root)?),
        };
        let bytes = match root.text("RawEmail")?.filter(|raw| !raw.is_empty()) {
            Some(raw) => raw.to_owned().into(),
            // Postmark's "Check" button sends mails with the id zero.
            None => build_mime(root)?.build(self.name(), id),
        };
        let mut results = ProviderResults::of(self.name());
        let value = |name: &str| {
            let mut pairs = fields.iter().filter_map(|pair| name_value(pair).ok());
            let found = pairs.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value)
        };
        let spf = value("Received-SPF").and_then(|value| value.split_whitespace().next());
        results.add("spf", None, spf);
        let spam = value("X-Spam-Status").and_then(|value| value.split(',').next());
        results.add("spam", None, spam);
        results.add("spam_score", None, value("X-Spam-Score"));
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(id),
            sender: sender(root, fields)?,
            recipients,
            bytes,
            results: results.into_verdict(),
        }]))
    }
}

/// The reverse-path: the first field if it is a `Return-Path`, which Postmark adds. A later one is the
/// sender's.
fn sender(root: JsonObject<'_>, fields: &[Json]) -> Result<Option<String>, Malformed> {
    let top = fields.first().and_then(|pair| name_value(pair).ok());
    match top.filter(|(name, _)| name.eq_ignore_ascii_case("return-path")) {
        Some((_, path)) => Ok(reverse_path(path)),
        None => match root.text("From")? {
            Some(from) => Ok(bare_address(from)),
            None => {
                let from = root.object("FromFull")?.map(|from| from.text("Email"));
                Ok(from.transpose()?.flatten().and_then(bare_address))
            }
        },
    }
}

/// The addresses of the header, as Postmark lists them.
fn header_recipients(root: JsonObject<'_>) -> Result<Vec<String>, Malformed> {
    let mut all = Vec::new();
    for name in ["ToFull", "CcFull", "BccFull"] {
        for person in root.list(name)? {
            all.extend(person.object(name)?.text("Email")?.map(str::to_owned));
        }
    }
    Ok(all)
}

/// An address with its display name, as in a header field.
fn display_address(person: JsonObject<'_>) -> Result<Option<String>, Malformed> {
    let Some(address) = person.text("Email")? else {
        return Ok(None);
    };
    Ok(Some(with_display_name(address, person.text("Name")?)))
}

fn build_mime(root: JsonObject<'_>) -> Result<MimeBuilder, Malformed> {
    let mut mime = MimeBuilder::default();
    copy_headers(&mut mime, root.member("Headers")?)?;
    // Postmark removes these from the list, and the author's name from `From`.
    let full = root.object("FromFull")?;
    let name = full.map(|from| from.text("Name")).transpose()?.flatten();
    let name = match name.filter(|name| !name.trim().is_empty()) {
        Some(name) => Some(name),
        None => root.text("FromName")?,
    };
    let from = root.text("From")?.map(|from| with_display_name(from, name));
    mime.field_if_absent("From", from.as_deref());
    for name in ["To", "Cc", "Subject"] {
        mime.field_if_absent(name, root.text(name)?);
    }
    let from = full.map(display_address).transpose()?.flatten();
    mime.field_if_absent("From", from.as_deref());
    for (field, name) in [("To", "ToFull"), ("Cc", "CcFull")] {
        let mut people = Vec::new();
        for person in root.list(name)? {
            people.extend(display_address(person.object(name)?)?);
        }
        mime.field_if_absent(field, Some(&people.join(", ")));
    }
    mime.field_if_absent("Reply-To", root.text("ReplyTo")?);
    mime.field_if_absent("Date", root.text("Date")?);
    mime.text(root.text("TextBody")?);
    mime.html(root.text("HtmlBody")?);
    for file in root.list("Attachments")? {
        let file = file.object("Attachments")?;
        let content = match file.text("Content")? {
            Some(content) => content,
            // Postmark's "Check" button sends this name.
            None => file.required_text("Data")?,
        };
        mime.add_file(FilePart {
            file_name: file.text("Name")?.map(str::to_owned),
            media_type: file.text("ContentType")?.map(str::to_owned),
            content_id: file.text("ContentID")?.map(str::to_owned),
            bytes: decode_base64(content, "Attachments.Content")?.into(),
        });
    }
    Ok(mime)
}
