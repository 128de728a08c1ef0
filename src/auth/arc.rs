//! Owns ARC (RFC 8617): the authentication results that intermediaries sealed.
//!
//! Trusts only the sealers in the configuration.

use std::collections::BTreeMap;

use mail_auth::dkim::Canonicalization;

use super::dkim::{
    DkimKey, DkimSignature, SignatureProblem, SignedMail, algorithm, selector, signing_domain,
    without_signature,
};
use super::dns::QueryBudget;
use super::field::{RawField, RawHeader};
use super::results;
use super::tags::{TagList, base64};
use crate::mail::mime;
use crate::mail::verdict::{ArcVerdict, AuthResult};

/// The number of sets in one chain (RFC 8617 section 4.2.1).
const SETS_MAX: u8 = 50;

/// The trusted sealers, and the From domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrustedSealers<'a> {
    /// Domains whose seals are trusted.
    pub(super) sealers: &'a [String],
    /// The From domain as A-labels.
    pub(super) from_domain: Option<&'a str>,
}

/// The chain of one mail, parsed but not verified. Without sets there is no chain.
pub(super) struct ArcChain<'a>(Result<Vec<ArcSet<'a>>, SignatureProblem>);

/// The fields that one intermediary added.
struct ArcSet<'a> {
    results: &'a RawField<'a>,
    message: &'a RawField<'a>,
    seal: &'a RawField<'a>,
    signature: DkimSignature,
    sealed: ArcSeal,
}

/// The content of an ARC-Seal (RFC 8617 section 4.1.3).
struct ArcSeal {
    domain: String,
    selector: String,
    algorithm: mail_auth::common::crypto::Algorithm,
    value: Vec<u8>,
    chain: AuthResult,
}

impl<'a> ArcChain<'a> {
    pub(super) fn read(header: &'a RawHeader<'a>) -> Self {
        Self(read(header))
    }

    /// The canonical body forms that the newest signature needs: simple, relaxed.
    pub(super) fn body_forms(&self) -> (bool, bool) {
        let newest = self.0.as_ref().ok().and_then(|sets| sets.last());
        newest.map_or((false, false), |newest| {
            let needs_simple = newest.signature.needs_simple_body();
            (needs_simple, !needs_simple)
        })
    }

    pub(super) async fn check(
        self,
        budget: &QueryBudget<'_>,
        mail: &SignedMail<'_>,
        trust: TrustedSealers<'_>,
    ) -> ArcVerdict {
        let sets = match self.0 {
            Ok(sets) if sets.is_empty() => return ArcVerdict::default(),
            Ok(sets) => sets,
            Err(problem) => return failed(problem),
        };
        if let Err(problem) = check(budget, mail, &sets).await {
            return failed(problem);
        }
        let is_fresh = sets
            .last()
            .is_some_and(|newest| !mail.is_stale(&newest.signature));
        ArcVerdict {
            result: AuthResult::Pass,
            vouches_for_from: is_fresh && vouches(&sets, trust),
            sealers: sets.into_iter().map(|set| set.sealed.domain).collect(),
            reason: None,
        }
    }
}

/// RFC 8617 section 5.2 has only pass and fail; a DNS failure is distinguished from a fail.
fn failed(problem: SignatureProblem) -> ArcVerdict {
    ArcVerdict {
        result: match problem.outcome {
            AuthResult::Temperror => AuthResult::Temperror,
            _ => AuthResult::Fail,
        },
        reason: Some(problem.reason),
        ..ArcVerdict::default()
    }
}

/// Steps 1 to 3 of RFC 8617 section 5.2: the chain's structure.
fn read<'a>(header: &'a RawHeader<'a>) -> Result<Vec<ArcSet<'a>>, SignatureProblem> {
    let results = by_instance(header, "ARC-Authentication-Results")?;
    let mut messages = by_instance(header, "ARC-Message-Signature")?;
    let mut seals = by_instance(header, "ARC-Seal")?;
    let count = results.len();
    if messages.len() != count || seals.len() != count {
        return Err(SignatureProblem::failure("the chain has incomplete sets"));
    }
    if count > 0 && !header.is_plain {
        return Err(SignatureProblem::failure(
            "the header has lines that are not fields",
        ));
    }
    let mut sets = Vec::with_capacity(count);
    for (instance, results) in (1..).zip(results) {
        let gap = || SignatureProblem::failure("the chain has a gap");
        let message = messages.remove(&instance).ok_or_else(gap)?;
        let seal = seals.remove(&instance).ok_or_else(gap)?;
        if results.0 != instance {
            return Err(gap());
        }
        let sealed = ArcSeal::parse(&tags(seal)?)?;
        let expected = if instance == 1 {
            AuthResult::None
        } else {
            AuthResult::Pass
        };
        if sealed.chain != expected {
            return Err(SignatureProblem::failure(format!(
                "cv= of set {instance} is not {expected}"
            )));
        }
        sets.push(ArcSet {
            signature: message_signature(&tags(message)?)?,
            results: results.1,
            message,
            seal,
            sealed,
        });
    }
    Ok(sets)
}

