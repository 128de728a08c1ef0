//! Owns the loop that empties the store's waiting deliveries into the Messages API.
//!
//! Does not know what is done for one delivery (`job`) nor in which order they may go
//! (`lanes`).

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{self, Id, JoinError, JoinSet};
use tokio::time::{self, Instant};
use tracing::{error, info, warn};

use super::gate::{self, Change, Gate};
use super::job::{Ended, Fate, Jobs};
use super::lanes::{Lanes, Offered};
use super::metrics::Metrics;
use super::route::Route;
use super::underway::Underway;
use super::waits::Waits;
use crate::mail::lane::LaneKey;
use crate::objects::Objects;
use crate::retry;
use crate::store::{DeliveryId, Store};

/// Bounds of the worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Deliveries under way at a time.
    pub concurrency: usize,
    /// Waiting deliveries lined up at most: 16 bytes each, about 200 where each is a lane of its own.
    /// As many as the store lets wait means that nothing can hide behind anything.
    pub held_max: usize,
    /// The pace of attempts, and the age at which a mail is parked.
    pub retry: retry::Settings,
    /// A thread is found by sender and subject only if it changed so short a time ago.
    pub subject_window: Duration,
    /// An address from which our mail came back for good stays on the list so long.
    pub suppress_for: Duration,
    /// The longest wait for deliveries under way when the worker stops.
    pub grace: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency: 16,
            held_max: 262_144,
            retry: retry::Settings {
                wait_first: Duration::from_secs(2),
                wait_max: Duration::from_secs(600),
                max_age: Duration::from_secs(5 * 86_400),
            },
            subject_window: Duration::from_secs(30 * 86_400),
            suppress_for: Duration::from_secs(90 * 86_400),
            grace: Duration::from_secs(10),
        }
    }
}

/// Deliveries looked at in one go, before anything else gets its turn.
const PAGE: usize = 256;
/// A walk over all that waits begins so long after the last one ended at the earliest: a released
/// mail is found by one.
const WALK_EVERY: Duration = Duration::from_secs(1);
/// And so many times as long as the last one took, so that walking costs 2 % of a core at most.
const WALK_SHARE: u32 = 50;
/// So long after the last one began at the latest, whether something was heard or not.
const WALK_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// After so many attempts a failure no longer speaks against the whole route.
const FRESH_ATTEMPTS_MAX: u32 = 2;

/// The worker of all routes. One a store.
pub struct Worker {
    jobs: Arc<Jobs>,
    settings: WorkerSettings,
    lanes: Lanes,
    gates: Vec<Gate>,
    walk: Walk,
    running: HashMap<Id, Running>,
    set: JoinSet<Ended>,
}

/// Where the walk over the store's waiting deliveries is.
struct Walk {
    /// The last delivery looked at.
    cursor: Option<DeliveryId>,
    /// There may be more behind the cursor.
    goes_on: bool,
    /// Something arrived that may lie before the cursor: a released delivery.
    again: bool,
    /// It began at the start and has not come to the end yet.
    is_whole: bool,
    /// When it began at the start.
    began: Instant,
    /// How long the pages since then took.
    spent: Duration,
    /// When it may begin at the start again.
    next: Instant,
}

impl Walk {
    fn new(now: Instant) -> Self {
        Self {
            cursor: None,
            goes_on: true,
            again: false,
            is_whole: true,
            began: now,
            spent: Duration::ZERO,
            next: now,
        }
    }

    /// When it must begin at the start again.
    fn due(&self) -> Instant {
        let latest = self.began + WALK_AT_LEAST_EVERY;
        if self.again {
            self.next
        } else {
            latest.max(self.next)
        }
    }

