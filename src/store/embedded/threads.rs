//! Owns the embedded store's threads.
//!
//! Does not write; the writer thread does.

use async_trait::async_trait;

use super::backend::EmbeddedStore;
use super::index::IndexKey;
use super::lookup::Lookup;
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::token::ThreadKey;
use crate::store::door::{Lease, LeaseName, StoreBackend, Threads};
use crate::store::error::StoreError;
use crate::store::fact::Mapping;
use crate::store::job::{ConversationKey, LastMessage};

#[async_trait]
impl Threads for EmbeddedStore {
    async fn thread(&self, route: &str, key: ThreadKey) -> Result<Option<Mapping>, StoreError> {
        if let Some(mapping) = self.shared.recent_mapping(route, key) {
            return self.ensure_open().map(|()| Some(mapping));
        }
        let route = route.to_owned();
        self.read(move |shared| shared.mapping(&route, key)).await
    }

    async fn thread_by_message_id(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(Mapping, bool)>, StoreError> {
        let (route, id) = (route.to_owned(), message_id.to_owned());
        self.read(move |shared| shared.mapping_by_message_id(&route, &id))
            .await
    }

    async fn thread_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Result<Option<Mapping>, StoreError> {
        let (route, sender, subject) = (route.to_owned(), sender.clone(), subject.to_owned());
        self.read(move |shared| shared.mapping_by_subject(&route, &sender, &subject, since))
            .await
    }

    async fn issued_token(
        &self,
        token: [u8; 16],
    ) -> Result<Option<(String, Timestamp)>, StoreError> {
        self.read(move |shared| Ok(shared.issued_token(token)?))
            .await
    }

    async fn is_revoked(&self, token: [u8; 16]) -> Result<bool, StoreError> {
        if !self.shared.state().has_revocations {
            return self.ensure_open().map(|()| false);
        }
        let entry = self.read(move |shared| Ok(shared.entry(IndexKey::revoked(token))?));
        Ok(entry.await?.is_some())
    }

    async fn last_message(
        &self,
        conversation: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<LastMessage>, StoreError> {
        let conversation = conversation.clone();
        self.read(move |shared| shared.message_of(&conversation, by_us))
            .await
    }

    async fn begin_posting(
        &self,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Result<Lease, StoreError> {
        Ok(self.in_flight.begin(route, thread, text))
    }

    async fn is_posting(
        &self,
        route: &str,
        thread: &str,
        text: &str,
    ) -> Result<Option<bool>, StoreError> {
        Ok(self.in_flight.contains_text(route, thread, text))
    }

    async fn lock_thread(&self, key: ThreadKey) -> Result<Lease, StoreError> {
        self.lease(LeaseName::Thread(key)).await
    }
}
