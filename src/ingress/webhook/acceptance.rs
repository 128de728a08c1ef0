//! Owns the acceptance of a decoded mail: its recipients, the ones left out, and the log line for each
//! case.
//!
//! Does not decode requests, and does not make responses.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tracing::warn;

use super::error::Malformed;
use super::incoming::{IncomingMail, Recipients, bare_address};
use super::metrics::Metrics;
use super::outcome::WebhookOutcome;
use crate::auth;
use crate::clock::Timestamp;
use crate::ingress::accept::{AcceptError, AcceptedVia, accept, envelope_without_dialogue};
use crate::ingress::routes::{Routes, Unroutable};
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Recipient};
use crate::mail::redact;
use crate::store::{MailId, RECIPIENTS_MAX, Store, StoreError};

/// The maximum number of addresses of one mail that are examined.
const ADDRESSES_MAX: usize = 4 * RECIPIENTS_MAX;
/// The maximum number of log lines about the unknown recipients of one mail.
const LOG_LINES_MAX: usize = 20;
/// The maximum number of mails of one request that are written concurrently.
const CONCURRENT_WRITES_MAX: usize = 64;

/// Accepts mails into the store.
#[derive(Clone)]
pub(super) struct MailAcceptor {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    pub(super) metrics: Metrics,
    pub(super) store_max: Duration,
    pub(super) mail_bytes_max: usize,
}

/// The origin of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOrigin {
    pub(super) provider: &'static str,
    pub(super) peer: Option<IpAddr>,
    pub(super) now: Timestamp,
}

impl MailAcceptor {
    /// Accepts all mails of a request, or returns the reason for which the request must be repeated. Mails
    /// that were stored before are then duplicates.
    pub(super) async fn accept(
        &self,
        mails: Vec<IncomingMail>,
        origin: RequestOrigin,
    ) -> WebhookOutcome {
        let mut dropped = 0;
        let mut accepted = Vec::new();
        let single = mails.len() == 1;
        for mail in mails {
            if let Some((outcome, why)) = self.rejection(&mail) {
                if single {
                    return outcome;
                }
                dropped += 1;
                self.log_dropped(&origin, &mail.id, None, why);
                continue;
            }
            let sorted = match self.route_recipients(&mail, &origin).await {
                Ok(sorted) => sorted,
                Err(later) => return later,
            };
            dropped += sorted.dropped;
            if !sorted.recipients.is_empty() {
                let envelope = envelope(&mail, sorted.recipients, &origin);
                accepted.push(RoutedMail {
                    id: mail.id,
                    envelope,
                    bytes: mail.bytes,
                });
            }
        }
        if accepted.is_empty() {
            return WebhookOutcome::Unroutable { dropped };
        }
        match self.store_all(accepted, &origin).await {
            Ok(mails) => WebhookOutcome::Accepted { mails, dropped },
            Err(later) => later,
        }
    }

    /// The reason why a mail cannot be accepted for any recipient.
    fn rejection(&self, mail: &IncomingMail) -> Option<(WebhookOutcome, &'static str)> {
        if mail.bytes.is_empty() {
            let empty = Malformed::new("mail: empty");
            return Some((WebhookOutcome::Malformed(empty), "empty"));
        }
        let is_long = mail.bytes.len() > self.mail_bytes_max;
        is_long.then_some((WebhookOutcome::TooLarge, "too_large"))
    }

