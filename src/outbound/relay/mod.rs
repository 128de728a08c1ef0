//! Owns the way to the relays: which of them is spoken to, over which connection, and what came of
//! it.
//!
//! Does not know jobs, and never tries a mail twice that may have arrived. The client is our own:
//! `lettre` (0.11.23) keeps what it read before the encryption, reads a line without a bound before
//! it looks at its length, takes 250 for an answer to DATA and 354 for one to the end of a mail, and
//! has no limit on all of a step, only on each read.

mod connection;
pub mod probe;
pub mod reply;
mod secrets;
pub mod settings;
pub mod stuffing;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::compose::redact;
use super::metrics::Metrics;
use crate::mail::address::Address;
use crate::retry::{self, Patience, Tries};
use connection::{Connection, Fault, Refusal};
use reply::cut;
use settings::{Relay, Terms};

/// The longest time a relay is left alone that cannot be used, however long a mail may wait.
const ASIDE_MAX: Duration = Duration::from_secs(300);
/// Mails in a row, none taken between, after which a relay that refuses them is set aside for another.
const REFUSALS_MAX: u32 = 5;
/// Mails over one connection at most.
const MAILS_MAX: u32 = 100;
/// The oldest a connection may get, and the longest it may rest.
const AGE_MAX: Duration = Duration::from_secs(300);
const REST_MAX: Duration = Duration::from_secs(20);

/// One mail to one person, ready for the wire.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The envelope's sender; `None` is the null sender.
    pub from: Option<&'a Address>,
    /// The envelope's one recipient.
    pub to: &'a Address,
    /// The mail, stuffed and with its end ([`stuffing::stuffed`]).
    pub wire: &'a [u8],
    /// How long the mail itself is.
    pub bytes: usize,
    /// It has octets above 127.
    pub is_eight_bit: bool,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The relay has the mail: it said 2xx to its end.
    Sent {
        /// What it said.
        reply: String,
    },
    /// It does not have it, and another time it may take it.
    Again {
        /// What it said, or why it was not asked.
        reply: String,
    },
    /// It will never take it.
    Never {
        /// The code of its answer, if the no is its own.
        code: Option<u16>,
        /// What it said.
        reply: String,
    },
    /// The end of the mail was on its way and no answer to it came: only the relay knows.
    Unknown {
        /// What happened.
        why: String,
    },
}

impl Attempt {
    fn again(reply: String) -> Self {
        Self::Again { reply: cut(reply) }
    }

    fn never(reply: String) -> Self {
        let reply = cut(reply);
        Self::Never { code: None, reply }
    }

    /// The same with other words of the relay's.
    fn with_words(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Sent { reply } => {
                let reply = change(reply);
                Self::Sent { reply }
            }
            Self::Again { reply } => {
                let reply = change(reply);
                Self::Again { reply }
            }
            Self::Never { code, reply } => {
                let reply = change(reply);
                Self::Never { code, reply }
            }
            Self::Unknown { why } => Self::Unknown { why: change(why) },
        }
    }

    /// One word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::Again { .. } => "again",
            Self::Never { .. } => "never",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// All relays, in order of preference.
pub struct Relays {
    relays: Vec<Relay>,
    terms: Terms,
    states: Mutex<Vec<State>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    resting: Vec<Connection>,
    failures: u32,
    /// Mails it refused since it took one, by answers that are not about the recipient.
    refusals: u32,
    /// It is not spoken to before then.
    aside: Option<Instant>,
}

/// What one relay did with a mail.
enum Asked {
    /// It is decided, by its answer or by ours.
    Over(Attempt),
    /// It does not have it, and another may take it.
    No(No),
}

/// Why a relay does not have a mail.
struct No {
    words: String,
    /// The words are its reply alone.
    is_reply: bool,
    /// The code, if it is for good.
    code: Option<u16>,
}

impl No {
    const fn without_reply(words: String) -> Self {
        Self {
            words,
            is_reply: false,
            code: None,
        }
    }
}

impl Relays {
    /// Nothing is connected to yet.
    pub fn new(relays: Vec<Relay>, terms: Terms, metrics: Arc<Metrics>) -> Self {
        for relay in &relays {
            metrics.set_up(&relay.label(), true);
        }
        Self {
            states: Mutex::new(relays.iter().map(|_| State::default()).collect()),
            relays,
            terms,
            metrics,
        }
    }

    /// When one of them may be spoken to again; `None` if one may now.
    pub fn aside_until(&self, now: Instant) -> Option<Instant> {
        let states = self.states();
        let mut first = None;
        for state in states.iter() {
            let until = state.aside.filter(|until| *until > now)?;
            first = Some(first.map_or(until, |first: Instant| first.min(until)));
        }
        first
    }

