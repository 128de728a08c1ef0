//! The listeners for mail, and the addresses of HTTP.

use super::*;
use crate::clock;
use crate::ingress::imap::ImapSecurity;
use crate::objects::{AttachmentLink, ObjectId};

#[test]
fn unknown_doors_are_not_ignored() {
    let mut variables = NEEDED.to_vec();
    variables.push(("EMAIL_INBOUND_MODE", "smtp,pigeon"));
    let lines = load_text("", &variables).unwrap_err();
    assert_eq!(
        lines,
        ["environment: EMAIL_INBOUND_MODE: \"pigeon\": not one of smtp, lmtp, webhook, imap",]
    );
    variables.pop();
    variables.push(("EMAIL_INBOUND_MODE", "lmtp"));
    let loaded = load_text("", &variables).unwrap();
    assert_eq!(loaded.config.ingress.listen.len(), 1);
}

#[test]
fn webhooks_are_doors_with_secrets() {
    let mut variables = NEEDED.to_vec();
    variables.push(("EMAIL_INBOUND_MODE", "smtp,webhook"));
    let lines = load_text("", &variables).unwrap_err();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("webhook.secret: missing"), "{lines:?}");
    let lines = load_text("[webhook.mailgun]\nmax_age = '1h'\n", &variables).unwrap_err();
    assert!(
        lines[0].contains("webhook.mailgun.signing_key: missing"),
        "{lines:?}"
    );
    variables.push(("EMAIL_WEBHOOK_SECRET", SECRET));
    variables.push(("EMAIL_WEBHOOK_MAX_AGE", "60000"));
    let text = format!("[webhook.relay]\npassword = '{SECRET}'\n");
    let settings = load_text(&text, &variables)
        .unwrap()
        .config
        .webhooks
        .unwrap();
    let names: Vec<_> = settings.adapters.iter().map(|door| door.name()).collect();
    assert_eq!(names, ["generic", "relay"]);
    assert!(format!("{settings:?}").contains("age_max: 60s"));
    let weak = [("EMAIL_WEBHOOK_SECRET", "short")];
    let lines = load_text("", &[NEEDED.as_slice(), &weak].concat()).unwrap_err();
    assert!(lines[0].contains("too weak"), "{lines:?}");
}

#[test]
fn a_request_may_be_as_long_as_the_longest_mail_needs() {
    let mut variables = NEEDED.to_vec();
    variables.push(("EMAIL_INBOUND_MODE", "smtp,webhook"));
    variables.push(("EMAIL_WEBHOOK_SECRET", SECRET));
    let mib = 1usize << 20;
    for (mail, generic, relay, sendgrid, postmark, brevo) in [
        ("1KiB", 40, 40, 40, 110, 30),
        ("50MiB", 71, 50, 51, 121, 30),
        ("200MiB", 281, 200, 201, 481, 30),
    ] {
        let mut text = format!("[webhook]\nmail_bytes_max = '{mail}'\n");
        for door in ["relay", "sendgrid", "postmark", "brevo"] {
            text.push_str(&format!("[webhook.{door}]\npassword = '{SECRET}'\n"));
        }
        let loaded = load_text(&text, &variables).unwrap();
        let settings = loaded.config.webhooks.unwrap();
        let infos = settings.adapters.iter().map(|adapter| adapter.info());
        let mut found: Vec<_> = infos
            .map(|info| {
                (
                    info.name,
                    info.body_bytes_max(settings.mail_bytes_max) / mib,
                )
            })
            .collect();
        found.sort_unstable();
        let expected = [
            ("brevo", brevo),
            ("generic", generic),
            ("postmark", postmark),
            ("relay", relay),
            ("sendgrid", sendgrid),
        ];
        assert_eq!(found, expected, "{mail}");
    }
}

