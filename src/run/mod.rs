//! Owns the assembly of all parts: opens, binds, starts, reports readiness, waits, and shuts down.
//!
//! Does none of the parts' work.

mod dev_banner;
pub mod disk_space;
mod exit;
mod file_limit;
mod gateway;
pub mod inject_bridge;
pub mod intake_bridge;
mod parts;
mod services;
mod signals;
mod tasks;
pub mod webhook_bridge;

use std::fs;
use std::io::Write;
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
use crate::config::{Config, ConfigProblem, LogFormat};
use crate::events::Subscriber;
use crate::http::control::SOCKET_NAME;
use crate::http::server::{self, HttpOptions};
use crate::ingress::imap::ImapFetcher;
use crate::ingress::smtp as ingress;
use crate::ingress::webhook::WebhookReceiver;
use crate::objects::Objects;
use crate::store::{EmbeddedMessages, Store};
use crate::tls::{self, Certificates};

pub use exit::{Exit, ExitError};
use parts::CERTIFICATES_FOLDER;
pub use parts::{control_parts, ingress_routes, open_store, store_open_error};
use services::Services;
pub use services::{check, delivery_routes};
use signals::{Signal, Signals};
use tasks::Tasks;

/// The task that removes expired attachments.
const ATTACHMENTS_TASK: &str = "attachments";
/// The task that ends when a journal can no longer be written.
const STORE_TASK: &str = "store";
/// The time that a shutdown may take beyond the parts' own grace periods before the rest is aborted.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// Serves until a signal stops it. Development mode prints its banner to `out`.
///
/// # Errors
/// The reason why the start failed, or the part that ended unexpectedly.
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
        let services = Services::build(&config).await?;
        services.run(&config, out).await
    });
    // A blocked thread must not keep the process alive.
    runtime.shutdown_timeout(STOP_SLACK);
    served
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
        // HTTP is stopped after the worker: in development mode the worker posts to our own Messages API.
        let (stop_mail, mail) = watch::channel(false);
        let (stop_http, http) = watch::channel(false);
        let mut http_tasks = http_servers(config, [app, control], &certificates, &http).await?;
        start_upkeep(&mut http_tasks, Arc::clone(&certificates), objects);
        watch_store(&mut http_tasks, &store, book.as_ref());
        start_subscribers(&mut http_tasks, subscribers, &http);
        let mut mail_tasks = start_ingress(ingress, webhooks, imap, &mail);
        if let Some(outbound) = outbound {
            let stop = mail.clone();
            mail_tasks.spawn("outbound", async move { Ok(outbound.run(stop).await?) });
        }
        mail_tasks.spawn("delivery", async move { Ok(worker.run(mail).await?) });
        if let Some(book) = book.as_ref().filter(|_| config.development) {
            dev_banner::print(config, book, out).await?;
        }
        notify_supervisor(&[NotifyState::Ready]);
        info!(version = env!("CARGO_PKG_VERSION"), data = %config.data_dir.display(), "ready");

        let ended = wait_for_stop(
            &mut signals,
            &certificates,
            [&mut mail_tasks, &mut http_tasks],
        )
        .await;
        notify_supervisor(&[NotifyState::Stopping]);
        stop_mail.send_replace(true);
        let limit = time::Instant::now() + config.stop_max + STOP_SLACK;
        let drained = async {
            mail_tasks.drain(limit).await;
            stop_http.send_replace(true);
            listeners.close();
            http_tasks.abort(CERTIFICATES_FOLDER);
            http_tasks.abort(ATTACHMENTS_TASK);
            http_tasks.abort(STORE_TASK);
            http_tasks.drain(limit).await;
        };
        tokio::select! {
            () = drained => {}
            // A second signal ends the wait: everything acknowledged is on disk.
            () = signals.stop() => warn!("stopped at once; unfinished work continues at the next start"),
        }
        drop((mail_tasks, http_tasks));
        // A socket without a server would be mistaken for a running one.
        drop(fs::remove_file(config.data_dir.join(SOCKET_NAME)));
        if let Some(book) = book {
            book.close().await;
        }
        store.close().await;
        info!("stopped");
        ended.map_err(|error| ExitError::new(Exit::Software, error))
    }
}

