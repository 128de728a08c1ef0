//! Owns development mode: the values that are used without any configuration.
//!
//! Does not create a sample thread or address, which needs a running server.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Purpose;
use super::findings::ConfigProblem;
use super::secret::Secret;

/// The data folder, in the working directory.
pub(super) const DATA_FOLDER: &str = "data";
/// The reply domain, which cannot exist outside this machine (RFC 6761 section 6.3).
pub(super) const DOMAIN: &str = "inbox.localhost";
/// The URL of the embedded Messages API.
pub(super) const API_URL: &str = "http://127.0.0.1:8080/api/v1/messages";
/// The file with the key of the embedded Messages API, in the data folder.
pub(super) const API_KEY_FILE: &str = "messages-api-key";
/// The file with the key that signs tokens, in the data folder.
pub(super) const REPLY_SECRET_FILE: &str = "reply-secret";

/// Adds the values to `root` that development mode needs besides the defaults.
pub(super) fn fill(root: &mut Table, purpose: Purpose) -> Result<(), ConfigProblem> {
    let folder = root
        .get("server")
        .and_then(|server| server.get("data_dir"))
        .and_then(Value::as_str)
        .unwrap_or(DATA_FOLDER);
    let folder = PathBuf::from(folder);
    if purpose == Purpose::Run {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| ConfigProblem::new(folder.display().to_string(), error.to_string()))?;
    }
    let reply = kept_secret(&folder.join(REPLY_SECRET_FILE), purpose)?;
    let key = kept_secret(&folder.join(API_KEY_FILE), purpose)?;
    let text = |text: &str| Value::String(text.to_owned());
    let signing = table([("secret", text(reply.reveal()))]);
    let api = table([("base_url", text(API_URL)), ("key", text(key.reveal()))]);
    let route = table([
        ("domains", Value::Array(vec![text(DOMAIN)])),
        ("secrets", Value::Array(vec![signing])),
        ("catch_all", text("general")),
        ("api", api),
    ]);
    root.insert("route".to_owned(), Value::Array(vec![route]));
    let embedded = [
        ("enabled", Value::Boolean(true)),
        ("key", text(key.reveal())),
    ];
    root.insert("embedded_api".to_owned(), table(embedded));
    let outbound = table([
        ("enabled", Value::Boolean(true)),
        ("from", text(&format!("support@{DOMAIN}"))),
    ]);
    root.insert("outbound".to_owned(), outbound);
    // The mail comes from this machine, so no domain can authenticate it.
    let unchecked = table([("enabled", Value::Boolean(false))]);
    root.insert("auth".to_owned(), unchecked);
    let server = root
        .entry("server")
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(server) = server {
        server.insert("hostname".to_owned(), text("localhost"));
    }
    Ok(())
}

fn kept_secret(path: &Path, purpose: Purpose) -> Result<Secret, ConfigProblem> {
    let secret = match purpose {
        Purpose::Run => Secret::read_or_make(path),
        Purpose::Look => match Secret::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Secret::random(),
            read => read,
        },
    };
    secret.map_err(|error| ConfigProblem::new(path.display().to_string(), error.to_string()))
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.map(|(key, value)| (key.to_owned(), value));
    Value::Table(entries.into_iter().collect())
}
