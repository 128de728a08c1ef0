//! Owns the wiring: the only place that knows every part. It opens, binds, starts, says ready, waits,
//! and drains.
//!
//! Does none of the parts' work.

mod descriptors;
mod exit;
pub mod gate;
mod gateway;
pub mod intake;
mod signals;
mod tasks;
mod trial;

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::serve::Listener;
use prometheus_client::registry::Registry;
use sd_notify::NotifyState;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time;
use tracing::{info, warn};

use crate::auth::Authenticator;
use crate::clock;
use crate::config::{Config, LogFormat, Problem, Route, Secret};
use crate::delivery;
use crate::events::{self, Sink, Subscriber, SubscriberSettings};
use crate::http::admin::Admin;
use crate::http::control::{self, Control, SOCKET, TokenRoute, Waiting};
use crate::http::health::Health;
use crate::http::keys::Keys;
use crate::http::messages::Embedded;
use crate::http::router::{self, App};
use crate::http::server::Terms;
use crate::http::stream::Listeners;
use crate::http::webhook::Gate;
use crate::http::{metrics, server};
use crate::ingress::imap::{self, Imap};
use crate::ingress::routes::{self, Routes};
use crate::ingress::smtp as ingress;
use crate::ingress::webhook::{self, Doors, Errands};
use crate::mail::outgoing::loop_mark;
use crate::objects::{Buckets, Objects};
use crate::outbound;
use crate::outbound::relay::Relays;
use crate::store::{Book, OpenError, Store};
use crate::tls::{self, Certificates};

pub use exit::{Exit, Failure};
use signals::{Signal, Signals};
use tasks::Tasks;

/// The folder of the embedded Messages API's book, in the data folder.
const BOOK: &str = "messages";
/// The folder of the notes of mails that are still to be fetched, in the data folder.
const ERRANDS: &str = "errands";
/// The folder of the certificates that are made, in the data folder.
const CERTIFICATES: &str = "certs";
/// The task that removes attachments past their age.
const ATTACHMENTS: &str = "attachments";
/// The task that ends when a journal can be written no more.
const STORE: &str = "store";
/// What a stop may take beyond the parts' own graces until the rest is cut off.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// Serves until a signal says stop. What development mode has to say goes to `out`.
///
/// # Errors
/// Why the start failed, or which part ended by itself.
pub fn serve(config: Config, warnings: &[Problem], out: &mut impl Write) -> Result<(), Failure> {
    log_to_stderr(&config)?;
    for warning in warnings {
        warn!("{warning}");
    }
    descriptors::raise(&config);
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let house = House::build(&config).await?;
        house.live(&config, out).await
    });
    // Whatever still blocks a thread must not keep the process.
    runtime.shutdown_timeout(STOP_SLACK);
    served
}

/// Opens the store in the data folder, which is made if it is not there.
///
/// # Errors
/// The folder cannot be made, or another process has it, or what is in it cannot be used.
pub fn open_store(config: &Config) -> Result<Store, Failure> {
    make_folder(&config.data_dir)?;
    Store::open(config.store.clone(), clock::now()).map_err(open_failure)
}

/// What the control socket answers from: the same for a running server and for a command that works
/// on the store itself.
///
/// # Errors
/// A route's keys cannot be used.
pub fn control(config: &Config, store: &Store) -> Result<Control, Failure> {
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
    Ok(Control {
        store: store.clone(),
        routes: token_routes.into(),
        recipient: Arc::new(move |address, now| {
            let meant = routes.recipient(&knows, address.clone(), now);
            meant.map_err(|error| error.to_string())
        }),
        waits: Arc::new(|_| None),
        hostname: config.hostname.ascii(),
        authserv_id: config.auth.authserv_id.clone(),
        mail_bytes_max: usize::try_from(config.ingress.session.mail_bytes_max)
            .unwrap_or(usize::MAX),
    })
}

/// Everything that is built before the first client is let in.
struct House {
    store: Store,
    book: Option<Book>,
    certificates: Arc<Certificates>,
    ingress: ingress::Server,
    worker: delivery::worker::Worker,
    outbound: Option<outbound::worker::Worker>,
    webhooks: Option<Doors>,
    imap: Option<Imap>,
    objects: Objects,
    listeners: Listeners,
    subscribers: Vec<Subscriber>,
    app: Router,
    control: Router,
}

