//! Owns the stream of events: `GET /gateway/events` as server-sent events, resumed by `Last-Event-ID`.
//!
//! Does not decide what is an event, and keeps no cursor: the listener does.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::HttpError;
use super::keys::AccessKeys;
use super::router::{App, Endpoint};
use crate::store::{EventId, Store};

/// Listeners at a time.
const LISTENERS_MAX: usize = 64;
/// Events read from the store at once.
const EVENTS_READ_MAX: usize = 100;
/// How long a stream is silent at most; a comment then shows that it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// What listeners are told from.
#[derive(Clone, Debug)]
pub struct EventStreams {
    store: Store,
    keys: AccessKeys,
    permits: Arc<Semaphore>,
    closed: Arc<watch::Sender<bool>>,
}

impl EventStreams {
    /// Tells who shows one of `keys` what happens in `store`.
    pub fn new(store: Store, keys: AccessKeys) -> Self {
        Self {
            store,
            keys,
            permits: Arc::new(Semaphore::new(LISTENERS_MAX)),
            closed: Arc::default(),
        }
    }

    /// Ends every stream: the server would wait for them.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

pub(super) fn routes() -> Vec<Endpoint<App>> {
    vec![Endpoint::new(
        Method::GET,
        "/gateway/events",
        routing::get(stream_events),
    )]
}

/// Where to begin, for those that cannot set a header.
#[derive(Deserialize)]
struct StreamQuery {
    after: Option<String>,
}

async fn stream_events(
    State(app): State<App>,
    query: Result<Query<StreamQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let Some(listeners) = app.listeners else {
        return Err(HttpError::not_found("path"));
    };
    if !listeners.keys.admits_bearer(&headers) {
        return Err(HttpError::unauthorized());
    }
    let Query(from) = query.map_err(|_| HttpError::bad_request("query: not understood"))?;
    let newest = listeners.store.newest_event();
    let named = headers.get("last-event-id").map(|id| id.to_str());
    let named = match named {
        Some(Ok(id)) if !id.is_empty() => Some(id.to_owned()),
        Some(Err(_)) => return Err(HttpError::bad_request("Last-Event-ID: not an event's id")),
        _ => from.after,
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
        let message = format!("{LISTENERS_MAX} listeners are there already");
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "crowded", message)
    })?;
    let place = EventStream {
        after,
        pending: VecDeque::new(),
        newest,
        closed: listeners.closed.subscribe(),
        store: listeners.store,
        _slot: slot,
    };
    let events = stream::unfold(place, |mut place| async move {
        let told = place.next().await?;
        Some((Ok::<_, Infallible>(told), place))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// Where a listener is.
struct EventStream {
    after: EventId,
    pending: VecDeque<sse::Event>,
    newest: watch::Receiver<EventId>,
    closed: watch::Receiver<bool>,
    store: Store,
    _slot: OwnedSemaphorePermit,
}

impl EventStream {
    /// The next event; `None` when the server stops.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if *self.closed.borrow() {
                return None;
            }
            if let Some(told) = self.pending.pop_front() {
                return Some(told);
            }
            // Seen before the store is asked, so that nothing comes in between.
            self.newest.borrow_and_update();
            let Ok(events) = self.store.events_after(self.after, EVENTS_READ_MAX).await else {
                // The listener comes again with the last id it has.
                return None;
            };
            for (id, event) in events {
                self.after = id;
                let told = sse::Event::default()
                    .id(id.to_string())
                    .event(event.kind.name())
                    .data(event.to_json().to_string());
                self.pending.push_back(told);
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