/// Steps 4 and 6 of RFC 8617 section 5.2: the newest signature, then all seals from the newest.
async fn check(
    budget: &QueryBudget<'_>,
    mail: &SignedMail<'_>,
    sets: &[ArcSet<'_>],
) -> Result<(), SignatureProblem> {
    let Some(newest) = sets.last() else {
        return Ok(());
    };
    let signature = &newest.signature;
    signature.check_times(mail.now)?;
    signature.check_body(mail.hashes)?;
    let key = DkimKey::fetch(budget, &signature.selector, &signature.domain).await?;
    signature.check_header(mail.header, newest.message, &key)?;
    for at in (0..sets.len()).rev() {
        let sealed = &sets[at].sealed;
        let key = DkimKey::fetch(budget, &sealed.selector, &sealed.domain).await?;
        let own = without_signature(sets[at].seal.value);
        let mut fields: Vec<(&[u8], &[u8])> = sets[..=at]
            .iter()
            .flat_map(|set| [set.results, set.message, set.seal])
            .map(|field| (field.name, field.value))
            .collect();
        if let Some(last) = fields.last_mut() {
            last.1 = &own;
        }
        key.verify(
            &mut fields.into_iter(),
            &sealed.value,
            (Canonicalization::Relaxed, sealed.algorithm),
        )?;
    }
    Ok(())
}

/// True if a set, from the newest backwards and as long as its sealer is trusted, states that the From
/// domain passed DMARC when the mail came to the sealer.
fn vouches(sets: &[ArcSet<'_>], trust: TrustedSealers<'_>) -> bool {
    let Some(from) = trust.from_domain else {
        return false;
    };
    let is_trusted = |set: &&ArcSet<'_>| {
        let mut sealers = trust.sealers.iter();
        sealers.any(|sealer| sealer.eq_ignore_ascii_case(&set.sealed.domain))
    };
    sets.iter().rev().take_while(is_trusted).any(|set| {
        let text = String::from_utf8_lossy(set.results.value);
        text.split_once(';')
            .is_some_and(|(_, results)| results::says_dmarc_pass(results, from))
    })
}

/// The fields of a name by their instance (`i=`).
fn by_instance<'a>(
    header: &'a RawHeader<'a>,
    name: &'static str,
) -> Result<BTreeMap<u8, &'a RawField<'a>>, SignatureProblem> {
    let mut found = BTreeMap::new();
    for field in header.named(name) {
        let instance = instance(field, name).ok_or_else(|| {
            SignatureProblem::failure(format!("an {name} has no instance from 1 to {SETS_MAX}"))
        })?;
        if found.insert(instance, field).is_some() {
            return Err(SignatureProblem::failure(format!(
                "two {name} have one instance"
            )));
        }
    }
    Ok(found)
}

fn instance(field: &RawField<'_>, name: &str) -> Option<u8> {
    let text = str::from_utf8(bounded_value(field)?).ok()?;
    let digits = if name == "ARC-Authentication-Results" {
        // The field is not a tag list: results follow the instance (RFC 8617 section 4.1.1).
        let (first, _) = text.split_once(';')?;
        let (tag, digits) = first.split_once('=')?;
        (tag.trim() == "i").then_some(digits.trim())?
    } else {
        TagList::parse(text)?.value("i")?
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let instance = digits.parse().ok()?;
    (is_number && (1..=SETS_MAX).contains(&instance)).then_some(instance)
}

fn bounded_value<'a>(field: &RawField<'a>) -> Option<&'a [u8]> {
    (field.value.len() <= mime::FIELD_BYTES_MAX).then_some(field.value)
}

fn tags<'a>(field: &RawField<'a>) -> Result<TagList<'a>, SignatureProblem> {
    bounded_value(field)
        .and_then(|value| str::from_utf8(value).ok())
        .and_then(TagList::parse)
        .ok_or_else(|| SignatureProblem::failure("an ARC field is not a tag list"))
}

/// Parses an ARC-Message-Signature (RFC 8617 section 4.1.2): a DKIM signature that must not sign seals. The
/// default canonical form is relaxed, as in the test suite of the RFC's authors.
fn message_signature(tags: &TagList<'_>) -> Result<DkimSignature, SignatureProblem> {
    let signature = DkimSignature::parse(tags, "relaxed/relaxed")?;
    if signature.signs("ARC-Seal") {
        return Err(SignatureProblem::failure(
            "an ARC-Message-Signature signs seals",
        ));
    }
    Ok(signature)
}

impl ArcSeal {
    fn parse(tags: &TagList<'_>) -> Result<Self, SignatureProblem> {
        let need = |name: &str| {
            let value = tags.value(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| SignatureProblem::failure(format!("{name}= is missing in a seal")))
        };
        if tags.value("h").is_some() || tags.value("bh").is_some() {
            return Err(SignatureProblem::failure("a seal has h= or bh="));
        }
        Ok(Self {
            domain: signing_domain(need("d")?)?,
            selector: selector(need("s")?)?,
            algorithm: algorithm(need("a")?)?,
            value: base64(need("b")?)
                .ok_or_else(|| SignatureProblem::failure("b= is not base64"))?,
            chain: AuthResult::parse(need("cv")?).unwrap_or(AuthResult::Permerror),
        })
    }
}