    /// True if none of them was heard well lately: one attempt at a time is enough to find out.
    pub fn is_doubtful(&self) -> bool {
        self.states().iter().all(|state| state.failures > 0)
    }

    /// Sends one mail, and tells by which relay, as `host:port`. Blocks, at most as long as an attempt may
    /// take and the system's resolver needs. The next relay is asked as long as nothing was handed over: where
    /// one cannot be spoken to, which sets it aside, breaks off before it waits for the mail, refuses it for
    /// now, or refuses its sender. The mail is refused for good where one does so for its recipient or for
    /// itself, or each one for its sender.
    ///
    /// `next` says how long the mail would wait for its next attempt, if there is one: the only relay is
    /// not left alone for longer.
    pub fn send(
        &self,
        letter: &Letter<'_>,
        next: impl Fn() -> Option<Duration>,
    ) -> (Attempt, Option<String>) {
        let until = Instant::now() + self.terms.timeouts.attempt;
        let mut noes: Vec<(String, No)> = Vec::new();
        for (at, relay) in self.relays.iter().enumerate() {
            if self.is_aside(at) {
                continue;
            }
            let relay = relay.label();
            if let Some((last, No { words, .. })) = noes.last() {
                info!(
                    relay = last,
                    next = relay,
                    "the next relay is asked: {words}"
                );
            }
            match self.ask(at, letter, until, &next) {
                Asked::Over(attempt) => return (attempt, Some(relay)),
                Asked::No(no) => noes.push((relay, no)),
            }
            if Instant::now() >= until {
                break;
            }
        }
        let last = noes.last().map(|(relay, _)| relay.clone());
        (self.all_said_no(&noes), last)
    }

    /// Asks one relay to take the mail.
    fn ask(
        &self,
        at: usize,
        letter: &Letter<'_>,
        until: Instant,
        next: &impl Fn() -> Option<Duration>,
    ) -> Asked {
        let mut connection = match self.connection(at, until) {
            Ok(connection) => connection,
            Err(fault) => {
                let words = self.harmless(&fault);
                self.set_aside(at, &words, next);
                return Asked::No(No::without_reply(words));
            }
        };
        let told = match connection.send(letter) {
            Ok(told) => told,
            Err(fault) => {
                self.end(connection);
                let words = self.harmless(&fault);
                // What it does with this mail says little about the next, unless it is about us.
                if matches!(fault, Fault::Unfit(_)) {
                    self.set_aside(at, &words, next);
                } else if fault.is_about_all() {
                    self.refused(at, false, &words, next);
                }
                return Asked::No(No::without_reply(words));
            }
        };
        match told.rests {
            true => self.rest(at, connection),
            false => self.end(connection),
        }
        let attempt = told.attempt.with_words(|words| self.harmless(&words));
        match (told.refused, &attempt) {
            (Some(Refusal::Sender | Refusal::Content), Attempt::Again { reply: words })
            | (Some(Refusal::Sender | Refusal::Content), Attempt::Never { reply: words, .. }) => {
                self.refused(at, !words.starts_with("421"), words, next);
            }
            (_, Attempt::Sent { .. }) => self.settle(at, true),
            (Some(_), _) | (None, Attempt::Never { .. }) => self.settle(at, false),
            (None, _) => {}
        }
        let (words, code) = match (told.refused, attempt) {
            (Some(_), Attempt::Again { reply }) => (reply, None),
            (Some(Refusal::Sender), Attempt::Never { code, reply }) => (reply, code),
            (_, attempt) => return Asked::Over(attempt),
        };
        Asked::No(No {
            words,
            is_reply: true,
            code,
        })
    }

    /// What it comes to when no relay that was asked has the mail: for good only if none is left that may
    /// take it.
    fn all_said_no(&self, noes: &[(String, No)]) -> Attempt {
        let is_all = !noes.is_empty() && noes.len() == self.relays.len();
        let is_final = is_all && noes.iter().all(|(_, no)| no.code.is_some());
        let reply = match noes {
            [] => "no relay can be spoken to now".to_owned(),
            [(_, no)] if no.is_reply => no.words.clone(),
            noes => {
                let each = noes
                    .iter()
                    .map(|(relay, no)| format!("{relay}: {}", no.words));
                each.collect::<Vec<_>>().join("; ")
            }
        };
        if is_final {
            let code = noes.last().and_then(|(_, no)| no.code);
            let reply = cut(reply);
            return Attempt::Never { code, reply };
        }
        Attempt::again(reply)
    }

