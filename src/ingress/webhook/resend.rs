//! Owns Resend's `email.received`: signed as Svix does, it names a mail that Resend keeps.
//!
//! Does not fetch the mail: it says where it is and what the answer there means.

use super::Adapter;
use super::incoming::{
    Decoded, DeferredMail, Malformed, Recipients, bare_address, loggable_id, parse_addresses,
};
use super::json::Json;
use super::outcome::StatusPolicy;
use super::proof::AuthenticationError;
use super::request::{Authentic, WebhookRequest};
use super::standard::{SignatureHeaders, StandardSigning};
use crate::clock::Timestamp;

/// Its name, as it stands in the path.
pub(super) const NAME: &str = "resend";

/// Resend's door.
#[derive(Clone, Debug)]
pub struct Resend {
    /// What a request is verified with.
    pub signing: StandardSigning,
    /// Octets of a body at most: it has no mail in it.
    pub bytes_max: usize,
}

impl Resend {
    /// The door with its usual bound.
    pub const fn new(signing: StandardSigning) -> Self {
        Self {
            signing,
            bytes_max: 1 << 20,
        }
    }
}

/// Where Resend's API has a mail, by its name.
pub(super) fn mail_url(id: &str) -> String {
    format!("https://api.resend.com/emails/receiving/{id}")
}

/// The URL of the whole mail in the API's answer, if there is one and it is at a host of Resend's or
/// of its store.
pub(super) fn raw_url(answer: &[u8]) -> Result<String, Malformed> {
    let json = Json::parse(answer)?;
    let raw = json.object("")?.object("raw")?;
    let raw = raw.ok_or_else(|| Malformed::new("raw: missing"))?;
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
        let mark = b"\"email_id\"";
        SignatureHeaders::are_present(request.headers())
            && memchr::memmem::find(request.body(), mark).is_some()
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
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        if root.text("type")? != Some("email.received") {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        let mail = root
            .object("data")?
            .ok_or_else(|| Malformed::new("data: missing"))?;
        let id = mail.required_text("email_id")?;
        // It becomes a part of a URL.
        let is_plain = id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !is_plain || id.is_empty() || id != loggable_id(id) {
            return Err(Malformed::new("email_id: not of its form"));
        }
        let list = |name: &str| -> Result<Vec<String>, Malformed> {
            let mut all = Vec::new();
            for text in mail.list(name)? {
                all.extend(parse_addresses(text.text(name)?));
            }
            Ok(all)
        };
        let recipients = match list("received_for")? {
            told if !told.is_empty() => Recipients::Envelope(told),
            _ => Recipients::Header([list("to")?, list("cc")?, list("bcc")?].concat()),
        };
        Ok(Decoded::Deferred(DeferredMail {
            id: id.to_owned(),
            recipients,
            sender: mail.text("from")?.and_then(bare_address),
            request: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_fetched_from_resend_alone() {
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
