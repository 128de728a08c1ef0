//! Owns Postmark's inbound webhook: JSON, with the raw mail where the server is set to include it; a
//! name and password, and Postmark's own addresses.
//!
//! Does not use `MailboxHash`: the token is read from the recipient.

use super::Adapter;
use super::body_budget;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, bare_address, decode_base64,
    loggable_id, reverse_path,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::{copy_headers, name_value, with_display_name};
use super::proof::{AuthenticationError, BasicAccount, basic_auth, from_networks};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::network::Network;

/// Postmark's door. There is no signature: a request needs the account, and comes from one of the
/// networks where any are set.
#[derive(Clone, Debug)]
pub struct Postmark {
    /// Names and passwords in the URL.
    pub accounts: Vec<BasicAccount>,
    /// Where Postmark posts from; empty for anywhere.
    pub networks: Vec<Network>,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Postmark {
    /// The door with its usual bound. 35 MB of attachments stand twice in base64 in the JSON.
    pub const fn new(accounts: Vec<BasicAccount>, networks: Vec<Network>) -> Self {
        Self {
            accounts,
            networks,
            bytes_max: 110 << 20,
        }
    }
}

impl Adapter for Postmark {
    fn name(&self) -> &'static str {
        "postmark"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_mail_and_files(mail_bytes_max));
    }

    /// 403 ends its tries; a wrong password of ours must not.
    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy {
            malformed: 403,
            unroutable: 403,
            ..StatusPolicy::RETRIES_ALL
        }
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        request.headers().media_type() == "application/json"
            && (has(b"\"OriginalRecipient\"") || has(b"\"MessageStream\""))
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let mut proof = None;
        if !self.networks.is_empty() {
            proof = Some(from_networks(request.peer(), &self.networks)?);
        }
        if !self.accounts.is_empty() || proof.is_none() {
            proof = Some(basic_auth(request.headers(), &self.accounts)?);
        }
        Ok(request.authenticated(proof.ok_or(AuthenticationError::NoAccount)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
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
            None => {
                // The button "Check" names every mail zero.
                build_mime(root)?.build(self.name(), id)
            }
        };
        let mut results = ProviderResults::of(self.name());
        let told = |name: &str| {
            let mut pairs = fields.iter().filter_map(|pair| name_value(pair).ok());
            let found = pairs.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value)
        };
        let spf = told("Received-SPF").and_then(|value| value.split_whitespace().next());
        results.add("spf", None, spf);
        results.add(
            "spam",
            None,
            told("X-Spam-Status").and_then(|s| s.split(',').next()),
        );
        results.add("spam_score", None, told("X-Spam-Score"));
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(id),
            sender: sender(root, fields)?,
            recipients,
            bytes,
            results: results.into_told(),
        }]))
    }
}

/// The reverse-path: the `Return-Path` on top, which is Postmark's own. A later one is the sender's.
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

/// The addresses of the header, the way Postmark lists them.
fn header_recipients(root: JsonObject<'_>) -> Result<Vec<String>, Malformed> {
    let mut all = Vec::new();
    for name in ["ToFull", "CcFull", "BccFull"] {
        for person in root.list(name)? {
            all.extend(person.object(name)?.text("Email")?.map(str::to_owned));
        }
    }
    Ok(all)
}

/// A person as a header field has one.
fn display_address(person: JsonObject<'_>) -> Result<Option<String>, Malformed> {
    let Some(address) = person.text("Email")? else {
        return Ok(None);
    };
    Ok(Some(with_display_name(address, person.text("Name")?)))
}

fn build_mime(root: JsonObject<'_>) -> Result<MimeBuilder, Malformed> {
    let mut draft = MimeBuilder::default();
    copy_headers(&mut draft, root.member("Headers")?)?;
    // Postmark takes these out of the list, and the author's name out of `From`.
    let full = root.object("FromFull")?;
    let name = full.map(|from| from.text("Name")).transpose()?.flatten();
    let name = match name.filter(|name| !name.trim().is_empty()) {
        Some(name) => Some(name),
        None => root.text("FromName")?,
    };
    let from = root.text("From")?.map(|from| with_display_name(from, name));
    draft.field_if_absent("From", from.as_deref());
    for (field, name) in [("To", "To"), ("Cc", "Cc"), ("Subject", "Subject")] {
        draft.field_if_absent(field, root.text(name)?);
    }
    let from = full.map(display_address).transpose()?.flatten();
    draft.field_if_absent("From", from.as_deref());
    for (field, name) in [("To", "ToFull"), ("Cc", "CcFull")] {
        let mut people = Vec::new();
        for person in root.list(name)? {
            people.extend(display_address(person.object(name)?)?);
        }
        draft.field_if_absent(field, Some(&people.join(", ")));
    }
    draft.field_if_absent("Reply-To", root.text("ReplyTo")?);
    draft.field_if_absent("Date", root.text("Date")?);
    draft.text(root.text("TextBody")?);
    draft.html(root.text("HtmlBody")?);
    for file in root.list("Attachments")? {
        let file = file.object("Attachments")?;
        let content = match file.text("Content")? {
            Some(content) => content,
            // The button "Check" calls it so.
            None => file.required_text("Data")?,
        };
        draft.add_file(FilePart {
            file_name: file.text("Name")?.map(str::to_owned),
            media_type: file.text("ContentType")?.map(str::to_owned),
            content_id: file.text("ContentID")?.map(str::to_owned),
            bytes: decode_base64(content, "Attachments.Content")?.into(),
        });
    }
    Ok(draft)
}
