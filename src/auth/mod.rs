//! Owns sender authentication: SPF, DKIM, DMARC, ARC and iprev as one verdict, the identity of a reply, and
//! a route's policy for both.
//!
//! Does not refuse or hold mail itself, and logs nothing; the caller does.

mod arc;
mod dkim;
mod dmarc;
mod dns;
mod field;
mod from;
mod identity;
mod iprev;
mod policy;
mod provider;
pub mod results;
mod spf;
mod tags;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::dkim::SIGNATURES_MAX;
pub use self::dns::DnsSettings;
pub use self::identity::{Identity, identity};
pub use self::policy::{
    AuthPolicy, BadFrom, DmarcPolicy, HoldReason, PolicyDecision, PolicyRefusal, Treatment,
};

use self::arc::{ArcChain, TrustedSealers};
use self::dkim::{BodyHashes, DkimSignatures, SignedMail};
use self::dns::{Dns, QueryBudget};
use self::field::RawHeader;
use crate::clock::Timestamp;
use crate::mail::address::{Address, Domain};
use crate::mail::envelope::ProviderVerdict;
use crate::mail::verdict::{DmarcVerdict, FromProblem, SpfVerdict, Verdict, VerdictSource};
use crate::mail::view::HeaderView;

/// The settings of sender checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The authserv-id of our `Authentication-Results`; the caller replaces an empty one by the host's
    /// name.
    pub authserv_id: String,
    /// The settings of DNS look-ups.
    pub dns: DnsSettings,
    /// Domains whose ARC seals, and the DMARC results in them, are trusted.
    pub arc_sealers: Vec<String>,
    /// The authserv-ids of upstream servers whose `Authentication-Results` are trusted where Postern cannot
    /// check itself (LMTP, IMAP).
    pub relay_authserv_ids: Vec<String>,
    /// The number of `Received` fields that may stand above such a field: those that the operator's own
    /// servers add on top of it. A field further down may have come with the mail. Milters of Postfix write
    /// theirs just below its `Received`: that is 1, and is safe only if that server removes incoming fields
    /// with its own authserv-id (RFC 8601 section 5).
    pub relay_received_above_max: usize,
    /// The age in seconds from which a DKIM signature does not count: a mail may be queued for days (RFC
    /// 5321 section 4.5.4.1), but a much older one was probably kept for a replay.
    pub signature_age_max_secs: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authserv_id: String::new(),
            dns: DnsSettings::default(),
            arc_sealers: Vec::new(),
            relay_authserv_ids: Vec::new(),
            relay_received_above_max: 0,
            signature_age_max_secs: 10 * 24 * 3_600,
        }
    }
}

/// A mail to check, with the known facts of its arrival.
#[derive(Clone, Copy, Debug)]
pub struct AuthInput<'a> {
    /// The address of the sender's host; `None` if it is not known: then SPF and iprev have no result, and
    /// only DKIM can vouch.
    pub ip: Option<IpAddr>,
    /// The name given in EHLO or HELO.
    pub helo: &'a str,
    /// The reverse-path; `None` is the null sender.
    pub mail_from: Option<&'a Address>,
    /// The unchanged mail.
    pub bytes: &'a Bytes,
    /// The time at which the whole mail was received.
    pub received_at: Timestamp,
}

/// The authenticator with its DNS cache, shared by all connections.
pub struct Authenticator {
    settings: Settings,
    dns: Dns,
}

impl Authenticator {
    /// Makes no query: without DNS the start continues, and checks result in temperror.
    pub fn new(settings: Settings) -> Self {
        Self {
            dns: Dns::new(settings.dns.clone()),
            settings,
        }
    }

    /// The settings.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Checks a mail. The check never fails and ends within [`DnsSettings::mail_ms`] plus computing time; a
    /// result that is not known by then is a temperror.
    pub async fn check(&self, input: AuthInput<'_>) -> Verdict {
        let header = RawHeader::read(input.bytes);
        let view = HeaderView::parse(&input.bytes[..header.body]);
        let author = from::author(&view, &header);
        let from_domain = author.ok().map(|author| author.domain().ascii());
        let from_domain = from_domain.as_deref();
        let signatures = DkimSignatures::read(&header, from_domain);
        let chain = ArcChain::read(&header);
        let (dkim_forms, arc_forms) = (signatures.body_forms(), chain.body_forms());
        let forms = (dkim_forms.0 || arc_forms.0, dkim_forms.1 || arc_forms.1);
        let hashes = BodyHashes::compute(input.bytes, header.body, forms).await;
        let signed = SignedMail {
            header: &header,
            view: &view,
            hashes: &hashes,
            now: input.received_at,
            age_max: Duration::from_secs(self.settings.signature_age_max_secs),
        };
        let trust = TrustedSealers {
            sealers: &self.settings.arc_sealers,
            from_domain,
        };
        let budget = self.dns.budget();
        let (spf, helo, dkim, arc, iprev) = tokio::join!(
            spf_of_sender(&budget, &input),
            spf_of_helo(&budget, &input),
            signatures.check(&budget, &signed),
            chain.check(&budget, &signed, trust),
            iprev::check(&budget, input.ip),
        );
        let evidence = dmarc::DmarcEvidence {
            spf: &spf,
            dkim: &dkim,
        };
        let dmarc = match from_domain.filter(|domain| is_name(domain)) {
            Some(domain) => dmarc::check(&budget, domain, evidence).await,
            None => DmarcVerdict::default(),
        };
        Verdict {
            source: VerdictSource::Postern,
            from_problem: author.err(),
            spf,
            helo,
            dkim,
            dmarc,
            arc,
            iprev,
        }
    }

