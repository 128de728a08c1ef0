//! Owns `mail explain`: what a mail is, where it belongs and which words in it are new.
//!
//! Does not keep, post or send anything. It asks the network for who sent the mail only if told to.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::control::open_store;
use super::queue::printable_json;
use super::sender::{self, SenderArgs};
use super::terminal::{printable, printable_lines};
use super::{mail, token};
use crate::auth::{Identity, identity};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Purpose, RouteConfig};
use crate::delivery::attachments::Files;
use crate::delivery::policy::Disposition;
use crate::delivery::sorting::{ThreadHistory, assign};
use crate::mail::address::Address;
use crate::mail::job_id::{is_return_path_form, job_of_return_path, loop_mark};
use crate::mail::kind::{self, ClassifyContext, MailKind, ReversePath};
use crate::mail::mailbox;
use crate::mail::reply::{self, Reply};
use crate::mail::subject::Subject;
use crate::mail::thread::{self, ThreadCandidate, ThreadDecision, ThreadFacts, ThreadReason};
use crate::mail::token::{Claims, KeyRing, ThreadKey, TokenError};
use crate::mail::verdict::Verdict;
use crate::mail::view::View;
use crate::run::{Exit, ExitError};
use crate::store::{Mapping, Store, StoreError};

/// Arguments of `mail explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The file with the mail; - is standard input. Without header lines it is a plain text body
    file: PathBuf,
    /// Whom it is for; without it the mail's own header tells
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Option<String>,
    /// The sender in the envelope; <> is the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[command(flatten)]
    sender: SenderArgs,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
    /// Looks for the thread in the store too; no server may be running
    #[arg(long)]
    store: bool,
}

impl ExplainArgs {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let rcpt = self
            .rcpt
            .as_deref()
            .map(|rcpt| token::parse_address("rcpt", rcpt));
        let rcpt = rcpt.transpose()?;
        let from = match self.from.as_deref() {
            None => None,
            Some("" | "<>") => Some(None),
            Some(from) => Some(Some(token::parse_address("from", from)?)),
        };
        let loaded = super::load(file, Purpose::Look)?;
        let bytes = Bytes::from(mail::read(&self.file)?);
        let view = View::parse(&bytes);
        let now = clock::now();
        let path = from.as_ref().and_then(Option::as_ref);
        let verdict = self.sender.check(&loaded.config.auth, &bytes, path, now)?;
        let store = if self.store {
            Some(open_store(&loaded.config)?)
        } else {
            None
        };
        let case = ExplainContext {
            config: &loaded.config,
            store: store.as_ref(),
            view: &view,
            verdict: verdict.as_ref(),
            now,
        };
        let explained = case.explain(rcpt, from.as_ref());
        if let Some(store) = store {
            super::block_on(store.close())?;
        }
        let explained = explained?;
        if self.json {
            writeln!(out, "{}", printable_json(&explained))?;
        } else {
            words(&explained, verdict.as_ref(), out)?;
        }
        Ok(())
    }
}

/// One mail, and what it is judged against.
struct ExplainContext<'a> {
    config: &'a Config,
    store: Option<&'a Store>,
    view: &'a View,
    /// `None` if nobody was asked who sent it.
    verdict: Option<&'a Verdict>,
    now: Timestamp,
}

/// Where the recipient's address leads.
enum RecipientClue {
    /// Nowhere in particular.
    Mailbox,
    /// To the thread of its token.
    Thread(Claims),
    /// To no thread, for this reason: but for a bounce address it would be refused.
    Refused(&'static str),
}

impl ExplainContext<'_> {
    fn explain(
        &self,
        rcpt: Option<Address>,
        from: Option<&Option<Address>>,
    ) -> Result<Value, ExitError> {
        let header = &self.view.header;
        let rcpt = rcpt.map_or_else(|| self.rcpt_in_header(), |rcpt| Ok(Some(rcpt)))?;
        let route = self.route(rcpt.as_ref());
        let led = self.recipient_clue(route, rcpt.as_ref())?;
        let is_from_nobody = matches!(from, Some(None));
        let mark = loop_mark(&key_ring(route)?, &route.domains[0]);
        let context = ClassifyContext {
            loop_mark: Some(&mark),
            sender: from.map_or(ReversePath::Unknown, |from| from.as_ref().into()),
            message_id_domains: &route.domains,
            ..ClassifyContext::UNKNOWN
        };
        let (finding, report) = kind::classify(self.view, &context);
        let subject = header.subject.clone().unwrap_or_default();
        let reply = reply::extract(&reply::ReplyInput {
            text: self.view.text.as_deref(),
            html: self.view.html.as_deref(),
            subject: &subject,
            marker: route.marker(),
            answers_nothing: header.in_reply_to.is_empty()
                && header.references.is_empty()
                && !Subject::of(&subject).is_reply,
            ..reply::ReplyInput::default()
        });
        let identity = self.identity(route, &led)?;
        let judged = Judgement {
            kind: finding.kind,
            identity,
            subject: &subject,
            body: &reply.text,
        };
        let thread = self.thread(route, &led)?;
        let sorted = self.sorted(route, rcpt.as_ref(), &led, (&thread, &judged))?;
        let ruling = Disposition::of(&route.policy.kinds, &finding, is_from_nobody);
        let author = header.author().map(ToString::to_string);
        let first = header.from.first();
        let from = author.or_else(|| first.map(|from| from.text.clone()));
        let authentication = sender::findings_json(self.verdict, identity, route.sender_policy);
        let mut explained = json!({
            "kind": finding.kind,
            "kindRule": finding.rule,
            "kindEvidence": finding.evidence,
            "ruling": ruling_json(ruling),
            "mailbox": sorted["mailbox"],
            "priority": sorted["priority"],
            "rule": sorted["rule"],
            "subject": subject,
            "from": from,
            "fromName": first.and_then(|from| from.name.clone()),
            "messageId": header.message_id,
            "route": route.name,
            "reply": reply_json(&reply),
            "attachments": self.attachments(),
            "thread": thread,
            "dsn": report,
            "authentication": authentication,
        });
        let flags = self.view.flags.iter().map(|flag| flag.name());
        explained["flags"] = json!(flags.collect::<Vec<_>>());
        Ok(explained)
    }

