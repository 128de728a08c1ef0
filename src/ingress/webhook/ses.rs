//! Owns Amazon SES over SNS: the signed envelope of SNS, the confirmation of a subscription, and the
//! mail inside it.
//!
//! Does not fetch the certificate itself, nor the mail that SES has put into a bucket.

use std::time::Duration;

use bytes::Bytes;
use mail_parser::DateTime;

use super::Adapter;
use super::der::Certificate;
use super::incoming::{
    Decoded, InBucket, Incoming, Malformed, Recipients, Results, base64, reverse_path, short,
};
use super::json::{Json, Object};
use super::law::Law;
use super::proof::{Account, Hash, Unproven, basic, fresh, rsa};
use super::request::{Authentic, Request};
use crate::clock::Timestamp;

const TYPE: &str = "x-amz-sns-message-type";

/// SES's door.
#[derive(Clone, Debug)]
pub struct Ses {
    /// The topics whose mail is taken, by their ARNs. A right signature alone proves no more than
    /// that somebody has an account at Amazon.
    pub topics: Vec<String>,
    /// Names and passwords in the URL, beside the signature; empty for none.
    pub accounts: Vec<Account>,
    /// Refuse signatures over SHA-1, which is what a topic makes by default.
    pub needs_sha256: bool,
    /// How old a request may be. The time is that of the publishing, not of the try.
    pub age_max: Duration,
    /// Octets of a body at most.
    pub bytes_max: usize,
}

impl Ses {
    /// The door with its usual bounds: SNS sends 256 KiB at most, escaped.
    pub const fn new(topics: Vec<String>, accounts: Vec<Account>) -> Self {
        Self {
            topics,
            accounts,
            needs_sha256: false,
            age_max: Duration::from_secs(9 * 60 * 60),
            bytes_max: 2 << 20,
        }
    }

    fn verify(
        &self,
        root: Object<'_>,
        certificate: &Certificate,
        now: Timestamp,
    ) -> Result<super::proof::Proof, Unproven> {
        let text = |name: &'static str| match root.text(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Unproven::Missing(name)),
            Err(_) => Err(Unproven::Malformed(name)),
        };
        let hash = match text("SignatureVersion")? {
            "2" => Hash::Sha256,
            "1" if !self.needs_sha256 => Hash::Sha1,
            _ => return Err(Unproven::Malformed("SignatureVersion")),
        };
        let at = time(text("Timestamp")?).ok_or(Unproven::Malformed("Timestamp"))?;
        fresh(at, now, self.age_max)?;
        if !(certificate.from..=certificate.until).contains(&now) {
            return Err(Unproven::NoCertificate);
        }
        let names: &[&'static str] = match text("Type")? {
            "Notification" => &[
                "Message",
                "MessageId",
                "Subject",
                "Timestamp",
                "TopicArn",
                "Type",
            ],
            _ => &[
                "Message",
                "MessageId",
                "SubscribeURL",
                "Timestamp",
                "Token",
                "TopicArn",
                "Type",
            ],
        };
        let mut signed = String::new();
        for name in names {
            if let Ok(value) = text(name) {
                for line in [name, value] {
                    signed.push_str(line);
                    signed.push('\n');
                }
            } else if *name != "Subject" {
                return Err(Unproven::Missing(name));
            }
        }
        let keys = [certificate.key.clone()];
        rsa(
            &keys,
            hash,
            signed.as_bytes(),
            text("Signature")?,
            "Signature",
        )
    }
}

impl Adapter for Ses {
    fn name(&self) -> &'static str {
        "ses"
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// It sends its account only once it was asked for one.
    fn law(&self) -> Law {
        Law {
            unroutable: 400,
            is_challenged: true,
            ..Law::CLIENT_ERRORS_ARE_FINAL
        }
    }

    fn is_marked(&self, request: &Request) -> bool {
        request.headers().has(TYPE)
    }

    fn certificate(&self, request: &Request) -> Result<Option<String>, Unproven> {
        if !self.accounts.is_empty() {
            basic(request.headers(), &self.accounts)?;
        }
        let json = Json::parse(request.body()).map_err(|_| Unproven::Malformed("body"))?;
        let root = json.object("").map_err(|_| Unproven::Malformed("body"))?;
        let topic = root.text("TopicArn").ok().flatten();
        let topic = topic.ok_or(Unproven::Missing("TopicArn"))?;
        // Before anything is fetched for it.
        if !self.topics.iter().any(|ours| ours == topic) {
            return Err(Unproven::NotOurs("TopicArn"));
        }
        let url = root.text("SigningCertURL").ok().flatten();
        let url = url.ok_or(Unproven::Missing("SigningCertURL"))?;
        if !is_sns(url) || !path_of(url).ends_with(".pem") || url.contains('?') {
            return Err(Unproven::NotOurs("SigningCertURL"));
        }
        Ok(Some(url.to_owned()))
    }

