//! Owns one attempt at one delivery: from the bytes in the journal to a message in the product.
//!
//! Does not decide when to retry, nor what becomes of a delivery that cannot be completed: `runner`
//! does.
//!
//! A crash may happen between any two steps. Each call to the product carries a key made of the
//! mail's fingerprint, which is the same in every attempt and for every copy of the mail. The
//! result of a call is a fact on disk before the next call is made.

use std::panic;
use std::time::Duration;

use tokio::task;
use tracing::{error, info, warn};

use super::circuit_breaker::ApiHealth;
use super::context::DeliveryContext;
use super::event_facts::EventFacts;
use super::loop_detector::{Counted, robot_signs};
use super::message::MessageFacts;
use super::parsed_mail::ParsedMail;
use super::policy::{Disposition, KindAction, KindActions};
use super::route::DeliveryRoute;
use super::thread_lookup::{ThreadLookup, ThreadMatch};
use crate::auth::{HoldReason, PolicyDecision};
use crate::clock;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::kind::MailKind;
use crate::mail::verdict::Verdict;
use crate::objects::Objects;
use crate::store::{
    Delivery, DeliveryOutcome, DeliveryStep, Fact, Lease, LeaseName, ReadError, StoreError,
};

/// The rule by which too frequent mail of machines is not posted.
const LOOP_RULE: &str = "loop_breaker";

/// The reason why an attempt is not completed.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The mail is parked for a person.
    Park(String),
    /// A temporary failure, and the wait that was asked for.
    Retry(String, Option<Duration>),
    /// The Messages API refuses the key.
    Unauthorized(String),
    /// The store accepts nothing any more.
    StoreDead,
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Dead => Self::StoreDead,
            StoreError::Damaged => Self::Park(error.to_string()),
            StoreError::Full | StoreError::Unavailable => Self::Retry(error.to_string(), None),
        }
    }
}

/// A delivery in progress.
pub(super) struct DeliveryAttempt<'a> {
    pub(super) context: &'a DeliveryContext,
    pub(super) route: &'a DeliveryRoute,
    pub(super) delivery: &'a Delivery,
    pub(super) verdict: Verdict,
    pub(super) api_health: ApiHealth,
}

impl<'a> DeliveryAttempt<'a> {
    /// Takes every step until the mail is settled.
    pub(super) async fn run(&mut self) -> Result<(), AttemptError> {
        let mut mail = self.read_mail().await?;
        if self.handle_bounce(&mail).await? {
            return Ok(());
        }
        let print = mail.fingerprint;
        // Two copies of one mail may lie in two lanes.
        let _copy = self.lease(LeaseName::Copy(print)).await?;
        if self.is_duplicate(print).await? {
            return self.drop_by_rule("duplicate", &mail).await;
        }
        let kind = match mail.disposition {
            Disposition::Post(kind) => kind,
            Disposition::Drop(rule) => return self.drop_by_rule(rule, &mail).await,
            Disposition::Hold(_)
                if self.is_approved()
                    && KindActions::is_allowed(mail.kind, KindAction::PostTyped) =>
            {
                mail.kind
            }
            Disposition::Hold(rule) => return Err(self.hold_by_rule(rule)),
        };
        let placed = self.thread_lookup().find(&mail, clock::now()).await?;
        self.check_sender_policy(&placed)?;
        let _thread = self
            .lease(LeaseName::Posting(placed.lock_name(&mail)))
            .await?;
        if self.is_loop(&mail, &placed) {
            // People write to lists, and repeat themselves: their words are not thrown away.
            if mail.kind == MailKind::List || mail.kind.is_person() {
                return Err(self.hold_by_rule(LOOP_RULE));
            }
            return self.drop_by_rule(LOOP_RULE, &mail).await;
        }
        if self.posted_message().is_none() {
            mail.files
                .omit_known_images(&placed.known_images, mail.body_html.as_deref());
            self.store_files(&mut mail).await?;
        }
        let verdict = self.verdict.clone();
        let found = MessageFacts {
            sorted: &placed.sorted,
            kind,
            verdict: &verdict,
            identity: placed.identity,
            reason: placed.reason,
            received_at: self.delivery.envelope.received_at,
        };
        let (thread, posted) = match self.posted_message() {
            Some(posted) => posted,
            None => {
                let thread = self.ensure_thread(&mail, &found, &placed).await?;
                let posted = self.post_message(&mail, &found, &placed, &thread).await?;
                (thread, posted)
            }
        };
        self.patch_thread(&mail, &found, &thread).await?;
        self.settle_delivered(&mail, &found, (thread, posted)).await
    }

