//! Owns the answers to a session's questions: whether a mail may come, whether a recipient is ours, who
//! sent a mail, and whether it is stored.
//!
//! Does not speak to the peer, and does not know connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::auth::{self, AuthInput, Authenticator, PolicyDecision};
use crate::clock::Timestamp;
use crate::ingress::accept::{AcceptError, AcceptedVia, accept};
use crate::ingress::routes::{Routes, policy_response};
use crate::limits::{Holder, MemoryBudget};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::verdict::Verdict;
use crate::smtp::response::Refusal;
use crate::smtp::session::ForwardPath;
use crate::store::{MailId, Store, StoreError};

/// The parts that the answers are taken from.
pub(super) struct SessionAnswers {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    /// The authenticator of senders; without it nobody checks them.
    pub(super) auth: Option<Arc<Authenticator>>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) store_max: Duration,
}

impl SessionAnswers {
    /// Says whether a mail may come. `size` is the number of bytes that the client declared (RFC 1870).
    pub(super) fn sender(&self, holder: Holder, size: Option<u64>) -> Result<(), Refusal> {
        let size = size.unwrap_or(0);
        self.store.has_room(size).map_err(refusal_for)?;
        let bytes = usize::try_from(size.max(1)).unwrap_or(usize::MAX);
        if !self.memory.fits(holder, bytes) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// The recipient that an address stands for, or why it is not ours.
    pub(super) async fn recipient(
        &self,
        path: ForwardPath,
        now: Timestamp,
    ) -> Result<Recipient, Refusal> {
        let address = match path {
            ForwardPath::Mailbox(address) => address,
            ForwardPath::Postmaster => return Ok(self.routes.postmaster()),
        };
        let found = self.routes.resolve(&self.store, address, now);
        let Ok(found) = timeout(self.store_max, found).await else {
            return Err(Refusal::CheckTooSlow);
        };
        found.map_err(Refusal::from)
    }

    /// Finds out who sent a mail, and whether it is refused for that. The checks are bounded in time.
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
            Provenance::Direct => self.check_policy(envelope, bytes, &verdict).await,
            Provenance::Forwarded | Provenance::Relayed => Ok(()),
        };
        (Some(verdict), answer)
    }

    /// The refusal of the recipients' policies. There is one answer for all recipients, so a mail that
    /// some of them take is not refused. The others hold it once it is delivered.
    async fn check_policy(
        &self,
        envelope: &Envelope,
        bytes: &Bytes,
        verdict: &Verdict,
    ) -> Result<(), Refusal> {
        let author = auth::author(bytes).ok();
        let mut first = None;
        for recipient in &envelope.recipients {
            let decided =
                self.routes
                    .apply_policy(&self.store, recipient, verdict, author.as_ref());
            match decided.await.map_err(refusal_for)? {
                PolicyDecision::Refuse(refusal) => first = first.or(Some(refusal)),
                PolicyDecision::Accept | PolicyDecision::Hold(_) => return Ok(()),
            }
        }
        first.map_or(Ok(()), |refusal| Err(policy_response(refusal)))
    }

    /// Takes responsibility for a mail, or says why not.
    pub(super) async fn store(
        &self,
        envelope: Envelope,
        bytes: Bytes,
        via: AcceptedVia<'_>,
    ) -> Result<MailId, Refusal> {
        let accepted = accept(&self.store, self.store_max, envelope, bytes, via).await;
        accepted.map_err(|error| match error {
            AcceptError::Store(error) => refusal_for(error),
            AcceptError::TimedOut => Refusal::CheckTooSlow,
        })
    }
}

/// The way of a mail from the host that brought it in from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// That host is the peer, and receives our responses.
    Direct,
    /// A relay hands it in and names that host's address. A mail we refuse would come back as a bounce
    /// to the forged sender.
    Forwarded,
    /// A relay hands it in, and its address is all that is known.
    Relayed,
}

fn refusal_for(error: StoreError) -> Refusal {
    match error {
        StoreError::Full => Refusal::StoreFull,
        StoreError::Damaged | StoreError::Dead | StoreError::Unavailable => {
            Refusal::StoreUnavailable
        }
    }
}
