use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::ingress::imap::Security;
use crate::mail::kind::Kind;

const EXAMPLE: &str = include_str!("../../config/postern.toml");
const SECRET: &str = "3f9a1c5e7b2d4068a9c1e3f5b7d90246";

/// The example with every key set, its secret files made in `folder`.
fn uncommented(folder: &Path) -> String {
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let key = line
            .strip_prefix('#')
            .filter(|key| !key.is_empty() && !key.starts_with(' '));
        text.push_str(key.unwrap_or(line));
        text.push('\n');
    }
    for (at, place) in text.match_indices("/etc/postern/") {
        let name = text[at + place.len()..]
            .split('"')
            .next()
            .unwrap_or_default();
        fs::write(folder.join(name), SECRET).unwrap();
    }
    let templates = folder.join("templates");
    fs::remove_file(&templates).unwrap();
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("message.txt.jinja"), "{{ text }}\n").unwrap();
    fs::write(folder.join("rules.toml"), crate::mail::mailbox::SHIPPED).unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    fs::write(folder.join("dkim.pem"), key.serialize_pem()).unwrap();
    let names = vec!["smtp.example.com".to_owned()];
    let relay = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.join("relay-ca.pem"), relay.cert.pem()).unwrap();
    text.replace("/etc/postern/", &format!("{}/", folder.display()))
}

fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("postern.toml");
    fs::write(&file, text).unwrap();
    let prefix = format!("{}: ", file.display());
    load(Some(&file), lookup(variables), Purpose::Look).map_err(|invalid| {
        let lines = invalid.problems().iter().map(ToString::to_string);
        lines.map(|line| line.replace(&prefix, "")).collect()
    })
}

fn lookup(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    move |name| variables.get(name).map(OsString::from)
}

const NEEDED: [(&str, &str); 4] = [
    ("EMAIL_REPLY_DOMAIN", "inbox.example.com"),
    ("EMAIL_REPLY_SECRET", SECRET),
    ("MESSAGES_API_BASE_URL", "http://127.0.0.1:3000/api"),
    ("MESSAGES_API_KEY", "k"),
];

/// The leaves of a table by their paths; the entries of lists of tables all under one path.
fn leaves(path: &str, table: &Table, into: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let path = format!("{path}{key}");
        match value {
            toml::Value::Table(table) => leaves(&format!("{path}."), table, into),
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                for table in list.iter().filter_map(toml::Value::as_table) {
                    leaves(&format!("{path}."), table, into);
                }
            }
            leaf => {
                into.insert(path, leaf.clone());
            }
        }
    }
}

#[test]
fn the_example_can_be_used_as_it_is_and_with_every_key_set() {
    let folder = TempDir::new().unwrap();
    let set = load_text(&uncommented(folder.path()), &[]).unwrap();
    assert_eq!(set.config.hostname.as_str(), "mx.example.com");
    // As it is it lacks what has no default, and the environment can give all of that.
    assert!(load_text(EXAMPLE, &[]).is_err());
    let bare = load_text(EXAMPLE, &NEEDED).unwrap();
    assert_eq!(bare.config.hostname.as_str(), "inbox.example.com");
}

#[test]
fn the_example_has_every_key_with_the_default_the_code_has() {
    let folder = TempDir::new().unwrap();
    let text = uncommented(folder.path());
    let mut example = BTreeMap::new();
    leaves("", &text.parse().unwrap(), &mut example);
    // Read with an entry in each list of tables, so that the keys of those are asked for too.
    let log = Log::default();
    let lists = "route = [{ secrets = [{}] }]
events = { webhook = [{}] }
\
                 outbound = { relay = [{}], dkim = [{}] }";
    let mut root = Section::root(lists.parse().unwrap(), &log);
    sections::read(&mut root, false);
    let known: BTreeMap<_, _> = log
        .keys
        .into_inner()
        .into_iter()
        .map(|key| (key.path, key.default))
        .collect();
    for (path, value) in &example {
        let default = known
            .get(path)
            .unwrap_or_else(|| panic!("{path} is no key"));
        if let Some(default) = default {
            assert_eq!(default, value, "{path}: the code's default, the example's");
        }
    }
    for (path, default) in known {
        // A secret may be written in place of its file, and the example shows the better way.
        let shown = example.contains_key(&path) || example.contains_key(&format!("{path}_file"));
        assert!(shown, "{path} is missing in the example");
        if default.is_none() && !path.starts_with("route.secrets.") {
            let key = path.rsplit('.').next().unwrap();
            let at = EXAMPLE.find(&format!("\n#{key}")).unwrap();
            assert!(EXAMPLE[..at].contains("No default"), "{path}");
        }
    }
}

