//! Owns Brevo's inbound parsing: a batch of mails in parts, authenticated by an account or a bearer token.
//!
//! Does not fetch the attachments, which Brevo keeps behind its API; it returns their URLs.

use std::collections::HashMap;
use std::net::IpAddr;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use ring::digest;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::headers::Headers;
use super::incoming::{
    Decoded, DeferredMail, IncomingMail, MAILS_MAX, ProviderResults, Recipients, bare_address,
    loggable_id,
};
use super::json::{Json, JsonObject};
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::payload::{copy_headers, with_display_name};
use super::proof::{BasicAccount, Proof, basic_auth, shared_token};
use super::request::{Authentic, WebhookRequest};
use crate::secret::Secret;

/// The number of files that are fetched for one request.
const FILES_MAX: usize = 500;
/// Octets of the token of a file.
const TOKEN_BYTES_MAX: usize = 2048;

/// Fixed facts about Brevo.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "brevo",
    body_bytes: 30 << 20,
    carries: Carries::Nothing,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for Brevo. A request must have a bearer token or an account.
#[derive(Clone, Debug)]
pub struct Brevo {
    /// The accounts; each is accepted.
    pub accounts: Vec<BasicAccount>,
    /// Whole values of `Authorization`, such as `Bearer …`; each is accepted.
    pub authorizations: Vec<Secret>,
    /// True if the files of a mail can be fetched; otherwise the mail lists them as missing.
    pub fetches_files: bool,
}

impl Brevo {
    /// The adapter with these accounts and bearer tokens, which fetches no files.
    pub fn new(accounts: Vec<BasicAccount>, tokens: &[&str]) -> Self {
        let tokens = tokens.iter().filter(|token| !token.is_empty());
        Self {
            accounts,
            authorizations: tokens
                .map(|token| Secret::new(format!("Bearer {token}")))
                .collect(),
            fetches_files: false,
        }
    }
}

impl Adapter for Brevo {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let has = |mark| request.body_contains(mark);
        has("\"items\"") && (has("\"Uuid\"") || has("\"RawTextBody\""))
    }

    fn prove_head(
        &self,
        headers: &Headers,
        _: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        let bearer = shared_token(headers, "authorization", &self.authorizations);
        bearer.or_else(|_| basic_auth(headers, &self.accounts))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let items = items(authentic.json()?)?;
        let read = |item: &Json| parse_mail(item.object("items")?, &HashMap::new()).map(Some);
        // The mails must be valid now; with their files they are decoded after the fetch.
        let decoded = Decoded::batch(items, read, "no inbound mail")?;
        let unreadable = match &decoded {
            Decoded::Partial(_, unreadable) => unreadable.as_slice(),
            _ => &[],
        };
        let is_readable = |at: usize| !unreadable.iter().any(|item| item.number == at + 1);
        let readable = items.iter().enumerate().filter(|(at, _)| is_readable(*at));
        let readable: Vec<_> = readable.map(|(_, item)| item).collect();
        if !self.fetches_files || tokens_of(&readable)?.is_empty() {
            return Ok(decoded);
        }
        let body = authentic.request().body();
        let request = match unreadable {
            [] => String::from_utf8_lossy(body).into_owned(),
            _ => request_of(&readable),
        };
        let digest = digest::digest(&digest::SHA256, body);
        let mail = DeferredMail {
            // A repeated request has the same id, so it is fetched once.
            id: format!("brevo-{}", HEXLOWER.encode(digest.as_ref())),
            recipients: Recipients::Header(Vec::new()),
            sender: None,
            request: Some(request),
        };
        let unreadable = match decoded {
            Decoded::Partial(_, unreadable) => unreadable,
            _ => Vec::new(),
        };
        Ok(Decoded::Deferred(mail, unreadable))
    }
}

/// A request with these items.
fn request_of(items: &[&Json]) -> String {
    let items = items.iter().copied().cloned().collect();
    Json::Object(vec![("items".to_owned(), Json::List(items))]).to_text()
}

