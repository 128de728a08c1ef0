//! Owns one attempt at one job: the permission to send, the sending, and the facts recorded about it.
//!
//! Does not choose the job, nor the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::{task, time};
use tracing::{error, info, warn};

use super::dkim::{self, DkimSigningKey};
use super::metrics::Metrics;
use super::relay::reply::truncate_text;
use super::relay::{RelayMail, RelayPool, SendOutcome, dot_stuffing};
use crate::clock::{self, Timestamp};
use crate::mail::address::Domain;
use crate::mail::job_id::JobId;
use crate::mail::text::bare_message_id;
use crate::random;
use crate::retry::{self, SendAttempts, SendSchedule};
use crate::store::{
    Event, EventKind, Fact, Job, JobOutcome, JobRecord, JobState, JobStateKind, ReadError, Store,
    StoreError, WorkClaim,
};

/// The pause if the store has no space to record the beginning of an attempt.
const STORE_FULL_PAUSE: Duration = Duration::from_secs(10);
/// The time between two tries to record a result while the store is full.
const RECORD_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum length in octets of the product's own ids in an event.
const NAME_BYTES_MAX: usize = 256;
/// The maximum number of interrupted jobs that are named in the log at a start.
const INTERRUPTED_LOGGED_MAX: usize = 100;

/// Everything that attempts need.
pub(super) struct JobRunner {
    pub(super) store: Store,
    /// The claim to the jobs that are attempted.
    pub(super) claim: WorkClaim,
    pub(super) relays: RelayPool,
    pub(super) signers: Arc<[DkimSigningKey]>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) schedule: SendSchedule,
    /// The number of hard bounces that suppress an address.
    pub(super) suppress_after: u32,
    /// The reply domains: a mail to one of them would come back as a reply.
    pub(super) own_domains: Vec<Domain>,
    /// True if jobs are kept for inspection and none is sent.
    pub(super) capture: bool,
    /// True after the stop: then attempts are cancelled unless the end of their mail is being sent.
    pub(super) stopping: watch::Sender<bool>,
    /// Milliseconds by which the wall clock has jumped ahead: jobs expire later by this time.
    pub(super) clock_ahead: AtomicU64,
}

/// A mail in the form that is sent to the relay.
struct PreparedMail {
    /// The mail with its signatures, dot-stuffed and terminated.
    wire: Vec<u8>,
    /// Octets of the mail itself.
    bytes: usize,
    is_eight_bit: bool,
}

/// The result of an attempt, for the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobEnd {
    /// The result is recorded.
    Recorded,
    /// Nothing was done; no job may begin before this time has passed.
    Pause(Duration),
    /// The store no longer accepts anything.
    StoreDead,
}

impl JobRunner {
    /// Makes one attempt. Its beginning is on disk before the first byte is sent.
    pub(super) async fn run(self: Arc<Self>, record: JobRecord) -> JobEnd {
        let job = &record.job;
        let now = clock::now();
        if self.capture {
            return self.keep_captured(job.id, now).await;
        }
        match self.local_refusal(job, now).await {
            Ok(None) => {}
            Ok(Some(reason)) => {
                self.metrics.count_attempt("refused");
                return self.fail(&record, None, reason).await;
            }
            Err(StoreError::Dead) => return JobEnd::StoreDead,
            Err(_) => return JobEnd::Pause(STORE_FULL_PAUSE),
        }
        let mail = match self.store.job_mail(job.id).await {
            Ok(mail) => mail,
            Err(ReadError::Store(StoreError::Dead)) => return JobEnd::StoreDead,
            // An unreadable job must not hold back the others.
            Err(ReadError::Store(error)) => {
                let reply = format!("internal: its mail cannot be read now: {error}");
                let outcome = SendOutcome::TemporaryFailure { reply };
                return self.conclude(&record, outcome, None).await;
            }
            // The job was cancelled a moment ago.
            Err(ReadError::NoJob(_)) => return JobEnd::Recorded,
            Err(error) => {
                error!(job = %job.id, %error, "the mail of a job cannot be read");
                let reason = "internal: its mail cannot be read".to_owned();
                self.metrics.count_attempt("failed");
                return self.fail(&record, None, reason).await;
            }
        };
        let begun = Fact::Begun {
            job: job.id,
            at: now,
        };
        match self.claim.finish(vec![begun]).await {
            Ok(()) => {}
            Err(StoreError::Dead) => return JobEnd::StoreDead,
            Err(_) => return JobEnd::Pause(STORE_FULL_PAUSE),
        }
        // A job that a person cancelled in the meantime ignores the fact of its beginning.
        let record = match self.store.job(job.id).await {
            Ok(Some(record)) if record.begun_at.is_some() => record,
            Ok(_) => return JobEnd::Recorded,
            Err(StoreError::Dead) => return JobEnd::StoreDead,
            Err(_) => return JobEnd::Pause(STORE_FULL_PAUSE),
        };
        let (runner, job) = (Arc::clone(&self), record.job.clone());
        let prepared = match task::spawn_blocking(move || runner.prepare(&job, &mail)).await {
            Ok(prepared) => prepared,
            Err(error) if error.is_panic() => return self.fail_after_panic(record.job.id).await,
            // The runtime is shutting down; the next start finds the job begun.
            Err(_) => return JobEnd::Pause(RECORD_RETRY_INTERVAL),
        };
        // A person retried the job, perhaps because a relay's policy was fixed: a kept connection may still
        // belong to a relay process with the old one.
        let last = record.history.last();
        if last.is_some_and(|last| last.what == "retried") {
            self.relays.close_idle(true).await;
        }
        let (outcome, relay) = match prepared {
            Ok(mail) => self.send(&record, &mail).await,
            Err(outcome) => (outcome, None),
        };
        let is_doubt = matches!(outcome, SendOutcome::Unknown { .. });
        let record = JobRecord {
            doubts: record.doubts.saturating_add(is_doubt.into()),
            ..record
        };
        self.conclude(&record, outcome, relay).await
    }