impl House {
    async fn build(config: &Config) -> Result<Self, Failure> {
        let store = open_store(config)?;
        let book = match &config.embedded_api {
            Some(_) => {
                Some(Book::open(config.data_dir.join(BOOK), clock::now()).map_err(open_failure)?)
            }
            None => None,
        };
        let certificates = Arc::new(certificates(config)?);
        let objects = Objects::open(config.attachments.clone())
            .map_err(|error| Failure::new(Exit::CannotCreate, error))?;
        let mut registry = Registry::default();
        let ingress_metrics = ingress::Metrics::default();
        ingress_metrics.register(registry.sub_registry_with_prefix("postern"));
        let delivery_metrics = Arc::new(delivery::metrics::Metrics::register(&mut registry));
        store.metrics().register(&mut registry);
        metrics::register_ledger(&mut registry, store.clone());
        let worker = delivery::worker::Worker::new(
            store.clone(),
            delivery_routes(config)?,
            config.delivery.clone(),
            Arc::clone(&delivery_metrics),
            Some(objects.clone()),
        );
        let outbound = outbound_worker(config, &store, &mut registry);
        let messages = config.embedded_api.as_ref().zip(book.clone());
        let webhooks = webhooks(config, &store, &mut registry)?;
        let subscribers = subscribers(config, &store, &mut registry);
        let keys = api_keys(config);
        let listeners = Listeners::new(store.clone(), keys.clone());
        let gateway = gateway::open(config, &store, &mut registry)?;
        let imap = imap(config, &store, &mut registry)?;
        let app = App {
            health: Health {
                store: store.clone(),
                paused: Arc::new(move || delivery_metrics.paused_routes()),
            },
            registry: Arc::new(registry),
            messages: messages.map(|(key, book)| Embedded::new(book, key.reveal())),
            webhooks: webhooks
                .clone()
                .map(|doors| Arc::new(doors) as Arc<dyn Gate>),
            gateway: Some(Arc::new(gateway)),
            objects: Some(objects.clone()),
            listeners: Some(listeners.clone()),
            admin: Some(Admin::new(
                store.clone(),
                keys,
                config.development,
                config.outbound.max_age,
            )),
        };
        let parts = ingress::Parts {
            store: store.clone(),
            routes: Arc::new(ingress_routes(config)?),
            auth: authenticator(config),
            certificates: Some(Arc::clone(&certificates)),
            metrics: ingress_metrics,
        };
        let waits = worker.waits();
        let desk = Control {
            waits: Arc::new(move |id| {
                waits.of(id).map(|wait| Waiting {
                    attempts: wait.attempts,
                    reason: wait.reason,
                    due_at: wait.due_at,
                })
            }),
            ..control(config, &store)?
        };
        Ok(Self {
            control: control::router(desk),
            ingress: ingress::Server::bind(config.ingress.clone(), parts)
                .map_err(|error| Failure::new(Exit::Unavailable, error))?,
            app: router::router(app),
            store,
            book,
            certificates,
            worker,
            outbound,
            webhooks,
            imap,
            objects,
            listeners,
            subscribers,
        })
    }

    async fn live(self, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
        let mut signals = Signals::listen()?;
        let Self {
            store,
            book,
            certificates,
            ingress,
            worker,
            outbound,
            webhooks,
            imap,
            objects,
            listeners,
            subscribers,
            app,
            control,
        } = self;
        // HTTP outlives the worker: in development the worker posts to our own Messages API.
        let (stop_mail, mail) = watch::channel(false);
        let (stop_http, http) = watch::channel(false);
        let mut desks = desks(config, [app, control], &certificates, &http).await?;
        let watched = Arc::clone(&certificates);
        desks.spawn(CERTIFICATES, async move {
            watched.watch(tls::POLL_WAIT).await;
            Ok(())
        });
        desks.spawn(ATTACHMENTS, async move {
            objects.tend().await;
            Ok(())
        });
        watch_disk(&mut desks, &store, book.as_ref());
        for subscriber in subscribers {
            let stop = http.clone();
            desks.spawn("events", async move { Ok(subscriber.run(stop).await?) });
        }
        let mut doors = open_doors(ingress, webhooks, &mail);
        if let Some(outbound) = outbound {
            let stop = mail.clone();
            doors.spawn("outbound", async move { Ok(outbound.run(stop).await?) });
        }
        if let Some(imap) = imap {
            let stop = mail.clone();
            doors.spawn("imap", async move {
                imap.run(stop).await;
                Ok(())
            });
        }
        doors.spawn("delivery", async move { Ok(worker.run(mail).await?) });
        if let Some(book) = book.as_ref().filter(|_| config.development) {
            trial::print(config, book, out).await?;
        }
        tell(&[NotifyState::Ready]);
        info!(version = env!("CARGO_PKG_VERSION"), data = %config.data_dir.display(), "ready");

        let ended = wait(&mut signals, &certificates, [&mut doors, &mut desks]).await;
        tell(&[NotifyState::Stopping]);
        stop_mail.send_replace(true);
        let limit = time::Instant::now() + config.stop_max + STOP_SLACK;
        let drained = async {
            doors.drain(limit).await;
            stop_http.send_replace(true);
            listeners.close();
            desks.end(CERTIFICATES);
            desks.end(ATTACHMENTS);
            desks.end(STORE);
            desks.drain(limit).await;
        };
        tokio::select! {
            () = drained => {}
            // Asked twice, it does not wait: what was promised is on the disk.
            () = signals.stop() => warn!("stopped at once; what was under way is taken up again"),
        }
        drop((doors, desks));
        // A socket that nobody answers at would be taken for a server by whoever looks.
        drop(fs::remove_file(config.data_dir.join(SOCKET)));
        if let Some(book) = book {
            book.close().await;
        }
        store.close().await;
        info!("stopped");
        ended.map_err(|error| Failure::new(Exit::Software, error))
    }
}

