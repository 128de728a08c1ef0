//! Owns the way of a decoded mail into the store: whose it is, what is left out, and the log's line
//! for each fate.
//!
//! Does not decode, and answers nobody.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::incoming::{Incoming, Malformed, Recipients, bare};
use super::law::Outcome;
use super::metrics::Metrics;
use crate::auth;
use crate::clock::Timestamp;
use crate::ingress::routes::{Routes, Unroutable};
use crate::ingress::smtp::masked;
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer, Recipient};
use crate::store::{MailId, RECIPIENTS_MAX, RecordError, Store};

/// Addresses of one mail that are looked at.
const ADDRESSES_MAX: usize = 4 * RECIPIENTS_MAX;
/// Lines in the log for what one mail loses.
const LINES_MAX: usize = 20;
/// Mails of one request that are written at a time.
const WRITES_MAX: usize = 64;

/// What mails are taken with.
#[derive(Clone)]
pub(super) struct Acceptance {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    pub(super) metrics: Metrics,
    pub(super) store_max: Duration,
    pub(super) mail_bytes_max: usize,
}

/// Where a mail came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) provider: &'static str,
    pub(super) peer: Option<IpAddr>,
    pub(super) now: Timestamp,
}

impl Acceptance {
    /// Takes all mails of a request, or says why it must come again. What was kept before that will
    /// be known again when it does.
    pub(super) async fn take(&self, mails: Vec<Incoming>, origin: Origin) -> Outcome {
        let mut dropped = 0;
        let mut accepted = Vec::new();
        let single = mails.len() == 1;
        for mail in mails {
            if let Some((outcome, why)) = self.unfit(&mail) {
                if single {
                    return outcome;
                }
                dropped += 1;
                self.tell_dropped(&origin, &mail.id, None, why);
                continue;
            }
            let sorted = match self.sort(&mail, &origin) {
                Ok(sorted) => sorted,
                Err(later) => return later,
            };
            dropped += sorted.dropped;
            if !sorted.recipients.is_empty() {
                let envelope = envelope(&mail, sorted.recipients, &origin);
                accepted.push(Ready {
                    id: mail.id,
                    envelope,
                    bytes: mail.bytes,
                });
            }
        }
        if accepted.is_empty() {
            return Outcome::Unroutable { dropped };
        }
        match self.write(accepted, &origin).await {
            Ok(mails) => Outcome::Kept { mails, dropped },
            Err(later) => later,
        }
    }

    /// Why a mail cannot be kept whoever it is for.
    fn unfit(&self, mail: &Incoming) -> Option<(Outcome, &'static str)> {
        if mail.bytes.is_empty() {
            let empty = Malformed::new("mail: empty");
            return Some((Outcome::Malformed(empty), "empty"));
        }
        let is_long = mail.bytes.len() > self.mail_bytes_max;
        is_long.then_some((Outcome::TooLarge, "too_large"))
    }

