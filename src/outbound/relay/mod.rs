//! Owns the way to the relays: which relay is used, over which connection, and the outcome.
//!
//! Does not know jobs, and never repeats a mail that may have arrived. `lettre` (0.11.23) is not
//! used, because it keeps data received before STARTTLS, reads a line completely before it checks
//! the length, accepts 250 after DATA and 354 after the mail, and limits single reads but not a
//! whole step.

mod connection;
pub mod dot_stuffing;
mod error;
pub mod probe;
pub mod reply;
pub mod settings;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tracing::{info, warn};

use super::metrics::Metrics;
use crate::mail::address::Address;
use crate::mail::redact;
use crate::retry::{self, SendAttempts, SendSchedule};
use connection::{RefusalScope, RelayConnection};
use error::RelayError;
use reply::truncate_text;
use settings::{Relay, RelayPoolSettings};

/// The longest time a failed relay is left alone, however long mails may wait.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// The number of consecutive refused mails after which a relay is left alone in favour of another.
const REFUSALS_MAX: u32 = 5;
/// The most mails over one connection.
const MAILS_MAX: u32 = 100;
/// The longest age and the longest idle time of a connection.
const AGE_MAX: Duration = Duration::from_secs(300);
const IDLE_MAX: Duration = Duration::from_secs(20);

/// A mail to one recipient, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct RelayMail<'a> {
    /// The envelope sender; `None` is the null sender.
    pub from: Option<&'a Address>,
    /// The one envelope recipient.
    pub to: &'a Address,
    /// The mail, dot-stuffed and terminated ([`dot_stuffing::dot_stuffed`]).
    pub wire: &'a [u8],
    /// The length of the mail without dot-stuffing, in octets.
    pub bytes: usize,
    /// True if the mail has octets above 127.
    pub is_eight_bit: bool,
}

/// The outcome of sending a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The relay has the mail: it answered the end of the mail with 2xx.
    Sent {
        /// The relay's reply.
        reply: String,
    },
    /// The relay does not have the mail, and may accept it later.
    TemporaryFailure {
        /// The relay's reply, or the reason why no relay was asked.
        reply: String,
    },
    /// The mail will never be accepted.
    PermanentFailure {
        /// The reply code, if the relay refused.
        code: Option<u16>,
        /// The relay's reply, or the local reason.
        reply: String,
    },
    /// The end of the mail was sent and no reply followed: only the relay knows whether it has the
    /// mail.
    Unknown {
        /// The description of the failure.
        why: String,
    },
    /// The program stopped before the end of the mail was on its way: the relay does not have it.
    Cancelled,
}

impl SendOutcome {
    fn temporary(reply: String) -> Self {
        Self::TemporaryFailure {
            reply: truncate_text(reply),
        }
    }

    fn permanent(reply: String) -> Self {
        let reply = truncate_text(reply);
        Self::PermanentFailure { code: None, reply }
    }

    /// The same outcome with a changed text.
    fn map_reply(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Sent { reply } => {
                let reply = change(reply);
                Self::Sent { reply }
            }
            Self::TemporaryFailure { reply } => {
                let reply = change(reply);
                Self::TemporaryFailure { reply }
            }
            Self::PermanentFailure { code, reply } => {
                let reply = change(reply);
                Self::PermanentFailure { code, reply }
            }
            Self::Unknown { why } => Self::Unknown { why: change(why) },
            Self::Cancelled => Self::Cancelled,
        }
    }

    /// The name of the outcome in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::TemporaryFailure { .. } => "again",
            Self::PermanentFailure { .. } => "never",
            Self::Unknown { .. } => "unknown",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The wait before the mail's next attempt, if there is one.
pub type NextAttempt<'a> = dyn Fn() -> Option<Duration> + Send + Sync + 'a;

