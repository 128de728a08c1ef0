//! Owns one attempt at one delivery: from the bytes in the journal to a message in the product.
//!
//! Does not decide when to try again, nor what becomes of a delivery that stops on the way: that is
//! `job`.
//!
//! A crash may come between any two steps. Each call to the product carries a key made of the mail's
//! fingerprint, the same in every attempt and for every copy of the mail; what a call came to is a
//! fact on disk before the next one is made.

use std::panic;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::task;
use tracing::{error, info};

use super::breaker::Counted;
use super::gate::Heard;
use super::job::Jobs;
use super::locks::Turn;
use super::message::Found;
use super::place::{Place, Placed};
use super::policy::{Action, Kinds, Ruling};
use super::reading::Reading;
use super::route::Route;
use super::telling::Telling;
use crate::auth::{Decision, Hold};
use crate::clock;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::kind::Kind;
use crate::mail::verdict::Verdict;
use crate::objects::Objects;
use crate::store::{Delivery, Fact, Outcome, RecordError, Step};

/// The rule by which mail of machines that comes too often is not posted.
const LOOP_BREAKER: &str = "loop_breaker";
/// Bytes of words that nobody says again and again by chance.
const SAME_BYTES_MIN: usize = 32;

/// Why an attempt does not reach its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// A person must look.
    Park(String),
    /// Something passes.
    Later(String, Option<Duration>),
    /// The key is not good.
    Unauthorized(String),
    /// The store is dead.
    Dead,
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Full => Self::Later("the store is full".to_owned(), None),
            RecordError::Dead => Self::Dead,
        }
    }
}

/// A delivery while it is tried.
pub(super) struct Attempt<'a> {
    pub(super) jobs: &'a Jobs,
    pub(super) route: &'a Route,
    pub(super) delivery: &'a Delivery,
    pub(super) verdict: Verdict,
    pub(super) heard: Heard,
}

impl<'a> Attempt<'a> {
    /// Goes from step to step until the mail is settled.
    pub(super) async fn steps(&mut self) -> Result<(), Stop> {
        let mut mail = self.read().await?;
        if self.returned(&mail).await? {
            return Ok(());
        }
        let print = mail.fingerprint;
        // Two copies of one mail may lie in two lanes.
        let _copy = self
            .turn(format!("copy {}", HEXLOWER.encode(&print.0)))
            .await;
        if self.is_duplicate(print) {
            return self.drop_by("duplicate", &mail).await;
        }
        let kind = match mail.ruling {
            Ruling::Post(kind) => kind,
            Ruling::Drop(rule) => return self.drop_by(rule, &mail).await,
            Ruling::Hold(_) if self.is_approved() && Kinds::may(mail.kind, Action::PostTyped) => {
                mail.kind
            }
            Ruling::Hold(rule) => return Err(self.held(rule)),
        };
        let placed = self.place().find(&mail, clock::now());
        let placed = placed.map_err(Stop::Park)?;
        self.pass(&placed)?;
        let _thread = self.turn(placed.lock_name(&mail)).await;
        if self.is_loop(&mail, &placed) {
            // People write to lists, and repeat themselves: their words are not thrown away.
            if mail.kind == Kind::List || mail.kind.is_person() {
                return Err(self.held(LOOP_BREAKER));
            }
            return self.drop_by(LOOP_BREAKER, &mail).await;
        }
        if self.posted().is_none() {
            mail.files
                .leave_out(&placed.images, mail.body_html.as_deref());
            self.keep(&mut mail).await?;
        }
        let verdict = self.verdict.clone();
        let found = Found {
            sorted: &placed.sorted,
            kind,
            verdict: &verdict,
            identity: placed.identity,
            reason: placed.reason,
            received_at: self.delivery.envelope.received_at,
        };
        let (thread, posted) = match self.posted() {
            Some(posted) => posted,
            None => {
                let thread = self.thread(&mail, &found, &placed).await?;
                let posted = self.post(&mail, &found, &placed, &thread).await?;
                (thread, posted)
            }
        };
        self.patch(&mail, &found, &thread).await?;
        self.delivered(&mail, &found, (thread, posted)).await
    }

