//! Owns the building of every part, before the first client is let in.
//!
//! Starts nothing.

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;
use tracing::info;

use super::{
    BOOK, CERTIFICATES, ERRANDS, Exit, Failure, control, gateway, ingress_routes, key_ring,
    make_folder, open_failure, open_store,
};
use crate::auth::Authenticator;
use crate::clock;
use crate::config::{Config, Secret};
use crate::delivery;
use crate::events::{self, Sink, Subscriber, SubscriberSettings};
use crate::http::admin::Admin;
use crate::http::control::{self as desk, Control, Waiting};
use crate::http::health::Health;
use crate::http::keys::Keys;
use crate::http::messages::Embedded;
use crate::http::metrics;
use crate::http::router::{self, App};
use crate::http::stream::Listeners;
use crate::http::webhook::Gate;
use crate::ingress::imap::{self, Imap};
use crate::ingress::smtp as ingress;
use crate::ingress::webhook::{self, Doors, Errands};
use crate::mail::outgoing::loop_mark;
use crate::objects::{Buckets, Objects};
use crate::outbound;
use crate::outbound::relay::Relays;
use crate::outbound::relay::settings::Terms;
use crate::store::{Book, Store};
use crate::tls::Certificates;

/// Everything that is built before the first client is let in.
pub(super) struct House {
    pub(super) store: Store,
    pub(super) book: Option<Book>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) ingress: ingress::Server,
    pub(super) worker: delivery::worker::Worker,
    pub(super) outbound: Option<outbound::worker::Worker>,
    pub(super) webhooks: Option<Doors>,
    pub(super) imap: Option<Imap>,
    pub(super) objects: Objects,
    pub(super) listeners: Listeners,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) app: Router,
    pub(super) control: Router,
}

impl House {
    pub(super) async fn build(config: &Config) -> Result<Self, Failure> {
        let store = open_store(config)?;
        let book = config.embedded_api.as_ref().map(|_| {
            let folder = config.data_dir.join(BOOK);
            Book::open(folder, clock::now()).map_err(open_failure)
        });
        let book = book.transpose()?;
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
        let gateway = gateway::open(config, &store, worker.underway(), &mut registry)?;
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
        Ok(Self {
            control: desk::router(talking(config, &store, &worker)?),
            ingress: listening(config, &store, &certificates, ingress_metrics)?,
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
}

/// The sockets that mail comes in by, bound.
fn listening(
    config: &Config,
    store: &Store,
    certificates: &Arc<Certificates>,
    metrics: ingress::Metrics,
) -> Result<ingress::Server, Failure> {
    let parts = ingress::Parts {
        store: store.clone(),
        routes: Arc::new(ingress_routes(config)?),
        auth: authenticator(config),
        certificates: Some(Arc::clone(certificates)),
        metrics,
    };
    ingress::Server::bind(config.ingress.clone(), parts)
        .map_err(|error| Failure::new(Exit::Unavailable, error))
}

/// What the control socket answers from, the waits of the running worker among it.
fn talking(
    config: &Config,
    store: &Store,
    worker: &delivery::worker::Worker,
) -> Result<Control, Failure> {
    let waits = worker.waits();
    Ok(Control {
        waits: Arc::new(move |id| {
            waits.of(id).map(|wait| Waiting {
                attempts: wait.attempts,
                reason: wait.reason,
                due_at: wait.due_at,
            })
        }),
        ..control(config, store)?
    })
}

/// What empties the outbox, if mail is sent at all.
fn outbound_worker(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Option<outbound::worker::Worker> {
    let settings = Some(&config.outbound).filter(|settings| settings.enabled)?;
    let metrics = Arc::new(outbound::metrics::Metrics::register(registry));
    let terms = Terms {
        hello: config.hostname.ascii(),
        timeouts: settings.timeouts,
        patience: settings.worker.patience,
        own_domains: settings.worker.own_domains.clone(),
    };
    let relays = Relays::new(settings.relays.clone(), terms, Arc::clone(&metrics));
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
            reply_marker: route.marker().to_owned(),
            policy: route.policy.clone(),
            senders: route.senders,
        });
    }
    Ok(list)
}
