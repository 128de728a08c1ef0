//! Owns what comes before an attempt at a delivery and after it: what every attempt needs, and what
//! becomes of a delivery whose attempt is over.
//!
//! Does not know the steps of an attempt, nor what runs beside it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::attempt::{AttemptError, DeliveryAttempt};
use super::circuit_breaker::ApiHealth;
use super::event_facts::{self, EventFacts};
use super::in_flight::InFlightMessages;
use super::loop_detector::LoopDetector;
use super::metrics::Metrics;
use super::retry_status::{RetryStatus, RetryStatuses};
use super::route::DeliveryRoute;
use super::worker::DeliverySettings;
use crate::objects::Objects;
use crate::store::{
    Delivery, DeliveryId, DeliveryOutcome, Fact, Store, StoreError, Work, WorkClaim,
};
use crate::{clock, random, retry};

/// What every attempt needs.
pub(super) struct DeliveryContext {
    pub(super) store: Store,
    pub(super) routes: Vec<DeliveryRoute>,
    pub(super) metrics: Arc<Metrics>,
    retry: retry::Settings,
    pub(super) subject_window: Duration,
    pub(super) suppress_for: Duration,
    pub(super) retry_statuses: Arc<RetryStatuses>,
    pub(super) in_flight: Arc<InFlightMessages>,
    /// The right to the deliveries that are tried.
    pub(super) claim: WorkClaim,
    pub(super) loop_detector: LoopDetector,
    pub(super) objects: Option<Objects>,
}

/// An attempt is over: what is to become of its lane, and what it heard of the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptReport {
    pub(super) end: AttemptEnd,
    pub(super) api_health: ApiHealth,
}

impl AttemptReport {
    pub(super) const fn without_call(fate: AttemptEnd) -> Self {
        Self {
            end: fate,
            api_health: ApiHealth::Unknown,
        }
    }
}

/// What is to become of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    /// Settled, parked or gone: the next one.
    Done,
    /// The same again after so long.
    Retry(Duration),
    /// Nothing more can be recorded.
    StoreDead,
}

impl DeliveryContext {
    pub(super) fn new(
        store: Store,
        routes: Vec<DeliveryRoute>,
        settings: &DeliverySettings,
        metrics: Arc<Metrics>,
        objects: Option<Objects>,
    ) -> Self {
        Self {
            claim: WorkClaim::new(store.clone(), Work::Deliveries),
            store,
            routes,
            metrics,
            retry: settings.retry,
            subject_window: settings.subject_window,
            suppress_for: settings.suppress_for,
            retry_statuses: Arc::default(),
            in_flight: Arc::default(),
            loop_detector: LoopDetector::default(),
            objects,
        }
    }

    /// The number of a route by its name; one past the last for a name that is none.
    pub(super) fn route_index(&self, name: &str) -> usize {
        let found = self.routes.iter().position(|route| route.name == name);
        found.unwrap_or(self.routes.len())
    }

    /// One attempt; `attempts` counts those made, this one included.
    pub(super) async fn deliver(&self, id: DeliveryId, attempts: u32) -> AttemptReport {
        let found = match self.store.delivery(id).await {
            Ok(found) => found,
            Err(error) => return AttemptReport::without_call(self.unreadable(id, error).await),
        };
        let Some(delivery) = found.filter(|delivery| delivery.parked.is_none()) else {
            return AttemptReport::without_call(AttemptEnd::Done);
        };
        let name = delivery.recipient.route.clone();
        self.metrics.count_attempt(&name);
        let Some(route) = self.routes.get(self.route_index(&name)) else {
            let reason = format!("route {name} is not configured");
            return AttemptReport::without_call(self.park(&delivery, reason).await);
        };
        let verdict = delivery.envelope.verdict.as_deref().cloned();
        let mut attempt = DeliveryAttempt {
            context: self,
            route,
            delivery: &delivery,
            verdict: verdict.unwrap_or_default(),
            api_health: ApiHealth::Unknown,
        };
        let stop = attempt.run().await.err();
        let heard = attempt.api_health;
        let fate = match stop {
            None => AttemptEnd::Done,
            Some(stop) => self.handle_error(&delivery, stop, attempts).await,
        };
        if !matches!(fate, AttemptEnd::Retry(_)) {
            self.retry_statuses.remove(id);
        }
        AttemptReport {
            end: fate,
            api_health: heard,
        }
    }

