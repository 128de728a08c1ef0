//! Owns the event stream: `GET /gateway/events` as server-sent events, resumed with
//! `Last-Event-ID`.
//!
//! Does not define events, and stores no cursor; the client does.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::endpoint::Endpoint;
use super::error::HttpError;
use super::extract::named_parameters;
use super::keys::AccessKeys;
use crate::store::{EventId, Store};

/// The number of concurrent streams.
const LISTENERS_MAX: usize = 64;
/// The number of events read from the store at once.
const EVENTS_READ_MAX: usize = 100;
/// The interval of the comments that keep an idle stream alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The event streams.
#[derive(Clone, Debug)]
pub struct EventStreams {
    store: Store,
    keys: AccessKeys,
    permits: Arc<Semaphore>,
    closed: Arc<watch::Sender<bool>>,
}

impl EventStreams {
    /// Streams the events of `store` to holders of one of `keys`.
    pub fn new(store: Store, keys: AccessKeys) -> Self {
        Self {
            store,
            keys,
            permits: Arc::new(Semaphore::new(LISTENERS_MAX)),
            closed: Arc::default(),
        }
    }

    /// Ends every stream, so that the server does not wait for them.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

pub(super) fn routes() -> Vec<Endpoint<EventStreams>> {
    vec![Endpoint::new(
        Method::GET,
        "/gateway/events",
        routing::get(stream_events),
    )]
}

async fn stream_events(
    State(listeners): State<EventStreams>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    if !listeners.keys.admits_bearer(&headers) {
        return Err(HttpError::unauthorized());
    }
    // The start position, for clients that cannot set a header.
    let [after] = named_parameters(&uri, ["after"])?;
    let newest = listeners.store.newest_event();
    let named = headers.get("last-event-id").map(|id| id.to_str());
    let named = match named {
        Some(Ok(id)) if !id.is_empty() => Some(id.to_owned()),
        Some(Err(_)) => return Err(HttpError::bad_request("Last-Event-ID: not an event's id")),
        _ => after,
    };
    let after = match named {
        Some(id) => {
            let parsed = id.parse();
            parsed.map_err(|_| HttpError::bad_request("Last-Event-ID: not an event's id"))?
        }
        None => *newest.borrow(),
    };
    let slot = Arc::clone(&listeners.permits).try_acquire_owned();
    let slot = slot.map_err(|_| {
        let message = format!("{LISTENERS_MAX} streams are open already");
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "crowded", message)
    })?;
    let stream = EventStream {
        after,
        pending: VecDeque::new(),
        newest,
        closed: listeners.closed.subscribe(),
        store: listeners.store,
        _slot: slot,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// One stream and its position.
struct EventStream {
    after: EventId,
    pending: VecDeque<sse::Event>,
    newest: watch::Receiver<EventId>,
    closed: watch::Receiver<bool>,
    store: Store,
    _slot: OwnedSemaphorePermit,
}

impl EventStream {
    /// The next event; `None` at shutdown.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if *self.closed.borrow() {
                return None;
            }
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            // The newest event is marked as seen before the store is read, so that none is missed in
            // between.
            self.newest.borrow_and_update();
            let Ok(events) = self.store.events_after(self.after, EVENTS_READ_MAX).await else {
                // The client reconnects with its last id.
                return None;
            };
            for (id, event) in events {
                self.after = id;
                let event = sse::Event::default()
                    .id(id.to_string())
                    .event(event.kind.name())
                    .data(event.to_json().to_string());
                self.pending.push_back(event);
            }
            if self.pending.is_empty() {
                tokio::select! {
                    changed = self.newest.changed() => changed.ok()?,
                    _ = self.closed.wait_for(|over| *over) => return None,
                }
            }
        }
    }
}