#[test]
fn every_variable_is_told_in_the_example_and_sets_a_key_that_exists() {
    let known: Vec<_> = keys().into_iter().map(|key| key.path).collect();
    for variable in VARIABLES {
        let is_key = known.iter().any(|path| path == variable.key);
        assert!(
            is_key || variable.key == "route.secrets",
            "{}",
            variable.key
        );
        assert!(EXAMPLE.contains(variable.name), "{}", variable.name);
    }
}

#[test]
fn rules_are_read_and_what_is_wrong_with_them_is_told() {
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("rules.toml");
    let text = format!("[[route]]\nrules = '{}'\n", rules.display());
    fs::write(&rules, "[[rule]]\nname = 'all'\nmailbox = 'fans'\n").unwrap();
    let loaded = load_text(&text, &NEEDED).unwrap();
    assert_eq!(
        format!("{:?}", loaded.config.routes[0].policy.kinds.of(Kind::List)),
        "PostTyped"
    );
    fs::write(&rules, "[[rule]]\nname = 'all'\nmailbox = 'fns'\n").unwrap();
    let lines = load_text(&text, &NEEDED).unwrap_err();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("route.rules: \""), "{lines:?}");
    assert!(lines[0].contains("line 3"), "{lines:?}");
}

#[test]
fn a_file_is_enough_and_the_environment_wins_over_it() {
    let text = format!(
        "[[route]]\ndomains = ['a.example']\nsecrets = [{{ secret = '{SECRET}' }}]\n\
         [route.api]\nbase_url = 'http://a.example/api'\nkey = 'k'\n"
    );
    let loaded = load_text(&text, &[]).unwrap();
    assert_eq!(loaded.config.routes[0].domains[0].as_str(), "a.example");
    assert!(!loaded.config.development);
    let loaded = load_text(&text, &[("EMAIL_REPLY_DOMAIN", "b.example")]).unwrap();
    assert_eq!(loaded.config.routes[0].domains[0].as_str(), "b.example");
}

