use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::mail::kind::MailKind;

mod doors;
mod sending;

const EXAMPLE: &str = include_str!("../../../config/postern.toml");
const SECRET: &str = "3f9a1c5e7b2d4068a9c1e3f5b7d90246";

/// The example with every key set. Its secret files are created in `folder`.
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

/// The leaves of a table by path; the entries of a list of tables share one path.
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
    // The example leaves out the keys without a default, all of which the environment can set.
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
    // Read with an entry in each list of tables, so that their keys are read too.
    let log = ConfigFindings::default();
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
        // A secret may be given directly instead of its file; the example shows the file.
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
fn every_variable_is_in_the_example_and_sets_an_existing_key() {
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
fn rules_are_read_and_their_errors_are_reported() {
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("rules.toml");
    let text = format!("[[route]]\nrules = '{}'\n", rules.display());
    fs::write(&rules, "[[rule]]\nname = 'all'\nmailbox = 'fans'\n").unwrap();
    let loaded = load_text(&text, &NEEDED).unwrap();
    assert_eq!(
        format!(
            "{:?}",
            loaded.config.routes[0].policy.kinds.action(MailKind::List)
        ),
        "PostTyped"
    );
    fs::write(&rules, "[[rule]]\nname = 'all'\nmailbox = 'fns'\n").unwrap();
    let lines = load_text(&text, &NEEDED).unwrap_err();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("route.rules: \""), "{lines:?}");
    assert!(lines[0].contains("line 3"), "{lines:?}");
}

#[test]
fn a_file_is_enough_and_the_environment_overrides_it() {
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
fn all_missing_keys_are_reported_at_once() {
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
fn no_configuration_means_development_with_stored_secrets() {
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
fn one_high_limit_does_not_break_another() {
    let loaded = load_text("[session]\nmail_bytes_max = '100MiB'\n", &NEEDED).unwrap();
    assert_eq!(loaded.config.ingress.session_bytes_max, 800 << 20);
}

#[test]
fn a_world_readable_file_with_a_secret_is_warned_about() {
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
fn a_marker_is_one_long_enough_line() {
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
