//! Owns the stream of events: `GET /gateway/events` as server-sent events, resumed by `Last-Event-ID`.
//!
//! Does not decide what is an event, and keeps no cursor: the listener does.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::Fault;
use super::keys::Keys;
use super::router::{App, Route};
use crate::store::{EventId, Store};

/// Listeners at a time.
const LISTENERS_MAX: usize = 64;
/// Events read from the store at once.
const COUNT: usize = 100;
/// How long a stream is silent at most; a comment then shows that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What listeners are told from.
#[derive(Clone, Debug)]
pub struct Listeners {
    store: Store,
    keys: Keys,
    slots: Arc<Semaphore>,
    over: Arc<watch::Sender<bool>>,
}

impl Listeners {
    /// Tells who shows one of `keys` what happens in `store`.
    pub fn new(store: Store, keys: Keys) -> Self {
        Self {
            store,
            keys,
            slots: Arc::new(Semaphore::new(LISTENERS_MAX)),
            over: Arc::default(),
        }
    }

    /// Ends every stream: the server would wait for them.
    pub fn close(&self) {
        self.over.send_replace(true);
    }
}

pub(super) fn routes() -> Vec<Route<App>> {
    vec![Route::new(
        Method::GET,
        "/gateway/events",
        routing::get(listen),
    )]
}

/// Where to begin, for those that cannot set a header.
#[derive(Deserialize)]
struct From {
    after: Option<String>,
}

async fn listen(
    State(app): State<App>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let Some(listeners) = app.listeners else {
        return Err(Fault::absent("path"));
    };
    if !listeners.keys.admits_bearer(&headers) {
        return Err(Fault::unauthorized());
    }
    let newest = listeners.store.events();
    let named = headers.get("last-event-id").map(|id| id.to_str());
    let named = match named {
        Some(Ok(id)) if !id.is_empty() => Some(id.to_owned()),
        Some(Err(_)) => return Err(Fault::request("Last-Event-ID: not an event's id")),
        _ => from.after,
    };
    let after = match named {
        Some(id) => {
            let parsed = id.parse();
            parsed.map_err(|_| Fault::request("Last-Event-ID: not an event's id"))?
        }
        None => *newest.borrow(),
    };
    let slot = Arc::clone(&listeners.slots).try_acquire_owned();
    let slot = slot.map_err(|_| {
        let message = format!("{LISTENERS_MAX} listeners are there already");
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, "crowded", message)
    })?;
    let place = Place {
        after,
        ready: VecDeque::new(),
        newest,
        over: listeners.over.subscribe(),
        store: listeners.store,
        _slot: slot,
    };
    let events = stream::unfold(place, |mut place| async move {
        let told = place.next().await?;
        Some((Ok::<_, Infallible>(told), place))
    });
    let alive = KeepAlive::new().interval(SILENCE_MAX);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// Where a listener is.
struct Place {
    after: EventId,
    ready: VecDeque<sse::Event>,
    newest: watch::Receiver<EventId>,
    over: watch::Receiver<bool>,
    store: Store,
    _slot: OwnedSemaphorePermit,
}

impl Place {
    /// The next event; `None` when the server stops.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if *self.over.borrow() {
                return None;
            }
            if let Some(told) = self.ready.pop_front() {
                return Some(told);
            }
            // Seen before the store is asked, so that nothing comes in between.
            self.newest.borrow_and_update();
            for (id, event) in self.store.events_after(self.after, COUNT) {
                self.after = id;
                let told = sse::Event::default()
                    .id(id.to_string())
                    .event(event.kind.name())
                    .data(event.to_json().to_string());
                self.ready.push_back(told);
            }
            if self.ready.is_empty() {
                tokio::select! {
                    changed = self.newest.changed() => changed.ok()?,
                    _ = self.over.wait_for(|over| *over) => return None,
                }
            }
        }
    }
}
