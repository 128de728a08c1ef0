//! Owns `mail explain`: the plan for a mail, and the reasons.
//!
//! Does not store, post or send anything. The plan is the one of delivery (`delivery::plan`), and the SMTP
//! responses are those of the doors. The DNS is queried only on request.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::control::open_store;
use super::sender::{self, SenderArgs};
use super::terminal::{printable, printable_json, printable_lines};
use super::{input, token};
use crate::auth::{Identity, PolicyDecision};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Purpose};
use crate::delivery::attachments::FileChoice;
use crate::delivery::bounces::BounceLookup;
use crate::delivery::known_facts::FactReader;
use crate::delivery::omitted::{omitted, warnings};
use crate::delivery::parsed_mail::{MailContext, ParsedMail};
use crate::delivery::plan::{KnownFacts, Plan, Planner};
use crate::delivery::policy::Disposition;
use crate::delivery::route::DeliveryRoute;
use crate::ingress::routes::{POSTMASTER_MAILBOX, Routes, Unroutable, policy_response};
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer, Recipient, RecipientTarget};
use crate::mail::job_id::is_return_path_form;
use crate::mail::reply::Reply;
use crate::mail::verdict::{Verdict, VerdictSource};
use crate::mail::view::View;
use crate::queue::NamedThread;
use crate::run::{Exit, ExitError, delivery_routes, ingress_routes};
use crate::smtp::response::Refusal;
use crate::store::{QuotedMessage, Store, StoreError};

/// Arguments of `mail explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The file with the mail; - is standard input. Without header lines it is a plain text body
    file: PathBuf,
    /// The recipient; without it the header decides
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Option<String>,
    /// The envelope sender; <> is the null sender. By default the author in From
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[command(flatten)]
    sender: SenderArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Look for the thread in the store too; no server may be running
    #[arg(long)]
    store: bool,
}

impl ExplainArgs {
    pub(super) fn run(self, file: Option<PathBuf>, out: &mut impl Write) -> Result<(), ExitError> {
        let rcpt = self.rcpt.as_deref();
        let rcpt = rcpt.map(|rcpt| token::parse_address("rcpt", rcpt));
        let rcpt = rcpt.transpose()?;
        let from = match self.from.as_deref() {
            None => None,
            Some("" | "<>") => Some(None),
            Some(from) => Some(Some(token::parse_address("from", from)?)),
        };
        let loaded = super::load(file, Purpose::Look)?;
        let bytes = Bytes::from(input::read(&self.file)?);
        let view = View::parse(&bytes);
        let now = clock::now();
        let is_assumed = from.is_none();
        // Most senders use one address for both.
        let sender = from.unwrap_or_else(|| view.header.author().cloned());
        let verdict = self
            .sender
            .check(&loaded.config.auth, &bytes, sender.as_ref(), now)?;
        let store = if self.store {
            Some(open_store(&loaded.config)?)
        } else {
            None
        };
        let context = ExplainContext {
            config: &loaded.config,
            routes: delivery_routes(&loaded.config)?,
            doors: ingress_routes(&loaded.config)?,
            store: store.as_ref(),
            view: &view,
            verdict: verdict.as_ref(),
            sender,
            is_assumed,
            now,
        };
        let explained = super::block_on(context.explain(rcpt))?;
        if let Some(store) = store {
            super::block_on(store.close())?;
        }
        let unavailable = |error| ExitError::new(Exit::Unavailable, error);
        let (explained, refusal) = explained.map_err(unavailable)?;
        if self.json {
            writeln!(out, "{}", printable_json(&explained))?;
        } else {
            words(&explained, verdict.as_ref(), out)?;
        }
        match refusal {
            None => Ok(()),
            Some(refusal) => {
                let line = format!("the mail would be refused: {}", refusal.response());
                Err(ExitError::with_message(Exit::Refused, line))
            }
        }
    }
}

/// One mail, and everything that its plan depends on.
struct ExplainContext<'a> {
    config: &'a Config,
    routes: Vec<DeliveryRoute>,
    doors: Routes,
    store: Option<&'a Store>,
    view: &'a View,
    /// The results of the sender checks; `None` without checks.
    verdict: Option<&'a Verdict>,
    /// The envelope sender.
    sender: Option<Address>,
    /// True if the envelope sender was not given.
    is_assumed: bool,
    now: Timestamp,
}

