//! Owns the calls to the product for one mail: thread, message, metadata.
//!
//! Does not decide if and where a mail is posted.

use std::pin::pin;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::time;

use super::api_outcome::ApiOutcome;
use super::attempt::{AttemptError, DeliveryAttempt, PostedMessage};
use super::circuit_breaker::ApiHealth;
use super::message::{self, MessageFacts};
use super::parsed_mail::ParsedMail;
use crate::clock;
use crate::mail::draft::posted_marker;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::{DeliveryStep, Fact};

/// The time for which posted messages are remembered, to recognise them when the product reports
/// them as new.
const POSTED_MARKER_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The time for which the id of a posted message waits to be recorded together with the end of the delivery.
/// If the process ends within this time, the same call is repeated.
const PROMPT_ANSWER: Duration = Duration::from_millis(100);

impl DeliveryAttempt<'_> {
    /// The id of the thread: known, created in an earlier attempt, or created now.
    pub(super) async fn ensure_thread(
        &mut self,
        mail: &ParsedMail,
        facts: &MessageFacts<'_>,
    ) -> Result<String, AttemptError> {
        let planned = facts.post.thread_id.as_deref();
        if let Some(thread) = planned.or_else(|| self.created_thread()) {
            return Ok(thread.to_owned());
        }
        let key = idempotency_key(mail.fingerprint, "thread");
        let body = message::thread_body(mail, facts);
        let answer = self.route.api.create_thread(&key, &body).await;
        let thread = self.call_result("thread", answer)?;
        let step = DeliveryStep::ThreadMade {
            thread_id: thread.clone(),
        };
        let delivery = self.delivery.id;
        let told = self.event_facts().thread_created(mail, facts, &thread);
        let step = Fact::Advanced { delivery, step };
        self.record(vec![told, step]).await?;
        Ok(thread)
    }

    /// Posts the message; its id is yet to be recorded.
    pub(super) async fn post_message(
        &mut self,
        mail: &ParsedMail,
        facts: &MessageFacts<'_>,
        thread: String,
    ) -> Result<PostedMessage, AttemptError> {
        let key = idempotency_key(mail.fingerprint, "message");
        let body = message::message_body(mail, facts);
        let (store, text) = (&self.context.store, &mail.reply.text);
        let posting = store.begin_posting(&self.route.name, &thread, text).await?;
        let answer = self.route.api.create_message(&thread, &key, &body).await;
        let message = self.call_result("message", answer)?;
        Ok(PostedMessage {
            thread,
            message,
            unrecorded: Some(posting),
        })
    }

    /// Updates the thread's metadata. The id of the message is recorded first if the product does not
    /// answer at once, and afterwards if the call fails.
    pub(super) async fn patch_thread(
        &mut self,
        mail: &ParsedMail,
        facts: &MessageFacts<'_>,
        posted: &mut PostedMessage,
    ) -> Result<(), AttemptError> {
        let key = idempotency_key(mail.fingerprint, "metadata");
        let body = message::patch_body(mail, facts);
        let (api, thread) = (&self.route.api, posted.thread.clone());
        let mut call = pin!(api.patch_thread(&thread, &key, &body));
        let answer = match time::timeout(PROMPT_ANSWER, &mut call).await {
            Ok(answer) => answer,
            Err(_) => {
                self.record_posted(mail, facts, posted, Vec::new()).await?;
                call.await
            }
        };
        let result = self.call_result("metadata", answer).map(drop);
        if result.is_err() {
            self.record_posted(mail, facts, posted, Vec::new()).await?;
        }
        result
    }

    /// Records `more`, and in the same call the id of the message and the facts about its thread, unless
    /// they are recorded already.
    pub(super) async fn record_posted(
        &self,
        mail: &ParsedMail,
        facts: &MessageFacts<'_>,
        posted: &mut PostedMessage,
        more: Vec<Fact>,
    ) -> Result<(), AttemptError> {
        let (thread, message) = (posted.thread.as_str(), posted.message.as_str());
        let mut recorded = Vec::new();
        let mut lock = None;
        if posted.unrecorded.is_some() {
            let store = &self.context.store;
            lock = Some(store.lock_thread(ThreadKey::of(thread)).await?);
            let now = clock::now();
            let events = self.event_facts();
            recorded.push(events.message_created(mail, facts, (thread, message)));
            recorded.push(Fact::NonceUsed {
                nonce: posted_marker(&self.route.name, thread, message),
                content: [0; 16],
                until: now.plus(POSTED_MARKER_TTL),
            });
            recorded.extend(self.thread_facts(mail, facts.post, thread, now).await?);
            let step = DeliveryStep::MessagePosted {
                thread_id: thread.to_owned(),
                message_id: message.to_owned(),
            };
            let delivery = self.delivery.id;
            recorded.push(Fact::Advanced { delivery, step });
        }
        recorded.extend(more);
        if !recorded.is_empty() {
            self.record(recorded).await?;
        }
        posted.unrecorded = None;
        drop(lock);
        Ok(())
    }

    /// The thread that an earlier attempt has created.
    fn created_thread(&self) -> Option<&str> {
        let mut steps = self.delivery.steps.iter();
        steps.find_map(|step| match step {
            DeliveryStep::ThreadMade { thread_id } => Some(thread_id.as_str()),
            _ => None,
        })
    }

    /// The id in the result of a call, or the reason why there is none.
    fn call_result(&mut self, call: &str, answer: ApiOutcome) -> Result<String, AttemptError> {
        self.context
            .metrics
            .count_call(&self.route.name, call, &answer);
        self.api_health = match &answer {
            ApiOutcome::Done { .. } | ApiOutcome::Permanent { .. } => ApiHealth::Alive,
            ApiOutcome::Transient { .. } => ApiHealth::Failing,
            ApiOutcome::Unauthorized { .. } => ApiHealth::Unauthorized,
            // No thread is involved yet, so the key is refused.
            ApiOutcome::Forbidden { .. } if call == "thread" => ApiHealth::Unauthorized,
            ApiOutcome::Forbidden { .. } => ApiHealth::Forbidden,
        };
        if matches!(answer, ApiOutcome::Done { .. }) {
            self.context.set_key_works(&self.route.name, true);
        }
        match answer {
            ApiOutcome::Done { id } => Ok(id),
            ApiOutcome::Transient {
                reason,
                retry_after,
            } => Err(AttemptError::Retry(
                format!("{call}: {reason}"),
                retry_after,
            )),
            ApiOutcome::Unauthorized { reason } => {
                Err(AttemptError::Unauthorized(format!("{call}: {reason}")))
            }
            ApiOutcome::Forbidden { reason } if call == "thread" => {
                Err(AttemptError::Unauthorized(format!("{call}: {reason}")))
            }
            ApiOutcome::Forbidden { reason } => {
                Err(AttemptError::Forbidden(format!("{call}: {reason}")))
            }
            ApiOutcome::Permanent {
                status: 404,
                reason,
            } if call != "thread" => Err(AttemptError::Park(format!(
                "{call}: the Messages API does not know the thread: {reason}"
            ))),
            ApiOutcome::Permanent { reason, .. } => {
                Err(AttemptError::Park(format!("{call}: {reason}")))
            }
        }
    }
}

/// The idempotency key of one call for one mail. It depends on the content of the mail, not on when
/// or how it arrived.
fn idempotency_key(print: Fingerprint, call: &str) -> String {
    format!("{}-{call}", HEXLOWER.encode(&print.0))
}
