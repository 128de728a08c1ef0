//! Owns `[auth]` and `[route.policy]`: sender authentication, and the treatment of mail that fails
//! it.
//!
//! Does not perform any check.

use std::time::Duration;

use super::reader::Section;
use super::value;
use crate::auth::{AuthPolicy, BadFrom, DmarcPolicy, DnsSettings, Settings, Treatment};
use crate::mail::address::Domain;

/// Reads `[auth]` with `[auth.dns]`. `hostname` is the default authserv-id. The second value is
/// false if authentication is switched off.
pub(super) fn read(mut section: Section<'_>, hostname: &str) -> (Settings, bool) {
    let defaults = Settings::default();
    let is_enabled = section.switch("enabled", true);
    let own = section.parsed("authserv_id", name);
    let ages = Duration::from_secs(3_600)..=Duration::from_secs(3_650 * 24 * 3_600);
    let age_max = Duration::from_secs(defaults.signature_age_max_secs);
    let settings = Settings {
        authserv_id: own.unwrap_or_else(|| hostname.to_owned()),
        arc_sealers: section
            .list("arc_sealers", Some(&[]), name)
            .unwrap_or_default(),
        relay_authserv_ids: section
            .list("relay_authserv_ids", Some(&[]), name)
            .unwrap_or_default(),
        relay_received_above_max: section.count(
            "relay_received_above_max",
            defaults.relay_received_above_max,
            0..=10,
        ),
        signature_age_max_secs: section
            .duration("signature_age_max", age_max, ages)
            .as_secs(),
        dns: dns(section.table("dns"), defaults.dns),
    };
    section.end();
    (settings, is_enabled)
}

fn dns(mut section: Section<'_>, defaults: DnsSettings) -> DnsSettings {
    let waits = Duration::from_millis(100)..=Duration::from_secs(30);
    let days = Duration::ZERO..=Duration::from_secs(24 * 3_600);
    let mut millis = |key: &str, default: u64| {
        let span = section.duration(key, Duration::from_millis(default), waits.clone());
        u64::try_from(span.as_millis()).unwrap_or(default)
    };
    let query_ms = millis("query_timeout", defaults.query_ms);
    let mail_ms = millis("mail_timeout", defaults.mail_ms);
    let mut secs = |key: &str, default: u64| {
        let span = section.duration(key, Duration::from_secs(default), days.clone());
        span.as_secs()
    };
    let settings = DnsSettings {
        query_ms,
        mail_ms,
        ttl_min_secs: secs("ttl_min", defaults.ttl_min_secs),
        ttl_max_secs: secs("ttl_max", defaults.ttl_max_secs),
        negative_ttl_max_secs: secs("negative_ttl_max", defaults.negative_ttl_max_secs),
        failure_ttl_secs: secs("failure_ttl", defaults.failure_ttl_secs),
        queries_max: section.count("queries_max", defaults.queries_max, 1..=1_000),
        cache_entries_max: section.count(
            "cache_entries_max",
            defaults.cache_entries_max,
            0..=10_000_000,
        ),
        cache_bytes_max: section.length("cache_bytes_max", defaults.cache_bytes_max, 0..=1 << 34),
        servers: section
            .list("servers", Some(&[]), value::server)
            .unwrap_or_default(),
    };
    if settings.query_ms > settings.mail_ms {
        section.problem("query_timeout", "longer than mail_timeout");
    }
    if settings.ttl_min_secs > settings.ttl_max_secs {
        section.problem("ttl_min", "longer than ttl_max");
    }
    section.end();
    settings
}

/// Reads `[route.policy]`.
pub(super) fn policy(mut section: Section<'_>) -> AuthPolicy {
    let treatments = [
        ("flag", Treatment::Flag),
        ("hold", Treatment::Hold),
        ("refuse", Treatment::Refuse),
    ];
    let policy = AuthPolicy {
        dmarc: section.choice(
            "dmarc",
            &[
                ("honour", DmarcPolicy::Honour),
                ("record", DmarcPolicy::Record),
            ],
        ),
        unverified: section.choice("unverified", &treatments),
        token_holder: section.choice("token_holder", &treatments),
        bad_from: section.choice(
            "bad_from",
            &[("refuse", BadFrom::Refuse), ("hold", BadFrom::Hold)],
        ),
    };
    section.end();
    policy
}

/// The name of a server or a domain, in its canonical form.
fn name(text: &str) -> Result<String, String> {
    match Domain::parse(text) {
        Ok(domain) if text.starts_with('[') => Err(format!("{domain} is not a domain name")),
        Ok(domain) => Ok(domain.ascii()),
        Err(error) => Err(error.to_string()),
    }
}
