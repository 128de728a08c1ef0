//! Owns `mail explain`: what a mail is, where it belongs and which words in it are new.
//!
//! Does not keep, post or send anything. It asks the network for who sent the mail only if told to.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::control::open_store;
use super::queue::plain_json;
use super::sender::{self, Sender};
use super::terminal::{plain, plain_lines};
use super::{mail, token};
use crate::auth::{Identity, identity};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Purpose, Route};
use crate::delivery::attachments::Files;
use crate::delivery::policy::Ruling;
use crate::delivery::sorting::{Past, sort};
use crate::mail::address::Address;
use crate::mail::kind::{self, Context, Kind, ReversePath};
use crate::mail::mailbox;
use crate::mail::outgoing::{is_return_path_form, job_of_return_path, loop_mark};
use crate::mail::reply::{self, Reply};
use crate::mail::subject::Subject;
use crate::mail::thread::{self, Candidate, Decision, Facts, Reason};
use crate::mail::token::{Claims, KeyRing, ThreadKey, TokenError};
use crate::mail::verdict::Verdict;
use crate::mail::view::View;
use crate::run::{Exit, Failure};
use crate::store::{Mapping, Store};

/// Arguments of `mail explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The file with the mail; - is standard input. Without header lines it is a plain text body
    file: PathBuf,
    /// Whom it is for; without it the mail's own header tells
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Option<String>,
    /// The sender in the envelope; <> is the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[command(flatten)]
    sender: Sender,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
    /// Looks for the thread in the store too; no server may be running
    #[arg(long)]
    store: bool,
}

impl Explain {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), Failure> {
        let rcpt = self.rcpt.as_deref().map(|rcpt| token::parse("rcpt", rcpt));
        let rcpt = rcpt.transpose()?;
        let from = match self.from.as_deref() {
            None => None,
            Some("" | "<>") => Some(None),
            Some(from) => Some(Some(token::parse("from", from)?)),
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
        let case = Case {
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
            writeln!(out, "{}", plain_json(&explained))?;
        } else {
            words(&explained, verdict.as_ref(), out)?;
        }
        Ok(())
    }
}

/// One mail, and what it is judged against.
struct Case<'a> {
    config: &'a Config,
    store: Option<&'a Store>,
    view: &'a View,
    /// `None` if nobody was asked who sent it.
    verdict: Option<&'a Verdict>,
    now: Timestamp,
}

/// Where the recipient's address leads.
enum Led {
    /// Nowhere in particular.
    Mailbox,
    /// To the thread of its token.
    Thread(Claims),
    /// To no thread, for this reason: but for a bounce address it would be refused.
    Refused(&'static str),
}

impl Case<'_> {
    fn explain(
        &self,
        rcpt: Option<Address>,
        from: Option<&Option<Address>>,
    ) -> Result<Value, Failure> {
        let header = &self.view.header;
        let rcpt = rcpt.map_or_else(|| self.rcpt_in_header(), |rcpt| Ok(Some(rcpt)))?;
        let route = self.route(rcpt.as_ref());
        let led = self.led(route, rcpt.as_ref())?;
        let is_from_nobody = matches!(from, Some(None));
        let mark = loop_mark(&key_ring(route)?, &route.domains[0]);
        let context = Context {
            loop_mark: Some(&mark),
            sender: from.map_or(ReversePath::Unknown, |from| from.as_ref().into()),
            message_id_domains: &route.domains,
            ..Context::UNKNOWN
        };
        let (finding, report) = kind::classify(self.view, &context);
        let subject = header.subject.clone().unwrap_or_default();
        let reply = reply::extract(&reply::Input {
            text: self.view.text.as_deref(),
            html: self.view.html.as_deref(),
            subject: &subject,
            marker: route.marker(),
            ..reply::Input::default()
        });
        let identity = self.identity(route, &led)?;
        let judged = Judged {
            kind: finding.kind,
            identity,
            subject: &subject,
            body: &reply.text,
        };
        let thread = self.thread(route, &led);
        let sorted = self.sorted(route, rcpt.as_ref(), &led, (&thread, &judged));
        let ruling = Ruling::of(&route.policy.kinds, finding.kind, is_from_nobody);
        let author = header.author().map(ToString::to_string);
        let first = header.from.first();
        let from = author.or_else(|| first.map(|from| from.text.clone()));
        let authentication = sender::found(self.verdict, identity, route.senders);
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
        let flags = self.view.flags.iter().map(|flag| format!("{flag:?}"));
        explained["flags"] = json!(flags.collect::<Vec<_>>());
        Ok(explained)
    }

