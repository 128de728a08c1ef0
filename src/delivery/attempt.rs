//! Owns one attempt at one delivery: from the bytes in the journal to a message in the product.
//!
//! Does not decide the action (`plan`), the time of retries, nor the end of a delivery that cannot be
//! completed (`runner`).
//!
//! A crash may happen between any two steps. Each call to the product carries a key made of the
//! mail's fingerprint, which is the same in every attempt and for every copy of the mail. The result
//! of a call is a fact on disk before the next call is made, and so is the plan before the first one:
//! a repeated call has the same body.

use std::panic;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::task;
use tracing::{error, info, warn};

use super::attachments::FileChoice;
use super::circuit_breaker::ApiHealth;
use super::context::DeliveryContext;
use super::event_facts::EventFacts;
use super::known_facts::FactReader;
use super::loop_detector::Counted;
use super::message::MessageFacts;
use super::parsed_mail::{MailContext, ParsedMail};
use super::plan::{LOOP_RULE, LoopCheck, ParkReason, Plan, Planner, PostPlan, planned_post};
use super::route::DeliveryRoute;
use crate::clock;
use crate::mail::verdict::Verdict;
use crate::mail::view::View;
use crate::objects::LinkTerms;
use crate::objects::Objects;
use crate::store::{
    Delivery, DeliveryOutcome, DeliveryStep, Fact, Lease, LeaseName, PlannedLinks, PlannedPost,
    QuotedMessage, ReadError, StoreError,
};

/// The reason why an attempt is not completed.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The mail is parked for a person.
    Park(String),
    /// A temporary failure, and the wait that was asked for.
    Retry(String, Option<Duration>),
    /// The Messages API refuses the key.
    Unauthorized(String),
    /// The Messages API refuses calls about this thread, or the key.
    Forbidden(String),
    /// The store no longer accepts anything.
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

/// The size in octets of the largest mail that is parsed on an async thread; the worst one takes some
/// milliseconds. Most mails are smaller, and for them the changes of threads are a good part of the cost.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A delivery in progress.
pub(super) struct DeliveryAttempt<'a> {
    pub(super) context: &'a DeliveryContext,
    pub(super) route: &'a DeliveryRoute,
    pub(super) delivery: &'a Delivery,
    pub(super) verdict: Verdict,
    pub(super) api_health: ApiHealth,
    /// True after the product has accepted the message.
    pub(super) is_told: bool,
    /// True if the store is known to have the recipient's token.
    pub(super) is_token_recorded: bool,
}

/// A message that the product has.
#[derive(Debug)]
pub(super) struct PostedMessage {
    /// The thread's id.
    pub(super) thread: String,
    /// The message's id.
    pub(super) message: String,
    /// The lease on the message in flight, which is held until its id is on disk; `None` from then on.
    pub(super) unrecorded: Option<Lease>,
}

