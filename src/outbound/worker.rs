//! Owns the loop that sends the jobs of the outbox: which may run now, and how many at once.
//!
//! Does not know the steps of an attempt (`attempt`), nor the protocol (`relay`).

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{self, Id, JoinError, JoinSet};
use tokio::time;
use tracing::{info, warn};

use super::attempt::{JobEnd, JobRunner};
use super::clock_jumps::ClockJumps;
use super::dkim::DkimSigningKey;
use super::metrics::Metrics;
use super::rate::SendRates;
use super::relay::RelayPool;
use super::urgent::UrgentJobs;
use crate::clock::{self, Timestamp};
use crate::limits::{RateExceeded, RateLimiter};
use crate::mail::address::Domain;
use crate::mail::job_id::JobId;
use crate::retry::SendSchedule;
use crate::store::{
    Claim, Domains, JobRecord, JobState, Lease, Store, StoreError, Work, WorkClaim,
};

/// The maximum number of domains or jobs that are read at a time.
const PAGE: usize = 64;
/// The longest time between two checks of the outbox, because the wall clock may have been set.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The time for which a domain with enough concurrent attempts is closed; the end of one attempt
/// opens it earlier.
const BUSY_DOMAIN_WAIT: Duration = Duration::from_secs(60);
/// The wait before the store is read again after an error.
const STORE_RETRY_WAIT: Duration = Duration::from_secs(1);
/// The slack of due times: a job that is due later than any wait plus this slack was deferred by a clock
/// that has been set back.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The time for recording a cancelled attempt.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

/// Bounds of the worker.
#[derive(Clone, Debug)]
pub struct OutboundSettings {
    /// The maximum number of concurrent attempts, each with a connection.
    pub connections: usize,
    /// The maximum number of concurrent attempts to one domain.
    pub domain_connections: usize,
    /// The rate limits.
    pub rates: SendRates,
    /// The schedule of retries.
    pub schedule: SendSchedule,
    /// The number of hard bounces that suppress an address.
    pub suppress_after: u32,
    /// True if jobs are kept for inspection and none is sent.
    pub capture: bool,
    /// The reply domains, to which nothing is sent.
    pub own_domains: Vec<Domain>,
    /// The longest wait for running attempts when the worker stops.
    pub grace: Duration,
}

/// The reason why the worker ended without a stop.
#[derive(Debug, Error)]
pub enum OutboundWorkerError {
    /// The store no longer accepts anything, so every mail would be sent again later.
    #[error("store no longer accepts facts")]
    StoreDead,
}

/// The worker of all jobs; a store has one.
pub struct OutboundWorker {
    runner: Arc<JobRunner>,
    settings: OutboundSettings,
    rate_limiter: RateLimiter<String>,
    tasks: JoinSet<JobEnd>,
    /// The running attempts, each with its job, domain and lease.
    running: HashMap<Id, (JobId, Arc<str>, Lease)>,
    /// Domains that must wait, with the time: for their rate limit, or because enough attempts are running.
    closed_domains: HashMap<Arc<str>, Instant>,
    /// The domains of the last attempts, at most [`PAGE`], the latest at the end.
    recent_domains: VecDeque<Arc<str>>,
    urgent: UrgentJobs,
    /// No job may begin before this time, because it could not be recorded.
    paused_until: Option<Instant>,
    cleaned_up_at: Instant,
    clock_jumps: ClockJumps,
}

impl OutboundWorker {
    /// A worker over these relays. It does nothing before [`OutboundWorker::run`].
    pub fn new(
        store: Store,
        relays: RelayPool,
        signers: Arc<[DkimSigningKey]>,
        settings: OutboundSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let desk = JobRunner {
            claim: WorkClaim::new(store.clone(), Work::Jobs),
            store,
            relays,
            signers,
            metrics,
            schedule: settings.schedule,
            suppress_after: settings.suppress_after,
            own_domains: settings.own_domains.clone(),
            capture: settings.capture,
            stopping: watch::Sender::new(false),
            clock_ahead: AtomicU64::new(0),
        };
        Self {
            runner: Arc::new(desk),
            rate_limiter: settings.rates.limiter(),
            settings,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            closed_domains: HashMap::new(),
            recent_domains: VecDeque::new(),
            urgent: UrgentJobs::default(),
            paused_until: None,
            cleaned_up_at: Instant::now(),
            clock_jumps: ClockJumps::new(clock::now(), Instant::now()),
        }
    }

    /// The list of the urgent jobs.
    pub fn urgent_jobs(&self) -> UrgentJobs {
        self.urgent.clone()
    }

