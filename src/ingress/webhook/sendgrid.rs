//! Owns Twilio SendGrid's Inbound Parse: `multipart/form-data` with the raw mail or its parts, signed
//! with ECDSA or sent with a name and password.
//!
//! Does not route by the `to` field: only the envelope says whom a mail is for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Adapter;
use super::body_budget;
use super::form::{Form, FormField};
use super::incoming::{
    Decoded, IncomingMail, Malformed, ProviderResults, Recipients, decode_charset, reverse_path,
};
use super::json::Json;
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::proof::{
    AuthenticationError, BasicAccount, PublicKey, basic_auth, check_age, ecdsa, parse_digits,
};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// SendGrid's door. A request needs a signature or an account, whichever is set.
#[derive(Clone, Debug)]
pub struct SendGrid {
    /// The keys SendGrid shows for its signatures.
    pub keys: Vec<PublicKey>,
    /// Names and passwords in the URL.
    pub accounts: Vec<BasicAccount>,
    /// How old a signature may be. It covers the whole body, so a replay is a duplicate and no more.
    pub age_max: Duration,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl SendGrid {
    /// SendGrid tries for three days, and does not say that it signs anew.
    pub const AGE_MAX: Duration = Duration::from_secs(73 * 60 * 60);

    /// The door with its usual bounds: SendGrid sends 30 MB at most.
    pub const fn new(keys: Vec<PublicKey>, accounts: Vec<BasicAccount>) -> Self {
        Self {
            keys,
            accounts,
            age_max: Self::AGE_MAX,
            bytes_max: 40 << 20,
        }
    }
}

impl Adapter for SendGrid {
    fn name(&self) -> &'static str {
        "sendgrid"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn raise_bytes_max(&mut self, mail_bytes_max: usize) {
        self.bytes_max = self
            .bytes_max
            .max(body_budget::with_plain_mail(mail_bytes_max));
    }

    fn status_policy(&self) -> StatusPolicy {
        StatusPolicy::CLIENT_ERRORS_ARE_FINAL
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(SIGNATURE)
            || (request.headers().media_type() == "multipart/form-data"
                && Form::parse(request).is_ok_and(|form| form.contains("envelope")))
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let headers = request.headers();
        if self.keys.is_empty() || (!headers.contains(SIGNATURE) && !self.accounts.is_empty()) {
            return Ok(request.authenticated(basic_auth(headers, &self.accounts)?));
        }
        let given = headers.required(SIGNATURE)?;
        let timestamp = headers.required(TIMESTAMP)?;
        let at = Timestamp::from_secs(parse_digits(timestamp, TIMESTAMP)?);
        check_age(at, now, self.age_max)?;
        let signed = [timestamp.as_bytes(), request.body()].concat();
        Ok(request.authenticated(ecdsa(&self.keys, &signed, given, SIGNATURE)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = Form::parse(authentic.request())?;
        let envelope = Json::parse(form.required("envelope")?.as_bytes())?;
        let envelope = envelope.object("envelope")?;
        let to = envelope.required("to")?.texts("envelope.to")?;
        let sender = envelope.text("from")?.and_then(reverse_path);
        let bytes = match form.bytes("email")? {
            Some(raw) => raw.clone(),
            None => build_mime(&form)?.build(self.name(), ""),
        };
        let mut results = ProviderResults::of(self.name());
        results.add("spf", None, form.text("SPF")?);
        for (domain, result) in parse_dkim(form.text("dkim")?.unwrap_or_default()) {
            results.add("dkim", domain, Some(result));
        }
        results.add("spam_score", None, form.text("spam_score")?);
        Ok(Decoded::Mails(vec![IncomingMail {
            id: String::new(),
            sender,
            recipients: Recipients::Envelope(to),
            bytes,
            results: results.into_told(),
        }]))
    }
}

fn build_mime(form: &Form) -> Result<MimeBuilder, Malformed> {
    let charsets = form.bytes("charsets")?.map(|json| Json::parse(json));
    let charsets: BTreeMap<String, String> = match charsets {
        Some(Ok(Json::Object(members))) => members
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.text("").ok()?.to_owned())))
            .collect(),
        // It only helps to read the rest.
        _ => BTreeMap::new(),
    };
    let decoded = |name: &str| -> Result<Option<String>, Malformed> {
        let charset = charsets.get(name).map(String::as_str);
        Ok(form
            .bytes(name)?
            .map(|bytes| decode_charset(bytes, charset)))
    };
    let mut draft = MimeBuilder::default();
    let block = decoded("headers")?;
    draft.header_block(&block.ok_or_else(|| Malformed::new("email and headers: both missing"))?);
    for (field, name) in [
        ("From", "from"),
        ("To", "to"),
        ("Cc", "cc"),
        ("Subject", "subject"),
    ] {
        draft.field_if_absent(field, decoded(name)?.as_deref());
    }
    draft.text(decoded("text")?.as_deref());
    draft.html(decoded("html")?.as_deref());
    let told = form.bytes("attachment-info")?.map(|json| Json::parse(json));
    let told = told.and_then(Result::ok);
    for file in form.attachments() {
        draft.add_file(attachment(file, told.as_ref()));
    }
    Ok(draft)
}

/// A file with what `attachment-info` says of it; that may be missing, or wrong.
fn attachment(file: &FormField, told: Option<&Json>) -> FilePart {
    let about = told.and_then(|told| {
        told.object("attachment-info")
            .ok()?
            .object(&file.name)
            .ok()?
    });
    let text = |name| Some(about?.text(name).ok()??.to_owned());
    FilePart {
        file_name: text("filename")
            .or_else(|| text("name"))
            .or_else(|| file.file_name.clone()),
        media_type: text("type").or_else(|| file.media_type.clone()),
        content_id: text("content-id"),
        bytes: file.bytes.clone(),
    }
}

/// `{@example.org : pass, @b.example : temperror}` and `none`: words, never JSON.
fn parse_dkim(text: &str) -> Vec<(Option<&str>, &str)> {
    let parts = text.split([',', '{', '}']).map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once(" : ") {
            Some((domain, result)) => (Some(domain.trim_start_matches('@').trim()), result.trim()),
            None => (None, part),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dkim_has_a_form_of_its_own() {
        assert_eq!(parse_dkim("none"), [(None, "none")]);
        assert_eq!(parse_dkim(""), []);
        let two = [(Some("a.com"), "pass"), (Some("b.com"), "temperror")];
        assert_eq!(parse_dkim("{@a.com : pass, @b.com : temperror}"), two);
        assert_eq!(parse_dkim("{@a.com : pass} , {@b.com : temperror}"), two);
    }
}
