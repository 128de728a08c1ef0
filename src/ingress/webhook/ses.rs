//! Owns Amazon SES over SNS: the signed envelope of SNS, the confirmation of a subscription, and the mail
//! inside it.
//!
//! Does not fetch the certificate, nor a mail that SES has put into a bucket.

use std::time::Duration;

use bytes::Bytes;
use mail_parser::DateTime;

use super::adapter::{Adapter, Carries, ProviderInfo};
use super::error::{AuthenticationError, Malformed};
use super::incoming::{
    BucketMail, Decoded, IncomingMail, ProviderResults, Recipients, decode_base64, loggable_id,
    reverse_path,
};
use super::json::{Json, JsonObject};
use super::outcome::StatusPolicy;
use super::proof::{BasicAccount, Proof, SignatureHash, basic_auth, check_age, rsa};
use super::request::{Authentic, WebhookRequest};
use crate::clock::Timestamp;
use crate::tls::Certificate;

const TYPE: &str = "x-amz-sns-message-type";

/// Facts about SES: SNS sends 256 KiB at most, escaped, and shows its account only after a challenge.
pub(super) const INFO: ProviderInfo = ProviderInfo {
    name: "ses",
    body_bytes: 2 << 20,
    carries: Carries::Nothing,
    status_policy: StatusPolicy {
        unroutable: 400,
        challenges: true,
        ..StatusPolicy::CLIENT_ERRORS_ARE_FINAL
    },
};

/// SES's adapter.
#[derive(Clone, Debug)]
pub struct Ses {
    /// ARNs of the topics whose mail is taken. A valid signature alone proves only that somebody has an
    /// account at Amazon.
    pub topics: Vec<String>,
    /// Accounts in the URL, of which one is needed beside the signature; empty for none.
    pub accounts: Vec<BasicAccount>,
    /// True to refuse signatures over SHA-1, which a topic makes by default.
    pub needs_sha256: bool,
    /// Age of a request at most. The time is that of the publishing, not of the try.
    pub age_max: Duration,
}

impl Ses {
    /// The adapter with these topics and accounts, and the usual age.
    pub const fn new(topics: Vec<String>, accounts: Vec<BasicAccount>) -> Self {
        Self {
            topics,
            accounts,
            needs_sha256: false,
            age_max: Duration::from_secs(9 * 60 * 60),
        }
    }

    fn verify(
        &self,
        root: JsonObject<'_>,
        certificate: &Certificate,
        now: Timestamp,
    ) -> Result<Proof, AuthenticationError> {
        let text = |name: &'static str| match root.text(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(AuthenticationError::Missing(name)),
            Err(_) => Err(AuthenticationError::Malformed(name)),
        };
        let hash = match text("SignatureVersion")? {
            "2" => SignatureHash::Sha256,
            "1" if !self.needs_sha256 => SignatureHash::Sha1,
            _ => return Err(AuthenticationError::Malformed("SignatureVersion")),
        };
        let at = parse_time(text("Timestamp")?);
        let at = at.ok_or(AuthenticationError::Malformed("Timestamp"))?;
        check_age(at, now, self.age_max)?;
        if !(certificate.not_before..=certificate.not_after).contains(&now) {
            return Err(AuthenticationError::NoCertificate);
        }
        let names: &[&'static str] = match text("Type")? {
            "Notification" => &NOTIFICATION,
            _ => &CONFIRMATION,
        };
        let mut signed = String::new();
        for name in names {
            if let Ok(value) = text(name) {
                for line in [name, value] {
                    signed.push_str(line);
                    signed.push('\n');
                }
            } else if *name != "Subject" {
                return Err(AuthenticationError::Missing(name));
            }
        }
        let keys = [certificate.key.clone()];
        let signature = text("Signature")?;
        rsa(&keys, hash, signed.as_bytes(), signature, "Signature")
    }
}

