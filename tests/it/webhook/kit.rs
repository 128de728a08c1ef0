//! For every provider and mode: the configured adapter, a valid body, and the provider's signature.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use data_encoding::{BASE64, HEXLOWER};
use postern::clock::Timestamp;
use postern::ingress::webhook::{
    Adapter, BasicAccount, Brevo, Forwarder, Generic, MailerSend, Mailgun, Mailjet, Mandrill,
    Postal, Postmark, Resend, SendGrid, Ses, SparkPost, Standard, StandardSigning,
};
use postern::secret::Secret;
use postern::tls::PublicKey;
use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_RSA_SHA256};
use ring::rand::SystemRandom;
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::Post;
use super::body::Body;

const SECRET: &str = "test-secret-0123456789abcdef-0123";
const SVIX_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub(super) const TOPIC: &str = "arn:aws:sns:us-east-1:111111111111:inbound";
pub(super) const CERTIFICATE_URL: &str = "https://sns.us-east-1.amazonaws.com/test.pem";
const PUBLIC_URL: &str = "https://mail.example.com/gateway/inbound/mandrill?a=b";

/// One provider in one mode.
#[derive(Clone, Copy)]
pub(super) struct Kit {
    pub(super) name: &'static str,
    pub(super) mode: &'static str,
    pub(super) body: fn(&str) -> Body,
    /// Adds the authentication to the post; with `false` by a wrong secret.
    pub(super) sign: fn(&mut Body, &mut Post, Timestamp, bool),
    /// The status for a request that is not authentic.
    pub(super) unproven: u16,
    /// The status for a mail to an unknown address.
    pub(super) unroutable: u16,
    /// The seconds after which a request is too old; `None` if it never is.
    pub(super) too_old: Option<u64>,
}

impl Kit {
    pub(super) fn post(&self, body: Body, now: Timestamp) -> Post {
        self.post_with(body, now, true)
    }

    pub(super) fn post_with(&self, mut body: Body, now: Timestamp, right: bool) -> Post {
        let mut post = Post {
            provider: Some(self.name),
            headers: Vec::new(),
            body: body.written().into(),
        };
        (self.sign)(&mut body, &mut post, now, right);
        if !post.headers.iter().any(|(name, _)| name == "content-type") {
            post.header("content-type", body.media_type());
        }
        post
    }

    pub(super) fn good(&self, to: &str, now: Timestamp) -> Post {
        self.post((self.body)(to), now)
    }
}

/// All adapters, configured with the secrets of the kits and an older one.
pub(super) fn adapters() -> Vec<Arc<dyn Adapter>> {
    let secrets = || vec![Secret::new("an old one"), Secret::new(SECRET)];
    let accounts = || {
        vec![
            BasicAccount::new("old", "x"),
            BasicAccount::new("user", "pass:word"),
        ]
    };
    let signing = || StandardSigning::new(["whsec_AAAA", SVIX_SECRET]).unwrap();
    let sendgrid = PublicKey::parse(&BASE64.encode(&spki(ECDSA.public_key_der_bits())));
    vec![
        Arc::new(Generic::new(secrets())),
        Arc::new(Resend::new(signing())),
        Arc::new(Standard::new(signing())),
        Arc::new(SendGrid::new(vec![sendgrid.unwrap()], accounts())),
        Arc::new(Ses::new(vec![TOPIC.to_owned()], Vec::new())),
        Arc::new(Postal::new(vec![
            PublicKey::parse(&RSA.public_key_pem()).unwrap(),
        ])),
        Arc::new(Mandrill::new(secrets(), PUBLIC_URL.to_owned())),
        Arc::new(SparkPost::new(secrets(), Vec::new())),
        Arc::new(MailerSend::new(secrets())),
        Arc::new(Mailgun::new(secrets())),
        Arc::new(Forwarder::new(accounts())),
        Arc::new(Postmark::new(accounts(), Vec::new())),
        Arc::new(Brevo::new(accounts(), &["bearer-token"])),
        Arc::new(Mailjet::new(accounts())),
    ]
}

