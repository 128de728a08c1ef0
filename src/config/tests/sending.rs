//! Outgoing mail: relays, signing keys, templates, the limits of the outbox, and the callers.

use super::*;
use crate::mail::job_id::JobId;

const SENDING: [(&str, &str); 4] = [
    ("EMAIL_OUTBOUND_ENABLED", "true"),
    ("MESSAGES_API_KEY", SECRET),
    ("SMTP_FROM", "us@example.com"),
    ("SMTP_HOST", "smtp.example.com"),
];

fn outbound(text: &str, variables: &[(&str, &str)]) -> Result<OutboundConfig, Vec<String>> {
    let variables = [NEEDED.as_slice(), &SENDING, variables].concat();
    load_text(text, &variables).map(|loaded| loaded.config.outbound)
}

#[test]
fn the_environment_alone_is_enough_to_send() {
    use crate::outbound::relay::settings::RelaySecurity;
    let sends = outbound("", &[("SMTP_PORT", "465")]).unwrap();
    assert!(sends.enabled && !sends.capture);
    assert_eq!(sends.relays[0].label(), "smtp.example.com:465");
    assert_eq!(sends.relays[0].security, RelaySecurity::Implicit);
    assert!(sends.relays[0].login.is_none());
    assert_eq!(sends.worker.own_domains[0].as_str(), "inbox.example.com");
    let login = [("SMTP_USER", "u"), ("SMTP_PASS", "hunter2hunter2")];
    let sends = outbound("", &login).unwrap();
    assert_eq!(sends.relays[0].security, RelaySecurity::Auto);
    assert!(sends.relays[0].login.is_some());
    assert!(!format!("{sends:?}").contains("hunter"));
    let lines = outbound("", &[("SMTP_USER", "u")]).unwrap_err();
    assert_eq!(
        lines,
        ["outbound.password: missing: set it, password_file, or SMTP_PASS"]
    );
    let enabled = [NEEDED.as_slice(), &SENDING[..2]].concat();
    let lines = load_text("", &enabled).unwrap_err();
    assert_eq!(
        lines,
        [
            "outbound.from: missing: the sender's address, or SMTP_FROM",
            "outbound.host: missing: the relay, or SMTP_HOST; or set capture",
        ]
    );
}

#[test]
fn relays_have_an_order_and_need_tls() {
    let text = "[[outbound.relay]]\nhost = 'b.example'\ntls = 'starttls'\n\
                [[outbound.relay]]\nhost = '::1'\ntls = 'none'\n";
    let labels: Vec<_> = outbound(text, &[])
        .unwrap()
        .relays
        .iter()
        .map(crate::outbound::relay::settings::Relay::label)
        .collect();
    assert_eq!(
        labels,
        ["smtp.example.com:587", "b.example:587", "[::1]:587"]
    );
    for (text, line) in [
        (
            "[outbound]\ntls = 'none'\n",
            "outbound.tls: \"none\": smtp.example.com is another machine, to which mail is not sent in plain text",
        ),
        (
            "[[outbound.relay]]\nport = 25\n",
            "outbound.relay.host: missing: the relay's name or address",
        ),
        (
            "[outbound]\nauth = 'xoauth2'\nuser = 'u'\n",
            "outbound.token_file: missing: auth is xoauth2",
        ),
        (
            "[outbound]\nca_file = '/nowhere/ca.pem'\n",
            "outbound.ca_file: \"/nowhere/ca.pem\": No such file or directory (os error 2)",
        ),
        (
            "[outbound]\nlist_unsubscribe = 'http://example.com'\n",
            "outbound.list_unsubscribe: \"http://example.com\": not of the form https://host/path (RFC 8058)",
        ),
    ] {
        assert_eq!(outbound(text, &[]).unwrap_err(), [line]);
    }
}