/// Starts the parts that receive mail, until `stopped` is true.
fn start_ingress(
    ingress: ingress::SmtpServer,
    webhooks: Option<WebhookReceiver>,
    imap: Option<ImapFetcher>,
    stopped: &watch::Receiver<bool>,
) -> Tasks {
    let mut mail_tasks = Tasks::default();
    let mut stop = stopped.clone();
    mail_tasks.spawn("ingress", async move {
        let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
        ingress.run(stop).await;
        Ok(())
    });
    if let Some(webhooks) = webhooks {
        let mut stop = stopped.clone();
        mail_tasks.spawn("webhook", async move {
            let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
            webhooks.run(stop).await;
            Ok(())
        });
    }
    if let Some(imap) = imap {
        let stop = stopped.clone();
        mail_tasks.spawn("imap", async move {
            imap.run(stop).await;
            Ok(())
        });
    }
    mail_tasks
}

/// Starts the subscribers to events.
fn start_subscribers(
    http_tasks: &mut Tasks,
    subscribers: Vec<Subscriber>,
    stopped: &watch::Receiver<bool>,
) {
    for subscriber in subscribers {
        let stop = stopped.clone();
        http_tasks.spawn("events", async move { Ok(subscriber.run(stop).await?) });
    }
}

/// Starts the HTTP servers: the addresses and the control socket.
async fn http_servers(
    config: &Config,
    [app, control]: [Router; 2],
    certificates: &Arc<Certificates>,
    stop: &watch::Receiver<bool>,
) -> Result<Tasks, ExitError> {
    let mut http_tasks = Tasks::default();
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
        http_tasks.spawn(protocol, task);
    }
    let socket = config.data_dir.join(SOCKET_NAME);
    let listener = server::listen_private(&socket);
    let listener = listener.with_context(|| socket.display().to_string());
    let listener = listener.map_err(|error| ExitError::new(Exit::CannotCreate, error))?;
    info!(address = %socket.display(), protocol = "control", "listening");
    let terms = HttpOptions::from(config.http_server.clone());
    let task = serve_listener(listener, control, terms, stop.clone());
    http_tasks.spawn("control", task);
    Ok(http_tasks)
}

/// Starts the reloading of certificates and the removal of expired attachments.
fn start_upkeep(http_tasks: &mut Tasks, certificates: Arc<Certificates>, objects: Objects) {
    http_tasks.spawn(CERTIFICATES_FOLDER, async move {
        certificates.watch(tls::POLL_WAIT).await;
        Ok(())
    });
    http_tasks.spawn(ATTACHMENTS_TASK, async move {
        objects.sweep_forever().await;
        Ok(())
    });
}

/// Ends the process when a disk has failed: the next start reads the state that is really on disk.
fn watch_store(http_tasks: &mut Tasks, store: &Store, book: Option<&EmbeddedMessages>) {
    let store = store.clone();
    http_tasks.spawn(STORE_TASK, async move {
        store.ended().await;
        Err(anyhow!("the journal cannot be written"))
    });
    if let Some(book) = book.cloned() {
        http_tasks.spawn(STORE_TASK, async move {
            book.ended().await;
            Err(anyhow!("the journal of the embedded API cannot be written"))
        });
    }
}

/// Waits for a signal to stop, or for the unexpected end of a task.
async fn wait_for_stop(
    signals: &mut Signals,
    certificates: &Arc<Certificates>,
    [mail_tasks, http_tasks]: [&mut Tasks; 2],
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
            ended = mail_tasks.next() => return Err(ended),
            ended = http_tasks.next() => return Err(ended),
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
        Ok(errors) if errors.is_empty() => info!("certificates reloaded"),
        Ok(errors) => {
            for error in errors {
                warn!(
                    "certificate not read, the old one stays in use: {:#}",
                    anyhow!(error)
                );
            }
        }
        Err(error) => warn!("certificates not read: {error}"),
    }
    certificates.log_validity(clock::now());
    notify_supervisor(&[NotifyState::Ready]);
}

/// Notifies the supervisor, if there is one.
fn notify_supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("the supervisor cannot be notified: {error}");
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
