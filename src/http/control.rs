//! Owns the control socket, by which the command line uses a running Postern: the queue, injected mail,
//! tokens.
//!
//! Does not authenticate: only the owner can open the socket ([`super::server::listen_private`]).

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::error::{HttpError, success};
use super::extract::{PathId, parameters, whole_body};
use super::page::{PageQuery, page_response};
use super::router::with_common_layers;
use crate::clock::{self, Timestamp};
use crate::mail::address::{Address, Domain};
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::token::{Format, KeyRing, TokenError};
use crate::queue::{
    BulkAction, MailFilter, MailQueue, NamedThread, QueueEnd, QueueState, QueuedMail,
};
use crate::store::{DeliveryId, Fact, MailId, Mapping, Store};

/// The name of the control socket in the data folder.
pub const SOCKET_NAME: &str = "control.sock";
/// The number of recipients of an injected mail.
const RECIPIENTS_MAX: usize = 100;
/// Octets of a thread id, which must fit a path segment of the Messages API.
const THREAD_BYTES_MAX: usize = 256;
/// The maximum length in octets of a person's reason for parking a mail.
const REASON_BYTES_MAX: usize = 256;

/// The parts that the control socket works on.
#[derive(Clone)]
pub struct ControlParts {
    /// The store for injected mail and tokens.
    pub store: Store,
    /// The queue that is shown and changed.
    pub queue: MailQueue,
    /// The routes for minting tokens; the first is the default.
    pub routes: Arc<[TokenRoute]>,
    /// Resolves an address like RCPT, or returns the refusal.
    #[expect(
        clippy::type_complexity,
        reason = "one closure in one place needs no name"
    )]
    pub resolve_recipient: Arc<
        dyn Fn(Address, Timestamp) -> BoxFuture<'static, Result<Recipient, String>> + Send + Sync,
    >,
    /// Accepts an injected mail, which is on disk once the future resolves.
    pub accept_mail: Arc<dyn Fn(InjectedMail) -> AcceptFuture + Send + Sync>,
    /// Octets of an injected mail.
    pub mail_bytes_max: usize,
}

/// The id of an accepted mail, or the reason why it was not accepted.
pub type AcceptFuture = Pin<Box<dyn Future<Output = Result<MailId, HttpError>> + Send>>;

/// A mail that the operator injects.
#[derive(Clone, Debug)]
pub struct InjectedMail {
    /// The envelope's sender; `None` for the null sender, or if it is unknown.
    pub sender: Option<Address>,
    /// True if the sender is unknown.
    pub sender_untold: bool,
    /// The recipients, at least one.
    pub recipients: Vec<Recipient>,
    /// The time of receipt.
    pub received_at: Timestamp,
    /// The mail itself.
    pub bytes: Bytes,
}

/// The properties of a route for tokens.
pub struct TokenRoute {
    /// The route's name.
    pub name: String,
    /// The domain of its reply addresses.
    pub domain: Domain,
    /// Its keys.
    pub keys: Arc<KeyRing>,
    /// The format of new tokens.
    pub format: Format,
}

/// The routes of the control socket.
pub fn router(control: ControlParts) -> Router {
    let wide = DefaultBodyLimit::max(control.mail_bytes_max);
    with_common_layers(
        Router::new()
            .route("/queue", routing::get(list).post(change_page))
            .route("/queue/{id}", routing::get(show))
            .route("/queue/{id}/raw", routing::get(raw))
            .route("/queue/{id}/retry", routing::post(retry))
            .route("/queue/{id}/park", routing::post(park))
            .route("/queue/{id}/drop", routing::post(drop_delivery))
            .route("/mail", routing::post(inject).layer(wide))
            .route("/tokens", routing::post(mint))
            .route("/tokens/inspect", routing::post(inspect))
            .route("/tokens/revoke", routing::post(revoke)),
    )
    .with_state(control)
}

