//! Owns `[webhook]` and the tables in it: the providers and their secrets.
//!
//! Does not enable webhooks: `server.inbound` does.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::attachments::url;
use super::reader::Section;
use super::secret::Secret;
use crate::ingress::webhook::{
    Adapter, BasicAccount, Brevo, Forwarder, Generic, MailerSend, Mailgun, Mailjet, Mandrill,
    Postal, Postmark, ProviderApiKeys, Resend, SendGrid, Ses, Settings, SparkPost, Standard,
    StandardSigning,
};
use crate::limits::Rate;
use crate::network::Network;
use crate::objects::S3Bucket;
use crate::tls::PublicKey;

/// The allowed values for the maximum age of a signed request.
pub(super) const AGES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// The generic scheme, which may also sign the product's other calls.
pub(super) struct GenericScheme {
    pub(super) secrets: Vec<Secret>,
    /// The maximum age of a request, or its distance in the future.
    pub(super) age_max: Duration,
}

/// Reads the table; the settings are `None` if no provider is configured.
pub(super) fn read(mut section: Section<'_>) -> (Option<Settings>, GenericScheme) {
    // In the order in which providers are recognised: the most certain first.
    let (resend, resend_key) = resend(section.table("resend"));
    let (brevo, brevo_key) = brevo(section.table("brevo"));
    let (ses, buckets) = ses(section.table("ses"));
    let own = GenericScheme {
        secrets: section.strong_secrets("secret"),
        age_max: age(&mut section, Generic::AGE_MAX),
    };
    let adapters = [
        generic(&own),
        resend,
        standard(section.table("standard")),
        sendgrid(section.table("sendgrid")),
        ses,
        postal(section.table("postal")),
        mandrill(section.table("mandrill")),
        sparkpost(section.table("sparkpost")),
        mailersend(section.table("mailersend")),
        mailgun(section.table("mailgun")),
        relay(section.table("relay")),
        postmark(section.table("postmark")),
        brevo,
        mailjet(section.table("mailjet")),
    ];
    let adapters: Vec<Arc<dyn Adapter>> = adapters.into_iter().flatten().collect();
    let mail_bytes_max = section.length("mail_bytes_max", Settings::MAIL_BYTES_MAX, 1024..=1 << 30);
    let defaults = Settings::new(adapters);
    let counts = 1..=1_000_000;
    let settings = Settings {
        mail_bytes_max,
        bytes_in_flight_max: section.length(
            "bytes_in_flight_max",
            defaults.bytes_in_flight_max,
            1 << 20..=1 << 40,
        ),
        rate_per_source: Rate {
            per_second: section.count(
                "source_rate",
                defaults.rate_per_source.per_second,
                counts.clone(),
            ),
            burst: section.count(
                "source_burst",
                defaults.rate_per_source.burst,
                counts.clone(),
            ),
        },
        rate_total: Rate {
            per_second: section.count("rate", defaults.rate_total.per_second, counts.clone()),
            burst: section.count("burst", defaults.rate_total.burst, counts),
        },
        api_keys: ProviderApiKeys {
            resend: resend_key,
            brevo: brevo_key,
        },
        buckets,
        proxies: networks(&mut section, "proxies"),
        ..defaults
    };
    section.end();
    ((!settings.adapters.is_empty()).then_some(settings), own)
}

fn generic(own: &GenericScheme) -> Option<Arc<dyn Adapter>> {
    let secrets = own.secrets.clone();
    (!secrets.is_empty()).then(|| {
        Arc::new(Generic {
            age_max: own.age_max,
            ..Generic::new(secrets)
        }) as Arc<dyn Adapter>
    })
}

fn standard(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let signing = signing(&mut section);
    let is_whole = !signing.keys.is_empty();
    finish_adapter(
        section,
        is_enabled,
        is_whole,
        "secret",
        Standard::new(signing),
    )
}

fn resend(mut section: Section<'_>) -> (Option<Arc<dyn Adapter>>, Option<Secret>) {
    let is_enabled = is_given(&section);
    let signing = signing(&mut section);
    let key = section.secret("api_key");
    let is_whole = !signing.keys.is_empty() && key.is_some();
    let adapter = finish_adapter(
        section,
        is_enabled,
        is_whole,
        "secret and api_key",
        Resend::new(signing),
    );
    (adapter, key)
}

