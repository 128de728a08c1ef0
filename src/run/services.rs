//! Owns the creation of every part, before the first client is accepted.
//!
//! Starts nothing.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use prometheus_client::registry::Registry;
use tracing::info;

use super::disk_space;
use super::exit::{Exit, ExitError};
use super::gateway;
use super::parts::{
    CERTIFICATES_FOLDER, DEFERRED_FOLDER, EMBEDDED_FOLDER, SET_ASIDE_FOLDER, control_parts,
    create_folder, ingress_routes, key_ring, messages_open_error, open_store,
};
use crate::auth::Authenticator;
use crate::clock;
use crate::config::{Config, Secret};
use crate::delivery;
use crate::events::{self, EventSink, Subscriber, SubscriberSettings};
use crate::http::admin::Admin;
use crate::http::auth_failures::AuthFailures;
use crate::http::control::{self, ControlParts};
use crate::http::health::Health;
use crate::http::keys::AccessKeys;
use crate::http::messages::EmbeddedApi;
use crate::http::metrics;
use crate::http::outbound::Gateway;
use crate::http::router::{self, App};
use crate::http::stream::EventStreams;
use crate::http::webhook::WebhookGateway;
use crate::ingress::imap::{self, ImapFetcher};
use crate::ingress::smtp as ingress;
use crate::ingress::webhook::{self, FetchQueue, SetAside, WebhookReceiver};
use crate::mail::job_id::loop_mark;
use crate::objects::{Objects, ReadableBuckets};
use crate::outbound;
use crate::outbound::relay::RelayPool;
use crate::outbound::relay::settings::RelayPoolSettings;
use crate::queue::{PendingRetry, WakeLine};
use crate::store::{EmbeddedMessages, Store};
use crate::tls::{self, Certificates};

/// The parts of a running server.
pub(super) struct Services {
    pub(super) store: Store,
    pub(super) embedded: Option<EmbeddedMessages>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) ingress: ingress::SmtpServer,
    pub(super) worker: delivery::worker::DeliveryWorker,
    pub(super) outbound: Option<outbound::worker::OutboundWorker>,
    pub(super) webhooks: Option<WebhookReceiver>,
    pub(super) imap: Option<ImapFetcher>,
    pub(super) objects: Objects,
    pub(super) event_streams: EventStreams,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) public_router: Router,
    pub(super) control_router: Router,
}

impl Services {
    pub(super) async fn build(config: &Config) -> Result<Self, ExitError> {
        let store = open_store(config)?;
        let book = open_embedded_messages(config)?;
        let certificates = Arc::new(certificates(config)?);
        let objects = Objects::open(config.attachments.clone())
            .map_err(|error| ExitError::new(Exit::CannotCreate, error))?;
        let mut registry = Registry::default();
        let ingress_metrics = ingress::Metrics::default();
        ingress_metrics.register(registry.sub_registry_with_prefix("postern"));
        let delivery_metrics = Arc::new(delivery::metrics::Metrics::register(&mut registry));
        store.metrics().register(&mut registry);
        metrics::register_ledger(&mut registry, store.clone());
        disk_space::register(&mut registry, config.data_dir.clone());
        tls::register_expiry(&mut registry, Arc::clone(&certificates));
        let worker = delivery::worker::DeliveryWorker::new(
            store.clone(),
            delivery_routes(config)?,
            config.delivery.clone(),
            Arc::clone(&delivery_metrics),
            Some(objects.clone()),
        );
        let outbound = outbound_worker(config, &store, &mut registry);
        let messages = config.embedded_api.as_ref().zip(book.clone());
        let webhooks = webhook_receivers(config, &store, &mut registry)?;
        let subscribers = subscribers(config, &store, &mut registry);
        let keys = access_keys(config);
        let listeners = EventStreams::new(store.clone(), keys.clone());
        let gateway = gateway::open(config, &store, &mut registry)?;
        let gateway = beside_worker(gateway, outbound.as_ref());
        let imap = imap(config, &store, &mut registry)?;
        let auth_failures = AuthFailures::default();
        auth_failures.register(&mut registry);
        let app = App {
            health: Health {
                store: store.clone(),
                paused_routes: Arc::new(move || delivery_metrics.paused_routes()),
                embedded: book.clone(),
            },
            registry: Arc::new(registry),
            messages: messages.map(|(key, book)| EmbeddedApi::new(book, key.reveal())),
            webhooks: webhooks
                .clone()
                .map(|receiver| Arc::new(receiver) as Arc<dyn WebhookGateway>),
            admin: Some(Admin::new(gateway.jobs(), keys.clone(), config.development)),
            gateway: Some(Arc::new(gateway)),
            objects: Some(objects.clone()),
            listeners: Some(listeners.clone()),
            keys,
            auth_failures,
        };
        Ok(Self {
            control_router: control::router(live_control_parts(config, &store, &worker)?),
            ingress: bind_ingress(config, &store, &certificates, ingress_metrics)?,
            public_router: router::router(app),
            store,
            embedded: book,
            certificates,
            worker,
            outbound,
            webhooks,
            imap,
            objects,
            event_streams: listeners,
            subscribers,
        })
    }
}