#[test]
fn imap_is_a_door_with_an_account() {
    let mut variables = NEEDED.to_vec();
    variables.push(("EMAIL_IMAP_HOST", "imap.example.com"));
    let warnings = load_text("[imap]\nport = 143\n", &variables)
        .unwrap()
        .warnings;
    let lines: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let why = ": no effect: server.inbound does not name imap";
    assert!(lines.iter().all(|line| line.ends_with(why)), "{lines:?}");
    variables.extend([
        ("EMAIL_INBOUND_MODE", "imap"),
        ("EMAIL_IMAP_USER", "inbox@example.com"),
        ("EMAIL_IMAP_PASS", "hunter2"),
        ("EMAIL_IMAP_POLL_INTERVAL", "30000"),
    ]);
    let read = |text: &str| load_text(text, &variables).unwrap().config;
    let config = read("[session]\nstore_timeout = '7s'\n[store]\ndedupe_window = '9d'\n");
    assert!(config.ingress.listen.is_empty());
    let settings = config.imap.unwrap();
    assert_eq!(settings.security, ImapSecurity::Tls);
    assert_eq!((settings.port, settings.poll_interval.as_secs()), (993, 30));
    assert_eq!(settings.store_max.as_secs(), 7);
    assert_eq!(settings.dedupe_window.as_secs(), 9 * 24 * 60 * 60);
    assert!(!format!("{settings:?}").contains("hunter2"));
    for (text, port, security) in [
        ("security = 'starttls'", 143, ImapSecurity::StartTls),
        ("port = 143", 143, ImapSecurity::StartTls),
        ("port = 143\nsecurity = 'tls'", 143, ImapSecurity::Tls),
        ("port = 5143", 5143, ImapSecurity::Tls),
        (
            "port = 5143\nsecurity = 'starttls'",
            5143,
            ImapSecurity::StartTls,
        ),
    ] {
        let settings = read(&format!("[imap]\n{text}\n")).imap.unwrap();
        assert_eq!(
            (settings.port, settings.security),
            (port, security),
            "{text}"
        );
    }
}

#[test]
fn http_is_on_loopback_unless_configured_and_then_warned_about() {
    let loaded = load_text("", &NEEDED).unwrap();
    assert!(
        loaded
            .config
            .http_listen
            .iter()
            .all(|at| at.ip().is_loopback())
    );
    assert!(loaded.config.https_listen.is_empty() && loaded.warnings.is_empty());
    let open = "[http]\nlisten = []\ntls_listen = ['0.0.0.0:8443']\n\
        [networks]\nexempt = ['192.0.2.0/24']\n\
        [server]\ninbound = ['smtp', 'webhook']\n\
        [webhook]\nsecret = 'hunter2-3f9a1c5e7b2d4068a9c1e3f5'\nproxies = ['198.51.100.7']\n";
    let loaded = load_text(open, &NEEDED).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    let warned = warnings
        .iter()
        .any(|line| line.contains("http.tls_listen") && line.contains("have no key"));
    assert!(warned, "{warnings:?}");
    let exempt = loaded
        .config
        .http_server
        .exempt
        .iter()
        .map(ToString::to_string);
    assert_eq!(
        exempt.collect::<Vec<_>>(),
        ["192.0.2.0/24", "198.51.100.7/32"]
    );
    let none = load_text("[http]\nlisten = []\n", &NEEDED).unwrap_err();
    assert!(
        none[0].contains("health and metrics need an address"),
        "{none:?}"
    );
}

#[test]
fn attachment_links_outlive_the_secrets_of_replies() {
    const OLD: &str = "0123456789abcdefghijklmnopqrstuv";
    let links = |keys: &str| {
        let text = format!(
            "[[route]]\ndomains = ['inbox.example.com']\nsecrets = [{keys}]\n\
             [route.api]\nbase_url = 'http://127.0.0.1:3000/api'\nkey = 'k'\n"
        );
        load_text(&text, &[]).unwrap().config.attachments.links
    };
    let new = format!("{{ id = 1, secret = '{SECRET}' }}");
    let old = format!("{{ id = 0, secret = '{OLD}' }}");
    let at = clock::now();
    let id = ObjectId::of(b"bytes");
    let url = links(&old).url(id, None, "text/plain", at);
    let (_, signature) = url.rsplit_once('=').unwrap();
    let (_, expires) = url.split_once("expires=").unwrap();
    let link = AttachmentLink {
        id,
        name: "",
        media_type: "text/plain",
        expires: expires.split('&').next().unwrap().parse().unwrap(),
    };
    let rotated = links(&format!("{new}, {old}"));
    assert_eq!(rotated.verify(&link, signature, at), Ok(()));
    assert!(links(&new).verify(&link, signature, at).is_err());
}
