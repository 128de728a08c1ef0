//! The errors for invalid configurations, through the real program.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postern::config::VARIABLES;

use crate::program::{Home, SECRET, config};

const USABLE: [(&str, &str); 4] = [
    ("EMAIL_REPLY_DOMAIN", "inbox.example.com"),
    ("EMAIL_REPLY_SECRET", SECRET),
    (
        "MESSAGES_API_BASE_URL",
        "http://127.0.0.1:3000/api/v1/messages",
    ),
    ("MESSAGES_API_KEY", "hunter2"),
];

/// Each file in `tests/configs/bad` begins with the expected error lines.
#[test]
fn every_bad_configuration_has_its_error_lines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/bad");
    let home = Home::new();
    let mut faults = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .map(|line| format!("{name}: {line}"))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let outcome = home.run(&["check-config", name]);
        let heard: Vec<_> = outcome.err.lines().map(str::to_owned).collect();
        if heard != expected || outcome.code != Some(78) || !outcome.out.is_empty() {
            faults.push(format!("expected {expected:#?}\nheard {outcome:#?}"));
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} files");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_server_does_not_start_if_the_check_fails() {
    let home = Home::new();
    let file = home.write("postern.toml", "[smtp]\nlisten = ['25']\n");
    let checked = home.run(&["check-config", file.to_str().unwrap()]);
    let served = home.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!((served.code, served.err), (Some(78), checked.err));
    let gone = home.run(&["--config", "gone.toml"]);
    assert_eq!(gone.code, Some(78));
    assert_eq!(
        gone.err,
        "gone.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn the_environment_is_enough_and_every_variable_has_an_effect() {
    let home = Home::new();
    assert!(
        home.run_with(&["check-config"], &USABLE)
            .ok()
            .ends_with(": ok\n")
    );
    for variable in VARIABLES {
        let value = match variable.name {
            "EMAIL_IMAP_HOST" | "SMTP_HOST" => "mail.example.com",
            "EMAIL_IMAP_POLL_INTERVAL" | "EMAIL_WEBHOOK_MAX_AGE" => "61000",
            "EMAIL_IMAP_PORT" | "SMTP_PORT" => "2500",
            "EMAIL_INBOUND_MODE" => "lmtp",
            "EMAIL_OUTBOUND_ENABLED" => "true",
            "EMAIL_REPLY_DOMAIN" => "other.example.com",
            "EMAIL_REPLY_SECRET" | "EMAIL_WEBHOOK_SECRET" => SECRET,
            "MESSAGES_API_BASE_URL" => "http://127.0.0.1:3001/api",
            "SMTP_FROM" => "us@example.com",
            "EMAIL_IMAP_PASS" | "MESSAGES_API_KEY" | "SMTP_PASS" => "hunter2-again",
            _ => "any-word",
        };
        let mut variables = USABLE.to_vec();
        variables.push((variable.name, value));
        if variable.name == "EMAIL_OUTBOUND_ENABLED" {
            variables.extend([("SMTP_FROM", "us@example.com"), ("SMTP_HOST", "127.0.0.1")]);
            // The key for requesting mail must be strong.
            variables.push(("MESSAGES_API_KEY", "a-key-of-the-tests-with-32-characters"));
        }
        let out = home.run_with(&["check-config", "--show"], &variables).ok();
        let shown = format!("# {}\n", variable.name);
        assert!(out.contains(&shown), "{}: {out}", variable.name);
        // A relay alone sends nothing.
        let is_of_later = variable.key.starts_with("imap.") || variable.key == "outbound.host";
        let warning = format!("warning: environment: {}: no effect: ", variable.name);
        assert_eq!(
            out.contains(&warning),
            is_of_later,
            "{}: {out}",
            variable.name
        );
    }
}

#[test]
fn a_weak_or_missing_secret_stops_the_start() {
    let home = Home::new();
    let mut variables = USABLE;
    variables[1].1 = "hunter2";
    let weak = home.run_with(&[], &variables);
    assert_eq!(weak.code, Some(78));
    assert_eq!(
        weak.err,
        "environment: EMAIL_REPLY_SECRET: secret too weak: 7 octets, at least 32 are required\n"
    );
    variables[1].1 = "";
    let missing = home.run_with(&[], &variables);
    assert_eq!(missing.code, Some(78));
    assert!(
        missing.err.contains("missing: a key to sign with"),
        "{}",
        missing.err
    );
    assert!(
        !home.path("data").exists(),
        "a refused start leaves nothing"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for place in 0..3 {
        let mut ports = [0; 3];
        ports[place] = port;
        let file = home.write("postern.toml", &config(&home.path("data"), ports));
        let refused = home.run(&["serve", "--config", file.to_str().unwrap()]);
        assert_eq!(refused.code, Some(69), "{refused:?}");
        let line = refused.err.lines().last().unwrap();
        let words = format!("postern: 127.0.0.1:{port}: Address already in use");
        assert!(line.starts_with(&words), "{line}");
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let home = Home::new();
    let host = home.path("certs/mx.example.com");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("fullchain.pem"), "no certificate").unwrap();
    fs::write(host.join("privkey.pem"), "no key").unwrap();
    let text = config(&home.path("data"), [0; 3]);
    let tls = format!("[tls]\nfolder = \"{}\"\n", home.path("certs").display());
    let file = home.write("postern.toml", &format!("{tls}{text}"));
    let refused = home.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    let line = refused.err.lines().last().unwrap();
    assert!(line.contains("mx.example.com/fullchain.pem"), "{line}");
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let home = Home::new();
    let first = home.write("first.toml", &config(&home.path("data"), [0; 3]));
    let second = home.write("second.toml", &config(&home.path("data"), [0; 3]));
    let server = home.serve(&["--config", first.to_str().unwrap()]);
    let refused = home.run(&["serve", "--config", second.to_str().unwrap()]);
    assert_eq!(refused.code, Some(69), "{refused:?}");
    assert!(
        refused.err.contains("in use by another process"),
        "{refused:?}"
    );
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let home = Home::new();
    // Not even root can create a file there, although root ignores file modes.
    let sealed = Path::new("/proc");
    let file = home.write("sealed.toml", &config(sealed, [0; 3]));
    let refused = home.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(73), "{refused:?}");
    assert!(refused.err.starts_with("postern: /proc"), "{refused:?}");
    let beneath = home.write("a-file", "").join("data");
    let file = home.write("beneath.toml", &config(&beneath, [0; 3]));
    let refused = home.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(73), "{refused:?}");
    let words = format!("postern: {}: ", beneath.display());
    assert!(refused.err.starts_with(&words), "{refused:?}");
}

#[test]
fn a_file_that_shows_its_secrets_is_warned_of() {
    let home = Home::new();
    let file = home.write("postern.toml", &config(&home.path("data"), [0; 3]));
    let name = file.to_str().unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let warned = home.run(&["check-config", name]).ok();
    assert!(
        warned.contains("holds secrets and every user of this machine can read it"),
        "{warned}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(
        home.run(&["check-config", name]).ok(),
        format!("{name}: ok\n")
    );
}

#[test]
fn no_output_contains_a_secret() {
    let home = Home::new();
    let file = home.write("postern.toml", &config(&home.path("data"), [0; 3]));
    // `Home` itself searches all output for the secret.
    let out = home
        .run(&["check-config", "--show", file.to_str().unwrap()])
        .ok();
    assert!(out.contains("route.secrets.secret = (set)\n"), "{out}");
    assert!(out.contains("route.api.key = (set)\n"), "{out}");
}
