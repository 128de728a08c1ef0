//! Owns `[[route]]`: a reply domain with its keys, its mailboxes and its Messages API.
//!
//! Does not create key rings or clients; the parts that use a route do.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::auth;
use super::reader::Section;
use super::secret::Secret;
use crate::delivery::api::{Api, ApiSettings};
use crate::delivery::policy::{KindAction, KindActions, RoutePolicy};
use crate::mail::address::Domain;
use crate::mail::kind::MailKind;
use crate::mail::mailbox::{FILE_BYTES_MAX, Rules};
use crate::mail::reply::MARKER_DEFAULT;
use crate::mail::token::{Format, KeyError, KeyRing};

/// The name of a route without a configured name.
const NAME_DEFAULT: &str = "default";
/// The mailboxes of a route without configured ones.
const MAILBOXES_DEFAULT: [&str; 4] = ["general", "business", "fans", "dmca"];
/// The mailbox for mail to postmaster, if a mailbox has this name.
const POSTMASTER_DEFAULT: &str = "general";
/// The minimum length of a marker in characters: a shorter one would occur in many mails.
const MARKER_CHARS_MIN: usize = 8;
const MARKER_CHARS_MAX: usize = 100;
/// Key ids have four bits in a token.
const KEY_ID_MAX: u64 = 15;

/// A reply domain, or several equivalent ones, with all related settings.
#[derive(Clone)]
pub struct RouteConfig {
    /// The unique name.
    pub name: String,
    /// The reply domains; at least one, and none of another route. Tokens are issued in the first.
    pub domains: Vec<Domain>,
    /// The signing keys by id, newest first; at least one.
    keys: Vec<(u8, Secret)>,
    /// The word before the token in a reply address.
    prefix: String,
    /// The format of new tokens.
    pub token_format: Format,
    /// The time for which a token is valid.
    pub token_lifetime: Duration,
    /// The local parts that are mailboxes.
    pub mailboxes: Vec<String>,
    /// The mailbox for all other local parts; `None` refuses them.
    pub catch_all: Option<String>,
    /// The mailbox for mail to postmaster (RFC 5321 section 4.5.1).
    pub postmaster: String,
    /// The line of our mails above which people reply, if configured.
    pub reply_marker: Option<String>,
    /// The rules for mailboxes, and the action for each kind of mail.
    pub policy: RoutePolicy,
    /// The treatment of mail whose sender is not authenticated.
    pub sender_policy: crate::auth::AuthPolicy,
    /// The Messages API.
    pub api: ApiSettings,
}

impl RouteConfig {
    /// The line above which people reply, for the reply extraction. The default marker of each language is
    /// recognised too.
    pub fn marker(&self) -> &str {
        self.reply_marker.as_deref().unwrap_or(MARKER_DEFAULT)
    }

    /// True if the Messages API is not on this machine, according to its URL.
    pub(super) fn is_product_remote(&self) -> bool {
        let url = reqwest::Url::parse(&self.api.base_url).ok();
        let host = url.as_ref().and_then(reqwest::Url::host_str);
        let is_local = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_loopback = host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
            is_loopback || host == "localhost" || host.ends_with(".localhost")
        };
        host.is_some_and(|host| !is_local(host))
    }

    /// The secrets of the keys, the newest first.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.keys.iter().map(|(_, secret)| secret)
    }

    /// Creates a key ring of the route's keys. Each part that verifies tokens has a separate one.
    ///
    /// # Errors
    /// Never for a route returned by [`load`](super::load), which has tested it.
    pub fn key_ring(&self) -> Result<KeyRing, KeyError> {
        let keys = self.keys.iter();
        let keys = keys.map(|(id, secret)| (*id, secret.reveal().as_bytes().to_vec()));
        KeyRing::new(keys.collect(), self.token_lifetime)?.with_prefix(&self.prefix)
    }
}

impl fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("name", &self.name)
            .field("domains", &self.domains)
            .finish_non_exhaustive()
    }
}