impl ExplainContext<'_> {
    /// The explanation, and the refusal of the recipient, if the SMTP client would receive one.
    async fn explain(&self, rcpt: Option<Address>) -> Result<(Value, Option<Refusal>), StoreError> {
        let rcpt = rcpt.or_else(|| self.rcpt_in_header());
        let route = self.route(rcpt.as_ref());
        let (recipient, rcpt_error) = self.recipient(route, rcpt.as_ref()).await?;
        let envelope = self.envelope(&recipient);
        let none = Verdict::default();
        let planner = Planner {
            route,
            recipient: &recipient,
            verdict: self.verdict.unwrap_or(&none),
            steps: &[],
            received_at: self.now,
            now: self.now,
            subject_window: self.config.store.subject_window,
        };
        let context = MailContext {
            envelope: &envelope,
            recipient: &recipient,
            route,
            files: FileChoice::Within(&self.config.attachments.bounds),
        };
        let mut mail = ParsedMail::parse(self.view, &context);
        let reader = FactReader {
            store: self.store,
            planner,
        };
        let known = reader.read(&mail, None).await?;
        let quoted = reader.our_last_message(&mail, &known).await?;
        mail.quoted_message = quoted.map(QuotedMessage::from);
        mail.extract_reply(self.view, &route.reply_marker);
        let plan = planner.plan(&mail, &known);
        let who = planner.identity(&mail, &known);
        let rcpt_refusal = rcpt_error.map(Refusal::from);
        let data_refusal = match rcpt_refusal {
            Some(_) => None,
            None => self.data_refusal(route, &recipient, who),
        };
        let assigned = planner.assignment(&mail, &known);
        let mut explained = json!({
            "kind": mail.kind,
            "kindRule": mail.kind_rule,
            "kindEvidence": mail.kind_evidence,
            "ruling": ruling_json(&plan, &mail, rcpt_refusal.or(data_refusal)),
            "smtp": {
                "rcpt": smtp_line(rcpt_refusal, "250 2.1.5 recipient ok"),
                "data": rcpt_refusal.is_none().then(|| smtp_line(data_refusal, "250 2.0.0 stored")),
            },
            "mailbox": assigned.mailbox,
            "priority": assigned.priority,
            "rule": assigned.rule,
            "subject": mail.subject,
            "from": Some(&mail.sender_email).filter(|from| !from.is_empty()),
            "fromName": mail.sender_name,
            "envelopeSender": self.sender.as_ref().map(ToString::to_string),
            "envelopeSenderAssumed": self.is_assumed,
            "messageId": mail.message_id,
            "route": route.name,
            "reply": reply_json(&mail.reply),
            "attachments": mail.files.listed,
            "thread": self.thread_json(&planner, (&mail, &known), rcpt_error),
            "dsn": mail.report,
            "notice": self.notice_json(&plan, &recipient, &mail).await?,
            "authentication": sender::findings_json(self.verdict, who, route.senders),
        });
        self.add_completeness(&mut explained, &mail);
        Ok((explained, rcpt_refusal))
    }

    /// Adds the parts that were left out, and the warnings about the text.
    fn add_completeness(&self, explained: &mut Value, mail: &ParsedMail) {
        let flags = self.view.flags.iter().map(|flag| flag.name());
        explained["flags"] = json!(flags.collect::<Vec<_>>());
        explained["omitted"] = json!(omitted(mail));
        explained["confidence"] = json!(mail.reply.confidence);
        explained["warnings"] = json!(warnings(mail));
        explained["calendar"] = json!(mail.calendar);
    }

    /// The recipient in the header: the first valid reply address, or else the first address at one of
    /// the reply domains.
    fn rcpt_in_header(&self) -> Option<Address> {
        let header = &self.view.header;
        let traces = ["Delivered-To", "X-Original-To", "Envelope-To"];
        let traced = traces.iter().flat_map(|name| header.headers(name));
        let traced = traced.filter_map(|text| Address::parse(text.trim_matches(['<', '>'])).ok());
        let named = header.to.iter().chain(&header.cc);
        let named = named.filter_map(|named| named.address.clone());
        let all: Vec<Address> = traced.chain(named).collect();
        for route in &self.routes {
            for domain in &route.message_id_domains {
                if let Some(found) = route.keys.find(domain, &all, self.now).first() {
                    return Some(found.address.clone());
                }
            }
        }
        let is_ours = |address: &&Address| self.doors.by_domain(address.domain()).is_some();
        all.iter().find(is_ours).cloned()
    }

    fn route(&self, rcpt: Option<&Address>) -> &DeliveryRoute {
        let of_rcpt = rcpt.and_then(|rcpt| {
            let mut routes = self.routes.iter();
            routes.find(|route| route.message_id_domains.contains(rcpt.domain()))
        });
        of_rcpt.unwrap_or(&self.routes[0])
    }

    /// The meaning of the recipient's address. An address that would be refused, or is not known, is
    /// explained as if it were a mailbox.
    async fn recipient(
        &self,
        route: &DeliveryRoute,
        rcpt: Option<&Address>,
    ) -> Result<(Recipient, Option<Unroutable>), StoreError> {
        let mailbox = |address: &Address| Recipient {
            address: address.clone(),
            route: route.name.clone(),
            target: RecipientTarget::Mailbox(POSTMASTER_MAILBOX.to_owned()),
        };
        let Some(rcpt) = rcpt else {
            return Ok((mailbox(&self.doors.postmaster().address), None));
        };
        let resolved = self.doors.resolve_with(self.store, rcpt.clone(), self.now);
        match resolved.await {
            Ok(recipient) => Ok((recipient, None)),
            Err(Unroutable::Store(error)) => Err(error),
            Err(error) => Ok((mailbox(rcpt), Some(error))),
        }
    }

    fn envelope(&self, recipient: &Recipient) -> Envelope {
        Envelope {
            sender: self.sender.clone(),
            sender_untold: self.is_assumed && self.sender.is_none(),
            recipients: vec![recipient.clone()],
            peer: Peer {
                door: Door::Smtp,
                ip: None,
                helo: String::new(),
                tls: None,
            },
            received_at: self.now,
            smtputf8: false,
            told: None,
            verdict: None,
        }
    }

    /// The refusal at the end of DATA, which depends on the sender checks.
    fn data_refusal(
        &self,
        route: &DeliveryRoute,
        recipient: &Recipient,
        who: Identity,
    ) -> Option<Refusal> {
        let verdict = self.verdict?;
        if matches!(recipient.target, RecipientTarget::Return(_))
            || verdict.source != VerdictSource::Postern
        {
            return None;
        }
        match route.senders.decide(verdict, who) {
            PolicyDecision::Refuse(refusal) => Some(policy_response(refusal)),
            PolicyDecision::Accept | PolicyDecision::Hold(_) => None,
        }
    }

    fn thread_json(
        &self,
        planner: &Planner<'_>,
        (mail, known): (&ParsedMail, &KnownFacts),
        rcpt_error: Option<Unroutable>,
    ) -> Value {
        if let Some(error) = rcpt_error {
            let is_return_path = is_return_path_form(&planner.recipient.address);
            return json!({ "match": null, "reason": refused_reason(error, is_return_path) });
        }
        if matches!(planner.recipient.target, RecipientTarget::Return(_)) {
            return json!({ "match": null, "reason": "return_path" });
        }
        if let (true, RecipientTarget::Thread(claims)) =
            (known.unknown_token, &planner.recipient.target)
        {
            let thread = NamedThread::without_store(claims).to_string();
            let reason = match self.store {
                Some(_) => "token_of_another_store",
                None => "store_not_asked",
            };
            return json!({ "match": null, "note": thread, "reason": reason });
        }
        match planner.decide_thread(mail, known) {
            Ok((thread, reason)) => json!({ "match": thread, "reason": reason.as_str() }),
            Err(conflict) => json!({ "match": null, "reason": conflict }),
        }
    }

    /// The job that a notice is about, which only the store knows.
    async fn notice_json(
        &self,
        plan: &Plan,
        recipient: &Recipient,
        mail: &ParsedMail,
    ) -> Result<Value, StoreError> {
        let Some(store) = self.store.filter(|_| matches!(plan, Plan::Notice)) else {
            return Ok(Value::Null);
        };
        let lookup = BounceLookup {
            store,
            routes: &self.routes,
            recipient,
            suppress_for: self.config.delivery.suppress_for,
        };
        Ok(match lookup.find_job(mail).await? {
            Some(named) => json!({ "jobId": named.job, "signed": named.signed }),
            None => json!({ "jobId": null, "signed": false }),
        })
    }
}

