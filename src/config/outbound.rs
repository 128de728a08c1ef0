//! Owns `[outbound]`: outgoing mail, its sender, relays, signatures and rates.
//!
//! Does not connect to anything.

use std::error::Error as _;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::outbound_api::{self, OutboundApiConfig};
use super::reader::{Section, read_fields};
use super::route::RouteConfig;
use super::secret::Secret;
use crate::client::{TrustError, TrustedRoots, client_config};
use crate::mail::address::{Address, Domain};
use crate::mail::job_id::JobId;
use crate::outbound::compose::{Templates, WebAddressForm};
use crate::outbound::dkim::{DkimSigningKey, KEYS_MAX};
use crate::outbound::rate::SendRates;
use crate::outbound::relay::settings::{
    PasswordMechanism, Relay, RelayCredentials, RelayLogin, RelaySecurity, RelayTimeouts,
};
use crate::outbound::worker::OutboundSettings;
use crate::retry::SendSchedule;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PORT: u16 = 587;
/// The port that uses TLS from the first octet (RFC 8314).
const PORT_IMPLICIT: u16 = 465;
/// The maximum number of relays.
const RELAYS_MAX: usize = 16;
/// Octets of a CA file.
const CA_BYTES_MAX: u64 = 1 << 20;

/// The settings of outgoing mail.
#[derive(Clone, Debug)]
pub struct OutboundConfig {
    /// True if drafts are accepted.
    pub enabled: bool,
    /// True if jobs are kept for viewing and none is sent.
    pub capture: bool,
    /// The sender's address; present if `enabled`.
    pub from: Option<Address>,
    /// The sender's name, which is the product's.
    pub from_name: Option<String>,
    /// The relays in order of preference; at least one if `enabled` and not `capture`.
    pub relays: Vec<Relay>,
    /// The time limit of each step with a relay.
    pub timeouts: RelayTimeouts,
    /// The keys, each of which signs every mail.
    pub signers: Arc<[DkimSigningKey]>,
    /// The limits of the worker.
    pub worker: OutboundSettings,
    /// The time for which a job is attempted.
    pub max_age: Duration,
    /// The time for which an address with too many bounces is suppressed.
    pub suppress_for: Duration,
    /// The templates of the mails.
    pub templates: Arc<Templates>,
    /// The List-Id of all mail, if there is one.
    pub list_id: Option<Domain>,
    /// The URL for unsubscribing with one click (RFC 8058), if there is one.
    pub list_unsubscribe: Option<WebAddressForm>,
    /// The callers that may request mail.
    pub api: OutboundApiConfig,
}

/// Values read earlier that this table depends on.
pub(super) struct OutboundContext<'a> {
    pub(super) routes: &'a [RouteConfig],
    pub(super) stop_max: Duration,
    pub(super) development: bool,
    /// The secrets of `[webhook]`.
    pub(super) webhook_secrets: &'a [Secret],
    /// The maximum age of a request of the generic webhook scheme.
    pub(super) webhook_age_max: Duration,
}

/// Reads the table; `None` if it is not usable, with the errors reported.
pub(super) fn read(
    mut section: Section<'_>,
    context: &OutboundContext<'_>,
) -> Option<OutboundConfig> {
    let enabled = section.switch("enabled", false);
    let capture = section.switch("capture", false) || context.development;
    let from = section.parsed("from", Address::parse);
    if enabled && from.is_none() && !section.is_given("from") {
        section.problem("from", "missing: the sender's address, or SMTP_FROM");
    }
    if !enabled && section.is_given("host") {
        section.warn("host", "no effect: outbound.enabled is not true");
    }
    let from_name = section.text_maybe("from_name");
    let relays = relays(&mut section, enabled && !capture);
    let signers = signers(&mut section, from.as_ref());
    let max_age = section.duration("max_age", 3 * DAY, Duration::from_secs(1)..=365 * DAY);
    let worker = worker(&mut section, context, capture);
    let templates = templates(&mut section);
    let api = outbound_api::OutboundApiContext {
        enabled,
        routes: context.routes,
        webhook_secrets: context.webhook_secrets,
        webhook_age_max: context.webhook_age_max,
    };
    let timeouts = timeouts(&mut section);
    let suppress_for = section.duration("suppress_for", 90 * DAY, DAY..=3650 * DAY);
    let list_id = section.parsed("list_id", Domain::parse);
    let list_unsubscribe = section.parsed("list_unsubscribe", https);
    let api = outbound_api::read(section.table("api"), &api);
    section.end();
    Some(OutboundConfig {
        enabled,
        capture,
        from,
        from_name,
        relays,
        timeouts,
        signers,
        worker,
        max_age,
        suppress_for,
        templates: templates?,
        list_id,
        list_unsubscribe,
        api,
    })
}

