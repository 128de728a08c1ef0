//! Owns the parsing of DKIM-Signature and ARC-Message-Signature (RFC 6376 section 3.5), and their
//! verification with a key.
//!
//! Does not look up keys, and accepts less than the RFC allows: a signature that programs could interpret
//! differently, or that leaves parts of the mail unsigned, is refused.

use std::time::Duration;

use mail_auth::common::crypto::Algorithm;
use mail_auth::dkim::Canonicalization;

use super::key::DkimKey;
use super::{BodyHashes, SignatureProblem};
use crate::auth::field::{RawField, RawHeader};
use crate::auth::tags::{FWS, TagList, base64};
use crate::clock::Timestamp;
use crate::mail::address::Domain;
use crate::mail::verdict::AuthResult;

/// The number of fields that a signature may name: each needs a search of the whole header.
const SIGNED_FIELDS_MAX: usize = 150;
/// The largest accepted lead of a signer's clock over ours.
const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// A signature that may be valid.
#[derive(Debug)]
pub(in crate::auth) struct DkimSignature {
    pub(in crate::auth) domain: String,
    pub(in crate::auth) selector: String,
    pub(in crate::auth) signed_at: Option<Timestamp>,
    pub(in crate::auth) names: Vec<String>,
    algorithm: Algorithm,
    value: Vec<u8>,
    body_hash: Vec<u8>,
    header_form: Canonicalization,
    body_form: Canonicalization,
    expires_at: Option<Timestamp>,
    /// The domain of `i=`.
    agent: Option<String>,
}

impl DkimSignature {
    /// Parses the tags that DKIM and ARC share; `form` is the default of `c=`.
    pub(in crate::auth) fn parse(tags: &TagList<'_>, form: &str) -> Result<Self, SignatureProblem> {
        let need = |name: &str| {
            let value = tags.value(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| SignatureProblem::permanent(format!("{name}= is missing")))
        };
        let algorithm = algorithm(need("a")?)?;
        let (header_form, body_form) = forms(tags.value("c").unwrap_or(form))?;
        let names: Vec<String> = need("h")?
            .split(':')
            .map(|name| name.trim_matches(FWS).to_owned())
            .collect();
        if names.len() > SIGNED_FIELDS_MAX || names.iter().any(String::is_empty) {
            return Err(SignatureProblem::permanent(
                "h= is empty in places or too long",
            ));
        }
        if tags
            .value("q")
            .is_some_and(|query| !query.eq_ignore_ascii_case("dns/txt"))
        {
            return Err(SignatureProblem::permanent(
                "q= names an unsupported query method",
            ));
        }
        if tags.value("l").is_some() {
            return Err(SignatureProblem::policy(
                "l= leaves part of the body unsigned",
            ));
        }
        let octets = |name: &str| {
            base64(need(name)?)
                .ok_or_else(|| SignatureProblem::permanent(format!("{name}= is not base64")))
        };
        Ok(Self {
            domain: signing_domain(need("d")?)?,
            selector: selector(need("s")?)?,
            signed_at: moment(tags, "t")?,
            expires_at: moment(tags, "x")?,
            value: octets("b")?,
            body_hash: octets("bh")?,
            names,
            algorithm,
            header_form,
            body_form,
            agent: None,
        })
    }

    /// Parses a DKIM-Signature.
    pub(in crate::auth) fn parse_dkim(tags: &TagList<'_>) -> Result<Self, SignatureProblem> {
        if tags.value("v") != Some("1") {
            return Err(SignatureProblem::permanent("v= is not 1"));
        }
        let mut signature = Self::parse(tags, "simple")?;
        if !signature.signs("From") {
            return Err(SignatureProblem::permanent("From is not signed"));
        }
        if let Some(agent) = tags.value("i") {
            let domain = agent.rsplit_once('@').map(|(_, domain)| domain);
            let domain = domain.and_then(|domain| Domain::parse(domain).ok());
            let domain =
                domain.ok_or_else(|| SignatureProblem::permanent("i= is not an identity"))?;
            signature.agent = Some(domain.ascii());
        }
        Ok(signature)
    }

    pub(in crate::auth) fn signs(&self, name: &str) -> bool {
        self.names
            .iter()
            .any(|signed| signed.eq_ignore_ascii_case(name))
    }

    /// True if the signature needs the simple form of the body.
    pub(in crate::auth) fn needs_simple_body(&self) -> bool {
        self.body_form == Canonicalization::Simple
    }