impl DeliveryAttempt<'_> {
    /// Takes every step until the mail is settled.
    pub(super) async fn run(&mut self) -> Result<(), AttemptError> {
        let (view, mut mail) = self.read_mail().await?;
        match self.planner().plan_return(&mail) {
            Some(Plan::Notice) => return self.record_notice(&mail).await,
            Some(Plan::Drop(rule)) => return self.drop_with_facts(rule, &mail, Vec::new()).await,
            Some(Plan::Park(reason)) => return Err(self.park(reason)),
            Some(Plan::Post(_)) | None => {}
        }
        // Two copies of one mail may be in two partitions.
        let _copy = self.lease(LeaseName::Copy(mail.fingerprint)).await?;
        let plan = self.plan(view, &mut mail).await?;
        let post = match plan {
            Plan::Post(post) => *post,
            Plan::Drop(rule) => return self.drop_with_facts(rule, &mail, Vec::new()).await,
            Plan::Park(reason) => return Err(self.park(reason)),
            Plan::Notice => return self.record_notice(&mail).await,
        };
        let thread = match &post.post.thread_id {
            Some(thread) => format!("thread {thread}"),
            // A thread that is yet to be created has no other users.
            None => format!("new {}", HEXLOWER.encode(&mail.fingerprint.0)),
        };
        let _thread = self.lease(LeaseName::Posting(thread)).await?;
        if let Some(check) = &post.loop_check
            && !self.admit(&mail, check)
        {
            if check.parks {
                return Err(self.park(ParkReason::rule(LOOP_RULE)));
            }
            return self.drop_with_facts(LOOP_RULE, &mail, Vec::new()).await;
        }
        self.post(&mut mail, &post).await
    }

    /// Makes the calls that are still to be made, and settles the mail.
    async fn post(&mut self, mail: &mut ParsedMail, plan: &PostPlan) -> Result<(), AttemptError> {
        let terms = self.link_terms(&plan.post);
        let mut post = plan.post.clone();
        post.links = terms.as_ref().map(planned_links);
        post.skipped_files = terms.is_some().then(|| mail.files.skipped());
        self.record_plan(&post).await?;
        if self.posted_message().is_none() {
            let html = mail.reply.html.clone();
            mail.files
                .omit_known_images(&post.known_images, html.as_deref());
            self.store_files(mail, terms).await?;
        }
        let verdict = self.verdict.clone();
        let facts = MessageFacts {
            post: &post,
            verdict: &verdict,
            received_at: self.delivery.envelope.received_at,
        };
        let mut posted = match self.posted_message() {
            Some(posted) => posted,
            None => {
                let thread = self.ensure_thread(mail, &facts).await?;
                self.post_message(mail, &facts, thread).await?
            }
        };
        self.is_told = true;
        let patched = self.patch_thread(mail, &facts, &mut posted).await;
        self.tolerate(patched)?;
        self.settle_delivered(mail, &facts, posted).await
    }

    /// Returns the error of the metadata call if another attempt is useful. A mail that the product has is
    /// never parked because of its metadata.
    fn tolerate(&self, patched: Result<(), AttemptError>) -> Result<(), AttemptError> {
        let age = clock::now().since(self.delivery.envelope.received_at);
        let reason = match patched {
            Err(AttemptError::Park(reason) | AttemptError::Forbidden(reason)) => reason,
            Err(AttemptError::Retry(reason, _)) if age >= self.context.retry.max_age => reason,
            other => return other,
        };
        warn!(
            delivery = %self.delivery.id, route = self.route.name, reason,
            "the product has the message, but not the metadata of its thread"
        );
        Ok(())
    }

    /// Parses the mail, without its reply.
    async fn read_mail(&self) -> Result<(View, ParsedMail), AttemptError> {
        let id = self.delivery.id;
        let bytes = match self.context.store.mail_bytes(id.mail).await {
            Ok(bytes) => bytes,
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(error) => {
                error!(delivery = %id, %error, "the mail cannot be read");
                let reason = "its bytes cannot be read from the journal".to_owned();
                return Err(AttemptError::Park(reason));
            }
        };
        if bytes.len() <= INLINE_BYTES_MAX {
            let objects = self.context.objects.as_ref();
            return Ok(parse(&bytes, self.delivery, (self.route, objects)));
        }
        let delivery = self.delivery.clone();
        let (route, objects) = (self.route.clone(), self.context.objects.clone());
        off_async_threads(move || parse(&bytes, &delivery, (&route, objects.as_ref()))).await
    }

    /// Gathers the known facts, extracts the reply and makes the plan.
    async fn plan(&mut self, view: View, mail: &mut ParsedMail) -> Result<Plan, AttemptError> {
        let reader = FactReader {
            store: Some(&self.context.store),
            planner: self.planner(),
        };
        let known = reader.read(mail, Some(self.delivery.id)).await?;
        mail.quoted_message = match self.planner().planned_post() {
            Some(planned) => planned.quoted.clone(),
            None => {
                let last = reader.our_last_message(mail, &known).await?;
                last.map(QuotedMessage::from)
            }
        };
        let planned = planned_post(&self.delivery.steps);
        let marker = planned.and_then(|post| post.reply_marker.as_ref());
        let marker = marker.unwrap_or(&self.route.reply_marker);
        if view.bytes() <= INLINE_BYTES_MAX {
            mail.extract_reply(&view, marker);
        } else {
            let (mut parsed, marker) = (mail.clone(), marker.clone());
            *mail = off_async_threads(move || {
                parsed.extract_reply(&view, &marker);
                parsed
            })
            .await?;
        }
        self.is_token_recorded = known.issued.is_some();
        Ok(self.planner().plan(mail, &known))
    }

    fn planner(&self) -> Planner<'_> {
        Planner {
            route: self.route,
            recipient: &self.delivery.recipient,
            verdict: &self.verdict,
            steps: &self.delivery.steps,
            received_at: self.delivery.envelope.received_at,
            now: clock::now(),
            subject_window: self.context.subject_window,
        }
    }

    /// Records the plan before the first call, unless an earlier attempt has done so.
    async fn record_plan(&self, post: &PlannedPost) -> Result<(), AttemptError> {
        if self.planner().planned_post().is_some() || self.posted_message().is_some() {
            return Ok(());
        }
        let step = DeliveryStep::Planned(Box::new(post.clone()));
        let delivery = self.delivery.id;
        self.record(vec![Fact::Advanced { delivery, step }]).await
    }

    /// The terms of the links to the files of the mail: those that an earlier attempt has planned,
    /// otherwise those that are configured now.
    fn link_terms(&self, post: &PlannedPost) -> Option<LinkTerms> {
        let links = self.context.objects.as_ref()?.links();
        let planned = post.links.as_ref().map(|planned| LinkTerms {
            base_url: planned.base_url.clone(),
            expires: planned.expires,
            key: planned.key,
        });
        Some(planned.unwrap_or_else(|| links.terms(self.delivery.envelope.received_at)))
    }

    /// True if the loop detector admits the mail.
    fn admit(&self, mail: &ParsedMail, check: &LoopCheck) -> bool {
        let counted = match check.answers {
            Some(sent_at) => Counted::Answer(sent_at),
            None => Counted::Mail(self.delivery.id),
        };
        let at = self.delivery.envelope.received_at;
        let detector = &self.context.loop_detector;
        let admit =
            |conversation: &String| detector.admit(&mail.sender_email, conversation, counted, at);
        // Each conversation is counted, whatever the result for the others.
        let admitted = check.conversations.iter().map(admit);
        admitted.fold(true, |all, is_admitted| all & is_admitted)
    }

    /// Counts the rule that holds the mail.
    pub(super) fn park(&self, reason: ParkReason) -> AttemptError {
        if let Some(rule) = reason.rule {
            self.context.metrics.count_hold(&self.route.name, rule);
        }
        AttemptError::Park(reason.text)
    }

    /// Stores the files of a mail before the product is notified of them, and frees their bytes.
    async fn store_files(
        &self,
        mail: &mut ParsedMail,
        terms: Option<LinkTerms>,
    ) -> Result<(), AttemptError> {
        let (Some(objects), Some(terms)) = (&self.context.objects, terms) else {
            return Ok(());
        };
        mail.files.add_links(objects.links(), &terms);
        for (_, id, bytes) in std::mem::take(&mut mail.files.to_store) {
            if let Err(error) = objects.put(id, bytes).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(
                    delivery = %self.delivery.id, %error, cause = cause.unwrap_or_default(),
                    "an attachment cannot be stored"
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

    /// The message that an earlier attempt has posted.
    fn posted_message(&self) -> Option<PostedMessage> {
        let mut steps = self.delivery.steps.iter().rev();
        steps.find_map(|step| match step {
            DeliveryStep::MessagePosted {
                thread_id,
                message_id,
            } => Some(PostedMessage {
                thread: thread_id.clone(),
                message: message_id.clone(),
                unrecorded: None,
            }),
            _ => None,
        })
    }

    async fn settle_delivered(
        &self,
        mail: &ParsedMail,
        facts: &MessageFacts<'_>,
        mut posted: PostedMessage,
    ) -> Result<(), AttemptError> {
        let now = clock::now();
        let (thread, message) = (posted.thread.clone(), posted.message.clone());
        let event = self
            .event_facts()
            .delivered(mail, facts, (&thread, &message));
        let settled = Fact::Settled {
            delivery: self.delivery.id,
            outcome: DeliveryOutcome::Delivered {
                thread_id: thread.clone(),
                message_id: message.clone(),
            },
            fingerprint: Some(mail.fingerprint),
            at: now,
        };
        self.record_posted(mail, facts, &mut posted, vec![event, settled])
            .await?;
        let (route, post) = (self.route.name.as_str(), facts.post);
        let wait = now.since(self.delivery.envelope.received_at);
        self.context.metrics.count_end(route, "delivered");
        self.context.metrics.count_identity(route, &post.identity);
        self.context.metrics.observe_delivery(wait);
        info!(
            delivery = %self.delivery.id, route, thread, message_id = message,
            kind = mail.kind.name(), matched = post.reason.as_str(), mailbox = post.mailbox,
            priority = post.priority.name(),
            sorted_by = post.rule.as_deref().unwrap_or_default(), "delivered"
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

    /// Drops a mail, and records the related facts in the same call.
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

    /// The events of this delivery, at the current time.
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

fn planned_links(terms: &LinkTerms) -> PlannedLinks {
    PlannedLinks {
        base_url: terms.base_url.clone(),
        expires: terms.expires,
        key: terms.key,
    }
}

/// Parses a mail, without its reply.
fn parse(
    bytes: &Bytes,
    delivery: &Delivery,
    (route, objects): (&DeliveryRoute, Option<&Objects>),
) -> (View, ParsedMail) {
    let view = View::parse(bytes);
    let planned = planned_post(&delivery.steps);
    let skipped = planned.and_then(|post| post.skipped_files.as_deref());
    let context = MailContext {
        envelope: &delivery.envelope,
        recipient: &delivery.recipient,
        route,
        files: match (objects, skipped) {
            (None, _) => FileChoice::NoFile,
            (Some(_), Some(skipped)) => FileChoice::AllBut(skipped),
            (Some(objects), None) => FileChoice::Within(objects.bounds()),
        },
    };
    let mail = ParsedMail::parse(&view, &context);
    (view, mail)
}

/// Runs `work`, which parses a large mail, on a thread that may be busy for long. A panic is propagated.
async fn off_async_threads<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AttemptError> {
    match task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(cause) => panic::resume_unwind(cause),
            Err(_) => Err(AttemptError::Retry("stopping".to_owned(), None)),
        },
    }
}
