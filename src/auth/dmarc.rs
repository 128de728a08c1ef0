//! Owns DMARC (RFC 9989): whether the From domain vouches for this mail, and its policy if not.
//!
//! Does not use mail-auth's evaluator, which does not return the aligned domain, uses the first of several
//! records, and makes its own DNS queries; its record parser is used.

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::dmarc::{Alignment, Dmarc, Policy, Psd};

use super::dns::{DnsFailure, QueryBudget};
use crate::mail::verdict::{AuthResult, DkimVerdict, DmarcVerdict, DomainPolicy, SpfVerdict};

/// The number of labels of a tree walk after the first query (RFC 9989 section 4.10), so that it makes at
/// most eight queries.
const WALK_LABELS_MAX: usize = 7;

/// The evidence for a From domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct DmarcEvidence<'a> {
    /// SPF of the MAIL FROM identity.
    pub(super) spf: &'a SpfVerdict,
    /// The signatures.
    pub(super) dkim: &'a [DkimVerdict],
}

/// Checks the From domain, given as A-labels.
pub(super) async fn check(
    budget: &QueryBudget<'_>,
    domain: &str,
    evidence: DmarcEvidence<'_>,
) -> DmarcVerdict {
    let mut verdict = DmarcVerdict {
        domain: Some(domain.to_owned()),
        ..DmarcVerdict::default()
    };
    if let Err(failure) = evaluate(budget, domain, evidence, &mut verdict).await {
        verdict.result = AuthResult::Temperror;
        verdict.reason = Some(failure.reason(domain));
    }
    verdict
}

async fn evaluate(
    budget: &QueryBudget<'_>,
    domain: &str,
    evidence: DmarcEvidence<'_>,
    verdict: &mut DmarcVerdict,
) -> Result<(), DnsFailure> {
    let walk = walk(budget, domain).await?;
    let organization = organization(&walk, domain);
    let own = walk.iter().find(|step| step.name == domain);
    // The domain's own record, the organization's, or that of the suffix above (RFC 9989 section 4.10.1).
    let of_organization = || walk.iter().find(|step| step.name == organization);
    let Some(step) = own.or_else(of_organization).or_else(|| walk.last()) else {
        verdict.reason = Some("the domain has no DMARC record".to_owned());
        return Ok(());
    };
    let record = &step.record;
    let Some(policy) = policy(budget, domain, step).await else {
        verdict.reason = Some("the DMARC record has no policy".to_owned());
        return Ok(());
    };
    verdict.policy = policy;
    let mut has_temporary = false;
    for (signer, outcome, alignment) in aligned_candidates(evidence, record) {
        if is_aligned(budget, signer, (domain, organization), alignment).await? {
            if outcome == AuthResult::Pass {
                verdict.result = AuthResult::Pass;
                verdict.aligned = Some(signer.to_owned());
                return Ok(());
            }
            has_temporary = true;
        }
    }
    (verdict.result, verdict.reason) = if has_temporary {
        let reason = "an aligned domain could not be checked now";
        (AuthResult::Temperror, Some(reason.to_owned()))
    } else {
        let reason = "no aligned domain is authenticated";
        (AuthResult::Fail, Some(reason.to_owned()))
    };
    Ok(())
}

/// The domains that passed, or may yet pass, with the required alignment.
fn aligned_candidates<'a>(
    evidence: DmarcEvidence<'a>,
    record: &Dmarc,
) -> impl Iterator<Item = (&'a str, AuthResult, Alignment)> {
    let (adkim, aspf) = (record.adkim, record.aspf);
    let dkim = evidence
        .dkim
        .iter()
        .map(move |dkim| (dkim.domain.as_str(), dkim.result, adkim));
    // `+all` passes every host, so it proves nothing.
    let spf = Some(evidence.spf).filter(|spf| !spf.passes_all);
    let spf = spf.map(|spf| (spf.domain.as_str(), spf.result, aspf));
    dkim.chain(spf).filter(|(domain, outcome, _)| {
        !domain.is_empty() && matches!(outcome, AuthResult::Pass | AuthResult::Temperror)
    })
}

/// The owner's policy for mail that fails; `None` if the record is to be ignored.
async fn policy(
    budget: &QueryBudget<'_>,
    domain: &str,
    step: &WalkedRecord<'_>,
) -> Option<DomainPolicy> {
    let record = &step.record;
    let wish = if record.p == Policy::Unspecified {
        // Without a policy a record is only for reports (RFC 9989 section 4.7).
        (!record.rua.is_empty()).then_some(Policy::None)?
    } else if step.name == domain {
        record.p
    } else if record.np != record.sp && !exists(budget, domain).await {
        record.np
    } else {
        record.sp
    };
    Some(match (wish, record.t) {
        (Policy::Reject, false) => DomainPolicy::Reject,
        // A policy in test mode counts one level less (RFC 9989 section 4.7, `t=`).
        (Policy::Reject, true) | (Policy::Quarantine, false) => DomainPolicy::Quarantine,
        _ => DomainPolicy::None,
    })
}

