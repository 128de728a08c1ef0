//! Owns the verdict from a provider's webhook, marked as the provider's.
//!
//! Does not verify any result.

use super::SIGNATURES_MAX;
use crate::mail::address::Address;
use crate::mail::envelope::ProviderVerdict;
use crate::mail::verdict::{
    AuthResult, DkimVerdict, DmarcVerdict, FromProblem, Verdict, VerdictSource,
};

/// The verdict of a provider on a mail by this author. Results that RFC 8601 does not define are ignored.
/// DMARC is about the From domain, even if the provider does not name it.
pub(super) fn verdict(told: &ProviderVerdict, author: Result<&Address, FromProblem>) -> Verdict {
    let mut verdict = Verdict {
        source: VerdictSource::Provider(told.by.clone()),
        from_problem: author.err(),
        ..Verdict::default()
    };
    let from_domain = author.ok().map(|author| author.domain().ascii());
    for check in &told.checks {
        let Some(result) = AuthResult::parse(&check.result) else {
            continue;
        };
        let domain = check.domain.clone();
        match check.name.as_str() {
            "spf" => {
                verdict.spf.result = result;
                verdict.spf.domain = domain.unwrap_or_default();
            }
            "dkim" if verdict.dkim.len() < SIGNATURES_MAX => verdict.dkim.push(DkimVerdict {
                result,
                domain: domain.unwrap_or_default(),
                ..DkimVerdict::default()
            }),
            "dmarc" => {
                verdict.dmarc = DmarcVerdict {
                    result,
                    domain: domain.or_else(|| from_domain.clone()),
                    ..DmarcVerdict::default()
                };
            }
            _ => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::envelope::ProviderCheck;

    #[test]
    fn a_providers_verdict_is_marked_as_the_providers() {
        let check = |name: &str, domain: Option<&str>, result: &str| ProviderCheck {
            name: name.to_owned(),
            domain: domain.map(str::to_owned),
            result: result.to_owned(),
        };
        let told = ProviderVerdict {
            by: "ses".to_owned(),
            checks: vec![
                check("spf", Some("peer.example"), "softfail"),
                check("dkim", None, "gray"),
                check("dkim", Some("example.com"), "pass"),
                check("dmarc", None, "pass"),
                check("spam", None, "pass"),
            ],
        };
        let ann = Address::parse("ann@example.com").unwrap();
        let said = verdict(&told, Ok(&ann));
        assert_eq!(said.source, VerdictSource::Provider("ses".to_owned()));
        assert_eq!(said.spf.result, AuthResult::Softfail);
        assert_eq!(said.dkim.len(), 1);
        assert_eq!(said.dmarc.domain.as_deref(), Some("example.com"));
        assert!(said.is_aligned());
        let unclear = verdict(&told, Err(FromProblem::SeveralFields));
        assert!(!unclear.is_aligned());
    }
}