/// Reads every route. Errors are reported; an unusable route is left out.
pub(super) fn read(root: &mut Section<'_>) -> Vec<RouteConfig> {
    let Some(mut sections) = root.tables("route") else {
        return Vec::new();
    };
    if sections.is_empty() {
        // An empty table reports each missing key.
        sections.push(root.table("route"));
    }
    let mut names = BTreeSet::new();
    let mut domains: Vec<Domain> = Vec::new();
    let mut routes = Vec::new();
    for mut section in sections {
        let name = section.text("name", NAME_DEFAULT);
        if !names.insert(name.clone()) {
            section.problem(
                "name",
                format!("\"{}\": two routes of this name", name.escape_debug()),
            );
        }
        let route = read_one(&mut section, name, &mut domains);
        section.end();
        routes.extend(route);
    }
    routes
}

fn read_one(
    section: &mut Section<'_>,
    name: String,
    taken: &mut Vec<Domain>,
) -> Option<RouteConfig> {
    let domains = read_domains(section, taken);
    let keys = read_keys(section);
    let token_format = section.choice("token_format", &[("v2", Format::V2), ("v1", Format::V1)]);
    let bounds = Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 60 * 60);
    let token_lifetime = section.duration("token_lifetime", KeyRing::LIFETIME, bounds);
    let prefix = section.text("reply_prefix", "reply");
    let reply_marker = section.parsed("reply_marker", marker);
    let mailboxes = section.list("mailboxes", Some(&MAILBOXES_DEFAULT), mailbox);
    if mailboxes.as_ref().is_some_and(Vec::is_empty) {
        section.problem("mailboxes", "empty: mail to postmaster needs one");
    }
    let mailboxes = mailboxes.unwrap_or_default();
    let among = |name: &str| {
        if mailboxes.iter().any(|mailbox| mailbox == name) {
            Ok(name.to_owned())
        } else {
            Err("not one of mailboxes")
        }
    };
    let catch_all = section.parsed("catch_all", among);
    let postmaster = section.parsed("postmaster", among);
    let postmaster = postmaster
        .or_else(|| among(POSTMASTER_DEFAULT).ok())
        .or_else(|| mailboxes.first().cloned());
    let rules = read_rules(section);
    let kinds = read_kinds(section.table("kinds"));
    let policy = rules.map(|rules| RoutePolicy {
        rules: Arc::new(rules),
        kinds,
    });
    let senders = auth::policy(section.table("policy"));
    let api = read_api(section.table("api"));
    let route = RouteConfig {
        name,
        domains: Some(domains).filter(|domains| !domains.is_empty())?,
        keys: Some(keys).filter(|keys| !keys.is_empty())?,
        prefix,
        token_format,
        token_lifetime,
        postmaster: postmaster?,
        mailboxes,
        catch_all,
        reply_marker,
        policy: policy?,
        sender_policy: senders,
        api: api?,
    };
    match route.key_ring() {
        Ok(_) => {}
        Err(error @ KeyError::Prefix(_)) => section.problem("reply_prefix", error.to_string()),
        // The reader of the keys has reported this error.
        Err(KeyError::IdRepeated(_) | KeyError::SecretTooShort { .. }) => {}
        Err(error) => section.problem("secrets", error.to_string()),
    }
    Some(route)
}

fn read_domains(section: &mut Section<'_>, taken: &mut Vec<Domain>) -> Vec<Domain> {
    let is_said = section.is_given("domains");
    let domains = section.list("domains", None, Domain::parse);
    if !is_said || domains.as_ref().is_some_and(Vec::is_empty) {
        section.problem(
            "domains",
            "missing: the reply domain, or EMAIL_REPLY_DOMAIN",
        );
    }
    let domains = domains.unwrap_or_default();
    for domain in &domains {
        if taken.contains(domain) {
            section.problem("domains", format!("\"{domain}\": listed twice"));
        }
        taken.push(domain.clone());
    }
    domains
}

