//! Owns the parts that a running server and an offline command share, and the creation of parts from the
//! configuration.
//!
//! Starts nothing.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::exit::{Exit, ExitError};
use super::inject_bridge;
use crate::clock;
use crate::config::{Config, RouteConfig};
use crate::http::control::{ControlParts, TokenRoute};
use crate::ingress::routes::{self, Routes};
use crate::mail::token::KeyRing;
use crate::queue::MailQueue;
use crate::store::{OpenError, Store};

/// The folder of the embedded Messages API, in the data folder.
pub(super) const EMBEDDED_FOLDER: &str = "messages";
/// The folder of notes about deferred fetches, in the data folder.
pub(super) const DEFERRED_FOLDER: &str = "errands";
/// The folder of unreadable webhook items, in the data folder.
pub(super) const SET_ASIDE_FOLDER: &str = "set-aside";
/// The folder of the self-signed certificate, in the data folder.
pub(super) const CERTIFICATES_FOLDER: &str = "certs";

/// Opens the store in the data folder, which is created if it does not exist.
///
/// # Errors
/// The folder cannot be created, another process uses it, or its content is not usable.
pub fn open_store(config: &Config) -> Result<Store, ExitError> {
    create_folder(&config.data_dir)?;
    Store::open(config.store.clone(), clock::now()).map_err(store_open_error)
}

/// Creates the parts of the control socket: the same for a running server and for a command that uses the
/// store itself.
///
/// # Errors
/// A route's keys are not usable.
pub fn control_parts(config: &Config, store: &Store) -> Result<ControlParts, ExitError> {
    let routes = Arc::new(ingress_routes(config)?);
    let lookup_store = store.clone();
    let mut token_routes = Vec::new();
    for route in &config.routes {
        token_routes.push(TokenRoute {
            name: route.name.clone(),
            domain: route.domains[0].clone(),
            keys: Arc::new(key_ring(route)?),
            format: route.token_format,
        });
    }
    Ok(ControlParts {
        queue: MailQueue::new(
            store.clone(),
            config.hostname.ascii(),
            config.auth.authserv_id.clone(),
        ),
        store: store.clone(),
        routes: token_routes.into(),
        resolve_recipient: Arc::new(move |address, now| {
            let (routes, store) = (Arc::clone(&routes), lookup_store.clone());
            Box::pin(async move {
                let found = routes.resolve(&store, address, now).await;
                found.map_err(|error| error.to_string())
            })
        }),
        accept_mail: inject_bridge::accept_into(store.clone()),
        mail_bytes_max: usize::try_from(config.ingress.session.mail_bytes_max)
            .unwrap_or(usize::MAX),
    })
}

pub(super) fn create_folder(folder: &Path) -> Result<(), ExitError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())
        .map_err(|error| ExitError::new(Exit::CannotCreate, error))
}

/// The end of a program that cannot open the store. It names the command that mends the folder, if one can.
pub fn store_open_error(error: OpenError) -> ExitError {
    if error.is_mendable() {
        let error = anyhow::Error::from(error);
        let line = format!(
            "{error:#}; `postern store mend` sets aside what is damaged and says what is lost"
        );
        return ExitError::with_message(Exit::Malformed, line);
    }
    open_error(error)
}

/// The end of a program that cannot open the embedded Messages API's folder. The delivery of mail does not
/// depend on the documents in it, so they can be set aside.
pub(super) fn messages_open_error(error: OpenError, folder: &Path) -> ExitError {
    if !error.is_mendable() {
        return open_error(error);
    }
    let (error, folder) = (anyhow::Error::from(error), folder.display());
    let line = format!(
        "{error:#}; `mv {folder} {folder}-aside` sets the embedded messages aside, and the server then starts \
         without them"
    );
    ExitError::with_message(Exit::Malformed, line)
}

fn open_error(error: OpenError) -> ExitError {
    let exit = match &error {
        OpenError::Locked { .. } => Exit::Unavailable,
        OpenError::Io { .. } => Exit::CannotCreate,
        _ => Exit::Malformed,
    };
    ExitError::new(exit, error)
}

/// The routes, as the doors for mail use them.
///
/// # Errors
/// A route's keys are not usable.
pub fn ingress_routes(config: &Config) -> Result<Routes, ExitError> {
    let mut list = Vec::new();
    for route in &config.routes {
        list.push(routes::Route {
            name: route.name.clone(),
            domains: route.domains.clone(),
            keys: key_ring(route)?,
            mailboxes: route.mailboxes.clone(),
            catch_all: route.catch_all.clone(),
            postmaster: route.postmaster.clone(),
            policy: route.sender_policy,
        });
    }
    Routes::new(list, &config.hostname).map_err(|error| ExitError::new(Exit::Config, error))
}

pub(super) fn key_ring(route: &RouteConfig) -> Result<KeyRing, ExitError> {
    route
        .key_ring()
        .map_err(|error| ExitError::new(Exit::Config, error))
}
