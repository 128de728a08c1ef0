//! Owns `[imap]`: the account from which mail is fetched, and the way to fetch it.
//!
//! Does not connect, and does not read certificate and token files, which may change.

use std::collections::BTreeSet;
use std::time::Duration;

use super::reader::{Section, read_fields};
use crate::ingress::imap::{
    AfterFetch, FOLDERS_MAX, ImapCredential, ImapSecurity, InitialFetch, Settings,
};
use crate::mail::address::Domain;

const PORT_MAX: u64 = 65_535;
/// The default port of STARTTLS.
const PORT_PLAIN: u64 = 143;

/// Reads the table; `None` if IMAP is not enabled, or a required key is missing.
pub(super) fn read(mut section: Section<'_>, is_open: bool) -> Option<Settings> {
    if !is_open {
        for key in section.given_keys() {
            section.warn(&key, "no effect: server.inbound does not name imap");
        }
    }
    let needed = ["host", "user"].map(|key| (key, section.is_given(key)));
    let host = section.parsed("host", host);
    let user = section.parsed("user", one_line);
    for (key, is_said) in needed {
        if is_open && !is_said {
            section.problem(key, "missing, but server.inbound requires it");
        }
    }
    let credential = read_credential(&mut section, is_open);
    let settings = Settings::new(
        host.unwrap_or_default(),
        user.unwrap_or_default(),
        credential
            .clone()
            .unwrap_or_else(|| ImapCredential::Password(String::new())),
    );
    let settings = read_security(&mut section, settings);
    let settings = read_bounds(&mut section, settings);
    let settings = Settings {
        folders: read_folders(&mut section),
        initial_fetch: section.choice(
            "first",
            &[("unseen", InitialFetch::Unseen), ("all", InitialFetch::All)],
        ),
        ..settings
    };
    let after = read_after(&mut section, &settings.folders);
    section.end();
    (is_open && credential.is_some()).then_some(Settings {
        after_fetch: after,
        ..settings
    })
}

fn read_credential(section: &mut Section<'_>, is_open: bool) -> Option<ImapCredential> {
    let by_token = section.choice("login", &[("password", false), ("xoauth2", true)]);
    let password = section.secret("password");
    let token_file = section.path_maybe("token_file");
    let (key, credential) = if by_token {
        ("token_file", token_file.map(ImapCredential::TokenFile))
    } else {
        let words = password.map(|password| password.reveal().to_owned());
        if words.as_ref().is_some_and(|words| one_line(words).is_err()) {
            section.problem("password", "empty, or more than one line");
        }
        ("password", words.map(ImapCredential::Password))
    };
    if is_open && credential.is_none() {
        section.problem(key, "missing, but server.inbound requires it");
    }
    credential
}

fn read_security(section: &mut Section<'_>, settings: Settings) -> Settings {
    let words = [
        ("auto", None),
        ("tls", Some(ImapSecurity::Tls)),
        ("starttls", Some(ImapSecurity::StartTls)),
        ("none", Some(ImapSecurity::Plain)),
    ];
    let configured = section.choice("security", &words);
    let is_port_said = section.is_given("port");
    let port = section.number("port", u64::from(settings.port), 1..=PORT_MAX);
    let security = configured.unwrap_or(match port {
        PORT_PLAIN => ImapSecurity::StartTls,
        _ => ImapSecurity::Tls,
    });
    let port = match security {
        ImapSecurity::Plain | ImapSecurity::StartTls if !is_port_said => PORT_PLAIN,
        _ => port,
    };
    if security == ImapSecurity::Plain && !settings.is_loopback() && !settings.host.is_empty() {
        let what = "\"none\": the password would be sent in plain text to another machine";
        section.problem("security", what);
    }
    Settings {
        port: u16::try_from(port).unwrap_or(settings.port),
        security,
        ca_file: section.path_maybe("ca_file"),
        ..settings
    }
}

fn read_bounds(section: &mut Section<'_>, mut settings: Settings) -> Settings {
    let secs = Duration::from_secs;
    let waits = Duration::from_millis(10)..=secs(24 * 60 * 60);
    settings.uses_idle = section.switch("idle", settings.uses_idle);
    read_fields!(section => settings;
        poll_interval: duration(secs(1)..=secs(24 * 60 * 60)),
        mail_bytes_max: length(1024..=512 << 20),
        bytes_in_flight_max: length(1 << 20..=1 << 40),
        read_timeout as "timeout": duration(secs(1)..=secs(600)),
    );
    read_fields!(section => settings.retry;
        wait_first as "retry_wait_first": duration(waits),
        wait_max as "retry_wait_max": duration(waits),
    );
    settings
}

fn read_folders(section: &mut Section<'_>) -> Vec<String> {
    let folders = section.list("folders", Some(&["INBOX"]), one_line);
    let folders = folders.unwrap_or_default();
    let names: BTreeSet<&String> = folders.iter().collect();
    if names.len() < folders.len() {
        section.problem("folders", "one of them twice");
    }
    if folders.len() > FOLDERS_MAX {
        section.problem("folders", format!("more than {FOLDERS_MAX}"));
    }
    folders
}

fn read_after(section: &mut Section<'_>, folders: &[String]) -> AfterFetch {
    let word = section.choice("after", &[("seen", 's'), ("move", 'm'), ("delete", 'd')]);
    let target = section.parsed("move_to", one_line);
    match (word, target) {
        ('m', Some(folder)) => {
            if folders.contains(&folder) {
                section.problem("move_to", "one of the polled folders");
            }
            AfterFetch::Move(folder)
        }
        ('m', None) => {
            section.problem("move_to", "missing: after = \"move\" needs it");
            AfterFetch::Seen
        }
        ('d', _) => AfterFetch::Delete,
        _ => AfterFetch::Seen,
    }
}

/// Parses a host name, or an address without brackets.
fn host(text: &str) -> Result<String, String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let domain = Domain::parse(text).map_err(|error| error.to_string())?;
    match text.starts_with('[') {
        true => Err("an address has no brackets here".to_owned()),
        false => Ok(domain.ascii()),
    }
}

fn one_line(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("empty, or has control characters");
    }
    Ok(text.to_owned())
}
