//! Owns the loop of one subscriber: from the store's events to its webhook, and the cursor between.
//!
//! Does not make the requests; `webhook` does.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio::time;
use tracing::{error, info, warn};

use super::Metrics;
use super::order::{EventOrder, QueuedEvent};
use super::webhook::{EventPostOutcome, EventWebhook};
use crate::clock;
use crate::random;
use crate::retry::{self, AttemptFailure, NextStep};
use crate::store::{Cursor, Event, EventId, EventKind, Fact, Store, StoreError};

/// Fields of an event's data that contain an address.
const ADDRESS_FIELDS: [&str; 2] = ["from", "recipient"];
/// The maximum number of unfinished events that are read, which bounds the memory.
const OPEN_MAX: usize = 1000;
/// The maximum number of concurrent requests to one subscriber.
const CONCURRENCY: usize = 8;
/// The shortest time between two records of the cursor. Events delivered since the last one are
/// delivered again after a crash.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);

/// The name, the selected events and the retry schedule of a subscriber.
#[derive(Clone, Debug)]
pub struct SubscriberSettings {
    /// The name under which the cursor is stored.
    pub name: String,
    /// The kinds of events to deliver; empty means all.
    pub kinds: Vec<EventKind>,
    /// The schedule of retries, and the age at which an event is given up.
    pub retry: retry::Settings,
}

impl SubscriberSettings {
    /// Settings for all kinds of events, retried for three days.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kinds: Vec::new(),
            retry: retry::Settings {
                wait_first: Duration::from_secs(1),
                wait_max: Duration::from_secs(60 * 60),
                max_age: Duration::from_secs(3 * 24 * 60 * 60),
            },
        }
    }
}

/// The destination of a subscriber's events.
#[derive(Debug)]
pub enum EventSink {
    /// A webhook.
    Hook(EventWebhook),
    /// The log, with one line for each event.
    Log,
}

impl EventSink {
    async fn send(&self, id: EventId, event: &Event) -> EventPostOutcome {
        match self {
            Self::Hook(hook) => hook.send(id, event, clock::now()).await,
            Self::Log => {
                let thread = event.thread_id.as_deref().unwrap_or_default();
                let data = Value::Object(without_people(&event.data));
                info!(event = %id, kind = event.kind.name(), thread, %data, "happened");
                EventPostOutcome::Accepted
            }
        }
    }
}

/// The data of an event for the log, which may contain only the domains of people's addresses.
fn without_people(data: &Map<String, Value>) -> Map<String, Value> {
    let mut data = data.clone();
    for name in ADDRESS_FIELDS {
        if let Some(Value::String(text)) = data.get_mut(name) {
            *text = text
                .rsplit_once('@')
                .map_or_else(|| "…".to_owned(), |(_, domain)| format!("…@{domain}"));
        }
    }
    data
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    settings: SubscriberSettings,
    sink: EventSink,
    store: Store,
    metrics: Metrics,
}

impl Subscriber {
    /// A subscriber with this destination.
    pub const fn new(
        settings: SubscriberSettings,
        sink: EventSink,
        store: Store,
        metrics: Metrics,
    ) -> Self {
        Self {
            settings,
            sink,
            store,
            metrics,
        }
    }

