//! Owns the sender checks of `mail explain`: it queries the DNS as the server would.
//!
//! Does not know threads: the caller supplies the participant.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::terminal::printable;
use crate::auth::{
    AuthInput, AuthPolicy, Authenticator, HoldReason, Identity, PolicyDecision, Settings,
};
use crate::clock::Timestamp;
use crate::mail::address::Address;
use crate::mail::verdict::{SpfVerdict, Verdict};
use crate::run::{Exit, ExitError};

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// The options for checking the sender.
#[derive(Debug, Args)]
pub(super) struct SenderArgs {
    /// Check the sender with this name server (ADDRESS or ADDRESS:PORT), or with "system"
    #[arg(long, value_name = "SERVER")]
    dns: Option<String>,
    /// The address of the sending host
    #[arg(long, value_name = "ADDRESS", requires = "dns")]
    ip: Option<IpAddr>,
    /// The name that the sending host gave in EHLO
    #[arg(long, value_name = "NAME", requires = "dns", default_value = "")]
    helo: String,
}

impl SenderArgs {
    /// Checks the mail, if a name server was given. `sender` is the envelope's.
    pub(super) fn check(
        &self,
        settings: &Settings,
        bytes: &Bytes,
        sender: Option<&Address>,
        now: Timestamp,
    ) -> Result<Option<Verdict>, ExitError> {
        let Some(dns) = &self.dns else {
            return Ok(None);
        };
        let mut settings = settings.clone();
        if dns != "system" {
            settings.dns.servers = vec![server(dns)?];
        }
        let input = AuthInput {
            ip: self.ip,
            helo: &self.helo,
            mail_from: sender,
            bytes,
            received_at: now,
        };
        let auth = Authenticator::new(settings);
        super::block_on(auth.check(input)).map(Some)
    }
}

fn server(text: &str) -> Result<SocketAddr, ExitError> {
    let with_port = text.parse::<SocketAddr>();
    let parsed = with_port.or_else(|_| {
        let alone = text.parse::<IpAddr>();
        alone.map(|ip| SocketAddr::new(ip, DNS_PORT))
    });
    parsed.map_err(|_| {
        let line = format!("{text:?}: not an address of a name server, nor \"system\"");
        ExitError::with_message(Exit::Usage, line)
    })
}

/// The results as JSON: the fields of the Messages API; and, if the DNS was queried, the whole verdict and
/// the route's decision.
pub(super) fn findings_json(
    verdict: Option<&Verdict>,
    identity: Identity,
    policy: AuthPolicy,
) -> Value {
    let none = Verdict::default();
    let verdict_or_none = verdict.unwrap_or(&none);
    let mut found = json!({
        "spf": verdict_or_none.spf.result,
        "dkim": verdict_or_none.dkim_result(),
        "dmarc": verdict_or_none.dmarc.result,
        "arc": verdict_or_none.arc.result,
        "identity": identity,
    });
    if let Some(verdict) = verdict {
        let (decision, reason) = match policy.decide(verdict, identity) {
            PolicyDecision::Accept => ("accept", None),
            PolicyDecision::Hold(hold) => ("hold", Some(hold.reason())),
            PolicyDecision::Refuse(refusal) => ("refuse", Some(HoldReason::from(refusal).reason())),
        };
        found["decision"] = json!(decision);
        found["decisionReason"] = json!(reason);
        found["verdict"] = json!(verdict);
    }
    found
}

/// The verdict in words, one line for each check.
pub(super) fn print_verdict(
    verdict: &Verdict,
    found: &Value,
    out: &mut impl Write,
) -> Result<(), ExitError> {
    let mut line = |name: &str, text: String| writeln!(out, "{name:<10}{}", printable(&text));
    let because = |reason: &Option<String>| match reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let spf = |spf: &SpfVerdict| format!("{} {}{}", spf.result, spf.domain, because(&spf.reason));
    line("spf:", spf(&verdict.spf))?;
    line("spf helo:", spf(&verdict.helo))?;
    for dkim in &verdict.dkim {
        let key = format!("{} d={} s={}", dkim.result, dkim.domain, dkim.selector);
        line("dkim:", key + &because(&dkim.reason))?;
    }
    let dmarc = &verdict.dmarc;
    let domain = dmarc.domain.as_deref().unwrap_or("-");
    let aligned = dmarc.aligned.as_deref().unwrap_or("nothing");
    let policy = dmarc.policy.as_str();
    let text = format!("{} {domain} (p={policy}, aligned: {aligned})", dmarc.result);
    line("dmarc:", text + &because(&dmarc.reason))?;
    let arc = &verdict.arc;
    let text = format!("{} {}", arc.result, arc.sealers.join(" "));
    line("arc:", text.trim_end().to_owned() + &because(&arc.reason))?;
    let name = verdict.iprev.name.as_deref().unwrap_or("-");
    line("iprev:", format!("{} {name}", verdict.iprev.result))?;
    if let Some(problem) = verdict.from_problem {
        line("from:", problem.as_str().to_owned())?;
    }
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    line("identity:", text("identity"))?;
    let reason = found["decisionReason"].as_str();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    line("decision:", text("decision") + &reason)?;
    Ok(())
}