    /// Ends a job whose mail is only for viewing.
    async fn keep_captured(&self, job: JobId, at: Timestamp) -> JobEnd {
        info!(%job, "captured: kept for viewing, not sent");
        let outcome = JobOutcome::Captured;
        self.record(vec![Fact::Ended { job, outcome, at }]).await
    }

    /// The time at which a job expires, by the wall clock as it is now.
    pub(super) fn ends_at(&self, job: &Job) -> Timestamp {
        let ahead = self.clock_ahead.load(Ordering::Relaxed);
        job.ends_at.plus(Duration::from_millis(ahead))
    }

    /// Fails a job that has expired while no relay is available.
    pub(super) async fn give_up(self: Arc<Self>, record: JobRecord) -> JobEnd {
        let last = record.history.last();
        let last = last.map_or("no relay can be spoken to", |trial| trial.reply.as_str());
        let reason = format!("{}: {last}", no_success(&record));
        self.fail(&record, None, reason).await
    }

    /// Fails a job whose attempt panicked: the next attempt would do the same, so its mail waits
    /// for a person.
    pub(super) async fn fail_after_panic(&self, id: JobId) -> JobEnd {
        error!(job = %id, "an attempt panicked: the job waits for a person");
        self.metrics.count_attempt("panicked");
        let waits = |record: &JobRecord| matches!(record.state, JobState::Waiting { .. });
        match self.store.job(id).await.map(|job| job.filter(waits)) {
            Ok(Some(record)) => {
                // The attempt may have failed before or after the mail was sent.
                let is_doubt = record.begun_at.is_some();
                let record = JobRecord {
                    doubts: record.doubts.saturating_add(is_doubt.into()),
                    ..record
                };
                let reason = "the attempt panicked".to_owned();
                self.fail(&record, None, reason).await
            }
            Ok(None) => JobEnd::Recorded,
            Err(StoreError::Dead) => JobEnd::StoreDead,
            Err(_) => JobEnd::Pause(STORE_FULL_PAUSE),
        }
    }

    /// Logs the jobs whose attempt was interrupted by the end of the last process: they may be sent
    /// twice. Blocks.
    pub(super) async fn log_interrupted_jobs(&self) -> Result<(), StoreError> {
        const PAGE: usize = 4_096;
        let waiting = Some(JobStateKind::Waiting);
        let (mut after, mut count) = (None, 0);
        loop {
            let page = self.store.jobs(waiting, after, PAGE).await?;
            for record in page.iter().filter(|record| record.begun_at.is_some()) {
                count += 1;
                if count <= INTERRUPTED_LOGGED_MAX {
                    warn!(
                        job = %record.job.id,
                        message_id = %record.job.message_id.escape_debug(),
                        "was being sent when the program ended: it will be sent again, perhaps for the \
                         second time"
                    );
                }
            }
            after = page.last().map(|record| record.job.id);
            if page.len() < PAGE {
                break;
            }
        }
        if count > INTERRUPTED_LOGGED_MAX {
            warn!(count, "jobs were being sent when the program ended");
        }
        Ok(())
    }