async fn list(State(control): State<ControlParts>, uri: Uri) -> Result<Response, HttpError> {
    let page = PageQuery::read(&uri, &["parked", "waiting"])?;
    let after = page.after.as_deref().map(delivery_id).transpose()?;
    let state = match page.state.as_deref() {
        Some("waiting") => QueueState::Waiting,
        _ => QueueState::Parked,
    };
    let mut found = control.queue.list(state, after, page.limit + 1).await?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let shown: Vec<Value> = found.iter().map(delivery_json).collect();
    Ok(page_response(&shown, more))
}

async fn show(
    State(control): State<ControlParts>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let found = control.queue.find(delivery_id(&id)?).await?;
    let (mut shown, delivery) = (delivery_json(&found), &found.delivery);
    let envelope = &delivery.envelope;
    shown["door"] = json!(envelope.peer.door);
    shown["peer"] = json!(envelope.peer.ip);
    shown["helo"] = json!(envelope.peer.helo);
    shown["tls"] = json!(envelope.peer.tls);
    shown["steps"] = json!(delivery.steps);
    shown["verdict"] = json!(envelope.verdict);
    Ok(success(StatusCode::OK, shown))
}

async fn raw(
    State(control): State<ControlParts>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let bytes = control.queue.forwarded_mail(delivery_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "message/rfc822")], bytes).into_response())
}

