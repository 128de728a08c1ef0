//! Owns the tables of the configuration without a separate module, and [`Config`], which holds all
//! settings.
//!
//! Does not read the tables that have a module of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::events::{self, EventsConfig};
use super::reader::{Section, read_fields};
use super::route::{self, RouteConfig};
use super::secret::Secret;
use super::{attachments, auth as senders, development, imap, listeners, outbound, value, webhook};
use crate::auth;
use crate::delivery::worker::DeliverySettings;
use crate::http::server::ServerSettings;
use crate::ingress::imap as mailboxes;
use crate::ingress::smtp as ingress;
use crate::ingress::webhook as webhooks;
use crate::mail::address::Domain;
use crate::mail::envelope::Door;
use crate::objects;
use crate::store;

/// The folder of certificates beside the configuration file.
const CERTIFICATES_FOLDER: &str = "certs";

/// The checked settings of every part.
#[derive(Clone, Debug)]
pub struct Config {
    /// True without any configuration: everything is on loopback and generated.
    pub development: bool,
    /// The host name in greetings, in Received fields and in the self-signed certificate.
    pub hostname: Domain,
    /// The data folder, which holds everything that must survive a restart.
    pub data_dir: PathBuf,
    /// The log filter, in the syntax of `tracing`.
    pub log_filter: String,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// The time for which a shutdown waits for running work.
    pub stop_max: Duration,
    /// The SMTP and LMTP listeners, and their limits.
    pub ingress: ingress::Settings,
    /// The settings of providers' webhooks; `None` if they are not enabled.
    pub webhooks: Option<webhooks::Settings>,
    /// The settings of IMAP; `None` if it is not enabled.
    pub imap: Option<mailboxes::Settings>,
    /// The settings of sender authentication.
    pub auth: auth::Settings,
    /// True if senders are authenticated.
    pub auth_enabled: bool,
    /// The addresses of HTTP.
    pub http_listen: Vec<SocketAddr>,
    /// The addresses of HTTP over TLS.
    pub https_listen: Vec<SocketAddr>,
    /// The limits of the HTTP addresses.
    pub http_server: ServerSettings,
    /// The configured folder of certificates, or the one beside the configuration file; `None` makes a
    /// self-signed one in the data folder.
    pub certificate_folder: Option<PathBuf>,
    /// The key of the embedded Messages API, if it is enabled.
    pub embedded_api: Option<Secret>,
    /// The routes; at least one.
    pub routes: Vec<RouteConfig>,
    /// The limits of the delivery worker.
    pub delivery: DeliverySettings,
    /// The limits and windows of the store.
    pub store: store::Settings,
    /// The storage and limits of attachments.
    pub attachments: objects::Settings,
    /// The subscribers to events.
    pub events: EventsConfig,
    /// Outgoing mail.
    pub outbound: outbound::OutboundConfig,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// Reads every table; `None` if the errors leave no configuration at all, with the errors in the findings.
pub(super) fn read(root: &mut Section<'_>, development: bool) -> Option<Config> {
    let server = ServerSection::read(root.table("server"));
    let certificates = tls(root.table("tls"));
    let (http_listen, https_listen, http) = http(root.table("http"), server.stop_max);
    let embedded_api = embedded_api(root.table("embedded_api"));
    let routes = route::read(root);
    // The greeting needs a name, and the reply domain resolves to this host.
    let hostname = server
        .hostname
        .or_else(|| routes.first()?.domains.first().cloned());
    let name = hostname.as_ref().map(Domain::ascii).unwrap_or_default();
    let (auth, auth_enabled) = senders::read(root.table("auth"), &name);
    let taken = [http_listen.as_slice(), &https_listen].concat();
    let mut ingress = listeners::read(root, name, &server.inbound, &taken);
    ingress.drain_max = server.stop_max;
    let store = store(root.table("store"), &server.data_dir);
    let delivery = delivery(root.table("delivery"), &store, server.stop_max);
    let (webhooks, webhook_own) = webhooks(root, &server.inbound);
    let imap = imap(root, &server.inbound, &ingress, &store);
    // A proxy represents many clients.
    let proxies = webhooks.iter().flat_map(|webhooks| &webhooks.proxies);
    let http = ServerSettings {
        exempt: ingress.exempt.iter().chain(proxies).copied().collect(),
        ..http
    };
    let link_secrets = routes.iter().take(1).flat_map(RouteConfig::secrets);
    let context = attachments::AttachmentDefaults {
        data_dir: &server.data_dir,
        hostname: hostname.as_ref(),
        http: http_listen.first(),
        https: https_listen.first(),
        is_product_remote: routes.iter().any(RouteConfig::is_product_remote),
        secrets: link_secrets.cloned().collect(),
        free_bytes_min: store.free_bytes_min,
    };
    let attachments = attachments::read(root.table("attachments"), &context);
    let events = events::read(root.table("events"));
    let context = outbound::OutboundContext {
        routes: &routes,
        stop_max: server.stop_max,
        development,
        webhook_secrets: &webhook_own.secrets,
        webhook_age_max: webhook_own.age_max,
    };
    let outbound = outbound::read(root.table("outbound"), &context)?;
    Some(Config {
        development,
        hostname: hostname?,
        data_dir: server.data_dir,
        log_filter: server.log_filter,
        log_format: server.log_format,
        stop_max: server.stop_max,
        ingress,
        webhooks,
        imap,
        auth,
        auth_enabled,
        http_listen,
        https_listen,
        http_server: http,
        certificate_folder: certificates,
        embedded_api,
        routes,
        delivery: DeliverySettings {
            suppress_for: outbound.suppress_for,
            ..delivery
        },
        store,
        attachments: attachments?,
        events,
        outbound,
    })
}

fn tls(mut section: Section<'_>) -> Option<PathBuf> {
    let folder = section.path_maybe("folder");
    let folder = folder.or_else(|| certificates_beside(section.file()?));
    section.end();
    folder
}

/// The folder `certs` beside the configuration file, if it contains a certificate.
fn certificates_beside(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?.join(CERTIFICATES_FOLDER);
    let hosts = fs::read_dir(&folder).ok()?;
    let has_chain = |host: fs::DirEntry| host.path().join("fullchain.pem").exists();
    hosts.flatten().any(has_chain).then_some(folder)
}

/// Reads IMAP's table; `None` if it is not enabled.
fn imap(
    root: &mut Section<'_>,
    inbound: &[Door],
    ingress: &ingress::Settings,
    store: &store::Settings,
) -> Option<mailboxes::Settings> {
    let imap = imap::read(root.table("imap"), inbound.contains(&Door::Imap))?;
    Some(mailboxes::Settings {
        store_max: ingress.store_max,
        dedupe_window: store.dedupe_window,
        ..imap
    })
}

/// Reads the webhooks' table and the generic scheme in it; `None` if webhooks are not enabled.
fn webhooks(
    root: &mut Section<'_>,
    inbound: &[Door],
) -> (Option<webhooks::Settings>, webhook::GenericScheme) {
    let (receivers, generic_scheme) = webhook::read(root.table("webhook"));
    let receivers = receivers.filter(|_| inbound.contains(&Door::Webhook));
    if inbound.contains(&Door::Webhook) && receivers.is_none() {
        root.problem("webhook.secret", "missing, but server.inbound requires it");
    }
    (receivers, generic_scheme)
}

/// The table `[server]`.
struct ServerSection {
    data_dir: PathBuf,
    hostname: Option<Domain>,
    inbound: Vec<Door>,
    log_filter: String,
    log_format: LogFormat,
    stop_max: Duration,
}

impl ServerSection {
    fn read(mut section: Section<'_>) -> Self {
        let host = |text: &str| match Domain::parse(text) {
            Ok(domain) if text.starts_with('[') => Err(format!("{domain} is not a domain name")),
            parsed => parsed.map_err(|error| error.to_string()),
        };
        let log = section.parsed_or("log", "info", log_filter);
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let stop = Duration::from_secs(1)..=Duration::from_secs(600);
        let receivers = section.list("inbound", Some(&["smtp", "lmtp"]), listeners::parse_inbound);
        if receivers.as_ref().is_some_and(Vec::is_empty) {
            section.problem("inbound", "empty: no mail can come in");
        }
        let read = Self {
            data_dir: PathBuf::from(section.text("data_dir", development::DATA_FOLDER)),
            hostname: section.parsed("hostname", host),
            inbound: receivers.unwrap_or_default(),
            log_filter: log.unwrap_or_default(),
            log_format: section.choice("log_format", &formats),
            stop_max: section.duration("stop_timeout", Duration::from_secs(30), stop),
        };
        section.end();
        read
    }
}

/// Parses a log filter. A single word that is not a level would be the name of a module, and nothing else
/// would be logged; so it must have a level.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    let is_word = |part: &&str| !part.contains(['=', '[', ':']) && part.parse::<u8>().is_err();
    let is_level = |part: &str| LEVELS.contains(&part.to_ascii_lowercase().as_str());
    let mut parts = text.split(',').map(str::trim).filter(is_word);
    match parts.find(|part| !part.is_empty() && !is_level(part)) {
        Some(part) => Err(format!(
            "\"{}\" is not one of {}; a module is written as postern=debug",
            part.escape_debug(),
            LEVELS.join(", ")
        )),
        None => Ok(text.to_owned()),
    }
}