    /// Closes connections that rested too long; all of them with `is_over`. Blocks for a moment.
    pub fn tidy(&self, is_over: bool) {
        let now = Instant::now();
        let mut old = Vec::new();
        for state in self.states().iter_mut() {
            let (stay, go) = std::mem::take(&mut state.resting)
                .into_iter()
                .partition(|connection| !is_over && is_fresh(connection, now));
            state.resting = stay;
            old.extend::<Vec<Connection>>(go);
        }
        for connection in old {
            self.metrics.connections.dec();
            connection.quit();
        }
    }

    /// A connection that rested and is as it was left, or a new one.
    fn connection(&self, at: usize, until: Instant) -> Result<Connection, Fault> {
        loop {
            let rested = self.states()[at].resting.pop();
            let Some(mut connection) = rested else {
                break;
            };
            if !is_fresh(&connection, Instant::now()) {
                self.metrics.connections.dec();
                connection.quit();
            } else if connection.resume(until).is_ok() {
                return Ok(connection);
            } else {
                self.metrics.connections.dec();
            }
        }
        let relay = &self.relays[at];
        let opened = Connection::open(relay, &self.terms.hello, self.terms.timeouts, until)?;
        self.metrics.connections.inc();
        Ok(opened)
    }

    fn rest(&self, at: usize, connection: Connection) {
        if is_fresh(&connection, Instant::now()) {
            self.states()[at].resting.push(connection);
            return;
        }
        self.metrics.connections.dec();
        connection.quit();
    }

    fn end(&self, connection: Connection) {
        drop(connection);
        self.metrics.connections.dec();
    }

    fn is_aside(&self, at: usize) -> bool {
        let aside = self.states()[at].aside;
        aside.is_some_and(|until| until > Instant::now())
    }

    /// A relay that answers a mail, with whatever, is there, unless it takes none.
    fn settle(&self, at: usize, took: bool) {
        let mut states = self.states();
        let state = &mut states[at];
        if took {
            state.refusals = 0;
        }
        if state.refusals < REFUSALS_MAX {
            self.set_up(at, states);
        }
    }

    /// A relay that took none of several mails in a row is set aside while another was heard well. Else it
    /// is there if it `answers`.
    fn refused(&self, at: usize, answers: bool, words: &str, next: &impl Fn() -> Option<Duration>) {
        let mut states = self.states();
        states[at].refusals = states[at].refusals.saturating_add(1);
        let mut others = states.iter().enumerate().filter(|(other, _)| *other != at);
        let is_one_well = others.any(|(_, other)| other.failures == 0);
        if states[at].refusals >= REFUSALS_MAX && is_one_well {
            drop(states);
            self.set_aside(at, words, next);
        } else if answers {
            self.set_up(at, states);
        }
    }

    fn set_up(&self, at: usize, mut states: MutexGuard<'_, Vec<State>>) {
        let state = &mut states[at];
        if state.failures == 0 {
            return;
        }
        state.failures = 0;
        state.aside = None;
        drop(states);
        let relay = self.relays[at].label();
        self.metrics.set_up(&relay, true);
        info!(relay, "the relay takes mail again");
    }

    fn set_aside(&self, at: usize, words: &str, next: &impl Fn() -> Option<Duration>) {
        let mut states = self.states();
        let state = &mut states[at];
        // Of several that failed together, one counts.
        if state.aside.is_some_and(|until| until > Instant::now()) {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        let for_ever = Patience {
            again_max: None,
            ..self.terms.patience
        };
        let tries = Tries {
            attempts: state.failures,
            doubts: 0,
        };
        let wait = retry::outgoing(&for_ever, tries, ASIDE_MAX, 0);
        let mut wait = wait.unwrap_or(ASIDE_MAX);
        if self.relays.len() == 1
            && let Some(next) = next()
        {
            wait = wait.min(next);
        }
        state.aside = Some(Instant::now() + wait);
        let is_first = state.failures == 1;
        drop(states);
        let relay = self.relays[at].label();
        self.metrics.set_up(&relay, false);
        let wait = wait.as_secs_f64();
        if is_first {
            warn!(relay, wait, "the relay cannot be used: {words}");
        } else {
            info!(relay, wait, "the relay still cannot be used: {words}");
        }
    }

    /// A relay's words without the reply addresses in them: it repeats what it refuses, also to who only
    /// greets it.
    fn harmless(&self, words: &impl ToString) -> String {
        redact(&words.to_string(), &self.terms.own_domains).into_owned()
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(connection: &Connection, now: Instant) -> bool {
    connection.mails < MAILS_MAX
        && now.saturating_duration_since(connection.opened) < AGE_MAX
        && now.saturating_duration_since(connection.rested) < REST_MAX
}