fn signing(section: &mut Section<'_>) -> StandardSigning {
    let mut texts = Vec::new();
    for key in ["secret", "secret_old"] {
        texts.extend(section.secret(key).map(|secret| secret.reveal().to_owned()));
    }
    StandardSigning::new(texts.iter().map(String::as_str)).unwrap_or_else(|at| {
        let key = if at == 0 { "secret" } else { "secret_old" };
        section.problem(key, "not whsec_ and base64");
        StandardSigning::default()
    })
}

fn sendgrid(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let keys = public_keys(&mut section);
    let accounts = accounts(&mut section);
    let is_whole = !keys.is_empty() || !accounts.is_empty();
    let age_max = age(&mut section, SendGrid::AGE_MAX);
    let adapter = SendGrid {
        age_max,
        ..SendGrid::new(keys, accounts)
    };
    finish_adapter(section, is_enabled, is_whole, "password", adapter)
}

fn ses(mut section: Section<'_>) -> (Option<Arc<dyn Adapter>>, Vec<S3Bucket>) {
    // An empty table of buckets means that there is none.
    let buckets = buckets(section.table("bucket"));
    let is_enabled = is_given(&section) || !buckets.is_empty();
    let topics = section.list("topics", None, |topic| match topic.starts_with("arn:") {
        true => Ok(topic.to_owned()),
        false => Err("not a topic's ARN"),
    });
    let topics = topics.unwrap_or_default();
    let is_whole = !topics.is_empty();
    let accounts = accounts(&mut section);
    let needs_sha256 = section.switch("needs_sha256", false);
    let adapter = Ses {
        needs_sha256,
        ..Ses::new(topics, accounts)
    };
    let adapter = finish_adapter(section, is_enabled, is_whole, "topics", adapter);
    (adapter, buckets)
}

/// The buckets of SES, which share their server and key.
fn buckets(mut section: Section<'_>) -> Vec<S3Bucket> {
    let is_enabled = is_given(&section);
    let names = section.list("names", None, |name| match name.is_empty() {
        true => Err("empty"),
        false => Ok(name.to_owned()),
    });
    let names = names.unwrap_or_default();
    let endpoint = section.parsed("endpoint", url);
    let region = section.text("region", "us-east-1");
    let key_id = section.text_maybe("key_id");
    let has_key = ["key", "key_file"].iter().any(|key| section.is_given(key));
    let key = section.secret("key");
    if is_enabled {
        for (name, is_there) in [
            ("names", !names.is_empty()),
            ("key_id", key_id.is_some()),
            ("key", has_key),
        ] {
            if !is_there {
                section.problem(name, "missing: a bucket has a name, a key_id and a key");
            }
        }
    }
    section.end();
    let (Some(key_id), Some(key)) = (key_id, key) else {
        return Vec::new();
    };
    let buckets = names.into_iter().map(|name| S3Bucket {
        name,
        endpoint: endpoint.clone(),
        region: region.clone(),
        prefix: String::new(),
        key_id: key_id.clone(),
        key: key.clone(),
    });
    buckets.collect()
}

fn postal(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let keys = public_keys(&mut section);
    let is_whole = !keys.is_empty();
    let allows_sha1 = section.switch("allows_sha1", false);
    let adapter = Postal {
        allows_sha1,
        ..Postal::new(keys)
    };
    finish_adapter(section, is_enabled, is_whole, "keys", adapter)
}

fn mandrill(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let keys = secrets(&mut section, "key");
    let url = section.text_maybe("public_url");
    let is_whole = !keys.is_empty() && url.is_some();
    let adapter = Mandrill::new(keys, url.unwrap_or_default());
    finish_adapter(section, is_enabled, is_whole, "key and public_url", adapter)
}

fn sparkpost(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let tokens = secrets(&mut section, "token");
    let accounts = accounts(&mut section);
    let is_whole = !tokens.is_empty() || !accounts.is_empty();
    let adapter = SparkPost::new(tokens, accounts);
    finish_adapter(section, is_enabled, is_whole, "token", adapter)
}

fn mailersend(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let secrets = secrets(&mut section, "secret");
    let is_whole = !secrets.is_empty();
    let adapter = MailerSend::new(secrets);
    finish_adapter(section, is_enabled, is_whole, "secret", adapter)
}

