//! Owns the calls to the product for one mail: thread, message, metadata, each recorded before the next.
//!
//! Does not decide whether a mail is posted, nor where.

use std::time::Duration;

use data_encoding::HEXLOWER;

use super::answer::Answer;
use super::attempt::{Attempt, Stop};
use super::gate::Heard;
use super::message::{self, Found};
use super::place::Placed;
use super::reading::Reading;
use crate::clock;
use crate::mail::draft::posted_word;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::{Fact, Step};

/// So long it is remembered which messages were posted by us: a product that tells of new messages does
/// not tell of one after this.
const OWN_REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Attempt<'_> {
    /// The id of the thread: known, made in an earlier attempt, or made now.
    pub(super) async fn thread(
        &mut self,
        mail: &Reading,
        found: &Found<'_>,
        placed: &Placed,
    ) -> Result<String, Stop> {
        if let Some(thread) = &placed.thread {
            return Ok(thread.clone());
        }
        let key = key_of(mail.fingerprint, "thread");
        let body = message::thread(mail, found);
        let answer = self.route.api.make_thread(&key, &body).await;
        let thread = self.heard("thread", answer)?;
        let step = Step::ThreadMade {
            thread_id: thread.clone(),
        };
        let delivery = self.delivery.id;
        let told = self.telling().thread_created(mail, found, &thread);
        let step = Fact::Advanced { delivery, step };
        self.record(vec![told, step]).await?;
        Ok(thread)
    }

    pub(super) async fn post(
        &mut self,
        mail: &Reading,
        found: &Found<'_>,
        placed: &Placed,
        thread: &str,
    ) -> Result<String, Stop> {
        let key = key_of(mail.fingerprint, "message");
        let body = message::message(mail, found);
        // Until it is on disk which message this became.
        let _posting = self
            .jobs
            .underway
            .begin(&self.route.name, thread, &mail.body);
        let answer = self.route.api.add_message(thread, &key, &body).await;
        let message = self.heard("message", answer)?;
        let step = Step::MessagePosted {
            thread_id: thread.to_owned(),
            message_id: message.clone(),
        };
        let told = self
            .telling()
            .message_created(mail, found, (thread, &message));
        let _turn = self.jobs.store.turn(ThreadKey::of(thread)).await;
        let now = clock::now();
        let own = Fact::Spent {
            word: posted_word(&self.route.name, thread, &message),
            content: [0; 16],
            until: now.plus(OWN_REMEMBERED),
        };
        let mut facts = vec![told, own];
        facts.extend(placed.facts(&self.place(), mail, thread, now));
        let delivery = self.delivery.id;
        facts.push(Fact::Advanced { delivery, step });
        self.record(facts).await?;
        Ok(message)
    }

    pub(super) async fn patch(
        &mut self,
        mail: &Reading,
        found: &Found<'_>,
        thread: &str,
    ) -> Result<(), Stop> {
        let key = key_of(mail.fingerprint, "metadata");
        let body = message::patch(mail, found);
        let answer = self.route.api.patch_thread(thread, &key, &body).await;
        self.heard("metadata", answer).map(drop)
    }

    /// The id in an answer, or why there is none.
    fn heard(&mut self, call: &str, answer: Answer) -> Result<String, Stop> {
        self.jobs.metrics.call(&self.route.name, call, &answer);
        self.heard = match &answer {
            Answer::Done { .. } | Answer::Final { .. } => Heard::Life,
            Answer::Passing { .. } => Heard::Passing,
            Answer::Unauthorized { .. } => Heard::Unauthorized,
        };
        match answer {
            Answer::Done { id } => Ok(id),
            Answer::Passing { reason, wish } => Err(Stop::Later(format!("{call}: {reason}"), wish)),
            Answer::Unauthorized { reason } => Err(Stop::Unauthorized(format!("{call}: {reason}"))),
            Answer::Final {
                status: 404,
                reason,
            } if call != "thread" => Err(Stop::Park(format!(
                "{call}: the Messages API does not know the thread: {reason}"
            ))),
            Answer::Final { reason, .. } => Err(Stop::Park(format!("{call}: {reason}"))),
        }
    }
}

/// The key of one call for one mail: made of what the mail is, not of when or how it came.
fn key_of(print: Fingerprint, call: &str) -> String {
    format!("{}-{call}", HEXLOWER.encode(&print.0))
}
