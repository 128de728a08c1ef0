//! Owns DKIM (RFC 6376): the verified signatures of a mail.
//!
//! Does not canonicalise headers or do cryptography; mail-auth does. mail-auth does not receive the whole
//! mail, because it accepts any number of signatures and some invalid ones, and makes its own DNS queries.

mod body;
mod key;
mod signature;

use std::borrow::Cow;
use std::time::Duration;

pub(super) use self::body::BodyHashes;
pub(super) use self::key::DkimKey;
pub(super) use self::signature::{
    DkimSignature, algorithm, selector, signing_domain, without_signature,
};
use super::dns::QueryBudget;
use super::field::{RawField, RawHeader};
use super::tags::TagList;
use crate::clock::Timestamp;
use crate::mail::mime;
use crate::mail::verdict::{AuthResult, DkimVerdict};
use crate::mail::view::HeaderView;

/// The number of signatures of one mail that are verified.
pub const SIGNATURES_MAX: usize = 8;

/// The reason why a signature does not count.
#[derive(Debug)]
pub(super) struct SignatureProblem {
    pub(super) outcome: AuthResult,
    pub(super) reason: String,
}

impl SignatureProblem {
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self {
            outcome: AuthResult::Permerror,
            reason: reason.into(),
        }
    }

    pub(super) fn policy(reason: impl Into<String>) -> Self {
        Self {
            outcome: AuthResult::Policy,
            reason: reason.into(),
        }
    }

    pub(super) fn failure(reason: impl Into<String>) -> Self {
        Self {
            outcome: AuthResult::Fail,
            reason: reason.into(),
        }
    }
}

/// The DKIM signatures of one mail, parsed but not verified.
pub(super) struct DkimSignatures<'a> {
    found: Vec<ReadSignature<'a>>,
}

struct ReadSignature<'a> {
    field: &'a RawField<'a>,
    domain: String,
    selector: String,
    signature: Result<DkimSignature, SignatureProblem>,
}

impl<'a> DkimSignatures<'a> {
    /// Parses at most [`SIGNATURES_MAX`], those nearest to the From domain first.
    pub(super) fn read(header: &'a RawHeader<'a>, from_domain: Option<&str>) -> Self {
        let mut found: Vec<ReadSignature<'a>> = header
            .named("DKIM-Signature")
            .map(|field| ReadSignature::read(field, header.is_plain))
            .collect();
        found.sort_by_key(|found| {
            alignment_distance(&found.domain, from_domain.unwrap_or_default())
        });
        found.truncate(SIGNATURES_MAX);
        Self { found }
    }

    /// The canonical body forms that the signatures need: simple, relaxed.
    pub(super) fn body_forms(&self) -> (bool, bool) {
        let forms = self.found.iter().filter_map(|found| {
            let signature = found.signature.as_ref().ok()?;
            Some(signature.needs_simple_body())
        });
        forms.fold((false, false), |(simple, relaxed), needs_simple| {
            (simple || needs_simple, relaxed || !needs_simple)
        })
    }

    pub(super) async fn check(
        self,
        budget: &QueryBudget<'_>,
        mail: &SignedMail<'_>,
    ) -> Vec<DkimVerdict> {
        let mut verdicts = Vec::with_capacity(self.found.len());
        for found in self.found {
            let result = match &found.signature {
                Ok(signature) => check_one(budget, mail, found.field, signature).await,
                Err(problem) => Err(SignatureProblem {
                    outcome: problem.outcome,
                    reason: problem.reason.clone(),
                }),
            };
            let (result, reason) = match result {
                Ok(()) => (AuthResult::Pass, None),
                Err(problem) => (problem.outcome, Some(problem.reason)),
            };
            verdicts.push(DkimVerdict {
                result,
                domain: found.domain,
                selector: found.selector,
                reason,
            });
        }
        verdicts
    }
}

/// The mail against which signatures are verified.
pub(super) struct SignedMail<'a> {
    pub(super) header: &'a RawHeader<'a>,
    pub(super) view: &'a HeaderView,
    pub(super) hashes: &'a BodyHashes,
    pub(super) now: Timestamp,
    /// The age from which a signature does not count, because an old signed mail may be replayed.
    pub(super) age_max: Duration,
}

impl SignedMail<'_> {
    /// True if the mail was signed too long ago, by `t=` or else by a signed `Date`.
    pub(super) fn is_stale(&self, signature: &DkimSignature) -> bool {
        let date = self.view.date.filter(|_| signature.signs("Date"));
        signature
            .signed_at
            .or(date)
            .is_some_and(|at| self.now.since(at) > self.age_max)
    }
}

async fn check_one(
    budget: &QueryBudget<'_>,
    mail: &SignedMail<'_>,
    field: &RawField<'_>,
    signature: &DkimSignature,
) -> Result<(), SignatureProblem> {
    signature.check_times(mail.now)?;
    signature.check_body(mail.hashes)?;
    let key = DkimKey::fetch(budget, &signature.selector, &signature.domain).await?;
    signature.check_header(mail.header, field, &key)?;
    if key.is_testing {
        return Err(SignatureProblem::policy("the key is in test mode"));
    }
    if mail.is_stale(signature) {
        return Err(SignatureProblem::policy("the signature is too old"));
    }
    Ok(())
}

impl<'a> ReadSignature<'a> {
    fn read(field: &'a RawField<'a>, is_plain: bool) -> Self {
        let text = (field.value.len() <= mime::FIELD_BYTES_MAX)
            .then(|| String::from_utf8_lossy(field.value));
        let tags = match &text {
            Some(Cow::Borrowed(text)) => TagList::parse(text),
            _ => None,
        };
        let Some(tags) = tags else {
            return Self {
                field,
                domain: String::new(),
                selector: String::new(),
                signature: Err(SignatureProblem::permanent("the signature is not readable")),
            };
        };
        let signature = DkimSignature::parse_dkim(&tags);
        let said = |name: &str| tags.value(name).unwrap_or_default();
        Self {
            field,
            domain: signing_domain(said("d")).unwrap_or_default(),
            selector: selector(said("s")).unwrap_or_default(),
            signature: if is_plain {
                signature
            } else {
                Err(SignatureProblem::permanent(
                    "the header has lines that are not fields",
                ))
            },
        }
    }
}

/// The distance of a signing domain from the From domain: equal, a parent or subdomain, or unrelated.
fn alignment_distance(signer: &str, from: &str) -> u8 {
    let is_below = |name: &str, domain: &str| {
        let above = name.strip_suffix(domain);
        above.is_some_and(|above| above.ends_with('.'))
    };
    match signer {
        "" => 4,
        signer if signer == from => 0,
        signer if is_below(from, signer) => 1,
        signer if is_below(signer, from) => 2,
        _ => 3,
    }
}