/// The operator's templates, tested while loading, or the built-in ones.
fn templates(section: &mut Section<'_>) -> Option<Arc<Templates>> {
    let folder = section.path_maybe("templates");
    let loaded = Templates::load(folder.as_deref());
    if let Err(error) = &loaded {
        let why = error.source().map(|why| format!(": {why}"));
        section.problem("templates", format!("{error}{}", why.unwrap_or_default()));
    }
    loaded.ok().map(Arc::new)
}

fn worker(
    section: &mut Section<'_>,
    context: &OutboundContext<'_>,
    capture: bool,
) -> OutboundSettings {
    let rates = 1..=100_000;
    let waits = Duration::from_millis(100)..=DAY;
    let again_max = section.count("attempts", 0u32, 0..=10_000);
    let domains = context.routes.iter().flat_map(|route| route.domains.iter());
    OutboundSettings {
        connections: section.count("connections", 8usize, 1..=1_000),
        domain_connections: section.count("domain_connections", 4usize, 1..=1_000),
        rates: SendRates {
            all: section.count("rate", 100u32, rates.clone()),
            domain: section.count("domain_rate", 20u32, rates),
        },
        schedule: SendSchedule {
            wait_first: section.duration("retry_wait_first", Duration::from_secs(1), waits.clone()),
            wait_max: section.duration("retry_wait_max", Duration::from_secs(3_600), waits),
            retries_max: Some(again_max).filter(|most| *most > 0),
        },
        suppress_after: section.count("suppress_after", 2u32, 1..=1_000),
        capture,
        own_domains: domains.cloned().collect(),
        grace: Duration::from_secs(10).min(context.stop_max),
    }
}

fn timeouts(section: &mut Section<'_>) -> RelayTimeouts {
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3_600);
    let mut timeouts = RelayTimeouts::default();
    read_fields!(section => timeouts;
        connect as "connect_timeout": duration(bounds),
        greeting as "greeting_timeout": duration(bounds),
        command as "command_timeout": duration(bounds),
        end as "end_timeout": duration(bounds),
        attempt as "attempt_timeout": duration(bounds),
    );
    timeouts
}

/// Reads the relay of the table itself, then those of its list.
fn relays(section: &mut Section<'_>, wanted: bool) -> Vec<Relay> {
    let is_told = section.is_given("host");
    let mut found: Vec<Relay> = relay(section).into_iter().collect();
    let more = section.tables("relay").unwrap_or_default();
    if more.len() >= RELAYS_MAX {
        section.problem("relay", format!("more than {} of them", RELAYS_MAX - 1));
    }
    if wanted && !is_told && more.is_empty() {
        section.problem("host", "missing: the relay, or SMTP_HOST; or set capture");
    }
    for mut entry in more {
        if !entry.is_given("host") {
            entry.problem("host", "missing: the relay's name or address");
        }
        found.extend(relay(&mut entry));
        entry.end();
    }
    found
}

/// Reads the keys of a relay; `None` without a host, or if they are invalid, which is reported.
fn relay(section: &mut Section<'_>) -> Option<Relay> {
    let host = section.parsed("host", host);
    let port = section.count("port", PORT, 1..=65_535);
    let words = [
        ("auto", RelaySecurity::Auto),
        ("starttls", RelaySecurity::StartTls),
        ("implicit", RelaySecurity::Implicit),
        ("none", RelaySecurity::None),
    ];
    let security = match section.choice("tls", &words) {
        RelaySecurity::Auto if port == PORT_IMPLICIT => RelaySecurity::Implicit,
        security => security,
    };
    let roots = match section.path_maybe("ca_file") {
        None => client_config(TrustedRoots::Public).map_err(with_cause),
        Some(path) => bytes(&path)
            .and_then(|pem| client_config(TrustedRoots::PublicAnd(&pem)).map_err(with_cause))
            .map_err(|what| format!("\"{}\": {what}", path.display())),
    };
    if let Err(what) = &roots {
        section.problem("ca_file", what.clone());
    }
    let login = login(section, host.is_some());
    let host = host?;
    if security == RelaySecurity::None && !is_this_machine(&host) {
        let what =
            format!("\"none\": {host} is another machine, to which mail is not sent in plain text");
        section.problem("tls", what);
        return None;
    }
    Some(Relay {
        server_name: ServerName::try_from(host.clone()).ok()?,
        host,
        port,
        security,
        login: login.ok()?,
        tls_config: roots.ok()?,
    })
}

