//! Owns what comes before an attempt at a delivery and after it: what every attempt needs, and what
//! becomes of a delivery whose attempt is over.
//!
//! Does not know the steps of an attempt, nor what runs beside it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::attempt::{Attempt, Stop};
use super::breaker::Breaker;
use super::gate::Heard;
use super::locks::Locks;
use super::metrics::Metrics;
use super::route::Route;
use super::telling::Telling;
use super::underway::Underway;
use super::waits::{Wait, Waits};
use super::worker::WorkerSettings;
use crate::objects::Objects;
use crate::store::{Delivery, DeliveryId, Fact, Outcome, RecordError, Store};
use crate::{clock, retry};

/// What every attempt needs.
pub(super) struct Jobs {
    pub(super) store: Store,
    pub(super) routes: Vec<Route>,
    pub(super) metrics: Arc<Metrics>,
    retry: retry::Settings,
    pub(super) subject_window: Duration,
    pub(super) suppress_for: Duration,
    pub(super) waits: Arc<Waits>,
    pub(super) underway: Arc<Underway>,
    pub(super) locks: Arc<Locks>,
    pub(super) breaker: Breaker,
    pub(super) objects: Option<Objects>,
}

/// An attempt is over: what is to become of its lane, and what it heard of the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) fate: Fate,
    pub(super) heard: Heard,
}

impl Ended {
    pub(super) const fn silent(fate: Fate) -> Self {
        Self {
            fate,
            heard: Heard::Nothing,
        }
    }
}

/// What is to become of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Settled, parked or gone: the next one.
    Over,
    /// The same again after so long.
    Later(Duration),
    /// Nothing more can be recorded.
    StoreDead,
}

impl Jobs {
    pub(super) fn new(
        store: Store,
        routes: Vec<Route>,
        settings: &WorkerSettings,
        metrics: Arc<Metrics>,
        objects: Option<Objects>,
    ) -> Self {
        Self {
            store,
            routes,
            metrics,
            retry: settings.retry,
            subject_window: settings.subject_window,
            suppress_for: settings.suppress_for,
            waits: Arc::default(),
            underway: Arc::default(),
            locks: Arc::default(),
            breaker: Breaker::default(),
            objects,
        }
    }

    /// The number of a route by its name; one past the last for a name that is none.
    pub(super) fn line_of(&self, name: &str) -> usize {
        let found = self.routes.iter().position(|route| route.name == name);
        found.unwrap_or(self.routes.len())
    }

    /// One attempt; `attempts` counts those made, this one included.
    pub(super) async fn deliver(&self, id: DeliveryId, attempts: u32) -> Ended {
        let found = self.store.delivery(id);
        let Some(delivery) = found.filter(|delivery| delivery.parked.is_none()) else {
            return Ended::silent(Fate::Over);
        };
        let name = delivery.recipient.route.clone();
        self.metrics.attempt(&name);
        let Some(route) = self.routes.get(self.line_of(&name)) else {
            let reason = format!("route {name} is not configured");
            return Ended::silent(self.park(&delivery, reason).await);
        };
        let verdict = delivery.envelope.verdict.as_deref().cloned();
        let mut attempt = Attempt {
            jobs: self,
            route,
            delivery: &delivery,
            verdict: verdict.unwrap_or_default(),
            heard: Heard::Nothing,
        };
        let stop = attempt.steps().await.err();
        let heard = attempt.heard;
        let fate = match stop {
            None => Fate::Over,
            Some(stop) => self.stopped(&delivery, stop, attempts).await,
        };
        if !matches!(fate, Fate::Later(_)) {
            self.waits.forget(id);
        }
        Ended { fate, heard }
    }

    /// Parks a delivery whose attempt panicked.
    pub(super) async fn park_broken(&self, id: DeliveryId) -> Ended {
        error!(delivery = %id, "an attempt panicked");
        let fate = match self.store.delivery(id) {
            Some(delivery) => self.park(&delivery, "panic".to_owned()).await,
            None => Fate::Over,
        };
        Ended::silent(fate)
    }

    async fn stopped(&self, delivery: &Delivery, stop: Stop, attempts: u32) -> Fate {
        let (reason, wish, is_refused) = match stop {
            Stop::Park(reason) => return self.park(delivery, reason).await,
            Stop::Dead => return Fate::StoreDead,
            Stop::Unauthorized(reason) => (reason, None, true),
            Stop::Later(reason, wish) => (reason, wish, false),
        };
        let age = if is_refused {
            // Not its fault, and a person is told already: it waits however old it grows.
            Duration::ZERO
        } else {
            clock::now().since(delivery.envelope.received_at)
        };
        let outcome = retry::Outcome::Passing { wish };
        match retry::next(&self.retry, outcome, attempts, age, random()) {
            retry::Next::Again { after } => {
                let route = delivery.recipient.route.as_str();
                self.metrics.fate(route, "deferred");
                info!(
                    delivery = %delivery.id, route, attempts, again_in = ?after, reason, "deferred"
                );
                let due_at = clock::now().plus(after);
                let wait = Wait {
                    attempts,
                    reason,
                    due_at,
                };
                self.waits.put(delivery.id, wait);
                Fate::Later(after)
            }
            retry::Next::Park { reason: why } => {
                self.park(delivery, format!("{why}: {reason}")).await
            }
        }
    }

    async fn park(&self, delivery: &Delivery, reason: String) -> Fate {
        let route = delivery.recipient.route.as_str();
        let known = self.routes.get(self.line_of(route));
        let now = clock::now();
        let telling = Telling {
            delivery,
            domains: known.map_or(&[], |route| &route.message_id_domains),
            at: now,
        };
        let fact = Fact::Settled {
            delivery: delivery.id,
            outcome: Outcome::Parked {
                reason: reason.clone(),
            },
            // A copy of a parked mail is no duplicate: nobody has read it yet.
            fingerprint: None,
            at: now,
        };
        match self.store.record(vec![telling.parked(&reason), fact]).await {
            Ok(()) => {
                self.metrics.fate(route, "parked");
                warn!(delivery = %delivery.id, route, reason, "parked");
                Fate::Over
            }
            Err(RecordError::Full) => Fate::Later(self.retry.wait_max),
            Err(RecordError::Dead) => Fate::StoreDead,
        }
    }
}

/// Without randomness jobs that failed together come back together, which is bad but not wrong.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}
