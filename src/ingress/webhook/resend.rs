//! Owns Resend's `email.received`, signed like Svix, which announces a mail that Resend stores.
//!
//! Does not fetch the mail: it returns its URL and decodes the response.

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::incoming::{
    Decoded, DeferredMail, Recipients, bare_address, loggable_id, parse_addresses,
};
use super::json::Json;
use super::outcome::StatusPolicy;
use super::request::{Authentic, WebhookRequest};
use super::standard::{SignatureHeaders, StandardSigning};
use crate::clock::Timestamp;

/// Fixed facts about Resend.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "resend",
    body_bytes: 1 << 20,
    carries: Carries::Nothing,
    status_policy: StatusPolicy::RETRIES_FOR_LONG,
};

/// The adapter for Resend.
#[derive(Clone, Debug)]
pub struct Resend {
    /// The keys for verifying requests.
    pub signing: StandardSigning,
}

impl Resend {
    /// The adapter with these keys.
    pub const fn new(signing: StandardSigning) -> Self {
        Self { signing }
    }
}

/// The URL of a mail in Resend's API.
pub(super) fn mail_url(id: &str) -> String {
    format!("https://api.resend.com/emails/receiving/{id}")
}

/// The URL of the whole mail in the response of the API, if there is one and its host is Resend's or that
/// of Resend's storage.
pub(super) fn raw_url(answer: &[u8]) -> Result<String, Malformed> {
    let json = Json::parse(answer)?;
    let raw = json.object("")?.required_object("raw")?;
    let url = raw.required_text("download_url")?;
    let host = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split(['/', '?']).next());
    let is_name = |host: &str| {
        host.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    let is_theirs = |host: &str| {
        host == "resend.com" || host.ends_with(".resend.com") || host.ends_with(".cloudfront.net")
    };
    if host.is_some_and(|host| is_name(host) && is_theirs(host)) {
        Ok(url.to_owned())
    } else {
        Err(Malformed::new("raw.download_url: not at Resend"))
    }
}

impl Adapter for Resend {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        SignatureHeaders::are_present(request.headers()) && request.body_contains("\"email_id\"")
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        _: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        Ok(request.authenticated(self.signing.verify(request, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        if root.text("type")? != Some("email.received") {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        let mail = root.required_object("data")?;
        let id = mail.required_text("email_id")?;
        // The id becomes part of a URL and of a file name.
        let is_plain = id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !is_plain || id.is_empty() || id != loggable_id(id) {
            return Err(Malformed::field("email_id", "malformed"));
        }
        let list = |name: &str| -> Result<Vec<String>, Malformed> {
            let mut all = Vec::new();
            for text in mail.list(name)? {
                all.extend(parse_addresses(text.text(name)?));
            }
            Ok(all)
        };
        let recipients = match list("received_for")? {
            envelope if !envelope.is_empty() => Recipients::Envelope(envelope),
            _ => Recipients::Header([list("to")?, list("cc")?, list("bcc")?].concat()),
        };
        let mail = DeferredMail {
            id: id.to_owned(),
            recipients,
            sender: mail.text("from")?.and_then(bare_address),
            request: None,
        };
        Ok(Decoded::Deferred(mail, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_fetched_only_from_resend() {
        let told =
            |url: &str| raw_url(format!("{{\"raw\":{{\"download_url\":\"{url}\"}}}}").as_bytes());
        for url in [
            "https://x.cloudfront.net/a?b=c",
            "https://inbound.resend.com/a",
        ] {
            assert_eq!(told(url).as_deref(), Ok(url));
        }
        for url in [
            "http://x.cloudfront.net/a",
            "https://cloudfront.net.evil.example/a",
            "https://evil.example/?.cloudfront.net",
            "https://u@x.cloudfront.net/a",
            "https://x.cloudfront.net:8443/a",
            "https://169.254.169.254/a",
            "file:///etc/passwd",
            "",
        ] {
            assert!(told(url).is_err(), "{url}");
        }
        assert!(raw_url(b"{\"raw\":null}").is_err());
    }
}
