//! Owns the loop that delivers the store's waiting deliveries to the Messages API.
//!
//! Does not know the steps of an attempt (`attempt`) nor the order of deliveries (`partitions`).

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{self, Id, JoinError, JoinSet};
use tokio::time::{self, Instant};
use tracing::{error, info, warn};

use super::circuit_breaker::{self, CircuitBreaker, CircuitChange};
use super::context::DeliveryContext;
use super::line_waker::{LineWaker, WakeOrders, line_waker};
use super::metrics::Metrics;
use super::partitions::{OfferResult, Partitions};
use super::retry_status::RetryStatuses;
use super::route::DeliveryRoute;
use super::runner::{AttemptEnd, AttemptReport};
pub use super::settings::DeliverySettings;
use crate::mail::partition::PartitionKey;
use crate::objects::Objects;
use crate::store::{DeliveryId, Store, StoreError};

/// The maximum number of deliveries that are read at a time.
const PAGE: usize = 256;
/// The shortest time from the end of a full scan to the next one, which finds released mail.
const SCAN_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The minimum ratio of the pause between full scans to their duration, so that scanning costs at most 2 %
/// of a core.
const SCAN_COST_FACTOR: u32 = 50;
/// The longest time between the beginnings of two full scans.
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(300);

/// The number of attempts after which a failure no longer counts against the whole route.
const FRESH_ATTEMPTS_MAX: u32 = 2;

/// The worker of all routes; a store has one.
pub struct DeliveryWorker {
    context: Arc<DeliveryContext>,
    settings: DeliverySettings,
    partitions: Partitions,
    circuit_breakers: Vec<CircuitBreaker>,
    scan: StoreScan,
    running: HashMap<Id, RunningDelivery>,
    tasks: JoinSet<AttemptReport>,
    line_waker: LineWaker,
    wake_orders: WakeOrders,
}

/// The position of the scan over the waiting deliveries of the store.
struct StoreScan {
    /// The last delivery that was read.
    cursor: Option<DeliveryId>,
    /// True if there may be more after the cursor.
    has_more: bool,
    /// True if something before the cursor may have changed, such as a released delivery.
    restart_requested: bool,
    /// True if the scan began at the start and has not reached the end.
    is_full: bool,
    /// Time when the last full scan began.
    began: Instant,
    /// Duration of the pages read since then.
    elapsed: Duration,
    /// The earliest time for the next full scan.
    next_full_at: Instant,
}

impl StoreScan {
    fn new(now: Instant) -> Self {
        Self {
            cursor: None,
            has_more: true,
            restart_requested: false,
            is_full: true,
            began: now,
            elapsed: Duration::ZERO,
            next_full_at: now,
        }
    }

    /// The time when the next full scan must begin.
    fn due(&self) -> Instant {
        let latest = self.began + SCAN_INTERVAL_MAX;
        if self.restart_requested {
            self.next_full_at
        } else {
            latest.max(self.next_full_at)
        }
    }

