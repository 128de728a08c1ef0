//! Owns the threads of the store in memory.
//!
//! Does not apply facts.

use super::*;
use crate::store::door::Threads;

#[async_trait]
impl Threads for MemoryStore {
    async fn thread(&self, route: &str, key: ThreadKey) -> Result<Option<Mapping>, StoreError> {
        let name = (route.to_owned(), key);
        Ok(self.contents().mappings.get(&name).cloned())
    }

    async fn thread_by_message_id(
        &self,
        route: &str,
        message_id: &str,
    ) -> Result<Option<(Mapping, bool)>, StoreError> {
        let contents = self.contents();
        let link = |by_us| {
            let name = (route.to_owned(), bare(message_id), by_us);
            Some((*contents.links.get(&name)?, by_us))
        };
        let Some((key, by_us)) = link(true).or_else(|| link(false)) else {
            return Ok(None);
        };
        let mapping = contents.mappings.get(&(route.to_owned(), key));
        Ok(mapping.map(|mapping| (mapping.clone(), by_us)))
    }

    async fn thread_by_subject(
        &self,
        route: &str,
        sender: &Address,
        subject: &str,
        since: Timestamp,
    ) -> Result<Option<Mapping>, StoreError> {
        let contents = self.contents();
        let name = [route.to_owned(), sender.folded(), subject.to_owned()];
        let key = contents.subjects.get(&name).copied();
        let found = key.and_then(|key| contents.mappings.get(&(route.to_owned(), key)));
        let fits = |mapping: &&Mapping| {
            let participant = mapping.participant.as_ref();
            mapping.subject == subject
                && participant.is_some_and(|p| p.folded() == sender.folded())
                && mapping.changed_at >= since
        };
        Ok(found.filter(fits).cloned())
    }

    async fn issued_token(
        &self,
        token: [u8; 16],
    ) -> Result<Option<(String, Timestamp)>, StoreError> {
        Ok(self.contents().tokens.get(&token).cloned())
    }

    async fn is_revoked(&self, token: [u8; 16]) -> Result<bool, StoreError> {
        Ok(self.contents().revoked.contains(&token))
    }

    async fn last_message(
        &self,
        key: &ConversationKey,
        by_us: bool,
    ) -> Result<Option<LastMessage>, StoreError> {
        let name = (conversation(key), by_us);
        Ok(self.contents().messages.get(&name).cloned())
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
