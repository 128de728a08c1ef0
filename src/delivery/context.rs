//! Owns the data shared by all attempts.
//!
//! Does not make attempts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::loop_detector::LoopDetector;
use super::metrics::Metrics;
use super::retry_status::RetryStatuses;
use super::route::DeliveryRoute;
use super::settings::DeliverySettings;
use crate::objects::Objects;
use crate::retry;
use crate::store::{Store, Work, WorkClaim};

/// The data shared by all attempts.
pub(super) struct DeliveryContext {
    pub(super) store: Store,
    pub(super) routes: Vec<DeliveryRoute>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) retry: retry::Settings,
    pub(super) subject_window: Duration,
    pub(super) suppress_for: Duration,
    pub(super) retry_statuses: Arc<RetryStatuses>,
    /// The right to the deliveries that are attempted.
    pub(super) claim: WorkClaim,
    pub(super) loop_detector: LoopDetector,
    /// True by route if a call succeeded since the API last refused the key.
    key_works: Vec<AtomicBool>,
    pub(super) objects: Option<Objects>,
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
            key_works: routes.iter().map(|_| AtomicBool::default()).collect(),
            store,
            routes,
            metrics,
            retry: settings.retry,
            subject_window: settings.subject_window,
            suppress_for: settings.suppress_for,
            retry_statuses: Arc::default(),
            loop_detector: LoopDetector::default(),
            objects,
        }
    }

    /// The index of a route by its name; one past the last for an unknown name.
    pub(super) fn route_index(&self, name: &str) -> usize {
        let found = self.routes.iter().position(|route| route.name == name);
        found.unwrap_or(self.routes.len())
    }

    /// True if a call of this route succeeded since the API last refused its key.
    pub(super) fn key_works(&self, route: &str) -> bool {
        let flag = self.key_works.get(self.route_index(route));
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Records whether the API accepts the key of this route.
    pub(super) fn set_key_works(&self, route: &str, works: bool) {
        if let Some(flag) = self.key_works.get(self.route_index(route)) {
            flag.store(works, Ordering::Relaxed);
        }
    }
}
