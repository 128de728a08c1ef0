//! Owns the loop that empties the outbox into the relays: which jobs may go now, and how many at
//! once.
//!
//! Does not know what is done for one job (`attempt`) nor how a relay is spoken to (`relay`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{self, Id, JoinError, JoinSet};
use tokio::time;
use tracing::info;

use super::attempt::{Desk, Ended};
use super::metrics::Metrics;
use super::rate::{Buckets, Rates, TooFast};
use super::relay::Relays;
use super::sign::Signer;
use crate::clock::{self, Timestamp};
use crate::mail::address::Domain;
use crate::mail::outgoing::JobId;
use crate::retry::Patience;
use crate::store::{JobState, Store};

/// Domains, or jobs, looked at in one go.
const PAGE: usize = 64;
/// The loop looks around so often, whatever it heard: the wall clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a domain is closed that has enough attempts under way; the end of one opens it sooner.
const BUSY_WAIT: Duration = Duration::from_secs(60);
/// A job that is due later than any wait is long was put off by a clock that has been set back.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Bounds of the worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Attempts under way at a time, each with a thread and a connection.
    pub connections: usize,
    /// Attempts under way at a time to one domain.
    pub domain_connections: usize,
    /// Mails a second.
    pub rates: Rates,
    /// The pace of attempts.
    pub patience: Patience,
    /// An address is held back when so many jobs came back from it for good.
    pub suppress_after: u32,
    /// Jobs are kept to be looked at, and none is sent.
    pub capture: bool,
    /// Our reply domains, to which nothing is sent.
    pub own_domains: Vec<Domain>,
    /// The longest wait for attempts under way when the worker stops.
    pub grace: Duration,
}

/// Why the worker ended by itself.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The store takes nothing any more, so nothing can be sent without doing it again later.
    #[error("store takes no more facts")]
    StoreDead,
}

/// The worker of all jobs. One a store.
pub struct Worker {
    desk: Arc<Desk>,
    settings: WorkerSettings,
    buckets: Buckets,
    set: JoinSet<Ended>,
    running: HashMap<Id, (JobId, Arc<str>)>,
    busy: HashSet<JobId>,
    /// Attempts under way by domain.
    domains: HashMap<Arc<str>, usize>,
    /// Domains that have enough, and until when: of those a pace is kept of, or mail is on its way to.
    closed: HashMap<Arc<str>, Instant>,
    /// The domains that had an attempt last, at most [`PAGE`], the latest at the end.
    lately: VecDeque<Arc<str>>,
    /// Nothing may go before then, for it could not be noted.
    paused: Option<Instant>,
    tidied: Instant,
}

impl Worker {
    /// A worker over these relays. It does nothing before [`Worker::run`].
    pub fn new(
        store: Store,
        relays: Relays,
        signers: Arc<[Signer]>,
        settings: WorkerSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let desk = Desk {
            store,
            relays,
            signers,
            metrics,
            patience: settings.patience,
            suppress_after: settings.suppress_after,
            own_domains: settings.own_domains.clone(),
            capture: settings.capture,
        };
        Self {
            desk: Arc::new(desk),
            buckets: Buckets::new(settings.rates),
            settings,
            set: JoinSet::new(),
            running: HashMap::new(),
            busy: HashSet::new(),
            domains: HashMap::new(),
            closed: HashMap::new(),
            lately: VecDeque::new(),
            paused: None,
            tidied: Instant::now(),
        }
    }