/// Checks everything about a configuration that would prevent a start, except for problems that only the
/// start itself can find: addresses in use, and an unusable data folder.
///
/// # Errors
/// The first part that cannot be created.
pub fn check(config: &Config) -> Result<(), ExitError> {
    if let Some(folder) = &config.certificate_folder {
        let loaded = Certificates::load(folder, &config.hostname.ascii());
        loaded.context("tls.folder").map_err(config_error)?;
    }
    ingress_routes(config)?;
    delivery_routes(config)?;
    if let Some(webhooks) = &config.webhooks {
        let buckets = ReadableBuckets::new(&webhooks.buckets);
        buckets
            .context("webhook.ses.bucket")
            .map_err(config_error)?;
    }
    Ok(())
}

fn config_error(error: anyhow::Error) -> ExitError {
    ExitError::new(Exit::Config, error)
}

/// Binds the listeners for mail.
fn bind_ingress(
    config: &Config,
    store: &Store,
    certificates: &Arc<Certificates>,
    metrics: ingress::Metrics,
) -> Result<ingress::SmtpServer, ExitError> {
    let parts = ingress::SmtpParts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        auth: authenticator(config),
        certificates: Some(Arc::clone(certificates)),
        metrics,
    };
    ingress::SmtpServer::bind(config.ingress.clone(), parts)
        .map_err(|error| ExitError::new(Exit::Unavailable, error))
}

/// The gateway; it notifies the worker of the outbox of retried jobs.
fn beside_worker(gateway: Gateway, worker: Option<&outbound::worker::OutboundWorker>) -> Gateway {
    let Some(worker) = worker else {
        return gateway;
    };
    let urgent = worker.urgent_jobs();
    gateway.with_worker(Arc::new(move |job| urgent.add(job)))
}

/// The parts of the control socket, with the running worker.
fn live_control_parts(
    config: &Config,
    store: &Store,
    worker: &delivery::worker::DeliveryWorker,
) -> Result<ControlParts, ExitError> {
    let statuses = worker.retry_statuses();
    let parts = control_parts(config, store)?;
    let lookup = move |id| {
        statuses.get(id).map(|status| PendingRetry {
            attempts: status.attempts,
            reason: status.reason,
            due_at: status.due_at,
        })
    };
    let waker = worker.line_waker();
    let wake_line: WakeLine = Arc::new(move |partition, delivery| {
        let waker = waker.clone();
        Box::pin(async move { waker.wake(partition, delivery).await })
    });
    Ok(ControlParts {
        queue: parts.queue.clone().with_worker(Arc::new(lookup), wake_line),
        ..parts
    })
}

