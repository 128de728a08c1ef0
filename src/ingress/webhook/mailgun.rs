//! Owns Mailgun's routes: a form with the raw mail (`body-mime`) or its parts, and an HMAC of timestamp and
//! token.
//!
//! Does not trust the signature for the content, which it does not cover: each token is bound to the
//! content of its first use.

use std::time::Duration;

use ring::digest;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::form::Form;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, loggable_id, parse_addresses, reverse_path,
};
use super::json::Json;
use super::mime::{FilePart, MimeBuilder};
use super::outcome::{StatusPolicy, WebhookOutcome};
use super::payload::{copy_headers, name_value};
use super::proof::{RequestMac, SignatureEncoding, SignatureHash, check_age, parse_digits};
use super::replay::nonce_of;
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::store::Nonce;

/// The number of Content-IDs that are examined for each file.
const CONTENT_IDS_MAX: usize = 1_000;

/// Fixed facts about Mailgun: it retries after every status except 406. A mail has 25 MB, and a form may
/// need three octets for one.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "mailgun",
    body_bytes: 80 << 20,
    carries: Carries::EncodedMail,
    status_policy: StatusPolicy {
        malformed: 406,
        unroutable: 406,
        ..StatusPolicy::RETRIES_ALL
    },
};

/// The adapter for Mailgun.
#[derive(Clone, Debug)]
pub struct Mailgun {
    /// The webhook signing keys, which differ from the API keys.
    pub keys: Vec<Secret>,
    /// The maximum age of a signature.
    pub age_max: Duration,
}

impl Mailgun {
    /// The time for which Mailgun retries with its first signature, plus an hour.
    pub const AGE_MAX: Duration = Duration::from_secs(9 * 60 * 60);

    /// The adapter with these keys and the default age.
    pub const fn new(keys: Vec<Secret>) -> Self {
        Self {
            keys,
            age_max: Self::AGE_MAX,
        }
    }
}

impl Adapter for Mailgun {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let names = ["timestamp", "token", "signature"];
        let form = request.form();
        form.is_ok_and(|form| names.iter().all(|name| form.contains(name)))
    }

    /// Mailgun's routes send only forms. Any other request is answered so that Mailgun retries, including
    /// by 415, so that nothing is lost. Events about sent mail are JSON and would be repeated for hours, so
    /// they are refused permanently.
    fn check_form(&self, request: &WebhookRequest) -> Result<(), WebhookOutcome> {
        match request.headers().media_type().as_str() {
            "application/x-www-form-urlencoded" | "multipart/form-data" => Ok(()),
            "application/json" if request.body_contains("\"event-data\"") => {
                Err(WebhookOutcome::Malformed(Malformed::new(
                    "event-data: a tracking webhook is set to this URL; only a route belongs here",
                )))
            }
            _ => Err(WebhookOutcome::MediaType("a form")),
        }
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let form = request.form();
        let form = form.map_err(|_| AuthenticationError::Malformed("form"))?;
        let field = |name: &'static str| match form.text(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(AuthenticationError::Missing(name)),
            Err(_) => Err(AuthenticationError::Duplicate(name)),
        };
        let (timestamp, token) = (field("timestamp")?, field("token")?);
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: SignatureEncoding::Hex,
            name: "signature",
            signature: field("signature")?,
            parts: &[timestamp.as_bytes(), token.as_bytes()],
        };
        let at = parse_digits(timestamp, "timestamp")?;
        check_age(Timestamp::from_secs(at), now, self.age_max)?;
        Ok(request.authenticated(mac.verify(&self.keys)?))
    }

    fn nonce(&self, authentic: Authentic<'_>) -> Result<Option<Nonce>, Malformed> {
        let form = authentic.form()?;
        let token = form.required("token")?;
        let at = parse_digits(form.required("timestamp")?, "timestamp");
        let at = at.map_err(|error| Malformed::new(error.to_string()))?;
        let expires = Timestamp::from_secs(at).plus(self.age_max);
        let mut content = digest::Context::new(&digest::SHA256);
        for field in form.sorted_fields() {
            content.update(&(field.name.len() as u64).to_be_bytes());
            content.update(field.name.as_bytes());
            content.update(&(field.bytes.len() as u64).to_be_bytes());
            content.update(&field.bytes);
        }
        let content = content.finish();
        Ok(Some(nonce_of(
            self.name(),
            token,
            content.as_ref(),
            expires,
        )))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = authentic.form()?;
        let recipients = parse_addresses(form.required("recipient")?);
        let sender = form.text("sender")?.and_then(reverse_path);
        if form.single("attachments")?.is_some() {
            return Err(Malformed::new(
                "attachments: the route stores mail; use forward() instead",
            ));
        }
        let listed = form.text("message-headers")?;
        let listed = listed
            .map(|json| Json::parse(json.as_bytes()))
            .transpose()?;
        let mut results = ProviderResults::of(self.name());
        for (check, name) in [
            ("spf", "X-Mailgun-Spf"),
            ("dkim", "X-Mailgun-Dkim-Check-Result"),
            ("spam", "X-Mailgun-Sflag"),
            ("spam_score", "X-Mailgun-Sscore"),
        ] {
            results.add(check, None, first_value(listed.as_ref(), name));
        }
        let bytes = match form.bytes("body-mime")? {
            Some(raw) => raw.clone(),
            None => build_mime(form, listed.as_ref())?.build(self.name(), ""),
        };
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(form.required("token")?),
            sender,
            recipients: Recipients::Envelope(recipients),
            bytes,
            results: results.into_verdict(),
        }]))
    }
}

/// The first field of this name: Mailgun puts its own fields above those of the sender.
fn first_value<'a>(listed: Option<&'a Json>, name: &str) -> Option<&'a str> {
    let Json::List(pairs) = listed? else {
        return None;
    };
    let mut pairs = pairs.iter().filter_map(|pair| name_value(pair).ok());
    pairs
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn build_mime(form: &Form, listed: Option<&Json>) -> Result<MimeBuilder, Malformed> {
    let mut mime = MimeBuilder::default();
    copy_headers(&mut mime, listed)?;
    mime.field_if_absent("From", form.text("from")?);
    mime.field_if_absent("Subject", form.text("subject")?);
    let (plain, html) = (form.text("body-plain")?, form.text("body-html")?);
    if plain.is_none() && html.is_none() && listed.is_none() {
        return Err(Malformed::new(
            "body-mime, body-plain and message-headers: all missing",
        ));
    }
    mime.text(plain);
    mime.html(html);
    let ids = form.text("content-id-map")?;
    let ids = ids.map(|json| Json::parse(json.as_bytes())).transpose()?;
    for file in form.attachments() {
        mime.add_file(FilePart {
            file_name: file.file_name.clone(),
            media_type: file.media_type.clone(),
            content_id: content_id(ids.as_ref(), &file.name),
            bytes: file.bytes.clone(),
        });
    }
    Ok(mime)
}

/// The Content-ID of a file. The map is from ids to files, and an id may occur in it twice or be empty.
fn content_id(ids: Option<&Json>, file: &str) -> Option<String> {
    let Json::Object(members) = ids? else {
        return None;
    };
    let is_it = |value: &Json| matches!(value, Json::Text(name) if name == file);
    let mut found = members
        .iter()
        .take(CONTENT_IDS_MAX)
        .filter(|(id, value)| is_it(value) && !id.is_empty());
    found.next().map(|(id, _)| id.clone())
}