    /// Checks only SPF, of `sender` (`local@domain`, or empty for the null sender) and the HELO name
    /// `helo`. The values need not be well-formed.
    pub async fn check_spf(&self, ip: IpAddr, helo: &str, sender: &str) -> SpfVerdict {
        let (local, domain) = sender.rsplit_once('@').unwrap_or(("", sender));
        let domain = if domain.is_empty() { helo } else { domain };
        let local = if local.is_empty() { POSTMASTER } else { local };
        let sender = spf::SpfIdentity {
            ip,
            helo,
            local,
            domain,
        };
        spf::check(&self.dns.budget(), sender).await
    }

    /// The verdict of a trusted upstream server, read from the mail: for doors where the peer is not the
    /// sender's host (LMTP, IMAP). Only the From field is checked here. Without a trusted field the verdict
    /// is empty, with [`VerdictSource::Nobody`].
    pub fn relay_verdict(&self, mail: &[u8]) -> Verdict {
        let header = RawHeader::read(mail);
        let view = HeaderView::parse(&mail[..header.body]);
        let author = from::author(&view, &header);
        let relays = &self.settings.relay_authserv_ids;
        let above_max = self.settings.relay_received_above_max;
        let mut verdict = results::read(&header, relays, above_max).unwrap_or_default();
        verdict.from_problem = author.err();
        let domain = author.ok().map(|author| author.domain().ascii());
        if verdict.dmarc.domain != domain {
            verdict.dmarc = DmarcVerdict {
                domain,
                reason: Some("the results are not about the From domain".to_owned()),
                ..DmarcVerdict::default()
            };
        }
        verdict
    }

    /// Our `Authentication-Results` field for a verdict, folded, with its line end.
    pub fn results_field(&self, verdict: &Verdict) -> String {
        results::field(verdict, &self.settings.authserv_id)
    }
}

/// The single author in a mail's From field, for doors whose verdicts come from others: a provider's SPF or
/// DKIM result is useless without it.
///
/// # Errors
/// The reason why the From field names no single author.
pub fn author(mail: &[u8]) -> Result<Address, FromProblem> {
    let header = RawHeader::read(mail);
    let view = HeaderView::parse(&mail[..header.body]);
    from::author(&view, &header).cloned()
}

/// The verdict from a provider's webhook, marked as the provider's.
pub fn provider_verdict(told: &ProviderVerdict, mail: &[u8]) -> Verdict {
    provider::verdict(told, author(mail).as_ref().map_err(|problem| *problem))
}

/// The local part for a sender without one (RFC 7208 section 4.3).
const POSTMASTER: &str = "postmaster";

/// Checks the sender; for a null sender, postmaster at the HELO domain (RFC 7208 section 2.4).
async fn spf_of_sender(budget: &QueryBudget<'_>, input: &AuthInput<'_>) -> SpfVerdict {
    let Some(mail_from) = input.mail_from else {
        return spf_of_helo(budget, input).await;
    };
    let Some(ip) = input.ip else {
        return SpfVerdict::default();
    };
    let sender = spf::SpfIdentity {
        ip,
        helo: input.helo,
        local: mail_from.local(),
        domain: &mail_from.domain().ascii(),
    };
    spf::check(budget, sender).await
}

async fn spf_of_helo(budget: &QueryBudget<'_>, input: &AuthInput<'_>) -> SpfVerdict {
    let domain = Domain::parse(input.helo).ok().map(|domain| domain.ascii());
    let (Some(ip), Some(domain)) = (input.ip, domain.filter(|domain| is_name(domain))) else {
        return SpfVerdict::default();
    };
    let sender = spf::SpfIdentity {
        ip,
        helo: input.helo,
        local: POSTMASTER,
        domain: &domain,
    };
    spf::check(budget, sender).await
}

/// False for address literals and for domains without A-labels.
fn is_name(domain: &str) -> bool {
    domain.is_ascii() && !domain.starts_with('[')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::verdict::AuthResult;

    const NAMES: &str = "(From|DKIM-Signature|ARC-Seal|ARC-Message-Signature|\
        ARC-Authentication-Results|Authentication-Results|Received)";
    const VALUES: &str = "((v|a|c|d|s|h|t|x|l|i|q|b|bh|cv|k|p|dmarc|spf) ?= ?\
        (1|rsa-sha256|relaxed/simple|a\\.example|from:to|99999999999999|aGk=|pass|none|\\PC{0,8})\
        (;|; |\r\n |\"|\\()?){0,12}";

    proptest! {
        #[test]
        fn any_header_has_a_verdict(fields in proptest::collection::vec((NAMES, VALUES), 0..12)) {
            let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            let mail = Bytes::from(format!("{}\r\nbody\r\n", lines.collect::<String>()));
            // Without a name server no check can pass.
            let settings = Settings {
                dns: DnsSettings {
                    queries_max: 0,
                    ..DnsSettings::default()
                },
                relay_authserv_ids: vec!["a.example".to_owned()],
                ..Settings::default()
            };
            let auth = Authenticator::new(settings);
            let input = AuthInput {
                ip: Some([192, 0, 2, 1].into()),
                helo: "a.example",
                mail_from: None,
                bytes: &mail,
                received_at: Timestamp::from_secs(1_800_000_000),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let verdict = runtime.unwrap().block_on(auth.check(input));
            prop_assert!(!verdict.is_aligned());
            prop_assert!(verdict.dkim.iter().all(|dkim| dkim.result != AuthResult::Pass));
            prop_assert_ne!(verdict.arc.result, AuthResult::Pass);
            let field = auth.results_field(&verdict);
            prop_assert!(field.ends_with("\r\n") && field.is_ascii());
            prop_assert_ne!(auth.relay_verdict(&mail).source, VerdictSource::Postern);
            prop_assert!(!results::with_fields_on_top(&mail, field, "a.example").is_empty());
        }
    }
}