#[test]
fn the_environment_alone_is_enough() {
    let loaded = load(None, lookup(&NEEDED), Purpose::Look).unwrap();
    assert!(!loaded.config.development);
    assert!(loaded.config.embedded_api.is_none());
    assert!(loaded.config.auth_enabled);
    assert_eq!(loaded.config.auth.authserv_id, "inbox.example.com");
    assert_eq!(loaded.config.ingress.listen.len(), 2);
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let lines = load_text("", &[]).unwrap_err();
    assert_eq!(
        lines,
        [
            "route.domains: missing: the reply domain, or EMAIL_REPLY_DOMAIN",
            "route.secrets: missing: a key to sign with, or EMAIL_REPLY_SECRET",
            "route.api.base_url: missing: where the Messages API is, or MESSAGES_API_BASE_URL",
            "route.api.key: missing: set it, key_file, or MESSAGES_API_KEY",
        ]
    );
}

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
    assert_eq!(settings.security, Security::Tls);
    assert_eq!((settings.port, settings.poll_interval.as_secs()), (993, 30));
    assert_eq!(settings.store_max.as_secs(), 7);
    assert_eq!(settings.dedupe_window.as_secs(), 9 * 24 * 60 * 60);
    assert!(!format!("{settings:?}").contains("hunter2"));
    for (text, port, security) in [
        ("security = 'starttls'", 143, Security::StartTls),
        ("port = 143", 143, Security::StartTls),
        ("port = 143\nsecurity = 'tls'", 143, Security::Tls),
        ("port = 5143", 5143, Security::Tls),
        (
            "port = 5143\nsecurity = 'starttls'",
            5143,
            Security::StartTls,
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

const SENDING: [(&str, &str); 3] = [
    ("EMAIL_OUTBOUND_ENABLED", "true"),
    ("SMTP_FROM", "us@example.com"),
    ("SMTP_HOST", "smtp.example.com"),
];

fn outbound(text: &str, variables: &[(&str, &str)]) -> Result<Outbound, Vec<String>> {
    let variables = [NEEDED.as_slice(), &SENDING, variables].concat();
    load_text(text, &variables).map(|loaded| loaded.config.outbound)
}

#[test]
fn the_environment_alone_is_enough_to_send() {
    use crate::outbound::relay::settings::Security;
    let sends = outbound("", &[("SMTP_PORT", "465")]).unwrap();
    assert!(sends.enabled && !sends.capture);
    assert_eq!(sends.relays[0].label(), "smtp.example.com:465");
    assert_eq!(sends.relays[0].security, Security::Implicit);
    assert!(sends.relays[0].login.is_none());
    assert_eq!(sends.worker.own_domains[0].as_str(), "inbox.example.com");
    let login = [("SMTP_USER", "u"), ("SMTP_PASS", "hunter2hunter2")];
    let sends = outbound("", &login).unwrap();
    assert_eq!(sends.relays[0].security, Security::Auto);
    assert!(sends.relays[0].login.is_some());
    assert!(!format!("{sends:?}").contains("hunter"));
    let lines = outbound("", &[("SMTP_USER", "u")]).unwrap_err();
    assert_eq!(
        lines,
        ["outbound.password: missing: set it, password_file, or SMTP_PASS"]
    );
    let enabled = [NEEDED.as_slice(), &SENDING[..1]].concat();
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
fn relays_have_an_order_and_none_is_spoken_to_in_the_open() {
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
            "outbound.tls: \"none\": smtp.example.com is not this machine, and mail to it is not sent in the open",
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
        (broken.as_str(), "no private key in PEM form"),
        ("hunter2", "no private key in PEM form"),
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
fn nothing_said_means_development_with_secrets_that_stay() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let variables = [("POSTERN_DATA_DIR", data.to_str().unwrap())];
    load(None, lookup(&variables), Purpose::Look).unwrap();
    assert!(!data.exists(), "a look leaves nothing behind");
    let first = load(None, lookup(&variables), Purpose::Run).unwrap().config;
    assert!(first.development);
    assert!(!first.auth_enabled, "no domain vouches for this machine");
    let key = fs::read_to_string(data.join("messages-api-key")).unwrap();
    assert_eq!(first.embedded_api.unwrap().reveal(), key.trim_end());
    assert_eq!(first.routes[0].api.key, key.trim_end());
    let again = load(None, lookup(&variables), Purpose::Run).unwrap().config;
    assert_eq!(again.routes[0].api.key, key.trim_end());
}

#[test]
fn one_loud_limit_does_not_break_another() {
    let loaded = load_text("[session]\nmail_bytes_max = '100MiB'\n", &NEEDED).unwrap();
    assert_eq!(loaded.config.ingress.session_bytes_max, 800 << 20);
}

#[test]
fn a_file_anyone_can_read_is_warned_of_if_it_holds_a_secret() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("postern.toml");
    fs::write(&file, "[route.api]\nkey = 'k'\n").unwrap();
    for (mode, count) in [(0o644, 1), (0o640, 0)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&file, "[[route]]\n[route.api]\nkey = 'k'\n").unwrap();
        let loaded = load(Some(&file), lookup(&NEEDED[..3]), Purpose::Look).unwrap();
        assert_eq!(loaded.warnings.len(), count, "{mode:o}");
    }
}

#[test]
fn no_secret_is_shown() {
    let hidden = "hunter2hunter2";
    let broken = [
        format!("[[route]]\nsecrets = [{{ id = 0, secret = '{hidden}' }}]"),
        format!("[[route]]\nsecrets = ['{hidden}']"),
        format!("[[route]]\nsecrets = '{hidden}'"),
        format!("[[route]]\nsecret = '{hidden}'"),
        format!("[[route]]\n[route.api]\nkey = ['{hidden}']"),
        format!("[[route]]\n[route.api]\nkey = '{hidden}\\u0007'"),
        format!("[[route]]\n[route.api]\nbase_url = 'http:/u:{hidden}@host/'\nkey = 'k'"),
        format!("[embedded_api]\nenabled = true\nkey = '{hidden}'"),
        format!("[webhook]\nsecret = '{hidden}'"),
        format!("[outbound]\npassword = '{hidden}' x"),
        format!("[outbound]\npassword = \"{hidden}"),
        format!("password = {hidden}"),
        format!("[imap]\npassword = 1\n{hidden}"),
    ];
    for text in broken {
        let lines = load_text(&text, &[]).unwrap_err().join("\n");
        assert!(!lines.contains("hunter"), "{text}\n{lines}");
    }
    let loaded = load_text(
        &format!("[outbound]\npassword = '{hidden}'"),
        &[
            NEEDED.as_slice(),
            &[("SMTP_PASS", hidden), ("EMAIL_IMAP_PASS", hidden)],
        ]
        .concat(),
    )
    .unwrap();
    assert!(!format!("{loaded:?}").contains("hunter"));
    assert!(!format!("{loaded:?}").contains(SECRET));
}

#[test]
fn http_is_on_loopback_unless_it_is_said_and_then_warned_of() {
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
    let exempt = loaded.config.http.exempt.iter().map(ToString::to_string);
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
fn a_marker_is_one_line_that_nobody_writes_by_chance() {
    let marker = |text: &str| format!("[[route]]\nreply_marker = {text}\n");
    let loaded = load_text(&marker("\"Antwort bitte hier drüber\""), &NEEDED).unwrap();
    let told = loaded.config.routes[0].reply_marker.as_deref();
    assert_eq!(told, Some("Antwort bitte hier drüber"));
    let loaded = load_text("", &NEEDED).unwrap();
    assert_eq!(loaded.config.routes[0].reply_marker, None);
    for (text, why) in [
        ("\"Reply\"", "8 to 100"),
        ("\"Reply\\nabove this\"", "one line"),
    ] {
        let problems = load_text(&marker(text), &NEEDED).unwrap_err();
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("reply_marker") && problem.contains(why)),
            "{problems:?}"
        );
    }
}

#[test]
fn templates_are_tried_and_a_fault_is_told_with_its_line() {
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
fn what_is_kept_of_the_outbox_is_the_operators() {
    let text = "[store]\noutbox_max = 7\noutbox_bytes_max = '2MiB'\nsent_kept = 8\nfailed_kept = 9\n\
        failed_age_max = '10d'\ncaptured_kept = 11\n[outbound]\nsuppress_for = '12d'\n";
    let config = load_text(text, &NEEDED).unwrap().config;
    let (store, days) = (config.store, |days: u64| Duration::from_secs(days * 86_400));
    assert_eq!((store.outbox_max, store.outbox_bytes_max), (7, 2 << 20));
    assert_eq!((store.sent_kept, store.failed_kept), (8, 9));
    assert_eq!((store.failed_age_max, store.captured_kept), (days(10), 11));
    // Whoever puts an address on the list, it is for so long.
    assert_eq!(config.outbound.suppress_for, days(12));
    assert_eq!(config.delivery.suppress_for, days(12));
}

#[test]
fn signed_calls_may_be_as_old_as_our_own_webhooks_unless_it_is_said() {
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
