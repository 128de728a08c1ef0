//! Owns Mailgun's routes: a form with the raw mail (`body-mime`) or its parts, and an HMAC of
//! timestamp and token.
//!
//! Does not trust the signature for the content: it covers none of it, so each token is bound to the
//! first content it came with.

use std::time::Duration;

use ring::digest;

use super::Adapter;
use super::body_budget;
use super::form::Form;
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, loggable_id, parse_addresses,
    reverse_path,
};
use super::json::Json;
use super::mime::{FilePart, MimeBuilder};
use super::outcome::{StatusPolicy, WebhookOutcome};
use super::payload::copy_headers;
use super::proof::{
    self, AuthenticationError, RequestMac, SignatureHash, WebhookSecret, check_age, parse_digits,
};
use super::replay::Nonce;
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

/// Content-IDs that are looked at, for each file.
const CONTENT_IDS_MAX: usize = 1_000;

/// Mailgun's door.
#[derive(Clone, Debug)]
pub struct Mailgun {
    /// The webhook signing keys (they are not the API keys).
    pub keys: Vec<WebhookSecret>,
    /// How old a signature may be.
    pub age_max: Duration,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Mailgun {
    /// Mailgun tries for eight hours with the signature it made first.
    pub const AGE_MAX: Duration = Duration::from_secs(9 * 60 * 60);

    /// The door with its usual bounds. A mail has 25 MB; a form may need three octets for one.
    pub const fn new(keys: Vec<WebhookSecret>) -> Self {
        Self {
            keys,
            age_max: Self::AGE_MAX,
            bytes_max: 80 << 20,
        }
    }
}

impl Adapter for Mailgun {
    fn name(&self) -> &'static str {
        "mailgun"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_base64_mail(mail_bytes_max));
    }

    /// 406 is its only final word, and 200 its only yes.
    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy {
            malformed: 406,
            unroutable: 406,
            ..StatusPolicy::RETRIES_ALL
        }
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let names = ["timestamp", "token", "signature"];
        Form::parse(request).is_ok_and(|form| names.iter().all(|name| form.contains(name)))
    }

    /// Its routes send forms alone. What else comes is asked for again, by 415 too, so that nothing
    /// is lost; but for news of sent mail, which is JSON and would come for hours.
    fn check_form(&self, request: &WebhookRequest) -> Result<(), WebhookOutcome> {
        let has = |mark: &[u8]| memchr::memmem::find(request.body(), mark).is_some();
        match request.headers().media_type().as_str() {
            "application/x-www-form-urlencoded" | "multipart/form-data" => Ok(()),
            "application/json" if has(b"\"event-data\"") => {
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
        let form = Form::parse(request).map_err(|_| AuthenticationError::Malformed("form"))?;
        let field = |name: &'static str| match form.text(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(AuthenticationError::Missing(name)),
            Err(_) => Err(AuthenticationError::Duplicate(name)),
        };
        let (timestamp, token) = (field("timestamp")?, field("token")?);
        let mac = RequestMac {
            hash: SignatureHash::Sha256,
            encoding: proof::SignatureEncoding::Hex,
            name: "signature",
            signature: field("signature")?,
            parts: &[timestamp.as_bytes(), token.as_bytes()],
        };
        let at = parse_digits(timestamp, "timestamp")?;
        check_age(Timestamp::from_secs(at), now, self.age_max)?;
        Ok(request.authenticated(mac.verify(&self.keys)?))
    }

    fn nonce(&self, authentic: Authentic<'_>) -> Result<Option<Nonce>, Malformed> {
        let form = Form::parse(authentic.request())?;
        let token = form.required("token")?;
        let at = parse_digits(form.required("timestamp")?, "timestamp");
        let at = at.map_err(|error| Malformed::new(error.to_string()))?;
        let until = Timestamp::from_secs(at).plus(self.age_max);
        let mut parts: Vec<_> = form.fields().iter().collect();
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        let mut content = digest::Context::new(&digest::SHA256);
        for field in parts {
            content.update(&(field.name.len() as u64).to_be_bytes());
            content.update(field.name.as_bytes());
            content.update(&(field.bytes.len() as u64).to_be_bytes());
            content.update(&field.bytes);
        }
        Ok(Some(Nonce::new(
            self.name(),
            token,
            content.finish().as_ref(),
            until,
        )))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = Form::parse(authentic.request())?;
        let recipients = parse_addresses(form.required("recipient")?);
        let sender = form.text("sender")?.and_then(reverse_path);
        if form.single("attachments")?.is_some() {
            return Err(Malformed::new(
                "attachments: store() tells of it; forward() is needed",
            ));
        }
        let mut results = ProviderResults::of(self.name());
        let listed = match form.text("message-headers")? {
            Some(json) => Some(Json::parse(json.as_bytes())?),
            None => None,
        };
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
            None => build_mime(&form, listed.as_ref())?.build(self.name(), ""),
        };
        Ok(Decoded::Mails(vec![IncomingMail {
            id: loggable_id(form.required("token")?),
            sender,
            recipients: Recipients::Envelope(recipients),
            bytes,
            results: results.into_told(),
        }]))
    }
}

/// The first field of this name: Mailgun puts its own on top of the sender's.
fn first_value<'a>(listed: Option<&'a Json>, name: &str) -> Option<&'a str> {
    let Json::List(pairs) = listed? else {
        return None;
    };
    let mut pairs = pairs
        .iter()
        .filter_map(|pair| super::payload::name_value(pair).ok());
    pairs
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn build_mime(form: &Form, listed: Option<&Json>) -> Result<MimeBuilder, Malformed> {
    let mut draft = MimeBuilder::default();
    copy_headers(&mut draft, listed)?;
    draft.field_if_absent("From", form.text("from")?);
    draft.field_if_absent("Subject", form.text("subject")?);
    let (plain, html) = (form.text("body-plain")?, form.text("body-html")?);
    if plain.is_none() && html.is_none() && listed.is_none() {
        return Err(Malformed::new(
            "body-mime, body-plain and message-headers: all missing",
        ));
    }
    draft.text(plain);
    draft.html(html);
    let ids = match form.text("content-id-map")? {
        Some(json) => Some(Json::parse(json.as_bytes())?),
        None => None,
    };
    for file in form.attachments() {
        draft.add_file(FilePart {
            file_name: file.file_name.clone(),
            media_type: file.media_type.clone(),
            content_id: content_id(ids.as_ref(), &file.name),
            bytes: file.bytes.clone(),
        });
    }
    Ok(draft)
}

/// The Content-ID of a file. The map is from ids to files, and an id may stand in it twice or be
/// empty.
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