fn http(
    mut section: Section<'_>,
    stop_max: Duration,
) -> (Vec<SocketAddr>, Vec<SocketAddr>, ServerSettings) {
    let listen = section.list("listen", Some(&["127.0.0.1:8080"]), value::listen);
    let over_tls = section.list("tls_listen", Some(&[]), value::listen);
    if [&listen, &over_tls].map(|list| list.as_ref().is_some_and(Vec::is_empty)) == [true; 2] {
        section.problem("listen", "empty: health and metrics need an address");
    }
    for (key, list) in [("listen", &listen), ("tls_listen", &over_tls)] {
        for address in list.iter().flatten().filter(|a| !a.ip().is_loopback()) {
            let what = "open to the network, and health and metrics have no key";
            section.warn(key, format!("\"{address}\": {what}"));
        }
    }
    let is_plain = |address: &&SocketAddr| listen.iter().flatten().any(|plain| plain == *address);
    let taken = over_tls.iter().flatten().filter(is_plain);
    // The system chooses another port for each port 0.
    for address in taken.filter(|address| address.port() != 0) {
        section.problem("tls_listen", format!("\"{address}\": taken by http.listen"));
    }
    let waits = Duration::from_secs(1)..=Duration::from_secs(3600);
    let mut settings = ServerSettings::default();
    settings.grace = settings.grace.min(stop_max);
    read_fields!(section => settings;
        connections_max: count(1..=100_000),
        connections_per_network_max: count(1..=100_000),
        handshake_wait as "handshake_timeout": duration(waits),
        header_wait as "header_timeout": duration(waits),
        connection_age_max: duration(waits),
    );
    section.end();
    (
        listen.unwrap_or_default(),
        over_tls.unwrap_or_default(),
        settings,
    )
}

