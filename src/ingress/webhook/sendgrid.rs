//! Owns Twilio SendGrid's Inbound Parse: `multipart/form-data` with the raw mail or its parts, signed with
//! ECDSA or sent with a name and password.
//!
//! Does not use the `to` field for routing: only the envelope has the recipients.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::form::{Form, FormField};
use super::headers::Headers;
use super::incoming::{
    Decoded, IncomingMail, ProviderResults, Recipients, decode_charset, reverse_path,
};
use super::json::Json;
use super::mime::{FilePart, MimeBuilder};
use super::outcome::StatusPolicy;
use super::proof::{BasicAccount, Proof, basic_auth, check_age, ecdsa, parse_digits};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::tls::PublicKey;

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// Fixed facts about SendGrid, which sends 30 MB at most.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "sendgrid",
    body_bytes: 40 << 20,
    carries: Carries::PlainMail,
    status_policy: StatusPolicy::CLIENT_ERRORS_ARE_FINAL,
};

/// The adapter for SendGrid. A request must have a signature or an account, as configured.
#[derive(Clone, Debug)]
pub struct SendGrid {
    /// The public keys that SendGrid shows for its signatures.
    pub keys: Vec<PublicKey>,
    /// The accounts in the URL; each is accepted.
    pub accounts: Vec<BasicAccount>,
    /// The maximum age of a signature. The signature covers the whole body, so a replay is a duplicate.
    pub age_max: Duration,
}

impl SendGrid {
    /// The three days for which SendGrid retries, plus an hour. It is not documented if each retry is
    /// signed anew.
    pub const AGE_MAX: Duration = Duration::from_secs(73 * 60 * 60);

    /// The adapter with these keys and accounts, and the default age.
    pub const fn new(keys: Vec<PublicKey>, accounts: Vec<BasicAccount>) -> Self {
        Self {
            keys,
            accounts,
            age_max: Self::AGE_MAX,
        }
    }

    /// True if a signature authenticates the request, and not an account.
    fn is_signed(&self, headers: &Headers) -> bool {
        !self.keys.is_empty() && (headers.contains(SIGNATURE) || self.accounts.is_empty())
    }
}

impl Adapter for SendGrid {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        let is_form = || request.headers().media_type() == "multipart/form-data";
        let has_envelope = || request.form().is_ok_and(|form| form.contains("envelope"));
        request.headers().contains(SIGNATURE) || (is_form() && has_envelope())
    }

    fn prove_head(
        &self,
        headers: &Headers,
        _: Option<IpAddr>,
    ) -> Result<Proof, AuthenticationError> {
        if self.is_signed(headers) {
            return Err(AuthenticationError::NoMatch);
        }
        basic_auth(headers, &self.accounts)
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        let headers = request.headers();
        if !self.is_signed(headers) {
            let proof = self.prove_head(headers, request.peer())?;
            return Ok(request.authenticated(proof));
        }
        let signature = headers.required(SIGNATURE)?;
        let timestamp = headers.required(TIMESTAMP)?;
        let at = Timestamp::from_secs(parse_digits(timestamp, TIMESTAMP)?);
        check_age(at, now, self.age_max)?;
        let signed = [timestamp.as_bytes(), request.body()].concat();
        let proof = ecdsa(&self.keys, &signed, signature, SIGNATURE)?;
        Ok(request.authenticated(proof))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let form = authentic.form()?;
        let envelope = Json::parse(form.required("envelope")?.as_bytes())?;
        let envelope = envelope.object("envelope")?;
        let to = envelope.required("to")?.texts("envelope.to")?;
        let sender = envelope.text("from")?.and_then(reverse_path);
        let bytes = match form.bytes("email")? {
            Some(raw) => raw.clone(),
            None => build_mime(form)?.build(self.name(), ""),
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
            results: results.into_verdict(),
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
        // The charsets only help to decode the rest.
        _ => BTreeMap::new(),
    };
    let decoded = |name: &str| -> Result<Option<String>, Malformed> {
        let charset = charsets.get(name).map(String::as_str);
        Ok(form
            .bytes(name)?
            .map(|bytes| decode_charset(bytes, charset)))
    };
    let mut mime = MimeBuilder::default();
    let block = decoded("headers")?;
    mime.header_block(&block.ok_or_else(|| Malformed::new("email and headers: both missing"))?);
    for (field, name) in [
        ("From", "from"),
        ("To", "to"),
        ("Cc", "cc"),
        ("Subject", "subject"),
    ] {
        mime.field_if_absent(field, decoded(name)?.as_deref());
    }
    mime.text(decoded("text")?.as_deref());
    mime.html(decoded("html")?.as_deref());
    let infos = form.bytes("attachment-info")?.map(|json| Json::parse(json));
    let infos = infos.and_then(Result::ok);
    for file in form.attachments() {
        mime.add_file(attachment(file, infos.as_ref()));
    }
    Ok(mime)
}

/// A file with its entry in `attachment-info`, which may be missing or wrong.
fn attachment(file: &FormField, infos: Option<&Json>) -> FilePart {
    let info = infos.and_then(|infos| {
        infos
            .object("attachment-info")
            .ok()?
            .object(&file.name)
            .ok()?
    });
    let text = |name| Some(info?.text(name).ok()??.to_owned());
    FilePart {
        file_name: text("filename")
            .or_else(|| text("name"))
            .or_else(|| file.file_name.clone()),
        media_type: text("type").or_else(|| file.media_type.clone()),
        content_id: text("content-id"),
        bytes: file.bytes.clone(),
    }
}

/// The domains and results in `{@example.org : pass, @b.example : temperror}` or `none`, which is not JSON.
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