    /// Without an envelope the header tells: the first of its addresses that is a reply address of
    /// ours, or at least at a domain of ours.
    fn rcpt_in_header(&self) -> Result<Option<Address>, ExitError> {
        let header = &self.view.header;
        let traces = ["Delivered-To", "X-Original-To", "Envelope-To"];
        let traced = traces.iter().flat_map(|name| header.headers(name));
        let traced = traced.filter_map(|text| Address::parse(text.trim_matches(['<', '>'])).ok());
        let named = header.to.iter().chain(&header.cc);
        let named = named.filter_map(|named| named.address.clone());
        let all: Vec<Address> = traced.chain(named).collect();
        for route in &self.config.routes {
            let ring = key_ring(route)?;
            for domain in &route.domains {
                if let Some(found) = ring.find(domain, &all, self.now).first() {
                    return Ok(Some(found.address.clone()));
                }
            }
        }
        let ours = |address: &&Address| {
            let mut routes = self.config.routes.iter();
            routes.any(|route| route.domains.contains(address.domain()))
        };
        Ok(all.iter().find(ours).cloned())
    }

    fn route(&self, rcpt: Option<&Address>) -> &RouteConfig {
        let routes = &self.config.routes;
        let of_rcpt = rcpt.and_then(|rcpt| {
            let mut routes = routes.iter();
            routes.find(|route| route.domains.contains(rcpt.domain()))
        });
        of_rcpt.unwrap_or(&routes[0])
    }

    fn recipient_clue(
        &self,
        route: &RouteConfig,
        rcpt: Option<&Address>,
    ) -> Result<RecipientClue, ExitError> {
        let Some(rcpt) = rcpt else {
            return Ok(RecipientClue::Mailbox);
        };
        if !route.domains.contains(rcpt.domain()) {
            return Ok(RecipientClue::Refused("foreign_domain"));
        }
        let keys = key_ring(route)?;
        if is_return_path_form(rcpt) {
            let job = job_of_return_path(&keys, rcpt.domain(), rcpt);
            let reason = job.map_or("return_path_forged", |_| "return_path");
            return Ok(RecipientClue::Refused(reason));
        }
        Ok(match keys.verify(rcpt, self.now) {
            Ok(claims) if self.is_revoked(claims.digest)? => {
                RecipientClue::Refused("token_revoked")
            }
            Ok(claims) => RecipientClue::Thread(claims),
            Err(TokenError::Absent) if mailbox_of(route, rcpt).is_some() => RecipientClue::Mailbox,
            Err(TokenError::Absent) => RecipientClue::Refused("no_such_mailbox"),
            Err(TokenError::Expired) => RecipientClue::Refused("token_expired"),
            Err(TokenError::NotYetValid) => RecipientClue::Refused("token_not_yet_valid"),
            Err(TokenError::Forged) => RecipientClue::Refused("token_forged"),
            Err(TokenError::CaseLost(digest)) => self.case_lost(&keys, digest)?,
        })
    }