#[test]
fn the_unsubscribe_url_may_name_the_job() {
    let form = |text: &str| outbound(&format!("[outbound]\nlist_unsubscribe = '{text}'\n"), &[]);
    let job = JobId([7; 16]);
    let taken = form("https://Example.com/{job}?id={job}").unwrap();
    let url = taken.list_unsubscribe.unwrap().of(job);
    assert_eq!(url.as_str(), format!("https://example.com/{job}?id={job}"));
    for text in [
        "https://example.com/{thread}",
        "https://example.com/{{job}}",
    ] {
        let line = form(text).unwrap_err().remove(0);
        assert!(line.ends_with("only {job} can stand in braces"), "{line}");
    }
}

#[test]
fn keys_that_sign_are_checked_and_not_shown() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = key.serialize_pem();
    let table = |pem: &str, more: &str| {
        format!("[[outbound.dkim]]\nselector = 's'\nkey = \"\"\"{pem}\"\"\"\n{more}")
    };
    let signs = outbound(&table(&pem, ""), &[]).unwrap();
    assert_eq!(signs.signers[0].domain().as_str(), "example.com");
    assert!(!format!("{signs:?}").contains(pem.lines().nth(1).unwrap()));
    let variables = [NEEDED.as_slice(), &SENDING].concat();
    let loaded = load_text(&table(&pem, "domain = 'other.example'\n"), &variables).unwrap();
    let warned = loaded.warnings.iter().any(|warning| {
        let line = warning.to_string();
        line.contains("outbound.dkim.domain: \"other.example\" is not the domain of outbound.from")
    });
    assert!(warned, "{:?}", loaded.warnings);
    let broken = pem.replacen("-----BEGIN", "----BEGIN", 1);
    let weak = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n";
    for (pem, why) in [
        (broken.as_str(), "not a private key in PEM form"),
        ("hunter2", "not a private key in PEM form"),
        (
            weak,
            "neither an RSA key of 2048 bits or more nor an Ed25519 key",
        ),
    ] {
        let lines = outbound(&table(pem, ""), &[]).unwrap_err();
        assert_eq!(lines, [format!("outbound.dkim.key: {why}")]);
    }
}

#[test]
fn templates_are_tested_and_errors_name_the_line() {
    let folder = TempDir::new().unwrap();
    let text = format!("[outbound]\ntemplates = '{}'\n", folder.path().display());
    let own = folder.path().join("message.txt.jinja");
    fs::write(&own, "{{ text }}\n{{ words.nothing }}\n").unwrap();
    let lines = load_text(&text, &NEEDED).unwrap_err();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let fault = format!("outbound.templates: {}, line 2: ", own.display());
    assert!(lines[0].starts_with(&fault), "{lines:?}");
    fs::write(&own, "{{ text }}\n").unwrap();
    load_text(&text, &NEEDED).unwrap();
}

#[test]
fn the_retention_of_the_outbox_is_configurable() {
    let text = "[store]\noutbox_max = 7\noutbox_bytes_max = '2MiB'\nsent_kept = 8\nfailed_kept = 9\n\
        failed_age_max = '10d'\ncaptured_kept = 11\n[outbound]\nsuppress_for = '12d'\n";
    let config = load_text(text, &NEEDED).unwrap().config;
    let (store, days) = (config.store, |days: u64| Duration::from_secs(days * 86_400));
    assert_eq!((store.outbox_max, store.outbox_bytes_max), (7, 2 << 20));
    assert_eq!((store.sent_kept, store.failed_kept), (8, 9));
    assert_eq!((store.failed_age_max, store.captured_kept), (days(10), 11));
    // The time is the same for suppressions by bounces and by people.
    assert_eq!(config.outbound.suppress_for, days(12));
    assert_eq!(config.delivery.suppress_for, days(12));
}

#[test]
fn the_age_of_signed_calls_defaults_to_that_of_the_generic_webhook() {
    let age = |text: &str, millis: &str| {
        let mut variables = NEEDED.to_vec();
        variables.push(("EMAIL_WEBHOOK_MAX_AGE", millis));
        let loaded = load_text(text, &variables).unwrap();
        loaded.config.outbound.api.age_max.as_secs()
    };
    assert_eq!(age("", ""), 300);
    assert_eq!(age("", "61000"), 61);
    assert_eq!(age("[outbound.api]\nmax_age = '2m'\n", "61000"), 120);
}
