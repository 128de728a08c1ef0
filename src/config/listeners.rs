//! Owns `[smtp]`, `[lmtp]`, `[session]` and `[networks]`: the listeners for mail and their limits.
//!
//! Does not decide which mail is accepted; the routes do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::reader::{Section, read_fields};
use super::value;
use crate::ingress::smtp::{Listen, ListenAddress, Settings};
use crate::mail::envelope::Door;
use crate::network::Network;
use crate::smtp::session::{self, Protocol};

/// Parses one entry of `server.inbound`.
///
/// # Errors
/// The entry is unknown.
pub(super) fn parse_inbound(text: &str) -> Result<Door, &'static str> {
    match text {
        "lmtp" => Ok(Door::Lmtp),
        "smtp" => Ok(Door::Smtp),
        "webhook" => Ok(Door::Webhook),
        "imap" => Ok(Door::Imap),
        _ => Err("not one of smtp, lmtp, webhook, imap"),
    }
}

/// Reads the four tables. `http` has the addresses that HTTP already uses.
pub(super) fn read(
    root: &mut Section<'_>,
    hostname: String,
    inbound: &[Door],
    http: &[SocketAddr],
) -> Settings {
    let listen = listen(root, inbound, http);
    let mut section = root.table("session");
    let defaults = Settings::new(hostname);
    let session = session(&mut section, defaults.session.clone());
    let settings = connections(&mut section, session, defaults);
    section.end();
    let mut networks = root.table("networks");
    let exempt: Vec<_> = settings.exempt.iter().map(ToString::to_string).collect();
    let exempt: Vec<_> = exempt.iter().map(String::as_str).collect();
    let relays = networks
        .list("relays", Some(&[]), relay)
        .unwrap_or_default();
    let settings = Settings {
        listen,
        unix_relays: relays.contains(&None),
        relays: relays.into_iter().flatten().collect(),
        exempt: networks_in(&mut networks, "exempt", &exempt),
        proxies: networks_in(&mut networks, "proxies", &[]),
        lenient: networks_in(&mut networks, "bare_newline", &[]),
        ..settings
    };
    networks.end();
    settings
}

/// Parses a network, or `unix` for clients of a unix socket.
fn relay(text: &str) -> Result<Option<Network>, &'static str> {
    if text == "unix" {
        return Ok(None);
    }
    let network = text.parse().map(Some);
    network.map_err(|_| "not an address, address/bits or \"unix\"")
}

fn networks_in(section: &mut Section<'_>, key: &str, default: &[&str]) -> Vec<Network> {
    // The network's own error would repeat the text.
    let network = |text: &str| text.parse().map_err(|_| "not an address or address/bits");
    section
        .list(key, Some(default), network)
        .unwrap_or_default()
}

fn listen(root: &mut Section<'_>, inbound: &[Door], http: &[SocketAddr]) -> Vec<Listen> {
    let mut taken: BTreeMap<String, &str> = http
        .iter()
        .map(|address| (address.to_string(), "http.listen"))
        .collect();
    let mut listen = Vec::new();
    for (table, key, default, protocol) in [
        ("smtp", "smtp.listen", "127.0.0.1:2525", Protocol::Smtp),
        ("lmtp", "lmtp.listen", "127.0.0.1:2424", Protocol::Lmtp),
    ] {
        let entrance = match protocol {
            Protocol::Smtp => Door::Smtp,
            Protocol::Lmtp => Door::Lmtp,
        };
        let mut section = root.table(table);
        let addresses = section.list("listen", Some(&[default]), address);
        if inbound.contains(&entrance) && addresses.as_ref().is_some_and(Vec::is_empty) {
            section.problem("listen", "empty, but server.inbound requires an address");
        }
        for address in addresses.unwrap_or_default() {
            // The system chooses another port for each port 0.
            let chosen = matches!(&address, ListenAddress::Tcp(tcp) if tcp.port() == 0);
            if let Some(other) = taken.insert(address.to_string(), key)
                && !chosen
            {
                section.problem("listen", format!("\"{address}\": taken by {other}"));
            }
            // Port 25 is reserved for SMTP (RFC 2033 section 5).
            let at_25 = matches!(&address, ListenAddress::Tcp(tcp) if tcp.port() == 25);
            if at_25 && protocol == Protocol::Lmtp {
                section.problem(
                    "listen",
                    format!("\"{address}\": LMTP must not be at port 25"),
                );
            }
            if inbound.contains(&entrance) {
                listen.push(Listen { address, protocol });
            }
        }
        section.end();
    }
    listen
}

fn address(text: &str) -> Result<ListenAddress, String> {
    if text.starts_with("unix:") {
        return text
            .parse()
            .map_err(|_| "not of the form unix:/path".to_owned());
    }
    value::listen(text).map(ListenAddress::Tcp)
}

fn session(section: &mut Section<'_>, mut settings: session::Settings) -> session::Settings {
    read_fields!(section => settings;
        mail_bytes_max: size(64 << 10..=1 << 30),
        mail_line_bytes_max: length(1000..=16 << 20),
        header_bytes_max: length(1 << 10..=16 << 20),
        header_fields_max: count(10..=100_000),
        received_max: count(1..=1000),
        rcpt_max: count(1..=10_000),
        errors_max: count(1..=1000),
        junk_max: count(1..=10_000),
        refused_max: count(1..=10_000),
    );
    settings
}

fn connections(
    section: &mut Section<'_>,
    session: session::Settings,
    defaults: Settings,
) -> Settings {
    let mail = session.mail_bytes_max;
    let waits = secs(1)..=secs(3600);
    let mut settings = Settings {
        // The limit of a session must grow with the limit of one mail.
        session_bytes_max: 8 * mail,
        session,
        ..defaults
    };
    read_fields!(section => settings;
        connections_max: count(1..=1_000_000),
        connections_per_network_max: count(1..=1_000_000),
        bytes_in_flight_max: length(1 << 20..=1 << 40),
        greeting_wait: duration(secs(0)..=secs(60)),
        idle_max as "idle_timeout": duration(waits),
        idle_crowded_max as "idle_crowded_timeout": duration(waits),
        crowded_percent: count(1..=100),
        session_max as "timeout": duration(secs(10)..=secs(86_400)),
        session_bytes_max as "bytes_max": size(1 << 20..=1 << 43),
        write_max as "write_timeout": duration(waits),
        handshake_max as "handshake_timeout": duration(waits),
        proxy_header_max as "proxy_header_timeout": duration(waits),
        rate_grace: duration(waits),
        rate_min: count(0..=1 << 30),
        store_max as "store_timeout": duration(waits),
        linger_max as "linger_timeout": duration(waits),
    );
    for (key, bytes) in [
        ("bytes_max", settings.session_bytes_max),
        ("bytes_in_flight_max", settings.bytes_in_flight_max as u64),
    ] {
        if bytes < mail {
            section.problem(
                key,
                format!("{}: less than mail_bytes_max", value::show_size(bytes)),
            );
        }
    }
    settings
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
