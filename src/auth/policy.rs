//! Owns what becomes of a mail for who sent it: taken, held for a person, or refused.
//!
//! Does not check anything itself, and knows no SMTP: a refusal's words are the response table's.

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::mail::verdict::{DomainPolicy, FromProblem, Outcome, Source, Verdict};

/// What a route does with mail whose sender is not known for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What a From domain's own DMARC policy counts.
    pub dmarc: DmarcPolicy,
    /// What becomes of a mail by [`Identity::Unverified`].
    pub unverified: Treatment,
    /// What becomes of a mail by [`Identity::TokenHolder`].
    pub token_holder: Treatment,
    /// What becomes of a mail whose From names no single author: `hold` or `refuse`.
    pub bad_from: BadFrom,
}

impl Default for Policy {
    /// DMARC is honoured, the rest is posted with a label, a broken From is refused.
    fn default() -> Self {
        Self {
            dmarc: DmarcPolicy::Honour,
            unverified: Treatment::Flag,
            token_holder: Treatment::Flag,
            bad_from: BadFrom::Refuse,
        }
    }
}

impl Policy {
    /// Decides on one delivery. A no that would come too late for the peer to hear it from us (the
    /// verdict is not ours: the mail is past its border already) is a hold, for a bounce would go to
    /// whoever was forged.
    pub fn decide(self, verdict: &Verdict, identity: Identity) -> Decision {
        let decision = self.wish(verdict, identity);
        match decision {
            Decision::Refuse(refusal) if verdict.source != Source::Postern => {
                Decision::Hold(refusal.into())
            }
            other => other,
        }
    }

    fn wish(self, verdict: &Verdict, identity: Identity) -> Decision {
        if let Some(problem) = verdict.from_problem {
            return match self.bad_from {
                BadFrom::Refuse => Decision::Refuse(Refusal::BadFrom(problem)),
                BadFrom::Hold => Decision::Hold(Hold::BadFrom(problem)),
            };
        }
        let has_failed = verdict.dmarc.result == Outcome::Fail && !verdict.is_aligned();
        if self.dmarc == DmarcPolicy::Honour && has_failed {
            match verdict.dmarc.policy {
                DomainPolicy::Reject => return Decision::Refuse(Refusal::DmarcReject),
                DomainPolicy::Quarantine => return Decision::Hold(Hold::DmarcQuarantine),
                DomainPolicy::None => {}
            }
        }
        let treatment = match identity {
            Identity::Verified => Treatment::Flag,
            Identity::TokenHolder => self.token_holder,
            Identity::Unverified => self.unverified,
        };
        match treatment {
            Treatment::Flag => Decision::Accept,
            Treatment::Hold => Decision::Hold(Hold::Identity(identity)),
            Treatment::Refuse => Decision::Refuse(Refusal::Identity(identity)),
        }
    }
}

/// What a From domain's DMARC policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// `reject` refuses, `quarantine` holds.
    Honour,
    /// It is written down, no more.
    Record,
}

/// What becomes of a mail whose author is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// It is posted with its label, never under the participant's name.
    Flag,
    /// It is parked until a person releases it.
    Hold,
    /// It is refused.
    Refuse,
}

/// What becomes of a mail whose From names no single author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadFrom {
    /// It is parked until a person releases it.
    Hold,
    /// It is refused.
    Refuse,
}

/// What becomes of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is posted, labelled with its identity.
    Accept,
    /// It is parked.
    Hold(Hold),
    /// The peer hears a no.
    Refuse(Refusal),
}

/// Why a mail is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// From names no single author.
    BadFrom(FromProblem),
    /// The From domain wants failing mail put aside.
    DmarcQuarantine,
    /// The From domain wants failing mail refused, but it cannot be any more.
    DmarcReject,
    /// The route holds mail by such authors.
    Identity(Identity),
}

impl Hold {
    /// A short name, one of a few: `dmarc_reject`, `unverified`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFrom(_) => "bad_from",
            Self::DmarcQuarantine => "dmarc_quarantine",
            Self::DmarcReject => "dmarc_reject",
            Self::Identity(identity) => identity.as_str(),
        }
    }

    /// The reason in words, for whoever releases it.
    pub fn reason(self) -> String {
        match self {
            Self::BadFrom(problem) => problem.as_str().to_owned(),
            Self::DmarcQuarantine => "DMARC fails and the domain asks for quarantine".to_owned(),
            Self::DmarcReject => "DMARC fails and the domain asks to reject".to_owned(),
            Self::Identity(identity) => format!("the author is {}", identity.as_str()),
        }
    }
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadFrom(problem) => Self::BadFrom(problem),
            Refusal::DmarcReject => Self::DmarcReject,
            Refusal::Identity(identity) => Self::Identity(identity),
        }
    }
}

