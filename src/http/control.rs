//! Owns what the command line asks of a running Postern over its unix socket: the queue, a mail put
//! in by hand, tokens.
//!
//! Does not ask who calls: the socket is its owner's alone ([`super::server::listen_private`]).

use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::{Router, routing};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tracing::info;

use super::error::{HttpError, success};
use super::messages::{PageQuery, page_bounds, page_response};
use super::router::with_common_layers;
use crate::auth::results;
use crate::clock::{self, Timestamp};
use crate::mail::address::{Address, Domain};
use crate::mail::envelope::{Recipient, RecipientTarget};
use crate::mail::received::Hop;
use crate::mail::token::{Format, KeyRing, TokenError};
use crate::mail::verdict::VerdictSource;
use crate::mail::view::View;
use crate::store::{
    Delivery, DeliveryId, DeliveryOutcome, DeliveryStep, Event, EventKind, Fact, MailId, Mapping,
    Store,
};

/// The name of the control socket in the data folder.
pub const SOCKET_NAME: &str = "control.sock";
/// An injected mail has at most so many recipients.
const RECIPIENTS_MAX: usize = 100;
/// A thread id has at most so many bytes: it must fit a path segment of the Messages API.
const THREAD_BYTES_MAX: usize = 256;
/// Octets of a Message-ID in an event.
const MESSAGE_ID_BYTES_MAX: usize = 1024;

/// Why a delivery waits for its next attempt.
#[derive(Clone, Debug)]
pub struct PendingRetry {
    /// How often it was tried.
    pub attempts: u32,
    /// What came of the last attempt.
    pub reason: String,
    /// When the next one is due.
    pub due_at: Timestamp,
}

/// What the control socket works on.
#[derive(Clone)]
pub struct ControlParts {
    /// The store whose queue is shown and changed.
    pub store: Store,
    /// The routes tokens are minted for; the first is the default.
    pub routes: Arc<[TokenRoute]>,
    /// What an address means: the same answer RCPT gives, or why it is refused.
    #[expect(
        clippy::type_complexity,
        reason = "one closure in one place needs no name"
    )]
    pub resolve_recipient: Arc<
        dyn Fn(Address, Timestamp) -> BoxFuture<'static, Result<Recipient, String>> + Send + Sync,
    >,
    /// Accepts a mail that is put in by hand: it is on disk once the future resolves.
    pub accept_mail: Arc<dyn Fn(InjectedMail) -> AcceptFuture + Send + Sync>,
    /// Why a delivery waits that was tried before; nothing is known of it without a running worker.
    pub pending_retry: Arc<dyn Fn(DeliveryId) -> Option<PendingRetry> + Send + Sync>,
    /// Our name in the Received field of what is handed on.
    pub hostname: String,
    /// Our name in its Authentication-Results field.
    pub authserv_id: String,
    /// An injected mail has at most so many bytes.
    pub mail_bytes_max: usize,
}

/// The id of an accepted mail, or why it was not accepted.
pub type AcceptFuture = Pin<Box<dyn Future<Output = Result<MailId, HttpError>> + Send>>;

/// A mail that the operator puts in by hand.
#[derive(Clone, Debug)]
pub struct InjectedMail {
    /// The envelope's sender; `None` is the null sender, or nobody told.
    pub sender: Option<Address>,
    /// True if nobody told the sender.
    pub sender_untold: bool,
    /// The recipients, at least one.
    pub recipients: Vec<Recipient>,
    /// The time at which it came.
    pub received_at: Timestamp,
    /// The mail itself.
    pub bytes: Bytes,
}

/// A route as far as tokens go.
pub struct TokenRoute {
    /// The route's name.
    pub name: String,
    /// The domain of its reply addresses.
    pub domain: Domain,
    /// Its keys.
    pub keys: Arc<KeyRing>,
    /// The form its tokens are minted in.
    pub format: Format,
}

