//! Owns the wiring: the only place that knows every part. It opens, binds, starts, says ready, waits,
//! and drains.
//!
//! Does none of the parts' work.

mod dev_banner;
mod exit;
mod file_limit;
mod gateway;
pub mod inject_bridge;
pub mod intake_bridge;
mod services;
mod signals;
mod tasks;
pub mod webhook_bridge;

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::serve::Listener;
use sd_notify::NotifyState;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time;
use tracing::{info, warn};

use crate::clock;
use crate::config::{Config, ConfigProblem, LogFormat, RouteConfig};
use crate::delivery::route::DeliveryRoute;
use crate::events::Subscriber;
use crate::http::control::{ControlParts, SOCKET_NAME, TokenRoute};
use crate::http::server::{self, HttpOptions};
use crate::ingress::imap::ImapFetcher;
use crate::ingress::routes::{self, Routes};
use crate::ingress::smtp as ingress;
use crate::ingress::webhook::WebhookReceiver;
use crate::store::{EmbeddedMessages, OpenError, Store};
use crate::tls::{self, Certificates};

pub use exit::{Exit, ExitError};
use services::Services;
use signals::{Signal, Signals};
use tasks::Tasks;

/// The folder of the embedded Messages API's book, in the data folder.
const EMBEDDED_FOLDER: &str = "messages";
/// The folder of the notes of mails that are still to be fetched, in the data folder.
const DEFERRED_FOLDER: &str = "errands";
/// Name of the folder, in the data folder, of items of webhooks that cannot be read.
const SET_ASIDE_FOLDER: &str = "set-aside";
/// The folder of the certificates that are made, in the data folder.
const CERTIFICATES_FOLDER: &str = "certs";
/// The task that removes attachments past their age.
const ATTACHMENTS_TASK: &str = "attachments";
/// The task that ends when a journal can be written no more.
const STORE_TASK: &str = "store";
/// What a stop may take beyond the parts' own graces until the rest is cut off.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// Serves until a signal says stop. What development mode has to say goes to `out`.
///
/// # Errors
/// Why the start failed, or which part ended by itself.
pub fn serve(
    config: Config,
    warnings: &[ConfigProblem],
    out: &mut impl Write,
) -> Result<(), ExitError> {
    log_to_stderr(&config)?;
    for warning in warnings {
        warn!("{warning}");
    }
    file_limit::raise(&config);
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let house = Services::build(&config).await?;
        house.run(&config, out).await
    });
    // Whatever still blocks a thread must not keep the process.
    runtime.shutdown_timeout(STOP_SLACK);
    served
}

/// Opens the store in the data folder, which is made if it is not there.
///
/// # Errors
/// The folder cannot be made, or another process has it, or what is in it cannot be used.
pub fn open_store(config: &Config) -> Result<Store, ExitError> {
    create_folder(&config.data_dir)?;
    Store::open(config.store.clone(), clock::now()).map_err(store_open_error)
}

/// The routes as delivery uses them.
///
/// # Errors
/// The keys or the Messages API of a route cannot be used.
pub fn delivery_routes(config: &Config) -> Result<Vec<DeliveryRoute>, ExitError> {
    services::delivery_routes(config)
}

/// What the control socket answers from: the same for a running server and for a command that works
/// on the store itself.
///
/// # Errors
/// A route's keys cannot be used.
pub fn control_parts(config: &Config, store: &Store) -> Result<ControlParts, ExitError> {
    let routes = Arc::new(ingress_routes(config)?);
    let knows = store.clone();
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
        store: store.clone(),
        routes: token_routes.into(),
        resolve_recipient: Arc::new(move |address, now| {
            let (routes, store) = (Arc::clone(&routes), knows.clone());
            Box::pin(async move {
                let found = routes.resolve(&store, address, now).await;
                found.map_err(|error| error.to_string())
            })
        }),
        accept_mail: inject_bridge::accept_into(store.clone()),
        pending_retry: Arc::new(|_| None),
        hostname: config.hostname.ascii(),
        authserv_id: config.auth.authserv_id.clone(),
        mail_bytes_max: usize::try_from(config.ingress.session.mail_bytes_max)
            .unwrap_or(usize::MAX),
    })
}