    /// What the store says, if it is to be asked.
    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Store) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, ExitError> {
        let Some(store) = self.store else {
            return Ok(None);
        };
        let answer = super::block_on(question(store))?;
        answer.map_err(|error| ExitError::new(Exit::Unavailable, error))
    }

    fn mapping(&self, route: &RouteConfig, key: ThreadKey) -> Result<Option<Mapping>, ExitError> {
        self.ask(async |store| store.thread(&route.name, key).await)
    }

    fn is_revoked(&self, digest: [u8; 16]) -> Result<bool, ExitError> {
        let revoked = self.ask(async |store| store.is_revoked(digest).await.map(Some))?;
        Ok(revoked.unwrap_or(false))
    }

    fn case_lost(&self, keys: &KeyRing, digest: [u8; 16]) -> Result<RecipientClue, ExitError> {
        let known = self.ask(async |store| store.issued_token(digest).await)?;
        Ok(match known {
            Some(_) if self.is_revoked(digest)? => RecipientClue::Refused("token_revoked"),
            Some((_, at)) if keys.is_expired(at, self.now) => {
                RecipientClue::Refused("token_expired")
            }
            Some((thread_id, issued_at)) => RecipientClue::Thread(Claims {
                thread: ThreadKey::of(&thread_id),
                thread_id: Some(thread_id),
                issued_at,
                participant: None,
                digest,
            }),
            None => RecipientClue::Refused("token_case_lost"),
        })
    }

    /// Mailbox, priority and rule, as delivery finds them.
    fn sorted(
        &self,
        route: &RouteConfig,
        rcpt: Option<&Address>,
        led: &RecipientClue,
        (thread, judged): (&Value, &Judgement<'_>),
    ) -> Result<Value, ExitError> {
        let author = self.view.header.author();
        let verified = judged.identity == Identity::Verified;
        let facts = mailbox::SortingFacts {
            recipient: rcpt,
            sender: author,
            verified,
            kind: judged.kind,
            subject: judged.subject,
            body: judged.body,
            mailbox: None,
            thread: None,
        };
        let past = match thread["match"].as_str() {
            Some(id) => {
                let known = self.mapping(route, ThreadKey::of(id))?;
                Some(ThreadHistory::of(known.as_ref()))
            }
            None => None,
        };
        let named = match led {
            RecipientClue::Mailbox => rcpt.and_then(|rcpt| mailbox_of(route, rcpt)),
            RecipientClue::Thread(_) | RecipientClue::Refused(_) => None,
        };
        let sorted = assign(&route.policy.rules, &facts, named, past.as_ref());
        Ok(json!({ "mailbox": sorted.mailbox, "priority": sorted.priority, "rule": sorted.rule }))
    }

    /// Who wrote it, as far as can be told from here: a thread that only headers lead to is taken for
    /// the author's own, which only the store's mapping could deny.
    fn identity(&self, route: &RouteConfig, led: &RecipientClue) -> Result<Identity, ExitError> {
        let none = Verdict::default();
        let verdict = self.verdict.unwrap_or(&none);
        let author = self.view.header.author();
        let RecipientClue::Thread(claims) = led else {
            return Ok(identity(verdict, author, author.is_some(), false));
        };
        let ring = key_ring(route)?;
        let known = self.mapping(route, claims.thread)?;
        let takes_part = author.is_some_and(|author| {
            if claims.participant.is_some() {
                return ring.is_participant(claims, author);
            }
            known
                .and_then(|mapping| mapping.participant)
                .is_some_and(|known| known.folded() == author.folded())
        });
        Ok(identity(verdict, author, takes_part, true))
    }

    fn thread(&self, route: &RouteConfig, led: &RecipientClue) -> Result<Value, ExitError> {
        let claims = match led {
            RecipientClue::Refused(reason) => {
                return Ok(json!({ "match": null, "reason": reason }));
            }
            RecipientClue::Thread(claims) => Some(claims.clone()),
            RecipientClue::Mailbox => None,
        };
        let header = &self.view.header;
        let subject = Subject::of(header.subject.as_deref().unwrap_or_default());
        let facts = ThreadFacts {
            author: header.author(),
            is_authenticated: self.verdict.is_some_and(Verdict::is_aligned),
            subject: &subject.normalised,
            now: self.now,
            subject_window: self.config.store.subject_window,
        };
        let mut candidates: Vec<ThreadCandidate> = Vec::new();
        if let Some(claims) = claims {
            candidates.push(self.token(route, claims)?);
        }
        for (id, reason) in thread::message_ids_to_look_up(header) {
            let known =
                self.ask(async |store| store.thread_by_message_id(&route.name, id).await)?;
            let Some((mapping, sent_by_us)) = known else {
                continue;
            };
            let reason = if sent_by_us {
                reason
            } else {
                ThreadReason::StoredMessageId
            };
            candidates.push(candidate(mapping, reason));
        }
        Ok(match thread::decide(&facts, &candidates) {
            ThreadDecision::Existing { thread_id, reason } => {
                json!({ "match": thread_id, "reason": reason.as_str() })
            }
            ThreadDecision::New { reason } => json!({ "match": null, "reason": reason.as_str() }),
            ThreadDecision::Conflict { reason } => {
                json!({ "match": null, "reason": format!("conflict:{}", reason.as_str()) })
            }
        })
    }

    fn token(&self, route: &RouteConfig, claims: Claims) -> Result<ThreadCandidate, ExitError> {
        Ok(match self.mapping(route, claims.thread)? {
            Some(mapping) => candidate(mapping, ThreadReason::Token),
            None => ThreadCandidate {
                thread_id: claims
                    .thread_id
                    .unwrap_or_else(|| claims.thread.as_uuid_text()),
                participant: None,
                changed_at: claims.issued_at,
                reason: ThreadReason::Token,
            },
        })
    }

    fn attachments(&self) -> Vec<Value> {
        let bounds = &self.config.attachments.bounds;
        let told = Files::of(self.view, Some(bounds)).listed;
        told.iter().map(|attachment| json!(attachment)).collect()
    }
}