    async fn write(&self, mails: Vec<Ready>, origin: &Origin) -> Result<Vec<MailId>, Outcome> {
        let mut mails = mails.into_iter().enumerate();
        let mut writes = JoinSet::new();
        let mut ids = Vec::new();
        loop {
            while writes.len() < WRITES_MAX
                && let Some((at, mail)) = mails.next()
            {
                let one = self.clone();
                let origin = *origin;
                writes.spawn(async move { Ok((at, one.write_one(mail, origin).await?)) });
            }
            match writes.join_next().await {
                None => break,
                Some(Ok(kept)) => ids.push(kept?),
                Some(Err(_)) => return Err(Outcome::Later("the store gave no answer")),
            }
        }
        ids.sort_unstable_by_key(|(at, _)| *at);
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    async fn write_one(&self, mail: Ready, origin: Origin) -> Result<MailId, Outcome> {
        let Ready {
            id,
            envelope,
            bytes,
        } = mail;
        let length = bytes.len();
        let shown = envelope
            .recipients
            .iter()
            .map(|to| masked(&to.address, false));
        let recipients = shown.take(10).collect::<Vec<_>>().join(" ");
        let sender = match &envelope.sender {
            Some(sender) => sender.domain().as_str().escape_debug().to_string(),
            None => "<>".to_owned(),
        };
        let accepted = timeout(self.store_max, self.store.accept(envelope, bytes)).await;
        let mail = match accepted {
            Ok(Ok(mail)) => mail,
            Ok(Err(RecordError::Full)) => return Err(Outcome::Later("no room now")),
            Ok(Err(RecordError::Dead)) => return Err(Outcome::Later("the store has stopped")),
            Err(_) => return Err(Outcome::Later("the store is too slow")),
        };
        self.metrics.kept(origin.provider, length);
        info!(
            mail = mail.0,
            protocol = "webhook",
            provider = origin.provider,
            id = %id.escape_debug(),
            sender_domain = sender,
            recipients,
            bytes = length,
            "received"
        );
        Ok(mail)
    }

    /// Finds out which recipients are ours.
    fn sort(&self, mail: &Incoming, origin: &Origin) -> Result<Sorted, Outcome> {
        let mut sorted = Sorted::default();
        let mut reasons = Vec::new();
        let mut seen: HashSet<Address> = HashSet::new();
        for text in mail.recipients.addresses().iter().take(ADDRESSES_MAX) {
            let Ok(address) = Address::parse(&bare(text).unwrap_or_default()) else {
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
            match self
                .routes
                .recipient(&self.store, address.clone(), origin.now)
            {
                Ok(recipient) => sorted.recipients.push(recipient),
                Err(Unroutable::StoreDead) => return Err(Outcome::Later("the store has stopped")),
                Err(why) => reasons.push((Some(address), word(why))),
            }
        }
        // In fields the sender wrote, other people's addresses are no loss of ours.
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
            if at < LINES_MAX {
                self.tell_dropped(origin, &mail.id, address.as_ref(), why);
            } else {
                self.metrics.dropped(origin.provider, why);
            }
        }
        if sorted.dropped > LINES_MAX {
            let (provider, count) = (origin.provider, sorted.dropped);
            warn!(protocol = "webhook", provider, count, "dropped in all");
        }
        Ok(sorted)
    }

    fn tell_dropped(&self, origin: &Origin, id: &str, to: Option<&Address>, why: &'static str) {
        self.metrics.dropped(origin.provider, why);
        warn!(
            protocol = "webhook",
            provider = origin.provider,
            id = %id.escape_debug(),
            recipient = to.map(|to| masked(to, false)),
            reason = why,
            "dropped"
        );
    }
}

/// A mail that has recipients here.
struct Ready {
    id: String,
    envelope: Envelope,
    bytes: Bytes,
}

#[derive(Default)]
struct Sorted {
    recipients: Vec<Recipient>,
    dropped: usize,
}

fn envelope(mail: &Incoming, recipients: Vec<Recipient>, origin: &Origin) -> Envelope {
    let sender = mail.sender.as_deref().and_then(bare);
    let sender = sender.and_then(|sender| Address::parse(&sender).ok());
    let is_null = mail.sender.as_deref() == Some("");
    let addresses = recipients.iter().map(|recipient| &recipient.address);
    Envelope {
        smtputf8: addresses.chain(&sender).any(Address::is_utf8),
        sender_untold: sender.is_none() && !is_null,
        sender,
        peer: Peer {
            door: Door::Webhook,
            ip: origin.peer,
            helo: String::new(),
            tls: None,
        },
        received_at: origin.now,
        told: Some(mail.told.clone()),
        verdict: Some(Box::new(auth::provided(&mail.told, &mail.bytes))),
        recipients,
    }
}

const fn word(why: Unroutable) -> &'static str {
    match why {
        Unroutable::Expired => "expired",
        Unroutable::Forged => "forged",
        Unroutable::Foreign => "foreign",
        Unroutable::Revoked => "revoked",
        Unroutable::StoreDead => "store_dead",
        Unroutable::Unknown => "unknown",
    }
}