    /// Checks the route's policy for the sender.
    ///
    /// The check is made here too, not only at the door, because only here is the thread known.
    /// Mail that the door could have refused is parked now, because no peer waits for an answer any
    /// more.
    fn check_sender_policy(&self, placed: &ThreadMatch) -> Result<(), AttemptError> {
        if !self.delivery.steps.is_empty() {
            return Ok(());
        }
        match self.route.senders.decide(&self.verdict, placed.identity) {
            PolicyDecision::Accept => Ok(()),
            PolicyDecision::Hold(hold) => Err(self.hold_for_sender(hold)),
            PolicyDecision::Refuse(refusal) => Err(self.hold_for_sender(HoldReason::from(refusal))),
        }
    }

    fn hold_for_sender(&self, hold: HoldReason) -> AttemptError {
        self.context
            .metrics
            .count_hold(&self.route.name, hold.name());
        AttemptError::Park(hold.reason())
    }

    /// Parks the mail by a rule of this name.
    pub(super) fn hold_by_rule(&self, rule: &'static str) -> AttemptError {
        self.context.metrics.count_hold(&self.route.name, rule);
        AttemptError::Park(format!("held by rule: {rule}"))
    }

    /// Bytes to meaning, off the async threads: a large mail takes a while.
    async fn read_mail(&self) -> Result<ParsedMail, AttemptError> {
        let id = self.delivery.id;
        let bytes = match self.context.store.mail_bytes(id.mail).await {
            Ok(bytes) => bytes,
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(error) => {
                error!(delivery = %id, %error, "mail unreadable");
                let reason = "its bytes cannot be read from the journal".to_owned();
                return Err(AttemptError::Park(reason));
            }
        };
        let delivery = self.delivery.clone();
        let (route, objects) = (self.route.clone(), self.context.objects.clone());
        let mail = off_thread(move || {
            let bounds = objects.as_ref().map(Objects::bounds);
            ParsedMail::parse(&bytes, (&delivery, &route), bounds)
        });
        let mail = mail.await?;
        let lookup = self.thread_lookup();
        let known = lookup.our_last_message(mail.head(), clock::now()).await?;
        let marker = self.route.reply_marker.clone();
        off_thread(move || mail.cut_reply(&marker, known)).await
    }

