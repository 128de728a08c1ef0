//! Owns Amazon SES over SNS: the signed envelope of SNS, the confirmation of a subscription, and the mail
//! inside it.
//!
//! Does not fetch the certificate, nor a mail in a bucket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail_parser::DateTime;
use rustls::RootCertStore;

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
use crate::client::{is_trusted, public_roots};
use crate::clock::Timestamp;
use crate::tls::Certificate;

const TYPE: &str = "x-amz-sns-message-type";
/// Octets of the URL of a certificate.
const CERTIFICATE_URL_BYTES_MAX: usize = 256;
/// Octets of the URL that confirms a subscription: it has a long token.
const SUBSCRIBE_URL_BYTES_MAX: usize = 2048;
/// Octets of the name of a region.
const REGION_BYTES_MAX: usize = 32;

/// Fixed facts about SES: SNS sends 256 KiB at most, escaped, and sends its account only after a challenge.
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

/// The adapter for SES.
#[derive(Clone, Debug)]
pub struct Ses {
    /// The ARNs of the accepted topics. A valid signature alone proves only that the sender has an account
    /// at Amazon.
    pub topics: Vec<String>,
    /// The accounts in the URL, of which one is required beside the signature; empty for none.
    pub accounts: Vec<BasicAccount>,
    /// True if signatures over SHA-1, which a topic makes by default, are refused.
    pub needs_sha256: bool,
    /// The maximum age of a request. The time is that of the publication, not of the attempt.
    pub age_max: Duration,
    /// One of these certificate authorities must vouch for a certificate of SNS that comes with its chain.
    pub roots: Arc<RootCertStore>,
}

impl Ses {
    /// The adapter with these topics and accounts, the default age and the public authorities.
    pub fn new(topics: Vec<String>, accounts: Vec<BasicAccount>) -> Self {
        Self {
            topics,
            accounts,
            needs_sha256: false,
            age_max: Duration::from_secs(9 * 60 * 60),
            roots: Arc::new(public_roots()),
        }
    }

