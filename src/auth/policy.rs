//! Owns the route's policy for a mail by its sender: accept, hold for a person, or refuse.
//!
//! Does not run checks, and knows no SMTP: the response table has the texts.

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::mail::verdict::{AuthResult, DomainPolicy, FromProblem, Verdict, VerdictSource};

/// A route's policy for mail whose sender is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthPolicy {
    /// The effect of the From domain's own DMARC policy.
    pub dmarc: DmarcPolicy,
    /// The treatment of a mail by [`Identity::Unverified`].
    pub unverified: Treatment,
    /// The treatment of a mail by [`Identity::TokenHolder`].
    pub token_holder: Treatment,
    /// The treatment of a mail whose From names no single author: `hold` or `refuse`.
    pub bad_from: BadFrom,
}

impl Default for AuthPolicy {
    /// DMARC is enforced, other mail is posted with its identity, a broken From is refused.
    fn default() -> Self {
        Self {
            dmarc: DmarcPolicy::Honour,
            unverified: Treatment::Flag,
            token_holder: Treatment::Flag,
            bad_from: BadFrom::Refuse,
        }
    }
}

impl AuthPolicy {
    /// Decides on one delivery. If the verdict is not ours, the mail has passed its border already, and a
    /// refusal would become a bounce to a forged sender; so such a mail is held instead.
    pub fn decide(self, verdict: &Verdict, identity: Identity) -> PolicyDecision {
        let decision = self.preferred_decision(verdict, identity);
        match decision {
            PolicyDecision::Refuse(refusal) if verdict.source != VerdictSource::Postern => {
                PolicyDecision::Hold(refusal.into())
            }
            other => other,
        }
    }

    fn preferred_decision(self, verdict: &Verdict, identity: Identity) -> PolicyDecision {
        if let Some(problem) = verdict.from_problem {
            return match self.bad_from {
                BadFrom::Refuse => PolicyDecision::Refuse(PolicyRefusal::BadFrom(problem)),
                BadFrom::Hold => PolicyDecision::Hold(HoldReason::BadFrom(problem)),
            };
        }
        let has_failed = verdict.dmarc.result == AuthResult::Fail && !verdict.is_aligned();
        if self.dmarc == DmarcPolicy::Honour && has_failed {
            match verdict.dmarc.policy {
                DomainPolicy::Reject => return PolicyDecision::Refuse(PolicyRefusal::DmarcReject),
                DomainPolicy::Quarantine => {
                    return PolicyDecision::Hold(HoldReason::DmarcQuarantine);
                }
                DomainPolicy::None => {}
            }
        }
        let treatment = match identity {
            Identity::Verified => Treatment::Flag,
            Identity::TokenHolder => self.token_holder,
            Identity::Unverified => self.unverified,
        };
        match treatment {
            Treatment::Flag => PolicyDecision::Accept,
            Treatment::Hold => PolicyDecision::Hold(HoldReason::Identity(identity)),
            Treatment::Refuse => PolicyDecision::Refuse(PolicyRefusal::Identity(identity)),
        }
    }
}

/// The effect of a From domain's DMARC policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// `reject` refuses, `quarantine` holds.
    Honour,
    /// The result is only recorded.
    Record,
}

/// The treatment of a mail whose author is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// The mail is posted with its identity, never under the participant's name.
    Flag,
    /// The mail is parked until a person releases it.
    Hold,
    /// The mail is refused.
    Refuse,
}

/// The treatment of a mail whose From names no single author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadFrom {
    /// The mail is parked until a person releases it.
    Hold,
    /// The mail is refused.
    Refuse,
}

/// The decision on one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyDecision {
    /// The mail is posted, labelled with its identity.
    Accept,
    /// The mail is parked.
    Hold(HoldReason),
    /// The mail is refused.
    Refuse(PolicyRefusal),
}

/// The reason why a mail is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldReason {
    /// From names no single author.
    BadFrom(FromProblem),
    /// The From domain asks to quarantine failing mail.
    DmarcQuarantine,
    /// The From domain asks to reject failing mail, but it is too late for a refusal.
    DmarcReject,
    /// The route holds mail of this identity.
    Identity(Identity),
}

impl HoldReason {
    /// A short name from a fixed set, for example `dmarc_reject` or `unverified`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFrom(_) => "bad_from",
            Self::DmarcQuarantine => "dmarc_quarantine",
            Self::DmarcReject => "dmarc_reject",
            Self::Identity(identity) => identity.as_str(),
        }
    }

    /// The reason in words, for the person who decides.
    pub fn reason(self) -> String {
        match self {
            Self::BadFrom(problem) => problem.as_str().to_owned(),
            Self::DmarcQuarantine => "DMARC fails and the domain asks for quarantine".to_owned(),
            Self::DmarcReject => "DMARC fails and the domain asks to reject".to_owned(),
            Self::Identity(identity) => format!("the author is {}", identity.as_str()),
        }
    }
}