    /// The reason why this job may not be sent at all, if there is one.
    async fn local_refusal(&self, job: &Job, now: Timestamp) -> Result<Option<String>, StoreError> {
        if self.own_domains.contains(job.recipient.domain()) {
            let why = "556 5.1.10 the recipient is at one of our own reply domains";
            return Ok(Some(why.to_owned()));
        }
        let Some(suppression) = self.store.suppression(&job.recipient, now).await? else {
            return Ok(None);
        };
        // A person's entry suppresses the address at once, bounces do from a number of them.
        let bounces = suppression.bounces;
        if bounces != 0 && bounces < self.suppress_after {
            return Ok(None);
        }
        Ok(Some(truncate_text(format!(
            "suppressed until {}: {}",
            suppression.until, suppression.reason
        ))))
    }

    /// Signs the mail. Blocks.
    ///
    /// # Errors
    /// The outcome of an attempt that cannot be made.
    fn prepare(&self, job: &Job, mail: &[u8]) -> Result<PreparedMail, SendOutcome> {
        let never = |reply: String| SendOutcome::PermanentFailure { code: None, reply };
        let fields = dkim::signature_fields(&self.signers, mail).map_err(|error| {
            error!(job = %job.id, %error, "a mail cannot be signed");
            let reply = format!("internal: {error}");
            SendOutcome::TemporaryFailure { reply }
        })?;
        let wire = dot_stuffing::dot_stuffed(&[fields.as_bytes(), mail]).map_err(|error| {
            error!(job = %job.id, %error, "a composed mail is not in canonical form");
            never(format!("internal: {error}"))
        })?;
        Ok(PreparedMail {
            wire,
            bytes: fields.len() + mail.len(),
            is_eight_bit: !mail.is_ascii(),
        })
    }

    /// Sends the mail. `record` counts this attempt.
    async fn send(&self, record: &JobRecord, mail: &PreparedMail) -> (SendOutcome, Option<String>) {
        let job = &record.job;
        let letter = RelayMail {
            from: job.return_path.as_ref(),
            to: &job.recipient,
            wire: &mail.wire,
            bytes: mail.bytes,
            is_eight_bit: mail.is_eight_bit,
        };
        let tries = attempt_counts(record);
        let next = || {
            let left = self.ends_at(job).since(clock::now());
            retry::next_send_after(&self.schedule, tries, left, 0)
        };
        let began = Instant::now();
        let stopping = self.stopping.subscribe();
        let sent = self.relays.send(&letter, &next, &stopping).await;
        self.metrics.observe_attempt(began.elapsed());
        sent
    }

    async fn conclude(
        &self,
        record: &JobRecord,
        attempt: SendOutcome,
        relay: Option<String>,
    ) -> JobEnd {
        self.metrics.count_attempt(attempt.name());
        let id = record.job.id;
        let now = clock::now();
        let (reply, in_doubt) = match attempt {
            SendOutcome::Sent { reply } => {
                let relay = relay.unwrap_or_default();
                self.metrics.observe_age(now.since(record.job.made_at));
                info!(job = %id, relay, attempts = record.attempts, reply, "sent");
                let told = [("relay", relay.clone()), ("reply", reply.clone())];
                let event = event(EventKind::OutboundSent, record, now, told);
                let outcome = JobOutcome::Sent { relay, reply };
                let ended = Fact::Ended {
                    job: id,
                    outcome,
                    at: now,
                };
                return self.record(vec![ended, Fact::Happened(event)]).await;
            }
            SendOutcome::PermanentFailure { reply, .. } => {
                return self.fail(record, relay, reply).await;
            }
            SendOutcome::TemporaryFailure { reply } => (reply, false),
            SendOutcome::Cancelled => return self.record_cancelled(id, now).await,
            SendOutcome::Unknown { why } => {
                warn!(
                    job = %id,
                    message_id = %record.job.message_id.escape_debug(),
                    "no reply to the end of the mail, so it may arrive twice: {why}"
                );
                (why, true)
            }
        };
        let left = self.ends_at(&record.job).since(now);
        let Some(wait) = retry::next_send_after(
            &self.schedule,
            attempt_counts(record),
            left,
            random::number(),
        ) else {
            let reason = format!("{}: {reply}", no_success(record));
            return self.fail(record, relay, reason).await;
        };
        let reply = match in_doubt {
            true => truncate_text(format!("it may have arrived: {reply}")),
            false => reply,
        };
        let due_at = now.plus(wait);
        let seconds = wait.as_secs();
        info!(job = %id, relay, attempts = record.attempts, seconds, reply, "not sent, will be retried");
        let told = [
            ("relay", relay.clone().unwrap_or_default()),
            ("reason", reply.clone()),
            ("nextAttemptAt", due_at.to_rfc3339()),
        ];
        let event = event(EventKind::OutboundDeferred, record, now, told);
        let deferred = Fact::Deferred {
            job: id,
            at: now,
            due_at,
            relay,
            reply,
            in_doubt,
        };
        self.record(vec![deferred, Fact::Happened(event)]).await
    }

