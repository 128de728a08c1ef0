//! Owns the product's calls to the gateway: requests for mail, and queries about them.
//!
//! Does not compose mail: a [`DraftIntake`], built by the caller, accepts the drafts.

mod call_auth;
mod draft_body;
mod jobs;
mod suppressions;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use bytes::{Bytes, BytesMut};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time;

pub use call_auth::CallAuth;
pub use draft_body::field_name;

use super::auth_failures::{AuthFailures, ProtectedArea};
use super::endpoint::{Endpoint, mount};
use super::error::{HttpError, success};
use super::idempotency;
use super::server::client_ip;
use crate::clock;
use crate::limits::{Holder, LoadMonitor, MemoryBudget, MemoryLimits, MemoryPermit};
use crate::mail::draft::{Draft, DraftCall, DraftKey};
use crate::mail::job_id::JobId;
use crate::queue::{JobQueue, SendNow};
use crate::store::Store;
use draft_body::ParsedCall;

/// The time limit for receiving a body.
const BODY_WAIT: Duration = Duration::from_secs(35);
/// Octets allocated initially for a body, whatever its declared length.
const BODY_CAPACITY: usize = 64 * 1024;

/// Accepts drafts.
pub trait DraftIntake: Send + Sync {
    /// Composes the mails of a draft and stores them: the returned jobs are on disk.
    ///
    /// `None` if nothing is sent, because the draft repeats a message that Postern posted itself.
    ///
    /// # Errors
    /// The error response for the product.
    fn submit(
        &self,
        draft: Draft,
    ) -> Pin<Box<dyn Future<Output = Result<Option<QueuedDraft>, HttpError>> + Send + '_>>;
}

/// The jobs of an accepted draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedDraft {
    /// The job of the recipient, then one for each copy.
    pub jobs: Vec<JobId>,
    /// True if at least one of them is new.
    pub is_new: bool,
}

/// Limits of the gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Octets of a request's body.
    pub body_bytes_max: usize,
    /// Octets of all bodies that are being read or composed.
    pub bytes_in_flight_max: usize,
    /// The time for which a job is attempted after a person retried it.
    pub age_max: Duration,
    /// The number of permanent bounces after which an address is suppressed.
    pub suppress_after: u32,
    /// The time for which an address stays suppressed.
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

/// The state behind the product's calls.
pub struct Gateway {
    store: Store,
    /// `None` if outgoing mail is switched off.
    intake: Option<Arc<dyn DraftIntake>>,
    callers: CallAuth,
    settings: GatewaySettings,
    memory: Arc<MemoryBudget>,
    jobs: JobQueue,
    requests: Family<GatewayLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabels {
    call: String,
    result: String,
}

impl Gateway {
    /// Creates a gateway that passes drafts to `intake`; without one it refuses them.
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
            "Calls that request a mail, by result",
            Family::clone(&requests),
        );
        let bytes = settings.bytes_in_flight_max;
        Self {
            jobs: JobQueue::new(store.clone(), settings.age_max),
            store,
            intake,
            callers,
            memory: MemoryBudget::new(
                MemoryLimits::shared(bytes, settings.body_bytes_max),
                Gauge::default(),
                LoadMonitor::default(),
            ),
            settings,
            requests,
        }
    }

    /// The same gateway with a running worker, which is notified of a job that a person retried.
    pub fn with_worker(self, send_now: SendNow) -> Self {
        Self {
            jobs: self.jobs.with_worker(send_now),
            ..self
        }
    }

    /// The jobs that the calls show and change.
    pub fn jobs(&self) -> JobQueue {
        self.jobs.clone()
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
            let message = "outgoing mail is switched off (outbound.enabled)";
            return Err(HttpError::new(
                StatusCode::FORBIDDEN,
                "outbound_disabled",
                message,
            ));
        };
        let given = idempotency::key(&head.headers)?;
        let ip = client_ip(&head.extensions);
        let holder = match ip {
            Some(ip) if !claim.is_proven() => Holder::Stranger(ip),
            _ => Holder::Trusted,
        };
        let read = time::timeout(BODY_WAIT, self.read_body(holder, body)).await;
        let (body, permit) = read.map_err(|_| {
            let message = "the body did not arrive in time";
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        })??;
        let caller = self.callers.verify_body(claim, &body)?;
        let nonce = self
            .callers
            .nonce_of(&caller, given.as_deref(), clock::now());
        if let Some(nonce) = nonce
            && !self.store.bind_nonce(nonce).await?
        {
            return Err(call_auth::replayed());
        }
        let key = given
            .map(DraftKey::Given)
            .or_else(|| caller.signed_id.map(DraftKey::Signed));
        // Parsing megabytes of JSON and base64 would block the other tasks of this thread.
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

    /// Reads the whole body. The permit accounts for its memory.
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
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > max {
            return Err(too_large());
        }
        let mut body = pin!(body);
        let mut bytes = BytesMut::with_capacity(announced.min(BODY_CAPACITY));
        let mut permit = self.memory.permit(holder);
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|_| HttpError::bad_request("the body is incomplete"))?;
            let Ok(more) = frame.into_data() else {
                continue;
            };
            if bytes.len() + more.len() > max {
                return Err(too_large());
            }
            if !permit.grow(more.len()) {
                let message = "too many requests at a time, retry later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(HttpError::new(status, "unavailable", message));
            }
            bytes.extend_from_slice(&more);
        }
        Ok((bytes.freeze(), permit))
    }
}

/// The result of a valid call.
enum CallResult {
    Taken(QueuedDraft),
    Ignored(String),
}

/// The routes of the gateway.
pub(super) fn router(gateway: Arc<Gateway>, failures: AuthFailures) -> Router {
    let guard = middleware::from_fn_with_state(Arc::clone(&gateway), authorize);
    let keyed = mount(keyed_routes()).route_layer(guard);
    let record = middleware::from_fn_with_state(failures, record_failure);
    let routes = mount(routes()).merge(keyed).route_layer(record);
    routes.with_state(gateway)
}

/// The calls that request a mail. They authenticate their callers themselves.
pub(super) fn routes() -> Vec<Endpoint<Arc<Gateway>>> {
    vec![
        Endpoint::new(Method::POST, "/gateway/events", routing::post(events)),
        Endpoint::new(Method::POST, "/gateway/outbound", routing::post(outbound)),
    ]
}

/// The calls about jobs and addresses, for holders of a key.
pub(super) fn keyed_routes() -> Vec<Endpoint<Arc<Gateway>>> {
    let mut routes = jobs::routes();
    routes.extend(suppressions::routes());
    routes
}

/// Records requests with a wrong key or signature.
async fn record_failure(
    State(failures): State<AuthFailures>,
    request: Request,
    next: Next,
) -> Response {
    let client = client_ip(request.extensions());
    let headers = request.headers();
    let has_credentials = headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key("x-webhook-signature")
        || headers.contains_key("webhook-signature");
    let response = next.run(request).await;
    if has_credentials && response.status() == StatusCode::UNAUTHORIZED {
        failures.record(ProtectedArea::Gateway, client);
    }
    response
}

/// Admits requests with a key.
async fn authorize(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    gateway.callers.require_key(request.headers())?;
    Ok(next.run(request).await)
}

async fn events(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    gateway.handle(DraftCall::Event, request).await
}

async fn outbound(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    gateway.handle(DraftCall::Direct, request).await
}