/// False only if the DNS states that the name does not exist (RFC 8020).
async fn exists(budget: &QueryBudget<'_>, domain: &str) -> bool {
    let found = budget.addresses_v4(domain).await;
    found.map_or(true, |found| found.is_name_known)
}

async fn is_aligned(
    budget: &QueryBudget<'_>,
    signer: &str,
    (domain, organization): (&str, &str),
    alignment: Alignment,
) -> Result<bool, DnsFailure> {
    if signer == domain {
        return Ok(true);
    }
    let above = signer.strip_suffix(organization);
    let is_within = above.is_some_and(|above| above.is_empty() || above.ends_with('.'));
    if alignment == Alignment::Strict || !is_within {
        return Ok(false);
    }
    let walk = walk(budget, signer).await?;
    Ok(self::organization(&walk, signer) == organization)
}

/// A DMARC record found on the way from a domain to the root.
struct WalkedRecord<'a> {
    name: &'a str,
    record: Dmarc,
}

/// The DNS tree walk (RFC 9989 section 4.10): the records from the domain itself upwards.
async fn walk<'a>(
    budget: &QueryBudget<'_>,
    domain: &'a str,
) -> Result<Vec<WalkedRecord<'a>>, DnsFailure> {
    let mut steps = Vec::new();
    let mut name = domain;
    if !domain.contains('.') {
        return Ok(steps);
    }
    loop {
        if let Some(record) = record(budget, name).await? {
            let is_last = matches!(record.psd, Psd::Yes | Psd::No);
            steps.push(WalkedRecord { name, record });
            if is_last {
                return Ok(steps);
            }
        }
        let Some((_, mut above)) = name.split_once('.') else {
            return Ok(steps);
        };
        while above.split('.').count() > WALK_LABELS_MAX {
            above = above.split_once('.').map_or("", |(_, rest)| rest);
        }
        name = above;
    }
}

/// The record at a name; several records count as none (RFC 9989 section 4.10).
async fn record(budget: &QueryBudget<'_>, name: &str) -> Result<Option<Dmarc>, DnsFailure> {
    let texts = budget.texts(&format!("_dmarc.{name}")).await?;
    let mut records = texts
        .text()
        .filter(|text| text.trim_ascii_start().starts_with(b"v=DMARC1"));
    match (records.next(), records.next()) {
        (Some(text), None) => Ok(Dmarc::parse(text).ok()),
        _ => Ok(None),
    }
}

/// The organizational domain (RFC 9989 section 4.10.2); by default the domain itself.
fn organization<'a>(walk: &[WalkedRecord<'a>], domain: &'a str) -> &'a str {
    // A name of one label is a registry's, whatever its record states.
    let named = |step: &&WalkedRecord<'_>| step.name.contains('.');
    for step in walk {
        match step.record.psd {
            Psd::No if named(&step) => return step.name,
            Psd::Yes if step.name != domain => return one_label_below(step.name, domain),
            _ => {}
        }
    }
    walk.iter().rfind(named).map_or(domain, |step| step.name)
}

/// The name one label below `suffix` on the way down to `domain`.
fn one_label_below<'a>(suffix: &str, domain: &'a str) -> &'a str {
    let labels = suffix.split('.').count() + 1;
    let mut name = domain;
    while name.split('.').count() > labels {
        name = name.split_once('.').map_or("", |(_, rest)| rest);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step<'a>(name: &'a str, record: &str) -> WalkedRecord<'a> {
        WalkedRecord {
            name,
            record: Dmarc::parse(record.as_bytes()).unwrap(),
        }
    }

    #[test]
    fn the_organization_is_found() {
        let plain = "v=DMARC1; p=none";
        let walk = [step("a.b.example.com", plain), step("example.com", plain)];
        assert_eq!(organization(&walk, "a.b.example.com"), "example.com");
        assert_eq!(organization(&[], "a.example.com"), "a.example.com");
        let registry = [step("bank.test", plain), step("test", plain)];
        assert_eq!(organization(&registry, "ceo.bank.test"), "bank.test");
        assert_eq!(organization(&registry[1..], "evil.test"), "evil.test");
        let no_suffix = [step("test", "v=DMARC1; p=none; psd=n")];
        assert_eq!(organization(&no_suffix, "evil.test"), "evil.test");
        let stop = [step("b.example.com", "v=DMARC1; p=none; psd=n")];
        assert_eq!(organization(&stop, "a.b.example.com"), "b.example.com");
        let suffix = [step("co.example", "v=DMARC1; p=none; psd=y")];
        assert_eq!(organization(&suffix, "a.b.co.example"), "b.co.example");
        assert_eq!(organization(&suffix, "co.example"), "co.example");
    }
}