    /// Records that an attempt was cancelled. The relay does not have the mail, so the next start sends
    /// it without a doubt.
    async fn record_cancelled(&self, job: JobId, now: Timestamp) -> JobEnd {
        info!(%job, "not sent: the program is stopping");
        let deferred = Fact::Deferred {
            job,
            at: now,
            due_at: now,
            relay: None,
            reply: "the program stopped before the mail was sent".to_owned(),
            in_doubt: false,
        };
        self.record(vec![deferred]).await
    }

    async fn fail(&self, record: &JobRecord, relay: Option<String>, reason: String) -> JobEnd {
        let (id, at) = (record.job.id, clock::now());
        // A later result does not change that an earlier attempt may have sent the mail.
        let reason = match record.doubts {
            0 => truncate_text(reason),
            _ => truncate_text(format!("in doubt, it may have arrived: {reason}")),
        };
        warn!(job = %id, relay, attempts = record.attempts, reason, "failed: it waits for a person");
        let told = [
            ("relay", relay.clone().unwrap_or_default()),
            ("reason", reason.clone()),
        ];
        let event = event(EventKind::OutboundFailed, record, at, told);
        let outcome = JobOutcome::Failed { relay, reason };
        let ended = Fact::Ended {
            job: id,
            outcome,
            at,
        };
        self.record(vec![ended, Fact::Happened(event)]).await
    }

    /// Records facts, and waits while the disk is full: an unrecorded attempt would be repeated.
    async fn record(&self, facts: Vec<Fact>) -> JobEnd {
        let mut is_told = false;
        loop {
            match self.claim.finish(facts.clone()).await {
                Ok(()) => return JobEnd::Recorded,
                Err(StoreError::Dead) => return JobEnd::StoreDead,
                Err(_) => {
                    if !std::mem::replace(&mut is_told, true) {
                        warn!("no space to record the result of a job: waiting");
                    }
                    time::sleep(RECORD_RETRY_INTERVAL).await;
                }
            }
        }
    }
}

const fn attempt_counts(record: &JobRecord) -> SendAttempts {
    SendAttempts {
        attempts: record.attempts,
        unknown_outcomes: record.doubts,
    }
}

fn no_success(record: &JobRecord) -> String {
    if record.doubts >= retry::UNKNOWN_OUTCOMES_MAX {
        return format!("no reply to its end, {} times", record.doubts);
    }
    format!("no success in {} attempts", record.attempts)
}

/// The event for the product. Empty texts become null.
fn event<const N: usize>(
    kind: EventKind,
    record: &JobRecord,
    at: Timestamp,
    more: [(&str, String); N],
) -> Event {
    let job = &record.job;
    let known = [
        ("jobId", job.id.to_string()),
        ("threadId", job.thread_id.clone().unwrap_or_default()),
        (
            "messageId",
            job.product_message_id.clone().unwrap_or_default(),
        ),
        (
            "emailMessageId",
            bare_message_id(&job.message_id).to_owned(),
        ),
        ("recipient", job.recipient.to_string()),
    ];
    let mut data = Map::new();
    let value = |text: String| Value::from(Some(text).filter(|text| !text.is_empty()));
    for (name, text) in known {
        data.insert(name.to_owned(), value(truncate_name(text)));
    }
    data.insert("attempts".to_owned(), Value::from(record.attempts));
    for (name, text) in more {
        data.insert(name.to_owned(), value(text));
    }
    if matches!(
        kind,
        EventKind::OutboundDeferred | EventKind::OutboundFailed
    ) {
        data.insert("inDoubt".to_owned(), Value::from(record.doubts > 0));
    }
    Event {
        kind,
        at,
        thread_id: job.thread_id.clone(),
        data,
    }
}

fn truncate_name(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
    text
}
