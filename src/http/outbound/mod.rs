//! Owns the product's calls of the gateway: what it asks to have sent, and what it asks about it.
//!
//! Does not make mails: an [`Intake`], built where that is known, takes the drafts.

mod caller;
mod form;
mod jobs;
mod suppressions;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing;
use bytes::{Bytes, BytesMut};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time;

pub use caller::Callers;
pub use form::field;

use super::error::{Fault, done};
use super::idempotency;
use super::router::{App, Route};
use crate::clock;
use crate::mail::draft::{Call, Draft, DraftKey};
use crate::mail::outgoing::JobId;
use crate::store::Store;
use form::Asked;

/// The longest a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(35);
/// Octets set aside for a body at once, whatever its head promises.
const BODY_BYTES_FIRST: usize = 64 * 1024;

/// Takes drafts.
pub trait Intake: Send + Sync {
    /// Makes mails of a draft and keeps them: what is named is on disk.
    ///
    /// `None`: nothing is to be sent, for the draft tells of a message that Postern posted itself. Fails
    /// with what the product hears instead.
    fn take(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Taken>, Fault>> + Send + '_>>;
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The job for the recipient, then one for each copy.
    pub jobs: Vec<JobId>,
    /// At least one of them is new.
    pub is_new: bool,
}

/// Bounds of the gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Octets of a request's body.
    pub body_bytes_max: usize,
    /// Octets of all bodies that are being read or made into mails.
    pub bytes_in_flight_max: usize,
    /// How long a job is tried again once a person says so.
    pub age_max: Duration,
    /// How many jobs must have come back for good before an address is held back.
    pub suppress_after: u32,
    /// How long an address that is put on the list stays on it.
    pub suppression_age: Duration,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            body_bytes_max: 30 * 1024 * 1024,
            bytes_in_flight_max: 128 * 1024 * 1024,
            age_max: 3 * DAY,
            suppress_after: 2,
            suppression_age: 90 * DAY,
        }
    }
}

/// What the product's calls are answered from.
pub struct Gateway {
    store: Store,
    /// `None` if nothing is sent at all.
    intake: Option<Arc<dyn Intake>>,
    callers: Callers,
    settings: GatewaySettings,
    room: Arc<Semaphore>,
    /// Between the look at a job and the fact about it no other request comes.
    turn: Mutex<()>,
    requests: Family<Labels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: String,
    result: String,
}

impl Gateway {
    /// A gateway that hands drafts to `intake`; without one it refuses them.
    pub fn new(
        store: Store,
        intake: Option<Arc<dyn Intake>>,
        callers: Callers,
        settings: GatewaySettings,
        registry: &mut Registry,
    ) -> Self {
        let requests = Family::default();
        registry.register(
            "postern_outbound_requests",
            "Calls that ask for a mail, by what became of them",
            Family::clone(&requests),
        );
        let bytes = settings.bytes_in_flight_max;
        Self {
            store,
            intake,
            callers,
            room: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            settings,
            turn: Mutex::default(),
            requests,
        }
    }

    async fn answer(&self, call: Call, request: Request) -> Response {
        let (result, response) = match self.take(call, request).await {
            Ok(Answer::Taken(taken)) => {
                let result = if taken.is_new { "queued" } else { "known" };
                let jobs: Vec<String> = taken.jobs.iter().map(ToString::to_string).collect();
                let body = json!({ "success": true, "jobId": jobs.first(), "jobIds": jobs });
                (result, (StatusCode::ACCEPTED, Json(body)).into_response())
            }
            Ok(Answer::Ignored(why)) => {
                ("ignored", done(StatusCode::OK, json!({ "ignored": why })))
            }
            Err(fault) => (fault.code, fault.into_response()),
        };
        let labels = Labels {
            call: call.name().to_owned(),
            result: result.to_owned(),
        };
        self.requests.get_or_create(&labels).inc();
        response
    }