    /// Records that the scan reached the end.
    fn finish(&mut self, now: Instant) {
        self.has_more = false;
        // Pages that only look for new mail cost little.
        if std::mem::take(&mut self.is_full) {
            self.next_full_at =
                now + SCAN_INTERVAL_MIN.max(self.elapsed.saturating_mul(SCAN_COST_FACTOR));
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct RunningDelivery {
    partition: PartitionKey,
    id: DeliveryId,
    route: usize,
    is_probe: bool,
}

/// The reason why the worker ended without a stop.
#[derive(Debug, Error)]
pub enum DeliveryWorkerError {
    /// The store no longer accepts anything, so every delivery would be repeated later.
    #[error("store no longer accepts facts")]
    StoreDead,
}

impl DeliveryWorker {
    /// A worker for these routes. It does nothing before [`DeliveryWorker::run`]. Without `objects` the
    /// files of a mail are described but not stored.
    pub fn new(
        store: Store,
        routes: Vec<DeliveryRoute>,
        settings: DeliverySettings,
        metrics: Arc<Metrics>,
        objects: Option<Objects>,
    ) -> Self {
        for route in &routes {
            metrics.set_paused(&route.name, false);
        }
        let (line_waker, wake_orders) = line_waker();
        // One more line than routes: for mail whose route is no longer configured.
        let lines = routes.len() + 1;
        Self {
            partitions: Partitions::new(lines, settings.queued_max),
            circuit_breakers: (0..lines).map(|_| CircuitBreaker::new()).collect(),
            context: Arc::new(DeliveryContext::new(
                store, routes, &settings, metrics, objects,
            )),
            scan: StoreScan::new(Instant::now()),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            line_waker,
            wake_orders,
            settings,
        }
    }

    /// The status of deferred deliveries.
    pub fn retry_statuses(&self) -> Arc<RetryStatuses> {
        Arc::clone(&self.context.retry_statuses)
    }

    /// The sender that notifies the worker that a delivery need not wait any longer.
    pub fn line_waker(&self) -> LineWaker {
        self.line_waker.clone()
    }

    /// Delivers until `stop` is true or its sender is dropped; then running attempts may end within the
    /// grace period. The others continue at the next start.
    ///
    /// # Errors
    /// The store is dead; the process must end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), DeliveryWorkerError> {
        let store = self.context.store.clone();
        let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
        let mut arrival = pin!(store.mail_arrived());
        loop {
            // The notification is polled before the store is read, so that mail that arrives in between is
            // not missed.
            if poll_fn(|cx| Poll::Ready(arrival.as_mut().poll(cx).is_ready())).await {
                arrival.set(store.mail_arrived());
                self.scan.has_more = true;
                self.scan.restart_requested = true;
                continue;
            }
            self.scan_page().await;
            let now = Instant::now();
            self.start_ready(now);
            let due = self.next_due(now);
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.handle_end(ended).await?;
                }
                Some((partition, id)) = self.wake_orders.recv() => self.partitions.hurry(partition, id),
                () = arrival.as_mut() => {
                    arrival.set(store.mail_arrived());
                    self.scan.has_more = true;
                    self.scan.restart_requested = true;
                }
                () = time::sleep_until(due.unwrap_or(now)), if due.is_some() => {}
                () = task::yield_now(), if self.scan.has_more => {}
            }
        }
        let grace = Instant::now() + self.settings.grace;
        while !self.tasks.is_empty() {
            match time::timeout_at(grace, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => self.handle_end(ended).await?,
                Ok(None) => break,
                Err(_) => {
                    info!(
                        left = self.tasks.len(),
                        "attempts aborted; the next start repeats them"
                    );
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }

    /// Reads one page of the scan.
    async fn scan_page(&mut self) {
        let now = Instant::now();
        if self.scan.due() <= now {
            self.scan = StoreScan::new(now);
            self.partitions.rewind(None);
        }
        if !self.scan.has_more {
            return;
        }
        let page = match self.next_page().await {
            Ok(page) => page,
            Err(error) => {
                warn!(%error, "waiting mail cannot be read from the store; trying again");
                self.scan.finish(Instant::now());
                return;
            }
        };
        let is_last = page.len() < PAGE;
        for (id, partition) in page {
            let known = partition.filter(|partition| self.partitions.contains(*partition));
            let placed = match known {
                // The route of a known partition is known.
                Some(partition) => Some((partition, 0)),
                None => self.partition_of(id).await,
            };
            if let Some((partition, route)) = placed
                && self.partitions.offer(partition, route, id) == OfferResult::Full
            {
                // The scan pauses here until a delivery ends.
                self.scan.has_more = false;
                return;
            }
            self.scan.cursor = Some(id);
        }
        self.scan.elapsed += now.elapsed();
        if is_last {
            self.scan.finish(Instant::now());
        }
    }

    async fn next_page(&self) -> Result<Vec<(DeliveryId, Option<PartitionKey>)>, StoreError> {
        let claim = self.context.claim.renew().await?;
        let store = &self.context.store;
        store
            .waiting_with_partitions(&claim, self.scan.cursor, PAGE)
            .await
    }

    /// The partition and the route of a delivery, from its envelope; `None` if it is settled by
    /// now.
    async fn partition_of(&self, id: DeliveryId) -> Option<(PartitionKey, usize)> {
        match self.context.store.delivery(id).await {
            Ok(None) => None,
            Ok(Some(delivery)) => {
                let partition = PartitionKey::of(&delivery.envelope, &delivery.recipient);
                let route = self.context.route_index(&delivery.recipient.route);
                Some((partition, route))
            }
            // The attempt will find the error; until then the delivery has a separate partition, without a
            // route.
            Err(_) => {
                let alone = (u128::from(id.mail.0) << 64) | u128::from(id.recipient);
                Some((PartitionKey(alone), self.context.routes.len()))
            }
        }
    }

    /// Starts the ready deliveries, alternating between routes, while there are free slots.
    fn start_ready(&mut self, now: Instant) {
        self.partitions.wake(now);
        // A delivery that a person requested is not a probe: its failure delays no other.
        while self.tasks.len() < self.settings.concurrency
            && let Some((partition, id, route)) = self.partitions.start_urgent()
        {
            self.start(partition, id, (route, false));
        }
        let mut any = true;
        while any {
            any = false;
            for route in 0..self.circuit_breakers.len() {
                if self.tasks.len() >= self.settings.concurrency
                    || !self.circuit_breakers[route].allows_call(now)
                {
                    continue;
                }
                let Some((partition, id)) = self.partitions.start_next(route) else {
                    continue;
                };
                any = true;
                let probe = self.circuit_breakers[route].begin_call();
                self.start(partition, id, (route, probe));
            }
        }
        self.context.metrics.in_flight.set(gauge(self.tasks.len()));
        self.context
            .metrics
            .queued
            .set(gauge(self.partitions.queued()));
    }

    fn start(&mut self, partition: PartitionKey, id: DeliveryId, (route, is_probe): (usize, bool)) {
        let jobs = Arc::clone(&self.context);
        let attempts = self.partitions.attempts(partition).saturating_add(1);
        let task = self
            .tasks
            .spawn(async move { jobs.deliver(id, attempts).await });
        let running = RunningDelivery {
            partition,
            id,
            route,
            is_probe,
        };
        self.running.insert(task.id(), running);
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let gates = self
            .circuit_breakers
            .iter()
            .filter_map(CircuitBreaker::next_probe_at);
        // A due probe without a delivery to run must not keep the loop busy.
        let gates = gates.filter(|due| *due > now);
        gates
            .chain(self.partitions.next_due())
            .chain([self.scan.due()])
            .min()
    }

    /// Handles the end of an attempt.
    async fn handle_end(
        &mut self,
        ended: Result<(Id, AttemptReport), JoinError>,
    ) -> Result<(), DeliveryWorkerError> {
        let (task, ended) = match ended {
            Ok((task, ended)) => (task, ended),
            Err(error) => (error.id(), self.park_panicked(&error).await),
        };
        let Some(running) = self.running.remove(&task) else {
            return Ok(());
        };
        self.update_circuit_breaker(running, ended.api_health);
        match ended.end {
            AttemptEnd::Done => self.release_partition(running.partition),
            AttemptEnd::Retry(wait) => self
                .partitions
                .defer(running.partition, Instant::now() + wait),
            AttemptEnd::StoreDead => return Err(DeliveryWorkerError::StoreDead),
        }
        Ok(())
    }

    /// Parks the mail of an attempt that panicked: it would panic again at every start.
    async fn park_panicked(&self, error: &JoinError) -> AttemptReport {
        let Some(running) = self.running.get(&error.id()) else {
            return AttemptReport::without_call(AttemptEnd::Done);
        };
        self.context.park_after_panic(running.id).await
    }

    fn release_partition(&mut self, partition: PartitionKey) {
        let room_was_short = self.partitions.queued() >= self.settings.queued_max;
        if let Some(last) = self.partitions.finish(partition) {
            self.scan.cursor = self.scan.cursor.map(|at| at.min(last));
            self.scan.has_more = true;
            self.partitions.rewind(self.scan.cursor);
        }
        self.scan.has_more |= room_was_short;
    }

    fn update_circuit_breaker(
        &mut self,
        running: RunningDelivery,
        heard: circuit_breaker::ApiHealth,
    ) {
        // A repeated failure may concern one thread only, so it says nothing about the others.
        let is_stale =
            self.partitions.attempts(running.partition) >= FRESH_ATTEMPTS_MAX && !running.is_probe;
        let heard = if heard == circuit_breaker::ApiHealth::Failing && is_stale {
            circuit_breaker::ApiHealth::Unknown
        } else {
            heard
        };
        let breaker = &mut self.circuit_breakers[running.route];
        let change = breaker.record(heard, running.partition, running.is_probe, Instant::now());
        let Some(route) = self.context.routes.get(running.route) else {
            return;
        };
        let name = route.name.as_str();
        match change {
            CircuitChange::None => return,
            CircuitChange::Paused => {
                self.context.set_key_works(name, false);
                error!(
                    route = name,
                    "the Messages API refuses the key: the route is paused, its mail waits"
                );
            }
            CircuitChange::Failing => warn!(
                route = name,
                "every call to the Messages API fails: one attempt at a time until one succeeds"
            ),
            CircuitChange::Recovered => info!(route = name, "the Messages API works again"),
        }
        let is_paused = self.circuit_breakers[running.route].is_paused();
        self.context.metrics.set_paused(name, is_paused);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::clock;
    use crate::mail::address::Address;
    use crate::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
    use crate::store;
    use crate::store::ask::ask;

    fn envelope() -> Envelope {
        Envelope {
            sender: Address::parse("ann@example.com").ok(),
            sender_untold: false,
            recipients: vec![Recipient {
                address: Address::parse("fans@inbox.example.com").unwrap(),
                route: "gone".to_owned(),
                target: RecipientTarget::Mailbox("fans".to_owned()),
            }],
            peer: Peer {
                door: Door::Inject,
                ip: None,
                helo: String::new(),
                tls: None,
            },
            received_at: clock::now(),
            smtputf8: false,
            told: None,
            verdict: None,
        }
    }

    #[tokio::test]
    async fn an_urgent_delivery_is_attempted_on_a_paused_route() {
        let folder = tempfile::tempdir().unwrap();
        let settings = store::Settings {
            segment_bytes: 1 << 20,
            free_bytes_min: 0,
            ..store::Settings::new(folder.path().to_owned())
        };
        let store = Store::open(settings, clock::now()).unwrap();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let settings = DeliverySettings::default();
        let mut worker = DeliveryWorker::new(store.clone(), Vec::new(), settings, metrics, None);
        let mail = Bytes::from_static(b"\r\nhi");
        store.accept(envelope(), mail).await.unwrap();
        worker.scan_page().await;
        let waiting = ask(store.waiting(None, 1)).remove(0);
        let partition = PartitionKey::of(&waiting.envelope, &waiting.recipient);
        let (id, now) = (waiting.id, Instant::now());
        let refused = circuit_breaker::ApiHealth::Unauthorized;
        worker.circuit_breakers[0].record(refused, partition, false, now);
        worker.start_ready(now);
        assert_eq!(worker.tasks.len(), 0, "the route is paused");
        worker.partitions.hurry(partition, id);
        worker.start_ready(now);
        assert_eq!(worker.tasks.len(), 1);
        assert!(worker.circuit_breakers[0].is_paused());
        worker.tasks.shutdown().await;
    }

    #[tokio::test]
    async fn a_panic_parks_its_mail_and_the_worker_continues() {
        let folder = tempfile::tempdir().unwrap();
        let settings = store::Settings {
            segment_bytes: 1 << 20,
            free_bytes_min: 0,
            ..store::Settings::new(folder.path().to_owned())
        };
        let store = Store::open(settings, clock::now()).unwrap();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let settings = DeliverySettings::default();
        let mut worker = DeliveryWorker::new(store.clone(), Vec::new(), settings, metrics, None);
        for _ in 0..2 {
            store
                .accept(envelope(), Bytes::from_static(b"\r\nhi"))
                .await
                .unwrap();
        }
        worker.scan_page().await;
        // The first attempt is simulated: it panics instead of running.
        let (partition, id) = worker.partitions.start_next(0).unwrap();
        let task = worker.tasks.spawn(async { panic!("an attempt panics") });
        let running = RunningDelivery {
            partition,
            id,
            route: 0,
            is_probe: false,
        };
        worker.running.insert(task.id(), running);
        let (stop, stopped) = watch::channel(false);
        let worked = tokio::spawn(worker.run(stopped));
        while store.ledger().parked < 2 {
            time::sleep(Duration::from_millis(5)).await;
        }
        let reasons: Vec<_> = ask(store.parked(None, 9))
            .into_iter()
            .filter_map(|d| d.parked)
            .collect();
        assert_eq!(reasons, ["panic", "route gone is not configured"]);
        stop.send_replace(true);
        worked.await.unwrap().unwrap();
    }
}