impl Services {
    async fn run(self, config: &Config, out: &mut impl Write) -> Result<(), ExitError> {
        let mut signals = Signals::listen()?;
        let Self {
            store,
            embedded: book,
            certificates,
            ingress,
            worker,
            outbound,
            webhooks,
            imap,
            objects,
            event_streams: listeners,
            subscribers,
            public_router: app,
            control_router: control,
        } = self;
        // HTTP outlives the worker: in development the worker posts to our own Messages API.
        let (stop_mail, mail) = watch::channel(false);
        let (stop_http, http) = watch::channel(false);
        let mut desks = http_servers(config, [app, control], &certificates, &http).await?;
        let watched = Arc::clone(&certificates);
        desks.spawn(CERTIFICATES_FOLDER, async move {
            watched.watch(tls::POLL_WAIT).await;
            Ok(())
        });
        desks.spawn(ATTACHMENTS_TASK, async move {
            objects.sweep_forever().await;
            Ok(())
        });
        watch_store(&mut desks, &store, book.as_ref());
        start_subscribers(&mut desks, subscribers, &http);
        let mut doors = start_ingress(ingress, webhooks, imap, &mail);
        if let Some(outbound) = outbound {
            let stop = mail.clone();
            doors.spawn("outbound", async move { Ok(outbound.run(stop).await?) });
        }
        doors.spawn("delivery", async move { Ok(worker.run(mail).await?) });
        if let Some(book) = book.as_ref().filter(|_| config.development) {
            dev_banner::print(config, book, out).await?;
        }
        notify_supervisor(&[NotifyState::Ready]);
        info!(version = env!("CARGO_PKG_VERSION"), data = %config.data_dir.display(), "ready");

        let ended = wait_for_stop(&mut signals, &certificates, [&mut doors, &mut desks]).await;
        notify_supervisor(&[NotifyState::Stopping]);
        stop_mail.send_replace(true);
        let limit = time::Instant::now() + config.stop_max + STOP_SLACK;
        let drained = async {
            doors.drain(limit).await;
            stop_http.send_replace(true);
            listeners.close();
            desks.abort(CERTIFICATES_FOLDER);
            desks.abort(ATTACHMENTS_TASK);
            desks.abort(STORE_TASK);
            desks.drain(limit).await;
        };
        tokio::select! {
            () = drained => {}
            // Asked twice, it does not wait: what was promised is on the disk.
            () = signals.stop() => warn!("stopped at once; what was under way is taken up again"),
        }
        drop((doors, desks));
        // A socket that nobody answers at would be taken for a server by whoever looks.
        drop(fs::remove_file(config.data_dir.join(SOCKET_NAME)));
        if let Some(book) = book {
            book.close().await;
        }
        store.close().await;
        info!("stopped");
        ended.map_err(|error| ExitError::new(Exit::Software, error))
    }
}

/// Starts what takes mail in, until `stopped` is true.
fn start_ingress(
    ingress: ingress::SmtpServer,
    webhooks: Option<WebhookReceiver>,
    imap: Option<ImapFetcher>,
    stopped: &watch::Receiver<bool>,
) -> Tasks {
    let mut doors = Tasks::default();
    let mut stop = stopped.clone();
    doors.spawn("ingress", async move {
        let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
        ingress.run(stop).await;
        Ok(())
    });
    if let Some(webhooks) = webhooks {
        let mut stop = stopped.clone();
        doors.spawn("webhook", async move {
            let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
            webhooks.run(stop).await;
            Ok(())
        });
    }
    if let Some(imap) = imap {
        let stop = stopped.clone();
        doors.spawn("imap", async move {
            imap.run(stop).await;
            Ok(())
        });
    }
    doors
}

/// Starts telling those who are told what happens.
fn start_subscribers(
    desks: &mut Tasks,
    subscribers: Vec<Subscriber>,
    stopped: &watch::Receiver<bool>,
) {
    for subscriber in subscribers {
        let stop = stopped.clone();
        desks.spawn("events", async move { Ok(subscriber.run(stop).await?) });
    }
}

