//! Owns the calls to the product for one mail: thread, message, metadata, each recorded before the
//! next.
//!
//! Does not decide whether and where a mail is posted.

use std::time::Duration;

use data_encoding::HEXLOWER;

use super::api_outcome::ApiOutcome;
use super::attempt::{AttemptError, DeliveryAttempt};
use super::circuit_breaker::ApiHealth;
use super::message::{self, MessageFacts};
use super::parsed_mail::ParsedMail;
use super::thread_lookup::ThreadMatch;
use crate::clock;
use crate::mail::draft::posted_marker;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::{DeliveryStep, Fact};

/// The time for which posted messages are remembered, to recognise them when the product reports
/// them as new.
const POSTED_MARKER_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl DeliveryAttempt<'_> {
    /// The id of the thread: known, created in an earlier attempt, or created now.
    pub(super) async fn ensure_thread(
        &mut self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        placed: &ThreadMatch,
    ) -> Result<String, AttemptError> {
        if let Some(thread) = &placed.thread {
            return Ok(thread.clone());
        }
        let key = idempotency_key(mail.fingerprint, "thread");
        let body = message::thread_body(mail, found);
        let answer = self.route.api.create_thread(&key, &body).await;
        let thread = self.call_result("thread", answer)?;
        let step = DeliveryStep::ThreadMade {
            thread_id: thread.clone(),
        };
        let delivery = self.delivery.id;
        let told = self.event_facts().thread_created(mail, found, &thread);
        let step = Fact::Advanced { delivery, step };
        self.record(vec![told, step]).await?;
        Ok(thread)
    }

    pub(super) async fn post_message(
        &mut self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        placed: &ThreadMatch,
        thread: &str,
    ) -> Result<String, AttemptError> {
        let key = idempotency_key(mail.fingerprint, "message");
        let body = message::message_body(mail, found);
        // Until the message's id is on disk.
        let _posting = self
            .context
            .in_flight
            .begin(&self.route.name, thread, &mail.body);
        let answer = self.route.api.create_message(thread, &key, &body).await;
        let message = self.call_result("message", answer)?;
        let step = DeliveryStep::MessagePosted {
            thread_id: thread.to_owned(),
            message_id: message.clone(),
        };
        let told = self
            .event_facts()
            .message_created(mail, found, (thread, &message));
        let _thread = self
            .context
            .store
            .lock_thread(ThreadKey::of(thread))
            .await?;
        let now = clock::now();
        let own = Fact::NonceUsed {
            nonce: posted_marker(&self.route.name, thread, &message),
            content: [0; 16],
            until: now.plus(POSTED_MARKER_TTL),
        };
        let mut facts = vec![told, own];
        let lookup = self.thread_lookup();
        facts.extend(placed.facts(&lookup, mail, thread, now).await?);
        let delivery = self.delivery.id;
        facts.push(Fact::Advanced { delivery, step });
        self.record(facts).await?;
        Ok(message)
    }

    pub(super) async fn patch_thread(
        &mut self,
        mail: &ParsedMail,
        found: &MessageFacts<'_>,
        thread: &str,
    ) -> Result<(), AttemptError> {
        let key = idempotency_key(mail.fingerprint, "metadata");
        let body = message::patch_body(mail, found);
        let answer = self.route.api.patch_thread(thread, &key, &body).await;
        self.call_result("metadata", answer).map(drop)
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
        };
        match answer {
            ApiOutcome::Done { id } => Ok(id),
            ApiOutcome::Transient {
                reason,
                retry_after: wish,
            } => Err(AttemptError::Retry(format!("{call}: {reason}"), wish)),
            ApiOutcome::Unauthorized { reason } => {
                Err(AttemptError::Unauthorized(format!("{call}: {reason}")))
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