/// The URL of a file in Brevo's API, by its token.
pub(super) fn attachment_url(token: &str) -> String {
    format!("https://api.brevo.com/v3/inbound/attachments/{token}")
}

/// The tokens of all files of a request's mails, each once; at most [`FILES_MAX`].
///
/// # Errors
/// Like [`parse_mails`].
pub(super) fn attachment_tokens(json: &Json) -> Result<Vec<String>, Malformed> {
    tokens_of(&items(json)?.iter().collect::<Vec<_>>())
}

fn tokens_of(items: &[&Json]) -> Result<Vec<String>, Malformed> {
    let mut tokens: Vec<String> = Vec::new();
    for item in items {
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

/// The mails of a request, with the files in `files` by their tokens. The others are listed as missing.
///
/// # Errors
/// The request is malformed.
pub(super) fn parse_mails(
    json: &Json,
    files: &HashMap<String, Bytes>,
) -> Result<Vec<IncomingMail>, Malformed> {
    let mails = items(json)?
        .iter()
        .map(|item| parse_mail(item.object("items")?, files));
    mails.collect()
}

/// The items of a request, at most [`MAILS_MAX`].
fn items(json: &Json) -> Result<&[Json], Malformed> {
    let items = json.object("")?.required("items")?.list("items")?;
    match items.len() > MAILS_MAX {
        true => Err(Malformed::new(format!("more than {MAILS_MAX} items"))),
        false => Ok(items),
    }
}

/// The token of a file, if it is valid in a URL.
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
    files: &HashMap<String, Bytes>,
) -> Result<IncomingMail, Malformed> {
    let ids = item.member("Uuid")?.map(|ids| ids.texts("Uuid"));
    let ids = ids.transpose()?.unwrap_or_default();
    let id = ids.into_iter().next().unwrap_or_default();
    let mut mime = MimeBuilder::default();
    copy_headers(&mut mime, item.member("Headers")?)?;
    let author = item.object("From")?;
    let text = |name| author.map(|author| author.text(name)).transpose();
    let from = text("Address")?.flatten();
    let name = text("Name")?.flatten();
    let shown = from.map(|from| with_display_name(from, name));
    mime.field_if_absent("From", shown.as_deref());
    mime.field_if_absent("Subject", item.text("Subject")?);
    mime.field_if_absent("Date", item.text("SentAtDate")?);
    mime.field_if_absent("Message-ID", item.text("MessageId")?);
    mime.field_if_absent("In-Reply-To", item.text("InReplyTo")?);
    mime.text(item.text("RawTextBody")?);
    mime.html(item.text("RawHtmlBody")?);
    for file in item.list("Attachments")? {
        let file = file.object("Attachments")?;
        // All is read whether the file is there or not: a mail that can be read without its files can be
        // read with them.
        let [name, media_type, content_id] = [
            file.text("Name")?,
            file.text("ContentType")?,
            file.text("ContentID")?,
        ];
        match attachment_token(file)?.and_then(|token| files.get(token)) {
            Some(bytes) => mime.add_file(FilePart {
                file_name: name.map(str::to_owned),
                media_type: media_type.map(str::to_owned),
                content_id: content_id.map(str::to_owned),
                bytes: bytes.clone(),
            }),
            None => mime.add_missing_file(name),
        }
    }
    let mut results = ProviderResults::of(INFO.name);
    results.add("spam_score", None, item.scalar("SpamScore")?.as_deref());
    Ok(IncomingMail {
        sender: from.and_then(bare_address),
        recipients: Recipients::Header(recipients(item)?),
        bytes: mime.build(INFO.name, &id),
        results: results.into_verdict(),
        id: loggable_id(&id),
    })
}

fn recipients(item: JsonObject<'_>) -> Result<Vec<String>, Malformed> {
    let mut all = Vec::new();
    for name in ["Recipients", "To", "Cc"] {
        for person in item.list(name)? {
            match person {
                Json::Text(address) => all.push(address.clone()),
                person => {
                    let address = person.object(name)?.text("Address")?;
                    all.extend(address.map(str::to_owned));
                }
            }
        }
    }
    Ok(all)
}