/// The members of a notification that are signed, in their order.
const NOTIFICATION: [&str; 6] = [
    "Message",
    "MessageId",
    "Subject",
    "Timestamp",
    "TopicArn",
    "Type",
];
/// The members of a subscription's confirmation that are signed, in their order.
const CONFIRMATION: [&str; 7] = [
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
];

/// The body of a request as the JSON object that SNS sends.
fn root(request: &WebhookRequest) -> Result<JsonObject<'_>, AuthenticationError> {
    let root = request.json().and_then(|json| json.object(""));
    root.map_err(|_| AuthenticationError::Malformed("body"))
}

impl Adapter for Ses {
    fn info(&self) -> &'static ProviderInfo {
        &INFO
    }

    fn is_recognised(&self, request: &WebhookRequest) -> bool {
        request.headers().contains(TYPE)
    }

    fn certificate_url(
        &self,
        request: &WebhookRequest,
    ) -> Result<Option<String>, AuthenticationError> {
        if !self.accounts.is_empty() {
            basic_auth(request.headers(), &self.accounts)?;
        }
        let root = root(request)?;
        let topic = root.text("TopicArn").ok().flatten();
        let topic = topic.ok_or(AuthenticationError::Missing("TopicArn"))?;
        // Nothing is fetched for a topic that is not ours.
        if !self.topics.iter().any(|ours| ours == topic) {
            return Err(AuthenticationError::NotOurs("TopicArn"));
        }
        let url = root.text("SigningCertURL").ok().flatten();
        let url = url.ok_or(AuthenticationError::Missing("SigningCertURL"))?;
        if !is_sns_url(url) || !url_path(url).ends_with(".pem") || url.contains('?') {
            return Err(AuthenticationError::NotOurs("SigningCertURL"));
        }
        Ok(Some(url.to_owned()))
    }

    fn authenticate<'r>(
        &self,
        request: &'r WebhookRequest,
        now: Timestamp,
        certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, AuthenticationError> {
        self.certificate_url(request)?;
        let root = root(request)?;
        for (header, member) in [(TYPE, "Type"), ("x-amz-sns-message-id", "MessageId")] {
            let shown = request.headers().single(header)?;
            if shown.is_some() && shown != root.text(member).ok().flatten() {
                return Err(AuthenticationError::Malformed(header));
            }
        }
        let certificate = certificate.and_then(Certificate::from_pem);
        let certificate = certificate.ok_or(AuthenticationError::NoCertificate)?;
        Ok(request.authenticated(self.verify(root, &certificate, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        match root.required_text("Type")? {
            "SubscriptionConfirmation" => {
                let url = root.required_text("SubscribeURL")?;
                if !is_sns_url(url) {
                    return Err(Malformed::field("SubscribeURL", "not of Amazon SNS"));
                }
                return Ok(Decoded::Confirm(url.to_owned()));
            }
            "Notification" => {}
            _ => return Ok(Decoded::Ignored("no notification")),
        }
        let inner = root.required_text("Message")?;
        if !inner.trim_start().starts_with('{') {
            return Ok(Decoded::Ignored("a topic's own words"));
        }
        let inner = Json::parse(inner.as_bytes())?;
        let message = inner.object("Message")?;
        if message.text("notificationType")? != Some("Received") {
            return Ok(Decoded::Ignored("no inbound mail"));
        }
        parse_mail(message)
    }
}

fn parse_mail(message: JsonObject<'_>) -> Result<Decoded, Malformed> {
    let mail = message.required_object("mail")?;
    let receipt = message.required_object("receipt")?;
    let action = receipt.required_object("action")?;
    let mut results = ProviderResults::of(INFO.name);
    for (name, member) in [
        ("spam", "spamVerdict"),
        ("virus", "virusVerdict"),
        ("spf", "spfVerdict"),
        ("dkim", "dkimVerdict"),
        ("dmarc", "dmarcVerdict"),
    ] {
        let verdict = receipt.object(member)?;
        let status = verdict.map(|verdict| verdict.text("status")).transpose()?;
        results.add(name, None, status.flatten());
    }
    let mut mail = IncomingMail {
        id: loggable_id(mail.text("messageId")?.unwrap_or_default()),
        sender: mail.text("source")?.and_then(reverse_path),
        recipients: Recipients::Envelope(receipt.required("recipients")?.texts("recipients")?),
        bytes: Bytes::new(),
        results: results.into_verdict(),
    };
    match action.required_text("type")? {
        "SNS" => {}
        // The object's key begins with the prefix of the rule already.
        "S3" => {
            return Ok(Decoded::InBucket(BucketMail {
                bucket: action.required_text("bucketName")?.to_owned(),
                key: action.required_text("objectKey")?.to_owned(),
                mail,
            }));
        }
        _ => {
            return Ok(Decoded::Unreachable(
                "the rule's action brings no mail: let it be SNS or S3",
            ));
        }
    }
    let content = message.required_text("content")?;
    mail.bytes = match action.text("encoding")? {
        Some("BASE64") => decode_base64(content, "content")?.into(),
        _ => Bytes::copy_from_slice(content.as_bytes()),
    };
    Ok(Decoded::Mails(vec![mail]))
}

/// True for `https://sns.REGION.amazonaws.com/…`, without user, port or anything else.
pub(super) fn is_sns_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else {
        return false;
    };
    let host = rest.split('/').next().unwrap_or_default();
    let region = host.strip_prefix("sns.").and_then(|host| {
        let host = host.strip_suffix(".cn").unwrap_or(host);
        host.strip_suffix(".amazonaws.com")
    });
    let is_region = region.is_some_and(|region| {
        region.len() >= 3
            && region
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    is_region
        && rest.contains('/')
        && url.bytes().all(|b| matches!(b, b'!'..=b'~'))
        && !url.contains(['\\', '#', '@'])
}

fn url_path(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    rest.find('/').map_or("", |at| &rest[at..])
}

/// The time in a text such as `2018-03-30T17:21:51.636Z`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc3339(text)?;
    let secs = u64::try_from(date.to_timestamp()).ok()?;
    date.is_valid().then(|| Timestamp::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_amazons_own_hosts_are_asked() {
        for url in [
            "https://sns.us-east-1.amazonaws.com/a.pem",
            "https://sns.cn-north-1.amazonaws.com.cn/a.pem",
        ] {
            assert!(is_sns_url(url), "{url}");
        }
        for url in [
            "http://sns.us-east-1.amazonaws.com/a.pem",
            "https://sns.us-east-1.amazonaws.com",
            "https://sns.us-east-1.amazonaws.com.evil.example/a.pem",
            "https://sns.us-east-1.amazonaws.com:8443/a.pem",
            "https://x@sns.us-east-1.amazonaws.com/a.pem",
            "https://sns.us-east-1.amazonaws.com@evil.example/a.pem",
            "https://sns.us-east-1.amazonaws.com\\@evil.example/a.pem",
            "https://evil.example/sns.us-east-1.amazonaws.com/a.pem",
            "https://sns.a.b.amazonaws.com/a.pem",
            "https://sns..amazonaws.com/a.pem",
            "https://xsns.us-east-1.amazonaws.com/a.pem",
            "https://169.254.169.254/a.pem",
            "https://sns.us-east-1.amazonaws.com/a.pem\r\nX: y",
            "file:///etc/passwd",
            "",
        ] {
            assert!(!is_sns_url(url), "{url}");
        }
    }

    #[test]
    fn times_are_read() {
        let at = parse_time("2018-03-30T17:21:51.636Z").unwrap();
        assert!(at.to_rfc3339().starts_with("2018-03-30T17:21:51"), "{at}");
        assert!(parse_time("yesterday").is_none());
        assert!(parse_time("").is_none());
    }
}