    /// Without an envelope the header tells: the first of its addresses that is a reply address of
    /// ours, or at least at a domain of ours.
    fn rcpt_in_header(&self) -> Result<Option<Address>, Failure> {
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

    fn route(&self, rcpt: Option<&Address>) -> &Route {
        let routes = &self.config.routes;
        let of_rcpt = rcpt.and_then(|rcpt| {
            let mut routes = routes.iter();
            routes.find(|route| route.domains.contains(rcpt.domain()))
        });
        of_rcpt.unwrap_or(&routes[0])
    }

    fn led(&self, route: &Route, rcpt: Option<&Address>) -> Result<Led, Failure> {
        let Some(rcpt) = rcpt else {
            return Ok(Led::Mailbox);
        };
        if !route.domains.contains(rcpt.domain()) {
            return Ok(Led::Refused("foreign_domain"));
        }
        let keys = key_ring(route)?;
        if is_return_path_form(rcpt) {
            let job = job_of_return_path(&keys, rcpt.domain(), rcpt);
            let reason = job.map_or("return_path_forged", |_| "return_path");
            return Ok(Led::Refused(reason));
        }
        Ok(match keys.verify(rcpt, self.now) {
            Ok(claims) if self.is_revoked(claims.digest) => Led::Refused("token_revoked"),
            Ok(claims) => Led::Thread(claims),
            Err(TokenError::Absent) if mailbox_of(route, rcpt).is_some() => Led::Mailbox,
            Err(TokenError::Absent) => Led::Refused("no_such_mailbox"),
            Err(TokenError::Expired) => Led::Refused("token_expired"),
            Err(TokenError::Forged) => Led::Refused("token_forged"),
            Err(TokenError::CaseLost(digest)) => self.case_lost(&keys, digest),
        })
    }

    fn is_revoked(&self, digest: [u8; 16]) -> bool {
        self.store.is_some_and(|store| store.is_revoked(digest))
    }

    fn case_lost(&self, keys: &KeyRing, digest: [u8; 16]) -> Led {
        let known = self.store.and_then(|store| store.minted(digest));
        match known {
            Some(_) if self.is_revoked(digest) => Led::Refused("token_revoked"),
            Some((_, at)) if keys.is_expired(at, self.now) => Led::Refused("token_expired"),
            Some((thread_id, issued_at)) => Led::Thread(Claims {
                thread: ThreadKey::of(&thread_id),
                thread_id: Some(thread_id),
                issued_at,
                participant: None,
                digest,
            }),
            None => Led::Refused("token_case_lost"),
        }
    }

    /// Mailbox, priority and rule, as delivery finds them.
    fn sorted(
        &self,
        route: &Route,
        rcpt: Option<&Address>,
        led: &Led,
        (thread, judged): (&Value, &Judged<'_>),
    ) -> Value {
        let author = self.view.header.author();
        let verified = judged.identity == Identity::Verified;
        let facts = mailbox::Facts {
            recipient: rcpt,
            sender: author,
            verified,
            kind: judged.kind,
            subject: judged.subject,
            body: judged.body,
            mailbox: None,
            thread: None,
        };
        let past = thread["match"].as_str().map(|id| {
            let known = self
                .store
                .and_then(|store| store.thread(&route.name, ThreadKey::of(id)));
            Past::of(known.as_ref())
        });
        let named = match led {
            Led::Mailbox => rcpt.and_then(|rcpt| mailbox_of(route, rcpt)),
            Led::Thread(_) | Led::Refused(_) => None,
        };
        let sorted = sort(&route.policy.rules, &facts, named, past.as_ref());
        json!({ "mailbox": sorted.mailbox, "priority": sorted.priority, "rule": sorted.rule })
    }

    /// Who wrote it, as far as can be told from here: a thread that only headers lead to is taken for
    /// the author's own, which only the store's mapping could deny.
    fn identity(&self, route: &Route, led: &Led) -> Result<Identity, Failure> {
        let none = Verdict::default();
        let verdict = self.verdict.unwrap_or(&none);
        let author = self.view.header.author();
        let Led::Thread(claims) = led else {
            return Ok(identity(verdict, author, author.is_some(), false));
        };
        let ring = key_ring(route)?;
        let takes_part = author.is_some_and(|author| {
            if claims.participant.is_some() {
                return ring.is_participant(claims, author);
            }
            let known = self
                .store
                .and_then(|store| store.thread(&route.name, claims.thread));
            known
                .and_then(|mapping| mapping.participant)
                .is_some_and(|known| known.folded() == author.folded())
        });
        Ok(identity(verdict, author, takes_part, true))
    }

    fn thread(&self, route: &Route, led: &Led) -> Value {
        let claims = match led {
            Led::Refused(reason) => return json!({ "match": null, "reason": reason }),
            Led::Thread(claims) => Some(claims.clone()),
            Led::Mailbox => None,
        };
        let header = &self.view.header;
        let subject = Subject::of(header.subject.as_deref().unwrap_or_default());
        let facts = Facts {
            author: header.author(),
            is_authenticated: self.verdict.is_some_and(Verdict::is_aligned),
            subject: &subject.normalised,
            now: self.now,
            subject_window: self.config.store.subject_window,
        };
        let mut candidates: Vec<Candidate> =
            claims.map(|c| self.token(route, c)).into_iter().collect();
        if let Some(store) = self.store {
            for (id, reason) in thread::lookups(header) {
                let known = store.thread_by_message_id(&route.name, id);
                let Some((mapping, sent_by_us)) = known else {
                    continue;
                };
                let reason = if sent_by_us {
                    reason
                } else {
                    Reason::StoredMessageId
                };
                candidates.push(candidate(mapping, reason));
            }
        }
        match thread::decide(&facts, &candidates) {
            Decision::Existing { thread_id, reason } => {
                json!({ "match": thread_id, "reason": reason.as_str() })
            }
            Decision::New { reason } => json!({ "match": null, "reason": reason.as_str() }),
            Decision::Conflict { reason } => {
                json!({ "match": null, "reason": format!("conflict:{}", reason.as_str()) })
            }
        }
    }

    fn token(&self, route: &Route, claims: Claims) -> Candidate {
        let known = self
            .store
            .and_then(|store| store.thread(&route.name, claims.thread));
        match known {
            Some(mapping) => candidate(mapping, Reason::Token),
            None => Candidate {
                thread_id: claims
                    .thread_id
                    .unwrap_or_else(|| claims.thread.as_uuid_text()),
                participant: None,
                changed_at: claims.issued_at,
                reason: Reason::Token,
            },
        }
    }

    fn attachments(&self) -> Vec<Value> {
        let bounds = &self.config.attachments.bounds;
        let told = Files::of(self.view, Some(bounds)).told;
        told.iter().map(|attachment| json!(attachment)).collect()
    }
}

/// What the rules of mailboxes ask about besides addresses.
struct Judged<'a> {
    kind: Kind,
    identity: Identity,
    subject: &'a str,
    body: &'a str,
}

/// The mailbox that takes mail to this address.
fn mailbox_of<'a>(route: &'a Route, rcpt: &Address) -> Option<&'a str> {
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

fn ruling_json(ruling: Ruling) -> Value {
    match ruling {
        Ruling::Post(kind) => json!({ "action": "post", "as": kind }),
        Ruling::Drop(rule) => json!({ "action": "drop", "rule": rule }),
        Ruling::Hold(rule) => json!({ "action": "hold", "rule": rule }),
    }
}

fn candidate(mapping: Mapping, reason: Reason) -> Candidate {
    Candidate {
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

fn key_ring(route: &Route) -> Result<KeyRing, Failure> {
    route
        .key_ring()
        .map_err(|error| Failure::new(Exit::Config, error))
}

/// The object in words, for a person at a terminal.
fn words(
    explained: &Value,
    verdict: Option<&Verdict>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text).into_owned(),
        other => plain(&other.to_string()).into_owned(),
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
        sender::words(verdict, &explained["authentication"], out)?;
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
            writeln!(out, "--- {name}\n{}", plain_lines(words))?;
        }
    }
    Ok(())
}