async fn retry(
    State(control): State<ControlParts>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    control.queue.retry(delivery_id(&id)?).await?;
    let answer = json!({ "id": id, "state": "waiting" });
    Ok(success(StatusCode::OK, answer))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParkRequest {
    reason: Option<String>,
}

async fn park(
    State(control): State<ControlParts>,
    PathId(id): PathId,
    body: Bytes,
) -> Result<Response, HttpError> {
    let request: ParkRequest = match body.is_empty() {
        true => ParkRequest::default(),
        false => read_json(&body)?,
    };
    let reason = request.reason.as_deref();
    check_words("reason", reason)?;
    control.queue.park(delivery_id(&id)?, reason).await?;
    let answer = json!({ "id": id, "state": "parked" });
    Ok(success(StatusCode::OK, answer))
}

/// Checks the words of a person.
fn check_words(field: &str, words: Option<&str>) -> Result<(), HttpError> {
    let fits = |words: &str| {
        (1..=REASON_BYTES_MAX).contains(&words.len()) && !words.chars().any(char::is_control)
    };
    if words.is_none_or(fits) {
        return Ok(());
    }
    let why = format!("1 to {REASON_BYTES_MAX} bytes without control characters");
    Err(HttpError::invalid_field(field, &why))
}

/// One page of an operation on many deliveries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BulkRequest {
    action: BulkName,
    state: StateName,
    route: Option<String>,
    reason: Option<String>,
    park_reason: Option<String>,
    after: Option<String>,
    until: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BulkName {
    Count,
    Retry,
    Park,
    Drop,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateName {
    Parked,
    Waiting,
}

async fn change_page(
    State(control): State<ControlParts>,
    body: Bytes,
) -> Result<Response, HttpError> {
    let request: BulkRequest = read_json(&body)?;
    check_words("parkReason", request.park_reason.as_deref())?;
    let action = match request.action {
        BulkName::Count => BulkAction::Count,
        BulkName::Retry => BulkAction::Retry,
        BulkName::Park => BulkAction::Park(request.park_reason),
        BulkName::Drop => BulkAction::Drop,
    };
    let filter = MailFilter {
        state: match request.state {
            StateName::Parked => QueueState::Parked,
            StateName::Waiting => QueueState::Waiting,
        },
        route: request.route,
        reason: request.reason,
        after: request.after.as_deref().map(delivery_id).transpose()?,
        until: request.until.as_deref().map(delivery_id).transpose()?,
    };
    let page = control.queue.change_page(&filter, &action).await?;
    let id = |id: Option<DeliveryId>| id.map(|id| id.to_string());
    let answer = json!({
        "selected": page.selected,
        "changed": page.changed,
        "delivered": page.delivered,
        "busy": page.busy,
        "left": page.left,
        "last": id(page.last),
        "next": id(page.next),
    });
    Ok(success(StatusCode::OK, answer))
}

async fn drop_delivery(
    State(control): State<ControlParts>,
    PathId(id): PathId,
) -> Result<Response, HttpError> {
    let state = match control.queue.drop(delivery_id(&id)?).await? {
        QueueEnd::Dropped => "dropped",
        QueueEnd::Delivered => "delivered",
    };
    let answer = json!({ "id": id, "state": state });
    Ok(success(StatusCode::OK, answer))
}

async fn inject(
    State(control): State<ControlParts>,
    uri: Uri,
    mail: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let query = parameters(&uri)?;
    let mail = whole_body(mail)?;
    if mail.is_empty() {
        return Err(HttpError::bad_request(
            "the body is empty, where a mail should be",
        ));
    }
    let now = clock::now();
    let (mut sender, mut sender_untold) = (None, true);
    let mut recipients = Vec::new();
    for (name, value) in query {
        match name.as_str() {
            "from" => {
                let is_null = value.is_empty() || value == "<>";
                let given = || parse_address("from", &value);
                (sender, sender_untold) = ((!is_null).then(given).transpose()?, false);
            }
            "rcpt" => {
                let address = parse_address("rcpt", &value)?;
                let meant = (control.resolve_recipient)(address, now).await;
                recipients.push(meant.map_err(|why| HttpError::invalid_field("rcpt", &why))?);
            }
            _ => {
                return Err(HttpError::bad_request(
                    "the query has from and rcpt, nothing else",
                ));
            }
        }
    }
    if !(1..=RECIPIENTS_MAX).contains(&recipients.len()) {
        let why = format!("1 to {RECIPIENTS_MAX} are needed");
        return Err(HttpError::invalid_field("rcpt", &why));
    }
    let injected = InjectedMail {
        sender,
        sender_untold,
        recipients,
        received_at: now,
        bytes: mail,
    };
    let id = (control.accept_mail)(injected).await?;
    Ok(success(
        StatusCode::CREATED,
        json!({ "id": id.0.to_string() }),
    ))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MintRequest {
    thread: String,
    participant: Option<String>,
    route: Option<String>,
}

async fn mint(State(control): State<ControlParts>, body: Bytes) -> Result<Response, HttpError> {
    let request: MintRequest = read_json(&body)?;
    let plain = !request.thread.is_empty() && !request.thread.chars().any(char::is_control);
    if !plain || request.thread.len() > THREAD_BYTES_MAX {
        let why = format!("1 to {THREAD_BYTES_MAX} bytes without control characters");
        return Err(HttpError::invalid_field("thread", &why));
    }
    let participant = request.participant.as_deref();
    let participant = participant
        .map(|a| parse_address("participant", a))
        .transpose()?;
    let route = control.route(request.route.as_deref())?;
    let now = clock::now();
    let address = route
        .keys
        .reply_address(
            route.format,
            &route.domain,
            &request.thread,
            participant.as_ref(),
            now,
        )
        .map_err(|_| HttpError::invalid_field("thread", "is too long for a token of this form"))?;
    let claims = route
        .keys
        .verify(&address, now)
        .map_err(|_| HttpError::invalid_field("thread", "makes a token that does not verify"))?;
    let _thread = control.store.lock_thread(claims.thread).await?;
    let mut facts = vec![Fact::TokenIssued {
        token: claims.digest,
        thread_id: request.thread.clone(),
        at: now,
    }];
    let known = control.store.thread(&route.name, claims.thread);
    if known.await?.is_none() {
        let mapping = Mapping::new(&route.name, &request.thread, participant, now);
        facts.push(Fact::Mapped(mapping));
    }
    control.store.record(facts).await?;
    let answer = json!({ "address": address.to_string(), "route": route.name });
    Ok(success(StatusCode::CREATED, answer))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    address: String,
}

/// The facts of a token that only the store knows: revocation, and the thread that it names.
async fn inspect(State(control): State<ControlParts>, body: Bytes) -> Result<Response, HttpError> {
    let request: TokenRequest = read_json(&body)?;
    let KnownToken { digest, thread, .. } = control.token(&request.address).await?;
    let mut answer = json!({
        "revoked": control.store.is_revoked(digest).await?,
        "thread": thread.id(),
    });
    if thread.id().is_none() {
        answer["threadNote"] = json!(thread.to_string());
    }
    Ok(success(StatusCode::OK, answer))
}

async fn revoke(State(control): State<ControlParts>, body: Bytes) -> Result<Response, HttpError> {
    let request: TokenRequest = read_json(&body)?;
    let token = control.token(&request.address).await?;
    let revoked = Fact::Revoked {
        token: token.digest,
        at: clock::now(),
    };
    control.store.record(vec![revoked]).await?;
    info!(domain = %token.address.domain(), "token revoked");
    Ok(success(StatusCode::OK, json!({ "revoked": true })))
}

/// A valid token of ours.
struct KnownToken {
    address: Address,
    digest: [u8; 16],
    thread: NamedThread,
}

impl ControlParts {
    /// The valid token in an address.
    async fn token(&self, text: &str) -> Result<KnownToken, HttpError> {
        let address = parse_address("address", text)?;
        let now = clock::now();
        for route in self.routes.iter() {
            match route.keys.verify(&address, now) {
                Ok(claims) => {
                    let thread = NamedThread::find(&self.store, &route.name, &claims).await?;
                    return Ok(KnownToken {
                        address,
                        digest: claims.digest,
                        thread,
                    });
                }
                Err(TokenError::CaseLost(digest)) => {
                    if let Some(thread) = self.store.thread_by_token(digest).await? {
                        return Ok(KnownToken {
                            address,
                            digest,
                            thread: NamedThread::Known(thread),
                        });
                    }
                }
                Err(_) => {}
            }
        }
        let why = "has no valid token of ours";
        Err(HttpError::invalid_field("address", why))
    }

    fn route(&self, name: Option<&str>) -> Result<&TokenRoute, HttpError> {
        let mut routes = self.routes.iter();
        let found = match name {
            None => routes.next(),
            Some(name) => routes.find(|route| route.name == name),
        };
        found.ok_or_else(|| HttpError::invalid_field("route", "there is no such route"))
    }
}

fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    serde_json::from_slice(body)
        .map_err(|error| HttpError::bad_request(format!("the body: {error}")))
}

fn delivery_id(text: &str) -> Result<DeliveryId, HttpError> {
    text.parse()
        .map_err(|_| HttpError::bad_request("a delivery's id has the form 1042.0"))
}

fn parse_address(field: &str, text: &str) -> Result<Address, HttpError> {
    Address::parse(text).map_err(|error| HttpError::invalid_field(field, &error.to_string()))
}

/// A delivery as JSON, without the token, because its holder can write into the thread.
fn delivery_json(queued: &QueuedMail) -> Value {
    let delivery = &queued.delivery;
    let envelope = &delivery.envelope;
    let recipient = &delivery.recipient;
    let to = match &recipient.target {
        RecipientTarget::Mailbox(_) => recipient.address.to_string(),
        RecipientTarget::Thread(_) | RecipientTarget::Return(_) => {
            format!("…@{}", recipient.address.domain())
        }
    };
    let state = if delivery.parked.is_some() {
        "parked"
    } else {
        "waiting"
    };
    let mut shown = json!({
        "id": delivery.id.to_string(),
        "state": state,
        "reason": delivery.parked,
        "from": envelope.sender.as_ref().map(ToString::to_string),
        "to": to,
        "thread": queued.thread.as_ref().and_then(NamedThread::id),
        "route": recipient.route,
        "receivedAt": envelope.received_at.to_rfc3339(),
        "bytes": delivery.bytes,
    });
    if let Some(thread @ NamedThread::Unknown(_)) = &queued.thread {
        shown["threadNote"] = json!(thread.to_string());
    }
    if let Some(first) = queued.waits_behind {
        shown["waitsBehind"] = json!(first.to_string());
    }
    if let Some(pending) = &queued.pending_retry {
        shown["attempts"] = json!(pending.attempts);
        shown["reason"] = json!(pending.reason);
        shown["dueAt"] = json!(pending.due_at.to_rfc3339());
    }
    shown
}