/// All of the control socket.
pub fn router(control: ControlParts) -> Router {
    let wide = DefaultBodyLimit::max(control.mail_bytes_max);
    let desk = ControlApi {
        control,
        queue_lock: Arc::new(Mutex::new(())),
    };
    with_common_layers(
        Router::new()
            .route("/queue", routing::get(list))
            .route("/queue/{id}", routing::get(show))
            .route("/queue/{id}/raw", routing::get(raw))
            .route("/queue/{id}/retry", routing::post(retry))
            .route("/queue/{id}/drop", routing::post(drop_parked))
            .route("/mail", routing::post(inject).layer(wide))
            .route("/tokens", routing::post(mint))
            .route("/tokens/revoke", routing::post(revoke)),
    )
    .with_state(desk)
}

#[derive(Clone)]
struct ControlApi {
    control: ControlParts,
    /// Between the look at a parked mail and the fact about it no other request comes.
    queue_lock: Arc<Mutex<()>>,
}

#[derive(Debug, Deserialize)]
struct QueueQuery {
    state: Option<String>,
}

async fn list(
    State(desk): State<ControlApi>,
    which: Result<Query<QueueQuery>, QueryRejection>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let (after, limit) = page_bounds(page)?;
    let after = after.as_deref().map(delivery_id).transpose()?;
    let state = which.ok().and_then(|Query(which)| which.state);
    let store = &desk.control.store;
    let mut found = match state.as_deref() {
        None | Some("parked") => store.parked(after, limit + 1).await?,
        Some("waiting") => store.waiting(after, limit + 1).await?,
        Some(_) => return Err(HttpError::bad_request("state: parked or waiting")),
    };
    let more = found.len() > limit;
    found.truncate(limit);
    let shown = found.iter().map(|delivery| desk.delivery_json(delivery));
    let shown: Vec<Value> = shown.collect();
    Ok(page_response(&shown, more))
}

async fn show(
    State(desk): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let delivery = desk.find_delivery(&id).await?;
    let envelope = &delivery.envelope;
    let mut shown = desk.delivery_json(&delivery);
    shown["door"] = json!(envelope.peer.door);
    shown["peer"] = json!(envelope.peer.ip);
    shown["helo"] = json!(envelope.peer.helo);
    shown["tls"] = json!(envelope.peer.tls);
    shown["steps"] = json!(delivery.steps);
    shown["verdict"] = json!(envelope.verdict);
    Ok(success(StatusCode::OK, shown))
}

/// The mail as it is handed on: our fields on top, what only claims to be ours taken out. What is
/// stored stays as it came.
async fn raw(
    State(desk): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let delivery = desk.find_delivery(&id).await?;
    let mail = delivery.id.mail;
    let Ok(bytes) = desk.control.store.mail_bytes(mail).await else {
        return Err(HttpError::conflict(
            "its bytes cannot be read from the journal",
        ));
    };
    let control = &desk.control;
    let hop = Hop {
        envelope: &delivery.envelope,
        hostname: &control.hostname,
        id: &mail.to_string(),
        is_extended: true,
    };
    let mut on_top = String::new();
    // What a relay or a provider found is theirs to say.
    if let Some(verdict) = &delivery.envelope.verdict
        && verdict.source == VerdictSource::Postern
    {
        on_top = results::field(verdict, &control.authserv_id);
    }
    on_top.push_str(&hop.received());
    let pieces = results::with_fields_on_top(&bytes, on_top, &control.authserv_id);
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "message/rfc822")
        .body(Body::from(pieces.concat()));
    answer.map_err(|_| HttpError::conflict("the answer cannot be made"))
}

async fn retry(
    State(desk): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let _turn = desk.queue_lock.lock().await;
    let delivery = desk.find_parked(&id).await?.id;
    let approved = Fact::Advanced {
        delivery,
        step: DeliveryStep::Approved,
    };
    let released = Fact::Released {
        delivery,
        at: clock::now(),
    };
    desk.control.store.record(vec![approved, released]).await?;
    info!(%delivery, "released");
    Ok(success(
        StatusCode::OK,
        json!({ "id": id, "state": "waiting" }),
    ))
}

