//! Owns what is known of who sent a mail: one plain value, kept on disk with it and shown to people.
//!
//! Does not find it out, and decides nothing by it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The results of checking one mail, in the words of RFC 8601.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The party that checked.
    pub source: VerdictSource,
    /// SPF of the MAIL FROM identity (RFC 7208 section 2.4): of HELO where the sender is null.
    pub spf: SpfVerdict,
    /// SPF of the HELO identity (RFC 7208 section 2.3).
    pub helo: SpfVerdict,
    /// The DKIM signatures that were examined, From-aligned ones first.
    pub dkim: Vec<DkimVerdict>,
    /// DMARC of the From domain.
    pub dmarc: DmarcVerdict,
    /// The ARC chain.
    pub arc: ArcVerdict,
    /// The peer's name (RFC 8601 section 2.7.3).
    pub iprev: IprevVerdict,
    /// The problem of the From field; without a named sender nothing can be said of one.
    pub from_problem: Option<FromProblem>,
}

impl Verdict {
    /// True if the From domain itself vouches for this mail: by DMARC here, or at a trusted ARC
    /// sealer before the mail was changed on its way.
    pub fn is_aligned(&self) -> bool {
        self.from_problem.is_none()
            && self.dmarc.domain.is_some()
            && (self.dmarc.result == AuthResult::Pass || self.arc.vouches_for_from)
    }

    /// The result of all signatures together: a pass if there is one, else the result of the
    /// signature nearest to the From domain.
    pub fn dkim_result(&self) -> AuthResult {
        let mut results = self.dkim.iter().map(|dkim| dkim.result);
        let first = results.clone().next().unwrap_or_default();
        results
            .find(|result| *result == AuthResult::Pass)
            .unwrap_or(first)
    }
}

/// The party that came to a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerdictSource {
    /// No check was made.
    #[default]
    Nobody,
    /// We did.
    Postern,
    /// A trusted server before us, by its authserv-id (RFC 8601 section 2.5).
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
    /// The check holds.
    Pass,
    /// The check does not hold.
    Fail,
    /// SPF: it probably does not hold.
    Softfail,
    /// The domain says nothing either way, or the result is unknown.
    Neutral,
    /// The check holds, but in a way that is not accepted here.
    Policy,
    /// A temporary error: the result could not be found out now.
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

    /// The outcome this word of RFC 8601 means, in any case.
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
    /// The domain that was asked, as A-labels; empty if there was none.
    pub domain: String,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
    /// A pass that any host of the world would get, so it vouches for nobody.
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
    /// The From domain this is about, as A-labels; `None` if From names no single domain.
    pub domain: Option<String>,
    /// The domain that was authenticated in alignment with it, where there is one.
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
    /// Put it aside.
    Quarantine,
    /// Refuse it.
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
    /// A trusted sealer says, in a chain that passes, that the From domain passed DMARC when the mail
    /// came to it.
    pub vouches_for_from: bool,
    /// The explanation, where the result alone does not give it.
    pub reason: Option<String>,
}

/// The name of the peer's address, there and back (RFC 8601 section 2.7.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IprevVerdict {
    /// The result.
    pub result: AuthResult,
    /// The address of the peer.
    pub ip: Option<IpAddr>,
    /// The name that leads back to the address.
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
    /// The text in the From field is no address, or has bytes that readers read differently.
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