/// All relays, in order of preference.
pub struct RelayPool {
    relays: Vec<Relay>,
    settings: RelayPoolSettings,
    states: Mutex<Vec<RelayState>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct RelayState {
    idle: Vec<RelayConnection>,
    failures: u32,
    /// Consecutive mails that the relay refused for reasons other than the recipient.
    refusals: u32,
    /// The time before which the relay is not used.
    backoff_until: Option<Instant>,
}

/// The decision of one relay on a mail.
enum RelayDecision {
    /// The outcome is final.
    Final(SendOutcome),
    /// The relay does not have the mail, and another relay may take it.
    Declined(Decline),
}

/// The reason why a relay does not have a mail.
struct Decline {
    text: String,
    /// True if the text is nothing but the relay's reply.
    is_reply: bool,
    /// The reply code of a permanent refusal.
    code: Option<u16>,
}

impl Decline {
    const fn without_reply(text: String) -> Self {
        Self {
            text,
            is_reply: false,
            code: None,
        }
    }
}

/// One attempt to send a mail, whichever relay takes it.
struct RelayAttempt<'a> {
    mail: &'a RelayMail<'a>,
    until: Instant,
    next: &'a NextAttempt<'a>,
    /// True once the program stops and the mail may not begin to end any more.
    stopping: &'a watch::Receiver<bool>,
}

impl RelayPool {
    /// A pool without connections.
    pub fn new(relays: Vec<Relay>, settings: RelayPoolSettings, metrics: Arc<Metrics>) -> Self {
        for relay in &relays {
            metrics.set_up(&relay.label(), true);
        }
        Self {
            states: Mutex::new(relays.iter().map(|_| RelayState::default()).collect()),
            relays,
            settings,
            metrics,
        }
    }

    /// The time at which the first relay can be used again; `None` if one can be used now.
    pub fn available_at(&self, now: Instant) -> Option<Instant> {
        let states = self.states();
        let mut first = None;
        for state in states.iter() {
            let until = state.backoff_until.filter(|until| *until > now)?;
            first = Some(first.map_or(until, |first: Instant| first.min(until)));
        }
        first
    }

    /// Allows every relay to be used again at once.
    pub fn end_backoff(&self) {
        for state in self.states().iter_mut() {
            state.backoff_until = None;
        }
    }

    /// True if every relay failed lately, so that one attempt at a time is enough.
    pub fn all_failing(&self) -> bool {
        self.states().iter().all(|state| state.failures > 0)
    }

    /// Sends one mail, and returns the relay used as `host:port`. It takes the time of an attempt at
    /// most. Further relays are tried as long as nothing was
    /// transferred: when a relay cannot be reached, fails before DATA, refuses for now, or refuses
    /// the sender. A refusal is permanent if a relay refuses the recipient or the content for good,
    /// or if every relay refuses the sender for good.
    ///
    /// `next` returns the wait before the mail's next attempt, if there is one: a single relay is
    /// not left alone for longer. Once `stopping` is true, a mail whose end is not on its way is
    /// cancelled.
    pub async fn send(
        &self,
        mail: &RelayMail<'_>,
        next: &NextAttempt<'_>,
        stopping: &watch::Receiver<bool>,
    ) -> (SendOutcome, Option<String>) {
        let until = Instant::now() + self.settings.timeouts.attempt;
        let mut declines: Vec<(String, Decline)> = Vec::new();
        for (at, relay) in self.relays.iter().enumerate() {
            if self.is_backed_off(at) {
                continue;
            }
            let relay = relay.label();
            if let Some((last, Decline { text, .. })) = declines.last() {
                info!(
                    relay = last,
                    next = relay,
                    "the next relay is asked: {text}"
                );
            }
            let attempt = RelayAttempt {
                mail,
                until,
                next,
                stopping,
            };
            match self.try_relay(at, &attempt).await {
                RelayDecision::Final(outcome) => return (outcome, Some(relay)),
                RelayDecision::Declined(decline) => declines.push((relay, decline)),
            }
            if Instant::now() >= until {
                break;
            }
        }
        let last = declines.last().map(|(relay, _)| relay.clone());
        (self.combine_declines(&declines), last)
    }