/// What empties the outbox, if mail is sent at all.
fn outbound_worker(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Option<outbound::worker::Worker> {
    let settings = Some(&config.outbound).filter(|settings| settings.enabled)?;
    let metrics = Arc::new(outbound::metrics::Metrics::register(registry));
    let relays = Relays::new(
        settings.relays.clone(),
        config.hostname.ascii(),
        settings.timeouts,
        Arc::clone(&metrics),
    );
    for relay in settings.relays.iter().filter(|_| !settings.capture) {
        info!(relay = relay.label(), "mail goes out by this relay");
    }
    if settings.capture {
        info!("mail that goes out is captured, not sent");
    }
    let signers = Arc::clone(&settings.signers);
    let worker = settings.worker.clone();
    let store = store.clone();
    Some(outbound::worker::Worker::new(
        store, relays, signers, worker, metrics,
    ))
}

/// Starts what takes mail in, until `stopped` is true.
fn open_doors(
    ingress: ingress::Server,
    webhooks: Option<Doors>,
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
    doors
}

/// The doors for providers' webhooks, if they are open.
fn webhooks(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Result<Option<Doors>, Failure> {
    let Some(settings) = &config.webhooks else {
        return Ok(None);
    };
    let metrics = webhook::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let web = webhook::Web::new().map_err(|error| Failure::new(Exit::Software, error))?;
    let keys = Some(settings.api_keys.clone()).filter(|keys| !keys.are_none());
    let errands = keys.map(|keys| {
        let folder = config.data_dir.join(ERRANDS);
        Errands::open(folder, keys).map_err(|error| Failure::new(Exit::CannotCreate, error))
    });
    let errands = errands.transpose()?;
    let buckets =
        Buckets::new(&settings.buckets).map_err(|error| Failure::new(Exit::Config, error))?;
    let parts = webhook::Parts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        fetch: Arc::new(web),
        metrics,
        errands,
        buckets: (!settings.buckets.is_empty()).then_some(buckets),
    };
    let doors = Doors::new(settings.clone(), parts);
    for provider in doors.names() {
        info!(provider, protocol = "webhook", "door open");
    }
    Ok(Some(doors))
}

/// The keys of whoever may listen to events and look at the pages: those of the gateway.
fn api_keys(config: &Config) -> Keys {
    let keys = config.outbound.api.keys.iter();
    Keys::new(keys.chain(&config.embedded_api).map(Secret::reveal))
}

/// Those who are told what happens.
fn subscribers(config: &Config, store: &Store, registry: &mut Registry) -> Vec<Subscriber> {
    let metrics = events::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let hooks = config.events.hooks.iter().cloned();
    let mut sinks: Vec<(SubscriberSettings, Sink)> = hooks
        .map(|(settings, hook)| (settings, Sink::Hook(hook)))
        .collect();
    if config.events.log {
        sinks.push((SubscriberSettings::new("log"), Sink::Log));
    }
    let subscribers = sinks
        .into_iter()
        .map(|(settings, sink)| Subscriber::new(settings, sink, store.clone(), metrics.clone()));
    subscribers.collect()
}

/// The door that fetches mail by IMAP, if it is open.
fn imap(config: &Config, store: &Store, registry: &mut Registry) -> Result<Option<Imap>, Failure> {
    let Some(settings) = &config.imap else {
        return Ok(None);
    };
    let metrics = imap::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let parts = imap::Parts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        auth: authenticator(config),
        metrics,
    };
    let imap = Imap::new(settings.clone(), parts);
    let imap = imap.map_err(|error| Failure::new(Exit::Config, error))?;
    let folders = settings.folders.join(" ");
    info!(
        protocol = "imap",
        host = settings.host,
        folders,
        "door open"
    );
    Ok(Some(imap))
}

