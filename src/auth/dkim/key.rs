//! Owns the keys that domains publish for their signatures (RFC 6376 section 3.6).
//!
//! Does not choose the key.

use mail_auth::common::crypto::{Algorithm, VerifyingKey};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::dkim::Canonicalization;

use super::SignatureProblem;
use crate::auth::dns::QueryBudget;
use crate::auth::tags::TagList;
use crate::mail::verdict::AuthResult;

/// The minimum length of an RSA key in bits (RFC 8301 section 3.2).
const RSA_BITS_MIN: usize = 1_024;
/// The maximum length of an RSA key in bits: a longer one takes too much time.
const RSA_BITS_MAX: usize = 8_192;

/// A public key that may be used for mail.
pub(in crate::auth) struct DkimKey {
    /// True if the domain only tests its signatures (`t=y`): then they must not count.
    pub(in crate::auth) is_testing: bool,
    /// True if the key is not valid for subdomains (`t=s`).
    pub(super) is_for_domain_only: bool,
    is_rsa: bool,
    key: Box<dyn VerifyingKey + Send + Sync>,
}

impl DkimKey {
    /// Looks up the key of a selector and a domain.
    pub(in crate::auth) async fn fetch(
        budget: &QueryBudget<'_>,
        selector: &str,
        domain: &str,
    ) -> Result<Self, SignatureProblem> {
        let name = format!("{selector}._domainkey.{domain}");
        let texts = budget
            .texts(&name)
            .await
            .map_err(|failure| SignatureProblem {
                outcome: AuthResult::Temperror,
                reason: failure.reason(&name),
            })?;
        let texts = texts.text().filter_map(|text| str::from_utf8(text).ok());
        let mut records = texts.filter(|text| {
            let tags = TagList::parse(text);
            tags.is_some_and(|tags| tags.value("p").is_some())
        });
        match (records.next(), records.next()) {
            (None, _) => Err(SignatureProblem::permanent(format!("no key at {name}"))),
            (Some(record), None) => Self::parse(record),
            // RFC 6376 section 3.6.2.2 does not define which record counts, so none does.
            (Some(_), Some(_)) => Err(SignatureProblem::permanent(format!(
                "several keys at {name}"
            ))),
        }
    }

    fn parse(record: &str) -> Result<Self, SignatureProblem> {
        let unreadable = || SignatureProblem::permanent("the key is not readable");
        let tags = TagList::parse(record).ok_or_else(unreadable)?;
        if let Some(version) = tags.value("v")
            && (version != "DKIM1" || tags.first() != Some("v"))
        {
            return Err(unreadable());
        }
        let allows = |name: &str, wanted: &[&str]| {
            tags.items(name)
                .is_none_or(|mut items| items.any(|item| wanted.contains(&item)))
        };
        if !allows("h", &["sha256"]) {
            return Err(SignatureProblem::permanent("the key is not for sha256"));
        }
        if !allows("s", &["*", "email"]) {
            return Err(SignatureProblem::permanent("the key is not for mail"));
        }
        if tags.value("p") == Some("") {
            return Err(SignatureProblem::permanent("the key is revoked"));
        }
        let has_flag = |flag: &str| {
            tags.items("t")
                .is_some_and(|mut flags| flags.any(|other| other == flag))
        };
        let key = DomainKey::parse(record.as_bytes())
            .map_err(|_| unreadable())?
            .p;
        let is_rsa = tags.value("k").is_none_or(|kind| kind == "rsa");
        let bits = key.public_key_bits();
        if is_rsa && bits == 0 {
            return Err(unreadable());
        }
        if is_rsa && !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(SignatureProblem::policy(format!(
                "the RSA key has {bits} bits"
            )));
        }
        Ok(Self {
            is_testing: has_flag("y"),
            is_for_domain_only: has_flag("s"),
            is_rsa,
            key,
        })
    }

    pub(in crate::auth) fn verify<'a>(
        &self,
        fields: &mut dyn Iterator<Item = (&'a [u8], &'a [u8])>,
        signature: &[u8],
        (form, algorithm): (Canonicalization, Algorithm),
    ) -> Result<(), SignatureProblem> {
        if self.is_rsa != (algorithm == Algorithm::RsaSha256) {
            return Err(SignatureProblem::permanent(
                "the key type does not match a=",
            ));
        }
        self.key
            .verify(fields, signature, form, algorithm)
            .map_err(|_| SignatureProblem::failure("the signature does not verify"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn flags_are_read() {
        let key = DkimKey::parse(&format!(
            "v=DKIM1; {ED25519}; t=y:s; h=sha1:sha256; s=email"
        ))
        .unwrap();
        assert!(key.is_testing && key.is_for_domain_only && !key.is_rsa);
        let key = DkimKey::parse(ED25519).unwrap();
        assert!(!key.is_testing && !key.is_for_domain_only);
    }

    #[test]
    fn keys_that_are_not_for_this_are_refused() {
        for record in [
            "v=DKIM1; p=".to_owned(),
            format!("v=DKIM2; {ED25519}"),
            format!("{ED25519}; v=DKIM1"),
            format!("{ED25519}; h=sha1"),
            format!("{ED25519}; s=tlsrpt"),
            "k=rsa; p=####".to_owned(),
            "k=dsa; p=aGk=".to_owned(),
            "p=aGk=".to_owned(),
        ] {
            assert!(DkimKey::parse(&record).is_err(), "{record}");
        }
    }
}