/// A key of SendGrid's, and its published form.
struct Ecdsa(Vec<u8>);

impl Ecdsa {
    fn pair(&self) -> signature::EcdsaKeyPair {
        let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        signature::EcdsaKeyPair::from_pkcs8(algorithm, &self.0, &SystemRandom::new()).unwrap()
    }

    fn public_key_der_bits(&self) -> Vec<u8> {
        use ring::signature::KeyPair as _;
        self.pair().public_key().as_ref().to_vec()
    }
}

static ECDSA: LazyLock<Ecdsa> = LazyLock::new(|| {
    let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let made = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
    Ecdsa(made.unwrap().as_ref().to_vec())
});

static RSA: LazyLock<KeyPair> = LazyLock::new(|| {
    let pem = include_str!("../../keys/unsafe-test-rsa.pem");
    KeyPair::from_pem_and_sign_algo(pem, &PKCS_RSA_SHA256).unwrap()
});

/// The SubjectPublicKeyInfo of a point on P-256.
fn spki(point: Vec<u8>) -> Vec<u8> {
    let head = HEXLOWER
        .decode(b"3059301306072a8648ce3d020106082a8648ce3d030107034200")
        .unwrap();
    [head, point].concat()
}

/// The certificate of SNS.
pub(super) fn certificate() -> String {
    let params = CertificateParams::new(vec!["sns.amazonaws.com".to_owned()]).unwrap();
    params.self_signed(&*RSA).unwrap().pem()
}

/// A certificate of an authority for the key with which SNS signs.
pub(super) fn certificate_by(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> String {
    params.signed_by(&*RSA, issuer).unwrap().pem()
}

fn rsa_signed(message: &[u8]) -> String {
    let pair = signature::RsaKeyPair::from_pkcs8(&RSA.serialize_der()).unwrap();
    let mut signed = vec![0; pair.public().modulus_len()];
    let random = SystemRandom::new();
    pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signed)
        .unwrap();
    BASE64.encode(&signed)
}

fn hmac256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn secret(right: bool) -> &'static str {
    if right { SECRET } else { "a wrong one" }
}

pub(super) fn basic(_: &mut Body, post: &mut Post, _: Timestamp, right: bool) {
    let pair = if right { "user:pass:word" } else { "user:pass" };
    let value = format!("Basic {}", BASE64.encode(pair.as_bytes()));
    post.header("Authorization", value);
}

pub(super) fn generic(_: &mut Body, post: &mut Post, now: Timestamp, right: bool) {
    let at = now.as_millis().to_string();
    let signed = [at.as_bytes(), b".", &post.body].concat();
    let mac = HEXLOWER.encode(&hmac256(secret(right).as_bytes(), &signed));
    post.header("X-Webhook-Timestamp", at);
    post.header("X-Webhook-Signature", mac);
}

pub(super) fn svix(_: &mut Body, post: &mut Post, now: Timestamp, right: bool) {
    let at = now.as_secs().to_string();
    let key = SVIX_SECRET.strip_prefix("whsec_").unwrap();
    let key = BASE64.decode(key.as_bytes()).unwrap();
    let key = if right { key } else { b"wrong".to_vec() };
    let signed = [b"msg_1.", at.as_bytes(), b".", &post.body].concat();
    let mac = BASE64.encode(&hmac256(&key, &signed));
    post.header("svix-id", "msg_1");
    post.header("svix-timestamp", at);
    post.header("svix-signature", format!("v1a,AAAA v1,AAAA v1,{mac}"));
}

pub(super) fn sendgrid(_: &mut Body, post: &mut Post, now: Timestamp, right: bool) {
    let at = now.as_secs().to_string();
    let signed = [at.as_bytes(), if right { b"" } else { b"x" }, &post.body].concat();
    let signed = ECDSA.pair().sign(&SystemRandom::new(), &signed).unwrap();
    post.header("X-Twilio-Email-Event-Webhook-Timestamp", at);
    let value = BASE64.encode(signed.as_ref());
    post.header("X-Twilio-Email-Event-Webhook-Signature", value);
}