/// Starts what is spoken HTTP with: the addresses, and the control socket.
async fn desks(
    config: &Config,
    [app, control]: [Router; 2],
    certificates: &Arc<Certificates>,
    stop: &watch::Receiver<bool>,
) -> Result<Tasks, Failure> {
    let mut desks = Tasks::default();
    let plain = Terms::from(config.http.clone());
    let over_tls = plain.over_tls(certificates);
    let over_tls = over_tls.map_err(|error| Failure::new(Exit::Software, error))?;
    let plain = config.http_listen.iter().map(|at| (at, "http", &plain));
    let over_tls = config
        .https_listen
        .iter()
        .map(|at| (at, "https", &over_tls));
    for (address, protocol, terms) in plain.chain(over_tls) {
        let listener = server::listen(*address).await;
        let listener = listener.with_context(|| address.to_string());
        let listener = listener.map_err(|error| Failure::new(Exit::Unavailable, error))?;
        info!(%address, protocol, "listening");
        let task = talk(listener, app.clone(), terms.clone(), stop.clone());
        desks.spawn(protocol, task);
    }
    let socket = config.data_dir.join(SOCKET);
    let listener = server::listen_alone(&socket);
    let listener = listener.with_context(|| socket.display().to_string());
    let listener = listener.map_err(|error| Failure::new(Exit::CannotCreate, error))?;
    let terms = Terms::from(config.http.clone());
    let task = talk(listener, control, terms, stop.clone());
    desks.spawn("control", task);
    Ok(desks)
}

/// A disk that failed once is not trusted again: the process ends, and the next start reads what is
/// really there.
fn watch_disk(desks: &mut Tasks, store: &Store, book: Option<&Book>) {
    let store = store.clone();
    desks.spawn(STORE, async move {
        store.ended().await;
        Err(anyhow!("the journal cannot be written"))
    });
    if let Some(book) = book.cloned() {
        desks.spawn(STORE, async move {
            book.ended().await;
            Err(anyhow!("the journal of the embedded API cannot be written"))
        });
    }
}

/// Waits for a signal to stop, or for the end of a task that has none.
async fn wait(
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

async fn talk<L: Listener<Addr: server::Source>>(
    listener: L,
    router: Router,
    terms: Terms,
    stop: watch::Receiver<bool>,
) -> Result<(), anyhow::Error> {
    server::serve(listener, router, terms, stop).await;
    Ok(())
}

async fn reload(certificates: &Arc<Certificates>) {
    let reloading = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
    tell(&reloading.unwrap_or([NotifyState::Reloading, NotifyState::Reloading]));
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
    tell(&[NotifyState::Ready]);
}

/// Tells the supervisor, if there is one.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("the supervisor cannot be told: {error}");
    }
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_filter)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let set = match config.log_format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
    set.map_err(|error| Failure::because(Exit::Software, error))
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())
        .map_err(|error| Failure::new(Exit::CannotCreate, error))
}

fn open_failure(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::Locked { .. } => Exit::Unavailable,
        OpenError::Io { .. } => Exit::CannotCreate,
        _ => Exit::Malformed,
    };
    Failure::new(exit, error)
}

fn certificates(config: &Config) -> Result<Certificates, Failure> {
    let name = config.hostname.ascii();
    let made = match &config.certificates {
        Some(folder) => Certificates::load(folder, &name),
        None => {
            let folder = config.data_dir.join(CERTIFICATES);
            make_folder(&folder)?;
            Certificates::load_or_self_sign(&folder, &name)
        }
    };
    made.map_err(|error| Failure::new(Exit::Config, error))
}

fn authenticator(config: &Config) -> Option<Arc<Authenticator>> {
    let wanted = config.auth_enabled;
    wanted.then(|| Arc::new(Authenticator::new(config.auth.clone())))
}

fn ingress_routes(config: &Config) -> Result<Routes, Failure> {
    let mut list = Vec::new();
    for route in &config.routes {
        list.push(routes::Route {
            name: route.name.clone(),
            domains: route.domains.clone(),
            keys: key_ring(route)?,
            mailboxes: route.mailboxes.clone(),
            catch_all: route.catch_all.clone(),
            postmaster: route.postmaster.clone(),
            policy: route.senders,
        });
    }
    Routes::new(list, &config.hostname).map_err(|error| Failure::new(Exit::Config, error))
}

fn delivery_routes(config: &Config) -> Result<Vec<delivery::route::Route>, Failure> {
    let mut list = Vec::new();
    for route in &config.routes {
        let keys = Arc::new(key_ring(route)?);
        list.push(delivery::route::Route {
            name: route.name.clone(),
            api: delivery::api::Api::new(&route.api)
                .map_err(|error| Failure::new(Exit::Config, error))?,
            loop_mark: Some(loop_mark(&keys, &route.domains[0])),
            keys,
            message_id_domains: route.domains.clone(),
            reply_marker: route.reply_marker.clone(),
            policy: route.policy.clone(),
            senders: route.senders,
        });
    }
    Ok(list)
}

fn key_ring(route: &Route) -> Result<crate::mail::token::KeyRing, Failure> {
    route
        .key_ring()
        .map_err(|error| Failure::new(Exit::Config, error))
}
