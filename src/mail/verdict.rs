//! Owns the verdict: the results of the sender checks of a mail, as a plain value that is stored with the
//! mail and shown to people.
//!
//! Does not run the checks, and decides nothing from them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The results of the checks of one mail, in the terms of RFC 8601.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The party that made the checks.
    pub source: VerdictSource,
    /// SPF of the MAIL FROM identity (RFC 7208 section 2.4); for the null sender, of HELO.
    pub spf: SpfVerdict,
    /// SPF of the HELO identity (RFC 7208 section 2.3).
    pub helo: SpfVerdict,
    /// The DKIM signatures that were examined, From-aligned ones first.
    pub dkim: Vec<DkimVerdict>,
    /// DMARC of the From domain.
    pub dmarc: DmarcVerdict,
    /// The ARC chain.
    pub arc: ArcVerdict,
    /// The reverse DNS name of the peer (RFC 8601 section 2.7.3).
    pub iprev: IprevVerdict,
    /// The problem of the From field; without a single author no result can be about one.
    pub from_problem: Option<FromProblem>,
}

impl Verdict {
    /// True if the From domain itself vouches for this mail: by DMARC here, or by a trusted ARC sealer
    /// before the mail was changed on its way.
    pub fn is_aligned(&self) -> bool {
        self.from_problem.is_none()
            && self.dmarc.domain.is_some()
            && (self.dmarc.result == AuthResult::Pass || self.arc.vouches_for_from)
    }

    /// The result of all signatures together: pass if there is one, else the result of the signature
    /// nearest to the From domain.
    pub fn dkim_result(&self) -> AuthResult {
        let mut results = self.dkim.iter().map(|dkim| dkim.result);
        let first = results.clone().next().unwrap_or_default();
        results
            .find(|result| *result == AuthResult::Pass)
            .unwrap_or(first)
    }
}

/// The party that made the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerdictSource {
    /// No check was made.
    #[default]
    Nobody,
    /// Postern made them.
    Postern,
    /// A trusted server before Postern, by its authserv-id (RFC 8601 section 2.5).
    Relay(String),
    /// The provider whose webhook brought the mail, by its name.
    Provider(String),
}

/// The result of a check (RFC 8601 section 2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthResult {
    /// There was nothing to check.
    #[default]
    None,
    /// The check passed.
    Pass,
    /// The check failed.
    Fail,
    /// SPF: the check probably failed.
    Softfail,
    /// The domain makes no statement, or the result is unknown.
    Neutral,
    /// The check passed, but in a way that local policy does not accept.
    Policy,
    /// A temporary error prevented the check.
    Temperror,
    /// A permanent error: a record or field is malformed.
    Permerror,
}

impl AuthResult {
    /// The word of RFC 8601.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Softfail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }

    /// Parses the word of RFC 8601, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::None,
            Self::Pass,
            Self::Fail,
            Self::Softfail,
            Self::Neutral,
            Self::Policy,
            Self::Temperror,
            Self::Permerror,
        ]
        .into_iter()
        .find(|outcome| outcome.as_str().eq_ignore_ascii_case(word))
    }
}

impl fmt::Display for AuthResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SPF of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpfVerdict {
    /// The result.
    pub result: AuthResult,
    /// The domain that was checked, as A-labels; empty if there was none.
    pub domain: String,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
    /// True if any host would pass, so that the pass proves nothing.
    pub passes_all: bool,
}

/// One DKIM signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DkimVerdict {
    /// The result.
    pub result: AuthResult,
    /// The signing domain (`d=`); empty if it cannot be read.
    pub domain: String,
    /// The name of the key (`s=`); empty if it cannot be read.
    pub selector: String,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
}

/// DMARC of the From domain (RFC 9989).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DmarcVerdict {
    /// The result.
    pub result: AuthResult,
    /// The policy of the domain for mail that fails.
    pub policy: DomainPolicy,
    /// The From domain that was checked, as A-labels; `None` if From names no single domain.
    pub domain: Option<String>,
    /// The authenticated domain that is aligned with it, if there is one.
    pub aligned: Option<String>,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
}

/// A domain's policy for mail that fails DMARC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainPolicy {
    /// No action, or the domain has no policy.
    #[default]
    None,
    /// Quarantine the mail.
    Quarantine,
    /// Refuse the mail.
    Reject,
}

impl DomainPolicy {
    /// The word of RFC 9989 section 4.7.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }
}

/// The ARC chain (RFC 8617).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArcVerdict {
    /// The result of the chain.
    pub result: AuthResult,
    /// The sealers, oldest first; as far as the chain passes.
    pub sealers: Vec<String>,
    /// True if a trusted sealer states, in a chain that passes, that the From domain passed DMARC when the
    /// mail came to the sealer.
    pub vouches_for_from: bool,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
}

/// The result of the reverse and forward look-up of the peer's address (RFC 8601 section 2.7.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IprevVerdict {
    /// The result.
    pub result: AuthResult,
    /// The address of the peer.
    pub ip: Option<IpAddr>,
    /// The name that resolves to the address again.
    pub name: Option<String>,
}

/// The reason why the From field names no single author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromProblem {
    /// There is no From field.
    NoField,
    /// There are several From fields.
    SeveralFields,
    /// The From field has no address.
    NoAddress,
    /// The From field has several addresses.
    SeveralAddresses,
    /// The text in the From field is not an address, or has bytes that programs interpret differently.
    Unreadable,
}

impl FromProblem {
    /// The problem in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoField => "no From field",
            Self::SeveralFields => "several From fields",
            Self::NoAddress => "no address in From",
            Self::SeveralAddresses => "several addresses in From",
            Self::Unreadable => "From is not readable",
        }
    }
}