async fn drop_parked(
    State(desk): State<ControlApi>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let _turn = desk.queue_lock.lock().await;
    let found = desk.find_parked(&id).await?;
    let (delivery, rule) = (found.id, "operator");
    let at = clock::now();
    let settled = Fact::Settled {
        delivery,
        outcome: DeliveryOutcome::Dropped {
            rule: rule.to_owned(),
        },
        fingerprint: None,
        at,
    };
    let told = Fact::Happened(Event {
        kind: EventKind::Processed,
        at,
        thread_id: None,
        data: dropped_event(delivery, desk.message_id(delivery.mail).await, rule),
    });
    desk.control.store.record(vec![settled, told]).await?;
    info!(%delivery, route = found.recipient.route, rule, "dropped");
    Ok(success(
        StatusCode::OK,
        json!({ "id": id, "state": "dropped" }),
    ))
}

/// What the product is told of a mail that a person dropped: of which kind it is nobody asked.
fn dropped_event(
    delivery: DeliveryId,
    message_id: Option<String>,
    rule: &str,
) -> Map<String, Value> {
    let told = [
        ("mailId", json!(delivery.to_string())),
        ("emailMessageId", json!(message_id)),
        ("kind", Value::Null),
        ("dropped", json!(rule)),
    ];
    told.map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

async fn inject(
    State(desk): State<ControlApi>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    mail: Result<Bytes, BytesRejection>,
) -> Result<Response, HttpError> {
    let Query(query) = query.map_err(|_| HttpError::bad_request("the query cannot be read"))?;
    let mail = mail.map_err(|rejection| {
        HttpError::new(
            rejection.status(),
            "body",
            "the mail is too large or broke off",
        )
    })?;
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
                let meant = (desk.control.resolve_recipient)(address, now).await;
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
    let id = (desk.control.accept_mail)(injected).await?;
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

async fn mint(State(desk): State<ControlApi>, body: Bytes) -> Result<Response, HttpError> {
    let wish: MintRequest = read_json(&body)?;
    let plain = !wish.thread.is_empty() && !wish.thread.chars().any(char::is_control);
    if !plain || wish.thread.len() > THREAD_BYTES_MAX {
        let why = format!("1 to {THREAD_BYTES_MAX} bytes without control characters");
        return Err(HttpError::invalid_field("thread", &why));
    }
    let participant = wish.participant.as_deref();
    let participant = participant
        .map(|a| parse_address("participant", a))
        .transpose()?;
    let route = desk.route(wish.route.as_deref())?;
    let now = clock::now();
    let address = route
        .keys
        .reply_address(
            route.format,
            &route.domain,
            &wish.thread,
            participant.as_ref(),
            now,
        )
        .map_err(|_| HttpError::invalid_field("thread", "is too long for a token of this form"))?;
    let claims = route
        .keys
        .verify(&address, now)
        .map_err(|_| HttpError::invalid_field("thread", "makes a token that does not verify"))?;
    let _turn = desk.control.store.lock_thread(claims.thread).await?;
    let mut facts = vec![Fact::TokenIssued {
        token: claims.digest,
        thread_id: wish.thread.clone(),
        at: now,
    }];
    let known = desk.control.store.thread(&route.name, claims.thread);
    if known.await?.is_none() {
        let mapping = Mapping::new(&route.name, &wish.thread, participant, now);
        facts.push(Fact::Mapped(mapping));
    }
    desk.control.store.record(facts).await?;
    let answer = json!({ "address": address.to_string(), "route": route.name });
    Ok(success(StatusCode::CREATED, answer))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    address: String,
}

async fn revoke(State(desk): State<ControlApi>, body: Bytes) -> Result<Response, HttpError> {
    let wish: RevokeRequest = read_json(&body)?;
    let address = parse_address("address", &wish.address)?;
    let now = clock::now();
    let mut found = None;
    for route in desk.control.routes.iter() {
        found = match route.keys.verify(&address, now) {
            Ok(claims) => Some(claims.digest),
            Err(TokenError::CaseLost(digest)) => {
                let known = desk.control.store.thread_by_token(digest).await?;
                known.map(|_| digest)
            }
            Err(_) => None,
        };
        if found.is_some() {
            break;
        }
    }
    let token =
        found.ok_or_else(|| HttpError::invalid_field("address", "has no valid token of ours"))?;
    let fact = Fact::Revoked { token, at: now };
    desk.control.store.record(vec![fact]).await?;
    info!(domain = %address.domain(), "token revoked");
    Ok(success(StatusCode::OK, json!({ "revoked": true })))
}

impl ControlApi {
    /// A delivery, and why it waits.
    /// A mail's Message-ID; `None` if it has none, or cannot be read.
    async fn message_id(&self, mail: MailId) -> Option<String> {
        let bytes = self.control.store.mail_bytes(mail).await.ok()?;
        let read = tokio::task::spawn_blocking(move || View::parse(&bytes).header.message_id);
        let mut id = read.await.ok().flatten()?;
        id.truncate(id.floor_char_boundary(MESSAGE_ID_BYTES_MAX));
        Some(id)
    }

    fn delivery_json(&self, delivery: &Delivery) -> Value {
        let mut shown = delivery_summary(delivery);
        if let Some(waiting) = (self.control.pending_retry)(delivery.id) {
            shown["attempts"] = json!(waiting.attempts);
            shown["reason"] = json!(waiting.reason);
            shown["dueAt"] = json!(waiting.due_at.to_rfc3339());
        }
        shown
    }

    async fn find_delivery(&self, id: &str) -> Result<Delivery, HttpError> {
        let found = self.control.store.delivery(delivery_id(id)?).await?;
        found.ok_or_else(|| HttpError::not_found("delivery"))
    }

    async fn find_parked(&self, id: &str) -> Result<Delivery, HttpError> {
        let delivery = self.find_delivery(id).await?;
        if delivery.parked.is_none() {
            return Err(HttpError::conflict(
                "it is not parked: it waits and will be tried",
            ));
        }
        Ok(delivery)
    }

    fn route(&self, name: Option<&str>) -> Result<&TokenRoute, HttpError> {
        let mut routes = self.control.routes.iter();
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

/// A delivery for a person's eyes. A token is not shown: who has it can write into the thread.
fn delivery_summary(delivery: &Delivery) -> Value {
    let envelope = &delivery.envelope;
    let recipient = &delivery.recipient;
    let to = match &recipient.target {
        RecipientTarget::Mailbox(_) => recipient.address.to_string(),
        RecipientTarget::Thread(_) | RecipientTarget::Return(_) => {
            format!("…@{}", recipient.address.domain())
        }
    };
    let thread = match &recipient.target {
        RecipientTarget::Mailbox(_) | RecipientTarget::Return(_) => None,
        RecipientTarget::Thread(claims) => Some(claims.thread_id.clone().unwrap_or_else(|| {
            // The key is the thread's own: the id itself where the thread's id is a UUID.
            claims.thread.as_uuid_text()
        })),
    };
    let state = if delivery.parked.is_some() {
        "parked"
    } else {
        "waiting"
    };
    json!({
        "id": delivery.id.to_string(),
        "state": state,
        "reason": delivery.parked,
        "from": envelope.sender.as_ref().map(ToString::to_string),
        "to": to,
        "thread": thread,
        "route": recipient.route,
        "receivedAt": envelope.received_at.to_rfc3339(),
        "bytes": delivery.bytes,
    })
}
