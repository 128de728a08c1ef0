//! Owns the answers to a session's questions: may a mail come, is this recipient ours, who sent it, is
//! it stored.
//!
//! Does not speak to the peer, and does not know connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::auth::{self, AuthInput, Authenticator, PolicyDecision};
use crate::clock::Timestamp;
use crate::ingress::routes::{Routes, Unroutable};
use crate::limits::{Holder, MemoryBudget};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::verdict::Verdict;
use crate::smtp::response::Refusal;
use crate::smtp::session::ForwardPath;
use crate::store::{MailId, RecordError, Store};

/// What the answers are taken from.
pub(super) struct SessionAnswers {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    /// Who finds out who sent a mail; without it nobody does.
    pub(super) auth: Option<Arc<Authenticator>>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) store_max: Duration,
}

impl SessionAnswers {
    /// May a mail come, of `size` bytes where the client told?
    pub(super) fn sender(&self, holder: Holder, size: Option<u64>) -> Result<(), Refusal> {
        let size = size.unwrap_or(0);
        self.store.has_room(size).map_err(refusal_for)?;
        let bytes = usize::try_from(size.max(1)).unwrap_or(usize::MAX);
        if !self.memory.fits(holder, bytes) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Is this recipient ours, and what is it?
    pub(super) fn recipient(
        &self,
        path: ForwardPath,
        now: Timestamp,
    ) -> Result<Recipient, Refusal> {
        let found = match path {
            ForwardPath::Mailbox(address) => self.routes.resolve(&self.store, address, now),
            ForwardPath::Postmaster => Ok(self.routes.postmaster()),
        };
        found.map_err(|error| match error {
            Unroutable::Expired => Refusal::TokenExpired,
            Unroutable::Forged => Refusal::TokenForged,
            Unroutable::Foreign => Refusal::RelayDenied,
            Unroutable::Revoked => Refusal::TokenRevoked,
            Unroutable::StoreDead => Refusal::StoreUnavailable,
            Unroutable::Unknown => Refusal::RecipientUnknown,
        })
    }

    /// Who sent a mail, or why it is refused for that. It ends in time: the checks are bounded.
    pub(super) async fn authenticate(
        &self,
        envelope: &Envelope,
        bytes: &Bytes,
        way: Provenance,
    ) -> (Option<Verdict>, Result<(), Refusal>) {
        let Some(auth) = &self.auth else {
            return (None, Ok(()));
        };
        let verdict = if way == Provenance::Relayed {
            auth.relay_verdict(bytes)
        } else {
            let input = AuthInput {
                ip: envelope.peer.ip,
                helo: &envelope.peer.helo,
                mail_from: envelope.sender.as_ref(),
                bytes,
                received_at: envelope.received_at,
            };
            auth.check(input).await
        };
        let answer = match way {
            Provenance::Direct => self
                .policy_refusal(envelope, bytes, &verdict)
                .map_or(Ok(()), Err),
            Provenance::Forwarded | Provenance::Relayed => Ok(()),
        };
        (Some(verdict), answer)
    }

    /// There is one answer for all recipients, so a mail that some of them take is not refused. The
    /// others hold it once it is delivered.
    fn policy_refusal(
        &self,
        envelope: &Envelope,
        bytes: &Bytes,
        verdict: &Verdict,
    ) -> Option<Refusal> {
        let author = auth::author(bytes).ok();
        let mut first = None;
        for recipient in &envelope.recipients {
            let routes = &self.routes;
            match routes.apply_policy(&self.store, recipient, verdict, author.as_ref()) {
                PolicyDecision::Refuse(refusal) => first = first.or(Some(refusal)),
                PolicyDecision::Accept | PolicyDecision::Hold(_) => return None,
            }
        }
        first.map(|refusal| match refusal {
            auth::PolicyRefusal::BadFrom(_) => Refusal::AuthorUnclear,
            auth::PolicyRefusal::DmarcReject => Refusal::AuthenticationFailed,
            auth::PolicyRefusal::Identity(_) => Refusal::AuthorUnverified,
        })
    }

    /// Takes responsibility for a mail, or says why not.
    ///
    /// A store that is too slow may still keep the mail after the peer was told to come again. Then
    /// the mail is there twice, which the worker's fingerprints notice; it is never lost.
    pub(super) async fn store(
        &self,
        mut envelope: Envelope,
        bytes: Bytes,
    ) -> Result<MailId, Refusal> {
        merge_duplicates(&mut envelope.recipients);
        match timeout(self.store_max, self.store.accept(envelope, bytes)).await {
            Ok(accepted) => accepted.map_err(refusal_for),
            Err(_) => Err(Refusal::CheckTooSlow),
        }
    }
}

/// How a mail comes to us from the host that brought it in from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// That host is the peer, and hears our answers.
    Direct,
    /// A relay hands it in and tells that host's address. What we refuse would come back as a bounce
    /// to whoever was forged.
    Forwarded,
    /// A relay hands it in, and its address is all that is known.
    Relayed,
}

/// Keeps the first of recipients that mean the same, as one told twice, or one token in two forms
/// of an address. Each that stays becomes a delivery of its own.
fn merge_duplicates(recipients: &mut Vec<Recipient>) {
    let mut kept: Vec<Recipient> = Vec::with_capacity(recipients.len());
    for recipient in recipients.drain(..) {
        let same = |other: &Recipient| {
            (&other.route, &other.target) == (&recipient.route, &recipient.target)
        };
        if !kept.iter().any(same) {
            kept.push(recipient);
        }
    }
    *recipients = kept;
}

fn refusal_for(error: RecordError) -> Refusal {
    match error {
        RecordError::Full => Refusal::StoreFull,
        RecordError::Dead => Refusal::StoreUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::Address;
    use crate::mail::envelope::RecipientTarget;

    #[test]
    fn recipients_that_mean_the_same_are_one() {
        let recipient = |address: &str, mailbox: &str| Recipient {
            address: Address::parse(address).unwrap(),
            route: "default".to_owned(),
            target: RecipientTarget::Mailbox(mailbox.to_owned()),
        };
        let mut recipients = vec![
            recipient("fans@in.example", "fans"),
            recipient("general@in.example", "general"),
            recipient("FANS@in.example", "fans"),
            recipient("postmaster@in.example", "general"),
        ];
        merge_duplicates(&mut recipients);
        let kept: Vec<_> = recipients.iter().map(|r| r.address.to_string()).collect();
        assert_eq!(kept, ["fans@in.example", "general@in.example"]);
    }
}