    /// Checks that a certificate is valid now and one of SNS in the region of the request's topic.
    ///
    /// SNS may serve a certificate without the one that vouches for it. Then its
    /// issuer cannot be verified, and the certificate is accepted because it came from the host of SNS over
    /// HTTPS.
    fn check_certificate(
        &self,
        root: JsonObject<'_>,
        pem: &[u8],
        now: Timestamp,
    ) -> Result<Certificate, AuthenticationError> {
        let certificate = Certificate::from_pem(pem);
        let certificate = certificate.ok_or(AuthenticationError::NoCertificate)?;
        if !(certificate.not_before..=certificate.not_after).contains(&now) {
            return Err(AuthenticationError::NoCertificate);
        }
        let topic = root.text("TopicArn").ok().flatten().and_then(SnsRegion::of);
        let topic = topic.ok_or(AuthenticationError::NotOurs("TopicArn"))?;
        let chain = Certificate::chain_from_pem(pem);
        let is_vouched_for = chain.len() < 2 || is_trusted(&chain, &self.roots, now);
        match topic.signs_as(&certificate.names) && is_vouched_for {
            true => Ok(certificate),
            false => Err(AuthenticationError::ForeignCertificate),
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

/// The signed members of a notification, in order.
const NOTIFICATION: [&str; 6] = [
    "Message",
    "MessageId",
    "Subject",
    "Timestamp",
    "TopicArn",
    "Type",
];
/// The signed members of a subscription's confirmation, in order.
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
        match sns_path(url, topic, CERTIFICATE_URL_BYTES_MAX) {
            Some(path) if path.ends_with(".pem") && !path.contains('?') => Ok(Some(url.to_owned())),
            _ => Err(AuthenticationError::NotOurs("SigningCertURL")),
        }
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
        let pem = certificate.ok_or(AuthenticationError::NoCertificate)?;
        let certificate = self.check_certificate(root, pem, now)?;
        Ok(request.authenticated(self.verify(root, &certificate, now)?))
    }

    fn decode(&self, authentic: Authentic<'_>) -> Result<Decoded, Malformed> {
        let root = authentic.json()?.object("")?;
        match root.required_text("Type")? {
            "SubscriptionConfirmation" => {
                let url = root.required_text("SubscribeURL")?;
                let topic = root.required_text("TopicArn")?;
                if sns_path(url, topic, SUBSCRIBE_URL_BYTES_MAX).is_none() {
                    return Err(Malformed::field(
                        "SubscribeURL",
                        "not at SNS in the topic's region",
                    ));
                }
                return Ok(Decoded::Confirm(url.to_owned()));
            }
            "Notification" => {}
            _ => return Ok(Decoded::Ignored("no notification")),
        }
        let inner = root.required_text("Message")?;
        if !inner.trim_start().starts_with('{') {
            return Ok(Decoded::Ignored("a message of the topic itself"));
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
        // The key of the object already begins with the prefix of the rule.
        "S3" => {
            return Ok(Decoded::InBucket(BucketMail {
                bucket: action.required_text("bucketName")?.to_owned(),
                key: action.required_text("objectKey")?.to_owned(),
                mail,
            }));
        }
        _ => {
            return Ok(Decoded::Unreachable(
                "the rule's action carries no mail: use SNS or S3",
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

/// The region of a topic.
struct SnsRegion<'t> {
    name: &'t str,
    /// The domain of Amazon's hosts in that region.
    domain: &'static str,
}

impl<'t> SnsRegion<'t> {
    /// The region of a topic (`arn:PARTITION:sns:REGION:ACCOUNT:NAME`).
    fn of(topic: &'t str) -> Option<Self> {
        let mut parts = topic.split(':').skip(1);
        let (partition, service, name) = (parts.next()?, parts.next()?, parts.next()?);
        let is_region = (3..=REGION_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let domain = match partition {
            "aws-cn" => "amazonaws.com.cn",
            _ => "amazonaws.com",
        };
        (service == "sns" && is_region).then_some(Self { name, domain })
    }

    /// The host of SNS.
    fn host(&self) -> String {
        format!("sns.{}.{}", self.name, self.domain)
    }

    /// True if one of the names is that of SNS when it signs. Older regions share one name, newer ones have
    /// their own, and both regions of GovCloud have that of the first.
    fn signs_as(&self, names: &[String]) -> bool {
        let Self { name, domain } = self;
        let accepted = [
            format!("sns.{domain}"),
            self.host(),
            format!("sns-signing.{name}.{domain}"),
            format!("sns-{name}.{domain}"),
        ];
        let is_government = name.starts_with("us-gov-");
        names.iter().any(|name| {
            accepted.contains(name) || (is_government && name == "sns-us-gov-west-1.amazonaws.com")
        })
    }
}

/// The path and query of a URL at SNS in the region of `topic`; `None` for any other URL, one with a user
/// or a port, and one of more than `bytes_max` octets.
fn sns_path<'u>(url: &'u str, topic: &str, bytes_max: usize) -> Option<&'u str> {
    let path = url
        .strip_prefix("https://")?
        .strip_prefix(SnsRegion::of(topic)?.host().as_str())?;
    let is_plain =
        path.bytes().all(|b| matches!(b, b'!'..=b'~')) && !path.contains(['\\', '#', '@']);
    (path.starts_with('/') && is_plain && url.len() <= bytes_max).then_some(path)
}

/// Parses a time such as `2018-03-30T17:21:51.636Z`.
fn parse_time(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc3339(text)?;
    let secs = u64::try_from(date.to_timestamp()).ok()?;
    date.is_valid().then(|| Timestamp::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:111111111111:inbound";

    #[test]
    fn only_sns_in_the_topics_own_region_is_contacted() {
        let china = "arn:aws-cn:sns:cn-north-1:111111111111:inbound";
        for (url, topic) in [
            ("https://sns.us-east-1.amazonaws.com/a.pem", TOPIC),
            ("https://sns.cn-north-1.amazonaws.com.cn/a.pem", china),
        ] {
            assert_eq!(sns_path(url, topic, 256), Some("/a.pem"), "{url}");
        }
        let long = format!(
            "https://sns.us-east-1.amazonaws.com/{}.pem",
            "a".repeat(300)
        );
        for url in [
            "https://sns.us-west-1.amazonaws.com/a.pem",
            "https://sns.s3-us-west-2.amazonaws.com/a.pem",
            "https://sns.s3-accelerate.amazonaws.com/a.pem",
            "https://sns.us-east-1.amazonaws.com.cn/a.pem",
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
            &long,
        ] {
            assert_eq!(sns_path(url, TOPIC, 256), None, "{url}");
        }
        for topic in [
            "",
            "arn",
            "arn:aws:sqs:us-east-1:1:x",
            "arn:aws:sns::1:x",
            "arn:aws:sns:a.b/c:1:x",
        ] {
            assert!(SnsRegion::of(topic).is_none(), "{topic}");
        }
    }

    #[test]
    fn each_region_signs_under_its_names() {
        for (partition, region, names) in [
            (
                "aws",
                "us-east-1",
                ["sns.amazonaws.com", "sns.us-east-1.amazonaws.com"],
            ),
            (
                "aws",
                "af-south-1",
                [
                    "sns-signing.af-south-1.amazonaws.com",
                    "sns.af-south-1.amazonaws.com",
                ],
            ),
            (
                "aws-cn",
                "cn-north-1",
                [
                    "sns-cn-north-1.amazonaws.com.cn",
                    "sns.cn-north-1.amazonaws.com.cn",
                ],
            ),
            (
                "aws-us-gov",
                "us-gov-east-1",
                [
                    "sns-us-gov-west-1.amazonaws.com",
                    "sns.us-gov-east-1.amazonaws.com",
                ],
            ),
        ] {
            let topic = format!("arn:{partition}:sns:{region}:1:x");
            let region = SnsRegion::of(&topic).unwrap();
            for name in names {
                assert!(region.signs_as(&[name.to_owned()]), "{name}");
            }
            for name in [
                "amazonaws.com",
                "s3.amazonaws.com",
                "sns.amazonaws.com.evil.example",
                "sns-signing.eu-west-9.amazonaws.com",
                "sns.eu-west-9.amazonaws.com",
                "",
            ] {
                assert!(!region.signs_as(&[name.to_owned()]), "{name}");
            }
        }
        assert!(!SnsRegion::of(TOPIC).unwrap().signs_as(&[]));
    }

    #[test]
    fn times_are_read() {
        let at = parse_time("2018-03-30T17:21:51.636Z").unwrap();
        assert!(at.to_rfc3339().starts_with("2018-03-30T17:21:51"), "{at}");
        assert!(parse_time("yesterday").is_none());
        assert!(parse_time("").is_none());
    }
}
