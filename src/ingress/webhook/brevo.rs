//! Owns Brevo's inbound parsing: a batch of mails in parts, with an account or a bearer token.
//!
//! Does not fetch the attachments, which Brevo keeps behind its API: it says where they are.

use std::collections::HashMap;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use ring::digest;

use super::Adapter;
use super::incoming::{
    Decoded, DeferredMail, IncomingMail, MAILS_MAX, Malformed, ProviderResults, Recipients,
    bare_address, loggable_id,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::{copy_headers, with_display_name};
use super::proof::{AuthenticationError, BasicAccount, WebhookSecret, basic_auth, shared_token};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

/// Its name, as it stands in the path.
pub(super) const NAME: &str = "brevo";
/// Files that are fetched for one request.
const FILES_MAX: usize = 500;
/// Octets of the word for a file.
const TOKEN_BYTES_MAX: usize = 2048;

/// Brevo's door. A request needs a bearer token or an account.
#[derive(Clone, Debug)]
pub struct Brevo {
    /// Names and passwords.
    pub accounts: Vec<BasicAccount>,
    /// Whole values of `Authorization`, as `Bearer …`.
    pub authorizations: Vec<WebhookSecret>,
    /// The files can be fetched; else they are named as missing.
    pub fetches_files: bool,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Brevo {
    /// The door with its usual bound.
    pub fn new(accounts: Vec<BasicAccount>, tokens: &[&str]) -> Self {
        let bearer = |token: &&str| WebhookSecret::new(format!("Bearer {token}"));
        Self {
            accounts,
            authorizations: tokens
                .iter()
                .filter(|t| !t.is_empty())
                .map(bearer)
                .collect(),
            fetches_files: false,
            bytes_max: 30 << 20,
        }
    }
}

impl Adapter for Brevo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::RETRIES_FOR_LONG
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        has(b"\"items\"") && (has(b"\"Uuid\"") || has(b"\"RawTextBody\""))
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        _: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let bearer = shared_token(request.headers(), "authorization", &self.authorizations);
        let proof = bearer.or_else(|_| basic_auth(request.headers(), &self.accounts))?;
        Ok(request.authenticated(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let body = authentic.request().body();
        let mails = parse_mails(body, &HashMap::new())?;
        if mails.is_empty() {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        if !self.fetches_files || attachment_tokens(body)?.is_empty() {
            return Ok(Decoded::Mails(mails));
        }
        let digest = digest::digest(&digest::SHA256, body);
        Ok(Decoded::Deferred(DeferredMail {
            // The same request has the same name: told of twice, it is done once.
            id: format!("brevo-{}", HEXLOWER.encode(digest.as_ref())),
            recipients: Recipients::Header(Vec::new()),
            sender: None,
            request: Some(String::from_utf8_lossy(body).into_owned()),
        }))
    }
}

/// The URL of a file in Brevo's API, by the word a request has for it.
pub(super) fn attachment_url(token: &str) -> String {
    format!("https://api.brevo.com/v3/inbound/attachments/{token}")
}

/// The words for the files of a request's mails, each once; at most [`FILES_MAX`].
///
/// # Errors
/// As [`parse_mails`].
pub(super) fn attachment_tokens(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let json = Json::parse(body)?;
    let mut tokens: Vec<String> = Vec::new();
    for item in json.object("")?.required("items")?.list("items")? {
        for file in item.object("items")?.list("Attachments")? {
            let token = attachment_token(file.object("Attachments")?)?;
            if let Some(token) = token
                && tokens.len() < FILES_MAX
                && !tokens.iter().any(|known| known == token)
            {
                tokens.push(token.to_owned());
            }
        }
    }
    Ok(tokens)
}

/// The mails of a request, with those of their files that are in `found` by the words for them. The
/// others are named as missing.
///
/// # Errors
/// It cannot be read.
pub(super) fn parse_mails(
    body: &[u8],
    found: &HashMap<String, Bytes>,
) -> Result<Vec<IncomingMail>, Malformed> {
    let json = Json::parse(body)?;
    let items = json.object("")?.required("items")?.list("items")?;
    if items.len() > MAILS_MAX {
        return Err(Malformed::new(format!("more than {MAILS_MAX} items")));
    }
    let mails = items
        .iter()
        .map(|item| parse_mail(item.object("items")?, found));
    mails.collect()
}

/// It becomes a part of a URL.
fn attachment_token<'a>(file: JsonObject<'a>) -> Result<Option<&'a str>, Malformed> {
    let is_plain = |token: &&str| {
        let mut bytes = token.bytes();
        (1..=TOKEN_BYTES_MAX).contains(&token.len())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'='))
            && !token.bytes().all(|b| b == b'.')
    };
    Ok(file.text("DownloadToken")?.filter(is_plain))
}

fn parse_mail(
    item: JsonObject<'_>,
    found: &HashMap<String, Bytes>,
) -> Result<IncomingMail, Malformed> {
    let ids = item
        .member("Uuid")?
        .map(|ids| ids.texts("Uuid"))
        .transpose()?;
    let id = ids
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default();
    let mut draft = MimeBuilder::default();
    copy_headers(&mut draft, item.member("Headers")?)?;
    let from = item
        .object("From")?
        .map(|from| from.text("Address"))
        .transpose()?
        .flatten();
    let name = item.object("From")?.map(|from| from.text("Name"));
    let name = name.transpose()?.flatten();
    draft.field_if_absent(
        "From",
        from.map(|from| with_display_name(from, name)).as_deref(),
    );
    draft.field_if_absent("Subject", item.text("Subject")?);
    draft.field_if_absent("Date", item.text("SentAtDate")?);
    draft.field_if_absent("Message-ID", item.text("MessageId")?);
    draft.field_if_absent("In-Reply-To", item.text("InReplyTo")?);
    draft.text(item.text("RawTextBody")?);
    draft.html(item.text("RawHtmlBody")?);
    let mut to = Vec::new();
    for name in ["Recipients", "To", "Cc"] {
        for person in item.list(name)? {
            match person {
                Json::Text(address) => to.push(address.clone()),
                person => {
                    let address = person.object(name)?.text("Address")?;
                    to.extend(address.map(str::to_owned));
                }
            }
        }
    }
    let mut results = ProviderResults::of(NAME);
    results.add("spam_score", None, item.scalar("SpamScore")?.as_deref());
    for file in item.list("Attachments")? {
        let file = file.object("Attachments")?;
        let name = file.text("Name")?;
        match attachment_token(file)?.and_then(|token| found.get(token)) {
            Some(bytes) => draft.add_file(FilePart {
                file_name: name.map(str::to_owned),
                media_type: file.text("ContentType")?.map(str::to_owned),
                content_id: file.text("ContentID")?.map(str::to_owned),
                bytes: bytes.clone(),
            }),
            None => draft.add_missing_file(name),
        }
    }
    Ok(IncomingMail {
        id: loggable_id(&id),
        sender: from.and_then(bare_address),
        recipients: Recipients::Header(to),
        bytes: draft.build(NAME, &id),
        results: results.into_told(),
    })
}
