//! Owns the connection to a running server: HTTP on the control socket in its data folder. If no server
//! runs, this process answers the same requests from the store.
//!
//! Does not know the commands.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::runtime::{self, Runtime};

use crate::config::Config;
use crate::http::control::{self, SOCKET_NAME};
use crate::run::{self, Exit, ExitError};
use crate::store::Store;

/// The time limit of a request.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Octets of a response.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Octets of a mail: above every configurable limit, plus our own fields.
const MAIL_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// The client of a running server, or of the store itself.
pub(super) struct ControlClient {
    runtime: Runtime,
    backend: Backend,
}

enum Backend {
    Server(Client),
    Store(Box<InProcess>),
}

struct InProcess {
    router: Router,
    store: Store,
}

impl ControlClient {
    /// Connects to the server of this data folder, or opens the folder if none runs.
    pub(super) fn open(config: &Config) -> Result<Self, ExitError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let socket = config.data_dir.join(SOCKET_NAME);
        let behind = if UnixStream::connect(&socket).is_ok() {
            Backend::Server(client(socket)?)
        } else {
            let _inside = runtime.enter();
            let store = open_store(config)?;
            let router = control::router(run::control_parts(config, &store)?);
            Backend::Store(Box::new(InProcess { router, store }))
        };
        Ok(Self {
            runtime,
            backend: behind,
        })
    }

    /// Sends a request and returns the JSON response.
    pub(super) fn request(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Value, ExitError> {
        let (status, body) = self.call((method, target), body, ANSWER_BYTES_MAX)?;
        let answer = json(&body)?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(error_response(status, &answer))
    }

    /// Requests the bytes of a mail.
    pub(super) fn fetch_bytes(&self, target: &str) -> Result<Bytes, ExitError> {
        let (status, body) = self.call((Method::GET, target), Vec::new(), MAIL_BYTES_MAX)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(error_response(status, &json(&body)?))
    }

    fn call(
        &self,
        (method, target): (Method, &str),
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(u16, Bytes), ExitError> {
        let request = (method, target, body);
        match &self.backend {
            Backend::Server(client) => self.runtime.block_on(call(client, request, bytes_max)),
            Backend::Store(alone) => self.runtime.block_on(alone.respond(request, bytes_max)),
        }
    }

    /// Closes the store, so that another process can open the folder.
    pub(super) fn close(self) {
        if let Backend::Store(alone) = self.backend {
            let InProcess { router, store } = *alone;
            drop(router);
            self.runtime.block_on(store.close());
        }
    }
}

impl InProcess {
    async fn respond(
        &self,
        (method, target, body): (Method, &str, Vec<u8>),
        bytes_max: usize,
    ) -> Result<(u16, Bytes), ExitError> {
        let request = axum::http::Request::builder()
            .method(method)
            .uri(target)
            .body(Body::from(body))
            .map_err(|error| ExitError::new(Exit::Usage, error))?;
        let served = TowerToHyperService::new(self.router.clone())
            .call(request)
            .await;
        let Ok(response) = served;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), bytes_max)
            .await
            .map_err(|error| ExitError::new(Exit::Software, error))?;
        Ok((status, body))
    }
}

/// Opens the store while no server runs, in such a way that the server can open it afterwards.
pub(super) fn open_store(config: &Config) -> Result<Store, ExitError> {
    own_folder(config)?;
    run::open_store(config)
}

/// Checks that the data folder exists, and that the server can open the files that this process writes there.
pub(super) fn own_folder(config: &Config) -> Result<(), ExitError> {
    let folder = config.data_dir.display();
    let Ok(meta) = fs::metadata(&config.data_dir) else {
        let hint = match config.development {
            true => "; without --config this is development mode",
            false => "",
        };
        let line = format!("{folder}: no such folder: no server has run with it{hint}");
        return Err(ExitError::with_message(Exit::NoInput, line));
    };
    let ours = fs::metadata("/proc/self").map_or_else(|_| meta.uid(), |own| own.uid());
    if would_lock_out(ours, meta.uid()) {
        let owner = meta.uid();
        let line = format!("{folder}: belongs to user {owner}: run this as that user, not as root");
        return Err(ExitError::with_message(Exit::Usage, line));
    }
    Ok(())
}

/// True if the server could not open files written by this user.
const fn would_lock_out(ours: u32, owner: u32) -> bool {
    ours == 0 && owner != 0
}

fn client(socket: PathBuf) -> Result<Client, ExitError> {
    Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WAIT)
        .build()
        .map_err(|error| ExitError::new(Exit::Software, error))
}

async fn call(
    client: &Client,
    (method, target, body): (Method, &str, Vec<u8>),
    bytes_max: usize,
) -> Result<(u16, Bytes), ExitError> {
    let unavailable = |error| ExitError::new(Exit::Unavailable, error);
    let mut response = client
        .request(method, format!("http://postern{target}"))
        .body(body)
        .send()
        .await
        .map_err(unavailable)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(ExitError::with_message(
                Exit::Unavailable,
                "answer: too long",
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body.into()))
}

fn json(body: &[u8]) -> Result<Value, ExitError> {
    serde_json::from_slice(body)
        .map_err(|error| ExitError::with_message(Exit::Unavailable, format!("answer: {error}")))
}

fn error_response(status: u16, answer: &Value) -> ExitError {
    let exit = match status {
        400..500 => Exit::Malformed,
        _ => Exit::Unavailable,
    };
    let why = answer["error"]["message"].as_str().unwrap_or("refused");
    ExitError::with_message(exit, why)
}

/// A percent-encoded query of these pairs: `?name=value&…`.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    query.push(char::from(byte));
                }
                _ => query.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_does_not_lock_a_server_out() {
        assert!(would_lock_out(0, 107));
        for (ours, owner) in [(0, 0), (107, 107), (1000, 0)] {
            assert!(!would_lock_out(ours, owner), "{ours} {owner}");
        }
    }

    #[test]
    fn a_query_carries_any_address() {
        assert_eq!(query(&[]), "");
        assert_eq!(
            query(&[("rcpt", "reply+a&b=\"é\"@x.example"), ("from", "")]),
            "?rcpt=reply%2Ba%26b%3D%22%C3%A9%22%40x.example&from="
        );
    }
}