    /// Sends until `stop` is true or its sender is dropped; then running attempts may end within the grace
    /// period, and those are cancelled whose end of mail is not being sent. An interrupted job is found at
    /// the next start and sent again.
    ///
    /// # Errors
    /// The store is dead; the process must end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), OutboundWorkerError> {
        let desk = Arc::clone(&self.runner);
        let store = desk.store.clone();
        if let Err(error) = desk.log_interrupted_jobs().await {
            warn!(%error, "the jobs that were being sent when the program ended cannot be listed");
        }
        let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
        loop {
            let wake = self.start_due().await;
            self.close_idle_connections();
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.handle_end(ended).await?;
                }
                () = store.job_arrived() => {}
                () = self.urgent.added() => {}
                () = time::sleep_until(wake.into()) => {}
            }
        }
        self.wait_for_tasks(self.settings.grace).await?;
        // An attempt can be cancelled without a doubt until the end of its mail is being sent.
        desk.stopping.send_replace(true);
        self.wait_for_tasks(CANCEL_WAIT).await?;
        let left = self.tasks.len();
        if left > 0 {
            info!(
                left,
                "attempts aborted; their mail will be sent again, perhaps twice"
            );
        }
        desk.relays.close_idle(true).await;
        Ok(())
    }

    /// Waits for running attempts, at most for `limit`.
    async fn wait_for_tasks(&mut self, limit: Duration) -> Result<(), OutboundWorkerError> {
        let end = time::Instant::now() + limit;
        while !self.tasks.is_empty() {
            match time::timeout_at(end, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => self.handle_end(ended).await?,
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Starts the jobs that may run, and returns the time of the next check.
    async fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        let wake = now + POLL_INTERVAL;
        self.paused_until = self.paused_until.filter(|until| *until > now);
        if let Some(until) = self.paused_until {
            return wake.min(until);
        }
        match self.try_start_due(now, wake).await {
            Ok(wake) => wake,
            Err(error) => {
                warn!(%error, "due jobs cannot be read from the store; trying again");
                wake.min(now + STORE_RETRY_WAIT)
            }
        }
    }

    async fn try_start_due(&mut self, now: Instant, wake: Instant) -> Result<Instant, StoreError> {
        let wall = clock::now();
        self.watch_clock(wall, now);
        let claim = self.runner.claim.renew().await?;
        self.closed_domains.retain(|_, until| *until > now);
        self.start_urgent(&claim, now).await?;
        let horizon = self.due_horizon(&claim, wall).await?;
        while self.has_capacity() {
            let aside = self.runner.relays.available_at(now);
            if let Some(until) = aside.filter(|_| !self.settings.capture) {
                self.give_up(&claim, horizon, wall).await?;
                return Ok(wake.min(until));
            }
            let mut is_moving = false;
            for (id, domain) in self.next_job_per_domain(&claim, horizon).await? {
                if !self.has_capacity() {
                    return Ok(wake);
                }
                match self.start_job(&claim, id, &domain, now).await? {
                    Ok(is_done) => is_moving |= is_done,
                    Err(until) => return Ok(wake.min(until)),
                }
            }
            if !is_moving {
                break;
            }
        }
        if !self.has_capacity() {
            return Ok(wake);
        }
        let mut wake = wake;
        if let Some(due) = self.next_due(&claim).await? {
            let wait = due.since(wall).max(Duration::from_millis(1));
            wake = wake.min(now + wait);
        }
        let opens = self.closed_domains.values().min();
        Ok(opens.map_or(wake, |opens| wake.min(*opens)))
    }

    /// Starts the jobs that a person wants sent now, each if it is the first of its thread. The relays are
    /// tried again for them, because the person may have repaired a relay since its last failure.
    async fn start_urgent(&mut self, claim: &Claim, now: Instant) -> Result<(), StoreError> {
        let store = self.runner.store.clone();
        while self.has_capacity()
            && let Some(id) = self.urgent.take()
        {
            if store.job_ahead(id).await?.is_some() {
                continue;
            }
            let Some(record) = store.job(id).await? else {
                continue;
            };
            self.runner.relays.end_backoff();
            let domain: Arc<str> = record.job.recipient.domain().ascii().into();
            let _ = self.start_job(claim, id, &domain, now).await?;
        }
        Ok(())
    }

    /// Detects jumps of the clock: after one, jobs must not all expire at once.
    fn watch_clock(&mut self, wall: Timestamp, now: Instant) {
        let (ahead, has_jumped) = self.clock_jumps.update(wall, now);
        let millis = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
        self.runner.clock_ahead.store(millis, Ordering::Relaxed);
        if has_jumped {
            let seconds = ahead.as_secs();
            warn!(
                seconds,
                "the clock has jumped ahead: jobs expire later by this time"
            );
        }
    }

    /// One due job for each domain that may have one, in the order of their last attempts, so that a domain
    /// with many jobs does not delay the others.
    async fn next_job_per_domain(
        &self,
        claim: &Claim,
        horizon: Timestamp,
    ) -> Result<Vec<(JobId, Arc<str>)>, StoreError> {
        let closed = self.closed();
        let store = &self.runner.store;
        let mut found = store.due_by_domain(claim, horizon, PAGE, &closed).await?;
        let turn = |domain: &Arc<str>| self.recent_domains.iter().position(|late| late == domain);
        found.sort_by_key(|(_, domain)| turn(domain));
        Ok(found)
    }

    fn closed(&self) -> Domains {
        self.closed_domains.keys().cloned().collect()
    }

    /// Fails the expired jobs while no relay is available.
    async fn give_up(
        &mut self,
        claim: &Claim,
        horizon: Timestamp,
        wall: Timestamp,
    ) -> Result<(), StoreError> {
        let runner = Arc::clone(&self.runner);
        let store = self.runner.store.clone();
        let due = store.due_jobs(claim, horizon, PAGE).await?;
        let is_expired = |record: &JobRecord| runner.ends_at(&record.job) <= wall;
        for record in due.into_iter().filter(is_expired) {
            let (id, domain) = (record.job.id, record.job.recipient.domain().ascii());
            let domain: Arc<str> = domain.into();
            let leased = store.lease_job(claim, id, &domain, usize::MAX).await?;
            if let Some(lease) = leased {
                let given_up = Arc::clone(&self.runner).give_up(record);
                self.spawn((id, domain, lease), given_up);
            }
        }
        Ok(())
    }

    /// Starts a job or closes its domain; false if the job is gone. The error is a time before
    /// which no job may start.
    async fn start_job(
        &mut self,
        claim: &Claim,
        id: JobId,
        domain: &Arc<str>,
        now: Instant,
    ) -> Result<Result<bool, Instant>, StoreError> {
        let most = match self.settings.capture {
            true => usize::MAX,
            false => self.settings.domain_connections,
        };
        let store = self.runner.store.clone();
        let Some(lease) = store.lease_job(claim, id, domain, most).await? else {
            self.closed_domains
                .insert(Arc::clone(domain), now + BUSY_DOMAIN_WAIT);
            return Ok(Ok(true));
        };
        let record = store.job(id).await?;
        // A job that was settled in the meantime is no longer waiting.
        let Some(record) = record.filter(|r| matches!(r.state, JobState::Waiting { .. })) else {
            return Ok(Ok(false));
        };
        if !self.settings.capture {
            match self.rate_limiter.try_acquire(Some(&**domain), now) {
                Ok(()) => {}
                Err(RateExceeded::All(until)) => return Ok(Err(until)),
                Err(RateExceeded::Key(until)) => {
                    self.closed_domains.insert(Arc::clone(domain), until);
                    return Ok(Ok(true));
                }
            }
        }
        self.recent_domains.retain(|late| late != domain);
        self.recent_domains.push_back(Arc::clone(domain));
        if self.recent_domains.len() > PAGE {
            self.recent_domains.pop_front();
        }
        let attempt = Arc::clone(&self.runner).run(record);
        self.spawn((id, Arc::clone(domain), lease), attempt);
        Ok(Ok(true))
    }

    fn spawn(
        &mut self,
        leased: (JobId, Arc<str>, Lease),
        attempt: impl Future<Output = JobEnd> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(attempt);
        self.running.insert(handle.id(), leased);
        self.update_gauge();
    }

    /// Handles the end of an attempt, a panic included.
    async fn handle_end(
        &mut self,
        ended: Result<(Id, JobEnd), JoinError>,
    ) -> Result<(), OutboundWorkerError> {
        let (task, ended) = match ended {
            Ok((task, ended)) => (task, ended),
            Err(error) => {
                let task = error.id();
                let ended = match self.running.get(&task) {
                    Some((id, ..)) => self.runner.fail_after_panic(*id).await,
                    None => JobEnd::Recorded,
                };
                (task, ended)
            }
        };
        let Some((_, domain, lease)) = self.running.remove(&task) else {
            return Ok(());
        };
        drop(lease);
        self.update_gauge();
        self.closed_domains.remove(&domain);
        match ended {
            JobEnd::Recorded => {}
            JobEnd::Pause(wait) => self.paused_until = Some(Instant::now() + wait),
            JobEnd::StoreDead => return Err(OutboundWorkerError::StoreDead),
        }
        Ok(())
    }

    /// Closes connections that have been idle for too long, in a separate task.
    fn close_idle_connections(&mut self) {
        if self.cleaned_up_at.elapsed() < POLL_INTERVAL {
            return;
        }
        self.cleaned_up_at = Instant::now();
        let desk = Arc::clone(&self.runner);
        drop(task::spawn(
            async move { desk.relays.close_idle(false).await },
        ));
    }

    fn has_capacity(&self) -> bool {
        // After failures a relay is tested with one mail, not with all.
        let doubtful = !self.settings.capture && self.runner.relays.all_failing();
        let most = if doubtful {
            1
        } else {
            self.settings.connections
        };
        self.tasks.len() < most
    }

    async fn next_due(&self, claim: &Claim) -> Result<Option<Timestamp>, StoreError> {
        self.runner.store.next_due(claim, &self.closed()).await
    }

    /// The time up to which jobs count as due: now, or later after the clock was set back.
    async fn due_horizon(&self, claim: &Claim, wall: Timestamp) -> Result<Timestamp, StoreError> {
        let longest = self.settings.schedule.longest_wait() + CLOCK_SLACK;
        let next = self.next_due(claim).await?;
        let far = next.filter(|next| next.since(wall) > longest);
        Ok(far.unwrap_or(wall))
    }

    fn update_gauge(&self) {
        let count = i64::try_from(self.tasks.len()).unwrap_or(i64::MAX);
        self.runner.metrics.in_flight.set(count);
    }
}