pub(super) fn mailgun(body: &mut Body, post: &mut Post, now: Timestamp, right: bool) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let token = format!("{:050}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let at = now.as_secs().to_string();
    let mac = hmac256(secret(right).as_bytes(), format!("{at}{token}").as_bytes());
    body.push("timestamp", &at);
    body.push("token", &token);
    body.push("signature", &HEXLOWER.encode(&mac));
    post.body = body.written().into();
}

pub(super) fn sns(body: &mut Body, post: &mut Post, now: Timestamp, right: bool) {
    let message = match body {
        Body::Json(inner) => inner.to_string(),
        other => String::from_utf8_lossy(&other.written()).into_owned(),
    };
    post.body = notification(&message, now, right).to_string().into();
    post.header("content-type", "text/plain; charset=UTF-8");
    post.header("x-amz-sns-message-type", "Notification");
    post.header("x-amz-sns-message-id", "m-1");
}

/// A notification with this content.
pub(super) fn notification(message: &str, now: Timestamp, right: bool) -> Value {
    let at = now.to_rfc3339();
    let topic = if right { TOPIC } else { "other" };
    let signed = format!(
        "Message\n{message}\nMessageId\nm-1\nSubject\nnews\nTimestamp\n{at}\nTopicArn\n{topic}\n\
         Type\nNotification\n"
    );
    json!({
        "Type": "Notification",
        "MessageId": "m-1",
        "TopicArn": TOPIC,
        "Subject": "news",
        "Message": message,
        "Timestamp": at,
        "SignatureVersion": "2",
        "Signature": rsa_signed(signed.as_bytes()),
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
    })
}

/// A topic's request to confirm the subscription at `url`.
pub(super) fn subscription(url: &str, now: Timestamp) -> Value {
    let at = now.to_rfc3339();
    let signed = format!(
        "Message\nchoose\nMessageId\nm-1\nSubscribeURL\n{url}\nTimestamp\n{at}\nToken\nt\n\
         TopicArn\n{TOPIC}\nType\nSubscriptionConfirmation\n"
    );
    json!({
        "Type": "SubscriptionConfirmation",
        "MessageId": "m-1",
        "TopicArn": TOPIC,
        "Token": "t",
        "Message": "choose",
        "SubscribeURL": url,
        "Timestamp": at,
        "SignatureVersion": "2",
        "Signature": rsa_signed(signed.as_bytes()),
        "SigningCertURL": CERTIFICATE_URL,
    })
}

pub(super) fn postal(_: &mut Body, post: &mut Post, _: Timestamp, right: bool) {
    let signed = [if right { b"".as_slice() } else { b"x" }, &post.body].concat();
    post.header("X-Postal-Signature-256", rsa_signed(&signed));
    post.header("X-Postal-Signature-KID", "k");
}

pub(super) fn mandrill(body: &mut Body, post: &mut Post, _: Timestamp, right: bool) {
    let mut fields = match body {
        Body::Urlencoded(fields) => fields.clone(),
        _ => Vec::new(),
    };
    fields.sort();
    let mut signed = PUBLIC_URL.as_bytes().to_vec();
    for (name, value) in fields {
        signed.extend_from_slice(name.as_bytes());
        signed.extend_from_slice(&value);
    }
    let key = hmac::Key::new(
        hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        secret(right).as_bytes(),
    );
    let mac = BASE64.encode(hmac::sign(&key, &signed).as_ref());
    post.header("X-Mandrill-Signature", mac);
}

pub(super) fn sparkpost(_: &mut Body, post: &mut Post, _: Timestamp, right: bool) {
    post.header("X-MessageSystems-Webhook-Token", secret(right));
    post.header("X-MessageSystems-Batch-ID", "batch-1");
}

pub(super) fn mailersend(_: &mut Body, post: &mut Post, _: Timestamp, right: bool) {
    let mac = hmac256(secret(right).as_bytes(), &post.body);
    post.header("Signature", HEXLOWER.encode(&mac));
}
