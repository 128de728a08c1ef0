//! Owns the embedded store's event log.
//!
//! Does not write (the writer thread does), and sends no events.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::backend::EmbeddedStore;
use super::lookup::Lookup;
use crate::store::door::EventLog;
use crate::store::error::StoreError;
use crate::store::event::{Cursor, Event};
use crate::store::id::EventId;

#[async_trait]
impl EventLog for EmbeddedStore {
    async fn events_after(
        &self,
        after: EventId,
        count: usize,
    ) -> Result<Vec<(EventId, Arc<Event>)>, StoreError> {
        let known: Vec<(EventId, Option<Arc<Event>>)> = {
            let state = self.shared.state();
            let next = state.outbox.events_after(after).take(count);
            next.map(|id| (id, state.outbox.recent_event(id))).collect()
        };
        if known.iter().all(|(_, event)| event.is_some()) {
            let events = known.into_iter();
            return Ok(events
                .filter_map(|(id, event)| Some((id, event?)))
                .collect());
        }
        self.read(move |shared| {
            let mut found = Vec::with_capacity(known.len());
            for (id, event) in known {
                let event = match event {
                    Some(event) => Ok(Some(event)),
                    None => shared.event(id).map_err(|fault| shared.judge(fault)),
                };
                match event {
                    Ok(event) => found.extend(event.map(|event| (id, event))),
                    // A damaged event must not hold back those after it.
                    Err(StoreError::Damaged) => {
                        tracing::error!(event = %id, "store: an event is damaged, and left out");
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(found))
        })
        .await?
    }

    async fn event(&self, id: EventId) -> Result<Option<Arc<Event>>, StoreError> {
        self.read(move |shared| shared.event(id)).await
    }

    async fn has_gap_after(&self, read: EventId) -> Result<bool, StoreError> {
        Ok(read.0 < self.shared.state().totals.events_gone_to)
    }

    fn newest_event(&self) -> watch::Receiver<EventId> {
        self.shared.newest_event.subscribe()
    }

    async fn cursor(&self, subscriber: &str) -> Result<Option<Cursor>, StoreError> {
        let subscriber = subscriber.to_owned();
        self.read(move |shared| Ok(Lookup::cursor(shared, &subscriber)?))
            .await
    }
}