    fn authenticate<'r>(
        &self,
        request: &'r Request,
        now: Timestamp,
        certificate: Option<&[u8]>,
    ) -> Result<Authentic<'r>, Unproven> {
        self.certificate(request)?;
        let json = Json::parse(request.body()).map_err(|_| Unproven::Malformed("body"))?;
        let root = json.object("").map_err(|_| Unproven::Malformed("body"))?;
        for (header, member) in [(TYPE, "Type"), ("x-amz-sns-message-id", "MessageId")] {
            let told = request.headers().one(header)?;
            if told.is_some() && told != root.text(member).ok().flatten() {
                return Err(Unproven::Malformed(header));
            }
        }
        let certificate = certificate.and_then(Certificate::parse);
        let certificate = certificate.ok_or(Unproven::NoCertificate)?;
        Ok(request.proven(self.verify(root, &certificate, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let json = Json::parse(authentic.request().body())?;
        let root = json.object("")?;
        match root.needed_text("Type")? {
            "SubscriptionConfirmation" => {
                let url = root.needed_text("SubscribeURL")?;
                if !is_sns(url) {
                    return Err(Malformed::new("SubscribeURL: not of Amazon SNS"));
                }
                return Ok(Decoded::Confirm(url.to_owned()));
            }
            "Notification" => {}
            _ => return Ok(Decoded::Nothing("no notification")),
        }
        let inner = root.needed_text("Message")?;
        if !inner.trim_start().starts_with('{') {
            return Ok(Decoded::Nothing("a topic's own words"));
        }
        let inner = Json::parse(inner.as_bytes())?;
        let message = inner.object("Message")?;
        if message.text("notificationType")? != Some("Received") {
            return Ok(Decoded::Nothing("no inbound mail"));
        }
        self.mail(message)
    }
}

impl Ses {
    fn mail(&self, message: Object<'_>) -> Result<Decoded, Malformed> {
        let missing = |name: &str| Malformed::field(name, "missing");
        let mail = message.object("mail")?.ok_or_else(|| missing("mail"))?;
        let receipt = message
            .object("receipt")?
            .ok_or_else(|| missing("receipt"))?;
        let action = receipt.object("action")?.ok_or_else(|| missing("action"))?;
        let mut results = Results::by(self.name());
        for (name, member) in [
            ("spam", "spamVerdict"),
            ("virus", "virusVerdict"),
            ("spf", "spfVerdict"),
            ("dkim", "dkimVerdict"),
            ("dmarc", "dmarcVerdict"),
        ] {
            let verdict = receipt.object(member)?;
            results.add(
                name,
                None,
                verdict.map(|v| v.text("status")).transpose()?.flatten(),
            );
        }
        let mut mail = Incoming {
            id: short(mail.text("messageId")?.unwrap_or_default()),
            sender: mail.text("source")?.and_then(reverse_path),
            recipients: Recipients::Envelope(receipt.needed("recipients")?.texts("recipients")?),
            bytes: Bytes::new(),
            told: results.told(),
        };
        match action.needed_text("type")? {
            "SNS" => {}
            // The object's key has the rule's prefix in it already.
            "S3" => {
                return Ok(Decoded::InBucket(InBucket {
                    bucket: action.needed_text("bucketName")?.to_owned(),
                    key: action.needed_text("objectKey")?.to_owned(),
                    mail,
                }));
            }
            _ => {
                return Ok(Decoded::OutOfReach(
                    "the rule's action brings no mail: let it be SNS or S3",
                ));
            }
        }
        let content = message.needed_text("content")?;
        mail.bytes = match action.text("encoding")? {
            Some("BASE64") => base64(content, "content")?.into(),
            _ => Bytes::copy_from_slice(content.as_bytes()),
        };
        Ok(Decoded::Mails(vec![mail]))
    }
}

/// True for `https://sns.REGION.amazonaws.com/…`, without user, port or anything else.
pub(super) fn is_sns(url: &str) -> bool {
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

fn path_of(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    rest.find('/').map_or("", |at| &rest[at..])
}

/// `2018-03-30T17:21:51.636Z`.
fn time(text: &str) -> Option<Timestamp> {
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
            assert!(is_sns(url), "{url}");
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
            assert!(!is_sns(url), "{url}");
        }
    }

    #[test]
    fn times_are_read() {
        let at = time("2018-03-30T17:21:51.636Z").unwrap();
        assert!(at.to_rfc3339().starts_with("2018-03-30T17:21:51"), "{at}");
        assert!(time("yesterday").is_none());
        assert!(time("").is_none());
    }
}