fn with_cause(error: TrustError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The error of a login, after it was reported.
struct InvalidLogin;

/// The mechanism of a login.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoginMethod {
    Token,
    Password(&'static [PasswordMechanism]),
    /// A token if there is one, otherwise a password.
    Either,
}

fn login(section: &mut Section<'_>, is_used: bool) -> Result<Option<RelayLogin>, InvalidLogin> {
    const ANY: &[PasswordMechanism] = &[PasswordMechanism::Plain, PasswordMechanism::Login];
    let user = section.text_maybe("user");
    let has_password = ["password", "password_file"]
        .iter()
        .any(|key| section.is_given(key));
    let password = section.secret("password");
    let words = [
        ("auto", LoginMethod::Either),
        ("plain", LoginMethod::Password(&[PasswordMechanism::Plain])),
        ("login", LoginMethod::Password(&[PasswordMechanism::Login])),
        ("xoauth2", LoginMethod::Token),
    ];
    let shown = section.choice("auth", &words);
    let token = section.path_maybe("token_file");
    if !is_used {
        return Ok(None);
    }
    let problem = |key: &str, what: &str| {
        section.problem(key, what);
        Err(InvalidLogin)
    };
    let proof = match (shown, password, token) {
        (LoginMethod::Token, _, None) => return problem("token_file", "missing: auth is xoauth2"),
        (LoginMethod::Password(_), _, Some(_)) => {
            return problem("token_file", "no effect with this auth: set it to xoauth2");
        }
        (LoginMethod::Token | LoginMethod::Either, _, Some(token)) => {
            RelayCredentials::Token(token)
        }
        (_, None, None) if has_password => return Err(InvalidLogin), // The reader of the secret has reported it.
        (_, None, None) if user.is_none() => return Ok(None),
        (_, None, None) => {
            return problem("password", "missing: set it, password_file, or SMTP_PASS");
        }
        (_, Some(password), None) => RelayCredentials::Password {
            password: password.reveal().to_owned(),
            mechanisms: match shown {
                LoginMethod::Password(mechanisms) => mechanisms.to_vec(),
                _ => ANY.to_vec(),
            },
        },
    };
    match user {
        Some(user) => Ok(Some(RelayLogin {
            user,
            credentials: proof,
        })),
        None => problem("user", "missing: there is a password or a token"),
    }
}

/// Reads the keys of `[[outbound.dkim]]`.
fn signers(section: &mut Section<'_>, from: Option<&Address>) -> Arc<[DkimSigningKey]> {
    let entries = section.tables("dkim").unwrap_or_default();
    if entries.len() > KEYS_MAX {
        section.problem("dkim", format!("more than {KEYS_MAX} keys"));
    }
    let mut signers = Vec::new();
    for mut entry in entries {
        let said_domain = entry.is_given("domain");
        let domain = entry.parsed("domain", Domain::parse);
        let domain = match (domain, from) {
            (None, Some(from)) if !said_domain => Some(from.domain().clone()),
            (domain, _) => domain,
        };
        let selector = entry.text_maybe("selector");
        if selector.is_none() {
            entry.problem(
                "selector",
                "missing: the key is at SELECTOR._domainkey.DOMAIN",
            );
        }
        let said_key = ["key", "key_file"].iter().any(|key| entry.is_given(key));
        let key = entry.secret("key");
        if !said_key {
            entry.problem("key", "missing: set it, or key_file");
        }
        if domain.is_none() && !said_domain {
            entry.problem(
                "domain",
                "missing, and there is no outbound.from to derive it from",
            );
        }
        if let (Some(domain), Some(selector), Some(key)) = (domain, selector, key) {
            match DkimSigningKey::new(domain, &selector, key.reveal()) {
                Ok(signer) => {
                    if from.is_some_and(|from| !signer.is_aligned(from.domain())) {
                        let what = "is not the domain of outbound.from or a parent of it: DMARC ignores it";
                        entry.warn("domain", format!("\"{}\" {what}", signer.domain()));
                    }
                    signers.push(signer);
                }
                Err(error) => entry.problem("key", error.to_string()),
            }
        }
        entry.end();
    }
    signers.into()
}

fn host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    match Domain::parse(text) {
        Ok(domain) if !text.starts_with('[') && ServerName::try_from(domain.ascii()).is_ok() => {
            Ok(domain.ascii())
        }
        Ok(_) => Err("neither a host name nor an IP address".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_this_machine(host: &str) -> bool {
    let is_name = host == "localhost" || host.ends_with(".localhost");
    is_name || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Parses an https URL that may contain `{job}`.
fn https(text: &str) -> Result<WebAddressForm, String> {
    const JOB: &str = "{job}";
    // A job id has only characters that are unchanged in every component of a URL.
    let word = JobId([0; 16]).to_string();
    let filled = text.replace(JOB, &word);
    if filled.contains(['{', '}']) {
        return Err(format!("only {JOB} can stand in braces"));
    }
    let url = reqwest::Url::parse(&filled).map_err(|_| "not a URL".to_owned())?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "https" || !url.has_host() || !is_bare {
        return Err("not of the form https://host/path (RFC 8058)".to_owned());
    }
    WebAddressForm::parse(&url.as_str().replace(&word, JOB)).map_err(|error| error.to_string())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut read = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX + 1).read_to_end(&mut read))
        .map_err(|error| error.to_string())?;
    if read.len() as u64 > CA_BYTES_MAX {
        return Err("longer than 1MiB".to_owned());
    }
    Ok(read)
}