    /// Checks the times: the signature is expired (RFC 6376 section 3.5, `x=`), or made in the future.
    pub(in crate::auth) fn check_times(&self, now: Timestamp) -> Result<(), SignatureProblem> {
        let signed_at = self.signed_at.unwrap_or_default();
        if let Some(expires_at) = self.expires_at {
            if expires_at <= signed_at {
                return Err(SignatureProblem::permanent("x= is not after t="));
            }
            if expires_at < now {
                return Err(SignatureProblem::policy("the signature has expired"));
            }
        }
        if signed_at > now.plus(CLOCK_SKEW) {
            return Err(SignatureProblem::policy("the signature is from the future"));
        }
        Ok(())
    }

    pub(in crate::auth) fn check_body(&self, hashes: &BodyHashes) -> Result<(), SignatureProblem> {
        if hashes.of(self.needs_simple_body()) == Some(self.body_hash.as_slice()) {
            return Ok(());
        }
        Err(SignatureProblem::failure("the body was changed"))
    }

    /// Verifies the signature over the header with the key. `field` is the field of the signature.
    pub(in crate::auth) fn check_header(
        &self,
        header: &RawHeader<'_>,
        field: &RawField<'_>,
        key: &DkimKey,
    ) -> Result<(), SignatureProblem> {
        self.check_agent(key)?;
        let unsigned = without_signature(field.value);
        let signed = self.signed_fields(header);
        let mut all = signed
            .iter()
            .map(|field| (field.name, field.value))
            .chain([(field.name, unsigned.as_slice())]);
        key.verify(&mut all, &self.value, (self.header_form, self.algorithm))
    }

    /// Checks that the agent belongs to the signing domain, or is equal to it if the key requires that
    /// (section 3.6.1).
    fn check_agent(&self, key: &DkimKey) -> Result<(), SignatureProblem> {
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let above = agent.strip_suffix(self.domain.as_str());
        let is_fit = match above {
            Some("") => true,
            Some(above) => above.ends_with('.') && !key.is_for_domain_only,
            None => false,
        };
        if is_fit {
            return Ok(());
        }
        Err(SignatureProblem::permanent("i= is not of the domain of d="))
    }

    /// The signed fields: for each name the last one first, each once (section 5.4.2).
    fn signed_fields<'a>(&self, header: &'a RawHeader<'a>) -> Vec<&'a RawField<'a>> {
        let mut taken = vec![false; header.fields.len()];
        let mut signed = Vec::new();
        for name in &self.names {
            let found = header
                .fields
                .iter()
                .enumerate()
                .rev()
                .find(|(at, field)| !taken[*at] && field.is_named(name));
            if let Some((at, field)) = found {
                taken[at] = true;
                signed.push(field);
            }
        }
        signed
    }
}

/// The value of a signature's field without the value of `b=` and without the final line end, which the
/// signature covers (RFC 6376 section 3.7).
pub(in crate::auth) fn without_signature(value: &[u8]) -> Vec<u8> {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let mut unsigned = Vec::with_capacity(value.len());
    for (n, tag) in value.split(|&byte| byte == b';').enumerate() {
        if n > 0 {
            unsigned.push(b';');
        }
        let equals = tag.iter().position(|&byte| byte == b'=');
        match equals.filter(|&at| tag[..at].trim_ascii() == b"b") {
            Some(equals) => unsigned.extend_from_slice(&tag[..=equals]),
            None => unsigned.extend_from_slice(tag),
        }
    }
    unsigned
}

/// The algorithm of `a=`. RFC 8301 forbids rsa-sha1.
pub(in crate::auth) fn algorithm(name: &str) -> Result<Algorithm, SignatureProblem> {
    match name {
        "rsa-sha256" => Ok(Algorithm::RsaSha256),
        "ed25519-sha256" => Ok(Algorithm::Ed25519Sha256),
        "rsa-sha1" => Err(SignatureProblem::policy("rsa-sha1 is not accepted")),
        _ => Err(SignatureProblem::permanent("a= is not a known algorithm")),
    }
}

pub(in crate::auth) fn signing_domain(text: &str) -> Result<String, SignatureProblem> {
    let domain = Domain::parse(text).map(|domain| domain.ascii());
    domain
        .ok()
        .filter(|domain| domain.is_ascii() && domain.contains('.') && !domain.starts_with('['))
        .ok_or_else(|| SignatureProblem::permanent("d= is not a domain"))
}

pub(in crate::auth) fn selector(text: &str) -> Result<String, SignatureProblem> {
    let selector = Domain::parse(text).map(|selector| selector.ascii());
    selector
        .ok()
        .filter(|selector| selector.is_ascii() && !selector.starts_with('['))
        .ok_or_else(|| SignatureProblem::permanent("s= is not a selector"))
}