    /// Parks a delivery whose attempt panicked.
    pub(super) async fn park_after_panic(&self, id: DeliveryId) -> AttemptReport {
        error!(delivery = %id, "an attempt panicked");
        let fate = match self.store.delivery(id).await {
            Ok(Some(delivery)) => self.park(&delivery, "panic".to_owned()).await,
            Ok(None) => AttemptEnd::Done,
            Err(error) => self.unreadable(id, error).await,
        };
        AttemptReport::without_call(fate)
    }

    async fn handle_error(
        &self,
        delivery: &Delivery,
        stop: AttemptError,
        attempts: u32,
    ) -> AttemptEnd {
        let (reason, wish, is_refused) = match stop {
            AttemptError::Park(reason) => return self.park(delivery, reason).await,
            AttemptError::StoreDead => return AttemptEnd::StoreDead,
            AttemptError::Unauthorized(reason) => (reason, None, true),
            AttemptError::Retry(reason, wish) => (reason, wish, false),
        };
        let age = if is_refused {
            // Not its fault, and a person is told already: it waits however old it grows.
            Duration::ZERO
        } else {
            clock::now().since(delivery.envelope.received_at)
        };
        let outcome = retry::AttemptFailure::Transient { retry_after: wish };
        match retry::next_step(&self.retry, outcome, attempts, age, random::number()) {
            retry::NextStep::Retry { after } => {
                let route = delivery.recipient.route.as_str();
                self.metrics.count_end(route, "deferred");
                info!(
                    delivery = %delivery.id, route, attempts, again_in = ?after, reason, "deferred"
                );
                let due_at = clock::now().plus(after);
                let wait = RetryStatus {
                    attempts,
                    reason,
                    due_at,
                };
                self.retry_statuses.put(delivery.id, wait);
                AttemptEnd::Retry(after)
            }
            retry::NextStep::Park { reason: why } => {
                self.park(delivery, format!("{why}: {reason}")).await
            }
        }
    }

    async fn park(&self, delivery: &Delivery, reason: String) -> AttemptEnd {
        let route = delivery.recipient.route.as_str();
        let known = self.routes.get(self.route_index(route));
        let now = clock::now();
        let telling = EventFacts {
            delivery,
            domains: known.map_or(&[], |route| &route.message_id_domains),
            at: now,
        };
        let fact = Fact::Settled {
            delivery: delivery.id,
            outcome: DeliveryOutcome::Parked {
                reason: reason.clone(),
            },
            // A copy of a parked mail is no duplicate: nobody has read it yet.
            fingerprint: None,
            at: now,
        };
        match self.claim.finish(vec![telling.parked(&reason), fact]).await {
            Ok(()) => {
                self.metrics.count_end(route, "parked");
                warn!(delivery = %delivery.id, route, reason, "parked");
                AttemptEnd::Done
            }
            Err(StoreError::Dead) => AttemptEnd::StoreDead,
            Err(_) => AttemptEnd::Retry(self.retry.wait_max),
        }
    }

    /// What becomes of a delivery whose envelope the store does not give: one that is damaged waits for
    /// a person, for nobody can say whose it is.
    async fn unreadable(&self, id: DeliveryId, error: StoreError) -> AttemptEnd {
        match error {
            StoreError::Dead => return AttemptEnd::StoreDead,
            StoreError::Full | StoreError::Unavailable => {
                return AttemptEnd::Retry(self.retry.wait_first);
            }
            StoreError::Damaged => {}
        }
        let reason = "its envelope cannot be read from the journal";
        let now = clock::now();
        let settled = Fact::Settled {
            delivery: id,
            outcome: DeliveryOutcome::Parked {
                reason: reason.to_owned(),
            },
            fingerprint: None,
            at: now,
        };
        let parked = event_facts::parked_unread(id, reason, now);
        match self.claim.finish(vec![parked, settled]).await {
            Ok(()) => {
                error!(delivery = %id, reason, "parked");
                AttemptEnd::Done
            }
            Err(StoreError::Dead) => AttemptEnd::StoreDead,
            Err(_) => AttemptEnd::Retry(self.retry.wait_max),
        }
    }
}