/// What the rules of mailboxes ask about besides addresses.
struct Judgement<'a> {
    kind: MailKind,
    identity: Identity,
    subject: &'a str,
    body: &'a str,
}

/// The mailbox that takes mail to this address.
fn mailbox_of<'a>(route: &'a RouteConfig, rcpt: &Address) -> Option<&'a str> {
    let local = rcpt.local();
    if local.eq_ignore_ascii_case("postmaster") {
        return Some(&route.postmaster);
    }
    let mut names = route.mailboxes.iter();
    names
        .find(|name| name.eq_ignore_ascii_case(local))
        .or(route.catch_all.as_ref())
        .map(String::as_str)
}

fn ruling_json(ruling: Disposition) -> Value {
    match ruling {
        Disposition::Post(kind) => json!({ "action": "post", "as": kind }),
        Disposition::Drop(rule) => json!({ "action": "drop", "rule": rule }),
        Disposition::Hold(rule) => json!({ "action": "hold", "rule": rule }),
    }
}

fn candidate(mapping: Mapping, reason: ThreadReason) -> ThreadCandidate {
    ThreadCandidate {
        thread_id: mapping.thread_id,
        participant: mapping.participant,
        changed_at: mapping.changed_at,
        reason,
    }
}

fn reply_json(reply: &Reply) -> Value {
    json!({
        "text": reply.text,
        "html": reply.html,
        "quoted": reply.quoted,
        "signature": reply.signature,
        "method": reply.method.as_str(),
        "confidence": reply.confidence.as_str(),
        "truncated": reply.truncated,
    })
}

fn key_ring(route: &RouteConfig) -> Result<KeyRing, ExitError> {
    route
        .key_ring()
        .map_err(|error| ExitError::new(Exit::Config, error))
}

/// The object in words, for a person at a terminal.
fn words(
    explained: &Value,
    verdict: Option<&Verdict>,
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        other => printable(&other.to_string()).into_owned(),
    };
    writeln!(
        out,
        "kind:     {} (rule {})",
        text(&explained["kind"]),
        text(&explained["kindRule"])
    )?;
    let ruling = &explained["ruling"];
    writeln!(out, "verdict:  {}", text(&ruling["action"]))?;
    writeln!(
        out,
        "mailbox:  {}, {} (rule {})",
        text(&explained["mailbox"]),
        text(&explained["priority"]),
        text(&explained["rule"])
    )?;
    writeln!(out, "from:     {}", text(&explained["from"]))?;
    writeln!(out, "subject:  {}", text(&explained["subject"]))?;
    let thread = &explained["thread"];
    let place = (text(&thread["match"]), text(&thread["reason"]));
    writeln!(out, "thread:   {} (reason {})", place.0, place.1)?;
    for attachment in explained["attachments"].as_array().into_iter().flatten() {
        let (name, kind) = (
            text(&attachment["filename"]),
            text(&attachment["contentType"]),
        );
        writeln!(
            out,
            "attached: {name} ({kind}, {} octets)",
            attachment["size"]
        )?;
    }
    if !explained["dsn"].is_null() {
        writeln!(out, "report:   {}", text(&explained["dsn"]))?;
    }
    if let Some(verdict) = verdict {
        sender::print_verdict(verdict, &explained["authentication"], out)?;
    }
    let reply = &explained["reply"];
    let cut = (text(&reply["method"]), text(&reply["confidence"]));
    for (name, part) in [
        (
            format!("reply (by {}, confidence {})", cut.0, cut.1),
            "text",
        ),
        ("quoted".to_owned(), "quoted"),
        ("signature".to_owned(), "signature"),
    ] {
        let words = reply[part].as_str().unwrap_or_default();
        if !words.trim().is_empty() || part == "text" {
            writeln!(out, "--- {name}\n{}", printable_lines(words))?;
        }
    }
    Ok(())
}
