//! Owns the product's calls of the gateway: what it asks to have sent, and what it asks about it.
//!
//! Does not make mails: an [`DraftIntake`], built where that is known, takes the drafts.

mod call_auth;
mod draft_body;
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
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time;

pub use call_auth::CallAuth;
pub use draft_body::field_name;

use super::error::{HttpError, success};
use super::idempotency;
use super::router::{App, Endpoint};
use super::server::ClientIp;
use crate::clock;
use crate::limits::{Holder, LoadMonitor, MemoryBudget, MemoryLimits, MemoryPermit};
use crate::mail::draft::{Draft, DraftCall, DraftKey};
use crate::mail::job_id::JobId;
use crate::store::Store;
use draft_body::ParsedCall;

/// The longest a body may take to come.
const BODY_WAIT: Duration = Duration::from_secs(35);
/// Octets set aside for a body at once, whatever its head promises.
const BODY_CAPACITY: usize = 64 * 1024;

/// Takes drafts.
pub trait DraftIntake: Send + Sync {
    /// Makes mails of a draft and keeps them: what is named is on disk.
    ///
    /// `None`: nothing is to be sent, for the draft tells of a message that Postern posted itself. Fails
    /// with what the product hears instead.
    fn submit(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Option<QueuedDraft>, HttpError>> + Send + '_>>;
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedDraft {
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
    intake: Option<Arc<dyn DraftIntake>>,
    callers: CallAuth,
    settings: GatewaySettings,
    memory: Arc<MemoryBudget>,
    /// Between the look at a job and the fact about it no other request comes.
    jobs_lock: Mutex<()>,
    requests: Family<GatewayLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabels {
    call: String,
    result: String,
}

impl Gateway {
    /// A gateway that hands drafts to `intake`; without one it refuses them.
    pub fn new(
        store: Store,
        intake: Option<Arc<dyn DraftIntake>>,
        callers: CallAuth,
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
            memory: MemoryBudget::new(
                MemoryLimits::shared(bytes, settings.body_bytes_max),
                Gauge::default(),
                LoadMonitor::default(),
            ),
            settings,
            jobs_lock: Mutex::default(),
            requests,
        }
    }

    async fn handle(&self, call: DraftCall, request: Request) -> Response {
        let (result, response) = match self.accept(call, request).await {
            Ok(CallResult::Taken(taken)) => {
                let result = if taken.is_new { "queued" } else { "known" };
                let jobs: Vec<String> = taken.jobs.iter().map(ToString::to_string).collect();
                let body = json!({ "success": true, "jobId": jobs.first(), "jobIds": jobs });
                (result, (StatusCode::ACCEPTED, Json(body)).into_response())
            }
            Ok(CallResult::Ignored(why)) => (
                "ignored",
                success(StatusCode::OK, json!({ "ignored": why })),
            ),
            Err(fault) => (fault.code, fault.into_response()),
        };
        let labels = GatewayLabels {
            call: call.name().to_owned(),
            result: result.to_owned(),
        };
        self.requests.get_or_create(&labels).inc();
        response
    }

    async fn accept(&self, call: DraftCall, request: Request) -> Result<CallResult, HttpError> {
        let (head, body) = request.into_parts();
        let claim = self.callers.check_head(&head.headers, clock::now())?;
        let Some(intake) = &self.intake else {
            let message = "outgoing mail is switched off here (outbound.enabled)";
            return Err(HttpError::new(
                StatusCode::FORBIDDEN,
                "outbound_disabled",
                message,
            ));
        };
        let given = idempotency::key(&head.headers)?;
        let ip = head.extensions.get::<ClientIp>().and_then(|ip| ip.0);
        let holder = match ip {
            Some(ip) if !claim.is_proven() => Holder::Stranger(ip),
            _ => Holder::Trusted,
        };
        let read = time::timeout(BODY_WAIT, self.read_body(holder, body)).await;
        let (body, permit) = read.map_err(|_| {
            let message = "the body did not come in time";
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        })??;
        let caller = self.callers.verify_body(claim, &body)?;
        self.callers
            .bind_idempotency_key(&caller, given.as_deref(), clock::now())?;
        let key = given
            .map(DraftKey::Given)
            .or_else(|| caller.signed_id.map(DraftKey::Signed));
        // Megabytes of JSON and base64 would hold up whatever else the thread does.
        let asked = tokio::task::spawn_blocking(move || draft_body::read(call, &body, key));
        let asked = asked.await.map_err(|_| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            HttpError::new(status, "internal", "the body could not be read")
        })??;
        let answer = match asked {
            ParsedCall::Ignored(why) => CallResult::Ignored(why),
            ParsedCall::Mail(draft) => match intake.submit(*draft).await? {
                Some(taken) => CallResult::Taken(taken),
                None => CallResult::Ignored("the message is one that Postern posted".to_owned()),
            },
        };
        drop(permit);
        Ok(answer)
    }

    /// The whole body, and the permit for its bytes.
    async fn read_body(
        &self,
        holder: Holder,
        body: Body,
    ) -> Result<(Bytes, MemoryPermit), HttpError> {
        let max = self.settings.body_bytes_max;
        let too_large = || {
            let message = format!("the body has more than {max} bytes");
            HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
        };
        let told = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if told > max {
            return Err(too_large());
        }
        let mut body = pin!(body);
        let mut bytes = BytesMut::with_capacity(told.min(BODY_CAPACITY));
        let mut permit = self.memory.permit(holder);
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| HttpError::bad_request("the body broke off"))?;
            let Ok(more) = frame.into_data() else {
                continue;
            };
            if bytes.len() + more.len() > max {
                return Err(too_large());
            }
            if !permit.grow(more.len()) {
                let message = "too much at a time, try later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(HttpError::new(status, "unavailable", message));
            }
            bytes.extend_from_slice(&more);
        }
        Ok((bytes.freeze(), permit))
    }
}

/// What a call that is understood hears.
enum CallResult {
    Taken(QueuedDraft),
    Ignored(String),
}

/// The calls that ask for a mail. They say themselves who may make them.
pub(super) fn routes() -> Vec<Endpoint<App>> {
    vec![
        Endpoint::new(Method::POST, "/gateway/events", routing::post(events)),
        Endpoint::new(Method::POST, "/gateway/outbound", routing::post(outbound)),
    ]
}

/// The calls about jobs and addresses, for whoever has a key.
pub(super) fn keyed_routes() -> Vec<Endpoint<App>> {
    let mut routes = jobs::routes();
    routes.extend(suppressions::routes());
    routes
}

/// Lets a request through if it has a key.
pub(super) async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let admitted = app
        .gateway()
        .and_then(|gateway| gateway.callers.require_key(request.headers()));
    match admitted {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

impl App {
    fn gateway(&self) -> Result<&Gateway, HttpError> {
        self.gateway
            .as_deref()
            .ok_or_else(|| HttpError::not_found("path"))
    }
}

async fn events(State(app): State<App>, request: Request) -> Result<Response, HttpError> {
    Ok(app.gateway()?.handle(DraftCall::Event, request).await)
}

async fn outbound(State(app): State<App>, request: Request) -> Result<Response, HttpError> {
    Ok(app.gateway()?.handle(DraftCall::Direct, request).await)
}
