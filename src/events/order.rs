//! Owns the order of delivery to a subscriber: one event of a thread at a time.
//!
//! Does not deliver, and reads no clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::store::{CURSOR_GAPS_MAX, Cursor, Event, EventId};

/// An event to be delivered.
pub(super) type QueuedEvent = (EventId, Arc<Event>);

/// The unfinished events, up to the newest one read.
#[derive(Debug, Default)]
pub(super) struct EventOrder {
    /// The newest event that was read.
    read: EventId,
    /// The ids of the unfinished events.
    open: BTreeSet<EventId>,
    /// Events that have not begun, by thread: they wait for the running event of their thread.
    blocked: HashMap<String, VecDeque<QueuedEvent>>,
    /// Events that may begin.
    ready: VecDeque<QueuedEvent>,
}

impl EventOrder {
    /// The order at a start: all events up to `event` are finished, except the given ones.
    pub(super) fn new(event: EventId, open: Vec<QueuedEvent>) -> Self {
        let mut order = Self::default();
        for told in open {
            order.push(told, true);
        }
        order.read = event;
        order
    }

    /// The newest event that was read.
    pub(super) const fn read(&self) -> EventId {
        self.read
    }

    /// The number of unfinished events.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// The subscriber's cursor: the newest event read, or the one before the first event that
    /// exceeds the list of open ones. The cursor never goes back, and no event below a recorded
    /// cursor becomes open again.
    pub(super) fn position(&self) -> Cursor {
        let mut open: Vec<_> = self
            .open
            .iter()
            .copied()
            .take(CURSOR_GAPS_MAX + 1)
            .collect();
        let beyond = match open.len() > CURSOR_GAPS_MAX {
            true => open.pop(),
            false => None,
        };
        let event = beyond.map_or(self.read, EventId::just_before);
        Cursor {
            last: event,
            gaps: open,
        }
    }

    /// Adds the next event; `wanted` is true if the subscriber wants it.
    pub(super) fn push(&mut self, (id, event): QueuedEvent, wanted: bool) {
        self.read = id;
        if !wanted {
            return;
        }
        self.open.insert(id);
        match &event.thread_id {
            Some(thread) => match self.blocked.get_mut(thread) {
                Some(behind) => behind.push_back((id, event)),
                None => {
                    self.blocked.insert(thread.clone(), VecDeque::new());
                    self.ready.push_back((id, event));
                }
            },
            None => self.ready.push_back((id, event)),
        }
    }

    /// The next event that may be delivered.
    pub(super) fn next(&mut self) -> Option<QueuedEvent> {
        self.ready.pop_front()
    }

    /// Marks an event as delivered or given up, and releases the next one of its thread.
    pub(super) fn complete(&mut self, id: EventId, event: &Event) {
        self.open.remove(&id);
        let Some(thread) = &event.thread_id else {
            return;
        };
        let Some(behind) = self.blocked.get_mut(thread) else {
            return;
        };
        match behind.pop_front() {
            Some(next) => self.ready.push_back(next),
            None => {
                self.blocked.remove(thread);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::store::EventKind;

    fn event(thread: Option<u8>) -> Arc<Event> {
        Arc::new(Event {
            kind: EventKind::Processed,
            at: Timestamp::default(),
            thread_id: thread.map(|t| t.to_string()),
            data: serde_json::Map::new(),
        })
    }

    #[test]
    fn the_list_of_open_events_is_bounded() {
        let max = CURSOR_GAPS_MAX as u64;
        let mut order = EventOrder::new(
            EventId::numbered(5),
            vec![(EventId::numbered(3), event(Some(1)))],
        );
        assert_eq!(order.next().map(|(id, _)| id), Some(EventId::numbered(3)));
        for id in 6..=2 * max {
            order.push((EventId::numbered(id), event(None)), true);
        }
        let position = order.position();
        assert_eq!(position.last, EventId::numbered(max + 4));
        assert_eq!(position.gaps.len(), CURSOR_GAPS_MAX);
        assert_eq!(
            position.gaps[..2],
            [EventId::numbered(3), EventId::numbered(6)]
        );
        order.complete(EventId::numbered(3), &event(Some(1)));
        assert_eq!(order.position().last, EventId::numbered(max + 5));
        for id in 6..=2 * max - 2 {
            order.complete(EventId::numbered(id), &event(None));
        }
        let open = vec![EventId::numbered(2 * max - 1), EventId::numbered(2 * max)];
        let event = EventId::numbered(2 * max);
        assert_eq!(
            order.position(),
            Cursor {
                last: event,
                gaps: open
            }
        );
    }

    proptest! {
        /// In whatever order attempts end, each event is delivered once, threads keep their order, and the
        /// cursor never passes an unfinished event.
        #[test]
        fn threads_keep_their_order(
            events in proptest::collection::vec((proptest::option::of(0u8..4), any::<bool>()), 0..40),
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let mut order = EventOrder::new(EventId::numbered(10), Vec::new());
            let mut wanted = Vec::new();
            for (nth, (thread, is_wanted)) in events.iter().enumerate() {
                let id = EventId::numbered(11 + 2 * nth as u64);
                order.push((id, event(*thread)), *is_wanted);
                if *is_wanted {
                    wanted.push((id, thread.map(|t| t.to_string())));
                }
            }
            let (mut flying, mut told) = (Vec::new(), Vec::new());
            let mut picks = picks.into_iter();
            loop {
                while let Some(next) = order.next() {
                    let thread = next.1.thread_id.clone();
                    prop_assert!(thread.is_none()
                        || flying.iter().all(|(_, e): &QueuedEvent| e.thread_id != thread));
                    flying.push(next);
                }
                if flying.is_empty() {
                    break;
                }
                let at = picks.next().map_or(0, |pick| pick.index(flying.len()));
                let (id, event) = flying.swap_remove(at);
                let before = order.position();
                prop_assert!(before.last < id || before.gaps.contains(&id));
                order.complete(id, &event);
                told.push((id, event.thread_id.clone()));
                let after = order.position();
                prop_assert!(after.last >= before.last && !after.gaps.contains(&id));
            }
            prop_assert_eq!(order.position(), Cursor { last: order.read(), gaps: Vec::new() });
            prop_assert_eq!(order.open(), 0);
            prop_assert!(order.blocked.is_empty());
            for thread in wanted.iter().map(|(_, t)| t).filter(|t| t.is_some()) {
                let of = |list: &[(EventId, Option<String>)]| -> Vec<EventId> {
                    list.iter().filter(|(_, t)| t == thread).map(|(id, _)| *id).collect()
                };
                prop_assert_eq!(of(&wanted), of(&told));
            }
            told.sort();
            wanted.sort();
            prop_assert_eq!(wanted, told);
        }
    }
}