fn read_keys(section: &mut Section<'_>) -> Vec<(u8, Secret)> {
    let entries = section.tables("secrets");
    if entries.as_ref().is_some_and(Vec::is_empty) {
        section.problem(
            "secrets",
            "missing: a key to sign with, or EMAIL_REPLY_SECRET",
        );
    }
    let mut ids = BTreeSet::new();
    let mut keys = Vec::new();
    for mut entry in entries.unwrap_or_default() {
        let id = entry.number("id", 0, 0..=KEY_ID_MAX);
        if !ids.insert(id) {
            entry.problem("id", format!("{id}: two keys of this id"));
        }
        let is_given = ["secret", "secret_file"]
            .iter()
            .any(|key| entry.is_given(key));
        let secret = entry.secret("secret");
        match &secret {
            None if is_given => {} // The reader of the secret has reported it.
            None => entry.problem("secret", "missing: set it, or secret_file"),
            Some(secret) => {
                if let Some(why) = secret.weakness() {
                    entry.problem("secret", why);
                }
            }
        }
        entry.end();
        let id = u8::try_from(id).unwrap_or_default();
        keys.extend(secret.map(|secret| (id, secret)));
    }
    keys
}

/// The rules in the configured file, or the built-in ones.
fn read_rules(section: &mut Section<'_>) -> Option<Rules> {
    if !section.is_given("rules") {
        // Read in any case, so that the key is recorded.
        section.path_maybe("rules");
        return Rules::shipped().ok();
    }
    section.parsed("rules", |path| {
        let mut text = String::new();
        let most = FILE_BYTES_MAX as u64 + 1;
        File::open(path)
            .and_then(|file| file.take(most).read_to_string(&mut text))
            .map_err(|error| error.to_string())?;
        Rules::parse(&text).map_err(|error| error.to_string())
    })
}

fn read_kinds(mut section: Section<'_>) -> KindActions {
    let mut kinds = KindActions::default();
    for kind in MailKind::ALL {
        let default = kinds.action(kind);
        let all = [
            default,
            KindAction::Post,
            KindAction::PostTyped,
            KindAction::Drop,
            KindAction::Hold,
        ];
        let mut words: Vec<(&str, KindAction)> = Vec::new();
        for action in all
            .into_iter()
            .filter(|action| KindActions::is_allowed(kind, *action))
        {
            if words.iter().all(|(word, _)| *word != action.name()) {
                words.push((action.name(), action));
            }
        }
        let action = section.choice(kind.name(), &words);
        // Only allowed actions are in the list.
        let _ = kinds.set(kind, action);
    }
    section.end();
    kinds
}

fn read_api(mut section: Section<'_>) -> Option<ApiSettings> {
    let is_given = ["key", "key_file"].iter().any(|key| section.is_given(key));
    if !section.is_given("base_url") {
        section.problem(
            "base_url",
            "missing: where the Messages API is, or MESSAGES_API_BASE_URL",
        );
    }
    let base_url = section.text_maybe("base_url");
    let key = section.secret("key");
    if !is_given {
        section.problem("key", "missing: set it, key_file, or MESSAGES_API_KEY");
    }
    let defaults = ApiSettings::new("", "");
    let bounds = Duration::from_millis(100)..=Duration::from_secs(300);
    let connect = section.duration("connect_timeout", defaults.connect_timeout, bounds.clone());
    let read = section.duration("read_timeout", defaults.read_timeout, bounds.clone());
    let total = section.duration("total_timeout", defaults.total_timeout, bounds);
    let api = base_url.zip(key).and_then(|(base_url, key)| {
        let settings = ApiSettings {
            connect_timeout: connect,
            read_timeout: read,
            total_timeout: total,
            ..ApiSettings::new(base_url, key.reveal())
        };
        match Api::new(&settings) {
            Ok(_) => Some(settings),
            Err(error) => {
                let at_key = matches!(error, crate::delivery::api::ApiError::Key);
                section.problem(if at_key { "key" } else { "base_url" }, error.to_string());
                None
            }
        }
    });
    section.end();
    api
}

/// Parses a marker: one line that people do not write by chance, because a reply loses everything below it.
fn marker(text: &str) -> Result<String, &'static str> {
    if !(MARKER_CHARS_MIN..=MARKER_CHARS_MAX).contains(&text.trim().chars().count()) {
        return Err("must have 8 to 100 characters");
    }
    if text.chars().any(char::is_control) {
        return Err("must be one line");
    }
    Ok(text.trim().to_owned())
}

/// Parses a mailbox name: a plain word, because it becomes part of an address and of a JSON object.
fn mailbox(text: &str) -> Result<String, &'static str> {
    let fits =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("not a mailbox: up to 64 of a-z, 0-9, dot, dash and underscore")
    }
}
