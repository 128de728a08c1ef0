//! Owns the start and the end of an attempt: the delivery is read, attempted, and then settled, deferred or
//! parked.
//!
//! Does not know the steps of an attempt, nor concurrency.

use std::time::Duration;

use tracing::{error, info, warn};

use super::attempt::{AttemptError, DeliveryAttempt};
use super::circuit_breaker::ApiHealth;
use super::context::DeliveryContext;
use super::event_facts::{self, EventFacts};
use super::retry_status::RetryStatus;
use crate::store::{Delivery, DeliveryId, DeliveryOutcome, Fact, LeaseName, StoreError};
use crate::{clock, random, retry};

/// The number of attempts after which a refusal of one thread counts as permanent.
const FORBIDDEN_ATTEMPTS_MAX: u32 = 3;
/// Slightly more than the shortest wait between attempts.
const EXPIRY_SLACK: Duration = Duration::from_millis(50);

/// The result of an attempt, for the worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptReport {
    pub(super) end: AttemptEnd,
    pub(super) api_health: ApiHealth,
}

impl AttemptReport {
    pub(super) const fn without_call(end: AttemptEnd) -> Self {
        Self {
            end,
            api_health: ApiHealth::Unknown,
        }
    }
}

/// The consequence of an attempt for its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    /// The delivery is settled, parked or gone: the next one may run.
    Done,
    /// The same delivery runs again after this time.
    Retry(Duration),
    /// The store no longer accepts anything.
    StoreDead,
}

impl DeliveryContext {
    /// Makes one attempt; `attempts` counts all attempts including this one.
    pub(super) async fn deliver(&self, id: DeliveryId, attempts: u32) -> AttemptReport {
        // While the lease is held, no person changes the delivery.
        let _lease = match self.store.lease(LeaseName::Delivery(id)).await {
            Ok(lease) => lease,
            Err(error) => return AttemptReport::without_call(self.unreadable(id, error).await),
        };
        let found = match self.store.delivery(id).await {
            Ok(found) => found,
            Err(error) => return AttemptReport::without_call(self.unreadable(id, error).await),
        };
        let Some(delivery) = found.filter(|delivery| delivery.parked.is_none()) else {
            self.retry_statuses.remove(id);
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
            is_told: false,
            is_token_recorded: false,
        };
        let result = attempt.run().await;
        let (mut api_health, is_told) = (attempt.api_health, attempt.is_told);
        let end = match result {
            Ok(()) => AttemptEnd::Done,
            Err(AttemptError::Forbidden(reason)) => {
                if self.key_works(&name) {
                    self.handle_forbidden(&delivery, reason, attempts).await
                } else {
                    if attempts >= FORBIDDEN_ATTEMPTS_MAX {
                        api_health = ApiHealth::Unauthorized;
                    }
                    let error = AttemptError::Unauthorized(reason);
                    self.handle_error(&delivery, error, attempts).await
                }
            }
            // The product has the message: the metadata call is repeated once, then given up.
            Err(AttemptError::Retry(reason, wait)) if is_told && self.is_expired(&delivery) => {
                info!(delivery = %delivery.id, reason, "deferred for the last time");
                AttemptEnd::Retry(wait.unwrap_or(self.retry.wait_first))
            }
            Err(error) => self.handle_error(&delivery, error, attempts).await,
        };
        if !matches!(end, AttemptEnd::Retry(_)) {
            self.retry_statuses.remove(id);
        }
        AttemptReport { end, api_health }
    }

    /// Parks a delivery whose attempt panicked.
    pub(super) async fn park_after_panic(&self, id: DeliveryId) -> AttemptReport {
        error!(delivery = %id, "an attempt panicked");
        let end = match self.store.delivery(id).await {
            Ok(Some(delivery)) => self.park(&delivery, "panic".to_owned()).await,
            Ok(None) => AttemptEnd::Done,
            Err(error) => self.unreadable(id, error).await,
        };
        AttemptReport::without_call(end)
    }

    /// Calls about other threads succeed, so after a few attempts the refusal must concern only this
    /// thread.
    async fn handle_forbidden(
        &self,
        delivery: &Delivery,
        reason: String,
        attempts: u32,
    ) -> AttemptEnd {
        if attempts >= FORBIDDEN_ATTEMPTS_MAX {
            return self.park(delivery, reason).await;
        }
        let error = AttemptError::Unauthorized(reason);
        self.handle_error(delivery, error, attempts).await
    }

    /// True if the mail is so old that another failure would park it.
    fn is_expired(&self, delivery: &Delivery) -> bool {
        let age = clock::now().since(delivery.envelope.received_at);
        self.retry.max_age.saturating_sub(age) < EXPIRY_SLACK
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
            AttemptError::Unauthorized(reason) | AttemptError::Forbidden(reason) => {
                (reason, None, true)
            }
            AttemptError::Retry(reason, wish) => (reason, wish, false),
        };
        let age = if is_refused {
            // The mail is not the cause, and a person was notified already: it waits regardless of its age.
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
        let events = EventFacts {
            delivery,
            domains: known.map_or(&[], |route| &route.message_id_domains),
            at: now,
        };
        let fact = Fact::Settled {
            delivery: delivery.id,
            outcome: DeliveryOutcome::Parked {
                reason: reason.clone(),
            },
            // A copy of a parked mail is not a duplicate, because the product does not have it yet.
            fingerprint: None,
            at: now,
        };
        match self.claim.finish(vec![events.parked(&reason), fact]).await {
            Ok(()) => {
                self.metrics.count_end(route, "parked");
                warn!(delivery = %delivery.id, route, reason, "parked");
                AttemptEnd::Done
            }
            Err(StoreError::Dead) => AttemptEnd::StoreDead,
            Err(_) => AttemptEnd::Retry(self.retry.wait_max),
        }
    }

    /// Handles a delivery whose envelope cannot be read. A damaged one is parked for a person, because its
    /// route is unknown.
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