/// Why a mail is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 550 5.7.1: From names no single author.
    BadFrom(FromProblem),
    /// 550 5.7.26: the From domain wants failing mail refused (RFC 7372 section 3.3).
    DmarcReject,
    /// 550 5.7.1: the route wants no mail by such authors.
    Identity(Identity),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::verdict::{ArcVerdict, DmarcVerdict};

    fn failed(policy: DomainPolicy) -> Verdict {
        Verdict {
            source: Source::Postern,
            dmarc: DmarcVerdict {
                result: Outcome::Fail,
                policy,
                domain: Some("example.com".to_owned()),
                ..DmarcVerdict::default()
            },
            ..Verdict::default()
        }
    }

    #[test]
    fn a_domains_policy_is_honoured_or_recorded() {
        let honour = Policy::default();
        let record = Policy {
            dmarc: DmarcPolicy::Record,
            ..honour
        };
        for (policy, decision) in [
            (DomainPolicy::None, Decision::Accept),
            (
                DomainPolicy::Quarantine,
                Decision::Hold(Hold::DmarcQuarantine),
            ),
            (DomainPolicy::Reject, Decision::Refuse(Refusal::DmarcReject)),
        ] {
            let verdict = failed(policy);
            assert_eq!(honour.decide(&verdict, Identity::TokenHolder), decision);
            assert_eq!(
                record.decide(&verdict, Identity::TokenHolder),
                Decision::Accept
            );
        }
    }

    #[test]
    fn an_error_or_a_trusted_sealer_is_no_failure() {
        let mut verdict = failed(DomainPolicy::Reject);
        verdict.arc = ArcVerdict {
            vouches_for_from: true,
            ..ArcVerdict::default()
        };
        assert_eq!(
            Policy::default().decide(&verdict, Identity::Verified),
            Decision::Accept
        );
        for result in [Outcome::Temperror, Outcome::Permerror, Outcome::None] {
            let mut verdict = failed(DomainPolicy::Reject);
            verdict.dmarc.result = result;
            assert_eq!(
                Policy::default().decide(&verdict, Identity::Unverified),
                Decision::Accept
            );
        }
    }

    #[test]
    fn treatments_are_by_identity() {
        let verdict = Verdict {
            source: Source::Postern,
            ..Verdict::default()
        };
        let policy = Policy {
            unverified: Treatment::Refuse,
            token_holder: Treatment::Hold,
            ..Policy::default()
        };
        assert_eq!(
            policy.decide(&verdict, Identity::Verified),
            Decision::Accept
        );
        assert_eq!(
            policy.decide(&verdict, Identity::TokenHolder),
            Decision::Hold(Hold::Identity(Identity::TokenHolder))
        );
        assert_eq!(
            policy.decide(&verdict, Identity::Unverified),
            Decision::Refuse(Refusal::Identity(Identity::Unverified))
        );
    }

    #[test]
    fn a_broken_from_is_refused_or_held_whatever_else_holds() {
        let mut verdict = failed(DomainPolicy::None);
        verdict.dmarc.result = Outcome::Pass;
        verdict.from_problem = Some(FromProblem::SeveralFields);
        let problem = FromProblem::SeveralFields;
        assert_eq!(
            Policy::default().decide(&verdict, Identity::Verified),
            Decision::Refuse(Refusal::BadFrom(problem))
        );
        let hold = Policy {
            bad_from: BadFrom::Hold,
            ..Policy::default()
        };
        assert_eq!(
            hold.decide(&verdict, Identity::Verified),
            Decision::Hold(Hold::BadFrom(problem))
        );
    }

    #[test]
    fn what_cannot_be_refused_any_more_is_held() {
        for source in [
            Source::Nobody,
            Source::Relay("mx.example".to_owned()),
            Source::Provider("postmark".to_owned()),
        ] {
            let verdict = Verdict {
                source,
                ..failed(DomainPolicy::Reject)
            };
            assert_eq!(
                Policy::default().decide(&verdict, Identity::TokenHolder),
                Decision::Hold(Hold::DmarcReject)
            );
        }
    }
}
