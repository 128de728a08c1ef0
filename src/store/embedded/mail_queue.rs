//! Owns the embedded store's mail queue.
//!
//! Does not write; the writer thread does.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::backend::EmbeddedStore;
use super::frame::{self, Record};
use super::index::IndexKey;
use super::journal_writer::WriteRequest;
use super::lookup::Lookup;
use super::nonces::NonceState;
use super::questions::UnreadDelivery;
use super::state::StoreState;
use crate::clock::Timestamp;
use crate::mail::envelope::Envelope;
use crate::mail::fingerprint::Fingerprint;
use crate::mail::partition::PartitionKey;
use crate::store::RECIPIENTS_MAX;
use crate::store::door::{Claim, MailQueue, Nonce, StoreBackend};
use crate::store::error::{ReadError, StoreError};
use crate::store::fact::{Delivery, Fact, ImapPosition, Ledger};
use crate::store::id::{DeliveryId, MailId};

#[async_trait]
impl MailQueue for EmbeddedStore {
    fn has_room(&self, bytes: u64) -> Result<(), StoreError> {
        self.ensure_open()?;
        if self.shared.is_stalled() {
            return Err(StoreError::Full);
        }
        self.shared.capacity.admit(bytes)
    }

    async fn accept(&self, envelope: Envelope, bytes: Bytes) -> Result<MailId, StoreError> {
        assert!(
            (1..=RECIPIENTS_MAX).contains(&envelope.recipients.len()),
            "an envelope has 1 to {RECIPIENTS_MAX} recipients"
        );
        self.has_room(bytes.len() as u64)?;
        let head = serde_json::to_vec(&envelope).map_err(|_| StoreError::Full)?;
        if head.len() + bytes.len() > frame::RECORD_BYTES_MAX {
            return Err(StoreError::Full);
        }
        let record = Record::new(head, bytes);
        self.shared.capacity.reserve(record.bytes() as u64);
        let envelope = Arc::new(envelope);
        let ask = |answer| WriteRequest::Accept {
            envelope,
            record,
            answer,
        };
        self.writer.submit(ask).await
    }

    fn ledger(&self) -> Ledger {
        self.shared.state().ledger()
    }

    async fn waiting(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.list(after, count, StoreState::next_waiting).await
    }

    async fn parked(
        &self,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.list(after, count, StoreState::next_parked).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let unread = UnreadDelivery::of(&self.shared.state(), id);
        let Some(unread) = unread else {
            return Ok(None);
        };
        if unread.is_in_memory() {
            return unread
                .fill(&self.shared)
                .map(Some)
                .map_err(|_| StoreError::Damaged);
        }
        self.read(move |shared| shared.delivery(id)).await
    }

    async fn delivery_ahead(&self, id: DeliveryId) -> Result<Option<DeliveryId>, StoreError> {
        Ok(self.shared.state().delivery_ahead(id))
    }

    async fn mail_bytes(&self, id: MailId) -> Result<Bytes, ReadError> {
        if let Some((_, bytes)) = self.shared.state().recent_mail(id) {
            return Ok(bytes.clone());
        }
        self.read_raw(move |shared| shared.mail_bytes(id)).await?
    }

    async fn find_duplicate(
        &self,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let window = self.shared.settings.dedupe_window;
        let found = self
            .read(move |shared| Ok(shared.fingerprint(fingerprint)?))
            .await?;
        let fresh = found.filter(|(at, _)| now.since(*at) < window);
        Ok(fresh.map(|(_, delivery)| delivery))
    }

    async fn waiting_with_partitions(
        &self,
        claim: &Claim,
        after: Option<DeliveryId>,
        count: usize,
    ) -> Result<Vec<(DeliveryId, Option<PartitionKey>)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.shared.state();
        let waiting = state.waiting().range((from, Bound::Unbounded));
        let partition = |id: &DeliveryId| state.open_delivery(*id).and_then(|open| open.partition);
        let waiting = waiting.map(|id| (*id, partition(id)));
        let claimed = waiting.filter(|(_, partition)| {
            partition.is_none_or(|partition| claim.covers_partition(partition))
        });
        Ok(claimed.take(count).collect())
    }

    async fn mail_arrived(&self) {
        self.shared.mail_arrived.notified().await;
    }

    async fn imap_position(&self, mailbox: &str) -> Result<Option<ImapPosition>, StoreError> {
        let mailbox = mailbox.to_owned();
        self.read(move |shared| Ok(shared.imap_position(&mailbox)?))
            .await
    }

    async fn bind_nonce(&self, nonce: Nonce) -> Result<bool, StoreError> {
        let mut state = self.nonces.look(&nonce);
        if state == NonceState::Unknown {
            let stored = self.nonce_used(nonce.digest).await?;
            state = self.nonces.claim(&nonce, stored);
        }
        match state {
            NonceState::Taken => return Ok(false),
            NonceState::Bound => return Ok(true),
            NonceState::Claimed | NonceState::Unknown => {}
        }
        let fact = Fact::NonceUsed {
            nonce: nonce.digest,
            content: nonce.content,
            until: nonce.until,
        };
        self.record(vec![fact]).await?;
        self.nonces.written(&nonce);
        Ok(true)
    }

    async fn nonce_used(&self, nonce: [u8; 16]) -> Result<Option<[u8; 16]>, StoreError> {
        let entry = self
            .read(move |shared| Ok(shared.entry(IndexKey::nonce(nonce))?))
            .await?;
        Ok(entry.and_then(|(_, content)| content.try_into().ok()))
    }
}

impl EmbeddedStore {
    /// Fails with `Dead` after the store was closed or has failed.
    pub(super) fn ensure_open(&self) -> Result<(), StoreError> {
        match self.shared.has_failed() || self.writer.has_ended() {
            true => Err(StoreError::Dead),
            false => Ok(()),
        }
    }

    /// Lists deliveries one by one. One with a damaged envelope is logged and left out.
    async fn list(
        &self,
        after: Option<DeliveryId>,
        count: usize,
        next: fn(&StoreState, Bound<DeliveryId>) -> Option<DeliveryId>,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |shared| {
            let mut found: Vec<Delivery> = Vec::new();
            let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
            while found.len() < count {
                let id = next(&shared.state(), from);
                let Some(id) = id else {
                    break;
                };
                from = Bound::Excluded(id);
                match shared.delivery(id) {
                    Ok(delivery) => found.extend(delivery),
                    Err(fault) => match shared.judge(fault) {
                        StoreError::Damaged => {
                            tracing::error!(delivery = %id, "store: a delivery's envelope is damaged");
                        }
                        error => return Ok(Err(error)),
                    },
                }
            }
            Ok(Ok(found))
        })
        .await?
    }
}