/// Starts what is spoken HTTP with: the addresses, and the control socket.
async fn http_servers(
    config: &Config,
    [app, control]: [Router; 2],
    certificates: &Arc<Certificates>,
    stop: &watch::Receiver<bool>,
) -> Result<Tasks, ExitError> {
    let mut desks = Tasks::default();
    let plain = HttpOptions::from(config.http_server.clone());
    let over_tls = plain.over_tls(certificates);
    let over_tls = over_tls.map_err(|error| ExitError::new(Exit::Software, error))?;
    let plain = config.http_listen.iter().map(|at| (at, "http", &plain));
    let over_tls = config
        .https_listen
        .iter()
        .map(|at| (at, "https", &over_tls));
    for (address, protocol, terms) in plain.chain(over_tls) {
        let listener = server::listen(*address).await;
        let listener = listener.with_context(|| address.to_string());
        let listener = listener.map_err(|error| ExitError::new(Exit::Unavailable, error))?;
        // With port 0 the system chooses one.
        let address = listener.local_addr().unwrap_or(*address);
        info!(%address, protocol, "listening");
        let task = serve_listener(listener, app.clone(), terms.clone(), stop.clone());
        desks.spawn(protocol, task);
    }
    let socket = config.data_dir.join(SOCKET_NAME);
    let listener = server::listen_private(&socket);
    let listener = listener.with_context(|| socket.display().to_string());
    let listener = listener.map_err(|error| ExitError::new(Exit::CannotCreate, error))?;
    info!(address = %socket.display(), protocol = "control", "listening");
    let terms = HttpOptions::from(config.http_server.clone());
    let task = serve_listener(listener, control, terms, stop.clone());
    desks.spawn("control", task);
    Ok(desks)
}

/// A disk that failed once is not trusted again: the process ends, and the next start reads what is
/// really there.
fn watch_store(desks: &mut Tasks, store: &Store, book: Option<&EmbeddedMessages>) {
    let store = store.clone();
    desks.spawn(STORE_TASK, async move {
        store.ended().await;
        Err(anyhow!("the journal cannot be written"))
    });
    if let Some(book) = book.cloned() {
        desks.spawn(STORE_TASK, async move {
            book.ended().await;
            Err(anyhow!("the journal of the embedded API cannot be written"))
        });
    }
}

/// Waits for a signal to stop, or for the end of a task that has none.
async fn wait_for_stop(
    signals: &mut Signals,
    certificates: &Arc<Certificates>,
    [doors, desks]: [&mut Tasks; 2],
) -> Result<(), anyhow::Error> {
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => reload(certificates).await,
                Signal::Stop(name) => {
                    info!(signal = name, "stopping");
                    return Ok(());
                }
            },
            ended = doors.next() => return Err(ended),
            ended = desks.next() => return Err(ended),
        }
    }
}

async fn serve_listener<L: Listener<Addr: server::RemoteAddress>>(
    listener: L,
    router: Router,
    terms: HttpOptions,
    stop: watch::Receiver<bool>,
) -> Result<(), anyhow::Error> {
    server::serve(listener, router, terms, stop).await;
    Ok(())
}

async fn reload(certificates: &Arc<Certificates>) {
    let reloading = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
    notify_supervisor(&reloading.unwrap_or([NotifyState::Reloading, NotifyState::Reloading]));
    let read = Arc::clone(certificates);
    let errors = tokio::task::spawn_blocking(move || read.reload()).await;
    match errors {
        Ok(errors) if errors.is_empty() => info!("certificates read again"),
        Ok(errors) => {
            for error in errors {
                warn!(
                    "certificate not read, the old one stays: {:#}",
                    anyhow!(error)
                );
            }
        }
        Err(error) => warn!("certificates not read: {error}"),
    }
    notify_supervisor(&[NotifyState::Ready]);
}

/// Tells the supervisor, if there is one.
fn notify_supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("the supervisor cannot be told: {error}");
    }
}

fn log_to_stderr(config: &Config) -> Result<(), ExitError> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_filter)
        .map_err(|error| ExitError::new(Exit::Config, error))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let set = match config.log_format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
    set.map_err(|error| ExitError::with_message(Exit::Software, error))
}

fn create_folder(folder: &Path) -> Result<(), ExitError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())
        .map_err(|error| ExitError::new(Exit::CannotCreate, error))
}

fn store_open_error(error: OpenError) -> ExitError {
    let exit = match &error {
        OpenError::Locked { .. } => Exit::Unavailable,
        OpenError::Io { .. } => Exit::CannotCreate,
        _ => Exit::Malformed,
    };
    ExitError::new(exit, error)
}

/// The routes as the doors use them.
///
/// # Errors
/// A route's keys cannot be used.
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

fn key_ring(route: &RouteConfig) -> Result<crate::mail::token::KeyRing, ExitError> {
    route
        .key_ring()
        .map_err(|error| ExitError::new(Exit::Config, error))
}
