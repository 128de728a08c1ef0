//! Owns the answers to a session's questions: acceptance of a mail, validity of a recipient, authentication
//! of the sender, and storing.
//!
//! Does not communicate with the peer, and does not know connections.

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

/// The parts that the answers need.
pub(super) struct SessionAnswers {
    pub(super) store: Store,
    pub(super) routes: Arc<Routes>,
    /// The authenticator; without it senders are not checked.
    pub(super) auth: Option<Arc<Authenticator>>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) store_max: Duration,
}

impl SessionAnswers {
    /// Decides if a mail may begin. `size` is the number of bytes that the client declared (RFC 1870).
    pub(super) fn sender(&self, holder: Holder, size: Option<u64>) -> Result<(), Refusal> {
        let size = size.unwrap_or(0);
        self.store.has_room(size).map_err(refusal_for)?;
        let bytes = usize::try_from(size.max(1)).unwrap_or(usize::MAX);
        if !self.memory.fits(holder, bytes) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// The recipient that an address means, or the refusal.
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

    /// Authenticates the sender of a mail, and applies the policy. The checks have a time limit.
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

    /// The refusal by the recipients' policies. There is one response for all recipients, so a mail that
    /// some of them accept is not refused; the others hold it at delivery.
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

    /// Stores a mail, or returns the refusal.
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

/// The origin of a mail's client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// The external host is the peer, and receives our responses.
    Direct,
    /// The peer is a relay that named the external host. A refusal would become a bounce to the forged
    /// sender.
    Forwarded,
    /// The peer is a relay that did not name the external host.
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
