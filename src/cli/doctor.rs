//! Owns `doctor`: checks everything that the server needs, with one line for each.
//!
//! Does not repair anything, and posts nothing.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio::runtime::Builder;

use super::terminal::printable;
use crate::clock;
use crate::config::{Config, Purpose, RouteConfig};
use crate::http::control::SOCKET_NAME;
use crate::ingress::smtp::ListenAddress;
use crate::outbound::relay::probe::probe;
use crate::run::{Exit, ExitError, disk_space};
use crate::store;
use crate::tls::{Certificate, Certificates, Validity};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckState {
    Ok,
    Warn,
    Fail,
}

/// A line of the report.
struct DoctorFinding {
    state: CheckState,
    text: String,
}

impl DoctorArgs {
    /// Prints the report. A line with `fail` makes the command fail.
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let named = file.clone();
        let loaded = super::load(file, Purpose::Look)?;
        let config = &loaded.config;
        let used = match (&named, config.development) {
            (Some(file), _) => ok(format!("configuration: {} can be used", file.display())),
            (None, true) => warn("configuration: none found, checking development mode"),
            (None, false) => ok("configuration: the environment can be used"),
        };
        let mut findings = vec![used];
        for warning in &loaded.warnings {
            findings.push(warn(format!("configuration: {warning}")));
        }
        let runs = UnixStream::connect(config.data_dir.join(SOCKET_NAME)).is_ok();
        findings.push(if runs {
            ok("server: runs")
        } else {
            warn("server: does not run")
        });
        findings.push(folder(&config.data_dir, config.store.free_bytes_min));
        if !runs {
            findings.extend(journal(config));
        }
        findings.extend(ports(config, runs));
        findings.extend(certificates(config));
        for route in &config.routes {
            findings.push(api(config, route, runs));
        }
        findings.extend(relays(config));
        for finding in &findings {
            let word = match finding.state {
                CheckState::Ok => "ok  ",
                CheckState::Warn => "warn",
                CheckState::Fail => "fail",
            };
            writeln!(out, "{word}  {}", printable(&finding.text))?;
        }
        let failed = findings
            .iter()
            .filter(|f| f.state == CheckState::Fail)
            .count();
        if failed > 0 {
            let line = format!("doctor: {failed} of {} failed", findings.len());
            return Err(ExitError::with_message(Exit::Unavailable, line));
        }
        Ok(())
    }
}

fn ok(what: impl Into<String>) -> DoctorFinding {
    finding(CheckState::Ok, what)
}

fn warn(what: impl Into<String>) -> DoctorFinding {
    finding(CheckState::Warn, what)
}

fn fail(what: impl Into<String>) -> DoctorFinding {
    finding(CheckState::Fail, what)
}

fn finding(state: CheckState, what: impl Into<String>) -> DoctorFinding {
    let what = what.into();
    DoctorFinding { state, text: what }
}

/// Checks that the data folder is writable and has free space.
fn folder(path: &Path, free_bytes_min: u64) -> DoctorFinding {
    let name = format!("data folder {}", path.display());
    let meta = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return fail(format!("{name}: not a folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return warn(format!(
                "{name}: does not exist yet; the first start creates it"
            ));
        }
        Err(error) => return fail(format!("{name}: {error}")),
    };
    // The mode does not show read-only mounts and quotas, so the check writes a file.
    let probe = path.join(".doctor");
    let written = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe));
    if let Err(error) = written {
        return fail(format!("{name}: cannot be written: {error}"));
    }
    match disk_space::free_bytes(path) {
        Ok(free) if free < free_bytes_min => {
            let (free, min) = (show_size(free), show_size(free_bytes_min));
            let what = "free, less than store.free_bytes_min";
            return fail(format!(
                "{name}: only {free} {what} ({min}): mail is refused"
            ));
        }
        Ok(free) if free < free_bytes_min.saturating_mul(2) => {
            let free = show_size(free);
            return warn(format!(
                "{name}: only {free} free: mail will soon be refused"
            ));
        }
        Ok(_) => {}
        Err(error) => return fail(format!("{name}: the free space is unknown: {error}")),
    }
    if meta.permissions().mode() & 0o007 != 0 {
        return warn(format!(
            "{name}: readable by other users, but it contains mail"
        ));
    }
    ok(format!("{name}: can be written"))
}

/// Reads the journal of a server that does not run. A data folder that does not exist yet has no journal.
fn journal(config: &Config) -> Option<DoctorFinding> {
    if !config.data_dir.join("version").exists() {
        return None;
    }
    Some(match store::check(&config.store) {
        Ok(report) if super::store::found(&report) == 0 => {
            ok(format!("journal: {}", super::store::read(&report)))
        }
        Ok(report) => {
            let (found, first) = (super::store::found(&report), report.damages.first());
            let first = first.map(String::as_str).unwrap_or_default();
            fail(format!(
                "journal: {found} damages: {first}; `postern store check` lists them, `postern store mend` sets them aside"
            ))
        }
        Err(error) => fail(format!("journal: {error}")),
    })
}