fn mailgun(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let keys = secrets(&mut section, "signing_key");
    let is_whole = !keys.is_empty();
    let age_max = age(&mut section, Mailgun::AGE_MAX);
    let adapter = Mailgun {
        age_max,
        ..Mailgun::new(keys)
    };
    finish_adapter(section, is_enabled, is_whole, "signing_key", adapter)
}

fn relay(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let accounts = accounts(&mut section);
    let is_whole = !accounts.is_empty();
    finish_adapter(
        section,
        is_enabled,
        is_whole,
        "password",
        Forwarder::new(accounts),
    )
}

fn postmark(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let accounts = accounts(&mut section);
    let networks = networks(&mut section, "networks");
    let is_whole = !accounts.is_empty() || !networks.is_empty();
    let adapter = Postmark::new(accounts, networks);
    finish_adapter(section, is_enabled, is_whole, "password", adapter)
}

fn brevo(mut section: Section<'_>) -> (Option<Arc<dyn Adapter>>, Option<Secret>) {
    let is_enabled = is_given(&section);
    let mut tokens = Vec::new();
    for key in ["token", "token_old"] {
        tokens.extend(section.secret(key));
    }
    let accounts = accounts(&mut section);
    let is_whole = !tokens.is_empty() || !accounts.is_empty();
    let tokens: Vec<&str> = tokens.iter().map(Secret::reveal).collect();
    let key = section.secret("api_key");
    let adapter = Brevo {
        fetches_files: key.is_some(),
        ..Brevo::new(accounts, &tokens)
    };
    (
        finish_adapter(section, is_enabled, is_whole, "token", adapter),
        key,
    )
}

fn mailjet(mut section: Section<'_>) -> Option<Arc<dyn Adapter>> {
    let is_enabled = is_given(&section);
    let accounts = accounts(&mut section);
    let is_whole = !accounts.is_empty();
    finish_adapter(
        section,
        is_enabled,
        is_whole,
        "password",
        Mailjet::new(accounts),
    )
}

/// True if a key of this table is set, so that the provider must be meant to be enabled.
fn is_given(section: &Section<'_>) -> bool {
    !section.given_keys().is_empty()
}

/// The adapter, if the table is set. A key for authenticating requests is required.
fn finish_adapter(
    section: Section<'_>,
    is_enabled: bool,
    is_whole: bool,
    needed: &str,
    adapter: impl Adapter + 'static,
) -> Option<Arc<dyn Adapter>> {
    if is_enabled && !is_whole {
        section.problem(
            needed,
            "missing: requests could not be authenticated without it",
        );
    }
    section.end();
    (is_enabled && is_whole).then(|| Arc::new(adapter) as Arc<dyn Adapter>)
}

/// The secret under `key` and, during a rotation, the one before it.
fn secrets(section: &mut Section<'_>, key: &str) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for key in [key.to_owned(), format!("{key}_old")] {
        match section.secret(&key) {
            Some(secret) if secret.reveal().is_empty() => section.problem(&key, "empty"),
            Some(secret) => secrets.push(secret),
            None => {}
        }
    }
    secrets
}

fn accounts(section: &mut Section<'_>) -> Vec<BasicAccount> {
    /// The minimum length in octets of a password, so that it cannot be guessed.
    const PASSWORD_BYTES_MIN: usize = 16;
    let user = section.parsed_or("user", "postern", |user| match user.contains(':') {
        true => Err("has a colon"),
        false => Ok(user.to_owned()),
    });
    let user = user.unwrap_or_default();
    let mut accounts = Vec::new();
    for key in ["password", "password_old"] {
        if let Some(password) = section.secret(key) {
            if password.reveal().len() < PASSWORD_BYTES_MIN {
                let why = format!("too weak: at least {PASSWORD_BYTES_MIN} octets are required");
                section.problem(key, why);
            }
            accounts.push(BasicAccount::new(&user, password.reveal()));
        }
    }
    accounts
}

fn public_keys(section: &mut Section<'_>) -> Vec<PublicKey> {
    let read = |text: &str| PublicKey::parse(text).ok_or("not a public key, PEM or its base64");
    section.list("keys", None, read).unwrap_or_default()
}

fn networks(section: &mut Section<'_>, key: &str) -> Vec<Network> {
    let network = |text: &str| text.parse().map_err(|_| "not an address or address/bits");
    section.list(key, Some(&[]), network).unwrap_or_default()
}

fn age(section: &mut Section<'_>, default: Duration) -> Duration {
    section.duration("max_age", default, AGES)
}