    /// Stores the files of a mail before the product is told of them, and frees their bytes.
    async fn store_files(&self, mail: &mut ParsedMail) -> Result<(), AttemptError> {
        let Some(objects) = &self.context.objects else {
            return Ok(());
        };
        let received_at = self.delivery.envelope.received_at;
        mail.files.add_links(objects.links(), received_at);
        for (_, id, bytes) in std::mem::take(&mut mail.files.to_store) {
            if let Err(error) = objects.put(id, bytes).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(
                    delivery = %self.delivery.id, %error, cause = cause.unwrap_or_default(),
                    "an attachment cannot be kept"
                );
                let reason = "attachments cannot be kept".to_owned();
                return Err(AttemptError::Retry(reason, None));
            }
        }
        Ok(())
    }

    pub(super) async fn lease(&self, name: LeaseName) -> Result<Lease, StoreError> {
        self.context.store.lease(name).await
    }

    /// True if a person released the mail from parking.
    pub(super) fn is_approved(&self) -> bool {
        self.delivery.steps.contains(&DeliveryStep::Approved)
    }

    /// Tells whether the mail belongs to a loop: mail of a machine that comes too often, or mail of
    /// somebody who answers every message with the same text, as a machine in disguise does. Mail
    /// that a person released, or that an attempt began, is never part of a loop.
    fn is_loop(&self, mail: &ParsedMail, placed: &ThreadMatch) -> bool {
        if !self.delivery.steps.is_empty() {
            return false;
        }
        let thread = match &placed.thread {
            Some(thread) => thread.clone(),
            None => format!("new {}", mail.normalised_subject),
        };
        let at = self.delivery.envelope.received_at;
        let is_too_often = |thread: &str, counted| {
            let detector = &self.context.loop_detector;
            !detector.admit(&mail.sender_email, thread, counted, at)
        };
        match (mail.kind.is_person(), mail.last_sent_at) {
            (false, _) => is_too_often(&thread, Counted::Mail(self.delivery.id)),
            (true, Some(said_at)) => {
                // People send pictures one a mail, with no words.
                let words = mail.files.listed.is_empty().then_some(mail.body.as_str());
                let signs = robot_signs(words, at.since(said_at));
                let counted = Counted::Answer(said_at);
                let is_loop = |sign: String| is_too_often(&format!("{thread}\n{sign}"), counted);
                // Each sign is counted, whatever the others come to.
                signs.map(is_loop).fold(false, |any, is_loop| any | is_loop)
            }
            (true, None) => false,
        }
    }

    /// True if the product has another copy of the mail. A mail that was already begun is
    /// completed, whatever became of a copy since.
    async fn is_duplicate(&self, print: Fingerprint) -> Result<bool, StoreError> {
        let mut begun = self.delivery.steps.iter();
        if begun.any(|step| *step != DeliveryStep::Approved) {
            return Ok(false);
        }
        let seen = self
            .context
            .store
            .find_duplicate(print, clock::now())
            .await?;
        Ok(seen.is_some_and(|id| id != self.delivery.id))
    }

    pub(super) fn thread_lookup(&self) -> ThreadLookup<'_> {
        ThreadLookup {
            store: &self.context.store,
            route: self.route,
            delivery: self.delivery,
            verdict: &self.verdict,
            subject_window: self.context.subject_window,
        }
    }

    fn posted_message(&self) -> Option<(String, String)> {
        self.delivery
            .steps
            .iter()
            .rev()
            .find_map(|step| match step {
                DeliveryStep::MessagePosted {
                    thread_id,
                    message_id,
                } => Some((thread_id.clone(), message_id.clone())),
                DeliveryStep::ThreadMade { .. } | DeliveryStep::Approved => None,
            })
    }

    async fn settle_delivered(
        &self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        (thread_id, message_id): (String, String),
    ) -> Result<(), AttemptError> {
        let now = clock::now();
        let told = self
            .event_facts()
            .delivered(mail, found, (&thread_id, &message_id));
        let (thread, message) = (thread_id.clone(), message_id.clone());
        let fact = Fact::Settled {
            delivery: self.delivery.id,
            outcome: DeliveryOutcome::Delivered {
                thread_id,
                message_id,
            },
            fingerprint: Some(mail.fingerprint),
            at: now,
        };
        self.record(vec![told, fact]).await?;
        let route = self.route.name.as_str();
        let wait = now.since(self.delivery.envelope.received_at);
        self.context.metrics.count_end(route, "delivered");
        self.context.metrics.count_identity(route, found.identity);
        self.context.metrics.observe_delivery(wait);
        info!(
            delivery = %self.delivery.id, route, thread, message_id = message,
            kind = mail.kind.name(), matched = found.reason, mailbox = found.sorted.mailbox,
            priority = found.sorted.priority.name(),
            sorted_by = found.sorted.rule.as_deref().unwrap_or_default(), "delivered"
        );
        if !mail.flags.is_empty() {
            let flags: Vec<&str> = mail.flags.iter().map(|flag| flag.name()).collect();
            warn!(
                delivery = %self.delivery.id, route, flags = flags.join(" "),
                "the mail exceeds a bound: the message has all of it only as an attachment"
            );
        }
        Ok(())
    }

    async fn drop_by_rule(&self, rule: &str, mail: &ParsedMail) -> Result<(), AttemptError> {
        self.drop_with_facts(rule, mail, Vec::new()).await
    }

    /// Drops a mail, and records what was learnt from it in the same call.
    pub(super) async fn drop_with_facts(
        &self,
        rule: &str,
        mail: &ParsedMail,
        mut facts: Vec<Fact>,
    ) -> Result<(), AttemptError> {
        facts.push(self.event_facts().dropped(mail, rule));
        facts.push(Fact::Settled {
            delivery: self.delivery.id,
            outcome: DeliveryOutcome::Dropped {
                rule: rule.to_owned(),
            },
            fingerprint: None,
            at: clock::now(),
        });
        self.record(facts).await?;
        let route = self.route.name.as_str();
        self.context.metrics.count_end(route, "dropped");
        let kind = mail.kind.name();
        // The reason for the kind explains the drop only if the mail was dropped for its kind.
        let because = (rule == kind).then_some(mail.kind_rule);
        info!(delivery = %self.delivery.id, route, rule, kind, because, "dropped");
        Ok(())
    }

    /// The events of this delivery, as of now.
    pub(super) fn event_facts(&self) -> EventFacts<'_> {
        EventFacts {
            delivery: self.delivery,
            domains: &self.route.message_id_domains,
            at: clock::now(),
        }
    }

    pub(super) async fn record(&self, facts: Vec<Fact>) -> Result<(), AttemptError> {
        Ok(self.context.claim.finish(facts).await?)
    }
}

/// Runs what takes a while where it blocks nobody.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AttemptError> {
    match task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(broken) => match broken.try_into_panic() {
            Ok(cause) => panic::resume_unwind(cause),
            Err(_) => Err(AttemptError::Retry("stopping".to_owned(), None)),
        },
    }
}