/// A number of octets for people, as 1.5 GiB.
fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes >= *size);
    match unit {
        Some((name, size)) => format!("{}.{} {name}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes} B"),
    }
}

/// Checks that each relay would accept mail; nothing is sent.
fn relays(config: &Config) -> Vec<DoctorFinding> {
    let settings = &config.outbound;
    if !settings.enabled || settings.capture {
        return Vec::new();
    }
    let hello = config.hostname.ascii();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return vec![fail(format!("relays: no runtime: {error}"))],
    };
    let relays = settings.relays.iter().map(|relay| {
        let name = format!("relay {}", relay.label());
        match runtime.block_on(probe(relay, &hello, settings.timeouts)) {
            Ok(()) => ok(format!("{name}: accepts mail from us")),
            Err(why) => fail(format!("{name}: {why}")),
        }
    });
    relays.collect()
}

/// Checks that each address is free, or in use if the server runs.
fn ports(config: &Config, runs: bool) -> Vec<DoctorFinding> {
    let listeners = config.ingress.listen.iter();
    let listeners = listeners.filter_map(|listen| match &listen.address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    let http = config.http_listen.iter().chain(&config.https_listen);
    listeners
        .chain(http.copied())
        .map(|address| port(address, runs))
        .collect()
}

fn port(address: SocketAddr, runs: bool) -> DoctorFinding {
    match TcpListener::bind(address) {
        Ok(_) if runs && address.port() == 0 => ok(format!(
            "{address}: the system chose a port, which the log names"
        )),
        Ok(_) if runs => fail(format!(
            "{address}: the server runs but does not listen here"
        )),
        Ok(_) => ok(format!("{address}: free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
            ok(format!("{address}: in use, because the server runs"))
        }
        Err(error) => fail(format!("{address}: {error}")),
    }
}

fn certificates(config: &Config) -> Vec<DoctorFinding> {
    let Some(folder) = &config.certificate_folder else {
        let what = "certificates: none configured; the server shows a self-signed one";
        return vec![warn(what)];
    };
    let name = config.hostname.ascii();
    let certificates = match Certificates::load(folder, &name) {
        Ok(certificates) => certificates,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return vec![fail(format!("certificates: {error:#}"))];
        }
    };
    let leaves = certificates.leaves();
    let mut findings: Vec<_> = leaves
        .iter()
        .map(|(host, leaf)| expiry(host, leaf.as_ref()))
        .collect();
    if !leaves.iter().any(|(host, _)| *host == name) {
        let shown = &leaves[0].0;
        let what = format!("certificates: none for {name}; clients are shown the one of {shown}");
        findings.push(warn(what));
    }
    findings
}

fn expiry(host: &str, leaf: Option<&Certificate>) -> DoctorFinding {
    let Some(leaf) = leaf else {
        return warn(format!("certificate {host}: its end date cannot be read"));
    };
    let (begins, ends) = (leaf.not_before, leaf.not_after);
    match leaf.validity(clock::now()) {
        Validity::Good => ok(format!("certificate {host}: good until {ends}")),
        Validity::ExpiresSoon => warn(format!("certificate {host}: ends {ends}")),
        Validity::Expired => fail(format!("certificate {host}: ended {ends}")),
        Validity::NotYetValid => fail(format!("certificate {host}: begins {begins}")),
    }
}

/// Checks that the Messages API responds. The list of threads is requested, which changes nothing; a
/// product without that list answers 404 or 405, which counts as a response.
fn api(config: &Config, route: &RouteConfig, runs: bool) -> DoctorFinding {
    let name = format!("Messages API of route {}", route.name);
    if config.development && !runs {
        return ok(format!("{name}: our own, served when the server runs"));
    }
    match ask_threads(route) {
        Ok(401 | 403) => fail(format!("{name}: refuses the key")),
        Ok(status @ 500..) => warn(format!("{name}: answers with {status}")),
        Ok(_) => ok(format!("{name}: answers")),
        Err(error) => fail(format!("{name}: {error:#}")),
    }
}

fn ask_threads(route: &RouteConfig) -> Result<u16, anyhow::Error> {
    const WAIT: Duration = Duration::from_secs(10);
    let ask = async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WAIT)
            .build()?;
        let base = route.api.base_url.trim_end_matches('/');
        let asked = client.get(format!("{base}/threads"));
        let response = asked.bearer_auth(&route.api.key).send().await?;
        Ok::<_, reqwest::Error>(response.status().as_u16())
    };
    let asked = super::block_on(ask).map_err(|failure| anyhow!(failure.lines().join(" ")))?;
    Ok(asked.map_err(reqwest::Error::without_url)?)
}