    async fn store_all(
        &self,
        mails: Vec<RoutedMail>,
        origin: &RequestOrigin,
    ) -> Result<Vec<MailId>, WebhookOutcome> {
        let mut mails = mails.into_iter().enumerate();
        let mut writes = JoinSet::new();
        let mut ids = Vec::new();
        loop {
            while writes.len() < CONCURRENT_WRITES_MAX
                && let Some((at, mail)) = mails.next()
            {
                let one = self.clone();
                let origin = *origin;
                writes.spawn(async move { Ok((at, one.store_one(mail, origin).await?)) });
            }
            match writes.join_next().await {
                None => break,
                Some(Ok(kept)) => ids.push(kept?),
                Some(Err(_)) => {
                    return Err(WebhookOutcome::Unavailable("the store gave no answer"));
                }
            }
        }
        ids.sort_unstable_by_key(|(at, _)| *at);
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    async fn store_one(
        &self,
        mail: RoutedMail,
        origin: RequestOrigin,
    ) -> Result<MailId, WebhookOutcome> {
        let RoutedMail {
            id,
            envelope,
            bytes,
        } = mail;
        let length = bytes.len();
        let via = AcceptedVia {
            provider: Some(origin.provider),
            id: Some(&id),
            ..AcceptedVia::default()
        };
        let accepted = accept(&self.store, self.store_max, envelope, bytes, via).await;
        let mail = accepted.map_err(|error| match error {
            AcceptError::Store(error) => no_answer(error),
            AcceptError::TimedOut => {
                WebhookOutcome::Unavailable("the store did not answer in time")
            }
        })?;
        self.metrics.mail_accepted(origin.provider, length);
        Ok(mail)
    }

    /// Resolves the recipients, and logs the unknown ones.
    async fn route_recipients(
        &self,
        mail: &IncomingMail,
        origin: &RequestOrigin,
    ) -> Result<RoutedRecipients, WebhookOutcome> {
        let mut sorted = RoutedRecipients::default();
        let mut reasons = Vec::new();
        let mut seen: HashSet<Address> = HashSet::new();
        for text in mail.recipients.addresses().iter().take(ADDRESSES_MAX) {
            let Ok(address) = Address::parse(&bare_address(text).unwrap_or_default()) else {
                reasons.push((None, "not_an_address"));
                continue;
            };
            if !seen.insert(address.clone()) {
                continue;
            }
            if sorted.recipients.len() >= RECIPIENTS_MAX {
                reasons.push((Some(address), "too_many"));
                continue;
            }
            let found = self
                .routes
                .resolve(&self.store, address.clone(), origin.now);
            match found.await {
                Ok(recipient) => sorted.recipients.push(recipient),
                Err(Unroutable::Store(error)) => return Err(no_answer(error)),
                Err(Unroutable::NotYetValid) => {
                    return Err(WebhookOutcome::Unavailable("a token is not valid yet"));
                }
                Err(why) => reasons.push((Some(address), reason_name(why))),
            }
        }
        // In fields that the sender wrote, foreign addresses are normal.
        if matches!(mail.recipients, Recipients::Header(_)) && !sorted.recipients.is_empty() {
            reasons.retain(|(_, why)| !matches!(*why, "foreign" | "not_an_address"));
        }
        if reasons.is_empty() && sorted.recipients.is_empty() {
            reasons.push((None, "no_recipient"));
        }
        if mail.recipients.addresses().len() > ADDRESSES_MAX {
            reasons.push((None, "too_many"));
        }
        sorted.dropped = reasons.len();
        for (at, (address, why)) in reasons.iter().enumerate() {
            if at < LOG_LINES_MAX {
                self.log_dropped(origin, &mail.id, address.as_ref(), why);
            } else {
                self.metrics.recipient_dropped(origin.provider, why);
            }
        }
        if sorted.dropped > LOG_LINES_MAX {
            let (provider, count) = (origin.provider, sorted.dropped);
            warn!(
                protocol = "webhook",
                provider, count, "recipients dropped in total"
            );
        }
        Ok(sorted)
    }

    fn log_dropped(
        &self,
        origin: &RequestOrigin,
        id: &str,
        to: Option<&Address>,
        why: &'static str,
    ) {
        self.metrics.recipient_dropped(origin.provider, why);
        warn!(
            protocol = "webhook",
            provider = origin.provider,
            id = %id.escape_debug(),
            recipient = to.map(|to| redact::masked(to, false)),
            reason = why,
            "dropped"
        );
    }
}

/// A mail with its recipients here.
struct RoutedMail {
    id: String,
    envelope: Envelope,
    bytes: Bytes,
}

#[derive(Default)]
struct RoutedRecipients {
    recipients: Vec<Recipient>,
    dropped: usize,
}

fn envelope(mail: &IncomingMail, recipients: Vec<Recipient>, origin: &RequestOrigin) -> Envelope {
    let sender = mail.sender.as_deref().and_then(bare_address);
    let sender = sender.and_then(|sender| Address::parse(&sender).ok());
    let is_null = mail.sender.as_deref() == Some("");
    let mut envelope = envelope_without_dialogue(Door::Webhook, sender, recipients, origin.now);
    envelope.sender_untold &= !is_null;
    envelope.peer.ip = origin.peer;
    envelope.told = Some(mail.results.clone());
    envelope.verdict = Some(Box::new(auth::provider_verdict(&mail.results, &mail.bytes)));
    envelope
}

/// The outcome of a request for which the store has no answer.
pub(super) const fn no_answer(error: StoreError) -> WebhookOutcome {
    WebhookOutcome::Unavailable(match error {
        StoreError::Damaged => "a record of the store is damaged",
        StoreError::Dead => "the store has stopped",
        StoreError::Full => "no space now",
        StoreError::Unavailable => "the store is unavailable",
    })
}

const fn reason_name(why: Unroutable) -> &'static str {
    match why {
        Unroutable::Expired => "expired",
        Unroutable::Forged => "forged",
        Unroutable::Foreign => "foreign",
        Unroutable::NotYetValid => "not_yet_valid",
        Unroutable::Revoked => "revoked",
        Unroutable::Store(_) => "store_dead",
        Unroutable::Unknown => "unknown",
    }
}