/// Creates the worker of the outbox, if outgoing mail is switched on.
fn outbound_worker(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Option<outbound::worker::OutboundWorker> {
    let settings = Some(&config.outbound).filter(|settings| settings.enabled)?;
    let metrics = Arc::new(outbound::metrics::Metrics::register(registry));
    let terms = RelayPoolSettings {
        ehlo_name: config.hostname.ascii(),
        timeouts: settings.timeouts,
        schedule: settings.worker.schedule,
        own_domains: settings.worker.own_domains.clone(),
    };
    let relays = RelayPool::new(settings.relays.clone(), terms, Arc::clone(&metrics));
    for relay in settings.relays.iter().filter(|_| !settings.capture) {
        info!(relay = relay.label(), "outgoing mail uses this relay");
    }
    if settings.capture {
        info!("outgoing mail is captured, not sent");
    }
    let signers = Arc::clone(&settings.signers);
    let worker = settings.worker.clone();
    let store = store.clone();
    Some(outbound::worker::OutboundWorker::new(
        store, relays, signers, worker, metrics,
    ))
}

/// Creates the receiver of providers' webhooks, if they are enabled.
fn webhook_receivers(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Result<Option<WebhookReceiver>, ExitError> {
    let Some(settings) = &config.webhooks else {
        return Ok(None);
    };
    let metrics = webhook::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let web =
        webhook::HttpsFetcher::new().map_err(|error| ExitError::new(Exit::Software, error))?;
    let keys = Some(settings.api_keys.clone()).filter(|keys| !keys.is_empty());
    let errands = keys.map(|keys| {
        let folder = config.data_dir.join(DEFERRED_FOLDER);
        FetchQueue::open(folder, keys).map_err(|error| ExitError::new(Exit::CannotCreate, error))
    });
    let errands = errands.transpose()?;
    let buckets = ReadableBuckets::new(&settings.buckets)
        .map_err(|error| ExitError::new(Exit::Config, error))?;
    let set_aside = SetAside::open(config.data_dir.join(SET_ASIDE_FOLDER))
        .map_err(|error| ExitError::new(Exit::CannotCreate, error))?;
    let parts = webhook::WebhookParts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        fetch: Arc::new(web),
        metrics,
        deferred: errands,
        buckets: (!settings.buckets.is_empty()).then_some(buckets),
        set_aside: Some(set_aside),
    };
    let receiver = WebhookReceiver::new(settings.clone(), parts);
    for provider in receiver.provider_names() {
        info!(provider, protocol = "webhook", "enabled");
    }
    Ok(Some(receiver))
}

/// The keys for the event stream and the pages: those of the gateway. The key of the embedded Messages API
/// permits nothing else.
fn access_keys(config: &Config) -> AccessKeys {
    AccessKeys::new(config.outbound.api.keys.iter().map(Secret::reveal))
}

/// Creates the subscribers to events.
fn subscribers(config: &Config, store: &Store, registry: &mut Registry) -> Vec<Subscriber> {
    let metrics = events::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let hooks = config.events.hooks.iter().cloned();
    let mut sinks: Vec<(SubscriberSettings, EventSink)> = hooks
        .map(|(settings, hook)| (settings, EventSink::Hook(hook)))
        .collect();
    if config.events.log {
        sinks.push((SubscriberSettings::new("log"), EventSink::Log));
    }
    let subscribers = sinks
        .into_iter()
        .map(|(settings, sink)| Subscriber::new(settings, sink, store.clone(), metrics.clone()));
    subscribers.collect()
}

/// Creates the IMAP fetcher, if it is enabled.
fn imap(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Result<Option<ImapFetcher>, ExitError> {
    let Some(settings) = &config.imap else {
        return Ok(None);
    };
    let metrics = imap::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("postern"));
    let parts = imap::ImapParts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        auth: authenticator(config),
        metrics,
    };
    let imap = ImapFetcher::new(settings.clone(), parts);
    let imap = imap.map_err(|error| ExitError::new(Exit::Config, error))?;
    let folders = settings.folders.join(" ");
    info!(protocol = "imap", host = settings.host, folders, "enabled");
    Ok(Some(imap))
}

/// The documents of the embedded Messages API, if it is enabled.
fn open_embedded_messages(config: &Config) -> Result<Option<EmbeddedMessages>, ExitError> {
    if config.embedded_api.is_none() {
        return Ok(None);
    }
    let folder = config.data_dir.join(EMBEDDED_FOLDER);
    let opened = EmbeddedMessages::open(folder.clone(), clock::now());
    opened
        .map(Some)
        .map_err(|error| messages_open_error(error, &folder))
}

fn certificates(config: &Config) -> Result<Certificates, ExitError> {
    let name = config.hostname.ascii();
    let made = match &config.certificate_folder {
        Some(folder) => Certificates::load(folder, &name),
        None => {
            let folder = config.data_dir.join(CERTIFICATES_FOLDER);
            create_folder(&folder)?;
            Certificates::load_or_self_sign(&folder, &name)
        }
    };
    made.map_err(|error| ExitError::new(Exit::Config, error))
}

fn authenticator(config: &Config) -> Option<Arc<Authenticator>> {
    let wanted = config.auth_enabled;
    wanted.then(|| Arc::new(Authenticator::new(config.auth.clone())))
}

/// The routes as delivery uses them.
///
/// # Errors
/// The keys or the Messages API of a route are invalid.
pub fn delivery_routes(config: &Config) -> Result<Vec<delivery::route::DeliveryRoute>, ExitError> {
    let mut list = Vec::new();
    for route in &config.routes {
        let keys = Arc::new(key_ring(route)?);
        list.push(delivery::route::DeliveryRoute {
            name: route.name.clone(),
            api: delivery::api::Api::new(&route.api)
                .map_err(|error| ExitError::new(Exit::Config, error))?,
            loop_mark: Some(loop_mark(&keys, &route.domains[0])),
            keys,
            message_id_domains: route.domains.clone(),
            reply_marker: route.marker().to_owned(),
            policy: route.policy.clone(),
            senders: route.sender_policy,
        });
    }
    Ok(list)
}