fn forms(text: &str) -> Result<(Canonicalization, Canonicalization), SignatureProblem> {
    let (header, body) = text.split_once('/').unwrap_or((text, "simple"));
    let form = |name: &str| match name.to_ascii_lowercase().as_str() {
        "simple" => Ok(Canonicalization::Simple),
        "relaxed" => Ok(Canonicalization::Relaxed),
        _ => Err(SignatureProblem::permanent(
            "c= is not a known canonicalization",
        )),
    };
    Ok((form(header)?, form(body)?))
}

fn moment(tags: &TagList<'_>, name: &str) -> Result<Option<Timestamp>, SignatureProblem> {
    let Some(digits) = tags.value(name) else {
        return Ok(None);
    };
    let is_number = (1..=12).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let secs = is_number.then(|| digits.parse().ok()).flatten();
    match secs {
        Some(secs) => Ok(Some(Timestamp::from_secs(secs))),
        None => Err(SignatureProblem {
            outcome: AuthResult::Permerror,
            reason: format!("{name}= is not a time"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> SignatureProblem {
        DkimSignature::parse_dkim(&TagList::parse(text).unwrap()).unwrap_err()
    }

    const GOOD: &str =
        "v=1; a=rsa-sha256; c=relaxed; d=Example.com; s=s1; h=From : to; bh=aGk=; b=aGk=";

    #[test]
    fn a_signature_is_read() {
        let signature = DkimSignature::parse_dkim(&TagList::parse(GOOD).unwrap()).unwrap();
        assert_eq!(signature.domain, "example.com");
        assert_eq!(signature.names, ["From", "to"]);
        assert_eq!(signature.header_form, Canonicalization::Relaxed);
        assert!(signature.needs_simple_body());
    }

    #[test]
    fn ambiguous_signatures_are_refused() {
        for (from, to, outcome) in [
            ("v=1", "v=2", AuthResult::Permerror),
            ("v=1; ", "", AuthResult::Permerror),
            ("h=From : to", "h=to:subject", AuthResult::Permerror),
            ("h=From : to", "h=From::to", AuthResult::Permerror),
            ("rsa-sha256", "rsa-sha1", AuthResult::Policy),
            ("rsa-sha256", "rsa-md5", AuthResult::Permerror),
            ("c=relaxed", "c=relaxed; l=10", AuthResult::Policy),
            ("c=relaxed", "c=relaxed; l=0", AuthResult::Policy),
            ("c=relaxed", "c=nofws", AuthResult::Permerror),
            ("c=relaxed", "c=relaxed; q=http", AuthResult::Permerror),
            ("c=relaxed", "c=relaxed; t=-1", AuthResult::Permerror),
            ("d=Example.com", "d=com", AuthResult::Permerror),
            ("d=Example.com", "d=exa mple.com", AuthResult::Permerror),
            // A careless parser would cut the name here and query another domain (espoofer).
            (
                "d=Example.com",
                "d=bank.example\0.evil.example",
                AuthResult::Permerror,
            ),
            (
                "d=Example.com",
                "d=bank.example(.evil.example",
                AuthResult::Permerror,
            ),
            ("s=s1", "s=evil.example.\0", AuthResult::Permerror),
            ("s=s1", "s=s1..x", AuthResult::Permerror),
            ("b=aGk=", "b=!", AuthResult::Permerror),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let problem = refused(&GOOD.replacen(from, to, 1));
            assert_eq!(problem.outcome, outcome, "{to}: {}", problem.reason);
        }
    }

    #[test]
    fn only_the_value_of_b_is_cut_out() {
        for (value, unsigned) in [
            (" a=1; b=xy\r\n z; bh=q\r\n", " a=1; b=; bh=q"),
            (" bh=b=; b =x\r\n", " bh=b=; b ="),
            ("b=x", "b="),
            (" a=1;\r\n\tb=x;\r\n", " a=1;\r\n\tb=;"),
        ] {
            assert_eq!(
                String::from_utf8(without_signature(value.as_bytes())).unwrap(),
                unsigned
            );
        }
    }

    #[test]
    fn times_have_bounds() {
        let now = Timestamp::from_secs(1_000_000);
        for (times, outcome) in [
            ("t=999000; x=1000001", None),
            ("t=1003600", None),
            ("t=1003601", Some(AuthResult::Policy)),
            ("t=999000; x=999999", Some(AuthResult::Policy)),
            ("t=999000; x=999000", Some(AuthResult::Permerror)),
        ] {
            let text = format!("{GOOD}; {times}");
            let signature = DkimSignature::parse_dkim(&TagList::parse(&text).unwrap()).unwrap();
            let found = signature
                .check_times(now)
                .err()
                .map(|problem| problem.outcome);
            assert_eq!(found, outcome, "{times}");
        }
    }
}