fn embedded_api(mut section: Section<'_>) -> Option<Secret> {
    let enabled = section.switch("enabled", false);
    let is_given = ["key", "key_file"].iter().any(|key| section.is_given(key));
    let key = section.secret("key");
    if let Some(why) = key.as_ref().and_then(Secret::weakness) {
        section.problem("key", why);
    }
    if enabled && !is_given {
        section.problem("key", "missing: set it, or key_file");
    }
    section.end();
    key.filter(|_| enabled)
}

fn delivery(
    mut section: Section<'_>,
    store: &store::Settings,
    stop_max: Duration,
) -> DeliverySettings {
    let waits = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
    let ages = Duration::from_secs(60)..=Duration::from_secs(365 * 24 * 60 * 60);
    let mut settings = DeliverySettings {
        subject_window: store.subject_window,
        ..DeliverySettings::default()
    };
    settings.grace = settings.grace.min(stop_max);
    read_fields!(section => settings;
        concurrency: count(1..=10_000),
        queued_max as "held_max": count(1..=100_000_000),
    );
    read_fields!(section => settings.retry;
        wait_first as "retry_wait_first": duration(waits),
        wait_max as "retry_wait_max": duration(waits),
        max_age as "age_max": duration(ages),
    );
    section.end();
    settings
}

fn store(mut section: Section<'_>, data_dir: &Path) -> store::Settings {
    let windows = Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 60 * 60);
    let mut settings = store::Settings::new(data_dir.to_owned());
    read_fields!(section => settings;
        segment_bytes: size(1 << 20..=4 << 30),
        waiting_max: number(1..=100_000_000),
        waiting_bytes_max: size(1 << 20..=1 << 50),
        free_bytes_min: size(0..=1 << 50),
        dedupe_window: duration(windows),
        subject_window: duration(windows),
        link_window: duration(windows),
        outbox_max: number(1..=100_000_000),
        outbox_bytes_max: size(1 << 20..=1 << 50),
        sent_kept: number(1..=100_000_000),
        failed_kept: count(1..=1_000_000),
        failed_age_max: duration(windows),
        captured_kept: count(1..=1_000_000),
    );
    section.end();
    settings
}