/// The name of the reason why an address is refused.
const fn refused_reason(error: Unroutable, is_return_path: bool) -> &'static str {
    match error {
        Unroutable::Foreign => "foreign_domain",
        Unroutable::Unknown => "no_such_mailbox",
        Unroutable::Expired => "token_expired",
        Unroutable::NotYetValid => "token_not_yet_valid",
        Unroutable::Revoked => "token_revoked",
        Unroutable::Forged if is_return_path => "return_path_forged",
        Unroutable::Forged => "token_forged",
        Unroutable::Store(_) => "store_unavailable",
    }
}

fn smtp_line(refusal: Option<Refusal>, accepted: &str) -> String {
    refusal.map_or_else(
        || accepted.to_owned(),
        |refusal| refusal.response().to_string(),
    )
}

fn ruling_json(plan: &Plan, mail: &ParsedMail, refusal: Option<Refusal>) -> Value {
    if let Some(refusal) = refusal {
        return json!({ "action": "refuse", "response": refusal.response().to_string() });
    }
    match plan {
        Plan::Notice => match mail.disposition {
            Disposition::Hold(rule) => json!({ "action": "hold", "rule": rule }),
            Disposition::Drop(rule) => json!({ "action": "drop", "rule": rule }),
            Disposition::Post(kind) => json!({ "action": "drop", "rule": kind.name() }),
        },
        Plan::Drop(rule) => json!({ "action": "drop", "rule": rule }),
        Plan::Park(reason) => {
            json!({ "action": "hold", "rule": reason.rule, "reason": reason.text })
        }
        Plan::Post(plan) => {
            let mut ruling = json!({ "action": "post", "as": plan.post.kind });
            if let Some(check) = &plan.loop_check {
                let action = if check.parks { "hold" } else { "drop" };
                ruling["ifLoop"] = json!(action);
            }
            ruling
        }
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

/// The explanation in words, for a terminal.
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
    writeln!(out, "verdict:  {}", ruling_words(&explained["ruling"]))?;
    let smtp = &explained["smtp"];
    writeln!(out, "rcpt:     {}", text(&smtp["rcpt"]))?;
    if !smtp["data"].is_null() {
        writeln!(out, "data:     {}", text(&smtp["data"]))?;
    }
    writeln!(
        out,
        "mailbox:  {}, {} (rule {})",
        text(&explained["mailbox"]),
        text(&explained["priority"]),
        text(&explained["rule"])
    )?;
    writeln!(out, "from:     {}", text(&explained["from"]))?;
    let assumed = match explained["envelopeSenderAssumed"] == true {
        true => " (assumed: the author in From; --from sets it)",
        false => "",
    };
    let sender = text(&explained["envelopeSender"]);
    writeln!(out, "sender:   {sender}{assumed}")?;
    writeln!(out, "subject:  {}", text(&explained["subject"]))?;
    let thread = &explained["thread"];
    let place = (text(thread_name(thread)), text(&thread["reason"]));
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

/// The thread's id, or a note that it is unknown.
fn thread_name(thread: &Value) -> &Value {
    match &thread["note"] {
        Value::Null => &thread["match"],
        note => note,
    }
}

/// The decision in words, with its rule or reason.
fn ruling_words(ruling: &Value) -> String {
    let text = |name: &str| {
        ruling[name]
            .as_str()
            .map(|text| printable(text).into_owned())
    };
    let action = text("action").unwrap_or_default();
    let why = text("response")
        .or_else(|| text("reason"))
        .or_else(|| text("rule"));
    why.map_or_else(|| action.clone(), |why| format!("{action} ({why})"))
}