impl From<PolicyRefusal> for HoldReason {
    fn from(refusal: PolicyRefusal) -> Self {
        match refusal {
            PolicyRefusal::BadFrom(problem) => Self::BadFrom(problem),
            PolicyRefusal::DmarcReject => Self::DmarcReject,
            PolicyRefusal::Identity(identity) => Self::Identity(identity),
        }
    }
}

/// The reason why a mail is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyRefusal {
    /// 550 5.7.1: From names no single author.
    BadFrom(FromProblem),
    /// 550 5.7.26: the From domain asks to reject failing mail (RFC 7372 section 3.3).
    DmarcReject,
    /// 550 5.7.1: the route refuses mail of this identity.
    Identity(Identity),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::verdict::{ArcVerdict, DmarcVerdict};

    fn failed(policy: DomainPolicy) -> Verdict {
        Verdict {
            source: VerdictSource::Postern,
            dmarc: DmarcVerdict {
                result: AuthResult::Fail,
                policy,
                domain: Some("example.com".to_owned()),
                ..DmarcVerdict::default()
            },
            ..Verdict::default()
        }
    }

    #[test]
    fn a_domains_policy_is_honoured_or_recorded() {
        let honour = AuthPolicy::default();
        let record = AuthPolicy {
            dmarc: DmarcPolicy::Record,
            ..honour
        };
        for (policy, decision) in [
            (DomainPolicy::None, PolicyDecision::Accept),
            (
                DomainPolicy::Quarantine,
                PolicyDecision::Hold(HoldReason::DmarcQuarantine),
            ),
            (
                DomainPolicy::Reject,
                PolicyDecision::Refuse(PolicyRefusal::DmarcReject),
            ),
        ] {
            let verdict = failed(policy);
            assert_eq!(honour.decide(&verdict, Identity::TokenHolder), decision);
            assert_eq!(
                record.decide(&verdict, Identity::TokenHolder),
                PolicyDecision::Accept
            );
        }
    }

    #[test]
    fn an_error_or_a_trusted_sealer_is_not_a_failure() {
        let mut verdict = failed(DomainPolicy::Reject);
        verdict.arc = ArcVerdict {
            vouches_for_from: true,
            ..ArcVerdict::default()
        };
        assert_eq!(
            AuthPolicy::default().decide(&verdict, Identity::Verified),
            PolicyDecision::Accept
        );
        for result in [
            AuthResult::Temperror,
            AuthResult::Permerror,
            AuthResult::None,
        ] {
            let mut verdict = failed(DomainPolicy::Reject);
            verdict.dmarc.result = result;
            assert_eq!(
                AuthPolicy::default().decide(&verdict, Identity::Unverified),
                PolicyDecision::Accept
            );
        }
    }

    #[test]
    fn treatments_are_by_identity() {
        let verdict = Verdict {
            source: VerdictSource::Postern,
            ..Verdict::default()
        };
        let policy = AuthPolicy {
            unverified: Treatment::Refuse,
            token_holder: Treatment::Hold,
            ..AuthPolicy::default()
        };
        assert_eq!(
            policy.decide(&verdict, Identity::Verified),
            PolicyDecision::Accept
        );
        assert_eq!(
            policy.decide(&verdict, Identity::TokenHolder),
            PolicyDecision::Hold(HoldReason::Identity(Identity::TokenHolder))
        );
        assert_eq!(
            policy.decide(&verdict, Identity::Unverified),
            PolicyDecision::Refuse(PolicyRefusal::Identity(Identity::Unverified))
        );
    }

    #[test]
    fn a_broken_from_is_always_refused_or_held() {
        let mut verdict = failed(DomainPolicy::None);
        verdict.dmarc.result = AuthResult::Pass;
        verdict.from_problem = Some(FromProblem::SeveralFields);
        let problem = FromProblem::SeveralFields;
        assert_eq!(
            AuthPolicy::default().decide(&verdict, Identity::Verified),
            PolicyDecision::Refuse(PolicyRefusal::BadFrom(problem))
        );
        let hold = AuthPolicy {
            bad_from: BadFrom::Hold,
            ..AuthPolicy::default()
        };
        assert_eq!(
            hold.decide(&verdict, Identity::Verified),
            PolicyDecision::Hold(HoldReason::BadFrom(problem))
        );
    }

    #[test]
    fn a_refusal_that_comes_too_late_is_a_hold() {
        for source in [
            VerdictSource::Nobody,
            VerdictSource::Relay("mx.example".to_owned()),
            VerdictSource::Provider("postmark".to_owned()),
        ] {
            let verdict = Verdict {
                source,
                ..failed(DomainPolicy::Reject)
            };
            assert_eq!(
                AuthPolicy::default().decide(&verdict, Identity::TokenHolder),
                PolicyDecision::Hold(HoldReason::DmarcReject)
            );
        }
    }
}