    async fn take(&self, call: Call, request: Request) -> Result<Answer, Fault> {
        let (head, body) = request.into_parts();
        let claim = self.callers.claim(&head.headers, clock::now())?;
        let Some(intake) = &self.intake else {
            let message = "outgoing mail is switched off here (outbound.enabled)";
            return Err(Fault::new(
                StatusCode::FORBIDDEN,
                "outbound_disabled",
                message,
            ));
        };
        let given = idempotency::key(&head.headers)?;
        let read = time::timeout(BODY_MAX, self.whole(body)).await;
        let (body, room) = read.map_err(|_| {
            let message = "the body did not come in time";
            Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        })??;
        let caller = self.callers.verify(claim, &body)?;
        self.callers
            .keyed(&caller, given.as_deref(), clock::now())?;
        let key = given
            .map(DraftKey::Given)
            .or_else(|| caller.signed_id.map(DraftKey::Signed));
        // Megabytes of JSON and base64 would hold up whatever else the thread does.
        let asked = tokio::task::spawn_blocking(move || form::read(call, &body, key));
        let asked = asked.await.map_err(|_| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Fault::new(status, "internal", "the body could not be read")
        })??;
        let answer = match asked {
            Asked::Nothing(why) => Answer::Ignored(why),
            Asked::Mail(draft) => match intake.take(*draft).await? {
                Some(taken) => Answer::Taken(taken),
                None => Answer::Ignored("the message is one that Postern posted".to_owned()),
            },
        };
        drop(room);
        Ok(answer)
    }

    /// The whole body, and the room it takes while it is held.
    async fn whole(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Fault> {
        let max = self.settings.body_bytes_max;
        let too_large = || {
            let message = format!("the body has more than {max} bytes");
            Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        };
        let told = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if told > max {
            return Err(too_large());
        }
        let mut body = pin!(body);
        let mut bytes = BytesMut::with_capacity(told.min(BODY_BYTES_FIRST));
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| Fault::request("the body broke off"))?;
            let Ok(more) = frame.into_data() else {
                continue;
            };
            if bytes.len() + more.len() > max {
                return Err(too_large());
            }
            let permits = u32::try_from(more.len()).map_err(|_| too_large())?;
            let taken = Arc::clone(&self.room).try_acquire_many_owned(permits);
            let taken = taken.map_err(|_| {
                let message = "too much at a time, try later";
                Fault::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            })?;
            match &mut room {
                Some(room) => room.merge(taken),
                None => room = Some(taken),
            }
            bytes.extend_from_slice(&more);
        }
        Ok((bytes.freeze(), room))
    }
}

/// What a call that is understood hears.
enum Answer {
    Taken(Taken),
    Ignored(String),
}

/// The calls that ask for a mail. They say themselves who may make them.
pub(super) fn routes() -> Vec<Route<App>> {
    vec![
        Route::new(Method::POST, "/gateway/events", routing::post(events)),
        Route::new(Method::POST, "/gateway/outbound", routing::post(outbound)),
    ]
}

/// The calls about jobs and addresses, for whoever has a key.
pub(super) fn keyed_routes() -> Vec<Route<App>> {
    let mut routes = jobs::routes();
    routes.extend(suppressions::routes());
    routes
}

/// Lets a request through if it has a key.
pub(super) async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let admitted = app
        .gateway()
        .and_then(|gateway| gateway.callers.admit(request.headers()));
    match admitted {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

impl App {
    fn gateway(&self) -> Result<&Gateway, Fault> {
        self.gateway.as_deref().ok_or_else(|| Fault::absent("path"))
    }
}

async fn events(State(app): State<App>, request: Request) -> Result<Response, Fault> {
    Ok(app.gateway()?.answer(Call::Event, request).await)
}

async fn outbound(State(app): State<App>, request: Request) -> Result<Response, Fault> {
    Ok(app.gateway()?.answer(Call::Direct, request).await)
}