    /// Delivers events until `stop` is true. A new subscriber receives the events from now on.
    ///
    /// # Errors
    /// The store no longer records anything.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StoreError> {
        let mut newest = self.store.newest_event();
        let now = *newest.borrow_and_update();
        let mut kept = self.start_cursor(now).await?;
        let mut order = EventOrder::new(kept.last, self.open_events(&kept).await?);
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let mut telling = JoinSet::new();
        let mut flying: HashMap<Id, QueuedEvent> = HashMap::new();
        let mut stopped = pin!(async { drop(stop.wait_for(|stop| *stop).await) });
        let mut keep = time::interval(CURSOR_INTERVAL);
        keep.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            match this.read_events(&mut order).await {
                Err(StoreError::Dead) => return Err(StoreError::Dead),
                Err(error) => {
                    let name = &this.settings.name;
                    warn!(subscriber = name, %error, "events cannot be read from the store; trying again");
                }
                Ok(()) => {}
            }
            while let Some(told) = order.next() {
                let (this, slots, (id, event)) = (Arc::clone(&this), Arc::clone(&slots), told);
                let flown = (id, Arc::clone(&event));
                let task = telling.spawn(async move { this.deliver(id, &event, &slots).await });
                flying.insert(task.id(), flown);
            }
            let name = &this.settings.name;
            this.metrics.set_open(name, order.open());
            tokio::select! {
                Ok(()) = newest.changed(), if order.open() < OPEN_MAX => {}
                Some(ended) = telling.join_next_with_id(), if !telling.is_empty() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => {
                            error!(subscriber = name, "delivery of an event panicked; the event is given up");
                            error.id()
                        }
                    };
                    if let Some((id, event)) = flying.remove(&task) {
                        order.complete(id, &event);
                    }
                }
                _ = keep.tick() => kept = this.store_cursor(kept, order.position()).await?,
                () = &mut stopped => break,
            }
        }
        telling.abort_all();
        this.store_cursor(kept, order.position()).await?;
        Ok(())
    }

    /// The cursor to begin at. A new subscriber's cursor is recorded at once, so that it misses
    /// nothing from now on.
    async fn start_cursor(&self, newest: EventId) -> Result<Cursor, StoreError> {
        let known = self.store.cursor(&self.settings.name).await?;
        let Some(position) = known else {
            let position = Cursor {
                last: newest,
                gaps: Vec::new(),
            };
            self.record(position.clone()).await?;
            return Ok(position);
        };
        Ok(position)
    }

    /// The events below the cursor that are still to be delivered.
    async fn open_events(&self, position: &Cursor) -> Result<Vec<QueuedEvent>, StoreError> {
        let mut open = Vec::new();
        for id in &position.gaps {
            let found = match self.store.event(*id).await {
                Err(StoreError::Damaged) => None,
                found => found?,
            };
            match found {
                Some(event) if self.wants(event.kind) => open.push((*id, event)),
                Some(_) => {}
                None => {
                    let name = &self.settings.name;
                    self.metrics.count_attempt(name, "missed");
                    warn!(subscriber = name, event = %id, "an event was deleted before its delivery");
                }
            }
        }
        Ok(open)
    }

    fn wants(&self, kind: EventKind) -> bool {
        self.settings.kinds.is_empty() || self.settings.kinds.contains(&kind)
    }

    /// Reads further events while there is space.
    async fn read_events(&self, order: &mut EventOrder) -> Result<(), StoreError> {
        const COUNT: usize = 100;
        while order.open() < OPEN_MAX {
            let read = order.read();
            // Read before the events: an event that is deleted later was read.
            let has_gap = read != EventId::default() && self.store.has_gap_after(read).await?;
            let events = self.store.events_after(read, COUNT).await?;
            if let (true, Some((oldest, _))) = (has_gap, events.first()) {
                self.report_gap(read, *oldest);
            }
            let last = events.len() < COUNT;
            for told in events {
                let wanted = self.wants(told.1.kind);
                order.push(told, wanted);
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Warns that a subscriber is so far behind that events were deleted before their delivery.
    fn report_gap(&self, read: EventId, oldest: EventId) {
        let name = &self.settings.name;
        self.metrics.count_attempt(name, "missed");
        warn!(subscriber = name, %read, %oldest, "too far behind: events between these two were deleted before their delivery");
    }

    /// Delivers one event, with all its attempts.
    async fn deliver(&self, id: EventId, event: &Event, slots: &Semaphore) {
        let name = &self.settings.name;
        for attempts in 1.. {
            let heard = {
                let Ok(_slot) = slots.acquire().await else {
                    return;
                };
                self.sink.send(id, event).await
            };
            let EventPostOutcome::Retry {
                reason,
                retry_after: wish,
            } = heard
            else {
                self.metrics.count_attempt(name, "taken");
                return;
            };
            self.metrics.count_attempt(name, "again");
            let age = clock::now().since(event.at);
            let outcome = AttemptFailure::Transient { retry_after: wish };
            let next = retry::next_step(
                &self.settings.retry,
                outcome,
                attempts,
                age,
                random::number(),
            );
            match next {
                NextStep::Retry { after } => {
                    let (kind, wait) = (event.kind.name(), after.as_millis());
                    warn!(subscriber = name, event = %id, kind, attempts, wait, %reason, "not told yet");
                    time::sleep(after).await;
                }
                NextStep::Park { .. } => {
                    self.metrics.count_attempt(name, "given_up");
                    let kind = event.kind.name();
                    error!(subscriber = name, event = %id, kind, attempts, %reason, "given up: not told");
                    return;
                }
            }
        }
    }

    async fn store_cursor(&self, kept: Cursor, position: Cursor) -> Result<Cursor, StoreError> {
        if position != kept {
            self.record(position.clone()).await?;
        }
        Ok(position)
    }

    /// Records the cursor. A full disk is tolerated: more events are then delivered again after a crash.
    async fn record(&self, position: Cursor) -> Result<(), StoreError> {
        let fact = Fact::CursorAdvanced {
            subscriber: self.settings.name.clone(),
            event: position.last,
            open: position.gaps,
            at: clock::now(),
        };
        match self.store.record(vec![fact]).await {
            Ok(()) | Err(StoreError::Full | StoreError::Unavailable) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