    /// Sends until `stop` is true or its sender is gone; then lets what is under way end within the
    /// grace. What does not is found as begun by the next start, and sent again.
    ///
    /// # Errors
    /// If the store is dead. The process should end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), WorkerError> {
        let desk = Arc::clone(&self.desk);
        let store = desk.store.clone();
        let doubts = Arc::clone(&desk);
        // A panic there has been told by the hook, and takes nothing with it.
        drop(task::spawn_blocking(move || doubts.tell_doubts()).await);
        let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
        loop {
            let wake = self.start();
            self.tidy();
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(ended) = self.set.join_next_with_id(), if !self.set.is_empty() => {
                    self.ended(ended).await?;
                }
                () = store.job_arrival() => {}
                () = time::sleep_until(wake.into()) => {}
            }
        }
        let grace = time::Instant::now() + self.settings.grace;
        while !self.set.is_empty() {
            match time::timeout_at(grace, self.set.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended).await?,
                Ok(None) => break,
                Err(_) => {
                    let left = self.set.len();
                    info!(
                        left,
                        "attempts given up; their mail is sent again, perhaps twice"
                    );
                    break;
                }
            }
        }
        drop(task::spawn_blocking(move || desk.relays.tidy(true)).await);
        Ok(())
    }

    /// Starts what may go, and tells when there may be more.
    fn start(&mut self) -> Instant {
        let now = Instant::now();
        let wall = clock::now();
        let wake = now + LOOK_EVERY;
        self.paused = self.paused.filter(|until| *until > now);
        if let Some(until) = self.paused {
            return wake.min(until);
        }
        self.closed.retain(|_, until| *until > now);
        let horizon = self.horizon(wall);
        while self.has_room() {
            let aside = self.desk.relays.aside_until(now);
            if let Some(until) = aside.filter(|_| !self.settings.capture) {
                self.give_up(horizon, wall);
                return wake.min(until);
            }
            let mut is_moving = false;
            for (id, domain) in self.next_of_each(horizon) {
                if !self.has_room() {
                    return wake;
                }
                match self.admit(id, &domain, now) {
                    Ok(is_done) => is_moving |= is_done,
                    Err(until) => return wake.min(until),
                }
            }
            if !is_moving {
                break;
            }
        }
        if !self.has_room() {
            return wake;
        }
        let mut wake = wake;
        if let Some(due) = self.next_due() {
            let wait = due.since(wall).max(Duration::from_millis(1));
            wake = wake.min(now + wait);
        }
        let opens = self.closed.values().min();
        opens.map_or(wake, |opens| wake.min(*opens))
    }

    /// A due job of each domain that may have one, those first that had none for the longest time: a
    /// domain with many of them does not keep the others waiting.
    fn next_of_each(&self, horizon: Timestamp) -> Vec<(JobId, Arc<str>)> {
        let store = &self.desk.store;
        let is_free = |id| !self.busy.contains(&id);
        let is_open = |domain: &str| !self.closed.contains_key(domain);
        let mut found = store.due_by_domain(horizon, PAGE, is_free, is_open);
        let turn = |domain: &Arc<str>| self.lately.iter().position(|late| late == domain);
        found.sort_by_key(|(_, domain)| turn(domain));
        found
    }

    /// Nobody can be asked: only those go whose time is over.
    fn give_up(&mut self, horizon: Timestamp, wall: Timestamp) {
        let store = &self.desk.store;
        let due = store.due_jobs(horizon, PAGE, |id| !self.busy.contains(&id));
        for record in due.into_iter().filter(|record| record.job.ends_at <= wall) {
            let (id, domain) = (record.job.id, record.job.recipient.domain().ascii());
            let given_up = Arc::clone(&self.desk).give_up(record);
            self.spawn(id, domain.into(), given_up);
        }
    }

    /// A job goes, or its domain is closed; false if the job is gone. An error if none may go before then.
    fn admit(&mut self, id: JobId, domain: &Arc<str>, now: Instant) -> Result<bool, Instant> {
        if !self.settings.capture {
            let under_way = self.domains.get(domain).copied().unwrap_or(0);
            if under_way >= self.settings.domain_connections {
                self.closed.insert(Arc::clone(domain), now + BUSY_WAIT);
                return Ok(true);
            }
        }
        let record = self.desk.store.job(id);
        // One that is over by now does not wait any more.
        let Some(record) = record.filter(|r| matches!(r.state, JobState::Waiting { .. })) else {
            return Ok(false);
        };
        if !self.settings.capture {
            match self.buckets.take(domain, now) {
                Ok(()) => {}
                Err(TooFast::All(until)) => return Err(until),
                Err(TooFast::Domain(until)) => {
                    self.closed.insert(Arc::clone(domain), until);
                    return Ok(true);
                }
            }
        }
        self.lately.retain(|late| late != domain);
        self.lately.push_back(Arc::clone(domain));
        if self.lately.len() > PAGE {
            self.lately.pop_front();
        }
        let attempt = Arc::clone(&self.desk).run(record);
        self.spawn(id, Arc::clone(domain), attempt);
        Ok(true)
    }

    fn spawn(
        &mut self,
        id: JobId,
        domain: Arc<str>,
        attempt: impl Future<Output = Ended> + Send + 'static,
    ) {
        let handle = self.set.spawn(attempt);
        self.busy.insert(id);
        *self.domains.entry(Arc::clone(&domain)).or_default() += 1;
        self.running.insert(handle.id(), (id, domain));
        self.count();
    }

    /// An attempt is over, one way or another.
    async fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) -> Result<(), WorkerError> {
        let (task, ended) = match ended {
            Ok((task, ended)) => (task, ended),
            Err(error) => {
                let task = error.id();
                let ended = match self.running.get(&task) {
                    Some((id, _)) => self.desk.broken(*id).await,
                    None => Ended::Noted,
                };
                (task, ended)
            }
        };
        let Some((id, domain)) = self.running.remove(&task) else {
            return Ok(());
        };
        self.busy.remove(&id);
        self.count();
        if let Some(count) = self.domains.get_mut(&domain) {
            *count -= 1;
            if *count == 0 {
                self.domains.remove(&domain);
            }
        }
        self.closed.remove(&domain);
        match ended {
            Ended::Noted => {}
            Ended::Later(wait) => self.paused = Some(Instant::now() + wait),
            Ended::StoreDead => return Err(WorkerError::StoreDead),
        }
        Ok(())
    }

    /// Closes connections that rest for too long, off the async threads.
    fn tidy(&mut self) {
        if self.tidied.elapsed() < LOOK_EVERY {
            return;
        }
        self.tidied = Instant::now();
        let desk = Arc::clone(&self.desk);
        drop(task::spawn_blocking(move || desk.relays.tidy(false)));
    }

    fn has_room(&self) -> bool {
        // A relay that failed is found out about with one mail, not with all there are.
        let doubtful = !self.settings.capture && self.desk.relays.is_doubtful();
        let most = if doubtful {
            1
        } else {
            self.settings.connections
        };
        self.set.len() < most
    }

    fn next_due(&self) -> Option<Timestamp> {
        let is_free = |id| !self.busy.contains(&id);
        let is_open = |domain: &str| !self.closed.contains_key(domain);
        self.desk.store.next_due(is_free, is_open)
    }

    /// Until when jobs count as due: now, or later after the clock was set back.
    fn horizon(&self, wall: Timestamp) -> Timestamp {
        let longest = self.settings.patience.longest() + CLOCK_SLACK;
        let next = self.next_due();
        next.filter(|next| next.since(wall) > longest)
            .unwrap_or(wall)
    }

    fn count(&self) {
        let count = i64::try_from(self.set.len()).unwrap_or(i64::MAX);
        self.desk.metrics.in_flight.set(count);
    }
}