    /// It has come to the end.
    fn ended(&mut self, now: Instant) {
        self.goes_on = false;
        // Pages that only look for news cost nothing worth waiting for.
        if std::mem::take(&mut self.is_whole) {
            self.next = now + WALK_EVERY.max(self.spent.saturating_mul(WALK_SHARE));
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Running {
    lane: LaneKey,
    id: DeliveryId,
    route: usize,
    probe: bool,
}

/// Why the worker ended by itself.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The store takes nothing any more, so nothing can be delivered without doing it again later.
    #[error("store takes no more facts")]
    StoreDead,
}

impl Worker {
    /// A worker for these routes. It does nothing before [`Worker::run`]. Without `objects` the files of
    /// a mail are told of and not kept.
    pub fn new(
        store: Store,
        routes: Vec<Route>,
        settings: WorkerSettings,
        metrics: Arc<Metrics>,
        objects: Option<Objects>,
    ) -> Self {
        for route in &routes {
            metrics.set_paused(&route.name, false);
        }
        // One more than there are: mail for a route that is gone from the settings.
        let lines = routes.len() + 1;
        Self {
            lanes: Lanes::new(lines, settings.held_max),
            gates: (0..lines).map(|_| Gate::new()).collect(),
            jobs: Arc::new(Jobs::new(store, routes, &settings, metrics, objects)),
            walk: Walk::new(Instant::now()),
            running: HashMap::new(),
            set: JoinSet::new(),
            settings,
        }
    }

    /// Why deliveries wait that were tried before.
    pub fn waits(&self) -> Arc<Waits> {
        Arc::clone(&self.jobs.waits)
    }

    /// What is on its way to the product.
    pub fn underway(&self) -> Arc<Underway> {
        Arc::clone(&self.jobs.underway)
    }

    /// Delivers until `stop` is true or its sender is gone; then lets what is under way end within
    /// the grace, and gives up the rest, which is taken up again at the next start.
    ///
    /// # Errors
    /// If the store is dead. The process should end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), WorkerError> {
        let store = self.jobs.store.clone();
        let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
        let mut arrival = pin!(store.arrival());
        loop {
            // Listen before looking: what lands between the two must not wait for the next.
            if poll_fn(|cx| Poll::Ready(arrival.as_mut().poll(cx).is_ready())).await {
                arrival.set(store.arrival());
                self.walk.goes_on = true;
                self.walk.again = true;
                continue;
            }
            self.look().await;
            let now = Instant::now();
            self.start(now);
            let due = self.next_due(now);
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(ended) = self.set.join_next_with_id(), if !self.set.is_empty() => {
                    self.ended(ended).await?;
                }
                () = arrival.as_mut() => {
                    arrival.set(store.arrival());
                    self.walk.goes_on = true;
                    self.walk.again = true;
                }
                () = time::sleep_until(due.unwrap_or(now)), if due.is_some() => {}
                () = task::yield_now(), if self.walk.goes_on => {}
            }
        }
        let grace = Instant::now() + self.settings.grace;
        while !self.set.is_empty() {
            match time::timeout_at(grace, self.set.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended).await?,
                Ok(None) => break,
                Err(_) => {
                    info!(
                        left = self.set.len(),
                        "deliveries given up; they are taken up at the next start"
                    );
                    break;
                }
            }
        }
        self.set.shutdown().await;
        Ok(())
    }

    /// One page of the walk.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.walk.due() <= now {
            self.walk = Walk::new(now);
            self.lanes.rewound(None);
        }
        if !self.walk.goes_on {
            return;
        }
        let page = self.jobs.store.waiting_in_lanes(self.walk.cursor, PAGE);
        let is_last = page.len() < PAGE;
        for (id, lane) in page {
            let known = lane.filter(|lane| self.lanes.knows(*lane));
            let placed = match known {
                // The route of a lane that is there is known.
                Some(lane) => Some((lane, 0)),
                None => self.place(id).await,
            };
            if let Some((lane, route)) = placed
                && self.lanes.offer(lane, route, id) == Offered::NoRoom
            {
                // The walk stands here until a delivery is over.
                self.walk.goes_on = false;
                return;
            }
            self.walk.cursor = Some(id);
        }
        self.walk.spent += now.elapsed();
        if is_last {
            self.walk.ended(Instant::now());
        }
    }

    /// The lane and route of a delivery, from its envelope; `None` if it is over by now.
    async fn place(&self, id: DeliveryId) -> Option<(LaneKey, usize)> {
        let store = self.jobs.store.clone();
        // The envelope may have to be read from disk.
        let read = task::spawn_blocking(move || store.delivery(id)).await;
        let delivery = match read.map_err(JoinError::try_into_panic) {
            Ok(delivery) => delivery?,
            Err(Ok(cause)) => panic::resume_unwind(cause),
            // The runtime is going down.
            Err(Err(_)) => return None,
        };
        let lane = LaneKey::of(&delivery.envelope, &delivery.recipient);
        Some((lane, self.jobs.line_of(&delivery.recipient.route)))
    }

    /// Starts what may run, one route after the other, as long as there are free slots.
    fn start(&mut self, now: Instant) {
        self.lanes.wake(now);
        let mut any = true;
        while any {
            any = false;
            for route in 0..self.gates.len() {
                if self.set.len() >= self.settings.concurrency || !self.gates[route].admits(now) {
                    continue;
                }
                let Some((lane, id)) = self.lanes.take(route) else {
                    continue;
                };
                any = true;
                let probe = self.gates[route].pass();
                let jobs = Arc::clone(&self.jobs);
                let attempts = self.lanes.attempts(lane).saturating_add(1);
                let task = self
                    .set
                    .spawn(async move { jobs.deliver(id, attempts).await });
                let running = Running {
                    lane,
                    id,
                    route,
                    probe,
                };
                self.running.insert(task.id(), running);
            }
        }
        self.jobs.metrics.in_flight.set(gauge(self.set.len()));
        self.jobs.metrics.held.set(gauge(self.lanes.held()));
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let gates = self.gates.iter().filter_map(Gate::next_due);
        // A gate that is due but has nothing to let through must not keep the loop turning.
        let gates = gates.filter(|due| *due > now);
        gates
            .chain(self.lanes.next_due())
            .chain([self.walk.due()])
            .min()
    }

    /// A delivery's attempt is over, one way or another.
    async fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) -> Result<(), WorkerError> {
        let (task, ended) = match ended {
            Ok((task, ended)) => (task, ended),
            Err(error) => (error.id(), self.broken(&error).await),
        };
        let Some(running) = self.running.remove(&task) else {
            return Ok(());
        };
        self.turn_gate(running, ended.heard);
        match ended.fate {
            Fate::Over => self.free(running.lane),
            Fate::Later(wait) => self.lanes.defer(running.lane, Instant::now() + wait),
            Fate::StoreDead => return Err(WorkerError::StoreDead),
        }
        Ok(())
    }

    /// A panic ends one job, and its mail waits for a person: at the next start, and at every one
    /// after it, the same mail would do the same.
    async fn broken(&self, error: &JoinError) -> Ended {
        let Some(running) = self.running.get(&error.id()) else {
            return Ended::silent(Fate::Over);
        };
        self.jobs.park_broken(running.id).await
    }

    fn free(&mut self, lane: LaneKey) {
        let room_was_short = self.lanes.held() >= self.settings.held_max;
        if let Some(last) = self.lanes.finish(lane) {
            self.walk.cursor = self.walk.cursor.map(|at| at.min(last));
            self.walk.goes_on = true;
            self.lanes.rewound(self.walk.cursor);
        }
        self.walk.goes_on |= room_was_short;
    }

    fn turn_gate(&mut self, running: Running, heard: gate::Heard) {
        // What fails again and again may be one thread's own trouble: it says nothing of the others.
        let is_stale = self.lanes.attempts(running.lane) >= FRESH_ATTEMPTS_MAX && !running.probe;
        let heard = if heard == gate::Heard::Passing && is_stale {
            gate::Heard::Nothing
        } else {
            heard
        };
        let change = self.gates[running.route].heard(heard, running.probe, Instant::now());
        let Some(route) = self.jobs.routes.get(running.route) else {
            return;
        };
        let name = route.name.as_str();
        match change {
            Change::None => return,
            Change::Paused => error!(
                route = name,
                "the Messages API refuses the key: the route is paused, its mail waits"
            ),
            Change::Failing => warn!(
                route = name,
                "nothing gets through to the Messages API: one attempt at a time until it does"
            ),
            Change::Opened => info!(route = name, "the Messages API answers again"),
        }
        let is_paused = self.gates[running.route].is_paused();
        self.jobs.metrics.set_paused(name, is_paused);
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
    use crate::mail::envelope::{Door, Envelope, Peer, Recipient, Target};
    use crate::store;

    fn envelope() -> Envelope {
        Envelope {
            sender: Address::parse("ann@example.com").ok(),
            sender_untold: false,
            recipients: vec![Recipient {
                address: Address::parse("fans@inbox.example.com").unwrap(),
                route: "gone".to_owned(),
                target: Target::Mailbox("fans".to_owned()),
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
    async fn a_panic_parks_its_mail_and_the_worker_lives() {
        let folder = tempfile::tempdir().unwrap();
        let settings = store::Settings {
            segment_bytes: 1 << 20,
            free_bytes_min: 0,
            ..store::Settings::new(folder.path().to_owned())
        };
        let store = Store::open(settings, clock::now()).unwrap();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let settings = WorkerSettings::default();
        let mut worker = Worker::new(store.clone(), Vec::new(), settings, metrics, None);
        for _ in 0..2 {
            store
                .accept(envelope(), Bytes::from_static(b"\r\nhi"))
                .await
                .unwrap();
        }
        worker.look().await;
        // The first attempt is not a real one: it panics where a real one would run.
        let (lane, id) = worker.lanes.take(0).unwrap();
        let task = worker.set.spawn(async { panic!("an attempt panics") });
        let running = Running {
            lane,
            id,
            route: 0,
            probe: false,
        };
        worker.running.insert(task.id(), running);
        let (stop, stopped) = watch::channel(false);
        let worked = tokio::spawn(worker.run(stopped));
        while store.ledger().parked < 2 {
            time::sleep(Duration::from_millis(5)).await;
        }
        let reasons: Vec<_> = store
            .parked(None, 9)
            .into_iter()
            .filter_map(|d| d.parked)
            .collect();
        assert_eq!(reasons, ["panic", "route gone is not configured"]);
        stop.send_replace(true);
        worked.await.unwrap().unwrap();
    }
}