    /// Offers the mail to one relay.
    async fn try_relay(&self, at: usize, attempt: &RelayAttempt<'_>) -> RelayDecision {
        let RelayAttempt {
            mail,
            until,
            next,
            stopping,
        } = *attempt;
        let opened = tokio::select! {
            biased;
            opened = self.connection(at, until) => opened,
            () = stopped(stopping) => Err(RelayError::Cancelled),
        };
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(RelayError::Cancelled) => return RelayDecision::Final(SendOutcome::Cancelled),
            Err(error) => {
                let reason = self.redact_text(&error);
                self.back_off(at, &reason, next);
                return RelayDecision::Declined(Decline::without_reply(reason));
            }
        };
        let result = match connection.send(mail, stopped(stopping)).await {
            Ok(result) => result,
            Err(RelayError::Cancelled) => return RelayDecision::Final(SendOutcome::Cancelled),
            Err(error) => {
                drop(connection);
                let reason = self.redact_text(&error);
                // A failure with this mail says little about the next one, unless it concerns the
                // session.
                if matches!(error, RelayError::Unsuitable(_)) {
                    self.back_off(at, &reason, next);
                } else if error.concerns_every_mail() {
                    self.record_refusal(at, false, &reason, next);
                }
                return RelayDecision::Declined(Decline::without_reply(reason));
            }
        };
        match result.is_reusable {
            true => self.return_to_pool(at, connection).await,
            false => drop(connection),
        }
        let outcome = result.outcome.map_reply(|reply| self.redact_text(&reply));
        match (result.refusal, &outcome) {
            (
                Some(RefusalScope::Sender | RefusalScope::Content),
                SendOutcome::TemporaryFailure { reply },
            )
            | (
                Some(RefusalScope::Sender | RefusalScope::Content),
                SendOutcome::PermanentFailure { reply, .. },
            ) => {
                self.record_refusal(at, !reply.starts_with("421"), reply, next);
            }
            (_, SendOutcome::Sent { .. }) => self.record_response(at, true),
            (Some(_), _) | (None, SendOutcome::PermanentFailure { .. }) => {
                self.record_response(at, false)
            }
            (None, _) => {}
        }
        let (text, code) = match (result.refusal, outcome) {
            (Some(_), SendOutcome::TemporaryFailure { reply }) => (reply, None),
            (Some(RefusalScope::Sender), SendOutcome::PermanentFailure { code, reply }) => {
                (reply, code)
            }
            (_, outcome) => return RelayDecision::Final(outcome),
        };
        RelayDecision::Declined(Decline {
            text,
            is_reply: true,
            code,
        })
    }

    /// The outcome when every tried relay declined: permanent only if no relay is left that may
    /// accept the mail.
    fn combine_declines(&self, declines: &[(String, Decline)]) -> SendOutcome {
        let is_all = !declines.is_empty() && declines.len() == self.relays.len();
        let is_final = is_all && declines.iter().all(|(_, decline)| decline.code.is_some());
        let reply = match declines {
            [] => "no relay can be spoken to now".to_owned(),
            [(_, decline)] if decline.is_reply => decline.text.clone(),
            declines => {
                let each = declines
                    .iter()
                    .map(|(relay, decline)| format!("{relay}: {}", decline.text));
                each.collect::<Vec<_>>().join("; ")
            }
        };
        if is_final {
            let code = declines.last().and_then(|(_, decline)| decline.code);
            let reply = truncate_text(reply);
            return SendOutcome::PermanentFailure { code, reply };
        }
        SendOutcome::temporary(reply)
    }

    /// Closes connections that have been idle for too long, or all of them if `is_over`.
    pub async fn close_idle(&self, is_over: bool) {
        let now = Instant::now();
        let mut old = Vec::new();
        for state in self.states().iter_mut() {
            let (stay, go) = std::mem::take(&mut state.idle)
                .into_iter()
                .partition(|connection| !is_over && is_fresh(connection, now));
            state.idle = stay;
            old.extend::<Vec<RelayConnection>>(go);
        }
        join_all(old.into_iter().map(RelayConnection::quit)).await;
    }

    /// An idle connection that still works, or a new one.
    async fn connection(&self, at: usize, until: Instant) -> Result<RelayConnection, RelayError> {
        loop {
            let idle = self.states()[at].idle.pop();
            let Some(mut connection) = idle else {
                break;
            };
            if !is_fresh(&connection, Instant::now()) {
                connection.quit().await;
            } else if connection.resume(until).await.is_ok() {
                return Ok(connection);
            }
        }
        RelayConnection::open(
            &self.relays[at],
            &self.settings.ehlo_name,
            self.settings.timeouts,
            until,
            &self.metrics.connections,
        )
        .await
    }

    async fn return_to_pool(&self, at: usize, connection: RelayConnection) {
        if is_fresh(&connection, Instant::now()) {
            self.states()[at].idle.push(connection);
            return;
        }
        connection.quit().await;
    }

    fn is_backed_off(&self, at: usize) -> bool {
        let until = self.states()[at].backoff_until;
        until.is_some_and(|until| until > Instant::now())
    }

    /// A relay that replies to a mail is available, unless it keeps refusing.
    fn record_response(&self, at: usize, accepted: bool) {
        let mut states = self.states();
        let state = &mut states[at];
        if accepted {
            state.refusals = 0;
        }
        if state.refusals < REFUSALS_MAX {
            self.mark_available(at, states);
        }
    }

    /// Counts a refusal: after several in a row the relay is left alone if another one works.
    /// Otherwise it counts as available if it `answers`.
    fn record_refusal(&self, at: usize, answers: bool, reason: &str, next: &NextAttempt<'_>) {
        let mut states = self.states();
        states[at].refusals = states[at].refusals.saturating_add(1);
        let mut others = states.iter().enumerate().filter(|(other, _)| *other != at);
        let is_one_well = others.any(|(_, other)| other.failures == 0);
        if states[at].refusals >= REFUSALS_MAX && is_one_well {
            drop(states);
            self.back_off(at, reason, next);
        } else if answers {
            self.mark_available(at, states);
        }
    }

    fn mark_available(&self, at: usize, mut states: MutexGuard<'_, Vec<RelayState>>) {
        let state = &mut states[at];
        if state.failures == 0 {
            return;
        }
        state.failures = 0;
        state.backoff_until = None;
        drop(states);
        let relay = self.relays[at].label();
        self.metrics.set_up(&relay, true);
        info!(relay, "the relay takes mail again");
    }

    fn back_off(&self, at: usize, reason: &str, next: &NextAttempt<'_>) {
        let mut states = self.states();
        let state = &mut states[at];
        // Several failures at the same time count once.
        if state
            .backoff_until
            .is_some_and(|until| until > Instant::now())
        {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        let schedule = SendSchedule {
            retries_max: None,
            ..self.settings.schedule
        };
        let attempts = SendAttempts {
            attempts: state.failures,
            unknown_outcomes: 0,
        };
        let wait = retry::next_send_after(&schedule, attempts, BACKOFF_MAX, 0);
        let mut wait = wait.unwrap_or(BACKOFF_MAX);
        if self.relays.len() == 1
            && let Some(next) = next()
        {
            wait = wait.min(next);
        }
        state.backoff_until = Some(Instant::now() + wait);
        let is_first = state.failures == 1;
        drop(states);
        let relay = self.relays[at].label();
        self.metrics.set_up(&relay, false);
        let wait = wait.as_secs_f64();
        if is_first {
            warn!(relay, wait, "the relay cannot be used: {reason}");
        } else {
            info!(relay, wait, "the relay still cannot be used: {reason}");
        }
    }

    /// A relay's text without reply addresses: a relay repeats what it refuses, even in its
    /// greeting.
    fn redact_text(&self, text: &impl ToString) -> String {
        redact::reply_addresses(&text.to_string(), &self.settings.own_domains).into_owned()
    }

    fn states(&self) -> MutexGuard<'_, Vec<RelayState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves once it is true; never if nobody can set it any more.
async fn stopped(stopping: &watch::Receiver<bool>) {
    if stopping.clone().wait_for(|stops| *stops).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn is_fresh(connection: &RelayConnection, now: Instant) -> bool {
    connection.mails < MAILS_MAX
        && now.saturating_duration_since(connection.opened) < AGE_MAX
        && now.saturating_duration_since(connection.last_used) < IDLE_MAX
}