    /// Lets a mail on, if its route takes mail by such authors or a person has let it pass.
    ///
    /// It is decided here too, not at the door alone: only here is the thread known. What the door
    /// could have refused is held now, for nobody is there any more to hear a no.
    fn pass(&self, placed: &Placed) -> Result<(), Stop> {
        if !self.delivery.steps.is_empty() {
            return Ok(());
        }
        match self.route.senders.decide(&self.verdict, placed.identity) {
            Decision::Accept => Ok(()),
            Decision::Hold(hold) => Err(self.held_for(hold)),
            Decision::Refuse(refusal) => Err(self.held_for(Hold::from(refusal))),
        }
    }

    fn held_for(&self, hold: Hold) -> Stop {
        self.jobs.metrics.hold(&self.route.name, hold.name());
        Stop::Park(hold.reason())
    }

    /// Held by a rule of this name.
    pub(super) fn held(&self, rule: &'static str) -> Stop {
        self.jobs.metrics.hold(&self.route.name, rule);
        Stop::Park(format!("held by rule: {rule}"))
    }

    /// Bytes to meaning, off the async threads: a large mail takes a while.
    async fn read(&self) -> Result<Reading, Stop> {
        let store = self.jobs.store.clone();
        let delivery = self.delivery.clone();
        let route = self.route.clone();
        let objects = self.jobs.objects.clone();
        let (verdict, subject_window) = (self.verdict.clone(), self.jobs.subject_window);
        let read = task::spawn_blocking(move || {
            let bytes = store.mail_bytes(delivery.id.mail)?;
            let bounds = objects.as_ref().map(Objects::bounds);
            let place = Place {
                store: &store,
                route: &route,
                delivery: &delivery,
                verdict: &verdict,
                subject_window,
            };
            let known = |mail: &Reading| place.ours(mail, clock::now());
            Ok(Reading::of(&bytes, (&delivery, &route), bounds, known))
        });
        match read.await {
            Ok(Ok(reading)) => Ok(reading),
            Ok(Err(error)) => {
                let error: crate::store::ReadError = error;
                error!(delivery = %self.delivery.id, %error, "mail unreadable");
                Err(Stop::Park(
                    "its bytes cannot be read from the journal".to_owned(),
                ))
            }
            Err(broken) => match broken.try_into_panic() {
                Ok(cause) => panic::resume_unwind(cause),
                Err(_) => Err(Stop::Later("stopping".to_owned(), None)),
            },
        }
    }

    /// Keeps the files of a mail before anything is told of them, and lets go of their bytes.
    async fn keep(&self, mail: &mut Reading) -> Result<(), Stop> {
        let Some(objects) = &self.jobs.objects else {
            return Ok(());
        };
        let received_at = self.delivery.envelope.received_at;
        mail.files.linked(objects.links(), received_at);
        for (_, id, bytes) in std::mem::take(&mut mail.files.kept) {
            if let Err(error) = objects.keep(id, bytes).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(
                    delivery = %self.delivery.id, %error, cause = cause.unwrap_or_default(),
                    "an attachment cannot be kept"
                );
                let reason = "attachments cannot be kept".to_owned();
                return Err(Stop::Later(reason, None));
            }
        }
        Ok(())
    }

    pub(super) async fn turn(&self, name: String) -> Turn {
        self.jobs.locks.lock(name).await
    }

    /// A person sent it back from where it was parked.
    pub(super) fn is_approved(&self) -> bool {
        self.delivery.steps.contains(&Step::Approved)
    }

    /// Mail of a machine that comes too often; or of somebody who has the same words for whatever we say, as
    /// a machine has that hides what it is. What a person let through, or an attempt began, goes on.
    fn is_loop(&self, mail: &Reading, placed: &Placed) -> bool {
        let mut thread = match &placed.thread {
            Some(thread) => thread.clone(),
            None => format!("new {}", mail.normal_subject),
        };
        let counted = match (mail.kind.is_person(), mail.answers) {
            (false, _) => Counted::Mail(self.delivery.id),
            // People say "thank you" to everything, and send pictures one a mail with no words.
            (true, Some(said_at))
                if mail.files.told.is_empty() && mail.body.len() >= SAME_BYTES_MIN =>
            {
                thread.push('\n');
                thread.push_str(&mail.body);
                Counted::Answer(said_at)
            }
            (true, _) => return false,
        };
        let at = self.delivery.envelope.received_at;
        self.delivery.steps.is_empty()
            && !self
                .jobs
                .breaker
                .admits(&mail.sender_email, &thread, counted, at)
    }

    /// A mail already begun is its own, whatever a copy came to since.
    fn is_duplicate(&self, print: Fingerprint) -> bool {
        let seen = self.jobs.store.seen(print, clock::now());
        let mut begun = self.delivery.steps.iter();
        !begun.any(|step| *step != Step::Approved) && seen.is_some_and(|id| id != self.delivery.id)
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            store: &self.jobs.store,
            route: self.route,
            delivery: self.delivery,
            verdict: &self.verdict,
            subject_window: self.jobs.subject_window,
        }
    }

    fn posted(&self) -> Option<(String, String)> {
        self.delivery
            .steps
            .iter()
            .rev()
            .find_map(|step| match step {
                Step::MessagePosted {
                    thread_id,
                    message_id,
                } => Some((thread_id.clone(), message_id.clone())),
                Step::ThreadMade { .. } | Step::Approved => None,
            })
    }

    async fn delivered(
        &self,
        mail: &Reading,
        found: &Found<'_>,
        (thread_id, message_id): (String, String),
    ) -> Result<(), Stop> {
        let now = clock::now();
        let told = self
            .telling()
            .delivered(mail, found, (&thread_id, &message_id));
        let (thread, message) = (thread_id.clone(), message_id.clone());
        let fact = Fact::Settled {
            delivery: self.delivery.id,
            outcome: Outcome::Delivered {
                thread_id,
                message_id,
            },
            fingerprint: Some(mail.fingerprint),
            at: now,
        };
        self.record(vec![told, fact]).await?;
        let route = self.route.name.as_str();
        let wait = now.since(self.delivery.envelope.received_at);
        self.jobs.metrics.fate(route, "delivered");
        self.jobs.metrics.identity(route, found.identity);
        self.jobs.metrics.delivered_after(wait);
        info!(
            delivery = %self.delivery.id, route, thread, message_id = message,
            kind = mail.kind.name(), matched = found.reason, mailbox = found.sorted.mailbox,
            priority = found.sorted.priority.name(),
            sorted_by = found.sorted.rule.as_deref().unwrap_or_default(), "delivered"
        );
        Ok(())
    }

    async fn drop_by(&self, rule: &str, mail: &Reading) -> Result<(), Stop> {
        self.drop_with(rule, mail, Vec::new()).await
    }

    /// Drops a mail, and records what was learnt from it in the same call.
    pub(super) async fn drop_with(
        &self,
        rule: &str,
        mail: &Reading,
        mut facts: Vec<Fact>,
    ) -> Result<(), Stop> {
        facts.push(self.telling().dropped(mail, rule));
        facts.push(Fact::Settled {
            delivery: self.delivery.id,
            outcome: Outcome::Dropped {
                rule: rule.to_owned(),
            },
            fingerprint: None,
            at: clock::now(),
        });
        self.record(facts).await?;
        let route = self.route.name.as_str();
        self.jobs.metrics.fate(route, "dropped");
        let kind = mail.kind.name();
        // Why it is of its kind says why it was dropped only if its kind is what it was dropped for.
        let because = (rule == kind).then_some(mail.kind_rule);
        info!(delivery = %self.delivery.id, route, rule, kind, because, "dropped");
        Ok(())
    }

    /// The events of this delivery, as of now.
    pub(super) fn telling(&self) -> Telling<'_> {
        Telling {
            delivery: self.delivery,
            domains: &self.route.message_id_domains,
            at: clock::now(),
        }
    }

    pub(super) async fn record(&self, facts: Vec<Fact>) -> Result<(), Stop> {
        Ok(self.jobs.store.record(facts).await?)
    }
}
